//! Ends a group's Raft: hands leadership over, and stops it. Also stops it at the start of a group
//! that takes no part. Ends no process.

use crate::machine::Machine;
use crate::raft::{Members, RaftCell};
use crate::types::NodeMode;

/// Hands leadership to a node that can take it, if this node leads and is not the only voter.
pub(crate) async fn hand_over(members: &Members, raft: &RaftCell) {
    let Some(raft) = raft.get() else { return };
    if !raft.is_leader() || raft.voter_ids().count() < 2 {
        return;
    }
    match members.transfer_leadership().await {
        Ok(()) => tracing::info!("leadership is handed over"),
        Err(error) => tracing::info!(%error, "stopping as leader; the others elect one"),
    }
}

/// Stops the Raft group, once. Empties the cell first, so that `watch_core` sees that the stop is
/// intended.
pub(crate) async fn stop_raft(cell: &RaftCell) -> Result<(), String> {
    let Some(raft) = cell.get() else { return Ok(()) };
    cell.clear();
    raft.shutdown().await.map_err(|error| format!("Raft's core did not stop cleanly: {error}"))
}

/// Holds a node that takes no part in its cluster. Nobody is served. Raft, which has received no
/// message yet, stops.
///
/// The parts that only report the node's mode continue.
pub(super) async fn hold(mode: &NodeMode, machine: &Machine, cell: &RaftCell) -> anyhow::Result<()> {
    tracing::error!("this node takes no part in its cluster: {mode}");
    machine.set_mode(mode.clone());
    stop_raft(cell).await.map_err(anyhow::Error::msg)
}
