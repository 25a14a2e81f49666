//! The machine's numbers, for `Stat`, operators and metrics. This module only reads counts that
//! other code keeps.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::operation::Operation;
use super::profile::Probation;
use super::quota::QuotaStatus;
use super::read_only::ReadOnly;
use super::semantics::SemanticsRange;
use super::shared::Shared;
use super::snapshot::transfers::TransferStatus;
use super::tried::{ChangeReport, ChangeVerdict};
use crate::guest::Reason;
use crate::store::SpaceStatus;
use crate::types::{LogId, NodeMode};

/// The current numbers. Each is read separately, so they may differ by an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineStatus {
    /// What this node may do now.
    pub mode: NodeMode,
    /// The last applied entry.
    pub applied: Option<LogId>,
    /// Log time of that entry, in milliseconds since 1970.
    pub time_ms: u64,
    /// Entries applied by this process.
    pub entries_applied: u64,
    /// Commands that the cluster has run, equal on every replica at one index.
    pub commands_applied: u64,
    /// How many of these commands failed or were refused by the guest.
    pub commands_failed: u64,
    /// Commands that this process ran.
    pub commands_run: u64,
    /// How long the guest took for these, in microseconds.
    pub commands_run_us: u64,
    /// Commands of this node whose outcome some caller waits for.
    pub commands_waiting: u64,
    /// Log entries that could not be decoded, since this process began.
    pub entries_undecodable: u64,
    /// The index of the rolling state hash.
    pub hash_index: u64,
    /// The rolling state hash at `hash_index`.
    pub hash: u64,
    /// Entries whose proposer had a different hash, since this process began.
    pub hash_mismatches: u64,
    /// Commands that failed, by reason, since this process began; refusals by the guest are not
    /// counted.
    pub command_failures: Vec<(Reason, u64)>,
    /// Queries and steps of watches that this process ran.
    pub queries_run: u64,
    /// How long the guest took for these, in microseconds.
    pub queries_run_us: u64,
    /// How many of these the guest refused.
    pub queries_refused: u64,
    /// Queries and steps of watches that failed, since this process began.
    pub queries_failed: u64,
    /// Flushes of the state, since this process began.
    pub flushes: u64,
    /// Writes of the state, and snapshots, that were put off because the disk was full, since this
    /// process began.
    pub disk_full: u64,
    /// Writes of the state, and snapshots, that were put off because no file descriptor was left,
    /// since this process began.
    pub descriptors_short: u64,
    /// Free space on the disk.
    pub disk: SpaceStatus,
    /// Approximate size of the state in bytes.
    pub state_bytes: u64,
    /// Snapshots made by this process.
    pub snapshot_count: u64,
    /// Attempts to make a snapshot that failed, since this process began.
    pub snapshots_failed: u64,
    /// Snapshots sent to other nodes, since this process began.
    pub snapshots_sent: u64,
    /// Snapshots of other nodes installed, since this process began.
    pub restore_count: u64,
    /// Index of the newest snapshot on disk; 0 if there is none.
    pub last_snapshot_index: u64,
    /// Term of the newest snapshot on disk.
    pub last_snapshot_term: u64,
    /// How this node runs guests, to compare nodes; empty while it has no component.
    pub build: String,
    /// BLAKE3 hash of the component in force; `None` before the genesis entry.
    pub component: Option<[u8; 32]>,
    /// The version that the component in use declares; empty if it declares none.
    pub version: String,
    /// Index of the entry that put the profile in force; 0 before the genesis entry.
    pub profile_index: u64,
    /// The semantics of that profile; `None` before the genesis entry.
    pub semantics: Option<u32>,
    /// The semantics that this build runs.
    pub semantics_range: SemanticsRange,
    /// The change that may be taken back now.
    pub probation: Option<Probation>,
    /// The last change that was tried.
    pub last_change: Option<ChangeReport>,
    /// The read-only mode, while it is on.
    pub read_only: Option<ReadOnly>,
    /// Retention and quotas in force.
    pub operation: Arc<Operation>,
    /// What the quotas have counted on this node.
    pub quota: QuotaStatus,
    /// Changes that this process applied, by the name of the verdict.
    pub changes: Vec<(&'static str, u64)>,
    /// Snapshots in transfer to or from this node.
    pub transfers: Vec<TransferStatus>,
}

pub(crate) fn of(shared: &Shared) -> MachineStatus {
    // These two locks are taken one after the other, never together: the code that waits for a
    // component holds the component's lock while it changes the mode.
    let mode = shared.mode.borrow().clone();
    let component = shared.component();
    let build = component.as_ref().and_then(|component| Some(component.engine().build().ok()?.to_owned()));
    let (profile_index, profile) = shared.profile().unwrap_or_default();
    let changes = shared.counts.changes.iter().map(|count| count.load(Relaxed));
    let position = *shared.position.borrow();
    let (hash_index, hash) = shared.hash_tip();
    let newest = shared.checkpoints.newest();
    let counts = &shared.counts;
    MachineStatus {
        mode,
        applied: position.log_id,
        time_ms: position.time_ms,
        entries_applied: counts.entries.load(Relaxed),
        commands_applied: counts.commands.load(Relaxed),
        commands_failed: counts.failed.load(Relaxed),
        commands_run: counts.commands_run.load(Relaxed),
        commands_run_us: counts.commands_run_us.load(Relaxed),
        commands_waiting: shared.waiters.len() as u64,
        entries_undecodable: counts.undecodable.load(Relaxed),
        hash_index,
        hash,
        hash_mismatches: counts.hash_mismatches.load(Relaxed),
        command_failures: counts.failures.seen(),
        queries_run: counts.queries_run.load(Relaxed),
        queries_run_us: counts.queries_run_us.load(Relaxed),
        queries_refused: counts.queries_refused.load(Relaxed),
        queries_failed: counts.queries_failed.load(Relaxed),
        flushes: counts.flushes.load(Relaxed),
        disk_full: counts.disk_full.load(Relaxed),
        descriptors_short: counts.descriptors_short.load(Relaxed),
        disk: shared.space.status(),
        state_bytes: shared.state.current().approximate_bytes(),
        snapshot_count: counts.snapshots_made.load(Relaxed),
        snapshots_failed: counts.snapshots_failed.load(Relaxed),
        snapshots_sent: counts.snapshots_sent.load(Relaxed),
        restore_count: counts.snapshots_installed.load(Relaxed),
        last_snapshot_index: newest.as_ref().map_or(0, |newest| newest.index),
        last_snapshot_term: newest.as_ref().map_or(0, |newest| newest.term),
        build: build.unwrap_or_default(),
        component: profile.component_hash.as_ref().try_into().ok(),
        version: component.map(|component| component.version().to_owned()).unwrap_or_default(),
        profile_index,
        semantics: (profile_index > 0).then_some(profile.semantics),
        semantics_range: SemanticsRange::of_this_build(),
        probation: shared.probation(),
        last_change: shared.last_change(),
        read_only: shared.read_only().filter(|mode| mode.on).map(|mode| (*mode).clone()),
        operation: shared.operation.borrow().clone(),
        quota: shared.quota.status(),
        changes: ChangeVerdict::NAMES.into_iter().zip(changes).collect(),
        transfers: shared.transfers.running(),
    }
}
