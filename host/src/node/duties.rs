//! A node's background tasks: the genesis entry of a new cluster, the node's own mode, regular
//! checks of the room on the disk, and the end of the process when Raft's core has ended. Each task
//! is one loop. None talks to a client.

use crate::codec::entry;
use crate::machine::Machine;
use crate::node::admission::Admission;
use crate::node::stopping::{hand_over, stop_raft};
use crate::raft::inquiry::Divergence;
use crate::raft::path::proposer::Written;
use crate::raft::{ClusterCell, Inquiry, LeaderWatch, Members, Proposer, Raft, RaftCell};
use crate::store::{DataDir, Log, Seen, Space};
use crate::types::{Fatal, GROUP, NodeMode, hex};
use openraft::async_runtime::WatchReceiver;
use openraft::storage::RaftLogStorage;
use openraft::{EntryPayload, RaftLogReader};
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};

/// Time before a genesis entry that was not applied is proposed again.
const GENESIS_RETRY: Duration = Duration::from_millis(100);

/// Time between two checks of the room on the disk. In that time a disk of 1 GB/s fills half of the
/// default `--min_free_bytes`.
const SPACE_PAUSE: Duration = Duration::from_millis(250);

/// Time between two checks of how long the disk has been writing one batch of the log.
const DISK_LOOK_PAUSE: Duration = Duration::from_millis(100);

/// Time between two hand-overs of leadership because of this node's disk.
const LET_GO_PAUSE: Duration = Duration::from_secs(30);

/// Proposes a genesis entry while this node leads a cluster that has none yet. A second one changes
/// nothing.
pub(crate) async fn propose_genesis(
    mut leader: LeaderWatch,
    proposer: Proposer,
    machine: Machine,
    admission: Admission,
) {
    let mut applied = machine.genesis_applied();
    while !*applied.borrow_and_update() {
        let mine = leader.current().filter(|view| view.is_me);
        match (mine, admission.genesis_to_propose()) {
            (Some(view), Some(genesis)) => {
                let entry = entry::Entry { genesis: Some(genesis), ..entry::Entry::default() };
                if !matches!(proposer.propose_entry(view.term, entry).await, Written::Applied { .. }) {
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

/// Maintains this node's mode.
///
/// A node serves once it is in a cluster and its state has reached everything that its readers may
/// have seen before this start. So local reads never go backwards. It stops serving when the
/// cluster has removed it.
pub(crate) async fn keep_mode(
    machine: Machine,
    cluster: ClusterCell,
    raft: Raft,
    log: Log,
    fatal: Fatal,
    removed: watch::Receiver<Option<u64>>,
    quarantined: watch::Receiver<Option<String>>,
) {
    let (progress, reached) = watch::channel(NodeMode::CatchingUp("the node is starting".into()));
    let disputes = cluster.disputes();
    let catching_up = catch_up(&machine, cluster, raft, log, fatal, progress);
    let publish = |mode| machine.set_mode(mode);
    tokio::join!(catching_up, publish_mode(publish, reached, removed, quarantined, disputes));
}

/// Brings the mode from starting to serving. Ignores removals.
async fn catch_up(
    machine: &Machine,
    cluster: ClusterCell,
    raft: Raft,
    log: Log,
    fatal: Fatal,
    progress: watch::Sender<NodeMode>,
) {
    if cluster.get().is_none() {
        let why = "this node has not joined a cluster yet; add it with `lockstep admin <the leader's grpc_addr> add_voter \
                   <its raft_id> <its raft_addr>`";
        progress.send_replace(NodeMode::CatchingUp(why.into()));
        cluster.joined().await;
    }
    // The first reads of a node that joins wait for the genesis entry. Without it the node would
    // serve an empty state.
    progress.send_replace(NodeMode::CatchingUp("the cluster's log has not reached this node yet".into()));
    let mut genesis = machine.genesis_applied();
    if genesis.wait_for(|applied| *applied).await.is_err() {
        return;
    }
    let Some(index) = index_to_reach(machine, &raft, log.seen_before(), &progress).await else { return };
    let why = format!("applying what was committed before the restart, up to entry {index}");
    progress.send_replace(NodeMode::CatchingUp(why));
    machine.wait_applied(index).await;
    if let Err(error) = log.note_recovered() {
        return fatal.raise(error.to_string());
    }
    progress.send_replace(NodeMode::Serving);
    tracing::info!(index = machine.applied_index(), "ready");
}

/// Returns the index at which the state holds everything that readers may have seen.
///
/// This counts reads before this start. After a crash of the machine only a leader can tell which
/// entries at the end of the log were committed. `None` when Raft has stopped.
async fn index_to_reach(machine: &Machine, raft: &Raft, seen: Seen, progress: &watch::Sender<NodeMode>) -> Option<u64> {
    let last = match seen {
        Seen::Through(index) => return Some(index),
        Seen::Perhaps(last) if machine.applied_index() >= last => return Some(last),
        Seen::Perhaps(last) => last,
    };
    let why = format!(
        "this machine, or its record of what it served, was lost since the last run; waiting for a leader to say what of the log, which \
         ends at entry {last}, is committed"
    );
    tracing::warn!("{why}");
    progress.send_replace(NodeMode::CatchingUp(why));
    let mut metrics = raft.metrics();
    loop {
        {
            let now = metrics.borrow_watched();
            // This is the commit index that a leader has sent to this process, never the one from
            // disk. Everything that was applied here was committed, and is in every later leader's
            // log. So once the commit index reaches the end of this log, whether or not that was
            // truncated, it covers all of it.
            let committed = now.cluster_committed.map(|log_id| log_id.index);
            if let Some(committed) = committed
                && committed >= last.min(now.last_log_index.unwrap_or(0))
            {
                return Some(committed);
            }
        }
        if metrics.changed().await.is_err() {
            return None;
        }
    }
}

/// Publishes the mode that this node's place in the cluster and its state give it, until Raft ends.
async fn publish_mode(
    publish: impl Fn(NodeMode),
    mut reached: watch::Receiver<NodeMode>,
    mut removed: watch::Receiver<Option<u64>>,
    mut quarantined: watch::Receiver<Option<String>>,
    mut disputes: watch::Receiver<Option<String>>,
) {
    loop {
        if let Some(why) = quarantined.borrow_and_update().clone() {
            // It stays so for the rest of this process's life.
            return publish(NodeMode::Quarantined(why));
        }
        let removed_at = *removed.borrow_and_update();
        let reached_mode = reached.borrow_and_update().clone();
        let mode = disputes.borrow_and_update().clone().map_or(reached_mode, NodeMode::Disputed);
        publish(removed_at.map_or(mode, |index| {
            NodeMode::Removed(format!(
                "this node was removed from the cluster: it is not in the configuration of entry {index}. It serves nothing; stop \
                 it, or add it again from the leader"
            ))
        }));
        // `reached` sends nothing more once this node serves.
        let more = async {
            if reached.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        // `removed` ends with Raft, which a dispute and a quarantine stop. Those two come first, so
        // that their mode is published even if the end of Raft is seen at the same time.
        tokio::select! {
            biased;
            // Its sender ends with the node.
            _ = quarantined.changed() => {}
            // Its sender lives as long as the node.
            _ = disputes.changed() => {}
            () = more => {}
            changed = removed.changed() => if changed.is_err() { return },
        }
    }
}

/// Records on disk that this node was removed. `kept` is the current record.
///
/// After a restart the node then serves nothing either, whichever nodes it can reach.
pub(crate) async fn remember_removal(
    directory: Arc<DataDir>,
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
        let saved = tokio::task::spawn_blocking(move || place.group(GROUP).save_removed_at(known)).await;
        match saved.map_err(|error| error.to_string()).and_then(|saved| saved.map_err(|error| error.to_string())) {
            Ok(()) => kept = known,
            Err(error) => tracing::error!(error, "cannot keep on the disk that the cluster has removed this node"),
        }
    }
}

/// Takes a node out of service for good when its state differs from the cluster's.
///
/// The node serves nothing, also after a restart. Leadership goes to another node and Raft stops.
/// Process and health stay up to report the reason. The entry is stored beside the reason.
pub(crate) async fn quarantine(
    inquiry: Inquiry,
    directory: Arc<DataDir>,
    log: Log,
    machine: Machine,
    members: Members,
    cell: RaftCell,
    quarantined: watch::Sender<Option<String>>,
) {
    let Divergence { index, reason } = inquiry.run().await;
    let component = machine.component().map_or("none".into(), |component| hex(&component.hash()));
    let why = format!("{reason} (component {component})");
    tracing::error!("QUARANTINE: {why}");
    quarantined.send_replace(Some(why.clone()));
    let entry = entry_at(log, index).await;
    let saved =
        tokio::task::spawn_blocking(move || directory.group(GROUP).save_quarantined(&why, entry.as_deref())).await;
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

/// Checks the room on the disk for as long as the node lives.
pub(crate) async fn watch_space(space: Space) {
    loop {
        sleep(SPACE_PAUSE).await;
        let looked = space.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || looked.look()).await {
            tracing::error!(%error, "looking at the room on the disk failed");
        }
    }
}

/// Gives up leadership when one write of the log has taken `limit`.
///
/// A leader whose disk hangs can apply nothing and answers no client, but the other nodes could
/// continue without it.
pub(crate) async fn leave_hung_disk(log: Log, leader: LeaderWatch, members: Members, limit: Duration) {
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
pub(crate) async fn watch_core(raft: Raft, cell: RaftCell, fatal: Fatal) {
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

/// Completes when one of the tasks has panicked. Without that task the node would answer and do
/// only half of its work.
pub(crate) async fn panicked(tasks: &mut JoinSet<()>) -> String {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            return format!("a task of this node panicked: {error}");
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reason_to_serve_nothing_is_published_although_raft_ends_with_it() {
        // Each round gives the end of Raft an even chance to be seen first.
        for round in 0..64 {
            let last = std::cell::RefCell::new(None);
            let (_progress, reached) = watch::channel(NodeMode::Serving);
            let (raft_runs, removed) = watch::channel(None);
            let (quarantine, quarantined) = watch::channel(None);
            let (dispute, disputes) = watch::channel(None);
            let publishing =
                publish_mode(|mode| *last.borrow_mut() = Some(mode), reached, removed, quarantined, disputes);
            let happening = async {
                if round % 2 == 0 {
                    dispute.send_replace(Some("two of it".to_owned()));
                } else {
                    quarantine.send_replace(Some("another state".to_owned()));
                }
                drop(raft_runs);
            };
            tokio::join!(biased; publishing, happening);
            let expected = if round % 2 == 0 {
                NodeMode::Disputed("two of it".into())
            } else {
                NodeMode::Quarantined("another state".into())
            };
            assert_eq!(last.into_inner(), Some(expected), "round {round}");
        }
    }

    #[tokio::test]
    async fn a_task_that_panics_is_noticed_and_one_that_ends_is_not() {
        let mut tasks = JoinSet::new();
        tasks.spawn(async {});
        let ended = tokio::time::timeout(Duration::from_millis(50), panicked(&mut tasks)).await;
        assert!(ended.is_err(), "{ended:?}");
        tasks.spawn(async { panic!("a bug") });
        assert!(panicked(&mut tasks).await.contains("a bug"));
    }
}
