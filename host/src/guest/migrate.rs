//! The guest's own migration: calls of `migrate`, each in a fresh instance. The caller supplies the
//! store, and decides whether there is another call. This module keeps nothing between calls.

use bytes::Bytes;

use super::component::Component;
use super::imports::Mode;
use super::instance::Sandbox;
use super::limits::MIGRATION_CURSOR_BYTES_MAX;
use super::outcome::{self, Interrupts};
use super::wire::{Migrate, WireMigration};
use super::{Context, Failure, HostFault, Predecessor, Rows, Status, Verdict};

/// Name of the call in the details of failures.
const METHOD: &str = "migrate";

/// How one call of `migrate` ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Migrated {
    /// Nothing is left to do.
    Done,
    /// The next call gets this cursor. It differs from the one that the call was given.
    More(Bytes),
    /// The guest refused the change.
    Refused(Status),
    /// The call failed.
    Failed(Failure),
}

/// Runs one call of `migrate` in a fresh instance. `fuel` is what the call may use, besides the
/// start functions of the instance. Returns how it ended, the fuel that it used with them, and the
/// store with its writes. A component without `migrator` is done at once.
pub fn migrate(
    component: &Component,
    context: Context,
    from: Predecessor<'_>,
    cursor: &[u8],
    fuel: u64,
    store: Box<dyn Rows>,
) -> (Result<(Migrated, u64), HostFault>, Box<dyn Rows>) {
    let Some(export) = &component.exports().migrate else {
        return (Ok((Migrated::Done, 0)), store);
    };
    let mut sandbox = match Sandbox::new(component) {
        Ok(sandbox) => sandbox,
        Err(fault) => return (Err(fault), store),
    };
    let function: Migrate = match sandbox.admitted(export) {
        Ok(function) => function,
        Err(fault) => return (Err(fault), store),
    };
    let started = sandbox.start(Mode::Migrate, fuel, store);
    let ended = started.and_then(|()| {
        let params = (context.into(), from.into(), cursor.to_vec());
        // Every node runs this call as part of a log entry: fuel ends it, and no clock.
        let ended = match sandbox.call(&function, params, Interrupts::Fault)? {
            Ok((Ok(migration),)) => migrated(migration),
            Ok((Err(status),)) => without_reply(outcome::refusal(status.into(), sandbox.limits())),
            Err(failure) => Migrated::Failed(failure),
        };
        let ended = match ended {
            Migrated::Failed(failure) => Migrated::Failed(failure.at(METHOD, context)),
            other => other,
        };
        Ok((ended, sandbox.fuel_of_start.saturating_add(sandbox.fuel_used())))
    });
    (ended, sandbox.finish())
}

/// Checks what a call returned. The cursor of a call that is done is not looked at.
fn migrated(migration: WireMigration) -> Migrated {
    let WireMigration { done, cursor } = migration;
    if done {
        return Migrated::Done;
    }
    if cursor.len() > MIGRATION_CURSOR_BYTES_MAX as usize {
        return without_reply(outcome::oversized("cursor", cursor.len(), MIGRATION_CURSOR_BYTES_MAX));
    }
    Migrated::More(cursor.into())
}

fn without_reply(verdict: Verdict) -> Migrated {
    match verdict {
        Verdict::Refused(status) => Migrated::Refused(status),
        Verdict::Failed(failure) => Migrated::Failed(failure),
        Verdict::Reply(_) => unreachable!("neither a refusal nor an oversized value is a reply"),
    }
}
