//! Values that the apply thread publishes for all other code to read. This module makes no
//! decisions. Where a field has a fixed writer, its comment names it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use super::changes::Changes;
use super::fitness;
use super::hash::{Doubt, Recent};
use super::progress::Progress;
use super::snapshot::transfers::Transfers;
use super::system::{HashRecord, System};
use super::waiters::Waiters;
use super::{Options, Position};
use crate::codec::Genesis;
use crate::guest::{Component, Reason};
use crate::logs::Sparse;
use crate::store::{Checkpoints, Space, State, StoreError};
use crate::types::{Fatal, NodeMode};

/// Counts since this process began, for status and metrics.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) entries: AtomicU64,
    /// Copies of the replicated counters: commands, and commands that did not end with a reply.
    pub(crate) commands: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) flushes: AtomicU64,
    /// Writes and flushes of the state, and snapshots, that were put off because the disk was full.
    pub(crate) disk_full: AtomicU64,
    /// Writes and flushes of the state, and snapshots, that were put off because no file descriptor
    /// was left.
    pub(crate) descriptors_short: AtomicU64,
    pub(crate) undecodable: AtomicU64,
    /// Entries whose proposer had a different hash than this node at the same index.
    pub(crate) hash_mismatches: AtomicU64,
    /// Commands that failed, as this process applied them.
    pub(crate) failures: Failures,
    /// Queries and steps of watches that failed; refusals are not counted.
    pub(crate) queries_failed: AtomicU64,
    pub(crate) snapshots_made: AtomicU64,
    pub(crate) snapshots_failed: AtomicU64,
    pub(crate) snapshots_sent: AtomicU64,
    pub(crate) snapshots_installed: AtomicU64,
}

/// Counts of failures by reason.
#[derive(Debug, Default)]
pub(crate) struct Failures([AtomicU64; Reason::ALL.len()]);

impl Failures {
    pub(crate) fn add(&self, reason: Reason) {
        let place = Reason::ALL.iter().position(|one| *one == reason).expect("all reasons are there");
        self.0[place].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the reasons that have occurred, with their counts.
    pub(crate) fn seen(&self) -> Vec<(Reason, u64)> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        Reason::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect()
    }
}

/// The values shared between the apply thread and the rest of the machine.
pub(crate) struct Shared {
    pub(crate) state: State,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) space: Space,
    pub(crate) transfers: Transfers,
    pub(crate) fatal: Fatal,
    pub(crate) waiters: Waiters,
    pub(crate) changes: Arc<Changes>,
    pub(crate) counts: Counts,
    /// Limits the log lines about failed queries.
    pub(crate) query_failures: Sparse,
    /// Limits the log lines about writes that wait.
    shortages: Sparse,
    /// Limits the log lines about failed commands.
    pub(crate) command_failures: Sparse,
    /// Written by the apply thread.
    pub(crate) progress: Progress,
    /// Written by the apply thread.
    pub(crate) position: watch::Sender<Position>,
    /// Written by the apply thread: when it began the current entry.
    pub(crate) applying: Mutex<Option<Instant>>,
    /// Written by the apply thread.
    pub(crate) recent: Mutex<Recent>,
    /// The newest index at which another node's state hash differs from ours.
    pub(crate) doubt: watch::Sender<Option<Doubt>>,
    /// Written by the apply thread.
    pub(crate) genesis_applied: watch::Sender<bool>,
    /// Written by `set_mode` and `set_unfit`.
    pub(crate) mode: watch::Sender<NodeMode>,
    /// The mode to use when the node is not unfit.
    fit_mode: Mutex<NodeMode>,
    /// Written by the apply thread.
    replicated: Mutex<Replicated>,
    component: Mutex<Option<Component>>,
    /// Counts how often a component was set.
    component_version: AtomicU64,
    /// Told when a component is set: its version.
    pub(crate) component_set: watch::Sender<u64>,
    /// Signalled when the component changes or the machine stops.
    component_changed: Condvar,
    /// Written by `stop`, which `close` calls.
    pub(crate) stopping: AtomicBool,
}

#[derive(Default)]
struct Replicated {
    hash: HashRecord,
    genesis: Option<Arc<(u64, Genesis)>>,
}

impl Shared {
    /// Counts and logs a write that is put off. Nothing is lost, because the log has the data.
    pub(crate) fn note_shortage(&self, error: &StoreError, what: &'static str) {
        let (count, why) = match error.room_advice() {
            Some(advice) => (&self.counts.disk_full, advice),
            None => (&self.counts.descriptors_short, "no descriptor is left"),
        };
        count.fetch_add(1, Ordering::Relaxed);
        if let Some(left_out) = self.shortages.due() {
            tracing::warn!(%error, left_out, "{why}: {what}; it will be tried again, and nothing is lost");
        }
    }

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
            shortages: Sparse::default(),
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
            component_set: watch::channel(0).0,
            component_changed: Condvar::new(),
            stopping: AtomicBool::new(false),
        };
        shared.recent.lock().begin(system.hash);
        shared.publish(system);
        shared
    }

    /// Publishes that the state now stands at `system`. Readers that begin after this call see it.
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

    /// Raises a doubt when our hash at `index` is known and differs from `theirs`. A doubt does not
    /// say which node is wrong; all nodes have to be asked.
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
        let before = self.component_version.fetch_add(1, Ordering::AcqRel);
        self.component_changed.notify_all();
        self.component_set.send_replace(before + 1);
    }

    /// Returns a number that rises whenever a component is set.
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

    /// Returns the component that `genesis` requires; `None` when the machine stops. While this
    /// node has another component or none, it waits and sets the mode to unfit: diverging would be
    /// worse than lagging.
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
