//! Runs a command on the node that received it. This module finds the leader, sends the command to
//! it (locally or over one hop), and retries until the command ran, certainly will not run, or its
//! deadline passed. It decides what a client is told. It never sends an attempt while an earlier
//! one may still run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::{Call, CallError, Calls};
use crate::codec::Command;
use crate::limit::Limit;
use crate::machine::{Fate, Outcome, Waiter, Waiters, is_not_run, read_only_refusal};
use crate::raft::liveness::leader::{LeaderView, LeaderWatch};
use crate::raft::path::proposer::Propose;
use crate::raft::path::ticket::{NotProposed, Ticket, Wait, weight_bytes};
use crate::source::Party;
use crate::types::{NodeId, NodeMode, Origin};

/// Shortest pause between two attempts while the leader stays the same. It is short because a
/// leader that was just elected takes commands a moment later. Each attempt doubles the pause, up
/// to `RETRY_PAUSE_MAX`.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(2);
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(20);

/// Longest pause before a command that its log entry left over becomes a new one. Each round
/// doubles the pause, from `RETRY_PAUSE_MIN`. Every round writes all left commands to the log
/// again, so many at a time must not follow each other at once.
const ROUND_PAUSE_MAX: Duration = Duration::from_millis(200);

/// Pause before a command that was left over before it came to the log is offered again. It need
/// not be short for those that have waited long: the leader prefers them, see `raft/path/turns`.
const OFFER_PAUSE_MIN: Duration = Duration::from_millis(200);
/// Longest such pause. It grows with the request, a millisecond for a kilobyte, because each offer
/// sends the whole request to the leader.
const OFFER_PAUSE_MAX: Duration = Duration::from_secs(3);

/// Bytes of replies for one client that are here and that no call has taken yet, from which on no
/// command of it is offered. Clients' threads may be busy, while the log goes on.
const UNTAKEN_BYTES_MAX: u64 = 8 << 20;

/// The same for all clients. From then on a command is offered only if its client has no such reply
/// at all, so that no client waits for what others do not take.
const ALL_UNTAKEN_BYTES_MAX: u64 = 64 << 20;

/// How often a command goes to the log before its client is told that it was left over. One that
/// was left over before it came to the log, and so has an outcome without an index, goes on.
const ROUNDS_MAX: u32 = 12;

impl Calls {
    /// Runs the command and returns its outcome. Dropping the future withdraws a command that is
    /// still queued.
    pub async fn command(&self, call: Call) -> Result<Outcome, CallError> {
        let deadline = call.deadline();
        self.ready(deadline).await?;
        self.0.commands.run(call, deadline).await
    }

    /// Runs the command if this node leads. The time until its deadline begins when that is known.
    pub async fn command_on_leader(&self, call: Call) -> Result<Outcome, CallError> {
        self.require_leader().await?;
        let deadline = call.deadline();
        self.0.commands.run(call, deadline).await
    }
}

/// Returns why the cluster takes no commands of a method now.
type RefusesMethod = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The parts that [`Commands`] needs.
pub(super) struct CommandsParts {
    /// This node's id. Together with `boot` and a counter it forms the origin of a command.
    pub(super) node: NodeId,
    /// Number of this boot of the node. See `node`.
    pub(super) boot: u64,
    /// Shows who leads.
    pub(super) leader: LeaderWatch,
    /// Where outcomes arrive.
    pub(super) waiters: Waiters,
    /// Proposes a command when this node leads.
    pub(super) local: Arc<dyn Propose>,
    /// Sends a command to the leader when another node leads.
    pub(super) forward: Arc<dyn Propose>,
    /// Returns the mode of this node.
    pub(super) mode: Arc<dyn Fn() -> NodeMode + Send + Sync>,
    /// Says why commands of a method are refused now, as far as this node knows. The state decides
    /// once more at apply.
    pub(super) refuses_method: RefusesMethod,
    /// How long a command waits for a leader.
    pub(super) election_timeout: Duration,
}

/// Runs commands.
pub(super) struct Commands {
    parts: CommandsParts,
    counter: AtomicU64,
    offered_again: AtomicU64,
}

impl Commands {
    /// Creates the value from the parts that `group` wires.
    pub(super) fn new(parts: CommandsParts) -> Commands {
        Commands { parts, counter: AtomicU64::new(1), offered_again: AtomicU64::new(0) }
    }

    /// Runs the command until an outcome is known, or until `deadline`: the call's own one, or the
    /// default.
    async fn run(&self, call: Call, deadline: Instant) -> Result<Outcome, CallError> {
        let parts = &self.parts;
        let (began, mut wait) = (Instant::now(), Wait::until(deadline));
        self.check_mode()?;
        self.check_read_only(&call)?;
        let party = call.share.party(&call.caller);
        self.until_replies_are_taken(party, deadline).await?;
        call.share.check()?;
        let mut leader = parts.leader.clone();
        let (mut origin, mut waiter) = self.register(party);
        let mut patience = Instant::now() + parts.election_timeout;
        let (mut retry_pause, mut asked, mut rounds) = (RETRY_PAUSE_MIN, None, 1);
        loop {
            let Some(view) = leader.wait(patience.min(deadline)).await else {
                self.check_mode()?;
                return Err(self.gave_up(deadline));
            };
            let is_another = asked.replace(view.id()) != Some(view.id());
            match self.attempt(&view, &call, party, origin, &mut waiter, wait).await {
                // The entry had no fuel or no room left for the command, or too many large replies
                // of its client are to come. It becomes a new command for the log, with a new
                // origin, as long as its reply finds room here.
                Ok(Fate::Outcome(outcome)) if is_not_run(&outcome.verdict) => {
                    let offer_pause = pause_after(&outcome, rounds, weight_bytes(&command(&call, origin)));
                    if rounds >= ROUNDS_MAX || Instant::now() + offer_pause >= deadline {
                        return Ok(outcome);
                    }
                    self.before_next_offer(&call, party, offer_pause, deadline).await?;
                    wait.since = Some(began);
                    rounds += u32::from(outcome.index > 0);
                    (origin, waiter) = self.register(party);
                    patience = Instant::now() + parts.election_timeout;
                }
                Ok(Fate::Outcome(outcome)) => match read_only_refusal(&outcome.verdict) {
                    Some(words) => return Err(CallError::ReadOnly(words.to_owned())),
                    None => return Ok(outcome),
                },
                Ok(Fate::Unknown) => return Err(CallError::Unknown),
                // The command had reached a leader, so the wait for the next one starts anew. For a
                // moment, apply may know of a later leader that the watch does not show yet.
                // Asking the same leader again at once would be a busy loop.
                Ok(Fate::NotRun) if is_another => {
                    patience = Instant::now() + parts.election_timeout;
                    retry_pause = RETRY_PAUSE_MIN;
                    pause(&mut leader, retry_pause, patience.min(deadline)).await;
                }
                Ok(Fate::NotRun) | Err(CallError::NotProposed(NotProposed::NotLeader))
                    if Instant::now() >= patience.min(deadline) =>
                {
                    return Err(self.gave_up(deadline));
                }
                Ok(Fate::NotRun) | Err(CallError::NotProposed(NotProposed::NotLeader)) => {
                    pause(&mut leader, retry_pause, patience.min(deadline)).await;
                    retry_pause = (2 * retry_pause).min(RETRY_PAUSE_MAX);
                }
                Err(error) => return Err(error),
            }
            waiter.reset();
        }
    }

    /// Waits before a command that was left over is offered again. An error says why it is not.
    async fn before_next_offer(
        &self,
        call: &Call,
        party: Party,
        pause: Duration,
        deadline: Instant,
    ) -> Result<(), CallError> {
        sleep(pause).await;
        self.until_replies_are_taken(party, deadline).await?;
        call.share.check_nearly()?;
        self.check_read_only(call)?;
        self.offered_again.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Returns how often commands that were left over were offered again.
    pub(super) fn offered_again(&self) -> u64 {
        self.offered_again.load(Ordering::Relaxed)
    }

    /// Returns how near the limits of replies are that no call has taken yet.
    pub(super) fn limits(&self) -> [Limit; 2] {
        let waiters = &self.parts.waiters;
        let (all, of_one) = (waiters.reply_bytes(), waiters.reply_bytes_of_one());
        [
            Limit { name: "replies_not_taken_bytes", used: all, max: ALL_UNTAKEN_BYTES_MAX },
            Limit { name: "replies_not_taken_of_one_client_bytes", used: of_one, max: UNTAKEN_BYTES_MAX },
        ]
    }

    /// Returns an error if this node may not take commands at all.
    fn check_mode(&self) -> Result<(), CallError> {
        match (self.parts.mode)() {
            NodeMode::Unfit(text)
            | NodeMode::Quarantined(text)
            | NodeMode::Disputed(text)
            | NodeMode::Removed(text) => Err(CallError::OutOfService(text)),
            NodeMode::Serving | NodeMode::CatchingUp(_) => Ok(()),
        }
    }

    /// Returns an error if the cluster takes no commands of this method, as far as this node knows.
    fn check_read_only(&self, call: &Call) -> Result<(), CallError> {
        (self.parts.refuses_method)(&call.method.name).map_or(Ok(()), |words| Err(CallError::ReadOnly(words)))
    }

    /// Waits while many bytes of replies for this client are here that no call has taken.
    async fn until_replies_are_taken(&self, party: Party, deadline: Instant) -> Result<(), CallError> {
        while has_untaken(&self.parts.waiters, party) {
            if Instant::now() >= deadline {
                return Err(NotProposed::Expired.into());
            }
            sleep(RETRY_PAUSE_MAX).await;
        }
        Ok(())
    }

    /// Creates the origin of a command, and the waiter for its outcome.
    fn register(&self, party: Party) -> (Origin, Waiter) {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        let origin = Origin { node: self.parts.node, boot: self.parts.boot, counter };
        (origin, self.parts.waiters.register(origin, party))
    }

    /// Offers the command to `leader` once. The error `NotLeader` says that it does not lead, or
    /// cannot be reached: the next leader may take the command.
    async fn attempt(
        &self,
        leader: &LeaderView,
        call: &Call,
        party: Party,
        origin: Origin,
        waiter: &mut Waiter,
        wait: Wait,
    ) -> Result<Fate, CallError> {
        let way = if leader.is_me { &self.parts.local } else { &self.parts.forward };
        if !waiter.sent_under(leader.id()) {
            return Ok(match waiter.fate().await {
                // Nothing was sent.
                Fate::Unknown => Fate::NotRun,
                fate => fate,
            });
        }
        match way.propose(leader, party, command(call, origin), wait) {
            Ok(ticket) => follow(ticket, waiter, leader, wait.deadline).await,
            Err(reason) => Err(refused(reason, leader.is_me)),
        }
    }

    fn gave_up(&self, deadline: Instant) -> CallError {
        if Instant::now() >= deadline {
            NotProposed::Expired.into()
        } else {
            CallError::NoLeader { waited: self.parts.election_timeout }
        }
    }
}

/// Returns the command of a call. It is made for each attempt, since most calls need only one.
fn command(call: &Call, origin: Origin) -> Command {
    Command {
        origin: Some(origin.into()),
        method: call.method.name.to_string(),
        request: call.request.clone(),
        caller: call.caller.clone(),
    }
}

/// Returns whether too many bytes of replies wait to be taken for this client to send another
/// command.
fn has_untaken(waiters: &Waiters, party: Party) -> bool {
    // Usually all clients together have less than one may have, and no lock is needed to see that.
    let all = waiters.reply_bytes();
    let own_max = if all > ALL_UNTAKEN_BYTES_MAX { 0 } else { UNTAKEN_BYTES_MAX };
    all > UNTAKEN_BYTES_MAX && waiters.reply_bytes_of(party) > own_max
}

/// Waits for the first of: this node's own apply, the proposing side's answer, the deadline.
async fn follow(
    mut ticket: Ticket,
    waiter: &mut Waiter,
    leader: &LeaderView,
    deadline: Instant,
) -> Result<Fate, CallError> {
    tokio::select! {
        biased;
        fate = waiter.fate() => Ok(match fate {
            Fate::Unknown if ticket.withdraw() => Fate::NotRun,
            fate => fate,
        }),
        answer = ticket.answer() => answer.map(Fate::Outcome).map_err(|reason| refused(reason, leader.is_me)),
        () = sleep_until(deadline) => Err(match ticket.withdraw() {
            true => NotProposed::Expired.into(),
            false => CallError::DeadlineAfter { term: leader.term },
        }),
    }
}

/// Returns the error of an attempt. Another node that stops leaves the lead to a further one.
fn refused(reason: NotProposed, by_me: bool) -> CallError {
    match reason {
        NotProposed::Stopping if !by_me => NotProposed::NotLeader.into(),
        reason => reason.into(),
    }
}

/// Returns the pause before a command of that many bytes is offered again, which was left over in
/// that round.
fn pause_after(left_over: &Outcome, rounds: u32, bytes: usize) -> Duration {
    match left_over.index {
        0 => Duration::from_micros(bytes as u64).clamp(OFFER_PAUSE_MIN, OFFER_PAUSE_MAX),
        _ => RETRY_PAUSE_MIN.saturating_mul(1 << (rounds - 1).min(16)).min(ROUND_PAUSE_MAX),
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
#[path = "command_tests.rs"]
mod tests;
