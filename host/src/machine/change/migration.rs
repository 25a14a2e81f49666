//! The migration of a change: calls of the new component's `migrate` until nothing is left to do,
//! within the limits of one log entry. Apply and the rehearsal run this same loop. It commits
//! nothing, and does not decide what an end means.
//!
//! - Everything but a cancellation and a fault of this host is equal on every replica.
//! - The write set is whole, or it is empty: only a migration that is done leaves writes.

use bytes::Bytes;

use crate::guest::{self, Component, Context, Failure, HostFault, Limits, Migrated, Predecessor, Rows, Status};
use crate::machine::entry::Writes;
use crate::machine::overlay::Transaction;
use crate::machine::tried::ChangeVerdict;
use crate::store::{Batch, Column, Generation, Read, StoreError};

/// Most calls of `migrate` in one entry.
pub(crate) const CALLS_MAX: u32 = 10_000;
/// Most bytes of keys and values that the calls of one entry write together. A key counts as often
/// as it is written, and each write counts as [`WRITE_OVERHEAD_BYTES`] more: all of it is held in
/// memory until the entry is committed, and many tiny rows take far more than their bytes.
///
/// [`WRITE_OVERHEAD_BYTES`]: crate::machine::overlay::WRITE_OVERHEAD_BYTES
pub(crate) const WRITTEN_BYTES_MAX: u64 = 256 << 20;

/// Bytes of rows in one batch of a result that is stored apart from an entry.
const BATCH_BYTES: usize = 4 << 20;

/// How a migration ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MigrationEnd {
    /// The state is the new component's. A component without `migrator`, or one that runs already,
    /// keeps it as it was.
    Done,
    /// The new component refused the change.
    Refused(Status),
    /// A call failed.
    Failed(Failure),
    /// It needs more than [`CALLS_MAX`] calls, writes more than [`WRITTEN_BYTES_MAX`], or uses more
    /// fuel than [`Limits::migration_fuel_of_entry`].
    TooLarge,
}

impl MigrationEnd {
    /// Returns what is recorded of it.
    pub(crate) fn verdict(&self) -> ChangeVerdict {
        match self {
            MigrationEnd::Done => ChangeVerdict::Changed,
            MigrationEnd::Refused(status) => ChangeVerdict::Refused(status.code),
            MigrationEnd::Failed(failure) => ChangeVerdict::Failed(failure.reason),
            MigrationEnd::TooLarge => ChangeVerdict::TooLarge,
        }
    }
}

/// A migration that ran to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MigrationRun {
    /// How it ended.
    pub(crate) end: MigrationEnd,
    /// Calls of `migrate`.
    pub(crate) calls: u32,
    /// Fuel that the calls used. It is no part of what is recorded.
    pub(crate) fuel: u64,
    /// Bytes of the keys and values that the calls wrote. A key counts as often as it was written.
    pub(crate) written_bytes: u64,
    /// The write set, sorted by key. Empty unless the migration is done.
    pub(crate) writes: Writes,
}

/// Why a migration has no end. It says nothing about the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MigrationStop {
    /// The sandbox or the disk failed.
    Host(HostFault),
    /// The caller cancelled it between two calls.
    Cancelled,
}

impl From<HostFault> for MigrationStop {
    fn from(fault: HostFault) -> Self {
        MigrationStop::Host(fault)
    }
}

/// Migrates the state under `transaction`, which holds no writes yet, to `component`. `limits` are
/// those of the new profile. `is_cancelled` is asked before each call.
pub(crate) fn migrate<R: Read + Send + 'static>(
    component: &Component,
    context: Context,
    from: Predecessor<'_>,
    limits: &Limits,
    transaction: Transaction<R>,
    is_cancelled: &dyn Fn() -> bool,
) -> Result<MigrationRun, MigrationStop> {
    if !is_needed(component, from.hash) {
        let (end, writes) = (MigrationEnd::Done, Writes::new());
        return Ok(MigrationRun { end, calls: 0, fuel: 0, written_bytes: 0, writes });
    }
    let (fuel, fuel_max) = (limits.migration_fuel(), limits.migration_fuel_of_entry());
    run(transaction, fuel_max, is_cancelled, |cursor, store| {
        guest::migrate(component, context, from, cursor, fuel, store)
    })
}

/// Returns whether a state of the component with hash `from` is migrated to `component`. A change
/// of limits alone leaves it as it is.
pub(crate) fn is_needed(component: &Component, from: &[u8; 32]) -> bool {
    component.has_migrator() && component.hash() != *from
}

/// Puts the result of a migration in a state that nobody else has, batch by batch.
pub(crate) fn store(generation: &Generation, writes: Writes) -> Result<(), StoreError> {
    let mut batch = Batch::new();
    for (key, value) in writes {
        match value {
            Some(value) => batch.put(Column::Data, &key, &value),
            None => batch.remove(Column::Data, &key),
        }
        if batch.bytes() >= BATCH_BYTES {
            generation.commit(&std::mem::take(&mut batch))?;
        }
    }
    generation.commit(&batch)?;
    generation.flush_if_nearly_full()
}

/// The result of one call, with the store that it was given.
pub(crate) type Called = (Result<(Migrated, u64), HostFault>, Box<dyn Rows>);

fn run<R: Read + Send + 'static>(
    transaction: Transaction<R>,
    fuel_max: u64,
    is_cancelled: &dyn Fn() -> bool,
    mut call: impl FnMut(&[u8], Box<dyn Rows>) -> Called,
) -> Result<MigrationRun, MigrationStop> {
    let mut transaction = Box::new(transaction);
    let (mut cursor, mut calls, mut fuel) = (Bytes::new(), 0, 0u64);
    let end = loop {
        if calls == CALLS_MAX {
            break MigrationEnd::TooLarge;
        }
        if is_cancelled() {
            return Err(MigrationStop::Cancelled);
        }
        let (called, store) = call(&cursor, transaction);
        transaction = store.into_any().downcast::<Transaction<R>>().expect("the store that was given comes back");
        let (migrated, used) = called?;
        calls += 1;
        fuel = fuel.saturating_add(used);
        // No call is undone alone, so the transaction need not remember how.
        transaction.savepoint();
        match migrated {
            Migrated::Refused(status) => break MigrationEnd::Refused(status),
            Migrated::Failed(failure) => break MigrationEnd::Failed(failure),
            Migrated::Done | Migrated::More(_) if transaction.held_bytes() > WRITTEN_BYTES_MAX || fuel > fuel_max => {
                break MigrationEnd::TooLarge;
            }
            Migrated::Done => break MigrationEnd::Done,
            Migrated::More(next) => cursor = next,
        }
    };
    let written_bytes = transaction.written_bytes();
    let writes = if end == MigrationEnd::Done { transaction.into_writes() } else { Writes::new() };
    Ok(MigrationRun { end, calls, fuel, written_bytes, writes })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::guest::Reason;

    /// An empty base.
    struct Empty;

    impl Read for Empty {
        fn get(&self, _: Column, _: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
            Ok(None)
        }

        fn scan(
            &self,
            _: Column,
            _: &[u8],
            _: Option<&[u8]>,
            _: bool,
            _: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
        ) -> Result<(), StoreError> {
            Ok(())
        }
    }

    const FUEL_MAX: u64 = 1 << 20;

    /// Runs calls that write `value` under a key of their number. Call `number` ends as `end` says.
    fn migrated(value: &[u8], end: impl Fn(u32) -> Migrated) -> MigrationRun {
        let mut number = 0u32;
        let run = run(Transaction::new(Empty), FUEL_MAX, &|| false, |cursor, mut store| {
            let wanted = if number == 0 { Vec::new() } else { number.to_be_bytes().to_vec() };
            assert_eq!(cursor, wanted, "each call gets the cursor of the one before");
            store.put(&number.to_be_bytes(), value).unwrap();
            number += 1;
            (Ok((end(number), 10)), store)
        });
        run.unwrap()
    }

    fn more(number: u32) -> Migrated {
        Migrated::More(number.to_be_bytes().to_vec().into())
    }

    #[test]
    fn all_calls_together_have_a_limit_of_fuel() {
        let fuel = |used: u64| {
            run(Transaction::new(Empty), FUEL_MAX, &|| false, |_, store| (Ok((more(1), used)), store)).unwrap()
        };
        let run = fuel(FUEL_MAX / 4);
        assert_eq!((run.end, run.calls), (MigrationEnd::TooLarge, 5));
    }

    #[test]
    fn calls_follow_each_other_until_nothing_is_left() {
        let run = migrated(b"row", |number| if number == 3 { Migrated::Done } else { more(number) });
        assert_eq!((&run.end, run.calls, run.fuel, run.written_bytes), (&MigrationEnd::Done, 3, 30, 21));
        let keys: Vec<_> = run.writes.keys().map(|key| key[3]).collect();
        assert_eq!(keys, [0, 1, 2]);
        assert_eq!(run.end.verdict(), ChangeVerdict::Changed);
    }

    #[test]
    fn a_refusal_or_a_failure_leaves_no_writes() {
        let status = Status { code: 9, message: "not yet".into(), details: Vec::new() };
        let failure = Failure { reason: Reason::Fuel, detail: "here".into() };
        let rows = [
            (Migrated::Refused(status), ChangeVerdict::Refused(9)),
            (Migrated::Failed(failure), ChangeVerdict::Failed(Reason::Fuel)),
        ];
        for (end, verdict) in rows {
            let run = migrated(b"row", |number| if number == 2 { end.clone() } else { more(number) });
            assert_eq!((run.end.verdict(), run.calls), (verdict, 2));
            assert!(run.writes.is_empty());
        }
    }

    #[test]
    fn more_calls_or_bytes_than_an_entry_may_have_are_too_large() {
        let at_the_limit = |number| if number == CALLS_MAX { Migrated::Done } else { more(number) };
        assert_eq!(migrated(b"", at_the_limit).end, MigrationEnd::Done);
        let run = migrated(b"", more);
        assert_eq!((run.end.verdict(), run.calls), (ChangeVerdict::TooLarge, CALLS_MAX));
        assert!(run.writes.is_empty());
        let large = vec![7; 32 << 20];
        let run = migrated(&large, |number| if number == 8 { Migrated::Done } else { more(number) });
        assert_eq!((run.end, run.calls), (MigrationEnd::TooLarge, 8), "the keys count as well");
        let run = migrated(&large, |number| if number == 7 { Migrated::Done } else { more(number) });
        assert_eq!((run.end, run.writes.len()), (MigrationEnd::Done, 7));
    }

    #[test]
    fn a_fault_or_a_cancellation_is_no_end() {
        let fault = || HostFault("disk".into());
        let stopped = run(Transaction::new(Empty), FUEL_MAX, &|| false, |_, store| (Err(fault()), store));
        assert_eq!(stopped, Err(MigrationStop::Host(fault())));
        let (left, mut number) = (std::cell::Cell::new(2), 0);
        let is_cancelled = || left.replace(left.get() - 1) == 0;
        let stopped = run(Transaction::new(Empty), FUEL_MAX, &is_cancelled, |_, store| {
            number += 1;
            (Ok((more(number), 1)), store)
        });
        assert_eq!((stopped, number), (Err(MigrationStop::Cancelled), 2));
    }
}
