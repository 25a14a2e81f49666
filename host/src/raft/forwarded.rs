//! The leader's side of a hop: commands and read requests that other nodes took. Each is proposed in the term it was meant for or
//! answered "not proposed"; none is queued for a later term and none goes further. Never answers a client.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt};
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::ClusterCell;
use super::hop::{encode_not_proposed, encode_outcome};
use super::leader::LeaderWatch;
use super::peer::{self, forward_response};
use super::proposer::Proposer;
use super::read::ReadIndex;
use super::ticket::{Answer, NotProposed};
use crate::codec::Command;
use crate::machine::{Fate, Waiters};
use crate::types::{NodeId, Origin};

/// Commands of one node that wait for their outcome here, at most; the stream is not read beyond.
const COMMANDS_MAX: usize = 16_384;
/// Answers that wait for the transport.
const ANSWERS_MAX: usize = 256;
/// A forwarded command waits at most this long, whatever its message says.
const TIMEOUT_MAX: Duration = Duration::from_mins(10);

/// Answers `Forward` and `ReadIndex` of the peer service. Cheap to clone.
#[derive(Clone)]
pub struct Forwarded(Arc<Parts>);

struct Parts {
    me: NodeId,
    cluster: ClusterCell,
    leader: LeaderWatch,
    proposer: Proposer,
    waiters: Waiters,
    reads: ReadIndex,
}

impl Forwarded {
    /// Over the parts that serve this node's own clients, too.
    pub fn new(
        me: NodeId,
        cluster: ClusterCell,
        leader: LeaderWatch,
        proposer: Proposer,
        waiters: Waiters,
        reads: ReadIndex,
    ) -> Forwarded {
        Forwarded(Arc::new(Parts { me, cluster, leader, proposer, waiters, reads }))
    }

    /// Serves one stream of commands. The answers come in any order, one for each command.
    pub fn forward<S>(&self, requests: S) -> ReceiverStream<Result<peer::ForwardResponse, Status>>
    where
        S: Stream<Item = Result<peer::ForwardRequest, Status>> + Send + Unpin + 'static,
    {
        let (answers, receiver) = mpsc::channel(ANSWERS_MAX);
        tokio::spawn(self.clone().serve(requests, answers));
        ReceiverStream::new(receiver)
    }

    /// The index for the readers of the node that asks. FAILED_PRECONDITION when this node does not lead.
    pub async fn read_index(&self, request: &peer::ReadIndexRequest) -> Result<peer::ReadIndexResponse, Status> {
        self.0.cluster.check(request.route.as_ref(), self.0.me)?;
        if !self.0.leader.current().is_some_and(|leader| leader.is_me) {
            return Err(Status::failed_precondition("this node does not lead"));
        }
        match self.0.reads.confirm().await {
            Ok(index) => Ok(peer::ReadIndexResponse { index }),
            Err(super::read::RoundError::NotLeader) => Err(Status::failed_precondition("this node does not lead")),
            Err(error) => Err(Status::unavailable(error.to_string())),
        }
    }

    async fn serve<S>(self, mut requests: S, answers: mpsc::Sender<Result<peer::ForwardResponse, Status>>)
    where
        S: Stream<Item = Result<peer::ForwardRequest, Status>> + Send + Unpin + 'static,
    {
        let mut running = FuturesUnordered::new();
        let mut open = true;
        while open || !running.is_empty() {
            let answer = tokio::select! {
                biased;
                Some(response) = running.next(), if !running.is_empty() => Ok(response),
                request = requests.next(), if open && running.len() < COMMANDS_MAX => match request.map(accept) {
                    Some(Ok(accepted)) => {
                        running.push(self.clone().run(accepted));
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
            };
            if answers.send(answer).await.is_err() {
                // The other node is gone; its commands that are proposed run, the others are withdrawn with their tickets.
                return;
            }
        }
    }

    async fn run(self, accepted: Accepted) -> peer::ForwardResponse {
        let counter = accepted.origin.counter;
        let result = match self.outcome(accepted).await {
            Ok(Some(outcome)) => Some(forward_response::Result::Outcome(outcome)),
            Ok(None) => None,
            Err(reason) => Some(forward_response::Result::NotProposed(encode_not_proposed(&reason))),
        };
        peer::ForwardResponse { counter, result }
    }

    /// The outcome; `None` when only the other node itself can learn the fate.
    async fn outcome(&self, accepted: Accepted) -> Result<Option<peer::Outcome>, NotProposed> {
        let from = self.0.cluster.check(accepted.request.route.as_ref(), self.0.me).map_err(|error| {
            tracing::warn!(%error, "refused a forwarded command");
            NotProposed::NotLeader
        })?;
        if from != accepted.origin.node {
            tracing::error!(from, origin = accepted.origin.node, "a node forwarded a command that another one took");
            return Err(NotProposed::NotLeader);
        }
        let term = accepted.request.leader_term;
        let mut waiter = self.0.waiters.register(accepted.origin);
        waiter.sent_under(term);
        let mut ticket = self.0.proposer.propose(term, accepted.command, accepted.deadline)?;
        tokio::select! {
            biased;
            fate = waiter.fate() => match fate {
                Fate::Outcome(outcome) => Ok(Some(encode_outcome(&outcome))),
                // Perhaps still queued here for the old term: dropping the ticket takes it back.
                Fate::NotRun => Err(NotProposed::NotLeader),
                Fate::Unknown => Ok(None),
            },
            answer = ticket.answer() => match answer {
                Answer::NotProposed(reason) => Err(reason),
                Answer::Outcome(outcome) => Ok(Some(encode_outcome(&outcome))),
            },
            () = sleep_until(accepted.deadline) => match ticket.withdraw() {
                true => Err(NotProposed::Expired),
                false => Ok(None),
            },
        }
    }
}

/// A forwarded command, decoded.
struct Accepted {
    request: peer::ForwardRequest,
    command: Command,
    origin: Origin,
    deadline: Instant,
}

/// Decodes what another node sent. A message that cannot be read ends the stream: it names no command to answer.
fn accept(request: Result<peer::ForwardRequest, Status>) -> Result<Accepted, Status> {
    let request = request?;
    let command = Command::decode(request.command.clone())
        .map_err(|error| Status::invalid_argument(format!("a forwarded command cannot be read: {error}")))?;
    let origin = command.origin.as_ref().ok_or_else(|| Status::invalid_argument("a forwarded command has no origin"))?.into();
    let deadline = Instant::now() + Duration::from_millis(request.timeout_ms).min(TIMEOUT_MAX);
    Ok(Accepted { request, command, origin, deadline })
}
