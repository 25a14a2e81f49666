//! Serves the leader's side of `forward`: commands and read requests that other nodes took. Each
//! command is proposed in the term it was meant for, or answered "not proposed". None is queued for
//! a later term and none is forwarded again. Never answers a client.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use lockstep_proto::peer;
use lockstep_proto::peer::forward_response::Result as End;
use prost::Message;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::proposer::{CLIENT_BYTES_MAX, Proposer};
use super::read::{ReadIndex, RoundError};
use super::ticket::{CLIENT_COMMAND_BYTES_MIN, NotProposed, Wait};
use super::wire::encode_end;
use crate::codec::Command;
use crate::machine::{Fate, Waiters};
use crate::raft::RaftCell;
use crate::raft::liveness::leader::LeaderWatch;
use crate::raft::membership::{removal, standing};
use crate::raft::peers::handlers::{ForwardHandler, Forwarder, LeaderHandler};
use crate::raft::time::clock::Clock;
use crate::source::Party;
use crate::types::{CommittedLeaderId, NodeId, Origin};

/// Most commands of one node that wait for their outcome here. At this limit the stream is not read
/// further. One client has at most half of them: see `proposer::CLIENT_BYTES_MAX`.
const COMMANDS_MAX: usize = 16_384;
/// Most answers that wait in the transport. Further ones wait here.
const ANSWERS_MAX: usize = 256;
/// Bytes from which on an outcome is large.
const LARGE_BYTES: usize = 64 << 10;
/// How many answers may wait while a large outcome is added. Beyond that the other node learns a
/// large outcome from its own apply alone.
const BEFORE_LARGE_MAX: usize = 4;
/// Bytes up to which an outcome is added however many answers wait.
const SMALL_BYTES: usize = 256;
/// Longest time that a forwarded command waits, whatever its message says.
const TIMEOUT_MAX: Duration = Duration::from_mins(10);

const _: () = assert!(CLIENT_BYTES_MAX / CLIENT_COMMAND_BYTES_MIN == COMMANDS_MAX / 2);

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
    async fn serve(self, from: Forwarder, mut requests: Requests, transport: mpsc::Sender<Answer>) {
        let mut running = FuturesUnordered::new();
        let mut answers = Answers { transport: transport.clone(), waiting: VecDeque::new() };
        let mut open = true;
        while open || !running.is_empty() || !answers.waiting.is_empty() {
            tokio::select! {
                biased;
                place = transport.reserve(), if !answers.waiting.is_empty() => {
                    let (Ok(place), Some(answer)) = (place, answers.waiting.pop_front()) else { return };
                    place.send(answer);
                }
                Some(response) = running.next(), if !running.is_empty() => answers.add(Ok(response)),
                request = requests.next(), if open && running.len() + answers.waiting.len() < COMMANDS_MAX => {
                    match request.map(accept) {
                        Some(Ok(accepted)) => running.push(self.clone().run(from, accepted)),
                        Some(Err(status)) => {
                            open = false;
                            answers.add(Err(status));
                        }
                        None => open = false,
                    }
                }
                () = transport.closed() => return,
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
        let party = Party::told_by(from, accepted.request.client);
        let mut waiter = self.0.waiters.register(accepted.origin, party);
        if !waiter.sent_under(CommittedLeaderId { term, node_id: self.0.me }) {
            return Err(NotProposed::NotLeader);
        }
        let mut ticket = self.0.proposer.propose(term, party, accepted.command, accepted.wait)?;
        tokio::select! {
            biased;
            fate = waiter.fate() => match fate {
                // The command may still be queued here for the old term. Dropping the ticket takes
                // it back.
                Fate::NotRun => Err(NotProposed::NotLeader),
                fate => Ok(fate),
            },
            answer = ticket.answer() => answer.map(Fate::Outcome),
            () = sleep_until(accepted.wait.deadline) => match ticket.withdraw() {
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

/// Leaves an outcome out that is too large while `before` answers wait before it. An answer without
/// an outcome leaves the command to the other node's waiters. An outcome that the other node cannot
/// learn from its own apply, because it is in no log, is small.
fn without_large(answer: peer::ForwardResponse, before: usize) -> peer::ForwardResponse {
    let most = match before {
        0..BEFORE_LARGE_MAX => usize::MAX,
        BEFORE_LARGE_MAX..ANSWERS_MAX => LARGE_BYTES,
        _ => SMALL_BYTES,
    };
    match &answer.result {
        Some(End::Outcome(outcome)) if outcome.verdict.len() + outcome.detail.len() > most => {
            peer::ForwardResponse { result: None, ..answer }
        }
        _ => answer,
    }
}

type Requests = BoxStream<'static, Result<peer::ForwardRequest, Status>>;

type Answer = Result<peer::ForwardResponse, Status>;

/// The answers of one stream.
///
/// The outcomes of commands are taken as they come, whether or not the other node takes answers. A
/// reply that nobody takes counts among those for which this node holds back its own clients.
struct Answers {
    transport: mpsc::Sender<Answer>,
    /// Those for which the transport has no room. They are small: see [`without_large`].
    waiting: VecDeque<Answer>,
}

impl Answers {
    /// Adds an answer behind those that wait.
    fn add(&mut self, answer: Answer) {
        let before = ANSWERS_MAX - self.transport.capacity() + self.waiting.len();
        let answer = answer.map(|answer| without_large(answer, before));
        if !self.waiting.is_empty() {
            self.waiting.push_back(answer);
        } else if let Err(TrySendError::Full(answer)) = self.transport.try_send(answer) {
            // When the other end is closed, the stream ends.
            self.waiting.push_back(answer);
        }
    }
}

/// A forwarded command, decoded.
struct Accepted {
    request: peer::ForwardRequest,
    command: Command,
    origin: Origin,
    wait: Wait,
}

/// Decodes a forwarded command. A message that cannot be read ends the stream: it names no command
/// to answer.
fn accept(request: Result<peer::ForwardRequest, Status>) -> Result<Accepted, Status> {
    let request = request?;
    let command = Command::decode(request.command.clone())
        .map_err(|error| Status::invalid_argument(format!("a forwarded command cannot be read: {error}")))?;
    let origin =
        command.origin.as_ref().ok_or_else(|| Status::invalid_argument("a forwarded command has no origin"))?.into();
    let now = Instant::now();
    let bounded = |ms: u64| Duration::from_millis(ms).min(TIMEOUT_MAX);
    let since = if request.waited_ms == 0 { None } else { now.checked_sub(bounded(request.waited_ms)) };
    let wait = Wait { since, deadline: now + bounded(request.timeout_ms) };
    Ok(Accepted { request, command, origin, wait })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::machine::{Outcome, not_run};

    #[test]
    fn large_outcomes_do_not_pile_up_for_a_node_that_takes_none() {
        let answer = |bytes: usize| peer::ForwardResponse {
            counter: 7,
            leader_term: 2,
            result: Some(End::Outcome(peer::Outcome { verdict: vec![1; bytes].into(), ..Default::default() })),
        };
        let (small, large) = (answer(LARGE_BYTES), answer(LARGE_BYTES + 1));
        assert_eq!(without_large(large.clone(), BEFORE_LARGE_MAX - 1), large);
        assert_eq!(without_large(small.clone(), ANSWERS_MAX - 1), small);
        let left_out = without_large(large, BEFORE_LARGE_MAX);
        assert_eq!((left_out.counter, left_out.leader_term, left_out.result), (7, 2, None));
        assert_eq!(without_large(small, ANSWERS_MAX).result, None);
        assert_eq!(without_large(answer(SMALL_BYTES), COMMANDS_MAX), answer(SMALL_BYTES));
    }

    #[test]
    fn what_is_in_no_log_is_never_left_out() {
        let left_over = Outcome { index: 0, position: 0, term: 1, time_ms: 0, verdict: not_run() };
        let result = encode_end(Ok(Fate::Outcome(left_over)));
        let answer = peer::ForwardResponse { counter: 7, leader_term: 2, result };
        assert_eq!(without_large(answer.clone(), COMMANDS_MAX), answer);
    }

    #[tokio::test]
    async fn answers_wait_in_order_for_a_node_that_takes_none() {
        let (transport, mut receiver) = mpsc::channel(ANSWERS_MAX);
        let mut answers = Answers { transport, waiting: VecDeque::new() };
        let all = 2 * ANSWERS_MAX as u64;
        for counter in 0..all {
            answers.add(Ok(peer::ForwardResponse { counter, ..Default::default() }));
        }
        assert_eq!(answers.waiting.len(), ANSWERS_MAX);
        for counter in 0..all {
            assert_eq!(receiver.recv().await.unwrap().unwrap().counter, counter);
            if let Some(answer) = answers.waiting.pop_front() {
                answers.transport.try_send(answer).unwrap();
            }
        }
        assert!(answers.waiting.is_empty() && receiver.is_empty());
    }
}
