//! A change of what the machine runs: the component, the profile, or both. Its effects are those of
//! one log entry, and equal on every replica. This module does no IO, and fetches no component.
//!
//! - A change that expects another profile than the one in force is outdated. It needs no
//!   component.
//! - The migration writes to the transaction of the entry. A migration that does not end well
//!   leaves nothing but the verdict.
//! - Commands of an entry with a change are not run.

pub(crate) mod migration;

use super::entry::{self, Effects, Writes};
use super::log_position::LogPosition;
use super::overlay::Transaction;
use super::profile::{Profile, profile_of};
use super::system::System;
use super::tried::{ChangeVerdict, Tried};
use crate::codec::{self, Change};
use crate::guest::{Component, Context, HostFault, Predecessor};
use crate::store::Read;
use crate::types::LogId;
use migration::{MigrationEnd, MigrationRun, MigrationStop};

/// A change that was computed and is not yet committed.
pub(crate) struct Attempt {
    pub(crate) effects: Effects,
    /// What every node records; `None` if the change names no component and so was left out.
    pub(crate) tried: Option<Tried>,
    /// The guest's words about a refusal or a failure.
    pub(crate) detail: String,
    /// Calls of `migrate`.
    pub(crate) calls: u32,
    /// Fuel of all calls together.
    pub(crate) fuel: u64,
}

impl Attempt {
    pub(crate) fn is_made(&self) -> bool {
        self.tried.is_some_and(|tried| tried.verdict == ChangeVerdict::Changed)
    }
}

/// Returns the hash of the component that a change names; `None` if it names none.
pub(crate) fn named(change: &Change) -> Option<[u8; 32]> {
    change.component_hash.as_ref().try_into().ok()
}

/// Returns whether a change needs its component, and the one in force, to be applied at `before`.
pub(crate) fn needs_component(before: &System, change: &Change) -> bool {
    named(change).is_some() && before.in_force().is_some_and(|(index, _)| index == change.expected_index)
}

/// Computes the effects of an entry with a change. `migrate` runs the migration; it must be set if
/// [`needs_component`].
pub(crate) fn effects(
    before: &System,
    log_id: LogId,
    entry: &codec::entry::Entry,
    change: &Change,
    migrate: Option<impl FnOnce(Context, [u8; 32]) -> Result<MigrationRun, HostFault>>,
) -> Result<Attempt, HostFault> {
    let mut system = entry::begin(before, log_id, entry);
    let Some(to) = named(change) else {
        let effects = entry::finish(before, log_id, system, Writes::new(), entry::not_run_of(entry));
        return Ok(Attempt { effects, tried: None, detail: String::new(), calls: 0, fuel: 0 });
    };
    let from = before.in_force().and_then(|(_, profile)| profile.component_hash.as_ref().try_into().ok());
    let (index, from) = (log_id.index, from.unwrap_or([0; 32]));
    let run = match needs_component(before, change) {
        true => {
            let migrate = migrate.ok_or_else(|| HostFault("a change was to be made without its component".into()))?;
            Some(migrate(Context { index, position: 0, time_ms: system.time_ms }, from)?)
        }
        false => None,
    };
    let (verdict, detail) =
        run.as_ref().map_or((ChangeVerdict::Outdated, String::new()), |run| (run.end.verdict(), words_of(&run.end)));
    let (calls, fuel) = run.as_ref().map_or((0, 0), |run| (run.calls, run.fuel));
    let writes = run.map(|run| run.writes).unwrap_or_default();
    let tried = Tried { index, from, to, verdict, rows: writes.len() as u64 };
    if verdict == ChangeVerdict::Changed {
        system.profile = Some(profile_after(before, &system, log_id, change).into());
    }
    system.change = Some(tried);
    let effects = entry::finish(before, log_id, system, writes, entry::not_run_of(entry));
    Ok(Attempt { effects, tried: Some(tried), detail, calls, fuel })
}

/// Runs the migration from `before` to `after` over `base`. `is_cancelled` is asked before each
/// call; a migration that is cancelled ends with a fault.
pub(crate) fn migrate<R: Read + Send + 'static>(
    before: &Component,
    after: &Component,
    base: R,
    is_cancelled: &dyn Fn() -> bool,
) -> impl FnOnce(Context, [u8; 32]) -> Result<MigrationRun, HostFault> {
    move |context, from| {
        let from = Predecessor { hash: &from, version: before.version() };
        let limits = after.engine().limits();
        migration::migrate(after, context, from, limits, Transaction::new(base), is_cancelled).map_err(
            |stop| match stop {
                MigrationStop::Host(fault) => fault,
                MigrationStop::Cancelled => HostFault("the migration was cancelled".into()),
            },
        )
    }
}

fn words_of(end: &MigrationEnd) -> String {
    match end {
        MigrationEnd::Refused(status) => status.message.clone(),
        MigrationEnd::Failed(failure) => failure.detail.clone(),
        MigrationEnd::Done | MigrationEnd::TooLarge => String::new(),
    }
}

fn profile_after(before: &System, after: &System, log_id: LogId, change: &Change) -> Profile {
    let (index, profile) = before.in_force().expect("a change that is made had a profile in force before it");
    let until = after.time_ms.saturating_add(change.probation_ms);
    Profile {
        index: log_id.index,
        genesis: profile_of(change, &profile.cluster_id),
        before: (index, profile.clone()),
        probation_until_ms: if change.probation_ms == 0 { 0 } else { until },
        checkpoint: before.applied.as_ref().map_or(LogPosition::default(), LogPosition::from),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "change_tests.rs"]
mod tests;
