//! The checkpoints that must stay on disk: the one before a change on probation, and those of
//! marked entries. This module makes none; the apply thread does. A checkpoint stays while it is
//! held here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Machine;
use super::profile::Profile;
use crate::store::{Checkpoint, Checkpoints};

/// Most marked checkpoints that are held. Each keeps files that the state no longer has.
const MARKS_MAX: usize = 2;
/// Time after which a marked checkpoint is let go. Whoever rehearses on it holds it, too.
const MARK_KEPT: Duration = Duration::from_secs(600);

/// The checkpoint of a marked entry and how long apply was held for it, or why there is none.
pub(crate) type Marked = Result<(Arc<Checkpoint>, Duration), String>;

/// The checkpoints that are held.
#[derive(Default)]
pub(crate) struct Keeping {
    probation: Mutex<Option<Arc<Checkpoint>>>,
    /// Oldest first.
    marks: Mutex<VecDeque<Mark>>,
}

struct Mark {
    name: [u8; 16],
    made: Marked,
    at: Instant,
}

impl Keeping {
    /// Holds the checkpoint before a change that can be taken back, if it is on disk and the change
    /// is still on probation. Lets go of any other one.
    pub(crate) fn hold(&self, profile: Option<&Profile>, time_ms: u64, checkpoints: &Checkpoints) {
        let wanted = profile.filter(|profile| profile.is_on_probation(time_ms));
        *self.probation.lock() = wanted.and_then(|profile| find(profile, checkpoints));
    }

    /// Lets go of the checkpoint before the change of this profile once its probation has ended.
    /// Any other one stays: apply may have held it just now.
    fn release(&self, profile: &Profile, time_ms: u64) {
        let mut held = self.probation.lock();
        if held.as_ref().is_some_and(|held| is_before(profile, held)) && !profile.is_on_probation(time_ms) {
            *held = None;
        }
    }

    /// Returns whether a checkpoint before a change on probation is held.
    pub(crate) fn holds_one(&self) -> bool {
        self.probation.lock().is_some()
    }

    /// Returns the checkpoint before the change of this profile, if this node has it.
    pub(crate) fn before_change(&self, profile: &Profile, checkpoints: &Checkpoints) -> Option<Arc<Checkpoint>> {
        let held = self.probation.lock().clone().filter(|held| is_before(profile, held));
        held.or_else(|| find(profile, checkpoints))
    }

    /// Returns the index of the checkpoint before a change on probation. The log after it must
    /// stay.
    pub(crate) fn log_needed_after(&self) -> Option<u64> {
        self.probation.lock().as_ref().map(|checkpoint| checkpoint.index)
    }

    /// Remembers the checkpoint of a marked entry. The oldest one makes room.
    pub(crate) fn mark(&self, name: [u8; 16], made: Marked) {
        let mut marks = self.marks.lock();
        marks.retain(|mark| mark.name != name);
        marks.push_back(Mark { name, made, at: Instant::now() });
        if marks.len() > MARKS_MAX {
            marks.pop_front();
        }
    }

    /// Returns the checkpoint of the entry that was marked so.
    pub(crate) fn marked(&self, name: &[u8; 16]) -> Option<Marked> {
        self.marks.lock().iter().find(|mark| mark.name == *name).map(|mark| mark.made.clone())
    }

    /// Lets go of all marked checkpoints: they belong to a history that was taken back.
    pub(crate) fn forget_marks(&self) {
        self.marks.lock().clear();
    }

    /// Lets go of old marked checkpoints.
    pub(crate) fn forget_old_marks(&self) {
        self.marks.lock().retain(|mark| mark.at.elapsed() < MARK_KEPT);
    }
}

/// Returns whether a checkpoint is the one before the change of a profile.
fn is_before(profile: &Profile, checkpoint: &Checkpoint) -> bool {
    (checkpoint.index, checkpoint.term) == (profile.checkpoint.index, profile.checkpoint.term)
}

fn find(profile: &Profile, checkpoints: &Checkpoints) -> Option<Arc<Checkpoint>> {
    checkpoints.list().into_iter().find(|checkpoint| is_before(profile, checkpoint))
}

impl Machine {
    /// Returns the checkpoint that was made at the entry with this mark and how long apply was held
    /// for it, or why there is none.
    pub(crate) fn marked(&self, mark: &[u8; 16]) -> Marked {
        let marked = self.shared.keeping.marked(mark);
        marked.unwrap_or_else(|| Err("no entry with that mark was applied here in the last minutes".to_owned()))
    }

    /// Returns the index after which the log must stay, because a change may be taken back.
    pub fn log_needed_after(&self) -> Option<u64> {
        self.shared.keeping.log_needed_after()
    }

    /// Lets go of checkpoints that were held for a change or a rehearsal and are not needed any
    /// more. To be called from time to time.
    pub fn let_go_of_checkpoints(&self) {
        let (profile, time_ms) = (self.shared.changed_profile(), self.shared.position.borrow().time_ms);
        if let Some(profile) = profile {
            self.shared.keeping.release(&profile, time_ms);
        }
        self.shared.keeping.forget_old_marks();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Genesis;
    use crate::machine::log_position::LogPosition;

    /// A change behind entry `index`, on probation until log time 100.
    fn changed_behind(index: u64) -> Profile {
        Profile {
            index: index + 1,
            genesis: Genesis::default(),
            before: (1, Genesis::default()),
            probation_until_ms: 100,
            checkpoint: LogPosition { term: 2, leader: 1, index },
        }
    }

    #[test]
    fn only_the_change_whose_probation_ended_lets_go_of_its_checkpoint() {
        let keeping = Keeping::default();
        *keeping.probation.lock() = Some(Arc::new(Checkpoint { index: 7, term: 2, path: "7-2".into() }));
        keeping.release(&changed_behind(4), 100);
        keeping.release(&changed_behind(7), 99);
        assert_eq!(keeping.log_needed_after(), Some(7));
        keeping.release(&changed_behind(7), 100);
        assert!(!keeping.holds_one());
    }

    #[test]
    fn the_newest_marks_are_remembered() {
        let keeping = Keeping::default();
        let failed = |text: &str| -> Marked { Err(text.to_owned()) };
        for (name, text) in [([1; 16], "one"), ([2; 16], "two"), ([2; 16], "again"), ([3; 16], "three")] {
            keeping.mark(name, failed(text));
        }
        let found = [[1; 16], [2; 16], [3; 16]].map(|name| keeping.marked(&name).and_then(Result::err));
        assert_eq!(found, [None, Some("again".to_owned()), Some("three".to_owned())]);
    }
}
