//! Makes commands into entries: a bounded queue, packed into one entry at a time, a few entries in
//! flight, stamped with the leader's clock and state hash. Never queues for a later term and never
//! waits for another leader. Never learns the outcome of a command: outcomes come through
//! `machine::Waiters`.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::packing::{Packed, Queue};
use super::ticket::{Budget, NotProposed, Queued, Share, Ticket, check_size, ticket, weight_bytes};
use crate::codec::{self, Command, entry};
use crate::raft::liveness::leader::{LeaderView, LeaderWatch};
use crate::raft::time::log_time::LogTime;
use crate::types::EntryData;

/// Most commands that wait in the channel to be packed. A change of the leader view that keeps the
/// term moves the waiting commands out of the channel (`Queue::retain`), which then has room for as
/// many again. In that case only [`QUEUE_BYTES_MAX`] limits the queue.
pub const QUEUE_COMMANDS_MAX: usize = 16_384;
/// Most bytes of commands that wait or are in flight.
pub const QUEUE_BYTES_MAX: usize = 32 << 20;
/// Most entries that are proposed and not yet applied. A higher limit only makes entries smaller.
pub const ENTRIES_IN_FLIGHT_MAX: usize = 4;
/// Most entries in the log that are not applied yet before commands are refused. Raft's core must
/// not wait for a guest.
pub const ENTRIES_BEHIND_MAX: u64 = 16_384;
/// Longest time that the disk may take for one batch of the log, or apply for one entry, before
/// commands are refused. Queued commands would only wait for their deadlines.
pub const STALL_MAX: Duration = Duration::from_secs(2);
/// Time between two looks of the clock at log time on a node that proposes nothing.
const CLOCK_INTERVAL: Duration = Duration::from_secs(10);

/// The destination of entries: Raft, or a test.
pub trait Core: Send + Sync + 'static {
    /// Returns the number of entries in the log that are not applied.
    fn entries_behind(&self) -> u64;
    /// Returns why this node accepts no commands now, whoever leads: its disk is nearly full.
    fn refuses_commands(&self) -> Option<String>;
    /// Returns how long this node's disk has been writing one batch of the log; zero while it
    /// writes none.
    fn writing_for(&self) -> Duration;
    /// Returns how long apply has been applying one entry; zero while it applies none.
    fn applying_for(&self) -> Duration;
    /// Returns log time here, in milliseconds since 1970; 0 before any.
    fn log_time_ms(&self) -> u64;
    /// Returns the newest applied index and the state hash there.
    fn hash_tip(&self) -> (u64, u64);
    /// Proposes `data` if this node leads in `term`. Completes when the entry is applied, or when
    /// this node will not learn more of it.
    fn write(&self, term: u64, data: EntryData) -> BoxFuture<'static, Written>;
}

/// What happened to an entry: `Some` is the index at which it was applied here. `None` says that it
/// may be in a log, and that the first applied entry of a later term decides. An error says that it
/// was certainly not proposed.
pub type Written = Result<Option<u64>, NotProposed>;

/// Queues commands for entries while this node leads. Cheap to clone.
#[derive(Clone)]
pub struct Proposer {
    core: Arc<dyn Core>,
    leader: LeaderWatch,
    queue: mpsc::Sender<Queued>,
    budget: Arc<Budget>,
    log_time: LogTime,
}

/// The loop behind a [`Proposer`].
pub struct ProposerTask {
    core: Arc<dyn Core>,
    leader: LeaderWatch,
    genesis: watch::Receiver<bool>,
    queue: Queue,
    log_time: LogTime,
}

impl Proposer {
    /// Creates a proposer over `core`, and the task that must run for it. Commands are held back
    /// until `genesis` is true.
    pub fn new(
        core: Arc<dyn Core>,
        log_time: LogTime,
        leader: LeaderWatch,
        genesis: watch::Receiver<bool>,
    ) -> (Proposer, ProposerTask) {
        let (sender, receiver) = mpsc::channel(QUEUE_COMMANDS_MAX);
        let task = ProposerTask {
            core: core.clone(),
            leader: leader.clone(),
            genesis,
            queue: Queue::new(receiver),
            log_time: log_time.clone(),
        };
        let proposer = Proposer { core, leader, queue: sender, budget: Budget::new(QUEUE_BYTES_MAX), log_time };
        (proposer, task)
    }

    /// Queues `command` for this node as leader in `term`. Never waits. An error: certainly not
    /// proposed.
    pub fn propose(&self, term: u64, command: Command, deadline: Instant) -> Result<Ticket, NotProposed> {
        if !self.leader.leads(term) {
            return Err(NotProposed::NotLeader);
        }
        check_size(&command)?;
        let share = self.admit(weight_bytes(&command))?;
        let (ticket, claim) = ticket();
        self.queue.try_send(Queued { term, command, deadline, claim, share }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                NotProposed::Overloaded(format!("{QUEUE_COMMANDS_MAX} commands wait on the leader"))
            }
            mpsc::error::TrySendError::Closed(_) => NotProposed::Stopping,
        })?;
        Ok(ticket)
    }

    /// Proposes an entry of the host itself (genesis, clock), past the queue and stamped here.
    /// An index means that it is applied on this node.
    pub async fn propose_entry(&self, term: u64, entry: entry::Entry) -> Written {
        let data = stamp(&*self.core, self.log_time.stamp(), entry);
        self.core.write(term, data).await
    }

    /// Proposes an entry that moves log time to `time_ms`, whatever the clocks say. Otherwise like
    /// [`Proposer::propose_entry`].
    pub async fn propose_time(&self, term: u64, time_ms: u64) -> Written {
        let data = stamp(&*self.core, time_ms, entry::Entry::default());
        self.core.write(term, data).await
    }

    /// Returns the bytes of commands that wait or are in flight.
    #[cfg(test)]
    fn queued_bytes(&self) -> usize {
        self.budget.used_bytes()
    }

    fn admit(&self, bytes: usize) -> Result<Share, NotProposed> {
        if let Some(why) = self.core.refuses_commands() {
            return Err(NotProposed::Overloaded(why));
        }
        let behind = self.core.entries_behind();
        if behind > ENTRIES_BEHIND_MAX {
            let text =
                format!("the leader has {behind} entries to apply, it takes commands below {ENTRIES_BEHIND_MAX}");
            return Err(NotProposed::Overloaded(text));
        }
        // An entry that is not on this disk is not applied here either, so the disk is named first.
        let stalls = [
            ("writing one batch of its log", self.core.writing_for()),
            ("applying one entry", self.core.applying_for()),
        ];
        for (doing, stalled) in stalls {
            if stalled > STALL_MAX {
                let (stalled, limit) = (stalled.as_millis(), STALL_MAX.as_millis());
                let text = format!(
                    "the leader has been {doing} for {stalled} ms, it takes commands while that is below {limit} ms"
                );
                return Err(NotProposed::Overloaded(text));
            }
        }
        self.budget
            .share(bytes)
            .ok_or_else(|| NotProposed::Overloaded(format!("{QUEUE_BYTES_MAX} bytes of commands wait on the leader")))
    }
}

impl ProposerTask {
    /// Runs until every [`Proposer`] is dropped.
    pub async fn run(mut self) {
        let mut writing = FuturesUnordered::new();
        let mut clock = interval(CLOCK_INTERVAL);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut open = *self.genesis.borrow_and_update();
        loop {
            let may_write = open && writing.len() < ENTRIES_IN_FLIGHT_MAX;
            tokio::select! {
                biased;
                Some((batch, written)) = writing.next(), if !writing.is_empty() => settle(batch, written),
                () = self.leader.changed() => self.queue.retain(|term| self.leader.leads(term)),
                Ok(()) = self.genesis.changed(), if !open => open = *self.genesis.borrow_and_update(),
                _ = clock.tick() => self.log_time.observe(),
                more = self.queue.ready(), if may_write => {
                    if !more {
                        break;
                    }
                    if let Some(batch) = self.queue.pack(Instant::now()) {
                        writing.push(self.write(batch));
                    }
                }
            }
        }
        while let Some((batch, written)) = writing.next().await {
            settle(batch, written);
        }
    }

    fn write(&self, mut batch: Packed) -> impl Future<Output = (Packed, Written)> + Send + use<> {
        let commands = std::mem::take(&mut batch.commands);
        let data = stamp(&*self.core, self.log_time.stamp(), entry::Entry { commands, ..Default::default() });
        let write = self.core.write(batch.term, data);
        async move {
            let written = write.await;
            (batch, written)
        }
    }
}

/// Tells waiting callers what the proposer knows. Outcomes reach them elsewhere.
fn settle(batch: Packed, written: Written) {
    let Err(reason) = written else { return };
    for claim in batch.claims {
        claim.refuse(reason.clone());
    }
}

fn stamp(core: &dyn Core, time_ms: u64, mut entry: entry::Entry) -> EntryData {
    entry.time_ms = time_ms;
    (entry.hash_index, entry.hash) = core.hash_tip();
    codec::encode_entry(&entry)
}

/// A way to have a command proposed: by this node or over a hop. The retry loop uses either through
/// this trait.
pub trait Propose: Send + Sync + 'static {
    /// Passes the command to `leader`. Never waits. An error: certainly not proposed.
    fn propose(&self, leader: &LeaderView, command: Command, deadline: Instant) -> Result<Ticket, NotProposed>;
}

impl Propose for Proposer {
    fn propose(&self, leader: &LeaderView, command: Command, deadline: Instant) -> Result<Ticket, NotProposed> {
        Proposer::propose(self, leader.term, command, deadline)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::raft::path::ticket::REQUEST_BYTES_MAX;
    use crate::raft::time::log_time::LogTimeParts;
    use crate::types::Addresses;
    use futures::FutureExt;
    use parking_lot::Mutex;
    use std::collections::VecDeque;
    use tokio::sync::{Notify, oneshot};

    /// A Raft whose answers the test gives, entry by entry.
    #[derive(Default)]
    struct FakeCore {
        behind: std::sync::atomic::AtomicU64,
        refuses: Mutex<Option<String>>,
        writing: Mutex<Duration>,
        applying: Mutex<Duration>,
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
        fn writing_for(&self) -> Duration {
            *self.writing.lock()
        }
        fn applying_for(&self) -> Duration {
            *self.applying.lock()
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
        let core = Arc::new(FakeCore::default());
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

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[tokio::test]
    async fn what_waits_shares_a_stamped_entry() {
        let (world, task) = world();
        let _tickets: Vec<_> = (0..3).map(|_| world.proposer.propose(1, command(1), later()).unwrap()).collect();
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
        assert_eq!(world.proposer.propose(2, command(1), later()).unwrap_err(), NotProposed::NotLeader);
        world.leader.send_replace(None);
        assert_eq!(world.proposer.propose(1, command(1), later()).unwrap_err(), NotProposed::NotLeader);
    }

    #[tokio::test]
    async fn commands_wait_for_genesis() {
        let (world, task) = world();
        world.genesis.send_replace(false);
        let _ticket = world.proposer.propose(1, command(1), later()).unwrap();
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
            tickets.push(world.proposer.propose(1, command(1), later()).unwrap());
            pending.push(world.core.written().await.2);
        }
        tickets.extend((0..10).map(|_| world.proposer.propose(1, command(1), later()).unwrap()));
        assert!(world.core.written().now_or_never().is_none());
        pending.remove(0).send(Ok(Some(1))).unwrap();
        assert_eq!(world.core.written().await.1.commands.len(), 10);
    }

    #[tokio::test]
    async fn refusal_by_raft_is_told_and_an_unknown_fate_is_not() {
        let (world, task) = world();
        tokio::spawn(task.run());
        let mut refused = world.proposer.propose(1, command(1), later()).unwrap();
        world.core.written().await.2.send(Err(NotProposed::NotLeader)).unwrap();
        assert_eq!(refused.answer().await, Err(NotProposed::NotLeader));
        let mut unknown = world.proposer.propose(1, command(1), later()).unwrap();
        world.core.written().await.2.send(Ok(None)).unwrap();
        let mut stopped = world.proposer.propose(1, command(1), later()).unwrap();
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
            tickets.push(world.proposer.propose(1, command(1), later()).unwrap());
            hanging.push(world.core.written().await);
        }
        let mut queued = world.proposer.propose(1, command(1), later()).unwrap();
        world.leader.send_replace(leads(3));
        assert_eq!(queued.answer().await, Err(NotProposed::NotLeader));
    }

    #[tokio::test]
    async fn a_full_disk_refuses_commands_and_not_what_the_host_proposes() {
        let (world, task) = world();
        tokio::spawn(task.run());
        *world.core.refuses.lock() = Some("the disk is full".into());
        let refused = world.proposer.propose(1, command(1), later()).unwrap_err();
        assert_eq!(refused, NotProposed::Overloaded("the disk is full".into()));
        assert_eq!(world.proposer.propose_entry(1, entry::Entry::default()).now_or_never(), None);
        world.core.written().await;
        *world.core.refuses.lock() = None;
        let _ticket = world.proposer.propose(1, command(1), later()).unwrap();
        world.core.written().await;
    }

    #[tokio::test]
    async fn overload_is_answered_at_once() {
        let (world, _task) = world();
        let tickets: Vec<_> =
            (0..15).map(|_| world.proposer.propose(1, command(REQUEST_BYTES_MAX), later()).unwrap()).collect();
        let full = world.proposer.propose(1, command(REQUEST_BYTES_MAX), later()).unwrap_err();
        assert!(matches!(&full, NotProposed::Overloaded(text) if text.contains("bytes")), "{full:?}");
        world.core.behind.store(ENTRIES_BEHIND_MAX + 1, std::sync::atomic::Ordering::Relaxed);
        let behind = world.proposer.propose(1, command(1), later()).unwrap_err();
        assert!(matches!(&behind, NotProposed::Overloaded(text) if text.contains("entries")), "{behind:?}");
        world.core.behind.store(0, std::sync::atomic::Ordering::Relaxed);
        *world.core.applying.lock() = STALL_MAX + Duration::from_millis(1);
        let stalled = world.proposer.propose(1, command(1), later()).unwrap_err();
        assert!(matches!(&stalled, NotProposed::Overloaded(text) if text.contains("2001 ms")), "{stalled:?}");
        *world.core.applying.lock() = Duration::ZERO;
        *world.core.writing.lock() = STALL_MAX + Duration::from_millis(2);
        let hung = world.proposer.propose(1, command(1), later()).unwrap_err();
        assert!(
            matches!(&hung, NotProposed::Overloaded(text) if text.contains("writing one batch of its log for 2002 ms"))
        );
        drop(tickets);
    }

    #[tokio::test]
    async fn bytes_are_given_back_when_an_entry_is_applied() {
        let (world, task) = world();
        tokio::spawn(task.run());
        let ticket = world.proposer.propose(1, command(100), later()).unwrap();
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
        let error = world.proposer.propose(1, command(REQUEST_BYTES_MAX + 1), later()).unwrap_err();
        assert_eq!(error, NotProposed::TooLarge { bytes: REQUEST_BYTES_MAX + 1, limit_bytes: REQUEST_BYTES_MAX });
    }
}
