//! Tests how a command finds its leader, and what happens to one that does not. The leaders and the
//! peers are functions.

use super::*;
use crate::calls::budget::{Budget, Share, Short, Use};
use crate::guest::Verdict;
use crate::machine::not_run;
use crate::raft::path::ticket::{Claim, ticket};
use crate::types::{Addresses, CommittedLeaderId};
use bytes::Bytes;
use lockstep_contract::{Consistency, Freshness, Kind, Method};
use parking_lot::Mutex;
use std::collections::VecDeque;
use tokio::sync::{Notify, watch};

const ELECTION: Duration = Duration::from_millis(200);

/// A way to a leader that the test controls.
#[derive(Default)]
struct FakeWay {
    refusal: Mutex<Option<NotProposed>>,
    handed: Mutex<VecDeque<(u64, Origin, Claim)>>,
    arrived: Notify,
    asked: AtomicU64,
}

impl Propose for FakeWay {
    fn propose(&self, leader: &LeaderView, _: Party, command: Command, _: Wait) -> Result<Ticket, NotProposed> {
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
    refusal: Arc<Mutex<Option<String>>>,
    commands: Arc<Commands>,
}

fn view(term: u64, is_me: bool) -> Option<LeaderView> {
    Some(LeaderView { term, node_id: if is_me { 1 } else { 2 }, node: Addresses::default(), is_me })
}

fn world(first: Option<LeaderView>) -> World {
    let (leader, seen) = watch::channel(first);
    let (local, forward) = (Arc::new(FakeWay::default()), Arc::new(FakeWay::default()));
    let waiters = Waiters::default();
    let mode = Arc::new(Mutex::new(NodeMode::Serving));
    let mode_now = mode.clone();
    let refusal = Arc::new(Mutex::new(None));
    let refusal_now = refusal.clone();
    let commands = Arc::new(Commands::new(CommandsParts {
        node: 1,
        boot: 1,
        leader: LeaderWatch::new(seen),
        waiters: waiters.clone(),
        local: local.clone(),
        forward: forward.clone(),
        mode: Arc::new(move || mode_now.lock().clone()),
        refuses_method: Arc::new(move |_: &str| refusal_now.lock().clone()),
        election_timeout: ELECTION,
    }));
    World { leader, local, forward, waiters, mode, refusal, commands }
}

impl World {
    fn spawn(&self) -> tokio::task::JoinHandle<Result<Outcome, CallError>> {
        self.spawn_for(Duration::from_secs(60))
    }
    fn spawn_for(&self, patience: Duration) -> tokio::task::JoinHandle<Result<Outcome, CallError>> {
        let commands = self.commands.clone();
        tokio::spawn(async move { commands.run(call(), Instant::now() + patience).await })
    }
}

fn leader(term: u64) -> CommittedLeaderId {
    CommittedLeaderId { term, node_id: 1 }
}

fn call() -> Call {
    let freshness = Freshness::Fixed(Consistency::Linearizable);
    let method = Arc::new(Method { name: "E/Add".into(), kind: Kind::Command, freshness });
    Call { method, request: Bytes::new(), caller: String::new(), deadline: None, share: Share::default() }
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(10)
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
async fn a_read_only_cluster_is_offered_nothing() {
    let world = world(view(1, true));
    *world.refusal.lock() = Some("read-only".into());
    assert_eq!(world.spawn().await.unwrap(), Err(CallError::ReadOnly("read-only".into())));
    assert_eq!(world.local.asked.load(Ordering::Relaxed), 0);
}

/// The mode came between the proposal and apply.
#[tokio::test]
async fn what_the_mode_refuses_at_apply_was_not_applied() {
    let world = world(view(1, true));
    let run = world.spawn();
    let (term, origin, claim) = world.local.next().await;
    assert!(claim.take());
    let message = "the cluster is in read-only mode; the command was not applied".to_owned();
    let verdict = Verdict::Refused(crate::guest::Status { code: 9, message: message.clone(), details: Vec::new() });
    world.waiters.entry_applied(leader(term), vec![(origin, Outcome { verdict, ..outcome(5) })]);
    let error = run.await.unwrap().unwrap_err();
    assert_eq!((error.fate(), error), (crate::calls::NOT_APPLIED, CallError::ReadOnly(message)));
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
    // The watch still shows node 2, the leader of term 1. An entry of term 2 is applied, so it is
    // over for good.
    let error = world.spawn().await.unwrap().unwrap_err();
    assert_eq!(error, CallError::NoLeader { waited: ELECTION });
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
    assert_eq!(run.await.unwrap(), Err(CallError::DeadlineAfter { term: 1 }));
    assert!(world.local.handed.lock().is_empty());
}

#[tokio::test]
async fn not_proposed_is_tried_again_without_a_busy_loop() {
    let world = world(view(1, true));
    *world.local.refusal.lock() = Some(NotProposed::NotLeader);
    let start = Instant::now();
    let error = world.spawn().await.unwrap().unwrap_err();
    assert_eq!(error, CallError::NoLeader { waited: ELECTION });
    assert!(start.elapsed() >= ELECTION);
    let asked = world.local.asked.load(Ordering::Relaxed);
    // The pauses are 2, 4, 8 and 16 ms, then 20 ms each.
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
    assert!(matches!(world.commands.run(call(), later()).await, Err(CallError::NoLeader { .. })));
    let soon = Instant::now() + ELECTION / 4;
    assert_eq!(world.commands.run(call(), soon).await, Err(NotProposed::Expired.into()));
}

#[tokio::test]
async fn still_queued_at_its_deadline_is_certainly_not_applied() {
    let world = world(view(1, true));
    let run = world.spawn_for(ELECTION);
    let (_, _, claim) = world.local.next().await;
    assert_eq!(run.await.unwrap(), Err(NotProposed::Expired.into()));
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
    assert_eq!(proposed.await.unwrap(), Err(CallError::Unknown));
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
async fn a_command_that_entries_leave_over_again_and_again_is_given_back() {
    let world = world(view(1, true));
    let (run, start) = (world.spawn(), Instant::now());
    let left_over = || Outcome { verdict: not_run(), ..outcome(5) };
    for _ in 0..ROUNDS_MAX {
        let (_, origin, claim) = world.local.next().await;
        assert!(claim.take());
        world.waiters.entry_applied(leader(1), vec![(origin, left_over())]);
    }
    assert_eq!(run.await.unwrap(), Ok(left_over()));
    assert_eq!(world.local.asked.load(Ordering::Relaxed), u64::from(ROUNDS_MAX));
    assert!(start.elapsed() >= Duration::from_secs(1), "with pauses between them");
    assert!(world.waiters.is_empty());
}

#[tokio::test]
async fn a_command_that_comes_to_no_log_waits_for_its_turn() {
    let world = world(view(1, true));
    let run = world.spawn();
    for _ in 0..=ROUNDS_MAX {
        let (term, _, claim) = world.local.next().await;
        claim.leave_over(term);
    }
    let (term, origin, claim) = world.local.next().await;
    assert!(claim.take());
    world.waiters.entry_applied(leader(term), vec![(origin, outcome(5))]);
    assert_eq!(run.await.unwrap(), Ok(outcome(5)));
    assert!(world.waiters.is_empty());
}

#[tokio::test]
async fn a_command_that_came_to_no_log_by_its_deadline_was_not_run() {
    let world = world(view(1, true));
    let (commands, large) = (world.commands.clone(), Call { request: vec![0; 4 << 20].into(), ..call() });
    let run = tokio::spawn(async move { commands.run(large, Instant::now() + OFFER_PAUSE_MAX).await });
    let (term, _, claim) = world.local.next().await;
    claim.leave_over(term);
    let outcome = run.await.unwrap().unwrap();
    assert!(is_not_run(&outcome.verdict) && outcome.index == 0);
    assert_eq!(crate::calls::fate_of(&outcome), crate::calls::NOT_APPLIED);
    assert_eq!(world.local.asked.load(Ordering::Relaxed), 1);
}

/// Each offer sends the whole request to the leader. A client with large requests made its node
/// send ten megabytes a second for each of them.
#[test]
fn a_large_request_is_offered_again_after_a_longer_pause() {
    let pause = |bytes| pause_after(&Outcome { verdict: not_run(), ..outcome(0) }, 1, bytes);
    assert_eq!(pause(100), OFFER_PAUSE_MIN);
    assert_eq!(pause(2_000_000), Duration::from_secs(2));
    assert_eq!(pause(usize::MAX), OFFER_PAUSE_MAX);
    assert_eq!(pause_after(&outcome(7), 1, 2_000_000), RETRY_PAUSE_MIN, "its entry had come to it");
}

#[tokio::test]
async fn a_command_whose_reply_would_find_no_room_is_not_sent() {
    let share = Budget::new(64 << 20).share();
    let world = world(view(1, true));
    let commands = world.commands.clone();
    let call = Call { share: share.clone(), ..call() };
    let left_over = tokio::spawn({
        let call = call.clone();
        async move { commands.run(call, later()).await }
    });
    let (_, origin, claim) = world.local.next().await;
    assert!(claim.take());
    let _replies = share.force(Use::Call, 15 << 20);
    world.waiters.entry_applied(leader(1), vec![(origin, Outcome { verdict: not_run(), ..outcome(5) })]);
    let full = Err(CallError::NoMemory(Short::Connection(16 << 20)));
    assert_eq!(left_over.await.unwrap(), full, "nearly used up");
    let _more = share.force(Use::Call, 2 << 20);
    assert_eq!(world.commands.run(call, later()).await, full);
    assert_eq!(world.local.asked.load(Ordering::Relaxed), 1);
    assert!(world.waiters.is_empty());
}

#[tokio::test]
async fn replies_that_one_client_does_not_take_hold_back_no_other() {
    let world = world(view(1, true));
    let named = |name: &str| Call { caller: name.into(), ..call() };
    let origin = |counter| Origin { node: 1, boot: 0, counter };
    let reply = |bytes: u64| Outcome { verdict: Verdict::Reply(vec![0; bytes as usize].into()), ..outcome(5) };
    let untaken = world.waiters.register(origin(1), Party::named("ann"));
    world.waiters.entry_applied(leader(1), vec![(origin(1), reply(UNTAKEN_BYTES_MAX + 1))]);
    let soon = Instant::now() + 3 * RETRY_PAUSE_MAX;
    assert_eq!(world.commands.run(named("ann"), soon).await, Err(NotProposed::Expired.into()));
    assert_eq!(world.local.asked.load(Ordering::Relaxed), 0, "it was not offered");
    let commands = world.commands.clone();
    let other = tokio::spawn(async move { commands.run(named("bob"), later()).await });
    let (term, asked, claim) = world.local.next().await;
    assert!(claim.take());
    world.waiters.entry_applied(leader(term), vec![(asked, outcome(6))]);
    assert_eq!(other.await.unwrap(), Ok(outcome(6)));
    drop(untaken);
    assert!(!has_untaken(&world.waiters, Party::named("ann")));
}

#[test]
fn while_all_have_much_only_those_without_a_reply_go_on() {
    let waiters = Waiters::default();
    let origin = |counter| Origin { node: 1, boot: 0, counter };
    let reply = |bytes: u64| Outcome { verdict: Verdict::Reply(vec![0; bytes as usize].into()), ..outcome(5) };
    let [ann, bob, cat] = ["ann", "bob", "cat"].map(Party::named);
    let _held = [waiters.register(origin(1), ann), waiters.register(origin(2), bob)];
    waiters.entry_applied(leader(1), vec![(origin(2), reply(1))]);
    assert!(!has_untaken(&waiters, bob));
    waiters.entry_applied(leader(1), vec![(origin(1), reply(ALL_UNTAKEN_BYTES_MAX))]);
    assert_eq!([ann, bob, cat].map(|party| has_untaken(&waiters, party)), [true, true, false]);
}

#[tokio::test]
async fn refusals_that_no_retry_mends_are_answered_at_once() {
    let world = world(view(1, true));
    let refusals = [
        NotProposed::Overloaded("full".into()),
        NotProposed::TooLarge { bytes: 3, limit_bytes: 2 },
        NotProposed::Expired,
        NotProposed::Stopping,
        NotProposed::Removed { index: 9 },
        NotProposed::CallerUnproven,
    ];
    for refusal in refusals {
        *world.local.refusal.lock() = Some(refusal.clone());
        assert_eq!(world.commands.run(call(), later()).await, Err(refusal.into()));
    }
    *world.mode.lock() = NodeMode::Unfit("two hashes".into());
    assert_eq!(world.commands.run(call(), later()).await, Err(CallError::OutOfService("two hashes".into())));
}
