//! A candidate beside the recorded machine, over the same entries. It takes over the state at the
//! beginning by its migration, as in a change, and then runs exactly the commands that were run.
//! This file decides nothing about a difference.
//!
//! - Entries keep their indexes and their log time for the candidate.
//! - Changes and rollbacks of the log are those of the recorded machine. The candidate passes over
//!   them.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;

use super::course::{Course, Step};
use super::error::ReplayError;
use super::history::{Content, History, TakenOver};
use super::place::{Base, Place};
use crate::guest::{Component, Verdict};
use crate::machine::answered::AnsweredCommands;
use crate::machine::change::migration::is_needed;
use crate::machine::entry::Instances;
use crate::machine::metered::{Metered, Reuse};
use crate::machine::rehearsal::report::{AnswerDifference, ComponentReport, MigrationReport, SideReport, millis};
use crate::types::Entry;

/// What two machines did with the same entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// The first entry that both ran.
    pub first_index: u64,
    /// The last entry that both ran.
    pub last_index: u64,
    /// Entries that both ran.
    pub entries: u64,
    /// Commands that both ran.
    pub commands: u64,
    /// Commands that the candidate answered differently.
    pub different: u64,
    /// The component that history ran at the beginning.
    pub recorded: ComponentReport,
    /// The other component.
    pub candidate: ComponentReport,
    /// The candidate's migration of the state at the beginning. Rows and digests are not counted.
    pub migration: MigrationReport,
    /// What the recorded machine did.
    pub old: SideReport,
    /// What the candidate did.
    pub new: SideReport,
    /// The first commands that were answered differently.
    pub differences: Vec<AnswerDifference>,
    /// Whether the replay ended at the first difference.
    pub is_broken_off: bool,
}

/// The two machines.
pub(super) struct Comparing {
    candidate: History,
    answered: AnsweredCommands,
    elapsed: [Duration; 2],
    compared: Compared,
}

impl Comparing {
    /// Has the candidate take over the state of a course as it is now.
    pub(super) fn begin(course: &mut Course<'_>, place: &Place, encoded: &Bytes) -> Result<Comparing, ReplayError> {
        let recorded = course.history().component().clone();
        let first_index = course.next();
        let limits = recorded.engine().limits().clone();
        let candidate = course.supply().load(encoded, &limits).map_err(ReplayError::Lacks)?;
        let mut compared = Compared {
            first_index,
            recorded: ComponentReport::of(&recorded),
            candidate: ComponentReport::of(&candidate),
            ..Compared::default()
        };
        let history = match course.system().applied {
            None => place.history(&Base::Empty, candidate)?,
            Some(_) => {
                let base = Base::Checkpoint(place.keep(course.history().generation())?);
                let mut history = place.history(&base, recorded)?;
                compared.migration = take_over(&mut history, candidate)?;
                history
            }
        };
        let migration = &compared.migration;
        if !migration.has_result() {
            let (index, kind) = (first_index.saturating_sub(1), migration.kind.words());
            return Err(ReplayError::Refused { index, kind, detail: migration.detail.clone() });
        }
        let candidate = history.without_limits_of_entries();
        Ok(Comparing { candidate, answered: AnsweredCommands::default(), elapsed: [Duration::ZERO; 2], compared })
    }

    /// Runs the next entry by both. Returns the step of the course, and the place of the first
    /// command that was answered differently.
    pub(super) fn run(
        &mut self,
        course: &mut Course<'_>,
        entry: &Entry,
    ) -> Result<(Content, Vec<Verdict>, Option<u32>), ReplayError> {
        let slot = RefCell::new(None);
        let watched = |component: &Component, commands: usize| -> Box<dyn Instances> {
            let metered = Metered::new(component, Reuse::Shared, commands);
            *slot.borrow_mut() = Some(metered.clone());
            Box::new(metered)
        };
        let began = Instant::now();
        let Step { content, done, .. } = course.step(entry, Some(&watched))?;
        self.elapsed[0] += began.elapsed();
        let fuel = slot.borrow().as_ref().map(Metered::fuel).unwrap_or_default();
        self.refuse_rows(entry, &content, !done.writes.is_empty())?;
        let content = content.having_run(&done.verdicts);
        let run = content.entry().map_or(0, |entry| entry.commands.len());
        let metered = Metered::new(self.candidate.component(), Reuse::Shared, run);
        let began = Instant::now();
        let answered = self.candidate.apply_by(entry.log_id, &content, &metered)?.verdicts;
        self.elapsed[1] += began.elapsed();
        let is_commands = matches!(content, Content::Commands(_));
        let told = if is_commands { &done.verdicts[..run] } else { &[] };
        note(&mut self.compared.old, told, &fuel);
        note(&mut self.compared.new, if is_commands { &answered } else { &[] }, &metered.fuel());
        self.compared.last_index = entry.log_id.index;
        self.compared.entries += 1;
        self.compared.old.hash = format!("{:016x}", course.system().hash.hash);
        let commands = content.entry().map(|entry| entry.commands.as_slice()).unwrap_or_default();
        let first = self.answered.compare(entry.log_id.index, commands, told, &answered);
        Ok((content, done.verdicts, first))
    }

    /// Rows that an operator brought in fit the recorded component alone.
    fn refuse_rows(&self, entry: &Entry, content: &Content, has_written: bool) -> Result<(), ReplayError> {
        let brings_rows = content.entry().is_some_and(|entry| entry.rows.is_some());
        if !brings_rows || !has_written {
            return Ok(());
        }
        let index = entry.log_id.index;
        let why = "an operator brought rows in that fit the recorded component; compare the entries before it and behind it apart, with --range";
        Err(ReplayError::Entry { index, why: why.to_owned() })
    }

    /// Returns what was found.
    pub(super) fn end(self, is_broken_off: bool) -> Compared {
        let elapsed_us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let [old, new] = self.elapsed.map(elapsed_us);
        let hash = format!("{:016x}", self.candidate.system().hash.hash);
        let Compared { old: told, new: answered, .. } = self.compared.clone();
        let AnsweredCommands { commands, different, differences } = self.answered;
        Compared {
            commands,
            different,
            old: SideReport { elapsed_us: old, ..told },
            new: SideReport { elapsed_us: new, hash, ..answered },
            differences: differences.into_list(),
            is_broken_off,
            ..self.compared
        }
    }
}

/// Counts how commands ended, and what they cost.
fn note(side: &mut SideReport, verdicts: &[Verdict], fuel: &[u64]) {
    for verdict in verdicts {
        match verdict {
            Verdict::Reply(_) => {}
            Verdict::Refused(_) => side.refused += 1,
            Verdict::Failed(_) => side.failed += 1,
        }
    }
    side.fuel = fuel.iter().fold(side.fuel, |sum, fuel| sum.saturating_add(*fuel));
}

/// Has the candidate migrate the state.
fn take_over(history: &mut History, candidate: Component) -> Result<MigrationReport, ReplayError> {
    let migrates = is_needed(&candidate, &history.component().hash());
    let began = Instant::now();
    let TakenOver { run, written, removed } = history.take_over(candidate)?;
    let mut report = MigrationReport {
        rows_written: written,
        rows_removed: removed,
        bytes_written: run.written_bytes,
        calls: run.calls,
        fuel: run.fuel,
        migrate_ms: millis(began.elapsed()),
        ..MigrationReport::default()
    };
    if migrates {
        report.end(&run.end);
    }
    Ok(report)
}
