//! The node that takes a command answers for it: finds the leader, hands the command on (here or over one hop), and tries again
//! until it ran, certainly will not, or its deadline passed. Decides what a client may be told; `status` puts it in gRPC's words.
//! Never sends an attempt while an earlier one may still run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, sleep_until};

use crate::codec::Command;
use crate::machine::{Fate, Outcome, Waiter, Waiters, is_not_run};
use crate::raft::leader::{LeaderView, LeaderWatch};
use crate::raft::proposer::Propose;
use crate::raft::ticket::{Answer, NotProposed, Ticket};
use crate::types::{NodeId, NodeMode, Origin};

/// Pause between attempts while the leader stays the same: short at first, since a leader that was just elected takes commands a moment
/// later; it doubles.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(2);
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(20);

/// A command as a client sent it.
#[derive(Clone, Debug)]
pub struct CommandCall {
    /// package.Service/Method.
    pub method: String,
    /// The encoded request, not looked into.
    pub request: Bytes,
    /// Authenticated name of the client, empty when there is none.
    pub caller: String,
    /// When the client stops waiting.
    pub deadline: Instant,
}

/// Why a command has no outcome. All but the last two: it certainly did not run and never will.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No leader took it for as long as an election may take.
    #[error("no leader took the command within {waited:?}; it was not proposed")]
    NoLeader {
        /// How long it was offered.
        waited: Duration,
    },
    /// A bound is reached; the text names it.
    #[error("{0}; the command was not proposed")]
    Overloaded(String),
    /// No entry takes it.
    #[error("the request has {bytes} bytes, the limit is {limit_bytes}")]
    TooLarge {
        /// Size of the request.
        bytes: usize,
        /// What one command may have.
        limit_bytes: usize,
    },
    /// This node must not serve; the text says why and what mends it.
    #[error("{0}")]
    Unfit(String),
    /// This node is stopping.
    #[error("this node is stopping; the command was not proposed")]
    Stopping,
    /// The deadline came while the command was certainly not proposed.
    #[error("the deadline passed before the command was proposed; it was not applied")]
    DeadlineBefore,
    /// The deadline came after the command was handed on: it may have run, or run yet.
    #[error("the deadline passed after the command was sent to the leader of term {term}; it may be applied")]
    DeadlineAfter {
        /// The term of the attempt.
        term: u64,
    },
    /// A snapshot replaced the log that would have told.
    #[error("a snapshot replaced the state before the fate of the command was known; it may have been applied")]
    Unknown,
}

/// What [`Commands`] is made of.
pub struct CommandsParts {
    /// This node and its boot: with a counter, the origin of its commands.
    pub node: NodeId,
    /// See `node`.
    pub boot: u64,
    /// Who leads.
    pub leader: LeaderWatch,
    /// Where outcomes arrive.
    pub waiters: Waiters,
    /// Proposes when this node leads.
    pub local: Arc<dyn Propose>,
    /// Reaches the leader when another node does.
    pub forward: Arc<dyn Propose>,
    /// What this node may do.
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
    /// Certainly not run. It had been with a leader, so the wait for the next one starts anew.
    NotRun,
    /// Certainly not proposed: that node does not lead, or cannot be reached.
    NotLeader,
    Failed(CommandError),
}

impl Commands {
    /// Over the parts that `node` wires.
    pub fn new(parts: CommandsParts) -> Commands {
        Commands(Arc::new(Inner { parts, counter: AtomicU64::new(1) }))
    }

    /// Runs the command and returns what became of it. Dropping the future withdraws a command that is still queued.
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
                // The entry had no fuel left for it: a new command for the log, with a new origin.
                Attempt::Outcome(outcome) if is_not_run(&outcome.verdict) && Instant::now() < call.deadline => {
                    (command, waiter) = self.register(&call);
                    patience = Instant::now() + parts.election_timeout;
                }
                Attempt::Outcome(outcome) => return Ok(outcome),
                // For a moment apply may know of a later leader that the watch does not show yet: asking the same one again at once
                // would only spin.
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

    /// Whether this node may take commands at all.
    fn check_mode(&self) -> Result<(), CommandError> {
        match (self.0.parts.mode)() {
            NodeMode::Unfit(text) | NodeMode::Quarantined(text) | NodeMode::Removed(text) => {
                Err(CommandError::Unfit(text))
            }
            NodeMode::Serving | NodeMode::CatchingUp(_) => Ok(()),
        }
    }

    /// A command with an origin of its own, and who waits for it.
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

/// Waits for whichever tells first: own apply, the proposing side, or the clock.
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
            Answer::Outcome(outcome) => Attempt::Outcome(outcome),
            Answer::NotProposed(reason) => refused(reason, leader.is_me),
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

/// Until there is news of a leader, or it is time to ask the same one again.
async fn pause(leader: &mut LeaderWatch, at_most: Duration, until: Instant) {
    tokio::select! {
        () = leader.changed() => {}
        () = sleep(at_most) => {}
        () = sleep_until(until) => {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::guest::Verdict;
    use crate::machine::not_run;
    use crate::raft::ticket::{Claim, ticket};
    use crate::types::{CommittedLeaderId, Node};
    use parking_lot::Mutex;
    use std::collections::VecDeque;
    use tokio::sync::{Notify, watch};

    const ELECTION: Duration = Duration::from_millis(200);

    /// A way to a leader, in the hands of the test.
    #[derive(Default)]
    struct FakeWay {
        refusal: Mutex<Option<NotProposed>>,
        handed: Mutex<VecDeque<(u64, Origin, Claim)>>,
        arrived: Notify,
        asked: AtomicU64,
    }

    impl Propose for FakeWay {
        fn propose(&self, leader: &LeaderView, command: Command, _: Instant) -> Result<Ticket, NotProposed> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            if let Some(refusal) = self.refusal.lock().clone() {
                return Err(refusal);
            }
            let (ticket, claim) = ticket();
            self.handed.lock().push_back((leader.term, (&command.origin.unwrap()).into(), claim));
            self.arrived.notify_one();
            Ok(ticket)
        }
    }

    impl FakeWay {
        async fn next(&self) -> (u64, Origin, Claim) {
            loop {
                let next = self.handed.lock().pop_front();
                match next {
                    Some(next) => return next,
                    None => self.arrived.notified().await,
                }
            }
        }
    }

    struct World {
        leader: watch::Sender<Option<LeaderView>>,
        local: Arc<FakeWay>,
        forward: Arc<FakeWay>,
        waiters: Waiters,
        mode: Arc<Mutex<NodeMode>>,
        commands: Commands,
    }

    fn view(term: u64, is_me: bool) -> Option<LeaderView> {
        Some(LeaderView { term, node_id: if is_me { 1 } else { 2 }, node: Node::default(), is_me })
    }

    fn world(first: Option<LeaderView>) -> World {
        let (leader, seen) = watch::channel(first);
        let (local, forward) = (Arc::new(FakeWay::default()), Arc::new(FakeWay::default()));
        let waiters = Waiters::default();
        let mode = Arc::new(Mutex::new(NodeMode::Serving));
        let mode_now = mode.clone();
        let commands = Commands::new(CommandsParts {
            node: 1,
            boot: 1,
            leader: LeaderWatch::new(seen),
            waiters: waiters.clone(),
            local: local.clone(),
            forward: forward.clone(),
            mode: Arc::new(move || mode_now.lock().clone()),
            election_timeout: ELECTION,
        });
        World { leader, local, forward, waiters, mode, commands }
    }

    impl World {
        fn spawn(&self) -> tokio::task::JoinHandle<Result<Outcome, CommandError>> {
            self.spawn_for(Duration::from_secs(60))
        }
        fn spawn_for(&self, patience: Duration) -> tokio::task::JoinHandle<Result<Outcome, CommandError>> {
            let commands = self.commands.clone();
            let call = CommandCall { deadline: Instant::now() + patience, ..call() };
            tokio::spawn(async move { commands.run(call).await })
        }
    }

    fn leader(term: u64) -> CommittedLeaderId {
        CommittedLeaderId { term, node_id: 1 }
    }

    fn call() -> CommandCall {
        let deadline = Instant::now() + Duration::from_secs(10);
        CommandCall { method: "E/Add".into(), request: Bytes::new(), caller: String::new(), deadline }
    }

    fn outcome(index: u64) -> Outcome {
        Outcome { index, position: 0, term: 1, time_ms: 0, verdict: Verdict::Reply(Bytes::new()) }
    }

    #[tokio::test]
    async fn own_apply_answers() {
        let world = world(view(1, true));
        let run = world.spawn();
        let (term, origin, claim) = world.local.next().await;
        assert!(claim.take());
        world.waiters.entry_applied(leader(term), vec![(origin, outcome(5))]);
        assert_eq!(run.await.unwrap(), Ok(outcome(5)));
        assert!(world.waiters.is_empty());
    }

    #[tokio::test]
    async fn the_leaders_reply_answers() {
        let world = world(view(1, false));
        let run = world.spawn();
        let (_, _, claim) = world.forward.next().await;
        assert!(claim.take());
        claim.complete(outcome(6));
        assert_eq!(run.await.unwrap(), Ok(outcome(6)));
    }

    #[tokio::test]
    async fn a_change_of_leader_is_a_pause() {
        let world = world(view(1, false));
        let run = world.spawn();
        let (_, origin, claim) = world.forward.next().await;
        assert!(claim.take());
        drop(claim); // The stream to the leader broke: only the log can tell.
        world.leader.send_replace(view(2, true));
        world.waiters.entry_applied(leader(2), vec![]);
        let (term, again, claim) = world.local.next().await;
        assert_eq!((term, again), (2, origin), "sent again as the same command");
        assert!(claim.take());
        world.waiters.entry_applied(leader(2), vec![(again, outcome(9))]);
        assert_eq!(run.await.unwrap(), Ok(outcome(9)));
    }

    #[tokio::test]
    async fn a_leader_that_is_over_is_asked_for_nothing_while_the_watch_lags() {
        let world = world(view(1, false));
        world.waiters.entry_applied(leader(2), vec![]);
        let start = Instant::now();
        // Its node id is 2, so the leader of term 1 is over for good.
        let error = world.spawn().await.unwrap().unwrap_err();
        assert_eq!(error, CommandError::NoLeader { waited: ELECTION });
        assert!(start.elapsed() >= ELECTION);
        assert_eq!(world.forward.asked.load(Ordering::Relaxed), 0, "nothing is left behind in its queue");
        let run = world.spawn();
        world.leader.send_replace(view(2, true));
        let (term, origin, claim) = world.local.next().await;
        assert_eq!(term, 2);
        assert!(claim.take());
        world.waiters.entry_applied(leader(2), vec![(origin, outcome(3))]);
        assert!(run.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_command_that_may_be_in_the_log_is_not_sent_again() {
        let world = world(view(1, false));
        let run = world.spawn_for(ELECTION);
        let (_, _, claim) = world.forward.next().await;
        assert!(claim.take());
        drop(claim);
        world.leader.send_replace(view(2, true));
        assert_eq!(run.await.unwrap(), Err(CommandError::DeadlineAfter { term: 1 }));
        assert!(world.local.handed.lock().is_empty());
    }

    #[tokio::test]
    async fn not_proposed_is_tried_again_without_a_busy_loop() {
        let world = world(view(1, true));
        *world.local.refusal.lock() = Some(NotProposed::NotLeader);
        let start = Instant::now();
        let error = world.spawn().await.unwrap().unwrap_err();
        assert_eq!(error, CommandError::NoLeader { waited: ELECTION });
        assert!(start.elapsed() >= ELECTION);
        let asked = world.local.asked.load(Ordering::Relaxed);
        // Pauses of 2, 4, 8 and 16 ms, then of 20 ms.
        assert!((2..=15).contains(&asked), "{asked} attempts in {ELECTION:?}");
    }

    #[tokio::test]
    async fn news_of_a_leader_ends_the_pause() {
        let world = world(view(1, false));
        *world.forward.refusal.lock() = Some(NotProposed::NotLeader);
        let run = world.spawn();
        while world.forward.asked.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        world.leader.send_replace(view(2, true));
        let (_, origin, claim) = world.local.next().await;
        assert!(claim.take());
        world.waiters.entry_applied(leader(2), vec![(origin, outcome(3))]);
        assert!(run.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn without_a_leader_the_wait_is_bounded_by_election_and_deadline() {
        let world = world(None);
        assert!(matches!(world.commands.run(call()).await, Err(CommandError::NoLeader { .. })));
        let soon = CommandCall { deadline: Instant::now() + ELECTION / 4, ..call() };
        assert_eq!(world.commands.run(soon).await, Err(CommandError::DeadlineBefore));
    }

    #[tokio::test]
    async fn still_queued_at_its_deadline_is_certainly_not_applied() {
        let world = world(view(1, true));
        let run = world.spawn_for(ELECTION);
        let (_, _, claim) = world.local.next().await;
        assert_eq!(run.await.unwrap(), Err(CommandError::DeadlineBefore));
        assert!(!claim.take(), "and nobody may propose it any more");
    }

    #[tokio::test]
    async fn a_client_that_leaves_takes_its_command_along() {
        let world = world(view(1, true));
        let run = world.spawn();
        let (_, _, claim) = world.local.next().await;
        run.abort();
        assert!(run.await.unwrap_err().is_cancelled());
        assert!(!claim.take());
        assert!(world.waiters.is_empty());
    }

    #[tokio::test]
    async fn a_snapshot_hides_the_fate_of_what_was_proposed_only() {
        let world = world(view(1, false));
        let (proposed, queued) = (world.spawn(), world.spawn());
        let (_, first, claim) = world.forward.next().await;
        let (_, second, _waiting) = world.forward.next().await;
        assert!(claim.take());
        world.waiters.snapshot_installed(CommittedLeaderId { term: 1, node_id: 2 });
        assert_eq!(proposed.await.unwrap(), Err(CommandError::Unknown));
        let (_, again, claim) = world.forward.next().await;
        assert!(again == second && first != second);
        assert!(claim.take());
        claim.complete(outcome(4));
        assert!(queued.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn an_entry_out_of_fuel_is_left_for_the_next_one() {
        let world = world(view(1, true));
        let run = world.spawn();
        let (_, first, claim) = world.local.next().await;
        assert!(claim.take());
        world.waiters.entry_applied(leader(1), vec![(first, Outcome { verdict: not_run(), ..outcome(5) })]);
        let (_, second, claim) = world.local.next().await;
        assert_ne!(first, second, "an origin stands in the log once");
        assert!(claim.take());
        world.waiters.entry_applied(leader(1), vec![(second, outcome(6))]);
        assert_eq!(run.await.unwrap(), Ok(outcome(6)));
    }

    #[tokio::test]
    async fn refusals_that_no_retry_mends_are_answered_at_once() {
        let world = world(view(1, true));
        let cases = [
            (NotProposed::Overloaded("full".into()), CommandError::Overloaded("full".into())),
            (NotProposed::TooLarge { bytes: 3, limit_bytes: 2 }, CommandError::TooLarge { bytes: 3, limit_bytes: 2 }),
            (NotProposed::Expired, CommandError::DeadlineBefore),
            (NotProposed::Stopping, CommandError::Stopping),
        ];
        for (refusal, error) in cases {
            *world.local.refusal.lock() = Some(refusal);
            assert_eq!(world.commands.run(call()).await, Err(error));
        }
        *world.mode.lock() = NodeMode::Unfit("two hashes".into());
        assert_eq!(world.commands.run(call()).await, Err(CommandError::Unfit("two hashes".into())));
    }
}
