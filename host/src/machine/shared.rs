//! What the apply thread publishes and everyone else reads. Decides nothing; each field has one writer, named beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use super::changes::Changes;
use super::fitness;
use super::hash::{Doubt, Recent};
use super::progress::Progress;
use super::system::{HashRecord, System};
use super::transfers::Transfers;
use super::waiters::Waiters;
use super::{Options, Position};
use crate::codec::Genesis;
use crate::guest::{Component, Reason};
use crate::logs::Sparse;
use crate::store::{Checkpoints, Space, State};
use crate::types::{Fatal, NodeMode};

/// Counts since this process began, for status and metrics.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) entries: AtomicU64,
    /// A copy of the replicated counters: commands, and those that did not end with a reply.
    pub(crate) commands: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) flushes: AtomicU64,
    /// Writes and flushes of the state that found the disk full.
    pub(crate) disk_full: AtomicU64,
    pub(crate) undecodable: AtomicU64,
    /// Entries whose proposer had another hash than we at the same index.
    pub(crate) hash_mismatches: AtomicU64,
    /// Commands that did not end well, as this process applied them.
    pub(crate) failures: Failures,
    /// Queries and steps of watches that did not end well; refusals are not among them.
    pub(crate) queries_failed: AtomicU64,
    pub(crate) snapshots_made: AtomicU64,
    pub(crate) snapshots_failed: AtomicU64,
    pub(crate) snapshots_sent: AtomicU64,
    pub(crate) snapshots_installed: AtomicU64,
}

/// Failures by their reason.
#[derive(Debug, Default)]
pub(crate) struct Failures([AtomicU64; Reason::ALL.len()]);

impl Failures {
    pub(crate) fn add(&self, reason: Reason) {
        let place = Reason::ALL.iter().position(|one| *one == reason).expect("all reasons are there");
        self.0[place].fetch_add(1, Ordering::Relaxed);
    }

    /// Those that have occurred.
    pub(crate) fn seen(&self) -> Vec<(Reason, u64)> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        Reason::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect()
    }
}

/// See the file's head.
pub(crate) struct Shared {
    pub(crate) state: State,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) space: Space,
    pub(crate) transfers: Transfers,
    pub(crate) fatal: Fatal,
    pub(crate) waiters: Waiters,
    pub(crate) changes: Arc<Changes>,
    pub(crate) counts: Counts,
    /// Lines about failed queries.
    pub(crate) query_failures: Sparse,
    /// Lines about failed commands.
    pub(crate) command_failures: Sparse,
    /// Apply thread.
    pub(crate) progress: Progress,
    /// Apply thread.
    pub(crate) position: watch::Sender<Position>,
    /// Apply thread: since when it has been at one entry.
    pub(crate) applying: Mutex<Option<Instant>>,
    /// Apply thread.
    pub(crate) recent: Mutex<Recent>,
    /// The newest index at which another node's state hash is not ours.
    pub(crate) doubt: watch::Sender<Option<Doubt>>,
    /// Apply thread.
    pub(crate) genesis_applied: watch::Sender<bool>,
    /// `set_mode` and `set_unfit`.
    pub(crate) mode: watch::Sender<NodeMode>,
    /// What the mode is when the node is not unfit.
    fit_mode: Mutex<NodeMode>,
    /// Apply thread.
    replicated: Mutex<Replicated>,
    component: Mutex<Option<Component>>,
    /// Counts the components set.
    component_version: AtomicU64,
    /// Signalled when the component changes or the machine stops.
    component_changed: Condvar,
    /// `close`.
    pub(crate) stopping: AtomicBool,
}

#[derive(Default)]
struct Replicated {
    hash: HashRecord,
    genesis: Option<Arc<(u64, Genesis)>>,
}

impl Shared {
    pub(crate) fn new(options: &Options, system: &System) -> Shared {
        let starting = NodeMode::CatchingUp("the node is starting".into());
        let shared = Shared {
            state: options.state.clone(),
            checkpoints: options.checkpoints.clone(),
            space: options.space.clone(),
            transfers: Transfers::default(),
            fatal: options.fatal.clone(),
            waiters: Waiters::default(),
            changes: Arc::new(Changes::new(system.applied_index())),
            counts: Counts::default(),
            query_failures: Sparse::default(),
            command_failures: Sparse::default(),
            progress: Progress::default(),
            position: watch::Sender::new(Position::default()),
            applying: Mutex::default(),
            recent: Mutex::default(),
            doubt: watch::Sender::new(None),
            genesis_applied: watch::Sender::new(false),
            mode: watch::Sender::new(starting.clone()),
            fit_mode: Mutex::new(starting),
            replicated: Mutex::default(),
            component: Mutex::new(None),
            component_version: AtomicU64::new(0),
            component_changed: Condvar::new(),
            stopping: AtomicBool::new(false),
        };
        shared.recent.lock().begin(system.hash);
        shared.publish(system);
        shared
    }

    /// The state now stands at `system`, visible to every reader that begins after this.
    pub(crate) fn publish(&self, system: &System) {
        let genesis_is_new = {
            let mut replicated = self.replicated.lock();
            replicated.hash = system.hash;
            let is_new = replicated.genesis != system.genesis;
            if is_new {
                replicated.genesis.clone_from(&system.genesis);
            }
            is_new
        };
        self.counts.commands.store(system.counters.commands, Ordering::Relaxed);
        self.counts.failed.store(system.counters.failed, Ordering::Relaxed);
        self.position.send_replace(Position { log_id: system.applied, time_ms: system.time_ms });
        if genesis_is_new {
            self.genesis_applied.send_replace(system.genesis.is_some());
        }
        self.progress.advance(system.applied_index());
    }

    /// Raises a doubt when our hash at `index` is known and is not `theirs`: a question to be asked of everyone, not a verdict on anyone.
    pub(crate) fn compare_hash(&self, index: u64, theirs: u64) {
        let known = self.recent.lock().at(index);
        let Some(ours) = known.filter(|ours| *ours != theirs) else { return };
        self.counts.hash_mismatches.fetch_add(1, Ordering::Relaxed);
        self.doubt.send_if_modified(|doubt| {
            let is_newer = doubt.is_none_or(|before| before.index < index);
            if is_newer {
                *doubt = Some(Doubt { index, ours, theirs });
            }
            is_newer
        });
    }

    pub(crate) fn hash_tip(&self) -> (u64, u64) {
        let hash = self.replicated.lock().hash;
        (hash.index, hash.hash)
    }

    pub(crate) fn genesis(&self) -> Option<Genesis> {
        self.replicated.lock().genesis.as_ref().map(|genesis| genesis.1.clone())
    }

    pub(crate) fn component(&self) -> Option<Component> {
        self.component.lock().clone()
    }

    pub(crate) fn set_component(&self, component: Component) {
        let mut slot = self.component.lock();
        *slot = Some(component);
        self.component_version.fetch_add(1, Ordering::AcqRel);
        self.component_changed.notify_all();
    }

    /// Rises whenever another component is set.
    pub(crate) fn component_version(&self) -> u64 {
        self.component_version.load(Ordering::Acquire)
    }

    pub(crate) fn check_fitness(&self) -> Result<(), String> {
        let (genesis, component) = (self.genesis(), self.component());
        genesis.map_or(Ok(()), |genesis| fitness::check(&genesis, component.as_ref()))
    }

    pub(crate) fn set_mode(&self, mode: NodeMode) {
        let mut fit = self.fit_mode.lock();
        *fit = mode.clone();
        self.mode.send_if_modified(|current| {
            let changes = !matches!(current, NodeMode::Unfit(_)) && *current != mode;
            if changes {
                *current = mode;
            }
            changes
        });
    }

    /// The component that `genesis` asks for. Waits while this node has another or none, and says so as its mode: to diverge would
    /// be worse than to lag. `None` when the machine stops.
    pub(crate) fn fit_component(&self, genesis: &Genesis) -> Option<Component> {
        let mut slot = self.component.lock();
        loop {
            if self.stopping.load(Ordering::Acquire) {
                return None;
            }
            match fitness::check(genesis, slot.as_ref()) {
                Ok(()) => {
                    self.end_unfit();
                    return slot.clone();
                }
                Err(why) => self.set_unfit(why),
            }
            self.component_changed.wait(&mut slot);
        }
    }

    /// Wakes an apply thread that waits for a component.
    pub(crate) fn stop(&self) {
        let _slot = self.component.lock();
        self.stopping.store(true, Ordering::Release);
        self.component_changed.notify_all();
    }

    fn set_unfit(&self, why: String) {
        tracing::error!(%why, "this node is not fit to run the cluster's component; it applies nothing until that is mended");
        let _fit = self.fit_mode.lock();
        self.mode.send_replace(NodeMode::Unfit(why));
    }

    fn end_unfit(&self) {
        let fit = self.fit_mode.lock();
        self.mode.send_if_modified(|current| {
            let changes = matches!(current, NodeMode::Unfit(_));
            if changes {
                current.clone_from(&fit);
            }
            changes
        });
    }
}
