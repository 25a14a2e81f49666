//! The background tasks of a group: its genesis entry, its quarantine, the record of its removal, a
//! disk that hangs, when it may lead after a start, a build that is too old to lead, and the end of
//! the process when Raft's core has ended. Each task is one loop. None talks to a client.

use crate::codec::{Genesis, entry};
use crate::group::stopping::{hand_over, stop_raft};
use crate::machine::Machine;
use crate::raft::inquiry::Divergence;
use crate::raft::{Canvass, Inquiry, LeaderWatch, Members, Proposer, Raft, RaftCell};
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

/// Time before an outdated leader tries again to hand the lead over.
const STAND_BACK_PAUSE: Duration = Duration::from_secs(5);

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
    let Divergence { index, reason } = tokio::select! {
        found = inquiry.run() => found,
        left_behind = left_behind(&machine) => left_behind,
    };
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

/// Waits until the cluster has taken back a change that this node cannot take back.
async fn left_behind(machine: &Machine) -> Divergence {
    let mut left_behind = machine.watch_left_behind();
    let found = left_behind.wait_for(Option::is_some).await.map(|found| found.clone());
    match found {
        Ok(reason) => Divergence { index: machine.applied_index(), reason: reason.unwrap_or_default() },
        Err(_) => std::future::pending().await,
    }
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

/// Lets this node stand for election, and replaces a leader that has gone, once all is applied that
/// was committed before the start, up to `replays_to`.
///
/// As a leader it would keep clients waiting for that. Until then it votes, and keeps the log.
pub(super) async fn stand(machine: Machine, cell: RaftCell, replays_to: u64, canvass: Canvass) {
    machine.wait_applied(replays_to).await;
    cell.stand_now();
    canvass.run().await;
}

/// Lets others lead once this node's build is too old for an entry of the log.
///
/// As a leader it would apply nothing, so the cluster would take no command. It still votes and
/// keeps the log. It tries again as long as it leads: a node that refuses the lead while it starts
/// takes it later.
pub(super) async fn stand_back(machine: Machine, mut leader: LeaderWatch, members: Members, cell: RaftCell) {
    if machine.watch_outdated().wait_for(|outdated| *outdated).await.is_err() {
        return;
    }
    cell.stand_back();
    loop {
        // It may have stood for election just before.
        while leader.seen().is_none_or(|view| !view.is_me) {
            leader.changed().await;
        }
        match members.transfer_leadership().await {
            Ok(()) => {
                tracing::warn!("leadership is handed over, because this node needs a newer build to apply the log");
            }
            Err(error) => tracing::error!(
                %error,
                "this node leads and needs a newer build to apply the log; nobody takes the lead over, so the cluster takes no commands \
                 until a node with a newer build runs"
            ),
        }
        sleep(STAND_BACK_PAUSE).await;
    }
}

/// Ends the node when Raft's core has stopped without being asked to. A node that answers but does
/// not replicate is worse than none.
pub(super) async fn watch_core(raft: Raft, cell: RaftCell, fatal: Fatal) {
    // The core drops its end of these metrics when it ends, after it has said why. They change
    // seldom. `Raft::metrics` would wake this task for every message that the core handles.
    let mut metrics = raft.server_metrics();
    while metrics.changed().await.is_ok() {}
    // The cell is emptied before an intended stop.
    if cell.get().is_none() {
        return;
    }
    let running = raft.metrics().borrow_watched().running_state.clone();
    match running {
        Err(error) => fatal.raise(format!("Raft's core has stopped: {error}")),
        // It panicked.
        Ok(()) => fatal.raise("Raft's core is gone"),
    }
}
