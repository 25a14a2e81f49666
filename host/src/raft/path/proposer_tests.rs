//! Tests how commands become entries, with a Raft whose answers the test gives.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::machine::{Bucket, Spent};
use crate::raft::path::ticket::REQUEST_BYTES_MAX;
use crate::raft::time::log_time::LogTimeParts;
use crate::types::Addresses;
use futures::FutureExt;
use parking_lot::Mutex;
use std::collections::VecDeque;
use tokio::sync::{Notify, oneshot};

/// Commands a second of a cluster that bounds them.
const RATE: u64 = 3;

/// A Raft whose answers the test gives, entry by entry.
#[derive(Default)]
struct FakeCore {
    behind: std::sync::atomic::AtomicU64,
    refuses: Mutex<Option<String>>,
    writing: Mutex<Duration>,
    applying: Mutex<Duration>,
    spent: Mutex<EntrySpent>,
    /// What is left of the rate, and the moment at which the clock stands for it.
    rate: Option<(Arc<Bucket>, std::time::Instant)>,
    writes: Mutex<VecDeque<(u64, entry::Entry, oneshot::Sender<Written>)>>,
    wrote: Notify,
}

impl Core for FakeCore {
    fn entries_behind(&self) -> u64 {
        self.behind.load(std::sync::atomic::Ordering::Relaxed)
    }
    fn refuses_commands(&self) -> Option<String> {
        self.refuses.lock().clone()
    }
    fn admit(&self, method: &str) -> Result<Admitted, String> {
        match (&self.rate, method) {
            (_, "S/Over") => Err("no quota".to_owned()),
            (Some((bucket, at)), _) => bucket.take(RATE, *at).ok_or_else(|| "too many".to_owned()),
            (None, _) => Ok(Admitted::default()),
        }
    }
    fn writing_for(&self) -> Duration {
        *self.writing.lock()
    }
    fn applying_for(&self) -> Duration {
        *self.applying.lock()
    }
    fn take_spent(&self, _: u64) -> EntrySpent {
        std::mem::take(&mut self.spent.lock())
    }
    fn log_time_ms(&self) -> u64 {
        1_000
    }
    fn hash_tip(&self) -> (u64, u64) {
        (7, 77)
    }
    fn write(&self, term: u64, data: EntryData) -> BoxFuture<'static, Written> {
        let (sender, receiver) = oneshot::channel();
        self.writes.lock().push_back((term, codec::decode_entry(&data).unwrap(), sender));
        self.wrote.notify_one();
        async move { receiver.await.unwrap_or(Ok(None)) }.boxed()
    }
}

impl FakeCore {
    async fn written(&self) -> (u64, entry::Entry, oneshot::Sender<Written>) {
        loop {
            let next = self.writes.lock().pop_front();
            match next {
                Some(write) => return write,
                None => self.wrote.notified().await,
            }
        }
    }
}

struct World {
    core: Arc<FakeCore>,
    leader: watch::Sender<Option<LeaderView>>,
    genesis: watch::Sender<bool>,
    proposer: Proposer,
}

fn leads(term: u64) -> Option<LeaderView> {
    Some(LeaderView { term, node_id: 1, node: Addresses::default(), is_me: true })
}

fn world() -> (World, ProposerTask) {
    world_of(FakeCore::default())
}

fn world_of(core: FakeCore) -> (World, ProposerTask) {
    let core = Arc::new(core);
    let (leader, view) = watch::channel(leads(1));
    let (genesis, seen) = watch::channel(true);
    let log_time = LogTime::new(LogTimeParts {
        me: 1,
        applied_ms: Box::new(|| 1_000),
        voters: Box::new(Default::default),
        heartbeat: Duration::from_secs(1),
    });
    let (proposer, task) = Proposer::new(core.clone(), log_time, LeaderWatch::new(view), seen);
    (World { core, leader, genesis, proposer }, task)
}

fn command(bytes: usize) -> Command {
    Command { request: vec![0; bytes].into(), ..Command::default() }
}

fn later() -> Wait {
    Wait::until(Instant::now() + Duration::from_secs(10))
}

#[tokio::test]
async fn what_waits_shares_a_stamped_entry() {
    let (world, task) = world();
    let _tickets: Vec<_> =
        (0..3).map(|_| world.proposer.propose(1, Party::default(), command(1), later()).unwrap()).collect();
    tokio::spawn(task.run());
    let (term, entry, _done) = world.core.written().await;
    assert_eq!((term, entry.commands.len()), (1, 3));
    assert_eq!((entry.hash_index, entry.hash), (7, 77));
    // A leader that has heard no other clock moves log time by the time that passed, and does
    // not jump.
    assert!((1_000..60_000).contains(&entry.time_ms), "{}", entry.time_ms);
}

#[tokio::test]
async fn only_the_leader_of_that_term_takes_commands() {
    let (world, _task) = world();
    assert_eq!(world.proposer.propose(2, Party::default(), command(1), later()).unwrap_err(), NotProposed::NotLeader);
    world.leader.send_replace(None);
    assert_eq!(world.proposer.propose(1, Party::default(), command(1), later()).unwrap_err(), NotProposed::NotLeader);
}

#[tokio::test]
async fn commands_wait_for_genesis() {
    let (world, task) = world();
    world.genesis.send_replace(false);
    let _ticket = world.proposer.propose(1, Party::default(), command(1), later()).unwrap();
    let running = tokio::spawn(task.run());
    assert_eq!(
        world.proposer.propose_entry(1, entry::Entry::default()).now_or_never(),
        None,
        "genesis goes past the queue"
    );
    let (_, own, _done) = world.core.written().await;
    assert!(own.commands.is_empty());
    world.genesis.send_replace(true);
    assert_eq!(world.core.written().await.1.commands.len(), 1);
    drop(running);
}

#[tokio::test]
async fn few_entries_are_in_flight_and_the_rest_packs() {
    let (world, task) = world();
    tokio::spawn(task.run());
    let mut pending = Vec::new();
    let mut tickets = Vec::new();
    for _ in 0..ENTRIES_IN_FLIGHT_MAX {
        tickets.push(world.proposer.propose(1, Party::default(), command(1), later()).unwrap());
        pending.push(world.core.written().await.2);
    }
    tickets.extend((0..10).map(|_| world.proposer.propose(1, Party::default(), command(1), later()).unwrap()));
    assert!(world.core.written().now_or_never().is_none());
    pending.remove(0).send(Ok(Some(1))).unwrap();
    assert_eq!(world.core.written().await.1.commands.len(), 10);
}

#[tokio::test]
async fn commands_gather_while_an_entry_is_in_flight() {
    let (world, task) = world();
    tokio::spawn(task.run());
    let propose = || world.proposer.propose(1, Party::default(), command(1), later()).unwrap();
    let began = Instant::now();
    let mut tickets = vec![propose()];
    let first = world.core.written().await;
    tickets.extend([propose(), propose()]);
    let second = world.core.written().await;
    assert_eq!(second.1.commands.len(), 2);
    assert!(began.elapsed() >= GATHERING, "{:?}", began.elapsed());
    drop((first, tickets));
}

#[tokio::test]
async fn what_commands_took_decides_whose_turn_it_is() {
    let (world, task) = world();
    tokio::spawn(task.run());
    let (heavy, light) = (Party::named("heavy"), Party::named("light"));
    let propose = |party| world.proposer.propose(1, party, command(1), later()).unwrap();
    let spent = Spent { fuel: 50_000_000, ..Spent::default() };
    *world.core.spent.lock() = EntrySpent { commands: vec![Some(spent)], took: Duration::ZERO };
    let mut tickets = vec![propose(heavy)];
    world.core.written().await.2.send(Ok(Some(1))).unwrap();
    while world.proposer.queued_bytes() > 0 {
        tokio::task::yield_now().await;
    }
    tickets.push(propose(light));
    let first_light = world.core.written().await;
    tickets.extend([propose(heavy), propose(heavy), propose(heavy)]);
    let first_heavy = world.core.written().await;
    assert_eq!(first_heavy.1.commands.len(), 1, "one heavy command is under way at a time");
    assert!(world.core.written().now_or_never().is_none());
    tickets.push(propose(light));
    let second_light = world.core.written().await;
    assert_eq!(second_light.1.commands.len(), 1, "and others do not wait for it");
    first_heavy.2.send(Ok(Some(3))).unwrap();
    assert_eq!(world.core.written().await.1.commands.len(), 1, "then the next has its turn");
    drop((first_light, second_light, tickets));
}

#[tokio::test]
async fn refusal_by_raft_is_told_and_an_unknown_fate_is_not() {
    let (world, task) = world();
    tokio::spawn(task.run());
    let mut refused = world.proposer.propose(1, Party::default(), command(1), later()).unwrap();
    world.core.written().await.2.send(Err(NotProposed::NotLeader)).unwrap();
    assert_eq!(refused.answer().await, Err(NotProposed::NotLeader));
    let mut unknown = world.proposer.propose(1, Party::default(), command(1), later()).unwrap();
    world.core.written().await.2.send(Ok(None)).unwrap();
    let mut stopped = world.proposer.propose(1, Party::default(), command(1), later()).unwrap();
    world.core.written().await.2.send(Err(NotProposed::Stopping)).unwrap();
    assert_eq!(stopped.answer().await, Err(NotProposed::Stopping));
    assert!(unknown.answer().now_or_never().is_none());
}

#[tokio::test]
async fn a_lost_term_frees_the_queue_while_raft_hangs() {
    let (world, task) = world();
    tokio::spawn(task.run());
    let mut hanging = Vec::new();
    let mut tickets = Vec::new();
    for _ in 0..ENTRIES_IN_FLIGHT_MAX {
        tickets.push(world.proposer.propose(1, Party::default(), command(1), later()).unwrap());
        hanging.push(world.core.written().await);
    }
    let mut queued = world.proposer.propose(1, Party::default(), command(1), later()).unwrap();
    world.leader.send_replace(leads(3));
    assert_eq!(queued.answer().await, Err(NotProposed::NotLeader));
}

#[tokio::test]
async fn a_full_disk_refuses_commands_and_not_what_the_host_proposes() {
    let (world, task) = world();
    tokio::spawn(task.run());
    *world.core.refuses.lock() = Some("the disk is full".into());
    let refused = world.proposer.propose(1, Party::default(), command(1), later()).unwrap_err();
    assert_eq!(refused, NotProposed::Overloaded("the disk is full".into()));
    assert_eq!(world.proposer.propose_entry(1, entry::Entry::default()).now_or_never(), None);
    world.core.written().await;
    *world.core.refuses.lock() = None;
    let _ticket = world.proposer.propose(1, Party::default(), command(1), later()).unwrap();
    world.core.written().await;
}

#[tokio::test]
async fn overload_is_answered_at_once() {
    let (world, _task) = world();
    let tickets: Vec<_> = (0..15)
        .map(|_| world.proposer.propose(1, Party::default(), command(REQUEST_BYTES_MAX), later()).unwrap())
        .collect();
    let full = world.proposer.propose(1, Party::default(), command(REQUEST_BYTES_MAX), later()).unwrap_err();
    assert!(matches!(&full, NotProposed::Overloaded(text) if text.contains("bytes")), "{full:?}");
    world.core.behind.store(ENTRIES_BEHIND_MAX + 1, std::sync::atomic::Ordering::Relaxed);
    let behind = world.proposer.propose(1, Party::default(), command(1), later()).unwrap_err();
    assert!(matches!(&behind, NotProposed::Overloaded(text) if text.contains("entries")), "{behind:?}");
    world.core.behind.store(0, std::sync::atomic::Ordering::Relaxed);
    *world.core.applying.lock() = STALL_MAX + Duration::from_millis(1);
    let stalled = world.proposer.propose(1, Party::default(), command(1), later()).unwrap_err();
    assert!(matches!(&stalled, NotProposed::Overloaded(text) if text.contains("2001 ms")), "{stalled:?}");
    *world.core.applying.lock() = Duration::ZERO;
    *world.core.writing.lock() = STALL_MAX + Duration::from_millis(2);
    let hung = world.proposer.propose(1, Party::default(), command(1), later()).unwrap_err();
    assert!(
        matches!(&hung, NotProposed::Overloaded(text) if text.contains("writing one batch of its log for 2002 ms"))
    );
    drop(tickets);
}

#[tokio::test]
async fn bytes_are_given_back_when_an_entry_is_applied() {
    let (world, task) = world();
    tokio::spawn(task.run());
    let ticket = world.proposer.propose(1, Party::default(), command(100), later()).unwrap();
    let (_, _, done) = world.core.written().await;
    assert!(world.proposer.queued_bytes() >= 100);
    done.send(Ok(Some(1))).unwrap();
    while world.proposer.queued_bytes() > 0 {
        tokio::task::yield_now().await;
    }
    drop(ticket);
}

#[test]
fn what_no_entry_takes_is_refused_by_size() {
    let (world, _task) = world();
    let error = world.proposer.propose(1, Party::default(), command(REQUEST_BYTES_MAX + 1), later()).unwrap_err();
    assert_eq!(error, NotProposed::TooLarge { bytes: REQUEST_BYTES_MAX + 1, limit_bytes: REQUEST_BYTES_MAX });
}

#[tokio::test]
async fn a_quota_refuses_commands_of_a_method() {
    let (world, _task) = world();
    let of = |method: &str| Command { method: method.into(), ..command(1) };
    let refused = world.proposer.propose(1, Party::default(), of("S/Over"), later()).unwrap_err();
    assert_eq!(refused, NotProposed::Overloaded("no quota".into()));
    assert_eq!(world.proposer.queued_bytes(), 0, "it gave its share back");
    world.proposer.propose(1, Party::default(), of("S/Put"), later()).unwrap();
}

/// A command that was left over, or whose client had gone, had used up a place of the rate, and was
/// counted again when it was offered again.
#[tokio::test]
async fn what_goes_into_no_entry_gives_its_place_in_the_rate_back() {
    let rate = Some((Arc::default(), std::time::Instant::now()));
    let (world, task) = world_of(FakeCore { rate, ..FakeCore::default() });
    let propose = || world.proposer.propose(1, Party::default(), command(1), later());
    let mut tickets: Vec<_> = (0..RATE).map(|_| propose().unwrap()).collect();
    let refused: Result<(), NotProposed> = Err(NotProposed::Overloaded("too many".into()));
    assert_eq!(propose().map(drop), refused);
    tickets.pop();
    tokio::spawn(task.run());
    let (_, entry, _done) = world.core.written().await;
    assert_eq!(entry.commands.len() as u64, RATE - 1, "the one that was withdrawn is in no entry");
    tickets.push(propose().unwrap());
    assert_eq!(propose().map(drop), refused, "what is in an entry has used its place");
}
