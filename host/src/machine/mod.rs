//! Runs committed entries: apply, queries, watches, snapshots, the state hash. This module knows no
//! network and proposes no entries.
//!
//! ```text
//! openraft ─► state_machine ─► apply (one thread) ─► entry: guest, overlay ─► batch ─► store/state
//!                  │                                 hash, system           │
//!                  └─ snapshots: send, receive                              └─► progress, changes,
//! calls ─► query (a few threads) ─► guest over a view                           waiters
//! ```
//!
//! [`open`] returns two values: [`StateMachine`] for openraft, and [`Machine`] for all other
//! callers. A [`Replica`] is a state machine without Raft and threads, for tools that test a guest.

mod again;
mod answered;
mod apply;
pub mod backup;
mod change;
mod changes;
mod components;
mod digest;
mod dirty;
mod entry;
mod executor;
mod fitness;
mod flusher;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gaps;
mod hash;
mod keeping;
mod log_position;
mod metered;
mod operation;
mod outcome;
mod overlay;
mod pace;
mod profile;
mod progress;
mod query;
mod quota;
mod read_only;
pub mod rehearsal;
pub mod replay;
mod replica;
pub mod rollback;
mod rows;
mod semantics;
mod shared;
mod snapshot;
mod spent;
mod starting;
mod state_machine;
mod status;
mod system;
mod tidying;
mod tidying_pace;
mod tried;
mod waiters;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::codec::Genesis;
use crate::guest::HostFault;
use crate::limit::Limit;
use crate::store::{Checkpoints, Log, Space, State, StoreError};
use crate::types::{Fatal, LogId, NodeMode, StoredMembership};

pub use again::Again;
pub use changes::{Change, Changed, ReadSet};
pub use entry::{Instance, Instances};
pub use executor::Executor;
pub use fitness::{SEMANTICS, genesis_of, limits_json, limits_of};
pub use hash::Doubt;
pub use metered::Reuse;
pub use operation::{Operation, OperationChange, OperationKey, OperationRange};
pub use outcome::{Outcome, decode_verdict, encode_verdict, is_not_run, not_run};
pub use pace::Pace;
pub use profile::{Probation, change_to, profile_of};
pub use query::Pool as QueryPool;
pub use query::{Answer, QueryCall, QueryError, WatchCall, Watched};
#[cfg(test)]
pub(crate) use quota::Bucket;
pub use quota::{Admitted, QuotaStatus, STATE_QUOTA, WATCHES_QUOTA};
pub use read_only::{ReadOnly, read_only_refusal};
pub use rehearsal::{Rehearsal, RehearsalReport};
pub use replica::{AppliedEntry, Replica, ReplicaDigest, ReplicaError};
pub use rollback::{RollbackReport, RollbackTrial};
pub use rows::{RowsRefusal, RowsReport};
pub use semantics::{SemanticsRange, raised_limits};
pub use snapshot::error::SnapshotError;
pub use snapshot::transfers::{Direction, Running, SendAttempt, Transfer, TransferStatus, Transfers};
pub use snapshot::{PreparedState, Receiving, Sending, SnapshotData, Snapshots};
pub use spent::{EntrySpent, Spent};
pub use state_machine::StateMachine;
pub use status::MachineStatus;
pub use tried::{ChangeReport, ChangeVerdict, RanAgain};
pub use waiters::{Fate, Waiter, Waiters};

use apply::{ApplyHandle, LogGate};
use shared::Shared;

/// What a machine is built from.
#[derive(Clone)]
pub struct Options {
    /// The state of the guest and of the host.
    pub state: State,
    /// Snapshots on disk.
    pub checkpoints: Checkpoints,
    /// The log. An entry is committed to the state only after it is durable in this log.
    pub log: Log,
    /// Free space on the disk.
    pub space: Space,
    /// Receives faults that this node cannot survive.
    pub fatal: Fatal,
    /// How fast this node sends snapshots.
    pub snapshot_pace: Pace,
    /// The threads that serve queries and steps of watches. Machines may share them.
    pub queries: QueryPool,
    /// Where the apply thread and the one that flushes the state come from. Machines may share it.
    pub executor: Executor,
    /// Whether a state that is behind the newest snapshot is restored from it.
    pub restores_snapshot: bool,
}

/// Why a machine cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state holds entries that the log does not have: the log belongs to another node, or was
    /// cut.
    #[error(
        "the state has applied entry {applied}, but the log ends at {}; the log of this data directory was lost or replaced. \
         Remove this node from the cluster and add it again with an empty data directory",
        last.map_or("its beginning".to_owned(), |last| last.to_string())
    )]
    StateAhead {
        /// Index of the last applied entry.
        applied: u64,
        /// The last index of the log; `None` when it is empty.
        last: Option<u64>,
    },
    /// Readers have seen an entry that neither the log nor the state holds: an older copy of the
    /// log replaced the newer one.
    #[error(
        "readers of this node have seen entry {seen}, but the log ends at {} and the state at {}; what this node had acknowledged is \
         missing here. Remove this node from the cluster and add it again with an empty data directory",
        last.map_or("its beginning".to_owned(), |last| last.to_string()),
        applied.map_or("its beginning".to_owned(), |applied| applied.to_string())
    )]
    SeenIsLost {
        /// Index of the last entry that readers have seen.
        seen: u64,
        /// Index of the last applied entry.
        applied: Option<u64>,
        /// The last index of the log.
        last: Option<u64>,
    },
    /// The log no longer holds the next entry that the state needs, and no snapshot fills the gap.
    #[error(
        "the state has applied {}, but the log begins at entry {first} and no snapshot on disk reaches it; the state of this data \
         directory was lost or replaced. Remove this node from the cluster and add it again with an empty data directory",
        applied.map_or("nothing".to_owned(), |applied| format!("up to entry {applied}"))
    )]
    StateBehind {
        /// Index of the last applied entry; `None` when none is applied.
        applied: Option<u64>,
        /// The first index that the log has, or will have.
        first: u64,
    },
    /// Only a snapshot fills the gap between state and log, and the operator forbids restoring one.
    #[error(
        "the state has applied {}, the log begins at entry {first}, and what is between them is only in the snapshot at entry {snapshot}, \
         which --no_snapshot_restore_on_start keeps from being restored. If the state of this data directory may be made again from the \
         snapshot, start this node once without that flag",
        applied.map_or("nothing".to_owned(), |applied| format!("up to entry {applied}"))
    )]
    RestoreUnwanted {
        /// Index of the last applied entry; `None` when none is applied.
        applied: Option<u64>,
        /// The first index that the log has, or will have.
        first: u64,
        /// The index of the newest snapshot.
        snapshot: u64,
    },
    /// A thread could not be started.
    #[error("start the {name} thread: {source}")]
    Thread {
        /// The thread's name.
        name: &'static str,
        /// The error of the operating system.
        source: std::io::Error,
    },
}

/// A fault that ends apply on this node. The rest of the cluster goes on without it.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sandbox failed.
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

/// How far the state has been applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The last applied entry.
    pub log_id: Option<LogId>,
    /// Log time of that entry, in milliseconds since 1970.
    pub time_ms: u64,
}

/// Returns the last applied entry and the last applied membership of a stopped node's state.
pub fn stands_at(state: &State) -> Result<(Option<LogId>, StoredMembership), StoreError> {
    let system = system::System::read(&*state.current())?;
    Ok((system.applied, (*system.membership).clone()))
}

/// Opens the machine on the data in the store, and starts its threads.
pub fn open(options: Options) -> Result<(Machine, StateMachine), MachineError> {
    let gate = Arc::new(options.log.clone());
    if !options.restores_snapshot {
        leave_out_snapshots(&options)?;
    }
    leave_out_rotten(&options)?;
    check_log_joins_state(&options)?;
    open_behind(gate, options)
}

/// Does what [`open`] does after its checks, with `gate` in place of the log.
fn open_behind(gate: Arc<dyn LogGate>, options: Options) -> Result<(Machine, StateMachine), MachineError> {
    let system = system::System::read(&*options.state.current())?;
    // A crash may have come between a rollback and the end of what it left behind.
    rollback::abandon(&options.checkpoints, &system);
    let shared = Arc::new(Shared::new(&options, &system));
    let apply = ApplyHandle::start(shared.clone(), gate.clone(), system, &options.executor)?;
    let snapshots = Snapshots::new(shared.clone(), options.snapshot_pace.clone());
    let machine = Machine {
        shared,
        gate: gate.clone(),
        queries: options.queries,
        apply: apply.clone(),
        snapshots: snapshots.clone(),
    };
    Ok((machine, StateMachine::new(apply, gate, snapshots)))
}

/// Sets aside the checkpoints that are ahead of the state. The log then brings the state up to
/// date. Returns an error, and leaves the checkpoint in place, when the log does not reach back far
/// enough. A crash during the install of a leader's snapshot also leaves such a
/// checkpoint; the log is complete then, and the leader sends the missing entries.
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

/// Returns the first index that the log has, or will have. A log that is empty because it was
/// purged begins after the last purged entry.
fn first_index(log: &Log) -> u64 {
    let stats = log.stats();
    stats.first_index.unwrap_or(stats.last_index.map_or(0, |last| last + 1))
}

/// Sets aside damaged checkpoints that are ahead of the state. openraft would build the state from
/// such a checkpoint, so this function first reads it to its end. If it is damaged, the checkpoint
/// before it or the log takes its place.
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

/// Checks that state, log and snapshots join without a gap.
///
/// - A state ahead of the log is valid in one case: a snapshot was installed, its checkpoint
///   exists, and the crash came before the log was purged up to it. openraft then cleans the log.
/// - A state behind the log is valid when a checkpoint fills the gap; openraft installs that
///   checkpoint.
/// - Every entry that readers of this node have seen must be in the state or in the log.
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
    gate: Arc<dyn LogGate>,
    queries: query::Pool,
    apply: ApplyHandle,
    snapshots: Snapshots,
}

impl Machine {
    /// Returns the cluster's genesis entry, once it is applied on this node.
    pub fn genesis(&self) -> Option<Genesis> {
        self.shared.genesis()
    }

    /// Returns a receiver that tells whether a genesis entry is applied on this node.
    pub fn genesis_applied(&self) -> watch::Receiver<bool> {
        self.shared.genesis_applied.subscribe()
    }

    /// Returns the mode: what this node may do now.
    pub fn mode(&self) -> NodeMode {
        self.shared.mode.borrow().clone()
    }

    /// Returns a receiver that tells whether this node stands before a log entry that needs a newer
    /// build. It then applies nothing for the rest of this process's life.
    pub fn watch_outdated(&self) -> watch::Receiver<bool> {
        self.shared.outdated.subscribe()
    }

    /// Returns a receiver that follows [`Machine::mode`].
    pub fn watch_mode(&self) -> watch::Receiver<NodeMode> {
        self.shared.mode.subscribe()
    }

    /// Sets the mode. While the machine itself finds the node unfit, the node stays unfit, and
    /// `mode` takes effect when that ends.
    pub fn set_mode(&self, mode: NodeMode) {
        self.shared.set_mode(mode);
    }

    /// Checks that this node's component and limits are those of the cluster. Returns `Ok` while
    /// there is nothing to compare. An error says which hashes differ and how to repair that.
    pub fn check_fitness(&self) -> Result<(), String> {
        self.shared.check_fitness()
    }

    /// Returns a receiver that tells how far the state has been applied.
    pub fn applied(&self) -> watch::Receiver<Position> {
        self.shared.position.subscribe()
    }

    /// Returns how many commands the cluster has run, as of the last entry applied on this node.
    pub fn commands_applied(&self) -> u64 {
        self.shared.counts.commands.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Returns the index of the last applied entry; 0 before the first.
    pub fn applied_index(&self) -> u64 {
        self.shared.progress.applied()
    }

    /// Waits until `index` is applied and visible to queries.
    pub async fn wait_applied(&self, index: u64) {
        self.shared.progress.wait(index).await;
    }

    /// Returns a future that completes once nobody uses the machine's state any more. The machine
    /// was closed before.
    pub fn released(&self) -> impl Future<Output = ()> + Send + use<> {
        self.shared.state.released()
    }

    /// Returns how long apply has been busy with the current entry; zero when it is idle. The time
    /// includes waits, such as for the log to be durable or for free space on the disk.
    pub fn applying_for(&self) -> Duration {
        self.shared.applying.lock().map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Returns the newest index and the rolling hash there. Entries that this node proposes carry
    /// them.
    pub fn hash_tip(&self) -> (u64, u64) {
        self.shared.hash_tip()
    }

    /// Takes what a newly applied entry took. Empty when the entry is not among the newest.
    pub fn take_spent(&self, index: u64) -> EntrySpent {
        self.shared.spent.take(index)
    }

    /// Returns the rolling hash at `index`. It is known for the last 8192 entries of this run only.
    pub fn hash_at(&self, index: u64) -> Option<u64> {
        self.shared.recent.lock().at(index)
    }

    /// Compares another node's hash at `index` with ours. A difference raises a doubt.
    pub fn compare_hash(&self, index: u64, theirs: u64) {
        self.shared.compare_hash(index, theirs);
    }

    /// Returns a receiver of the newest index at which another node's hash differed from ours.
    pub fn doubts(&self) -> watch::Receiver<Option<Doubt>> {
        self.shared.doubt.subscribe()
    }

    /// Returns the callers that wait for outcomes.
    pub fn waiters(&self) -> &Waiters {
        &self.shared.waiters
    }

    /// Answers a query from the newest applied state. A refusal or failure of the guest is an
    /// answer too.
    pub async fn query(&self, call: QueryCall) -> Result<Answer, QueryError> {
        query::query(&self.shared, &self.queries, call).await
    }

    /// Returns how near the limits of queries and steps of watches are that wait.
    pub fn query_limits(&self) -> [Limit; 4] {
        self.queries.limits()
    }

    /// Runs one step of a watch, and returns what it read along with the result.
    pub async fn watch_step(&self, call: WatchCall) -> Result<Watched, QueryError> {
        query::watch_step(&self.shared, &self.queries, call).await
    }

    /// Completes when a commit after `since` touches `reads`. Also completes when a snapshot has
    /// replaced the state.
    pub fn changed(&self, since: u64, reads: ReadSet) -> Changed {
        self.shared.changes.register(since, reads)
    }

    /// Returns the numbers for operators and metrics.
    pub fn status(&self) -> MachineStatus {
        status::of(&self.shared)
    }

    /// Returns the free space on this node's disk.
    pub fn space(&self) -> &Space {
        &self.shared.space
    }

    /// Returns the handle to make, send and receive snapshots.
    pub fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    /// Stops apply after its current work, and flushes the state. The next start then replays
    /// little.
    pub async fn close(&self) -> Result<(), ApplyError> {
        self.apply.close().await
    }
}

#[cfg(test)]
mod tests;
