//! The mode of a group: what this node may do with it now. It follows the group's progress after a
//! start, removals, disputes and quarantines. It refuses no call; whoever serves one asks.

use openraft::async_runtime::WatchReceiver;
use tokio::sync::watch;

use crate::machine::Machine;
use crate::raft::{ClusterCell, Raft};
use crate::store::{Log, Seen};
use crate::types::{Fatal, NodeMode};

/// What the mode follows.
pub(super) struct Parts {
    pub(super) machine: Machine,
    pub(super) cluster: ClusterCell,
    pub(super) raft: Raft,
    pub(super) log: Log,
    /// The last entry that was committed before the start and that the state lacked then.
    pub(super) replays_to: u64,
    pub(super) fatal: Fatal,
    /// The removal from the cluster, as `standing` finds it.
    pub(super) removed: watch::Receiver<Option<u64>>,
    /// Why the state may not be shown, once that was found.
    pub(super) quarantined: watch::Receiver<Option<String>>,
}

/// Maintains this node's mode.
///
/// A node serves once it is in a cluster and its state has reached everything that its readers may
/// have seen before this start. So local reads never go backwards. It stops serving when the
/// cluster has removed it.
pub(super) async fn keep(parts: Parts) {
    let Parts { machine, cluster, raft, log, replays_to, fatal, removed, quarantined } = parts;
    let (progress, reached) = watch::channel(applying_up_to(replays_to));
    let disputes = cluster.disputes();
    let catching_up = async {
        // From here on, what the state lacks is not known to be committed.
        machine.wait_applied(replays_to).await;
        catch_up(&machine, cluster, raft, log, fatal, progress).await;
    };
    let publish = |mode| machine.set_mode(mode);
    tokio::join!(catching_up, publish_mode(publish, reached, removed, quarantined, disputes));
}

fn applying_up_to(index: u64) -> NodeMode {
    NodeMode::CatchingUp(format!(
        "the node is starting; it applies what was committed before the restart, up to entry {index}"
    ))
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
    progress.send_replace(applying_up_to(index));
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
}
