//! Another component takes over the state of a backup while that is read. It migrates the state by
//! the calls that a change in a running cluster makes, and within the same limits but one: the
//! result of each call is stored before the next one, so that the calls together may write more
//! than one log entry may. Nothing is in force yet, so a migration that does not end well is not
//! undone: the caller drops the whole state.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::found::Unfounded;
use crate::codec::Genesis;
use crate::guest::{self, Component, Context, Migrated, Predecessor, Rows};
use crate::machine::change::migration::{self, Called, MigrationEnd, WRITTEN_BYTES_MAX};
use crate::machine::digest::Digester;
use crate::machine::log_position::LogPosition;
use crate::machine::overlay::Transaction;
use crate::machine::profile::Profile;
use crate::machine::rehearsal::report::{ComponentReport, MigrationReport, SnapshotReport, millis};
use crate::machine::replica::ReplicaError;
use crate::machine::snapshot::loopback;
use crate::machine::snapshot::transfers::Transfer;
use crate::machine::tried::{ChangeVerdict, Tried};
use crate::machine::{RehearsalReport, SnapshotError};
use crate::store::{Column, Generation, State, StoreError};
use crate::types::hex;

/// Most calls of `migrate`. A state of a billion rows fits, at a few hundred rows a call.
const CALLS_MAX: u32 = 10_000_000;

/// The component that takes over.
pub struct Successor<'a> {
    /// It runs under the limits of the backup.
    pub component: &'a Component,
    /// BLAKE3 hash of the file that it was encoded from.
    pub source_hash: [u8; 32],
    /// Where the result passes through the component's own snapshot and restore. `None`: it does
    /// not.
    pub rehearses_in: Option<&'a State>,
    /// Is told before each call of `migrate` how many were made.
    pub tell: &'a (dyn Fn(u32) + Sync),
}

impl Unfounded {
    /// Has another component take over. Its report says what became of the state. If there is no
    /// result, the state is of no use any more. Blocks, on a thread with the stack size for guests.
    ///
    /// # Errors
    /// The disk or the sandbox failed. That says nothing about the component.
    pub fn succeed(&mut self, successor: &Successor<'_>) -> Result<RehearsalReport, ReplicaError> {
        let began = Instant::now();
        let Successor { component, source_hash, rehearses_in, tell } = successor;
        let applied = self.system.applied.ok_or(SnapshotError::Empty)?;
        let (index, before) = self.system.in_force().ok_or(SnapshotError::Empty)?;
        let before = (index, before.clone());
        let from_hash = *blake3::hash(&self.component).as_bytes();
        // The old component need not run here.
        let old = ComponentReport { hash: hex(&from_hash), version: self.version.clone() };
        let new = ComponentReport::of(component);
        let from = Predecessor { hash: &from_hash, version: &self.version };
        // No command sees this index: the entry that follows the state is one of the host.
        let context = Context { index: applied.index + 1, position: 0, time_ms: self.system.time_ms };
        let migration = migrate(&self.generation, component, (context, from), tell)?;
        let mut report = RehearsalReport { index: applied.index, old, new, migration, ..RehearsalReport::default() };
        if report.migration.has_result() {
            let rows = report.migration.rows_written + report.migration.rows_removed;
            let to = component.hash();
            let genesis = Genesis {
                component_hash: to.to_vec().into(),
                source_hash: source_hash.to_vec().into(),
                ..before.1.clone()
            };
            let checkpoint = LogPosition::from(&applied);
            let profile = Profile { index: applied.index, genesis, before, probation_until_ms: 0, checkpoint };
            self.system.profile = Some(Arc::new(profile));
            let verdict = ChangeVerdict::Changed;
            self.system.change = Some(Tried { index: applied.index, from: from_hash, to, verdict, rows });
            self.component = component.encoded().to_vec();
            self.version = component.version().to_owned();
            report.snapshot = rehearses_in.map(|state| snapshot(&self.generation, component, state)).transpose()?;
        }
        report.elapsed_ms = millis(began.elapsed());
        Ok(report)
    }
}

/// Migrates the state, and reports what that took.
fn migrate(
    generation: &Arc<Generation>,
    component: &Component,
    (context, from): (Context, Predecessor<'_>),
    tell: &dyn Fn(u32),
) -> Result<MigrationReport, ReplicaError> {
    let (rows_before, digest_before) = contents(generation)?;
    let mut report = MigrationReport { rows_before, digest_before, ..MigrationReport::default() };
    if !component.has_migrator() {
        (report.rows_after, report.digest_after) = (rows_before, report.digest_before.clone());
        return Ok(report);
    }
    let (fuel, began) = (component.engine().limits().migration_fuel(), Instant::now());
    let mut calls = 0;
    let end = run(generation, &mut report, |cursor, store| {
        tell(calls);
        calls += 1;
        guest::migrate(component, context, from, cursor, fuel, store)
    })?;
    report.migrate_ms = millis(began.elapsed());
    report.end(&end);
    if report.has_result() {
        let began = Instant::now();
        generation.flush()?;
        report.store_ms = millis(began.elapsed());
        (report.rows_after, report.digest_after) = contents(generation)?;
    }
    Ok(report)
}

/// Makes calls until one of them ends the migration. Each has a transaction of its own, which is
/// stored before the next call.
fn run(
    generation: &Arc<Generation>,
    report: &mut MigrationReport,
    mut call: impl FnMut(&[u8], Box<dyn Rows>) -> Called,
) -> Result<MigrationEnd, ReplicaError> {
    let mut cursor = Bytes::new();
    while report.calls < CALLS_MAX {
        let (called, store) = call(&cursor, Box::new(Transaction::new(generation.clone())));
        let transaction = store.into_any().downcast::<Transaction<Arc<Generation>>>();
        let transaction = transaction.expect("the store that was given comes back");
        let (migrated, fuel) = called?;
        report.calls += 1;
        report.fuel = report.fuel.saturating_add(fuel);
        let held_bytes = transaction.held_bytes();
        report.bytes_written += transaction.written_bytes();
        match migrated {
            Migrated::Refused(status) => return Ok(MigrationEnd::Refused(status)),
            Migrated::Failed(failure) => return Ok(MigrationEnd::Failed(failure)),
            Migrated::Done | Migrated::More(_) if held_bytes > WRITTEN_BYTES_MAX => break,
            Migrated::Done => {
                store_call(generation, report, *transaction)?;
                return Ok(MigrationEnd::Done);
            }
            Migrated::More(next) => {
                store_call(generation, report, *transaction)?;
                cursor = next;
            }
        }
    }
    Ok(MigrationEnd::TooLarge)
}

/// Stores what one call wrote.
fn store_call(
    generation: &Generation,
    report: &mut MigrationReport,
    transaction: Transaction<Arc<Generation>>,
) -> Result<(), StoreError> {
    let writes = transaction.into_writes();
    let written = writes.values().filter(|value| value.is_some()).count() as u64;
    report.rows_written += written;
    report.rows_removed += writes.len() as u64 - written;
    migration::store(generation, writes)
}

/// Returns the number of the guest's rows, and their digest in hex.
fn contents(generation: &Generation) -> Result<(u64, String), StoreError> {
    let mut digester = Digester::new();
    digester.scan(generation, Column::Data, &Transfer::default())?;
    let footer = digester.finish();
    Ok((footer.rows, hex(&footer.digest)))
}

/// Passes the result through the component's own snapshot and restore.
fn snapshot(
    generation: &Arc<Generation>,
    component: &Component,
    state: &State,
) -> Result<SnapshotReport, ReplicaError> {
    let began = Instant::now();
    let problem = match loopback::pass(generation, component, &|| state.scratch(), Arc::new(|| false)) {
        Ok(_) => None,
        Err(error) if error.is_of_the_guest() => Some(error.to_string()),
        Err(error) => return Err(error),
    };
    Ok(SnapshotReport { problem, elapsed_ms: millis(began.elapsed()) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::DataDir;

    /// Runs calls, each of which writes a row that holds the number of the rows that it finds.
    fn migrated(end: impl Fn(u32) -> Migrated) -> (MigrationEnd, MigrationReport, u64) {
        let place = tempfile::tempdir().unwrap();
        let directory = DataDir::open(place.path()).unwrap();
        let state = State::open(&directory, 0).unwrap();
        let (mut report, mut number) = (MigrationReport::default(), 0u32);
        let end = run(&state.current(), &mut report, |cursor, mut store| {
            let wanted = if number == 0 { Vec::new() } else { number.to_be_bytes().to_vec() };
            assert_eq!(cursor, wanted, "each call gets the cursor of the one before");
            if number > 0 {
                assert!(store.get(&(number - 1).to_be_bytes()).unwrap().is_some(), "it sees the rows before");
            }
            store.put(&number.to_be_bytes(), b"row").unwrap();
            number += 1;
            (Ok((end(number), 10)), store)
        });
        let rows = contents(&state.current()).unwrap().0;
        (end.unwrap(), report, rows)
    }

    fn more(number: u32) -> Migrated {
        Migrated::More(number.to_be_bytes().to_vec().into())
    }

    #[test]
    fn each_call_is_stored_before_the_next_one() {
        let (end, report, rows) = migrated(|number| if number == 300 { Migrated::Done } else { more(number) });
        assert_eq!((end, rows), (MigrationEnd::Done, 300));
        assert_eq!((report.calls, report.fuel, report.rows_written, report.bytes_written), (300, 3000, 300, 2100));
    }

    #[test]
    fn a_refusal_ends_the_migration_and_its_call_is_not_stored() {
        let refused = || guest::Status { code: 9, message: "too old".into(), details: Vec::new() };
        let (end, report, rows) =
            migrated(|number| if number == 3 { Migrated::Refused(refused()) } else { more(number) });
        assert_eq!((end, report.calls, rows), (MigrationEnd::Refused(refused()), 3, 2));
    }
}
