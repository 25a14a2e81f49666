//! Values that the apply thread publishes for all other code to read. This module makes no
//! decisions. Where a field has a fixed writer, its comment names it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::changes::Changes;
use super::components::Components;
use super::fitness;
use super::hash::{Doubt, Recent};
use super::keeping::Keeping;
use super::operation::{Operation, SetLately};
use super::profile::{Probation, Profile};
use super::progress::Progress;
use super::query::sample::Samples;
use super::quota::Quota;
use super::read_only::ReadOnly;
use super::rollback::shadow::Shadow;
use super::rows::RowsReport;
use super::snapshot::transfers::Transfers;
use super::spent::NewestSpent;
use super::system::{HashRecord, System};
use super::tidying_pace::Tidying;
use super::tried::{ChangeReport, ChangeVerdict, RanAgain, Tried};
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
    /// Commands that this process ran, and the microseconds that the guest took for them.
    pub(crate) commands_run: AtomicU64,
    pub(crate) commands_run_us: AtomicU64,
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
    /// Queries and steps of watches that the guest ran, and the microseconds that it took for them.
    pub(crate) queries_run: AtomicU64,
    pub(crate) queries_run_us: AtomicU64,
    /// Of these, those that the guest refused.
    pub(crate) queries_refused: AtomicU64,
    /// Queries and steps of watches that failed; refusals are not counted.
    pub(crate) queries_failed: AtomicU64,
    /// Changes that this process applied, by verdict.
    pub(crate) changes: [AtomicU64; ChangeVerdict::NAMES.len()],
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
    /// Written by the apply thread, and taken by the proposer.
    pub(crate) spent: NewestSpent,
    /// The newest index at which another node's state hash differs from ours.
    pub(crate) doubt: watch::Sender<Option<Doubt>>,
    /// Written by the apply thread.
    pub(crate) genesis_applied: watch::Sender<bool>,
    /// Written by `set_mode` and `set_unfit`.
    pub(crate) mode: watch::Sender<NodeMode>,
    /// The mode to use when the node is not unfit.
    fit_mode: Mutex<NodeMode>,
    /// Written by the apply thread: whether it stands before an entry that this build does not
    /// know.
    pub(crate) outdated: watch::Sender<bool>,
    /// Written by the apply thread.
    replicated: Mutex<Replicated>,
    pub(crate) components: Components,
    /// The checkpoints that must stay. Written by the apply thread.
    pub(crate) keeping: Keeping,
    /// Written by the apply thread: what this node alone knows of the last change that it applied.
    changed_here: Mutex<Option<ChangedHere>>,
    /// Written by the apply thread: what the last entry with rows did.
    pub(crate) rows_here: Mutex<Option<RowsReport>>,
    /// Some of the newest queries.
    pub(crate) samples: Samples,
    /// The shadow of a change that may be taken back, if anybody has asked for it.
    pub(crate) shadow: Mutex<Option<Arc<Shadow>>>,
    /// Written by the apply thread: retention and quotas in force. The default before any were set.
    pub(crate) operation: watch::Sender<Arc<Operation>>,
    /// Written by the apply thread: which entries have set these lately.
    pub(crate) operations_set: SetLately,
    /// What the quotas of the machine have counted on this node.
    pub(crate) quota: Quota,
    /// When the state may be rewritten because it is above its quota.
    pub(crate) tidying: Mutex<Tidying>,
    /// Written by the apply thread: why this node cannot follow a rollback.
    pub(crate) left_behind: watch::Sender<Option<String>>,
    /// Written by the apply thread: the index of the last rollback that it put in force.
    pub(crate) rolled_back: watch::Sender<u64>,
    /// Whether a rehearsal is under way.
    pub(crate) rehearsing: Arc<AtomicBool>,
    /// Written by `stop`, which `close` calls.
    pub(crate) stopping: AtomicBool,
}

#[derive(Default)]
struct Replicated {
    hash: HashRecord,
    genesis: Option<Arc<(u64, Genesis)>>,
    profile: Option<Arc<Profile>>,
    change: Option<Tried>,
    read_only: Option<Arc<ReadOnly>>,
}

/// What one node knows of a change beyond what all record.
struct ChangedHere {
    index: u64,
    detail: String,
    held: Duration,
    ran_again: Option<RanAgain>,
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
            spent: NewestSpent::default(),
            doubt: watch::Sender::new(None),
            genesis_applied: watch::Sender::new(false),
            mode: watch::Sender::new(starting.clone()),
            fit_mode: Mutex::new(starting),
            outdated: watch::Sender::new(false),
            replicated: Mutex::default(),
            components: Components::new(system.in_force().map(|(_, profile)| profile.clone())),
            keeping: Keeping::default(),
            changed_here: Mutex::default(),
            rows_here: Mutex::default(),
            samples: Samples::default(),
            shadow: Mutex::default(),
            operation: watch::Sender::new(Arc::default()),
            operations_set: SetLately::default(),
            quota: Quota::default(),
            tidying: Mutex::default(),
            left_behind: watch::Sender::new(None),
            rolled_back: watch::Sender::new(0),
            rehearsing: Arc::default(),
            stopping: AtomicBool::new(false),
        };
        shared.recent.lock().begin(system.hash);
        shared.keeping.hold(system.profile.as_deref(), system.time_ms, &shared.checkpoints);
        shared.publish(system);
        shared
    }

    /// Publishes that the state now stands at `system`. Readers that begin after this call see it.
    pub(crate) fn publish(&self, system: &System) {
        let (genesis_is_new, profile_is_new) = {
            let mut replicated = self.replicated.lock();
            replicated.hash = system.hash;
            let genesis_is_new = replicated.genesis != system.genesis;
            if genesis_is_new {
                replicated.genesis.clone_from(&system.genesis);
            }
            let profile_is_new = replicated.profile != system.profile;
            if profile_is_new {
                replicated.profile.clone_from(&system.profile);
            }
            replicated.change = system.change;
            replicated.read_only.clone_from(&system.read_only);
            (genesis_is_new, profile_is_new)
        };
        if genesis_is_new || profile_is_new {
            self.components.note_in_force(system.in_force().map(|(_, profile)| profile));
        }
        self.note_operation(system);
        self.counts.commands.store(system.counters.commands, Ordering::Relaxed);
        self.counts.failed.store(system.counters.failed, Ordering::Relaxed);
        self.position.send_replace(Position { log_id: system.applied, time_ms: system.time_ms });
        if genesis_is_new {
            self.genesis_applied.send_replace(system.genesis.is_some());
        }
        self.progress.advance(system.applied_index());
    }

    /// Puts the retention and the quotas of the state in force here.
    fn note_operation(&self, system: &System) {
        let is_new = self.operation.send_if_modified(|current| {
            let stored = system.operation.clone().unwrap_or_default();
            let is_new = **current != *stored;
            if is_new {
                *current = stored;
            }
            is_new
        });
        if is_new {
            self.operations_set.note(self.operation.borrow().index);
            for key in self.operation.borrow().unknown() {
                tracing::error!(
                    key,
                    "this build of Lockstep does not know a value that the cluster set, and does not obey it; run the version that the cluster runs"
                );
            }
        }
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

    /// Returns the profile in force, and the index of the entry that put it in force.
    pub(crate) fn profile(&self) -> Option<(u64, Genesis)> {
        let replicated = self.replicated.lock();
        let changed = replicated.profile.as_ref().map(|profile| (profile.index, profile.genesis.clone()));
        changed.or_else(|| replicated.genesis.as_ref().map(|genesis| (genesis.0, genesis.1.clone())))
    }

    /// Returns the record of the change that put the profile in force, if one did.
    pub(crate) fn changed_profile(&self) -> Option<Arc<Profile>> {
        self.replicated.lock().profile.clone()
    }

    /// Returns the change that may be taken back now, if there is one.
    pub(crate) fn probation(&self) -> Option<Probation> {
        let (profile, time_ms) = (self.changed_profile()?, self.position.borrow().time_ms);
        profile.is_on_probation(time_ms).then(|| Probation {
            change_index: profile.index,
            until_ms: profile.probation_until_ms,
            checkpoint_index: profile.checkpoint.index,
            has_checkpoint: self.keeping.holds_one(),
            before: profile.before.1.component_hash.as_ref().try_into().unwrap_or_default(),
        })
    }

    /// Returns the read-only mode that the last entry about it has set.
    pub(crate) fn read_only(&self) -> Option<Arc<ReadOnly>> {
        self.replicated.lock().read_only.clone()
    }

    /// Returns the last change that was tried.
    pub(crate) fn last_change(&self) -> Option<ChangeReport> {
        let tried = self.replicated.lock().change?;
        let here = self.changed_here.lock();
        let known = here.as_ref().filter(|here| here.index == tried.index);
        let (detail, held) = known.map(|here| (here.detail.clone(), here.held)).unwrap_or_default();
        let ran_again = known.and_then(|here| here.ran_again);
        Some(ChangeReport { ran_again, ..ChangeReport::new(&tried, detail, held) })
    }

    /// Notes what this node alone knows of a change that it has just committed.
    /// `ran_again` is known of one that was taken back.
    pub(crate) fn note_change(&self, tried: &Tried, detail: String, held: Duration, ran_again: Option<RanAgain>) {
        self.counts.changes[tried.verdict.place()].fetch_add(1, Ordering::Relaxed);
        *self.changed_here.lock() = Some(ChangedHere { index: tried.index, detail, held, ran_again });
    }

    pub(crate) fn component(&self) -> Option<Component> {
        self.components.current()
    }

    pub(crate) fn check_fitness(&self) -> Result<(), String> {
        let (profile, component) = (self.profile(), self.component());
        profile.map_or(Ok(()), |(_, profile)| fitness::check(&profile, component.as_ref()))
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

    /// Returns the component that `profile` requires; `None` when the machine stops. While this
    /// node has another component or none, it waits and sets the mode to unfit: diverging would be
    /// worse than lagging.
    pub(crate) fn fit_component(&self, profile: &Genesis) -> Option<Component> {
        let unfit = |why| match fitness::limits_of(profile) {
            Ok(_) => self.set_unfit(why),
            Err(_) => self.set_outdated(why),
        };
        let component = self.components.wait_for_current(profile, unfit)?;
        self.end_unfit();
        Some(component)
    }

    /// Returns the component that the change of entry `index` needs; `None` when the machine stops.
    /// The machine serves reads while it waits, unless this build cannot run the profile at all.
    /// One that catches up says what it waits for, see [`Machine::lacks_wanted`](super::Machine).
    pub(crate) fn candidate(&self, index: u64, profile: &Genesis) -> Option<Component> {
        if let Err(why) = fitness::limits_of(profile) {
            self.set_outdated(format!("this build cannot apply entry {index}, and this node stands before it: {why}"));
        }
        let component = self.components.wait_for_candidate(profile)?;
        self.end_unfit();
        Some(component)
    }

    /// Ends every wait of the apply thread.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.components.stop();
    }

    /// Makes the node unfit until that is mended. A build that is too old is the stronger reason.
    pub(crate) fn set_unfit(&self, why: String) {
        let _fit = self.fit_mode.lock();
        if *self.outdated.borrow() {
            return;
        }
        tracing::error!(%why, "this node is not fit to run the cluster's component; it applies nothing until that is mended");
        self.mode.send_replace(NodeMode::Unfit(why));
    }

    /// Makes a node unfit that catches up, until what it waits for is there. One that serves goes
    /// on with its reads.
    pub(crate) fn set_waiting(&self, why: String) {
        let _fit = self.fit_mode.lock();
        self.mode.send_if_modified(|current| {
            let changes = matches!(current, NodeMode::CatchingUp(_));
            if changes {
                *current = NodeMode::Unfit(why);
            }
            changes
        });
    }

    /// Makes the node unfit for the rest of this process's life: no component helps it.
    pub(crate) fn set_outdated(&self, why: String) {
        tracing::error!(%why, "this build of Lockstep is too old for the log; it applies nothing from here on");
        let _fit = self.fit_mode.lock();
        self.outdated.send_replace(true);
        self.mode.send_replace(NodeMode::Unfit(why));
    }

    pub(crate) fn end_unfit(&self) {
        let fit = self.fit_mode.lock();
        if *self.outdated.borrow() {
            return;
        }
        self.mode.send_if_modified(|current| {
            let changes = matches!(current, NodeMode::Unfit(_));
            if changes {
                current.clone_from(&fit);
            }
            changes
        });
    }
}
