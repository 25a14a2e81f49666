//! What a node does unasked: the genesis entry of a new cluster, its own mode, a look at the room on the disk now and then, and ending
//! the process when Raft's core has ended. Each duty is one loop; none talks to a client.

use crate::codec::entry;
use crate::machine::Machine;
use crate::node::admission::Admission;
use crate::raft::proposer::Written;
use crate::raft::{ClusterCell, LeaderWatch, Proposer, Raft, RaftCell};
use crate::store::Space;
use crate::types::{Fatal, LogId, NodeMode};
use openraft::async_runtime::WatchReceiver;
use tokio::time::{Duration, sleep};

/// Before a genesis entry that was not applied is proposed again.
const GENESIS_RETRY: Duration = Duration::from_millis(100);

/// Between two looks at the room on the disk. A disk of a gigabyte a second fills half of the default `--min_free_bytes` meanwhile.
const SPACE_PAUSE: Duration = Duration::from_millis(250);

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

/// A node serves once it is in a cluster and has applied what its last run knew to be committed: local reads never go backwards.
pub(crate) async fn keep_mode(machine: Machine, cluster: ClusterCell, raft: Raft, committed_hint: Option<LogId>) {
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
    if let Some(hint) = committed_hint {
        let why = format!("applying what was committed before the restart, up to entry {}", hint.index);
        machine.set_mode(NodeMode::CatchingUp(why));
        machine.wait_applied(hint.index).await;
    }
    machine.set_mode(NodeMode::Serving);
    tracing::info!(index = machine.applied_index(), "ready");
    notice_removal(machine, raft).await;
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

/// Looks at the room on the disk, for as long as the node lives.
pub(crate) async fn watch_space(space: Space) {
    loop {
        sleep(SPACE_PAUSE).await;
        let looked = space.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || looked.look()).await {
            tracing::error!(%error, "looking at the room on the disk failed");
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
