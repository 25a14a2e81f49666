//! What a node does unasked: the genesis entry of a new cluster, its own mode, and ending the process when Raft's core has ended.
//! Each duty is one loop that waits for a change; none polls the disk or talks to a client.

use crate::codec::entry;
use crate::machine::Machine;
use crate::node::admission::Admission;
use crate::raft::proposer::Written;
use crate::raft::{ClusterCell, LeaderWatch, Proposer, Raft, RaftCell};
use crate::store::{Log, Seen};
use crate::types::{Fatal, NodeMode};
use openraft::async_runtime::WatchReceiver;
use tokio::time::{Duration, sleep};

/// Before a genesis entry that was not applied is proposed again.
const GENESIS_RETRY: Duration = Duration::from_millis(100);

/// While this node leads a cluster that has no genesis entry yet, proposes one. A second one changes nothing.
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

/// A node serves once it is in a cluster and its state has reached all that its readers may have seen before this start: local reads
/// never go backwards.
pub(crate) async fn keep_mode(machine: Machine, cluster: ClusterCell, raft: Raft, log: Log, fatal: Fatal) {
    if cluster.get().is_none() {
        let why = "this node has not joined a cluster yet; add it with `lockstep admin <the leader's grpc_addr> add_voter \
                   <its raft_id> <its raft_addr>`";
        machine.set_mode(NodeMode::CatchingUp(why.into()));
        cluster.joined().await;
    }
    // A joiner's first reads wait for the genesis entry, without which it would serve an empty state.
    machine.set_mode(NodeMode::CatchingUp("the cluster's log has not reached this node yet".into()));
    let mut genesis = machine.genesis_applied();
    if genesis.wait_for(|applied| *applied).await.is_err() {
        return;
    }
    let Some(index) = index_to_reach(&machine, &raft, log.seen_before()).await else { return };
    let why = format!("applying what was committed before the restart, up to entry {index}");
    machine.set_mode(NodeMode::CatchingUp(why));
    machine.wait_applied(index).await;
    if let Err(error) = log.note_recovered() {
        return fatal.raise(error.to_string());
    }
    machine.set_mode(NodeMode::Serving);
    tracing::info!(index = machine.applied_index(), "ready");
    notice_removal(machine, raft).await;
}

/// The index at which the state holds all that readers may have seen before this start. After a crash of the machine only a leader
/// can tell what of the log's end was committed. `None` when Raft has stopped.
async fn index_to_reach(machine: &Machine, raft: &Raft, seen: Seen) -> Option<u64> {
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
    machine.set_mode(NodeMode::CatchingUp(why));
    let mut metrics = raft.metrics();
    loop {
        {
            let now = metrics.borrow_watched();
            // What a leader has told this process, never what the disk had. All that was applied here was committed, and stands in
            // every later leader's log: once the commit reaches the end of ours, cut to that leader's or not, it covers all of it.
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

/// A node outside the configuration that it has applied stops serving and says so: nobody sends it entries any more.
async fn notice_removal(machine: Machine, raft: Raft) {
    let mut metrics = raft.metrics();
    let mut was_member = true;
    loop {
        let is_member = {
            let now = metrics.borrow_watched();
            now.membership_config.membership().get_node(&now.id).is_some()
        };
        if is_member != was_member {
            was_member = is_member;
            tracing::warn!(is_member, "this node's place in the configuration changed");
            machine.set_mode(match is_member {
                true => NodeMode::Serving,
                false => NodeMode::CatchingUp(
                    "this node is not in the cluster's configuration: it was removed, or is not added yet".into(),
                ),
            });
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// Ends the node when Raft's core has stopped without being asked to: a node that answers but does not replicate is worse than none.
pub(crate) async fn watch_core(raft: Raft, cell: RaftCell, fatal: Fatal) {
    let mut metrics = raft.metrics();
    loop {
        let running = metrics.borrow_watched().running_state.clone();
        if let Err(error) = running {
            // The cell is emptied before a stop that is meant.
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
