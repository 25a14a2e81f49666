//! The background tasks of a group: its genesis entry, its quarantine, the record of its removal, a
//! disk that hangs, and the end of the process when Raft's core has ended. Each task is one loop.
//! None talks to a client.

use crate::codec::{Genesis, entry};
use crate::group::stopping::{hand_over, stop_raft};
use crate::machine::Machine;
use crate::raft::inquiry::Divergence;
use crate::raft::{Inquiry, LeaderWatch, Members, Proposer, Raft, RaftCell};
use crate::store::{GroupDir, Log};
use crate::types::{Fatal, hex};
use openraft::async_runtime::WatchReceiver;
use openraft::storage::RaftLogStorage;
use openraft::{EntryPayload, RaftLogReader};
use tokio::sync::watch;
use tokio::time::{Duration, sleep};

/// Time before a genesis entry that was not applied is proposed again.
const GENESIS_RETRY: Duration = Duration::from_millis(100);

/// Time between two checks of how long the disk has been writing one batch of the log.
const DISK_LOOK_PAUSE: Duration = Duration::from_millis(100);

/// Time between two hand-overs of leadership because of this node's disk.
const LET_GO_PAUSE: Duration = Duration::from_secs(30);

/// Proposes a genesis entry while this node leads a cluster that has none yet. A second one changes
/// nothing.
pub(super) async fn propose_genesis(
    mut leader: LeaderWatch,
    proposer: Proposer,
    machine: Machine,
    genesis: impl Fn() -> Option<Genesis>,
) {
    let mut applied = machine.genesis_applied();
    while !*applied.borrow_and_update() {
        let mine = leader.current().filter(|view| view.is_me);
        match (mine, genesis()) {
            (Some(view), Some(genesis)) => {
                let entry = entry::Entry { genesis: Some(genesis), ..entry::Entry::default() };
                if !matches!(proposer.propose_entry(view.term, entry).await, Ok(Some(_))) {
                    sleep(GENESIS_RETRY).await;
                }
            }
            _ => tokio::select! {
                () = leader.changed() => {}
                changed = applied.changed() => if changed.is_err() { return },
            },
        }
    }
}

/// Records on disk that this node was removed. `kept` is the current record.
///
/// After a restart the node then serves nothing either, whichever nodes it can reach.
pub(super) async fn remember_removal(
    directory: GroupDir,
    mut kept: Option<u64>,
    mut removed: watch::Receiver<Option<u64>>,
) {
    while removed.changed().await.is_ok() {
        let known = *removed.borrow_and_update();
        if known == kept {
            continue;
        }
        match known {
            Some(index) => tracing::warn!(index, "the cluster has removed this node; it serves nothing from now on"),
            None => tracing::info!("this node belongs to the cluster again"),
        }
        let place = directory.clone();
        let saved = tokio::task::spawn_blocking(move || place.save_removed_at(known)).await;
        match saved.map_err(|error| error.to_string()).and_then(|saved| saved.map_err(|error| error.to_string())) {
            Ok(()) => kept = known,
            Err(error) => tracing::error!(error, "cannot keep on the disk that the cluster has removed this node"),
        }
    }
}

/// A group whose state is watched for a difference.
pub(super) struct Suspect {
    pub(super) inquiry: Inquiry,
    pub(super) directory: GroupDir,
    pub(super) log: Log,
    pub(super) machine: Machine,
    pub(super) members: Members,
    pub(super) cell: RaftCell,
    /// Told why the state may not be shown.
    pub(super) quarantined: watch::Sender<Option<String>>,
}

/// Takes a node out of service for good when its state differs from the cluster's.
///
/// The node serves nothing, also after a restart. Leadership goes to another node and Raft stops.
/// Process and health stay up to report the reason. The entry is stored beside the reason.
pub(super) async fn quarantine(suspect: Suspect) {
    let Suspect { inquiry, directory, log, machine, members, cell, quarantined } = suspect;
    let Divergence { index, reason } = inquiry.run().await;
    let component = machine.component().map_or("none".into(), |component| hex(&component.hash()));
    let why = format!("{reason} (component {component})");
    tracing::error!("QUARANTINE: {why}");
    quarantined.send_replace(Some(why.clone()));
    let entry = entry_at(log, index).await;
    let saved = tokio::task::spawn_blocking(move || directory.save_quarantined(&why, entry.as_deref())).await;
    if let Err(error) = saved.map_err(|error| error.to_string()).and_then(|saved| saved.map_err(|e| e.to_string())) {
        tracing::error!(error, "cannot keep on the disk that this node is in quarantine; do not start it again");
    }
    hand_over(&members, &cell).await;
    if let Err(error) = stop_raft(&cell).await {
        tracing::error!(error, "stopping Raft in quarantine");
    }
    quarantined.closed().await;
}

/// Returns the commands of that entry from the log. They are evidence, and may be gone already.
async fn entry_at(mut log: Log, index: u64) -> Option<Vec<u8>> {
    let found = log.get_log_reader().await.try_get_log_entries(index..=index).await;
    match found.ok()?.pop()?.payload {
        EntryPayload::Normal(data) => Some(data.0.to_vec()),
        EntryPayload::Blank | EntryPayload::Membership(_) => None,
    }
}

/// Gives up leadership when one write of the log has taken `limit`.
///
/// A leader whose disk hangs can apply nothing and answers no client, but the other nodes could
/// continue without it.
pub(super) async fn leave_hung_disk(log: Log, leader: LeaderWatch, members: Members, limit: Duration) {
    loop {
        sleep(DISK_LOOK_PAUSE).await;
        let writing = log.writing_for();
        if writing < limit || leader.current().is_none_or(|view| !view.is_me) {
            continue;
        }
        tracing::error!("the disk has been at one write of the log for {} ms", writing.as_millis());
        if let Err(error) = members.let_go().await {
            tracing::warn!(%error, "this node keeps the lead although its disk hangs");
        }
        // Waits even after a failure: if all disks are slow, leadership must not move on and on.
        sleep(LET_GO_PAUSE).await;
    }
}

/// Ends the node when Raft's core has stopped without being asked to. A node that answers but does
/// not replicate is worse than none.
pub(super) async fn watch_core(raft: Raft, cell: RaftCell, fatal: Fatal) {
    let mut metrics = raft.metrics();
    loop {
        let running = metrics.borrow_watched().running_state.clone();
        if let Err(error) = running {
            // The cell is emptied before an intended stop.
            if cell.get().is_some() {
                fatal.raise(format!("Raft's core has stopped: {error}"));
            }
            return;
        }
        if metrics.changed().await.is_err() {
            if cell.get().is_some() {
                fatal.raise("Raft's core is gone");
            }
            return;
        }
    }
}
