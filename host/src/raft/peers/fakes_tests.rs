//! What the peer port passes messages to in tests: it counts those that pass the gate, and answers
//! so that a test sees what came.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::machine::RollbackTrial;
use crate::raft::peers::handlers::{
    ChangeHandler, ForwardHandler, Forwarder, LeaderHandler, StateFrames, StateHashes, StateSource, Trial,
};
use crate::raft::peers::install::{Answers, Frames, SnapshotHandler};

/// Counts the messages that pass the gate.
#[derive(Clone, Default)]
pub(super) struct Reached(Arc<AtomicUsize>);

impl Reached {
    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl SnapshotHandler for Reached {
    fn install(&self, _raft: Arc<Raft>, _from: NodeId, _header: peer::SnapshotHeader, _frames: Frames) -> Answers {
        self.0.fetch_add(1, Ordering::SeqCst);
        stream::empty().boxed()
    }
}

impl ForwardHandler for Reached {
    fn forward(
        &self,
        from: Forwarder,
        requests: BoxStream<'static, Result<peer::ForwardRequest, Status>>,
    ) -> BoxStream<'static, Result<peer::ForwardResponse, Status>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        requests
            .map(move |request| {
                request.map(|request| peer::ForwardResponse {
                    counter: u64::from(from.is_proven),
                    leader_term: request.leader_term,
                    result: None,
                })
            })
            .boxed()
    }
}

impl LeaderHandler for Reached {
    fn read_index(&self, from: NodeId) -> BoxFuture<'static, Result<u64, Status>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move { Ok(from * 10) })
    }
    fn pass_time(&self, from: NodeId, until_ms: u64) -> BoxFuture<'static, Result<u64, Status>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move { Ok(from * 10 + until_ms) })
    }
}

impl StateSource for Reached {
    fn fetch_state(&self, from: NodeId) -> BoxFuture<'static, Result<StateFrames, Status>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let frame = Bytes::from(format!("state for {from}"));
        Box::pin(async move { Ok(stream::iter([Ok(frame)]).boxed()) })
    }
}

impl ChangeHandler for Reached {
    fn object(&self, _: &crate::codec::entry::Operation) -> Option<String> {
        None
    }
    fn prepare(
        &self,
        from: NodeId,
        _: Change,
        holder: Addresses,
    ) -> BoxFuture<'static, Result<PreparedChange, String>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let build = format!("fetches from {} at {}", holder.name, holder.raft_addr);
        Box::pin(async move { Ok(PreparedChange { build, log_first: from }) })
    }
    fn rehearse(&self, trial: Trial) -> BoxFuture<'static, Result<String, String>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            match trial.first < trial.index {
                true => Ok(format!("[{}, {}]", trial.first, trial.index)),
                false => Err("it has no such checkpoint".into()),
            }
        })
    }
    fn prepare_rollback(&self, trial: RollbackTrial) -> BoxFuture<'static, Result<String, String>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move { trial.at.map(|at| format!("[{at}]")).ok_or_else(|| "it has no such checkpoint".into()) })
    }
}

/// Knows no hash.
pub(super) struct NoStates;

impl StateHashes for NoStates {
    fn hash_at(&self, _: u64) -> Option<u64> {
        None
    }

    fn compare_hash(&self, _: u64, _: u64) {}
}
