//! What stands before every handler of the peer port: is the message for this node, from its cluster, from the one process of its sender
//! that takes part, and of numbers that a peer can have? Changes nothing and hands nothing on.

use std::sync::Arc;

use openraft::EntryPayload;
use openraft::raft::AppendEntriesRequest;
use tonic::{Response, Status};

use crate::logs::Sparse;
use crate::raft::service::Refuses;
use crate::raft::wire::{self, WireError};
use crate::raft::{ClusterCell, Process, Raft, RaftCell, bounds, peer};
use crate::types::{NodeId, TypeConfig, Vote};

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) me: NodeId,
    pub(super) cluster: ClusterCell,
    pub(super) raft: RaftCell,
    pub(super) refuses_entries: Refuses,
    /// Lines about refused messages.
    pub(super) refusals: Arc<Sparse>,
}

impl Gate {
    /// Commands would fill the rest of a disk that is full; what holds the cluster together (votes, blank and membership entries)
    /// goes on. The leader tries again, as with a node that does not answer.
    pub(super) fn check_room(&self, request: &AppendEntriesRequest<TypeConfig>) -> Result<(), Status> {
        let bytes = |entry: &crate::types::Entry| match &entry.payload {
            EntryPayload::Normal(data) => data.0.len() as u64,
            EntryPayload::Blank | EntryPayload::Membership(_) => 0,
        };
        let commands: u64 = request.entries.iter().map(bytes).sum();
        match (commands > 0).then(|| (self.refuses_entries)(commands)).flatten() {
            None => Ok(()),
            Some(why) => Err(Status::resource_exhausted(why)),
        }
    }

    /// Who sent a message, if it may. Waits only where a process has come in another one's place.
    pub(super) async fn check(&self, route: Option<&peer::Route>) -> Result<NodeId, Status> {
        let (from, process) = self.check_route(route)?;
        self.cluster.processes().admit(from, process).await?;
        Ok(from)
    }

    /// The same of a later message on a stream whose first one has passed.
    pub(super) fn check_again(&self, route: Option<&peer::Route>) -> Result<NodeId, Status> {
        let (from, process) = self.check_route(route)?;
        self.cluster.processes().admit_now(from, process)?;
        Ok(from)
    }

    fn check_route(&self, route: Option<&peer::Route>) -> Result<(NodeId, Process), Status> {
        let from = self.cluster.check(route, self.me).inspect_err(|error| self.tell(error))?;
        Ok((from, route.map(Process::of).unwrap_or_default()))
    }

    pub(super) async fn raft(&self, route: Option<&peer::Route>) -> Result<(NodeId, Arc<Raft>), Status> {
        let from = self.check(route).await?;
        let raft = self.raft.get();
        let raft = raft.ok_or_else(|| Status::failed_precondition("this node runs no Raft instance at the moment"))?;
        Ok((from, raft))
    }

    /// The same of a request for a vote.
    pub(super) async fn candidate(&self, route: Option<&peer::Route>) -> Result<(NodeId, Arc<Raft>), Status> {
        let (from, raft) = self.raft(route).await?;
        self.cluster.processes().admit_to_vote(from, route.map(Process::of).unwrap_or_default()).await?;
        Ok((from, raft))
    }

    /// What a message holds, if it can mean anything.
    pub(super) fn read<T>(&self, decoded: Result<T, WireError>) -> Result<T, Status> {
        Ok(decoded.inspect_err(|error| self.tell(error))?)
    }

    /// Whether a vote is its sender's own, and one that an election can have brought. Called before it is saved.
    pub(super) fn check_vote(&self, raft: &Raft, from: NodeId, vote: &Vote) -> Result<(), Status> {
        self.read(wire::check_vote(from, vote).and_then(|()| bounds::check_vote_of_peer(raft, vote)))
    }

    /// An answer that says which process gives it.
    pub(super) fn answer<T>(&self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        self.cluster.processes().sign(response.metadata_mut());
        response
    }

    fn tell(&self, error: &dyn std::error::Error) {
        if let Some(left_out) = self.refusals.due() {
            tracing::warn!(%error, left_out, "refused a peer message");
        }
    }
}
