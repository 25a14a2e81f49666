//! One course that the machine could have taken: a component on a scratch state, which applies
//! entries as a node does. Rollbacks, replays and restores run their entries by it. It compares
//! nothing, and reads no log.

use std::sync::Arc;

use openraft::EntryPayload;

use crate::codec;
use crate::guest::{Component, Context, HostFault, Limits, Predecessor, Verdict};
use crate::machine::change::migration::{self, MigrationEnd, MigrationRun, MigrationStop};
use crate::machine::change::{self, Attempt};
use crate::machine::entry::{self, Effects, Instances, Runner, Writes, batch_of};
use crate::machine::outcome::is_not_run;
use crate::machine::overlay::Transaction;
use crate::machine::system::System;
use crate::store::{Checkpoint, Generation, State, StoreError};
use crate::types::{Entry, LogId, Membership};

/// Why a history does not go on. It says nothing about the guest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HistoryError {
    /// The disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sandbox failed.
    #[error(transparent)]
    Host(#[from] HostFault),
}

/// What an entry holds.
pub(crate) enum Content {
    /// Nothing that counts.
    Blank,
    Membership(Membership),
    Commands(Box<codec::entry::Entry>),
    /// A change or a rollback, with or without effect.
    Change(Box<codec::entry::Entry>),
}

impl Content {
    /// Reads an entry. One that cannot be decoded counts as a blank one, as on every node.
    pub(crate) fn of(entry: &Entry) -> Content {
        match &entry.payload {
            EntryPayload::Blank => Content::Blank,
            EntryPayload::Membership(membership) => Content::Membership(membership.clone()),
            EntryPayload::Normal(data) => match codec::decode_entry(data) {
                Err(_) => Content::Blank,
                Ok(entry) if entry.change.is_some() || entry.rollback.is_some() => Content::Change(Box::new(entry)),
                Ok(entry) => Content::Commands(Box::new(entry)),
            },
        }
    }

    /// Returns the decoded entry, if it is a normal one.
    pub(crate) fn entry(&self) -> Option<&codec::entry::Entry> {
        match self {
            Content::Blank | Content::Membership(_) => None,
            Content::Commands(entry) | Content::Change(entry) => Some(entry),
        }
    }

    /// Checks that this build knows all that the entry needs.
    pub(crate) fn check_needs(&self, index: u64) -> Result<(), codec::NeedsNewerBuild> {
        self.entry().map_or(Ok(()), |entry| codec::check_needs(index, entry))
    }

    /// Returns the content without the commands that were not run, by how its commands ended. Their
    /// callers sent them again, so they stand in a later entry, too. They are the last ones of
    /// their entry.
    pub(crate) fn having_run(self, verdicts: &[Verdict]) -> Content {
        self.cut_to(number_run(verdicts))
    }

    /// Returns the content with its first `run` commands.
    pub(crate) fn cut_to(self, run: usize) -> Content {
        match self {
            Content::Commands(mut entry) => {
                entry.commands.truncate(run);
                Content::Commands(entry)
            }
            other => other,
        }
    }
}

/// Returns how many commands of an entry were run: its first ones.
pub(crate) fn number_run(verdicts: &[Verdict]) -> usize {
    verdicts.iter().take_while(|verdict| !is_not_run(verdict)).count()
}

/// What an entry did.
#[derive(Default)]
pub(crate) struct Done {
    /// How each of its commands ended.
    pub(crate) verdicts: Vec<Verdict>,
    /// The guest's rows that it wrote or removed.
    pub(crate) writes: Writes,
}

/// A component on a scratch state.
pub(crate) struct History {
    component: Component,
    limits: Limits,
    generation: Arc<Generation>,
    system: System,
}

impl History {
    /// Begins at the checkpoint, under the component's limits.
    pub(crate) fn begin(state: &State, checkpoint: &Checkpoint, component: Component) -> Result<History, HistoryError> {
        History::begin_at(state.history_of(checkpoint)?, component)
    }

    /// Begins before the first entry, under the component's limits.
    pub(crate) fn begin_empty(state: &State, component: Component) -> Result<History, HistoryError> {
        History::begin_at(state.history()?, component)
    }

    fn begin_at(generation: Generation, component: Component) -> Result<History, HistoryError> {
        let system = System::read(&generation)?;
        Ok(History::over(Arc::new(generation), system, component))
    }

    /// Begins at a state that is not in force, under the component's limits.
    pub(crate) fn over(generation: Arc<Generation>, system: System, component: Component) -> History {
        let limits = component.engine().limits().clone();
        History { component, limits, generation, system }
    }

    /// Runs every command of an entry from now on, whatever the ones before it took: who packed the
    /// entry knew another component.
    pub(crate) fn without_limits_of_entries(mut self) -> History {
        let limits = self.limits;
        self.limits = Limits { fuel_per_entry: u64::MAX, reply_bytes_per_entry_max: u64::MAX, ..limits };
        self
    }

    /// Runs the commands of an entry under the component's limits from now on, as a node does.
    pub(crate) fn under_all_limits(mut self) -> History {
        self.limits = self.component.engine().limits().clone();
        self
    }

    /// Returns the records behind the last entry.
    pub(crate) fn system(&self) -> &System {
        &self.system
    }

    /// Returns the component that runs.
    pub(crate) fn component(&self) -> &Component {
        &self.component
    }

    /// Returns the state. Nobody else writes to it.
    pub(crate) fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// Returns the state and its records.
    pub(crate) fn into_state(self) -> (Arc<Generation>, System) {
        (self.generation, self.system)
    }

    /// Applies an entry, and returns how each of its commands ended. An entry with a change moves
    /// log time alone.
    pub(crate) fn apply(&mut self, log_id: LogId, content: &Content) -> Result<Vec<Verdict>, HistoryError> {
        let component = self.component.clone();
        Ok(self.apply_by(log_id, content, &component)?.verdicts)
    }

    /// Does the same with other instances of the component, which may measure what they do.
    pub(crate) fn apply_by(
        &mut self,
        log_id: LogId,
        content: &Content,
        instances: &dyn Instances,
    ) -> Result<Done, HistoryError> {
        let before = &self.system;
        let effects = match content {
            Content::Blank => entry::empty(before, log_id, before.clone()),
            Content::Membership(membership) => entry::membership(before, log_id, membership),
            Content::Change(entry) => entry::passed_over(before, log_id, entry),
            Content::Commands(entry) => {
                let runner = Runner { instances, limits: &self.limits };
                entry::normal(before, log_id, entry, Some(runner), self.generation.clone())?
            }
        };
        self.commit(effects)
    }

    /// Tries the change of an entry. If it is made, `after` takes over; that must be set if the
    /// change needs its component. Returns what came of it. `is_cancelled` is asked now and then;
    /// once it returns true, the history ends with a fault.
    pub(crate) fn change(
        &mut self,
        log_id: LogId,
        entry: &codec::entry::Entry,
        after: Option<Component>,
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<Option<Changing>, HistoryError> {
        let Some(change) = &entry.change else { return Ok(None) };
        let base = self.generation.clone();
        let migrate = after.as_ref().map(|after| change::migrate(&self.component, after, base, is_cancelled));
        let attempt = change::effects(&self.system, log_id, entry, change, migrate)?;
        let is_made = attempt.is_made();
        let Attempt { effects, detail, .. } = attempt;
        let done = self.commit(effects)?;
        if let Some(after) = after.filter(|_| is_made) {
            self.limits = after.engine().limits().clone();
            self.component = after;
        }
        Ok(Some(Changing { is_made, detail, done }))
    }

    /// Has another component take the state over, as in a change, but without an entry: the entries
    /// behind keep their indexes. The new component takes over only if the migration is done.
    pub(crate) fn take_over(&mut self, after: Component) -> Result<TakenOver, HistoryError> {
        let hash = self.component.hash();
        let from = Predecessor { hash: &hash, version: self.component.version() };
        // No command sees this place: an entry has far fewer.
        let (index, position) = (self.system.applied_index(), u32::MAX);
        let context = Context { index, position, time_ms: self.system.time_ms };
        let (limits, transaction) = (after.engine().limits(), Transaction::new(self.generation.clone()));
        let run = migration::migrate(&after, context, from, limits, transaction, &|| false);
        let mut run = run.map_err(|stop| match stop {
            MigrationStop::Host(fault) => fault,
            MigrationStop::Cancelled => HostFault("the migration was cancelled".into()),
        })?;
        let written = run.writes.values().filter(|value| value.is_some()).count() as u64;
        let removed = run.writes.len() as u64 - written;
        if run.end == MigrationEnd::Done {
            migration::store(&self.generation, std::mem::take(&mut run.writes))?;
            self.limits = after.engine().limits().clone();
            self.component = after;
        }
        Ok(TakenOver { run, written, removed })
    }

    /// Commits effects that were computed of this history's records.
    pub(crate) fn commit(&mut self, effects: Effects) -> Result<Done, HistoryError> {
        let batch = batch_of(&effects);
        self.generation.commit(&batch)?;
        self.system = effects.system;
        // Nothing needs it on the disk sooner: after a crash a history is of no use.
        self.generation.flush_if_nearly_full()?;
        let verdicts = effects.outcomes.into_iter().map(|(_, verdict)| verdict).collect();
        Ok(Done { verdicts, writes: effects.writes })
    }
}

/// What came of a migration without an entry.
pub(crate) struct TakenOver {
    /// How it ended. Its writes are in the state by now, and are left out.
    pub(crate) run: MigrationRun,
    /// Rows that it wrote.
    pub(crate) written: u64,
    /// Rows that it removed.
    pub(crate) removed: u64,
}

/// What came of a change.
pub(crate) struct Changing {
    /// Whether the new profile is in force.
    pub(crate) is_made: bool,
    /// The guest's words about a refusal or a failure.
    pub(crate) detail: String,
    /// What its entry did.
    pub(crate) done: Done,
}
