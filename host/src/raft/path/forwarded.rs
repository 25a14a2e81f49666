//! Serves the leader's side of `forward`: commands and read requests that other nodes took. Each
//! command is proposed in the term it was meant for, or answered "not proposed". None is queued for
//! a later term and none is forwarded again. Never answers a client.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use lockstep_proto::peer;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::proposer::Proposer;
use super::read::{ReadIndex, RoundError};
use super::ticket::NotProposed;
use super::wire::encode_end;
use crate::codec::Command;
use crate::machine::{Fate, Waiters};
use crate::raft::RaftCell;
use crate::raft::liveness::leader::LeaderWatch;
use crate::raft::membership::{removal, standing};
use crate::raft::peers::handlers::{ForwardHandler, Forwarder, LeaderHandler};
use crate::raft::time::clock::Clock;
use crate::types::{CommittedLeaderId, NodeId, Origin};

/// Most commands of one node that wait for their outcome here. At this limit the stream is not read
/// further.
const COMMANDS_MAX: usize = 16_384;
/// Most answers that wait for the transport.
const ANSWERS_MAX: usize = 256;
/// Longest time that a forwarded command waits, whatever its message says.
const TIMEOUT_MAX: Duration = Duration::from_mins(10);

/// Answers `Forward`, `ReadIndex` and `PassTime` of the peer service. Cheap to clone.
#[derive(Clone)]
pub struct Forwarded(Arc<ForwardedParts>);

/// The parts that serve this node's own clients, too.
pub struct ForwardedParts {
    /// This node.
    pub me: NodeId,
    /// Who leads.
    pub leader: LeaderWatch,
    /// Makes entries of the commands.
    pub proposer: Proposer,
    /// Where outcomes arrive.
    pub waiters: Waiters,
    /// Finds the index that a read waits for.
    pub reads: ReadIndex,
    /// Lets log time pass.
    pub clock: Clock,
    /// The Raft instance, while it runs.
    pub raft: RaftCell,
}

impl Forwarded {
    /// Creates the service.
    pub fn new(parts: ForwardedParts) -> Forwarded {
        Forwarded(Arc::new(parts))
    }

    /// Returns the index of the configuration in which `from` is missing. `None` while it is a
    /// member.
    fn removed_at(&self, from: NodeId) -> Option<u64> {
        standing::removed_at(&*self.0.raft.get()?, from)
    }

    /// Answers another member, if this node leads.
    fn as_leader(
        &self,
        from: NodeId,
        answer: impl Future<Output = Result<u64, RoundError>> + Send + 'static,
    ) -> BoxFuture<'static, Result<u64, Status>> {
        let leads = self.0.leader.current().is_some_and(|leader| leader.is_me);
        let removed_at = self.removed_at(from);
        async move {
            if let Some(index) = removed_at {
                return Err(removal::refusal(from, index));
            }
            let not_leader = || Status::failed_precondition("this node does not lead");
            if !leads {
                return Err(not_leader());
            }
            answer.await.map_err(|error| match error {
                RoundError::NotLeader => not_leader(),
                error => Status::unavailable(error.to_string()),
            })
        }
        .boxed()
    }

    /// Serves one stream, until it has ended and all its commands are answered, or nobody takes the
    /// answers: the other node is gone, or this one serves the group no more. Then the commands
    /// that are proposed run, and the others are withdrawn with their tickets.
    async fn serve(
        self,
        from: Forwarder,
        mut requests: Requests,
        answers: mpsc::Sender<Result<peer::ForwardResponse, Status>>,
    ) {
        let mut running = FuturesUnordered::new();
        let mut open = true;
        while open || !running.is_empty() {
            let answer = tokio::select! {
                biased;
                Some(response) = running.next(), if !running.is_empty() => Ok(response),
                request = requests.next(), if open && running.len() < COMMANDS_MAX => match request.map(accept) {
                    Some(Ok(accepted)) => {
                        running.push(self.clone().run(from, accepted));
                        continue;
                    }
                    Some(Err(status)) => {
                        open = false;
                        Err(status)
                    }
                    None => {
                        open = false;
                        continue;
                    }
                },
                () = answers.closed() => return,
            };
            if answers.send(answer).await.is_err() {
                return;
            }
        }
    }

    async fn run(self, from: Forwarder, accepted: Accepted) -> peer::ForwardResponse {
        let (counter, leader_term) = (accepted.origin.counter, accepted.request.leader_term);
        let result = encode_end(self.end(from, accepted).await);
        peer::ForwardResponse { counter, leader_term, result }
    }

    /// Returns how the command ended. After [`Fate::Unknown`] only the other node itself can learn
    /// more.
    async fn end(&self, sender: Forwarder, accepted: Accepted) -> Result<Fate, NotProposed> {
        let from = sender.node;
        if from != accepted.origin.node {
            tracing::error!(from, origin = accepted.origin.node, "a node forwarded a command that another one took");
            return Err(NotProposed::NotLeader);
        }
        if let Some(index) = self.removed_at(from) {
            return Err(NotProposed::Removed { index });
        }
        if !sender.is_proven && !accepted.command.caller.is_empty() {
            return Err(NotProposed::CallerUnproven);
        }
        let term = accepted.request.leader_term;
        let mut waiter = self.0.waiters.register(accepted.origin);
        if !waiter.sent_under(CommittedLeaderId { term, node_id: self.0.me }) {
            return Err(NotProposed::NotLeader);
        }
        let mut ticket = self.0.proposer.propose(term, accepted.command, accepted.deadline)?;
        tokio::select! {
            biased;
            fate = waiter.fate() => match fate {
                // The command may still be queued here for the old term. Dropping the ticket takes
                // it back.
                Fate::NotRun => Err(NotProposed::NotLeader),
                fate => Ok(fate),
            },
            answer = ticket.answer() => answer.map(Fate::Outcome),
            () = sleep_until(accepted.deadline) => match ticket.withdraw() {
                true => Err(NotProposed::Expired),
                false => Ok(Fate::Unknown),
            },
        }
    }
}

impl ForwardHandler for Forwarded {
    fn forward(
        &self,
        from: Forwarder,
        requests: Requests,
    ) -> BoxStream<'static, Result<peer::ForwardResponse, Status>> {
        let (answers, receiver) = mpsc::channel(ANSWERS_MAX);
        tokio::spawn(self.clone().serve(from, requests, answers));
        ReceiverStream::new(receiver).boxed()
    }
}

impl LeaderHandler for Forwarded {
    fn read_index(&self, from: NodeId) -> BoxFuture<'static, Result<u64, Status>> {
        let parts = self.0.clone();
        self.as_leader(from, async move { parts.reads.confirm().await })
    }

    fn pass_time(&self, from: NodeId, until_ms: u64) -> BoxFuture<'static, Result<u64, Status>> {
        let parts = self.0.clone();
        self.as_leader(from, async move { parts.clock.append(until_ms).await })
    }
}

type Requests = BoxStream<'static, Result<peer::ForwardRequest, Status>>;

/// A forwarded command, decoded.
struct Accepted {
    request: peer::ForwardRequest,
    command: Command,
    origin: Origin,
    deadline: Instant,
}

/// Decodes a forwarded command. A message that cannot be read ends the stream: it names no command
/// to answer.
fn accept(request: Result<peer::ForwardRequest, Status>) -> Result<Accepted, Status> {
    let request = request?;
    let command = Command::decode(request.command.clone())
        .map_err(|error| Status::invalid_argument(format!("a forwarded command cannot be read: {error}")))?;
    let origin =
        command.origin.as_ref().ok_or_else(|| Status::invalid_argument("a forwarded command has no origin"))?.into();
    let deadline = Instant::now() + Duration::from_millis(request.timeout_ms).min(TIMEOUT_MAX);
    Ok(Accepted { request, command, origin, deadline })
}
