//! Runs a range of a log again, offline: the recorded machine alone, to compare hashes, to look at
//! one entry or to bring the state of a backup forward, or a candidate beside it. This module knows
//! no node, no network and no directory of a node; callers bring the entries, the components and
//! where to begin.
//!
//! ```text
//! EntrySource ─► Course: the recorded machine ─► History ─► entry, change, rollback: as on a node
//!                  │                                          over a scratch state in Place
//!                  ├─► verify: hashes        ├─► compare: a candidate's History
//!                  └─► trace, shown: one entry └─► kept: the commands for a script
//! ```
//!
//! - What is replayed is what every node ran: the same functions, limits and instances.
//! - A replay writes to its own place alone.

mod compare;
mod course;
mod error;
pub(crate) mod history;
mod kept;
mod place;
mod shown;
mod source;
mod supply;
mod trace;
mod verify;

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

pub use compare::Compared;
pub use error::ReplayError;
pub use kept::{Kept, RanCommand};
pub use place::{Base, Place};
pub use shown::{RowChange, ShownCommand, ShownEntry};
pub use source::{EntrySource, Joined, Upto};
pub use supply::{Supply, SupplyError};
pub use trace::{Attempt, Cut, StoreCall};
pub use verify::{HashDifference, Landmark, Verified};

use super::entry::Instances;
use super::system::System;
use super::tried::ChangeReport;
use crate::guest::Component;
use crate::store::{Checkpoint, Column, Read, Row, StoreError};
use crate::types::Entry;
use compare::Comparing;
use course::{Course, Step};
use history::{Content, History, number_run};
use trace::Traced;
use verify::Comparison;

/// Is told now and then which entry was run last.
pub type Tell<'a> = &'a mut dyn FnMut(u64);

/// A machine that runs its log again. It runs guests, so its thread needs the stack size for
/// guests.
pub struct Replay<'a> {
    place: &'a Place,
    source: &'a dyn EntrySource,
    course: Course<'a>,
    /// The last commands, if they are kept.
    kept: Option<Kept>,
}

impl<'a> Replay<'a> {
    /// Begins at a base.
    pub fn begin(
        place: &'a Place,
        source: &'a dyn EntrySource,
        supply: Supply,
        base: &Base,
    ) -> Result<Replay<'a>, ReplayError> {
        let course = Course::begin(place, source, supply, base)?;
        Ok(Replay { place, source, course, kept: None })
    }

    /// Goes on with a history.
    pub(crate) fn over(place: &'a Place, source: &'a dyn EntrySource, supply: Supply, history: History) -> Replay<'a> {
        Replay { place, source, course: Course::over(place, source, supply, history), kept: None }
    }

    /// Ends the replay. Returns the history as it is now.
    pub(crate) fn into_history(self) -> History {
        self.course.into_history()
    }

    /// Keeps the last commands from now on.
    pub fn keep_commands(&mut self) {
        self.kept = Some(Kept::default());
    }

    /// Returns the commands that were kept.
    pub fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }

    /// Returns the component that runs now.
    pub fn component(&self) -> &Component {
        self.course.history().component()
    }

    /// Returns the last entry that was run; 0 before the first.
    pub fn index(&self) -> u64 {
        self.course.system().applied_index()
    }

    /// Calls `row` with each row of the guest, in order.
    pub fn rows(&self, row: Row<'_>) -> Result<(), StoreError> {
        self.course.history().generation().scan(Column::Data, &[], None, false, row)
    }

    /// Runs the entries up to `last` and compares nothing.
    pub fn run_to(&mut self, last: u64, tell: Tell<'_>) -> Result<(), ReplayError> {
        self.walk(last, tell, |course, kept, entry| {
            let step = course.step(entry, None)?;
            keep(kept, course, entry, &step);
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Runs the entries up to `last`, and compares hashes with those that the entries carry and
    /// with `landmarks`. Ends at the first difference.
    pub fn verify(&mut self, last: u64, landmarks: &[Landmark], tell: Tell<'_>) -> Result<Verified, ReplayError> {
        let mut comparison = self.comparison(landmarks);
        self.walk(last, tell, |course, kept, entry| {
            if let Some(step) = run_compared(course, &mut comparison, entry)? {
                keep(kept, course, entry, &step);
            }
            Ok(if comparison.differs() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(comparison.verified)
    }

    /// Begins to compare hashes, behind the last entry.
    pub(crate) fn comparison(&self, landmarks: &[Landmark]) -> Comparison {
        Comparison::begin(self.course.system().hash, self.course.next(), landmarks)
    }

    /// Runs the entries up to `last`, from the next one on, by the recorded machine and by a
    /// candidate. `breaks` ends it at the first difference; the last command that is kept is then
    /// the one that was answered differently.
    pub fn compare(
        &mut self,
        candidate: &Bytes,
        last: u64,
        breaks: bool,
        tell: Tell<'_>,
    ) -> Result<Compared, ReplayError> {
        let mut comparing = Comparing::begin(&mut self.course, self.place, candidate)?;
        let mut is_broken_off = false;
        self.walk(last, tell, |course, kept, entry| {
            let (content, verdicts, different) = comparing.run(course, entry)?;
            let index = entry.log_id.index;
            if let Some(kept) = kept {
                kept.add(index, course.system().time_ms, &content, number_run(&verdicts));
            }
            let Some(position) = different.filter(|_| breaks) else { return Ok(ControlFlow::Continue(())) };
            if let Some(kept) = kept {
                kept.end_at(index, position);
            }
            is_broken_off = true;
            Ok(ControlFlow::Break(()))
        })?;
        Ok(comparing.end(is_broken_off))
    }

    /// Runs the entries up to `index`, and shows that one.
    pub fn show(&mut self, index: u64, tell: Tell<'_>) -> Result<ShownEntry, ReplayError> {
        if let Some(before) = index.checked_sub(1) {
            self.run_to(before, tell)?;
        }
        let mut shown = None;
        self.walk(index, &mut |_| {}, |course, _, entry| {
            shown = Some(show(course, entry)?);
            Ok(ControlFlow::Break(()))
        })?;
        shown.ok_or_else(|| ReplayError::Lacks(format!("entry {index} is before the base of this replay")))
    }

    /// Calls `each` with the next entries up to `last`, until it breaks off. `each` has to run
    /// them.
    pub(crate) fn walk(
        &mut self,
        last: u64,
        tell: Tell<'_>,
        mut each: impl FnMut(&mut Course<'a>, &mut Option<Kept>, &Entry) -> Result<ControlFlow<()>, ReplayError>,
    ) -> Result<(), ReplayError> {
        while self.course.next() <= last {
            let entries = self.source.read(self.course.next())?;
            if entries.is_empty() {
                let next = self.course.next();
                return Err(ReplayError::Lacks(format!("the log that was given ends before entry {next}")));
            }
            for entry in &entries {
                let (next, index) = (self.course.next(), entry.log_id.index);
                if next > last {
                    break;
                }
                if index != next {
                    return Err(ReplayError::Lacks(format!(
                        "entry {next} is missing: entry {index} stands in its place"
                    )));
                }
                if each(&mut self.course, &mut self.kept, entry)?.is_break() {
                    return Ok(());
                }
            }
            tell(self.index());
        }
        Ok(())
    }
}

/// Runs an entry, and compares hashes. Returns nothing, and runs nothing, if the hash that the
/// entry carries differs.
pub(crate) fn run_compared(
    course: &mut Course<'_>,
    comparison: &mut Comparison,
    entry: &Entry,
) -> Result<Option<Step>, ReplayError> {
    comparison.carried(entry.log_id.index, &Content::of(entry));
    if comparison.differs() {
        return Ok(None);
    }
    let step = course.step(entry, None)?;
    let run = match &step.content {
        Content::Commands(_) => number_run(&step.done.verdicts) as u64,
        _ => 0,
    };
    comparison.ran(course.system().hash, run, step.is_rolled_back);
    Ok(Some(step))
}

/// Keeps the commands of an entry, if they are to be kept.
fn keep(kept: &mut Option<Kept>, course: &Course<'_>, entry: &Entry, step: &Step) {
    if let (Some(kept), Content::Commands(_)) = (kept, &step.content) {
        kept.add(entry.log_id.index, course.system().time_ms, &step.content, number_run(&step.done.verdicts));
    }
}

/// Runs an entry and keeps what it does.
fn show(course: &mut Course<'_>, entry: &Entry) -> Result<ShownEntry, ReplayError> {
    let component = course.history().component().clone();
    let before = course.history().generation().view();
    let attempts = Arc::<Mutex<Vec<Attempt>>>::default();
    let watched =
        |component: &Component, _: usize| -> Box<dyn Instances> { Box::new(Traced::new(component, &attempts)) };
    let Step { content, done, detail, is_rolled_back } = course.step(entry, Some(&watched))?;
    let (rows, rows_left_out) = match is_rolled_back {
        true => (Vec::new(), 0),
        false => shown::changed(&before, done.writes)?,
    };
    let mut attempts = std::mem::take(&mut *attempts.lock());
    let commands = content.entry().map(|entry| entry.commands.as_slice()).unwrap_or_default();
    let command = |(position, (command, verdict)): (u32, (&crate::codec::Command, _))| ShownCommand {
        position,
        method: command.method.clone(),
        caller: command.caller.clone(),
        request: command.request.clone(),
        verdict,
        attempts: attempts.extract_if(.., |attempt| attempt.position == position).collect(),
    };
    let commands = (0u32..).zip(commands.iter().zip(done.verdicts)).map(command).collect();
    let system = course.system();
    let tried = system.change.as_ref().filter(|tried| tried.index == entry.log_id.index);
    Ok(ShownEntry {
        index: entry.log_id.index,
        term: entry.log_id.leader_id.term,
        kind: kind(&content),
        time_ms: system.time_ms,
        hash: system.hash.hash,
        component,
        commands,
        change: tried.map(|tried| ChangeReport::new(tried, detail, std::time::Duration::ZERO)),
        rows,
        rows_left_out,
    })
}

fn kind(content: &Content) -> &'static str {
    match content {
        Content::Blank => "blank",
        Content::Membership(_) => "membership",
        Content::Commands(_) => "commands",
        Content::Change(entry) if entry.change.is_some() => "change",
        Content::Change(_) => "rollback",
    }
}

/// Returns the hashes of a stopped node's checkpoints and of its state, and the checkpoints at
/// which a replay may begin: those of the history that is in force.
pub fn landmarks(
    checkpoints: Vec<Arc<Checkpoint>>,
    state: Option<&dyn Read>,
) -> Result<(Vec<Landmark>, Vec<Arc<Checkpoint>>), ReplayError> {
    let (mut found, mut bases, mut abandoned) = (Vec::new(), Vec::new(), 0..0);
    if let Some(state) = state {
        let system = System::read(state)?;
        abandoned = system.profile.as_ref().map_or(0..0, |profile| profile.abandoned());
        if system.applied.is_some() {
            let index = system.applied_index();
            found.push(Landmark { index, hash: system.hash.hash, told_by: "the node's state".to_owned() });
        }
    }
    for checkpoint in checkpoints.into_iter().filter(|checkpoint| !abandoned.contains(&checkpoint.index)) {
        let system = System::read(&*checkpoint.open()?)?;
        let index = checkpoint.index;
        let told_by = format!("the node's checkpoint at entry {index}");
        if found.iter().all(|landmark| landmark.index != index) {
            found.push(Landmark { index, hash: system.hash.hash, told_by });
        }
        bases.push(checkpoint);
    }
    Ok((found, bases))
}
