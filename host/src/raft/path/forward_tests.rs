//! Tests both ends of a hop, joined without a network.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use futures::StreamExt;
use tokio::sync::{oneshot, watch};

use super::*;
use crate::codec;
use crate::guest::Verdict;
use crate::machine::{EntrySpent, Outcome, Waiters, not_run};
use crate::raft::ClusterCell;
use crate::raft::liveness::leader::LeaderWatch;
use crate::raft::path::forwarded::ForwardedParts;
use crate::raft::path::proposer::{Core, Proposer, Written};
use crate::raft::path::read::{LocalIndex, ReadIndex};
use crate::raft::path::ticket::Share;
use crate::raft::path::wire::encode_end;
use crate::raft::peers::handlers::{ForwardHandler, Forwarder, LeaderHandler};
use crate::raft::time::clock::{Clock, RemoteClock};
use crate::raft::{Forwarded, LogTime, RaftCell};
use crate::reserved::Reserved;
use crate::types::{Addresses, CommittedLeaderId, EntryData, GROUP, Origin};

const FOLLOWER: NodeId = 2;
const LEADER: NodeId = 1;

type Proposal = (codec::entry::Entry, oneshot::Sender<Written>);

/// A Raft that shows its entries to the test.
struct FakeCore(mpsc::UnboundedSender<Proposal>);

impl Core for FakeCore {
    fn entries_behind(&self) -> u64 {
        0
    }
    fn refuses_commands(&self) -> Option<String> {
        None
    }
    fn admit(&self, _: &str) -> Result<Admitted, String> {
        Ok(Admitted::default())
    }
    fn writing_for(&self) -> Duration {
        Duration::ZERO
    }
    fn applying_for(&self) -> Duration {
        Duration::ZERO
    }
    fn take_spent(&self, _: u64) -> EntrySpent {
        EntrySpent::default()
    }
    fn log_time_ms(&self) -> u64 {
        0
    }
    fn hash_tip(&self) -> (u64, u64) {
        (0, 0)
    }
    fn write(&self, _: u64, data: EntryData) -> BoxFuture<'static, Written> {
        let (sender, receiver) = oneshot::channel();
        self.0.send((codec::decode_entry(&data).unwrap(), sender)).unwrap();
        async move { receiver.await.unwrap_or(Ok(None)) }.boxed()
    }
}

impl LocalIndex for FakeCore {
    fn read_index(&self) -> BoxFuture<'static, Result<u64, RoundError>> {
        async { Ok(41) }.boxed()
    }
}

impl RemoteClock for FakeCore {
    fn pass_time(&self, _: &LeaderView, _: u64) -> BoxFuture<'static, Result<u64, RoundError>> {
        panic!("a leader never asks another one for the time")
    }
}

impl RemoteIndex for FakeCore {
    fn read_index(&self, _: &LeaderView) -> BoxFuture<'static, Result<u64, RoundError>> {
        panic!("a forwarded read never makes a second hop")
    }
}

struct World {
    view: watch::Sender<Option<LeaderView>>,
    proposals: mpsc::UnboundedReceiver<Proposal>,
    waiters: Waiters,
    forwarded: Forwarded,
}

fn view(term: u64, is_me: bool) -> Option<LeaderView> {
    Some(LeaderView { term, node_id: LEADER, node: Addresses::default(), is_me })
}

fn world() -> World {
    let (sender, proposals) = mpsc::unbounded_channel();
    let core = Arc::new(FakeCore(sender));
    let (view, seen) = watch::channel(view(1, true));
    let leader = LeaderWatch::new(seen);
    let (_genesis, applied) = watch::channel(true);
    let (proposer, proposing) = Proposer::new(core.clone(), LogTime::default(), leader.clone(), applied);
    let clock = Clock::new(core.clone(), proposer.clone(), core.clone(), leader.clone());
    let (reads, reading) = ReadIndex::new(core.clone(), core, leader.clone(), Duration::from_secs(1));
    tokio::spawn(proposing.run());
    tokio::spawn(reading.run());
    let waiters = Waiters::default();
    let forwarded = Forwarded::new(ForwardedParts {
        me: LEADER,
        leader,
        proposer,
        waiters: waiters.clone(),
        reads,
        clock,
        raft: RaftCell::default(),
    });
    World { view, proposals, waiters, forwarded }
}

/// Opens a follower's end of a stream to `forwarded`.
fn stream_to(forwarded: &Forwarded) -> mpsc::Sender<Queued> {
    stream_of(forwarded, false)
}

/// Opens a follower's end whose certificate has shown that it is this node, or not.
fn stream_of(forwarded: &Forwarded, is_proven: bool) -> mpsc::Sender<Queued> {
    let route = peer::Route { group: GROUP, from: FOLLOWER, to: LEADER, ..Default::default() };
    let (queue, receiver) = mpsc::channel(16);
    let traffic = Traffic::new(GroupCell::new(ClusterCell::new(None), GROUP), route, receiver);
    let mut answers =
        forwarded.forward(Forwarder { node: FOLLOWER, is_proven }, traffic.clone().outgoing().map(Ok).boxed());
    tokio::spawn(async move {
        while let Some(answer) = answers.next().await {
            traffic.answered(answer.unwrap());
        }
        traffic.close();
    });
    queue
}

fn origin(counter: u64) -> Origin {
    Origin { node: FOLLOWER, boot: 1, counter }
}

fn send(queue: &mpsc::Sender<Queued>, term: u64, counter: u64, timeout: Duration) -> Ticket {
    let command = Command { origin: Some(origin(counter).into()), method: "E/Add".into(), ..Command::default() };
    send_command(queue, term, command, timeout)
}

fn send_command(queue: &mpsc::Sender<Queued>, term: u64, command: Command, timeout: Duration) -> Ticket {
    let (ticket, claim) = ticket();
    let share = Budget::new(usize::MAX).share(1).unwrap();
    queue.try_send(queued(term, command, Instant::now() + timeout, claim, share)).unwrap();
    ticket
}

fn queued(term: u64, command: Command, deadline: Instant, claim: Claim, share: Share) -> Queued {
    let (party, wait, admitted) = (Party::default(), Wait::until(deadline), Admitted::default());
    Queued { term, party, command, wait, claim, share, admitted }
}

fn applied(counter: u64, index: u64) -> (Origin, Outcome) {
    let verdict = Verdict::Reply(Bytes::from_static(b"done"));
    (origin(counter), Outcome { index, position: 0, term: 1, time_ms: 0, verdict })
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn outcomes_come_back_in_any_order() {
    let mut world = world();
    let queue = stream_to(&world.forwarded);
    let mut first = send(&queue, 1, 1, LONG);
    let (_, _one) = world.proposals.recv().await.unwrap();
    let mut second = send(&queue, 1, 2, LONG);
    let (entry, _two) = world.proposals.recv().await.unwrap();
    assert_eq!(Origin::from(entry.commands[0].origin.as_ref().unwrap()), origin(2));
    let leader = CommittedLeaderId { term: 1, node_id: LEADER };
    world.waiters.entry_applied(leader, vec![applied(2, 8)]);
    assert_eq!(second.answer().await, Ok(applied(2, 8).1));
    world.waiters.entry_applied(leader, vec![applied(1, 7)]);
    assert_eq!(first.answer().await, Ok(applied(1, 7).1));
}

/// A node took no answers, so the leader did not look at the outcomes of its commands. Their
/// replies stayed with the leader, which then took no commands of its own clients.
#[tokio::test]
async fn replies_for_a_node_that_takes_none_do_not_stay_with_the_leader() {
    let mut world = world();
    let commands = 600;
    let requests = (1..=commands).map(|counter| {
        let command = Command { origin: Some(origin(counter).into()), method: "E/Add".into(), ..Command::default() };
        let command = Bytes::from(command.encode_to_vec());
        Ok(peer::ForwardRequest { leader_term: 1, command, timeout_ms: 60_000, client: 7, ..Default::default() })
    });
    let requests = futures::stream::iter(requests).chain(futures::stream::pending()).boxed();
    let mut answers = world.forwarded.forward(Forwarder { node: FOLLOWER, is_proven: false }, requests);
    let leader = CommittedLeaderId { term: 1, node_id: LEADER };
    let mut index = 0;
    while index < commands {
        let (entry, written) = world.proposals.recv().await.unwrap();
        let outcomes = entry.commands.iter().map(|command| {
            index += 1;
            applied(Origin::from(command.origin.as_ref().unwrap()).counter, index)
        });
        world.waiters.entry_applied(leader, outcomes.collect());
        written.send(Ok(Some(index))).unwrap();
    }
    while world.waiters.reply_bytes() > 0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..commands {
        assert!(answers.next().await.unwrap().is_ok(), "and the node gets all answers");
    }
}

#[tokio::test]
async fn only_the_leader_of_that_term_proposes() {
    let mut world = world();
    let queue = stream_to(&world.forwarded);
    let mut stale = send(&queue, 7, 1, LONG);
    assert_eq!(stale.answer().await, Err(NotProposed::NotLeader));
    world.view.send_replace(view(2, false));
    let mut deposed = send(&queue, 1, 2, LONG);
    assert_eq!(deposed.answer().await, Err(NotProposed::NotLeader));
    assert!(world.proposals.try_recv().is_err());
}

#[tokio::test]
async fn a_stream_that_ends_leaves_what_was_handed_over_to_the_waiters() {
    let mut world = world();
    let queue = stream_to(&world.forwarded);
    let mut handed = send(&queue, 1, 1, LONG);
    let (_, proposed) = world.proposals.recv().await.unwrap();
    drop(proposed);
    drop(queue);
    let waiters = world.waiters.clone();
    waiters.snapshot_installed(CommittedLeaderId { term: 1, node_id: LEADER });
    assert!(handed.answer().now_or_never().is_none(), "unknown here");
    assert!(!handed.withdraw());
}

#[tokio::test]
async fn a_command_another_node_took_is_not_run_for_this_one() {
    let mut world = world();
    let queue = stream_to(&world.forwarded);
    let (mut ticket, claim) = ticket();
    let foreign = Origin { node: 9, boot: 1, counter: 1 };
    let command = Command { origin: Some(foreign.into()), ..Command::default() };
    let share = Budget::new(usize::MAX).share(1).unwrap();
    queue.try_send(queued(1, command, Instant::now() + LONG, claim, share)).unwrap();
    assert_eq!(ticket.answer().await, Err(NotProposed::NotLeader));
    assert!(world.proposals.try_recv().is_err());
}

#[tokio::test]
async fn a_command_that_the_leader_leaves_over_comes_back_as_not_run() {
    let outcome = Outcome { index: 0, position: 0, term: 1, time_ms: 0, verdict: not_run() };
    let (mut at_leader, claim) = ticket();
    claim.leave_over(1);
    let left_over = at_leader.answer().now_or_never();
    assert_eq!(left_over, Some(Ok(outcome.clone())));
    assert_eq!(decode_end(encode_end(Ok(Fate::Outcome(outcome.clone())))), Ok(Fate::Outcome(outcome)));
}

#[tokio::test]
async fn an_expired_command_does_not_travel() {
    let world = world();
    let queue = stream_to(&world.forwarded);
    let mut late = send(&queue, 1, 1, Duration::ZERO);
    assert_eq!(late.answer().await, Err(NotProposed::Expired));
}

#[tokio::test]
async fn reads_are_confirmed_by_the_leader_only() {
    let world = world();
    assert_eq!(world.forwarded.read_index(FOLLOWER).await.unwrap(), 41);
    world.view.send_replace(view(2, false));
    let status = world.forwarded.read_index(FOLLOWER).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
}

#[tokio::test]
async fn a_leader_that_cannot_be_reached_was_not_given_the_command() {
    let (_reserved, address) = Reserved::address();
    let cluster = crate::types::Cluster { id: [1; 16], incarnation: 0, component_hash: [2; 32] };
    let forward = Forward::new(FOLLOWER, GroupCell::new(ClusterCell::new(Some(cluster)), GROUP));
    let node = Addresses { raft_addr: address.to_string(), ..Addresses::default() };
    let leader = LeaderView { term: 1, node_id: LEADER, node, is_me: false };
    let command = Command { origin: Some(origin(1).into()), ..Command::default() };
    let mut ticket = forward.propose(&leader, Party::default(), command, Wait::until(Instant::now() + LONG)).unwrap();
    assert_eq!(ticket.answer().await, Err(NotProposed::NotLeader));
    assert!(matches!(RemoteIndex::read_index(&forward, &leader).await, Err(RoundError::Failed(_))));
    while forward.queued_bytes() > 0 {
        tokio::task::yield_now().await;
    }
}

/// A command was tried twice over one stream, because leadership went away and came back. The
/// refusal of the first attempt came late and was taken for the second attempt, which was in the
/// log. The command was then sent a third time and could be applied twice.
#[tokio::test]
async fn a_late_refusal_of_one_attempt_says_nothing_of_the_next() {
    let (_queue, receiver) = mpsc::channel(1);
    let traffic = Traffic::new(GroupCell::new(ClusterCell::new(None), GROUP), peer::Route::default(), receiver);
    let attempt = |term: u64| {
        let (ticket, claim) = ticket();
        let share = Budget::new(QUEUE_BYTES_MAX).share(1).unwrap();
        let origin = Origin { node: FOLLOWER, boot: 1, counter: 7 };
        let command = Command { origin: Some(origin.into()), ..Command::default() };
        let deadline = Instant::now() + Duration::from_secs(60);
        traffic.hand_over(queued(term, command, deadline, claim, share)).unwrap();
        ticket
    };
    let (mut first, mut second) = (attempt(1), attempt(3));
    let refusal = encode_end(Err(NotProposed::NotLeader));
    traffic.answered(peer::ForwardResponse { counter: 7, leader_term: 1, result: refusal });
    assert_eq!(first.answer().now_or_never(), Some(Err(NotProposed::NotLeader)));
    assert!(second.answer().now_or_never().is_none());
}

#[tokio::test]
async fn a_command_of_a_removed_node_is_refused_and_the_node_learns_it() {
    let (_queue, receiver) = mpsc::channel(1);
    let cluster = GroupCell::new(ClusterCell::new(None), GROUP);
    let traffic = Traffic::new(cluster.clone(), peer::Route::default(), receiver);
    let (mut ticket, claim) = ticket();
    let share = Budget::new(QUEUE_BYTES_MAX).share(1).unwrap();
    let origin = Origin { node: FOLLOWER, boot: 1, counter: 7 };
    let command = Command { origin: Some(origin.into()), ..Command::default() };
    let deadline = Instant::now() + Duration::from_secs(60);
    traffic.hand_over(queued(1, command, deadline, claim, share)).unwrap();
    let refusal = encode_end(Err(NotProposed::Removed { index: 42 }));
    traffic.answered(peer::ForwardResponse { counter: 7, leader_term: 1, result: refusal });
    let answer = ticket.answer().now_or_never();
    assert_eq!(answer, Some(Err(NotProposed::Removed { index: 42 })));
    assert_eq!(*cluster.removals().borrow(), Some(42));
}

#[tokio::test]
async fn the_caller_of_a_command_is_believed_only_from_a_node_that_has_shown_who_it_is() {
    let mut world = world();
    let with_caller = |counter| Command {
        origin: Some(origin(counter).into()),
        method: "E/Add".into(),
        caller: "alice".into(),
        ..Command::default()
    };
    let unproven = stream_of(&world.forwarded, false);
    let mut refused = send_command(&unproven, 1, with_caller(1), LONG);
    assert_eq!(refused.answer().await, Err(NotProposed::CallerUnproven));
    assert!(world.proposals.try_recv().is_err(), "nothing was proposed");
    // Without a caller it is as before.
    let _anonymous = send(&unproven, 1, 2, LONG);
    assert_eq!(world.proposals.recv().await.unwrap().0.commands[0].caller, "");
    let proven = stream_of(&world.forwarded, true);
    let _believed = send_command(&proven, 1, with_caller(3), LONG);
    let (entry, _written) = world.proposals.recv().await.unwrap();
    assert_eq!(entry.commands[0].caller, "alice");
}
