//! The machine's numbers, for `Stat`, operators and metrics. This module only reads counts that
//! other code keeps.

use std::sync::atomic::Ordering::Relaxed;

use super::shared::Shared;
use super::snapshot::transfers::TransferStatus;
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
    /// Snapshots in transfer to or from this node.
    pub transfers: Vec<TransferStatus>,
}

pub(crate) fn of(shared: &Shared) -> MachineStatus {
    // These two locks are taken one after the other, never together: the code that waits for a
    // component holds the component's lock while it changes the mode.
    let mode = shared.mode.borrow().clone();
    let build = shared.component().and_then(|component| Some(component.engine().build().ok()?.to_owned()));
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
        commands_waiting: shared.waiters.len() as u64,
        entries_undecodable: counts.undecodable.load(Relaxed),
        hash_index,
        hash,
        hash_mismatches: counts.hash_mismatches.load(Relaxed),
        command_failures: counts.failures.seen(),
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
        transfers: shared.transfers.running(),
    }
}
