//! The waiters on this node for outcomes of commands. A waiter belongs to the node that took the
//! command, or to the leader on behalf of a node that forwarded it. This module decides whether a
//! command ran, did not run, or may have run. It never sends anything.
//!
//! - A command is identified by its origin. A node forwards a command again only after the earlier
//!   attempt certainly did not run, so the newest waiter for an origin is the one that counts.
//! - An attempt is sent to one leader. Its entry, if there is one, carries that leader's id, and
//!   precedes every entry of a later leader. So the command did not run if an entry of a later
//!   leader is applied here and the command was not seen. A later leader may have the same term
//!   (ids order by term, then node), so comparing terms alone would leave waiters hanging.
//! - An installed snapshot may cover the entry: the fate of every attempt sent before it is
//!   unknown.
//! - The bytes of a reply count for the client that sent the command, from its outcome until its
//!   waiter goes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::outcome::{Outcome, bytes_held};
use crate::source::Party;
use crate::types::{CommittedLeaderId, Origin};

/// The fate of one attempt to run a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The command ran, or was refused at its place in the log.
    Outcome(Outcome),
    /// The command certainly did not run and never will; send it again.
    NotRun,
    /// The entry may be covered by an installed snapshot, so it is unknown whether the command ran.
    Unknown,
}

/// The table of waiters. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Waiters(Arc<Table>);

#[derive(Debug, Default)]
struct Table {
    slots: Mutex<Slots>,
    /// Bytes of the replies in `slots`. Changed under its lock, and read without it, for each
    /// command.
    reply_bytes: AtomicU64,
}

impl Table {
    /// Counts a slot that is gone from `slots`.
    fn forget(&self, slots: &mut Slots, slot: &Slot) {
        let bytes = slot.reply_bytes();
        self.reply_bytes.fetch_sub(bytes, Relaxed);
        slots.give_back(slot.party, bytes);
    }
}

#[derive(Debug, Default)]
struct Slots {
    waiting: HashMap<Origin, Slot>,
    /// Bytes of the replies in `waiting`, by the clients that have any.
    reply_bytes: HashMap<Party, u64>,
    /// The latest leader of an applied entry.
    leader: Option<CommittedLeaderId>,
}

#[derive(Debug, Default)]
struct Slot {
    /// The client that sent the command.
    party: Party,
    sent_under: Option<CommittedLeaderId>,
    fate: Option<Fate>,
    wake: Arc<Notify>,
}

impl Slots {
    /// Returns the waiter's own slot, unless a newer waiter replaced it.
    fn slot(&mut self, waiter: &Waiter) -> Option<&mut Slot> {
        self.waiting.get_mut(&waiter.origin).filter(|slot| Arc::ptr_eq(&slot.wake, &waiter.wake))
    }

    fn give_back(&mut self, party: Party, bytes: u64) {
        if bytes > 0
            && let Some(held) = self.reply_bytes.get_mut(&party)
        {
            *held -= bytes;
            if *held == 0 {
                self.reply_bytes.remove(&party);
            }
        }
    }
}

impl Slot {
    /// Sets the fate, if none is set since the last reset.
    fn settle(&mut self, fate: Fate) {
        if self.fate.is_none() {
            self.fate = Some(fate);
            self.wake.notify_one();
        }
    }

    fn reply_bytes(&self) -> u64 {
        match &self.fate {
            Some(Fate::Outcome(outcome)) => bytes_held(&outcome.verdict),
            Some(Fate::NotRun | Fate::Unknown) | None => 0,
        }
    }
}

/// Waits for one command. Dropping it deregisters the waiter.
#[derive(Debug)]
pub struct Waiter {
    table: Arc<Table>,
    origin: Origin,
    wake: Arc<Notify>,
}

impl Waiters {
    /// Registers for the outcome of the command with this origin, which `party` has sent.
    pub fn register(&self, origin: Origin, party: Party) -> Waiter {
        let slot = Slot { party, ..Slot::default() };
        let wake = slot.wake.clone();
        let mut slots = self.0.slots.lock();
        if let Some(before) = slots.waiting.insert(origin, slot) {
            self.0.forget(&mut slots, &before);
            before.wake.notify_one();
        }
        drop(slots);
        Waiter { table: self.0.clone(), origin, wake }
    }

    /// Returns the number of waiters.
    pub fn len(&self) -> usize {
        self.0.slots.lock().waiting.len()
    }

    /// Returns whether there are no waiters.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes of the replies that are here and whose waiters are still there. A waiter
    /// that has seen its reply goes soon.
    pub fn reply_bytes(&self) -> u64 {
        self.0.reply_bytes.load(Relaxed)
    }

    /// Returns those of [`Waiters::reply_bytes`] that answer commands of one client.
    pub fn reply_bytes_of(&self, party: Party) -> u64 {
        self.0.slots.lock().reply_bytes.get(&party).copied().unwrap_or(0)
    }

    /// Returns those of the client that has most.
    pub fn reply_bytes_of_one(&self) -> u64 {
        self.0.slots.lock().reply_bytes.values().copied().max().unwrap_or(0)
    }

    /// Returns whether a waiter for this origin exists on this node.
    pub(crate) fn is_awaited(&self, origin: &Origin) -> bool {
        self.0.slots.lock().waiting.contains_key(origin)
    }

    /// Notes that an entry of `leader` was applied, with the outcomes of its awaited commands. The
    /// outcomes are set before other attempts are settled as not run, because the entry itself may
    /// hold those commands.
    pub(crate) fn entry_applied(&self, leader: CommittedLeaderId, outcomes: Vec<(Origin, Outcome)>) {
        let mut slots = self.0.slots.lock();
        for (origin, outcome) in outcomes {
            let Some(slot) = slots.waiting.get_mut(&origin) else { continue };
            let before = slot.reply_bytes();
            slot.settle(Fate::Outcome(outcome));
            let (party, more) = (slot.party, slot.reply_bytes() - before);
            if more > 0 {
                self.0.reply_bytes.fetch_add(more, Relaxed);
                *slots.reply_bytes.entry(party).or_default() += more;
            }
        }
        if slots.leader < Some(leader) {
            slots.leader = Some(leader);
            for slot in slots.waiting.values_mut().filter(|slot| slot.sent_under.is_some_and(|sent| sent < leader)) {
                slot.settle(Fate::NotRun);
            }
        }
    }

    /// Notes that a snapshot whose last entry is of `leader` replaced the state.
    pub(crate) fn snapshot_installed(&self, leader: CommittedLeaderId) {
        let mut slots = self.0.slots.lock();
        slots.leader = slots.leader.max(Some(leader));
        // An attempt that was sent to a later leader can only be in an entry after the snapshot.
        for slot in slots.waiting.values_mut().filter(|slot| slot.sent_under.is_some_and(|sent| sent <= leader)) {
            slot.settle(Fate::Unknown);
        }
    }
}

impl Waiter {
    /// Notes that the attempt goes to `leader`. Call it before anything is sent or proposed; from
    /// then on this table decides the attempt's fate. Returns false when an entry of a later leader
    /// is applied already: the attempt did not run, and there is nothing to send.
    pub fn sent_under(&self, leader: CommittedLeaderId) -> bool {
        let mut slots = self.table.slots.lock();
        let is_over = Some(leader) < slots.leader;
        if let Some(slot) = slots.slot(self) {
            slot.sent_under = Some(leader);
            if is_over {
                slot.settle(Fate::NotRun);
            }
        }
        !is_over
    }

    /// Waits until the fate of the attempt is known. Cancel-safe.
    pub async fn fate(&mut self) -> Fate {
        loop {
            let fate = match self.table.slots.lock().slot(self) {
                Some(slot) => slot.fate.clone(),
                // A newer attempt took its place, so this one did not run.
                None => Some(Fate::NotRun),
            };
            match fate {
                Some(fate) => return fate,
                None => self.wake.notified().await,
            }
        }
    }

    /// Forgets an attempt that certainly did not run, so that the next one can be sent. An outcome
    /// is never forgotten.
    pub fn reset(&mut self) {
        let mut slots = self.table.slots.lock();
        if let Some(slot) = slots.slot(self) {
            slot.sent_under = None;
            if !matches!(slot.fate, Some(Fate::Outcome(_))) {
                slot.fate = None;
            }
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut slots = self.table.slots.lock();
        if slots.slot(self).is_some()
            && let Some(slot) = slots.waiting.remove(&self.origin)
        {
            self.table.forget(&mut slots, &slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::Verdict;
    use bytes::Bytes;
    use futures::FutureExt;

    fn origin(counter: u64) -> Origin {
        Origin { node: 1, boot: 1, counter }
    }

    fn leader(term: u64) -> CommittedLeaderId {
        CommittedLeaderId { term, node_id: 1 }
    }

    fn outcome(index: u64) -> Outcome {
        Outcome { index, position: 0, term: 1, time_ms: 0, verdict: Verdict::Reply(Bytes::new()) }
    }

    #[tokio::test]
    async fn outcome_reaches_its_waiter() {
        let waiters = Waiters::default();
        let (mut first, mut second) =
            (waiters.register(origin(1), Party::default()), waiters.register(origin(2), Party::default()));
        first.sent_under(leader(1));
        second.sent_under(leader(1));
        waiters.entry_applied(leader(1), vec![(origin(2), outcome(7))]);
        assert_eq!(second.fate().await, Fate::Outcome(outcome(7)));
        assert_eq!(first.fate().now_or_never(), None);
    }

    #[tokio::test]
    async fn entry_of_a_later_term_means_not_run_unless_it_holds_the_command() {
        let waiters = Waiters::default();
        let (mut lost, mut kept) =
            (waiters.register(origin(1), Party::default()), waiters.register(origin(2), Party::default()));
        lost.sent_under(leader(1));
        kept.sent_under(leader(1));
        waiters.entry_applied(leader(2), vec![(origin(2), outcome(8))]);
        assert_eq!(lost.fate().await, Fate::NotRun);
        assert_eq!(kept.fate().await, Fate::Outcome(outcome(8)));
        lost.reset();
        assert!(!lost.sent_under(leader(1)));
        assert_eq!(lost.fate().await, Fate::NotRun, "that term is over already");
        lost.reset();
        assert!(lost.sent_under(leader(2)));
        assert_eq!(lost.fate().now_or_never(), None);
    }

    #[tokio::test]
    async fn snapshot_hides_the_fate_of_what_was_sent_only() {
        let waiters = Waiters::default();
        let (mut sent, mut unsent) =
            (waiters.register(origin(1), Party::default()), waiters.register(origin(2), Party::default()));
        sent.sent_under(leader(1));
        waiters.snapshot_installed(leader(3));
        assert_eq!(sent.fate().await, Fate::Unknown);
        assert_eq!(unsent.fate().now_or_never(), None);
        unsent.sent_under(leader(3));
        assert_eq!(unsent.fate().now_or_never(), None);
    }

    #[tokio::test]
    async fn replies_count_until_their_waiters_go() {
        let waiters = Waiters::default();
        let reply = |bytes: usize| Outcome { verdict: Verdict::Reply(vec![0; bytes].into()), ..outcome(1) };
        let (first, mut second) =
            (waiters.register(origin(1), Party::default()), waiters.register(origin(2), Party::default()));
        waiters.entry_applied(leader(1), vec![(origin(1), reply(10)), (origin(2), reply(5)), (origin(3), reply(1))]);
        waiters.entry_applied(leader(1), vec![(origin(1), reply(7))]);
        second.fate().await;
        second.reset();
        assert_eq!(waiters.reply_bytes(), 15);
        assert_eq!(waiters.reply_bytes_of(Party::default()), 15);
        let again = waiters.register(origin(1), Party::default());
        assert_eq!(waiters.reply_bytes(), 5, "the newest waiter has no reply");
        drop((first, second, again));
        assert_eq!(waiters.reply_bytes(), 0);
    }

    #[tokio::test]
    async fn replies_count_for_the_client_that_asked() {
        let waiters = Waiters::default();
        let (ann, bob) = (Party::named("ann"), Party::named("bob"));
        let [large, small] = [(1, ann), (2, bob)].map(|(counter, party)| waiters.register(origin(counter), party));
        let reply = |bytes: usize| Outcome { verdict: Verdict::Reply(vec![0; bytes].into()), ..outcome(1) };
        waiters.entry_applied(leader(1), vec![(origin(1), reply(1_000)), (origin(2), reply(3))]);
        assert_eq!((waiters.reply_bytes_of(ann), waiters.reply_bytes_of(bob)), (1_000, 3));
        drop(large);
        assert_eq!((waiters.reply_bytes_of(ann), waiters.reply_bytes_of(bob), waiters.reply_bytes()), (0, 3, 3));
        drop(small);
        assert!(waiters.0.slots.lock().reply_bytes.is_empty(), "a client without a reply costs nothing");
    }

    #[test]
    fn dropped_waiters_leave_nothing() {
        let waiters = Waiters::default();
        drop(waiters.register(origin(1), Party::default()));
        assert!(waiters.is_empty());
        waiters.entry_applied(leader(1), vec![(origin(1), outcome(1))]);
    }

    #[tokio::test]
    async fn a_command_forwarded_again_is_waited_for_by_the_newest_attempt() {
        let waiters = Waiters::default();
        let mut old = waiters.register(origin(1), Party::default());
        old.sent_under(leader(1));
        let mut new = waiters.register(origin(1), Party::default());
        new.sent_under(leader(2));
        assert_eq!(old.fate().await, Fate::NotRun);
        drop(old);
        assert!(waiters.is_awaited(&origin(1)));
        waiters.entry_applied(leader(2), vec![(origin(1), outcome(3))]);
        assert_eq!(new.fate().await, Fate::Outcome(outcome(3)));
        drop(new);
        assert!(!waiters.is_awaited(&origin(1)));
    }

    #[tokio::test]
    async fn a_second_leader_of_one_term_decides_too() {
        let waiters = Waiters::default();
        let mut lost = waiters.register(origin(1), Party::default());
        lost.sent_under(leader(1));
        waiters.entry_applied(CommittedLeaderId { term: 1, node_id: 2 }, vec![]);
        assert_eq!(lost.fate().await, Fate::NotRun);
    }
}
