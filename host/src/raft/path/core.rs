//! Implements the traits of the command path with openraft and the machine: how entries are
//! proposed and read indexes obtained. Owns the meaning of openraft's write errors ("not proposed"
//! or "unknown") and nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use openraft::ReadPolicy;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use tokio::time::Instant;

use super::proposer::{Core, Written};
use super::read::{LocalIndex, RoundError};
use super::ticket::NotProposed;
use crate::machine::{Admitted, EntrySpent, Machine};
use crate::raft::Raft;
use crate::raft::peers::acks::Acks;
use crate::store::Log;
use crate::types::{CommittedLeaderId, EntryData, NodeId, TypeConfig};

type DataMetrics = openraft::alias::WatchReceiverOf<TypeConfig, openraft::metrics::RaftDataMetrics<TypeConfig>>;

/// openraft and the machine, as the proposer and readers see them.
#[derive(Clone)]
pub struct RaftCore {
    raft: Raft,
    machine: Machine,
    log: Log,
    me: NodeId,
    acks: Acks,
    metrics: DataMetrics,
}

impl RaftCore {
    /// Creates a core from this node's Raft, machine and log. `acks` are those of Raft's network.
    pub fn new(raft: Raft, machine: Machine, log: Log, me: NodeId, acks: Acks) -> RaftCore {
        let metrics = raft.data_metrics();
        RaftCore { raft, machine, log, me, acks, metrics }
    }
}

impl Core for RaftCore {
    fn entries_behind(&self) -> u64 {
        let last = self.metrics.borrow_watched().last_log.map_or(0, |id| id.index);
        last.saturating_sub(self.machine.applied_index())
    }

    fn refuses_commands(&self) -> Option<String> {
        self.machine.space().refuses_commands()
    }

    fn admit(&self, method: &str) -> Result<Admitted, String> {
        self.machine.admit(method)
    }

    fn writing_for(&self) -> Duration {
        self.log.writing_for()
    }

    fn applying_for(&self) -> Duration {
        self.machine.applying_for()
    }

    fn take_spent(&self, index: u64) -> EntrySpent {
        self.machine.take_spent(index)
    }

    fn log_time_ms(&self) -> u64 {
        self.machine.applied().borrow().time_ms
    }

    fn hash_tip(&self) -> (u64, u64) {
        self.machine.hash_tip()
    }

    fn write(&self, term: u64, data: EntryData) -> BoxFuture<'static, Written> {
        let leader = CommittedLeaderId { term, node_id: self.me };
        let raft = self.raft.clone();
        async move {
            let (responder, completed) = ProgressResponder::complete_only();
            if raft.write(data).with_leader(leader).responder(responder).await.is_err() {
                return Err(NotProposed::Stopping);
            }
            match completed.await {
                Ok(result) => written(result),
                // Raft stopped while it held the entry.
                Err(_) => Ok(None),
            }
        }
        .boxed()
    }
}

fn written(result: ClientWriteResult<TypeConfig>) -> Written {
    match result {
        Ok(response) => Ok(Some(response.log_id.index)),
        // Rejected before it was appended, whatever the reason: not the leader, a transfer, no
        // fresh quorum.
        Err(ClientWriteError::ForwardToLeader(_)) => Err(NotProposed::NotLeader),
        Err(ClientWriteError::LogEntryDiscarded(_)) => Ok(None),
        Err(error @ (ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_))) => {
            tracing::error!(%error, "an entry of commands was answered as if it were a membership change");
            Ok(None)
        }
    }
}

impl LocalIndex for RaftCore {
    fn read_index(&self) -> BoxFuture<'static, Result<u64, RoundError>> {
        let (raft, acks, me) = (self.raft.clone(), self.acks.clone(), self.me);
        async move {
            let since = Instant::now();
            let linearizer = match raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
                Ok(linearizer) => linearizer,
                Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => {
                    return Err(RoundError::NotLeader);
                }
                Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                    return Err(RoundError::NoQuorum);
                }
                Err(RaftError::Fatal(fatal)) => return Err(RoundError::Failed(fatal.to_string())),
            };
            // The index covers what this leader had committed when it was asked. Whether a quorum
            // followed it then is counted here: openraft credits an acknowledgement with the time
            // of the newest request that it may answer.
            let read = linearizer.read_log_id();
            let (term, index) = (read.committed_leader_id().term, read.index());
            acks.quorum(me, term, since, &voters(&raft)).await;
            Ok(index)
        }
        .boxed()
    }
}

/// Returns the voters of each config of the membership in force.
fn voters(raft: &Raft) -> Vec<BTreeSet<NodeId>> {
    let metrics = raft.server_metrics();
    // Cloned at once: a borrow that is held would stop the core.
    let membership = metrics.borrow_watched().membership_config.clone();
    membership.get_joint_config().clone()
}
