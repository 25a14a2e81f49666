//! What operators ask of the leader alone: that it leads, that it has applied its log, that it
//! moves log time. On another node each of them ends with the leader's addresses.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use super::{CallError, Calls, DEADLINE_DEFAULT};
use crate::raft::LeaderView;
use crate::raft::figures::RaftStatus;
use crate::raft::path::read::RoundError;

/// Longest time for a call on the leader that only waits for the log.
const BARRIER_TIMEOUT: Duration = Duration::from_secs(60);

impl Calls {
    /// Returns the leader if it is this node. While no leader is known, it waits as long as an
    /// election may take, because scripts ask a node that has just started.
    pub async fn require_leader(&self) -> Result<LeaderView, CallError> {
        match self.0.parts.leader.clone().wait(Instant::now() + self.0.parts.election_timeout).await {
            Some(leader) if leader.is_me => Ok(leader),
            leader => Err(CallError::NotLeader(leader.map(|leader| leader.node))),
        }
    }

    /// Confirms with a quorum that this node leads. Returns the index of the confirmation.
    pub async fn verify_leader(&self) -> Result<u64, CallError> {
        self.require_leader().await?;
        let index = self.0.parts.read.read_index(Instant::now() + BARRIER_TIMEOUT).await?;
        self.require_leader().await.map(|_| index)
    }

    /// Waits until this node has applied every entry that is in this leader's log at the call.
    pub async fn barrier(&self) -> Result<u64, CallError> {
        let leader = self.require_leader().await?;
        let deadline = Instant::now() + BARRIER_TIMEOUT;
        let committed = self.0.parts.read.read_index(deadline).await?;
        let index = committed.max(RaftStatus::of(&self.0.parts.raft, false).last_log_index);
        let mut watch = self.0.parts.leader.clone();
        let lost = async {
            while watch.leads(leader.term) {
                watch.changed().await;
            }
        };
        tokio::select! {
            // When both are true, the entries were applied under this leader.
            biased;
            () = self.0.parts.machine.wait_applied(index) => Ok(index),
            () = lost => Err(CallError::LeadershipLost),
            () = sleep_until(deadline) => Err(CallError::BarrierBehind { index, waited: BARRIER_TIMEOUT }),
        }
    }

    /// Moves log time to `time_ms`, in milliseconds since 1970, whatever the clocks say. Returns
    /// the index of the entry that moves it.
    pub async fn set_log_time(&self, time_ms: u64) -> Result<u64, CallError> {
        let set = timeout(DEADLINE_DEFAULT, self.0.parts.clock.set(time_ms)).await;
        set.unwrap_or(Err(RoundError::NoQuorum)).map_err(CallError::LogTime)
    }
}
