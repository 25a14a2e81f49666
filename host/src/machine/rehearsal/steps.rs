//! The steps of a rehearsal, in order: migration, snapshot and restore of the result, the same once
//! more, commands, queries. It writes to scratch states alone. It runs guests, so its thread needs
//! the stack size for guests.
//!
//! - The new machine does everything twice, the second time with a fresh instance for each command.
//!   A guest that obeys its contract does the same both times.
//! - At most three scratch states exist at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::COMMANDS_MAX;
use super::bounds::{Bounds, RehearsalError};
use super::report::{
    CommandsReport, ComponentReport, MigrationReport, QueriesReport, RehearsalReport, SideReport, SnapshotReport,
    millis,
};
use super::side::{Contents, Side};
use crate::codec::entry::Entry;
use crate::faults;
use crate::guest::{Component, Verdict};
use crate::machine::answered::{AnsweredTwice, Differences};
use crate::machine::metered::Reuse;
use crate::machine::outcome::{is_not_run, is_same};
use crate::machine::query::sample::Sampled;
use crate::machine::snapshot::loopback;
use crate::store::{Checkpoint, State, StoreError};

/// What is rehearsed, and on what.
pub(super) struct Inputs {
    pub(super) state: State,
    pub(super) checkpoint: Arc<Checkpoint>,
    /// How long apply will be held for the checkpoint before the change, as it was for this one.
    pub(super) checkpoint_held: Duration,
    pub(super) old: Component,
    pub(super) new: Component,
    pub(super) entries: Vec<(u64, Entry)>,
    pub(super) queries: Vec<Sampled>,
}

impl Inputs {
    fn side(&self, component: &Component, reuse: Reuse) -> Result<Side, StoreError> {
        Side::new(&self.state, &self.checkpoint, component, reuse)
    }
}

/// Runs all steps. Without a migrated state, the steps after the migration are left out.
pub(super) fn run(inputs: Inputs, bounds: &Bounds) -> Result<RehearsalReport, RehearsalError> {
    let began = Instant::now();
    let mut report = RehearsalReport {
        index: inputs.checkpoint.index,
        old: ComponentReport::of(&inputs.old),
        new: ComponentReport::of(&inputs.new),
        ..RehearsalReport::default()
    };
    bounds.check()?;
    let mut new = inputs.side(&inputs.new, Reuse::Shared)?;
    // The restored state will take that much.
    bounds.check_room(new.generation().approximate_bytes())?;
    let before = new.contents(bounds)?;
    report.migration = new.migrate(&inputs.old, before, bounds)?;
    faults::point("rehearsal-migrated");
    report.checkpoint_ms = millis(inputs.checkpoint_held);
    report.hold_ms = report.checkpoint_ms + report.migration.migrate_ms + report.migration.store_ms;
    if report.migration.has_result() {
        bounds.check()?;
        report.snapshot = Some(snapshot_restore(&new, &inputs, bounds)?);
        compare(new, before, &inputs, &mut report, bounds)?;
    }
    report.elapsed_ms = millis(began.elapsed());
    Ok(report)
}

/// Lets the new component write a snapshot of the migrated state, and restore it.
fn snapshot_restore(new: &Side, inputs: &Inputs, bounds: &Bounds) -> Result<SnapshotReport, RehearsalError> {
    let (began, asked) = (Instant::now(), bounds.clone());
    let create = || inputs.state.scratch();
    let problem = match loopback::pass(new.generation(), &inputs.new, &create, Arc::new(move || asked.is_over())) {
        Ok(_) => None,
        Err(error) => {
            bounds.check()?;
            if !error.is_of_the_guest() {
                return Err(RehearsalError::Snapshot(error));
            }
            Some(error.to_string())
        }
    };
    Ok(SnapshotReport { problem, elapsed_ms: millis(began.elapsed()) })
}

/// Does everything a second time with the new component, and runs commands and queries by both.
fn compare(
    new: Side,
    before: Contents,
    inputs: &Inputs,
    report: &mut RehearsalReport,
    bounds: &Bounds,
) -> Result<(), RehearsalError> {
    let mut again = inputs.side(&inputs.new, Reuse::Never)?;
    let second = again.migrate(&inputs.old, before, bounds)?;
    let not_deterministic = unlike(&report.migration, &second);
    let mut old = inputs.side(&inputs.old, Reuse::Shared)?;
    old.pass_change();
    let again = not_deterministic.is_none().then_some(again);
    let mut sides = Sides { old, new, again, not_deterministic, differences: Differences::default() };
    report.commands = Some(sides.commands(newest(&inputs.entries), bounds)?);
    report.queries = Some(sides.queries(&inputs.queries, bounds)?);
    report.not_deterministic = sides.not_deterministic;
    report.differences = sides.differences.into_list();
    Ok(())
}

/// Says what differs between two migrations of one state by one component.
fn unlike(first: &MigrationReport, second: &MigrationReport) -> Option<String> {
    if first.kind != second.kind {
        return Some(format!("the migration ended as {:?}, and the second time as {:?}", first.kind, second.kind));
    }
    if first.digest_after == second.digest_after {
        return None;
    }
    Some(format!(
        "the migration left {} rows with digest {}, and the second time {} rows with digest {}",
        first.rows_after, first.digest_after, second.rows_after, second.digest_after
    ))
}

/// Returns the newest entries that have no more than [`COMMANDS_MAX`] commands together.
fn newest(entries: &[(u64, Entry)]) -> &[(u64, Entry)] {
    let mut commands = 0;
    let fits = |(_, entry): &&(u64, Entry)| {
        commands += entry.commands.len();
        commands <= COMMANDS_MAX
    };
    let kept = entries.iter().rev().take_while(fits).count();
    &entries[entries.len() - kept..]
}

/// The machines while they run the same.
struct Sides {
    old: Side,
    new: Side,
    /// `None` once it did something else than `new`.
    again: Option<Side>,
    not_deterministic: Option<String>,
    differences: Differences,
}

impl Sides {
    fn commands(&mut self, entries: &[(u64, Entry)], bounds: &Bounds) -> Result<CommandsReport, RehearsalError> {
        let mut report = CommandsReport::default();
        for (index, entry) in entries.iter().filter(|(_, entry)| !entry.commands.is_empty()) {
            bounds.check()?;
            let entry = Entry { time_ms: entry.time_ms, commands: entry.commands.clone(), ..Entry::default() };
            let (old, new) = (self.old.apply(&entry)?, self.new.apply(&entry)?);
            report.first_index = if report.commands == 0 { *index } else { report.first_index };
            report.last_index = *index;
            report.commands += entry.commands.len() as u64;
            for (position, command) in (0u32..).zip(&entry.commands) {
                let (old, new) = (&old[position as usize], &new[position as usize]);
                if is_not_run(old) || is_not_run(new) {
                    report.not_compared += 1;
                } else if self.differences.compare(&AnsweredTwice::command(*index, position, command, old, new)) {
                    report.different += 1;
                }
            }
            self.once_more(*index, &entry, &new)?;
        }
        report.old = SideReport { hash: hash_text(&self.old), ..self.old.take_cost() };
        report.new = SideReport { hash: hash_text(&self.new), ..self.new.take_cost() };
        Ok(report)
    }

    /// Runs the entry a second time by the new component, and compares.
    fn once_more(&mut self, index: u64, entry: &Entry, first: &[Verdict]) -> Result<(), RehearsalError> {
        let Some(again) = &mut self.again else { return Ok(()) };
        let second = again.apply(entry)?;
        if again.hash() == self.new.hash() {
            return Ok(());
        }
        let unlike = first.iter().zip(&second).position(|(first, second)| !is_same(first, second));
        let what = match unlike {
            Some(position) => format!("{} at position {position} was answered", entry.commands[position].method),
            None => "its rows were written".to_owned(),
        };
        self.not_deterministic = Some(format!(
            "entry {index}: {what} differently when each command ran in an instance of its own. The guest keeps something \
             in its memory from command to command"
        ));
        self.again = None;
        Ok(())
    }

    fn queries(&mut self, queries: &[Sampled], bounds: &Bounds) -> Result<QueriesReport, RehearsalError> {
        let mut report = QueriesReport { queries: queries.len() as u64, ..QueriesReport::default() };
        for (position, query) in (0u32..).zip(queries) {
            let (old, new) = (self.old.query(query, bounds)?, self.new.query(query, bounds)?);
            let (method, caller, request) = (&*query.method, &*query.caller, &*query.request);
            let (old, new) = (&old, &new);
            if self.differences.compare(&AnsweredTwice { index: None, position, method, caller, request, old, new }) {
                report.different += 1;
            }
        }
        (report.old, report.new) = (self.old.take_cost(), self.new.take_cost());
        Ok(report)
    }
}

fn hash_text(side: &Side) -> String {
    format!("{:016x}", side.hash())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Command;

    fn entry(index: u64, commands: usize) -> (u64, Entry) {
        (index, Entry { commands: vec![Command::default(); commands], ..Entry::default() })
    }

    #[test]
    fn of_many_commands_the_newest_entries_are_taken() {
        let indexes = |entries: &[(u64, Entry)]| newest(entries).iter().map(|(index, _)| *index).collect::<Vec<_>>();
        assert!(indexes(&[]).is_empty());
        assert_eq!(indexes(&[entry(1, 5), entry(2, COMMANDS_MAX - 5)]), [1, 2]);
        assert_eq!(indexes(&[entry(1, 6), entry(2, 0), entry(3, COMMANDS_MAX - 5)]), [2, 3]);
        assert!(indexes(&[entry(1, 1), entry(2, COMMANDS_MAX + 1)]).is_empty());
    }

    #[test]
    fn two_migrations_are_alike_or_what_differs_is_named() {
        let first = MigrationReport { rows_after: 3, digest_after: "ab".into(), migrate_ms: 5, ..Default::default() };
        assert_eq!(unlike(&first, &MigrationReport { migrate_ms: 9, ..first.clone() }), None);
        let other = MigrationReport { digest_after: "cd".into(), ..first.clone() };
        assert!(unlike(&first, &other).is_some_and(|words| words.contains("3 rows with digest cd")));
        let failed = MigrationReport { kind: super::super::report::MigrationKind::Failed, ..first.clone() };
        assert!(unlike(&first, &failed).is_some_and(|words| words.contains("Failed")));
    }
}
