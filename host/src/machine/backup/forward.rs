//! Brings the state of a backup forward while that is read: the log entries behind it are run again
//! (`machine/replay`), until an index or a log time. It opens no file, and the caller brings
//! entries and components.
//!
//! - What the entries say of the state's hash at earlier entries is compared. A difference means
//!   that the entries are not those behind this state, or that this build runs them otherwise.
//! - Changes are made as their entries say, with the components that they name, and rollbacks take
//!   them back. Only a rollback of a change before the backup is not passed: its state comes from
//!   before that.
//! - The state stays the one that the backup was read into. A rollback replaces it by one that
//!   shares the table files of the history that it made.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use super::found::Unfounded;
use crate::machine::digest::digest;
use crate::machine::replay::history::{Content, History};
use crate::machine::replay::{
    EntrySource, HashDifference, Place, Replay, ReplayError, Supply, SupplyError, Verified, run_compared,
};
use crate::machine::snapshot::transfers::Transfer;
use crate::machine::system::System;
use crate::machine::tried::ChangeVerdict;
use crate::store::{State, StoreError};
use crate::types::{Entry, date, hex};

/// How far a state is brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Until {
    /// To the last entry there is.
    #[default]
    End,
    /// To the entry with this index.
    Index(u64),
    /// To the last entry whose log time, in milliseconds since 1970, is not later than this.
    TimeMs(u64),
}

/// How a state is brought forward.
pub struct Forward<'a> {
    /// How far.
    pub until: Until,
    /// The entries behind the state.
    pub entries: &'a dyn EntrySource,
    /// The components that they may change to. That of the backup is there in any case.
    pub components: Supply,
    /// Where states are kept meanwhile: those before changes that may be taken back.
    pub place: &'a Place,
    /// The state that the backup was read into.
    pub state: &'a State,
    /// Is told now and then which entry was applied last, and which is the last one.
    pub tell: &'a (dyn Fn(u64, u64) + Sync),
}

/// What was applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Forwarded {
    /// The last entry in the state.
    pub index: u64,
    /// Its log time, in milliseconds since 1970.
    pub time_ms: u64,
    /// Entries that were applied.
    pub entries: u64,
    /// Commands that were run.
    pub commands: u64,
    /// Changes of the machine that were made.
    pub changes: u64,
    /// Changes that were taken back.
    pub rollbacks: u64,
    /// Hashes in the entries that were compared, all of them equal.
    pub hashes: u64,
}

/// Why a state is not brought forward. It is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The component of the backup, or its limits, cannot run here.
    #[error("the component {hash} cannot run here: {why}")]
    Component {
        /// The component.
        hash: String,
        /// Why not.
        why: SupplyError,
    },
    /// A change names a component that is not at hand.
    #[error(
        "entry {index} changes the machine to component {hash}, which is not at hand: give --components with a directory that holds \
         {hash}.wasm, such as components/ of a node's data directory, or with the file; or restore to --to_index {}",
        index - 1
    )]
    NoComponent {
        /// The entry of the change.
        index: u64,
        /// The component.
        hash: String,
    },
    /// An entry takes a change back that was made before the backup.
    #[error(
        "entry {index} takes the change of entry {change} back, and the backup was taken behind that change: begin with a backup from \
         before entry {change}, or with one that was taken at entry {index} or later; or restore to --to_index {} or earlier",
        index - 1
    )]
    RolledBack {
        /// The entry of the rollback.
        index: u64,
        /// The entry of the change.
        change: u64,
    },
    /// The state is another one than that of the cluster.
    #[error(
        "behind entry {} the state has the hash {} here, and {} by {}: these entries are not those behind this backup, or this build of \
         Lockstep does not run them as the cluster did",
        .0.index,
        .0.replayed,
        .0.recorded,
        .0.told_by
    )]
    OtherState(Box<HashDifference>),
    /// An entry cannot be run.
    #[error(transparent)]
    Replay(ReplayError),
    /// The state cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<ReplayError> for ForwardError {
    fn from(error: ReplayError) -> ForwardError {
        match error {
            ReplayError::Component { index, why: SupplyError::Missing { hash, .. } } => {
                ForwardError::NoComponent { index, hash }
            }
            ReplayError::RolledBack { index, change } => ForwardError::RolledBack { index, change },
            error => ForwardError::Replay(error),
        }
    }
}

impl Unfounded {
    /// Returns the last entry in the state.
    pub fn index(&self) -> u64 {
        self.system.applied_index()
    }

    /// Returns log time at that entry, in milliseconds since 1970.
    pub fn time_ms(&self) -> u64 {
        self.system.time_ms
    }

    /// Applies the entries behind the state. Blocks, on a thread with the stack size for guests.
    /// After an error the state is of no use any more.
    pub fn forward(&mut self, forward: Forward<'_>) -> Result<Forwarded, ForwardError> {
        let Forward { until, entries, mut components, place, state, tell } = forward;
        components.add(Bytes::copy_from_slice(&self.component));
        let hash = || hex(&self.profile().component_hash);
        let component = components.component(self.profile());
        let component = component.map_err(|why| ForwardError::Component { hash: hash(), why })?;
        let history = History::over(Arc::clone(&self.generation), self.system.clone(), component);
        let mut replay = Replay::over(place, entries, components, history);
        let mut done = run(&mut replay, entries, until, tell)?;
        (self.component, self.version) =
            (replay.component().encoded().to_vec(), replay.component().version().to_owned());
        let (generation, system) = replay.into_history().into_state();
        match done.rollbacks {
            0 => generation.flush()?,
            // The history of a rollback never comes into force itself.
            _ => self.generation = Arc::new(state.generation_of(&*place.keep(&generation)?)?),
        }
        (done.index, done.time_ms) = (system.applied_index(), system.time_ms);
        self.rows = digest(&*self.generation, &Transfer::default())?.rows;
        (self.stored, self.system) = (system.clone(), system);
        Ok(done)
    }
}

/// Runs the entries, and compares hashes.
fn run(
    replay: &mut Replay<'_>,
    entries: &dyn EntrySource,
    until: Until,
    tell: &dyn Fn(u64, u64),
) -> Result<Forwarded, ForwardError> {
    let last = match until {
        Until::Index(last) => last,
        Until::End | Until::TimeMs(_) => entries.range().map_or(0, |range| *range.end()),
    };
    let (mut done, mut comparison) = (Forwarded::default(), replay.comparison(&[]));
    replay.walk(last, &mut |index| tell(index, last), |course, _, entry| {
        if until.is_before(entry, course.system()) {
            return Ok(ControlFlow::Break(()));
        }
        if run_compared(course, &mut comparison, entry)?.is_some() {
            done.note(course.system());
        }
        Ok(if comparison.differs() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    let Verified { entries, commands, hashes, difference, .. } = comparison.verified;
    match difference {
        Some(difference) => Err(ForwardError::OtherState(Box::new(difference))),
        None => Ok(Forwarded { entries, commands, hashes, ..done }),
    }
}

impl Forwarded {
    /// Counts what became of a change, if the last entry has one.
    fn note(&mut self, system: &System) {
        let tried = system.change.as_ref().filter(|tried| tried.index == system.applied_index());
        match tried.map(|tried| tried.verdict) {
            Some(ChangeVerdict::Changed) => self.changes += 1,
            Some(ChangeVerdict::RolledBack) => self.rollbacks += 1,
            _ => {}
        }
    }
}

impl Until {
    /// Returns whether the state is to end before an entry, by its time.
    fn is_before(self, entry: &Entry, before: &System) -> bool {
        let Until::TimeMs(last) = self else { return false };
        // An entry without a time of its own has that of the one before.
        Content::of(entry).entry().is_some_and(|entry| before.time_ms.max(entry.time_ms) > last)
    }
}

impl std::fmt::Display for Forwarded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Forwarded { index, time_ms, entries, commands, changes, rollbacks, hashes } = self;
        write!(
            f,
            "applied {entries} entries with {commands} commands, {changes} changes of the machine and {rollbacks} rollbacks behind the \
             backup, to index {index}, log time {}; {hashes} hashes in them are as here",
            date(*time_ms)
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use openraft::EntryPayload;

    use super::*;
    use crate::codec::{encode_entry, entry};
    use crate::types::{CommittedLeaderId, LogId};

    fn blank() -> Entry {
        let log_id = LogId::new(CommittedLeaderId { term: 1, node_id: 1 }, 5);
        Entry { log_id, payload: EntryPayload::Blank }
    }

    fn at(time_ms: u64) -> Entry {
        let data = encode_entry(&entry::Entry { time_ms, ..entry::Entry::default() });
        Entry { payload: EntryPayload::Normal(data), ..blank() }
    }

    #[test]
    fn the_end_is_the_last_entry_that_is_not_later() {
        let before = System { time_ms: 100, ..System::default() };
        let passes = |until: Until, entry: &Entry| !until.is_before(entry, &before);
        assert!(passes(Until::End, &at(u64::MAX)) && passes(Until::Index(4), &at(0)));
        assert!(passes(Until::TimeMs(150), &at(150)) && !passes(Until::TimeMs(150), &at(151)));
        // Log time never goes back, and an entry without a time has the one before.
        assert!(passes(Until::TimeMs(100), &at(5)) && !passes(Until::TimeMs(99), &at(5)));
        assert!(passes(Until::TimeMs(99), &blank()));
    }

    #[test]
    fn errors_name_the_entry_and_what_to_do() {
        let (hash, known) = ("ab".repeat(32), "none is".to_owned());
        let why = SupplyError::Missing { hash: hash.clone(), known };
        let missing = ForwardError::from(ReplayError::Component { index: 9, why }).to_string();
        assert!(
            missing.contains(&hash) && missing.contains("--components") && missing.contains("--to_index 8"),
            "{missing}"
        );
        let taken_back = ForwardError::from(ReplayError::RolledBack { index: 9, change: 7 }).to_string();
        assert!(taken_back.contains("before entry 7") && taken_back.contains("--to_index 8"), "{taken_back}");
        let told_by = "the leader's record in entry 9".to_owned();
        let (replayed, recorded) = ("01".to_owned(), "02".to_owned());
        let difference = HashDifference { after_index: 7, index: 8, replayed, recorded, told_by };
        let other = ForwardError::OtherState(Box::new(difference)).to_string();
        assert!(other.contains("behind entry 8") && other.contains("in entry 9"), "{other}");
    }
}
