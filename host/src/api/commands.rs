//! Runs a command on the node that received it. This module finds the leader, sends the command to
//! it (locally or over one hop), and retries until the command ran, certainly will not run, or its
//! deadline passed. It decides what a client is told; `status` turns that into a gRPC status. It
//! never sends an attempt while an earlier one may still run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, sleep_until};

use crate::codec::Command;
use crate::machine::{Fate, Outcome, Waiter, Waiters, is_not_run};
use crate::raft::liveness::leader::{LeaderView, LeaderWatch};
use crate::raft::path::proposer::Propose;
use crate::raft::path::ticket::{NotProposed, Ticket};
use crate::types::{NodeId, NodeMode, Origin};

/// Shortest pause between two attempts while the leader stays the same. It is short because a
/// leader that was just elected takes commands a moment later. Each attempt doubles the pause, up
/// to `RETRY_PAUSE_MAX`.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(2);
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(20);

/// A command as a client sent it.
#[derive(Clone, Debug)]
pub struct CommandCall {
    /// Name of the method: package.Service/Method.
    pub method: String,
    /// The encoded request. The host does not decode it.
    pub request: Bytes,
    /// Authenticated name of the client. Empty when there is none.
    pub caller: String,
    /// Time at which the client stops waiting.
    pub deadline: Instant,
}

/// Why a command has no outcome. For all variants but the last two, the command certainly did not
/// run and never will.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No leader took the command for as long as an election may take.
    #[error("no leader took the command within {waited:?}; it was not proposed")]
    NoLeader {
        /// How long the command was offered.
        waited: Duration,
    },
    /// A limit is reached. The text names it.
    #[error("{0}; the command was not proposed")]
    Overloaded(String),
    /// The request is too large for any log entry.
    #[error("the request has {bytes} bytes, the limit is {limit_bytes}")]
    TooLarge {
        /// Size of the request.
        bytes: usize,
        /// Most bytes that the request of one command may have.
        limit_bytes: usize,
    },
    /// This node must not serve. The text says why, and what to do about it.
    #[error("{0}")]
    Unfit(String),
    /// This node is stopping.
    #[error("this node is stopping; the command was not proposed")]
    Stopping,
    /// The deadline passed before the command was proposed.
    #[error("the deadline passed before the command was proposed; it was not applied")]
    DeadlineBefore,
    /// The deadline passed after the command was sent to the leader. It may have run, or may still
    /// run.
    #[error("the deadline passed after the command was sent to the leader of term {term}; it may be applied")]
    DeadlineAfter {
        /// The term of the attempt.
        term: u64,
    },
    /// A snapshot replaced the log entries that would have shown whether the command ran.
    #[error("a snapshot replaced the state before the fate of the command was known; it may have been applied")]
    Unknown,
}

/// The parts that [`Commands`] needs.
pub struct CommandsParts {
    /// This node's id. Together with `boot` and a counter it forms the origin of a command.
    pub node: NodeId,
    /// Number of this boot of the node. See `node`.
    pub boot: u64,
    /// Shows who leads.
    pub leader: LeaderWatch,
    /// Where outcomes arrive.
    pub waiters: Waiters,
    /// Proposes a command when this node leads.
    pub local: Arc<dyn Propose>,
    /// Sends a command to the leader when another node leads.
    pub forward: Arc<dyn Propose>,
    /// Returns the mode of this node.
    pub mode: Arc<dyn Fn() -> NodeMode + Send + Sync>,
    /// How long a command waits for a leader.
    pub election_timeout: Duration,
}

/// Runs commands. Cheap to clone.
#[derive(Clone)]
pub struct Commands(Arc<Inner>);

struct Inner {
    parts: CommandsParts,
    counter: AtomicU64,
}

/// How one attempt ended.
enum Attempt {
    Outcome(Outcome),
    /// The command certainly did not run. It had reached a leader, so the wait for the next leader
    /// starts anew.
    NotRun,
    /// The command was certainly not proposed: that node does not lead, or cannot be reached.
    NotLeader,
    Failed(CommandError),
}

impl Commands {
    /// Creates the value from the parts that `node` wires.
    pub fn new(parts: CommandsParts) -> Commands {
        Commands(Arc::new(Inner { parts, counter: AtomicU64::new(1) }))
    }

    /// Runs the command and returns its outcome. Dropping the future withdraws a command that is
    /// still queued.
    pub async fn run(&self, call: CommandCall) -> Result<Outcome, CommandError> {
        let parts = &self.0.parts;
        self.check_mode()?;
        let mut leader = parts.leader.clone();
        let (mut command, mut waiter) = self.register(&call);
        let mut patience = Instant::now() + parts.election_timeout;
        let (mut retry_pause, mut asked) = (RETRY_PAUSE_MIN, None);
        loop {
            let Some(view) = leader.wait(patience.min(call.deadline)).await else {
                self.check_mode()?;
                return Err(self.gave_up(call.deadline));
            };
            let is_another = asked.replace(view.id()) != Some(view.id());
            match self.attempt(&view, &command, &mut waiter, call.deadline).await {
                Attempt::Failed(error) => return Err(error),
                // The entry had no fuel left for the command. It becomes a new command for the log,
                // with a new origin.
                Attempt::Outcome(outcome) if is_not_run(&outcome.verdict) && Instant::now() < call.deadline => {
                    (command, waiter) = self.register(&call);
                    patience = Instant::now() + parts.election_timeout;
                }
                Attempt::Outcome(outcome) => return Ok(outcome),
                // For a moment, apply may know of a later leader that the watch does not show yet.
                // Asking the same leader again at once would be a busy loop.
                Attempt::NotRun if is_another => {
                    patience = Instant::now() + parts.election_timeout;
                    retry_pause = RETRY_PAUSE_MIN;
                    pause(&mut leader, retry_pause, patience.min(call.deadline)).await;
                }
                Attempt::NotRun | Attempt::NotLeader if Instant::now() >= patience.min(call.deadline) => {
                    return Err(self.gave_up(call.deadline));
                }
                Attempt::NotRun | Attempt::NotLeader => {
                    pause(&mut leader, retry_pause, patience.min(call.deadline)).await;
                    retry_pause = (2 * retry_pause).min(RETRY_PAUSE_MAX);
                }
            }
            waiter.reset();
        }
    }

    /// Returns an error if this node may not take commands at all.
    fn check_mode(&self) -> Result<(), CommandError> {
        match (self.0.parts.mode)() {
            NodeMode::Unfit(text)
            | NodeMode::Quarantined(text)
            | NodeMode::Disputed(text)
            | NodeMode::Removed(text) => Err(CommandError::Unfit(text)),
            NodeMode::Serving | NodeMode::CatchingUp(_) => Ok(()),
        }
    }

    /// Creates a command with its own origin, and the waiter for its outcome.
    fn register(&self, call: &CommandCall) -> (Command, Waiter) {
        let counter = self.0.counter.fetch_add(1, Ordering::Relaxed);
        let origin = Origin { node: self.0.parts.node, boot: self.0.parts.boot, counter };
        let command = Command {
            origin: Some(origin.into()),
            method: call.method.clone(),
            request: call.request.clone(),
            caller: call.caller.clone(),
        };
        (command, self.0.parts.waiters.register(origin))
    }

    async fn attempt(&self, leader: &LeaderView, command: &Command, waiter: &mut Waiter, deadline: Instant) -> Attempt {
        let way = if leader.is_me { &self.0.parts.local } else { &self.0.parts.forward };
        if !waiter.sent_under(leader.id()) {
            return match waiter.fate().await {
                Fate::Outcome(outcome) => Attempt::Outcome(outcome),
                // Nothing was sent.
                Fate::NotRun | Fate::Unknown => Attempt::NotRun,
            };
        }
        match way.propose(leader, command.clone(), deadline) {
            Ok(ticket) => follow(ticket, waiter, leader, deadline).await,
            Err(reason) => refused(reason, leader.is_me),
        }
    }

    fn gave_up(&self, deadline: Instant) -> CommandError {
        if Instant::now() >= deadline {
            CommandError::DeadlineBefore
        } else {
            CommandError::NoLeader { waited: self.0.parts.election_timeout }
        }
    }
}

/// Waits for the first of: this node's own apply, the proposing side's answer, the deadline.
async fn follow(mut ticket: Ticket, waiter: &mut Waiter, leader: &LeaderView, deadline: Instant) -> Attempt {
    tokio::select! {
        biased;
        fate = waiter.fate() => match fate {
            Fate::Outcome(outcome) => Attempt::Outcome(outcome),
            Fate::NotRun => Attempt::NotRun,
            Fate::Unknown if ticket.withdraw() => Attempt::NotRun,
            Fate::Unknown => Attempt::Failed(CommandError::Unknown),
        },
        answer = ticket.answer() => match answer {
            Ok(outcome) => Attempt::Outcome(outcome),
            Err(reason) => refused(reason, leader.is_me),
        },
        () = sleep_until(deadline) => Attempt::Failed(match ticket.withdraw() {
            true => CommandError::DeadlineBefore,
            false => CommandError::DeadlineAfter { term: leader.term },
        }),
    }
}

fn refused(reason: NotProposed, by_me: bool) -> Attempt {
    match reason {
        NotProposed::NotLeader => Attempt::NotLeader,
        NotProposed::Overloaded(text) => Attempt::Failed(CommandError::Overloaded(text)),
        NotProposed::Expired => Attempt::Failed(CommandError::DeadlineBefore),
        NotProposed::TooLarge { bytes, limit_bytes } => Attempt::Failed(CommandError::TooLarge { bytes, limit_bytes }),
        NotProposed::Stopping if by_me => Attempt::Failed(CommandError::Stopping),
        NotProposed::Stopping => Attempt::NotLeader,
        NotProposed::Removed { .. } => Attempt::Failed(CommandError::Unfit(reason.to_string())),
    }
}

/// Waits until the view of the leader changes, `at_most` has passed, or it is `until`.
async fn pause(leader: &mut LeaderWatch, at_most: Duration, until: Instant) {
    tokio::select! {
        () = leader.changed() => {}
        () = sleep(at_most) => {}
        () = sleep_until(until) => {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "commands_tests.rs"]
mod tests;
