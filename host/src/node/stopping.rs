//! What Shutdown does to a node: its Raft stops, and the process ends. Decides not when.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::api::Stop;
use crate::group::stopping::{hand_over, stop_raft};
use crate::raft::{Members, RaftCell};

/// Makes the functions that the API needs for Shutdown.
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
