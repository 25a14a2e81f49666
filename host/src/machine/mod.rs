//! Committed entries become effects: apply, queries, watches, snapshots, the state hash. Knows no network and proposes nothing.
//!
//! ```text
//! openraft ──► state_machine ──► apply (one thread) ──► entry: guest over an overlay ──► one batch ──► store/state
//!                  │                                        hash, system              │
//!                  └─ snapshots: send, receive                                        └──► progress, changes, waiters
//! api ──► query (a few threads) ──► guest over a view
//! ```
//!
//! [`open`] gives two ends: [`StateMachine`] for openraft, [`Machine`] for everyone else. A [`Replica`] is the same without Raft and
//! threads, for tools that try a guest out.

mod again;
mod apply;
pub mod backup;
mod changes;
mod digest;
mod dirty;
mod entry;
mod fitness;
mod gaps;
mod hash;
mod outcome;
mod overlay;
mod pace;
mod progress;
mod query;
mod replica;
mod shared;
mod snapshot_frames;
mod snapshot_receive;
mod snapshot_send;
mod snapshots;
mod state_machine;
mod status;
mod system;
mod transfers;
mod waiters;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::codec::Genesis;
use crate::guest::{Component, HostFault};
use crate::store::{Checkpoints, Log, Space, State, StoreError};
use crate::types::{Fatal, LogId, NodeId, NodeMode, StoredMembership};

pub use again::Again;
pub use changes::{Change, Changed, ReadSet};
pub use entry::{Instance, Instances};
pub use fitness::{SEMANTICS, genesis_of, limits_of};
pub use hash::Doubt;
pub use outcome::{Outcome, decode_verdict, encode_verdict, is_not_run, not_run};
pub use pace::Pace;
pub use query::{Answer, QueryCall, QueryError, WatchCall, Watched};
pub use replica::{Applied, Replica, ReplicaError, Reuse, Standing};
pub use snapshots::{PreparedState, Receiving, Sending, SnapshotData, SnapshotError, Snapshots};
pub use state_machine::StateMachine;
pub use status::MachineStatus;
pub use transfers::{Attempt, Direction, Running, Transfer, TransferStatus, Transfers};
pub use waiters::{Fate, Waiter, Waiters};

use apply::{ApplyHandle, Gate};
use shared::Shared;

/// What a machine is made of.
#[derive(Clone)]
pub struct Options {
    /// The guest's and the host's state.
    pub state: State,
    /// Snapshots on disk.
    pub checkpoints: Checkpoints,
    /// The log: an entry is committed to the state only once it is durable there.
    pub log: Log,
    /// The room on the disk.
    pub space: Space,
    /// This node, as origins name it.
    pub node: NodeId,
    /// The number of this run, as origins name it.
    pub boot: u64,
    /// Where what this node cannot survive is reported.
    pub fatal: Fatal,
    /// How fast snapshots leave this node.
    pub snapshot_pace: Pace,
    /// Threads that serve queries and steps of watches.
    pub query_threads: usize,
    /// Queries that may wait for a thread; more are refused.
    pub query_queue_max: usize,
    /// Whether a state that is behind the newest snapshot is made from it.
    pub restores_snapshot: bool,
}

/// A machine that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state holds entries that the log never had: the log is another node's, or was cut.
    #[error(
        "the state has applied entry {applied}, but the log ends at {}; the log of this data directory was lost or replaced. \
         Remove this node from the cluster and add it again with an empty data directory",
        last.map_or("its beginning".to_owned(), |last| last.to_string())
    )]
    StateAhead {
        /// The last index the state holds.
        applied: u64,
        /// The last index of the log; `None` when it is empty.
        last: Option<u64>,
    },
    /// Neither log nor state has what readers have seen: an older copy of the log took the place of the newer one.
    #[error(
        "readers of this node have seen entry {seen}, but the log ends at {} and the state at {}; what this node had acknowledged is \
         missing here. Remove this node from the cluster and add it again with an empty data directory",
        last.map_or("its beginning".to_owned(), |last| last.to_string()),
        applied.map_or("its beginning".to_owned(), |applied| applied.to_string())
    )]
    SeenIsLost {
        /// The last index that readers have seen.
        seen: u64,
        /// The last index the state holds.
        applied: Option<u64>,
        /// The last index of the log.
        last: Option<u64>,
    },
    /// The log no longer holds what the state needs next, and no snapshot fills the gap.
    #[error(
        "the state has applied {}, but the log begins at entry {first} and no snapshot on disk reaches it; the state of this data \
         directory was lost or replaced. Remove this node from the cluster and add it again with an empty data directory",
        applied.map_or("nothing".to_owned(), |applied| format!("up to entry {applied}"))
    )]
    StateBehind {
        /// The last index the state holds; `None` when it is empty.
        applied: Option<u64>,
        /// The first index that the log has, or will have.
        first: u64,
    },
    /// Only a snapshot fills the gap between state and log, and the operator wants none to be restored.
    #[error(
        "the state has applied {}, the log begins at entry {first}, and what is between them is only in the snapshot at entry {snapshot}, \
         which --no_snapshot_restore_on_start keeps from being restored. If the state of this data directory may be made again from the \
         snapshot, start this node once without that flag",
        applied.map_or("nothing".to_owned(), |applied| format!("up to entry {applied}"))
    )]
    RestoreUnwanted {
        /// The last index the state holds; `None` when it is empty.
        applied: Option<u64>,
        /// The first index that the log has, or will have.
        first: u64,
        /// The index of the newest snapshot.
        snapshot: u64,
    },
    /// A thread could not be started.
    #[error("start the {name} thread: {source}")]
    Thread {
        /// Which one.
        name: &'static str,
        /// The system's words.
        source: std::io::Error,
    },
}

/// A fault that ends apply on this node. The cluster goes on without it.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sandbox.
    #[error(transparent)]
    Host(#[from] HostFault),
    /// The machine was closed, or an earlier entry failed.
    #[error("the state machine has stopped")]
    Stopped,
}

impl From<ApplyError> for std::io::Error {
    fn from(error: ApplyError) -> Self {
        std::io::Error::other(error)
    }
}

/// How far the state has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The last applied entry.
    pub log_id: Option<LogId>,
    /// Log time there, milliseconds since 1970.
    pub time_ms: u64,
}

/// Where a stopped node's state stands: the last applied entry, and the last applied configuration.
pub fn stands_at(state: &State) -> Result<(Option<LogId>, StoredMembership), StoreError> {
    let system = system::System::read(&*state.current())?;
    Ok((system.applied, (*system.membership).clone()))
}

/// Opens the machine over what the store holds, and starts its threads.
pub fn open(options: Options) -> Result<(Machine, StateMachine), MachineError> {
    let gate = Arc::new(options.log.clone());
    if !options.restores_snapshot {
        leave_out_snapshots(&options)?;
    }
    leave_out_rotten(&options)?;
    check_log_joins_state(&options)?;
    open_behind(gate, options)
}

/// As [`open`], with `gate` in place of the log.
fn open_behind(gate: Arc<dyn Gate>, options: Options) -> Result<(Machine, StateMachine), MachineError> {
    let system = system::System::read(&*options.state.current())?;
    let shared = Arc::new(Shared::new(&options, &system));
    let queries = query::Pool::start(options.query_threads, options.query_queue_max)?;
    let apply = ApplyHandle::start(shared.clone(), gate.clone(), system)?;
    let snapshots = Snapshots::new(shared.clone(), options.snapshot_pace.clone());
    let machine = Machine { shared, queries, apply: apply.clone(), snapshots: snapshots.clone() };
    Ok((machine, StateMachine::new(apply, gate, snapshots)))
}

/// Without checkpoints that are ahead of the state, openraft brings the state up from the log alone. Where the log does not reach back that
/// far, nothing is left out and the node does not start. (A crash while a snapshot of the leader was put in force leaves such a
/// checkpoint, too; the log is whole then, and the leader sends what is missing.)
fn leave_out_snapshots(options: &Options) -> Result<(), MachineError> {
    let applied = system::System::read(&*options.state.current())?.applied.map(|log_id| log_id.index);
    let first = first_index(&options.log);
    while let Some(newest) = options.checkpoints.newest().filter(|newest| Some(newest.index) > applied) {
        let snapshot = newest.index;
        if applied.map_or(0, |index| index + 1) < first || !options.checkpoints.set_aside(&newest) {
            return Err(MachineError::RestoreUnwanted { applied, first, snapshot });
        }
        tracing::warn!(
            applied,
            snapshot,
            "a snapshot ahead of the state is left out, as --no_snapshot_restore_on_start asks: the log brings the state up"
        );
    }
    Ok(())
}

/// The first index that the log has, or will have: an empty log that was purged begins after what was purged.
fn first_index(log: &Log) -> u64 {
    let stats = log.stats();
    stats.first_index.unwrap_or(stats.last_index.map_or(0, |last| last + 1))
}

/// A checkpoint that is ahead of the state is about to be read: openraft makes the state of it. Read to its end before, a rotten one is
/// left out, and the one before it, or the log, takes its place.
fn leave_out_rotten(options: &Options) -> Result<(), MachineError> {
    let applied = system::System::read(&*options.state.current())?.applied.map(|log_id| log_id.index);
    while let Some(newest) = options.checkpoints.newest().filter(|newest| Some(newest.index) > applied) {
        let read = newest.open().and_then(|generation| digest::digest(&*generation, &Transfer::default()));
        match read {
            Ok(_) => return Ok(()),
            Err(error) if error.is_damage() && options.checkpoints.set_aside(&newest) => {
                tracing::error!(%error, index = newest.index, "a snapshot on disk is damaged and left out; what comes before it is used");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// State, log and snapshots must join without a gap. A state ahead of the log is sound in one case: a snapshot was installed, its
/// checkpoint is there, and the crash came before the log was purged up to it. openraft then cleans the log. A state behind the log
/// is sound when a checkpoint fills the gap: openraft installs it. What readers of this node have seen must be in one of them.
fn check_log_joins_state(options: &Options) -> Result<(), MachineError> {
    let applied = system::System::read(&*options.state.current())?.applied.map(|log_id| log_id.index);
    let last = options.log.stats().last_index;
    let checkpoints = options.checkpoints.list();
    let installed = || {
        options.state.installed_from() == applied
            && checkpoints.iter().any(|checkpoint| Some(checkpoint.index) == applied)
    };
    if let Some(applied) = applied
        && Some(applied) > last
        && !installed()
    {
        return Err(MachineError::StateAhead { applied, last });
    }
    if let Some(seen) = options.log.seen_beyond().map(|log_id| log_id.index)
        && applied < Some(seen)
    {
        return Err(MachineError::SeenIsLost { seen, applied, last });
    }
    let reached = applied.max(options.checkpoints.newest().map(|newest| newest.index)).map_or(0, |index| index + 1);
    let first = first_index(&options.log);
    if reached < first { Err(MachineError::StateBehind { applied, first }) } else { Ok(()) }
}

/// The machine as `raft/`, `api/` and `node` use it. Cheap to clone.
#[derive(Clone)]
pub struct Machine {
    shared: Arc<Shared>,
    queries: query::Pool,
    apply: ApplyHandle,
    snapshots: Snapshots,
}

impl Machine {
    /// The component to run, from now on. Apply waits for one as soon as an entry needs it.
    pub fn set_component(&self, component: Component) {
        self.shared.set_component(component);
    }

    /// The component in use.
    pub fn component(&self) -> Option<Component> {
        self.shared.component()
    }

    /// The cluster's genesis entry, once it is applied here.
    pub fn genesis(&self) -> Option<Genesis> {
        self.shared.genesis()
    }

    /// Whether a genesis entry is applied here.
    pub fn genesis_applied(&self) -> watch::Receiver<bool> {
        self.shared.genesis_applied.subscribe()
    }

    /// What this node may do now.
    pub fn mode(&self) -> NodeMode {
        self.shared.mode.borrow().clone()
    }

    /// Follows [`Machine::mode`].
    pub fn watch_mode(&self) -> watch::Receiver<NodeMode> {
        self.shared.mode.subscribe()
    }

    /// Changes what this node may do. While the machine itself finds the node unfit, that stands, and this is what it returns to.
    pub fn set_mode(&self, mode: NodeMode) {
        self.shared.set_mode(mode);
    }

    /// `Err` says which hashes differ and what mends it. `Ok` while there is nothing to compare.
    pub fn check_fitness(&self) -> Result<(), String> {
        self.shared.check_fitness()
    }

    /// How far the state has come.
    pub fn applied(&self) -> watch::Receiver<Position> {
        self.shared.position.subscribe()
    }

    /// Commands that the cluster has run, as of what is applied here.
    pub fn commands_applied(&self) -> u64 {
        self.shared.counts.commands.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Index of the last applied entry, 0 before the first.
    pub fn applied_index(&self) -> u64 {
        self.shared.progress.applied()
    }

    /// Completes when `index` is applied and visible to queries.
    pub async fn wait_applied(&self, index: u64) {
        self.shared.progress.wait(index).await;
    }

    /// How long apply has been at one entry, waiting for its place on the disk included; zero while it is at none.
    pub fn applying_for(&self) -> Duration {
        self.shared.applying.lock().map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// The newest index and the rolling hash there, for the entries this node proposes.
    pub fn hash_tip(&self) -> (u64, u64) {
        self.shared.hash_tip()
    }

    /// The rolling hash at `index`, while it is known: for the last 8192 entries of this run.
    pub fn hash_at(&self, index: u64) -> Option<u64> {
        self.shared.recent.lock().at(index)
    }

    /// Another node's hash at `index`. A difference raises a doubt.
    pub fn compare_hash(&self, index: u64, theirs: u64) {
        self.shared.compare_hash(index, theirs);
    }

    /// The newest index at which the hash of another node was not ours.
    pub fn doubts(&self) -> watch::Receiver<Option<Doubt>> {
        self.shared.doubt.subscribe()
    }

    /// Who waits for outcomes.
    pub fn waiters(&self) -> &Waiters {
        &self.shared.waiters
    }

    /// Answers from the newest applied state. A refusal or failure of the guest is an answer.
    pub async fn query(&self, call: QueryCall) -> Result<Answer, QueryError> {
        query::query(&self.shared, &self.queries, call).await
    }

    /// One step of a watch, with what it read.
    pub async fn watch_step(&self, call: WatchCall) -> Result<Watched, QueryError> {
        query::watch_step(&self.shared, &self.queries, call).await
    }

    /// Completes when a commit after `since` touches `reads`, or a snapshot replaced the state.
    pub fn changed(&self, since: u64, reads: ReadSet) -> Changed {
        self.shared.changes.register(since, reads)
    }

    /// Numbers for people and metrics.
    pub fn status(&self) -> MachineStatus {
        status::of(&self.shared)
    }

    /// The room on this node's disk.
    pub fn space(&self) -> &Space {
        &self.shared.space
    }

    /// Snapshots: made, sent, received.
    pub fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    /// Stops apply after what it is doing, and flushes the state so that the next start replays little.
    pub async fn close(&self) -> Result<(), ApplyError> {
        self.apply.close().await
    }
}

#[cfg(test)]
mod tests;
