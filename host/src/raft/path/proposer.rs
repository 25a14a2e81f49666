//! Makes commands into entries: a bounded queue, packed into one entry at a time, a few entries in
//! flight, stamped with the leader's clock and state hash. Never queues for a later term and never
//! waits for another leader. Never learns the outcome of a command: outcomes come through
//! `machine::Waiters`.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::packing::Packed;
use super::queue::Queue;
use super::ticket::{
    Budget, CLIENT_COMMAND_BYTES_MIN, NotProposed, Queued, Share, Spare, Ticket, Wait, check_size, ticket, weight_bytes,
};
use super::turns::WAITING_COMMANDS_MAX;
use crate::codec::{self, Command, entry};
use crate::limit::Limit;
use crate::machine::{Admitted, EntrySpent};
use crate::raft::liveness::leader::{LeaderView, LeaderWatch};
use crate::raft::time::log_time::LogTime;
use crate::source::Party;
use crate::types::EntryData;

/// Most commands that wait in the channel. The commands whose clients take turns have left it, and
/// have a limit of their own (`turns::WAITING_COMMANDS_MAX`). A change of the leader view moves all
/// out of the channel (`Queue::retain`). In that case only [`QUEUE_BYTES_MAX`] limits them.
pub const QUEUE_COMMANDS_MAX: usize = 16_384;
/// Most bytes of commands that wait or are in flight.
pub const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Most bytes of commands of one client that wait or are in flight: a half, so that no client has
/// others refused. Small commands count [`CLIENT_COMMAND_BYTES_MIN`], so it is also a half of the
/// commands that the stream of one node may have under way.
pub const CLIENT_BYTES_MAX: usize = QUEUE_BYTES_MAX / 2;
/// Most entries that are proposed and not yet applied. A higher limit only makes entries smaller.
pub const ENTRIES_IN_FLIGHT_MAX: usize = 4;
/// Time between two entries while one is in flight. An entry costs about as much with one command
/// as with fifty, on every node. Where a round is shorter than this, one entry is in flight and the
/// next one gathers; where disks or networks are slower, entries follow each other at this pace.
pub const GATHERING: Duration = Duration::from_millis(2);
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
    /// Takes a command of this method from the quotas. An error says which one it goes beyond.
    /// Asked last, once for each command.
    fn admit(&self, method: &str) -> Result<Admitted, String>;
    /// Returns how long this node's disk has been writing one batch of the log; zero while it
    /// writes none.
    fn writing_for(&self) -> Duration;
    /// Returns how long apply has been applying one entry; zero while it applies none.
    fn applying_for(&self) -> Duration;
    /// Takes what an entry took that was applied here. Empty when that is not known.
    fn take_spent(&self, index: u64) -> EntrySpent;
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
    /// The commands that have left the channel and wait for their turns.
    waiting: Arc<AtomicUsize>,
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
        let waiting_queue = Queue::new(receiver);
        let waiting = waiting_queue.waiting();
        let task = ProposerTask {
            core: core.clone(),
            leader: leader.clone(),
            genesis,
            queue: waiting_queue,
            log_time: log_time.clone(),
        };
        let proposer = Proposer {
            core,
            leader,
            queue: sender,
            waiting,
            budget: Budget::by_party(QUEUE_BYTES_MAX, CLIENT_BYTES_MAX),
            log_time,
        };
        (proposer, task)
    }

    /// Queues `command` of `party` for this node as leader in `term`. Never waits. An error:
    /// certainly not proposed.
    pub fn propose(&self, term: u64, party: Party, command: Command, wait: Wait) -> Result<Ticket, NotProposed> {
        if !self.leader.leads(term) {
            return Err(NotProposed::NotLeader);
        }
        check_size(&command)?;
        let share = self.share_of(party, weight_bytes(&command))?;
        let place = self.queue.try_reserve().map_err(|error| match error {
            TrySendError::Full(()) => {
                NotProposed::Overloaded(format!("{QUEUE_COMMANDS_MAX} commands wait on the leader"))
            }
            TrySendError::Closed(()) => NotProposed::Stopping,
        })?;
        let admitted = self.core.admit(&command.method).map_err(NotProposed::Overloaded)?;
        let (ticket, claim) = ticket();
        place.send(Queued { term, party, command, wait, claim, share, admitted });
        Ok(ticket)
    }

    /// Proposes an entry of the host itself (genesis, clock), past the queue and stamped here.
    /// An index means that it is applied on this node.
    pub async fn propose_entry(&self, term: u64, entry: entry::Entry) -> Written {
        let data = stamp(&*self.core, self.log_time.stamp(), entry);
        self.core.write(term, data).await
    }

    /// Returns an error while this node's disk has no room for what the host itself could put off.
    pub fn check_room(&self) -> Result<(), NotProposed> {
        self.core.refuses_commands().map_or(Ok(()), |why| Err(NotProposed::Overloaded(why)))
    }

    /// Proposes an entry that moves log time to `time_ms`, whatever the clocks say. Otherwise like
    /// [`Proposer::propose_entry`].
    pub async fn propose_time(&self, term: u64, time_ms: u64) -> Written {
        let data = stamp(&*self.core, time_ms, entry::Entry::default());
        self.core.write(term, data).await
    }

    /// Returns how near the limits of the commands are that wait here for entries.
    pub fn limits(&self) -> [Limit; 4] {
        let new = self.queue.max_capacity() - self.queue.capacity();
        [
            Limit::new("leader_queue_bytes", self.budget.used_bytes(), QUEUE_BYTES_MAX),
            Limit::new("leader_queue_of_one_client_bytes", self.budget.used_bytes_of_one(), CLIENT_BYTES_MAX),
            Limit::new("leader_new_commands", new, QUEUE_COMMANDS_MAX),
            Limit::new("leader_waiting_commands", self.waiting.load(Relaxed), WAITING_COMMANDS_MAX),
        ]
    }

    /// Returns the bytes of commands that wait or are in flight.
    #[cfg(test)]
    fn queued_bytes(&self) -> usize {
        self.budget.used_bytes()
    }

    fn share_of(&self, party: Party, bytes: usize) -> Result<Share, NotProposed> {
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
        self.budget.share_of(party, bytes).map_err(|spare| {
            NotProposed::Overloaded(match spare {
                Spare::None => format!("{QUEUE_BYTES_MAX} bytes of commands wait on the leader"),
                Spare::ForOthers => format!(
                    "{CLIENT_BYTES_MAX} bytes of commands of this client wait on the leader, each counted with at least \
                     {CLIENT_COMMAND_BYTES_MIN}"
                ),
            })
        })
    }
}

impl ProposerTask {
    /// Runs until every [`Proposer`] is dropped.
    pub async fn run(mut self) {
        let mut writing = FuturesUnordered::new();
        let mut clock = interval(CLOCK_INTERVAL);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut open = *self.genesis.borrow_and_update();
        // Whether another entry may follow the newest one that is in flight.
        let mut gathered = true;
        let mut gathering = pin!(sleep(Duration::ZERO));
        loop {
            let has_place = open && writing.len() < ENTRIES_IN_FLIGHT_MAX;
            let may_write = has_place && (writing.is_empty() || gathered);
            tokio::select! {
                biased;
                Some((batch, written)) = writing.next(), if !writing.is_empty() => self.settle(batch, written),
                () = self.leader.changed() => self.queue.retain(|term| self.leader.leads(term)),
                Ok(()) = self.genesis.changed(), if !open => open = *self.genesis.borrow_and_update(),
                _ = clock.tick() => self.log_time.observe(),
                () = &mut gathering, if has_place && !may_write => gathered = true,
                more = self.queue.ready(), if may_write => {
                    if !more {
                        break;
                    }
                    if let Some(batch) = self.queue.pack(Instant::now()) {
                        writing.push(self.write(batch));
                        gathered = false;
                        gathering.as_mut().reset(Instant::now() + GATHERING);
                    }
                }
            }
        }
        while let Some((batch, written)) = writing.next().await {
            self.settle(batch, written);
        }
    }

    /// Lets the clients of an entry that is over take further turns, and tells waiting callers what
    /// the proposer knows. Outcomes reach them elsewhere.
    fn settle(&mut self, batch: Packed, written: Written) {
        let index = written.as_ref().ok().copied().flatten();
        let spent = index.map(|index| self.core.take_spent(index)).unwrap_or_default();
        self.queue.settled(&batch, &spent, Instant::now());
        let Err(reason) = written else { return };
        for claim in batch.claims {
            claim.refuse(reason.clone());
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

fn stamp(core: &dyn Core, time_ms: u64, mut entry: entry::Entry) -> EntryData {
    entry.time_ms = time_ms;
    (entry.hash_index, entry.hash) = core.hash_tip();
    codec::encode_entry(&entry)
}

/// A way to have a command proposed: by this node or over a hop. The retry loop uses either through
/// this trait.
pub trait Propose: Send + Sync + 'static {
    /// Passes the command of `party` to `leader`. Never waits. An error: certainly not proposed.
    fn propose(&self, leader: &LeaderView, party: Party, command: Command, wait: Wait) -> Result<Ticket, NotProposed>;
}

impl Propose for Proposer {
    fn propose(&self, leader: &LeaderView, party: Party, command: Command, wait: Wait) -> Result<Ticket, NotProposed> {
        Proposer::propose(self, leader.term, party, command, wait)
    }
}

#[cfg(test)]
#[path = "proposer_tests.rs"]
mod tests;
