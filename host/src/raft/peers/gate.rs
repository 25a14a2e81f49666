//! Checks every message before the handlers of a group get it: the message must be for this node
//! and this group, from its cluster, from the node that the sender's certificate names, from the
//! one process of it that takes part, and its numbers must be possible. Changes nothing and
//! forwards nothing.

use std::sync::Arc;

use lockstep_proto::peer;
use openraft::EntryPayload;
use openraft::raft::AppendEntriesRequest;
use tonic::Status;

use super::bounds;
use super::wire;
use super::wire_error::WireError;
use crate::logs::Sparse;
use crate::net::Remote;
use crate::raft::{GroupCell, Process, Raft, RaftCell};
use crate::types::{NodeId, TypeConfig, Vote};

/// Returns why that many bytes of commands are refused now, if they are.
pub type Refuses = Arc<dyn Fn(u64) -> Option<String> + Send + Sync>;

/// Checks the peer messages of one group. Cheap to clone.
#[derive(Clone)]
pub(in crate::raft) struct Gate {
    pub(in crate::raft) me: NodeId,
    pub(in crate::raft) cluster: GroupCell,
    pub(in crate::raft) raft: RaftCell,
    pub(in crate::raft) refuses_entries: Refuses,
    /// Limits the log lines about refused messages.
    pub(in crate::raft) refusals: Arc<Sparse>,
}

impl Gate {
    /// Refuses commands when the disk is too full for them. Votes, blank entries and membership
    /// entries hold the cluster together and are accepted. The leader tries again, as with a node
    /// that does not answer.
    pub(in crate::raft) fn check_room(&self, request: &AppendEntriesRequest<TypeConfig>) -> Result<(), Status> {
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

    /// Returns the sender of a message, if `by`, who has sent it, may speak as the sender. Waits
    /// only when a process has replaced another one.
    pub(in crate::raft) async fn check(&self, route: Option<&peer::Route>, by: &Remote) -> Result<NodeId, Status> {
        let (from, process) = self.check_route(route, by)?;
        self.cluster.processes().admit(from, process).await?;
        Ok(from)
    }

    /// Applies [`Gate::check`] to a later message on a stream whose first message has passed.
    pub(in crate::raft) fn check_again(&self, route: Option<&peer::Route>, by: &Remote) -> Result<NodeId, Status> {
        let (from, process) = self.check_route(route, by)?;
        self.cluster.processes().admit_now(from, process)?;
        Ok(from)
    }

    fn check_route(&self, route: Option<&peer::Route>, by: &Remote) -> Result<(NodeId, Process), Status> {
        let from = self.cluster.check(route, self.me).inspect_err(|error| self.tell(error))?;
        if let Some(route) = route {
            self.cluster.node().names().admit(route, by)?;
        }
        Ok((from, route.map(Process::of).unwrap_or_default()))
    }

    pub(in crate::raft) async fn raft(
        &self,
        route: Option<&peer::Route>,
        by: &Remote,
    ) -> Result<(NodeId, Arc<Raft>), Status> {
        let from = self.check(route, by).await?;
        Ok((from, self.running()?))
    }

    /// Returns the group's Raft, if it runs.
    pub(in crate::raft) fn running(&self) -> Result<Arc<Raft>, Status> {
        let raft = self.raft.get();
        raft.ok_or_else(|| Status::failed_precondition("this node runs no Raft instance at the moment"))
    }

    /// Does the same as `raft` for a request for a vote.
    pub(in crate::raft) async fn candidate(
        &self,
        route: Option<&peer::Route>,
        by: &Remote,
    ) -> Result<(NodeId, Arc<Raft>), Status> {
        let (from, raft) = self.raft(route, by).await?;
        self.cluster.processes().admit_to_vote(from, route.map(Process::of).unwrap_or_default()).await?;
        Ok((from, raft))
    }

    /// Returns the decoded message. Logs an error if its content is impossible.
    pub(in crate::raft) fn read<T>(&self, decoded: Result<T, WireError>) -> Result<T, Status> {
        Ok(decoded.inspect_err(|error| self.tell(error))?)
    }

    /// Checks that a vote is its sender's own and that elections can have led to it. Called before
    /// the vote is saved.
    pub(in crate::raft) fn check_vote(&self, raft: &Raft, from: NodeId, vote: &Vote) -> Result<(), Status> {
        self.read(wire::check_vote(from, vote).and_then(|()| Ok(bounds::check_vote_of_peer(raft, vote)?)))
    }

    fn tell(&self, error: &dyn std::error::Error) {
        if let Some(left_out) = self.refusals.due() {
            tracing::warn!(%error, left_out, "refused a peer message");
        }
    }
}
