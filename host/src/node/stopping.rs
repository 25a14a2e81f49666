//! The end of a node's Raft: leadership handed over, the group stopped; also before it has begun, in a node that takes no part. Ends no
//! process.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::api::Stop;
use crate::machine::Machine;
use crate::raft::{Members, RaftCell};
use crate::types::NodeMode;

/// What the API needs for Shutdown.
pub(super) fn stop_handle(members: &Members, raft: &RaftCell, exit: &Arc<Notify>) -> Stop {
    let (members, raft, exit) = (members.clone(), raft.clone(), exit.clone());
    Stop {
        raft: Arc::new(move || {
            let (members, raft) = (members.clone(), raft.clone());
            Box::pin(async move {
                hand_over(&members, &raft).await;
                stop_raft(&raft).await
            })
        }),
        exit: Arc::new(move || exit.notify_one()),
    }
}

/// Gives leadership to somebody who can take it, if this node has it and there is anybody.
pub(super) async fn hand_over(members: &Members, raft: &RaftCell) {
    let Some(raft) = raft.get() else { return };
    if !raft.is_leader() || raft.voter_ids().count() < 2 {
        return;
    }
    match members.transfer_leadership().await {
        Ok(()) => tracing::info!("leadership is handed over"),
        Err(error) => tracing::info!(%error, "stopping as leader; the others elect one"),
    }
}

/// Stops the Raft group, once. Emptied first, so that the watchdog sees that it was meant.
pub(super) async fn stop_raft(cell: &RaftCell) -> Result<(), String> {
    let Some(raft) = cell.get() else { return Ok(()) };
    cell.clear();
    raft.shutdown().await.map_err(|error| format!("Raft's core did not stop cleanly: {error}"))
}

/// A node that takes no part: nobody is served, and Raft, which has heard nobody yet, stops; what only says how it stands goes on.
pub(super) async fn hold(mode: &NodeMode, machine: &Machine, cell: &RaftCell) -> anyhow::Result<()> {
    tracing::error!("this node takes no part in its cluster: {mode}");
    machine.set_mode(mode.clone());
    stop_raft(cell).await.map_err(anyhow::Error::msg)
}

/// Completes when one of the tasks has panicked: without it the node would answer and do only half of its work.
pub(super) async fn panicked(tasks: &mut JoinSet<()>) -> String {
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
    use std::time::Duration;

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
