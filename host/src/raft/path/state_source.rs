//! Hands this node's state to a member that is made anew, and to nobody else: as the frames of a
//! backup, after a read of the leader's commit index. It makes no frames itself.

use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::read::ReadIndex;
use crate::machine::{Machine, SnapshotError};
use crate::raft::RaftCell;
use crate::raft::membership::{removal, standing};
use crate::raft::peers::attended::{STALLED_AFTER, attended};
use crate::raft::peers::handlers::{StateFrames, StateSource};
use crate::types::NodeId;

/// Longest time until this node has applied what was acknowledged before the call.
const BARRIER_TIMEOUT: Duration = Duration::from_secs(20);

/// Answers `FetchState` of the peer service. Cheap to clone.
#[derive(Clone)]
pub struct Source {
    reads: ReadIndex,
    machine: Machine,
    raft: RaftCell,
}

impl Source {
    /// Hands out the state of `machine`. `reads` finds the index that it must have reached, and
    /// `raft` says who is a member.
    pub fn new(reads: ReadIndex, machine: Machine, raft: RaftCell) -> Source {
        Source { reads, machine, raft }
    }

    async fn frames(self, from: NodeId) -> Result<StateFrames, Status> {
        let raft =
            self.raft.get().ok_or_else(|| Status::failed_precondition("it runs no Raft instance at the moment"))?;
        if let Some(index) = standing::removed_at(&raft, from) {
            return Err(removal::refusal(from, index));
        }
        let deadline = Instant::now() + BARRIER_TIMEOUT;
        let index = self.reads.read_index(deadline).await.map_err(|error| Status::unavailable(error.to_string()))?;
        let applied = timeout_at(deadline, self.machine.wait_applied(index)).await;
        applied.map_err(|_| Status::unavailable(format!("it did not apply index {index} in time")))?;
        let peer = format!("node {from:016x}");
        let sending = self.machine.snapshots().back_up(&peer).await.map_err(refusal)?;
        Ok(attended(sending, peer, STALLED_AFTER).boxed())
    }
}

impl StateSource for Source {
    fn fetch_state(&self, from: NodeId) -> BoxFuture<'static, Result<StateFrames, Status>> {
        self.clone().frames(from).boxed()
    }
}

/// Returns the status of a backup that is not made.
pub fn refusal(error: SnapshotError) -> Status {
    let text = error.to_string();
    match error {
        SnapshotError::BackingUp => Status::resource_exhausted(text),
        SnapshotError::Empty | SnapshotError::NoComponent | SnapshotError::Mode(_) => Status::failed_precondition(text),
        _ => Status::internal(text),
    }
}
