//! The course that history took: the recorded machine over its log. It follows changes of component
//! and profile, and rollbacks, by the components that were given. It compares nothing.
//!
//! - Every entry is applied by the functions that a node's apply thread calls.
//! - While a change may be taken back, the state before it is kept. A rollback then runs the
//!   entries since once more, as every node does.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::error::ReplayError;
use super::history::{Content, Done, History, number_run};
use super::place::{Base, Place};
use super::source::EntrySource;
use super::supply::Supply;
use crate::codec::{self, Change, Rollback};
use crate::guest::Component;
use crate::machine::change;
use crate::machine::entry::Instances;
use crate::machine::profile::profile_of;
use crate::machine::rollback;
use crate::machine::system::System;
use crate::store::Checkpoint;
use crate::types::{Entry, LogId};

/// Makes the instances by which one entry is run, for the component that runs it and the number of
/// its commands.
pub(crate) type Watched<'a> = &'a dyn Fn(&Component, usize) -> Box<dyn Instances>;

/// What an entry did to the course.
pub(crate) struct Step {
    pub(crate) content: Content,
    pub(crate) done: Done,
    /// The guest's words about a change that it refused or failed.
    pub(crate) detail: String,
    /// Whether a rollback replaced the state.
    pub(crate) is_rolled_back: bool,
}

/// What it takes to take a change back.
struct BeforeChange {
    /// Index of the entry of the change.
    index: u64,
    checkpoint: Arc<Checkpoint>,
    /// How many commands were run of each entry since of which some were not.
    cut: BTreeMap<u64, usize>,
}

/// The recorded machine over its log.
pub(crate) struct Course<'a> {
    place: &'a Place,
    source: &'a dyn EntrySource,
    supply: Supply,
    history: History,
    before: Option<BeforeChange>,
}

impl<'a> Course<'a> {
    /// Begins at a base.
    pub(crate) fn begin(
        place: &'a Place,
        source: &'a dyn EntrySource,
        mut supply: Supply,
        base: &Base,
    ) -> Result<Course<'a>, ReplayError> {
        let profile = match base {
            Base::Empty => first_genesis(source)?,
            Base::Checkpoint(checkpoint) => {
                let system = System::read(&*checkpoint.open()?)?;
                let in_force = system.in_force().map(|(_, profile)| profile.clone());
                match in_force {
                    Some(profile) => profile,
                    None => first_genesis(source)?,
                }
            }
        };
        let component = supply.component(&profile).map_err(|error| ReplayError::Lacks(error.to_string()))?;
        let history = place.history(base, component)?;
        Ok(Course::over(place, source, supply, history))
    }

    /// Goes on with a history. A rollback puts another one in its place.
    pub(crate) fn over(place: &'a Place, source: &'a dyn EntrySource, supply: Supply, history: History) -> Course<'a> {
        Course { place, source, supply, history, before: None }
    }

    /// Ends the course. Returns the history as it is now.
    pub(crate) fn into_history(self) -> History {
        self.history
    }

    pub(crate) fn system(&self) -> &System {
        self.history.system()
    }

    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    pub(crate) fn supply(&mut self) -> &mut Supply {
        &mut self.supply
    }

    /// Returns the next entry's index.
    pub(crate) fn next(&self) -> u64 {
        self.system().applied.map_or(0, |applied| applied.index + 1)
    }

    /// Applies the next entry. `watched` makes the instances that run its commands.
    pub(crate) fn step(&mut self, entry: &Entry, watched: Option<Watched<'_>>) -> Result<Step, ReplayError> {
        let (log_id, content) = (entry.log_id, Content::of(entry));
        content.check_needs(log_id.index).map_err(|needs| ReplayError::Lacks(needs.to_string()))?;
        let (mut detail, mut is_rolled_back) = (String::new(), false);
        let component = self.history.component().clone();
        let done = match &content {
            Content::Change(inner) => match (&inner.change, &inner.rollback) {
                (Some(change), _) => {
                    let (done, words) = self.change(log_id, inner, change)?;
                    detail = words;
                    done
                }
                (None, Some(rollback)) => {
                    let (done, is_effective) = self.roll_back(log_id, inner, rollback)?;
                    is_rolled_back = is_effective;
                    done
                }
                (None, None) => self.history.apply_by(log_id, &content, &component)?,
            },
            _ => match watched {
                Some(watched) => {
                    let commands = content.entry().map_or(0, |entry| entry.commands.len());
                    self.history.apply_by(log_id, &content, &*watched(&component, commands))?
                }
                None => self.history.apply_by(log_id, &content, &component)?,
            },
        };
        self.note(log_id.index, &done);
        Ok(Step { content, done, detail, is_rolled_back })
    }

    /// Remembers what a rollback needs to know.
    fn note(&mut self, index: u64, done: &Done) {
        let time_ms = self.system().time_ms;
        let is_over = self.system().profile.as_ref().is_none_or(|profile| !profile.is_on_probation(time_ms));
        if is_over {
            self.before = None;
        }
        let run = number_run(&done.verdicts);
        if let Some(before) = self.before.as_mut().filter(|_| run < done.verdicts.len()) {
            before.cut.insert(index, run);
        }
    }

    fn change(
        &mut self,
        log_id: LogId,
        entry: &codec::entry::Entry,
        change: &Change,
    ) -> Result<(Done, String), ReplayError> {
        let (mut after, mut before) = (None, None);
        if change::needs_component(self.system(), change) {
            let cluster_id = self.system().in_force().map(|(_, profile)| profile.cluster_id.clone());
            let profile = profile_of(change, &cluster_id.unwrap_or_default());
            let why = |why| ReplayError::Component { index: log_id.index, why };
            after = Some(self.supply.component(&profile).map_err(why)?);
            if change.probation_ms > 0 {
                let checkpoint = self.place.keep(self.history.generation())?;
                before = Some(BeforeChange { index: log_id.index, checkpoint, cut: BTreeMap::new() });
            }
        }
        let changing = self.history.change(log_id, entry, after, &|| false)?;
        let changing = changing.expect("the entry has a change");
        if changing.is_made {
            self.before = before;
        }
        Ok((changing.done, changing.detail))
    }

    /// Takes a change back, if it is not too late. Returns whether that replaced the state.
    fn roll_back(
        &mut self,
        log_id: LogId,
        entry: &codec::entry::Entry,
        rollback: &Rollback,
    ) -> Result<(Done, bool), ReplayError> {
        let index = log_id.index;
        let Some(changed) = rollback::takes_back(self.system(), entry, rollback) else {
            let (effects, _) = rollback::outdated(self.system(), log_id, entry);
            return Ok((self.history.commit(effects)?, false));
        };
        let Some(before) = self.before.take().filter(|before| before.index == changed.index) else {
            return Err(ReplayError::RolledBack { index, change: changed.index });
        };
        let why = |why| ReplayError::Component { index, why };
        let old = self.supply.component(&changed.before.1).map_err(why)?;
        let base = Base::Checkpoint(before.checkpoint.clone());
        let mut shadow = self.place.history(&base, old)?.without_limits_of_entries();
        let mut next = base.next();
        while next < index {
            let entries = self.source.read(next)?;
            if entries.is_empty() {
                return Err(ReplayError::Lacks(format!("entry {next} is missing, which the rollback needs")));
            }
            for entry in entries.iter().filter(|entry| entry.log_id.index < index) {
                let mut content = Content::of(entry);
                if let Some(run) = before.cut.get(&entry.log_id.index) {
                    content = content.cut_to(*run);
                }
                shadow.apply(entry.log_id, &content)?;
                next = entry.log_id.index + 1;
            }
        }
        let (effects, _) = rollback::effects(shadow.system(), &changed, log_id, entry);
        let done = shadow.commit(effects)?;
        self.history = shadow.under_all_limits();
        Ok((done, true))
    }
}

/// Finds the genesis entry, which names the first component.
fn first_genesis(source: &dyn EntrySource) -> Result<codec::Genesis, ReplayError> {
    let mut next = source.range().map_or(0, |range| *range.start());
    loop {
        let entries = source.read(next)?;
        let Some(last) = entries.last() else {
            let words = "the log has no genesis entry, which names the first component; begin at a backup";
            return Err(ReplayError::Lacks(words.to_owned()));
        };
        next = last.log_id.index + 1;
        let found = entries.iter().find_map(|entry| Content::of(entry).entry().and_then(|entry| entry.genesis.clone()));
        if let Some(genesis) = found {
            return Ok(genesis);
        }
    }
}
