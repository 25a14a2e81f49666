//! Who waits for the outcome of a command that this node took. Decides whether a command ran, did not run, or may have; never
//! sends anything anywhere.
//!
//! - A command is told apart by its origin's counter; origins of other nodes or earlier boots are nobody's here.
//! - An attempt is sent under one term. Its entry, if there is one, has that term, and precedes every entry of a later one: once
//!   an entry of a later term is applied here and the command was not seen, it was not run.
//! - An installed snapshot may have swallowed the entry: the fate of every attempt sent before it is unknown.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::outcome::Outcome;
use crate::types::{NodeId, Origin};

/// What became of one attempt to run a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It ran, or was refused in its place in the log.
    Outcome(Outcome),
    /// It was certainly not run and never will be; send it again.
    NotRun,
    /// A snapshot hid whether it ran.
    Unknown,
}

/// The table of waiters. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Waiters(Arc<Table>);

#[derive(Debug)]
struct Table {
    node: NodeId,
    boot: u64,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    /// By `Origin::counter`.
    waiting: HashMap<u64, Slot>,
    /// The greatest term of an applied entry.
    term: u64,
}

#[derive(Debug, Default)]
struct Slot {
    sent_under: Option<u64>,
    fate: Option<Fate>,
    wake: Arc<Notify>,
}

impl Slot {
    /// The first fate stands until the waiter is reset.
    fn settle(&mut self, fate: Fate) {
        if self.fate.is_none() {
            self.fate = Some(fate);
            self.wake.notify_one();
        }
    }
}

/// Waits for one command. Dropping it deregisters.
#[derive(Debug)]
pub struct Waiter {
    table: Arc<Table>,
    counter: u64,
    wake: Arc<Notify>,
}

impl Waiters {
    pub(crate) fn new(node: NodeId, boot: u64) -> Waiters {
        Waiters(Arc::new(Table { node, boot, slots: Mutex::default() }))
    }

    /// Registers for the outcome of the command with this origin, which must be of this node and boot, and used once.
    pub fn register(&self, origin: Origin) -> Waiter {
        assert_eq!(
            (origin.node, origin.boot),
            (self.0.node, self.0.boot),
            "origins are minted by the node that takes a command"
        );
        let slot = Slot::default();
        let wake = slot.wake.clone();
        let before = self.0.slots.lock().waiting.insert(origin.counter, slot);
        assert!(before.is_none(), "an origin is used once");
        Waiter { table: self.0.clone(), counter: origin.counter, wake }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.0.slots.lock().waiting.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether somebody here may wait for this origin.
    pub(crate) fn is_ours(&self, origin: &Origin) -> bool {
        origin.node == self.0.node && origin.boot == self.0.boot
    }

    /// An entry of `term` was applied, with these outcomes of commands of ours. Outcomes first: the entry itself may hold them.
    pub(crate) fn entry_applied(&self, term: u64, outcomes: Vec<(Origin, Outcome)>) {
        let mut slots = self.0.slots.lock();
        for (origin, outcome) in outcomes {
            if let Some(slot) = slots.waiting.get_mut(&origin.counter) {
                slot.settle(Fate::Outcome(outcome));
            }
        }
        if term > slots.term {
            slots.term = term;
            for slot in slots.waiting.values_mut().filter(|slot| slot.sent_under.is_some_and(|sent| sent < term)) {
                slot.settle(Fate::NotRun);
            }
        }
    }

    /// A snapshot whose last entry is of `term` replaced the state.
    pub(crate) fn snapshot_installed(&self, term: u64) {
        let mut slots = self.0.slots.lock();
        slots.term = slots.term.max(term);
        for slot in slots.waiting.values_mut().filter(|slot| slot.sent_under.is_some()) {
            slot.settle(Fate::Unknown);
        }
    }
}

impl Waiter {
    /// The attempt goes to the leader of `term`. Call before anything is sent or proposed: from then on its fate is decided here.
    pub fn sent_under(&self, term: u64) {
        let mut slots = self.table.slots.lock();
        let applied_term = slots.term;
        let slot = slots.waiting.get_mut(&self.counter).expect("registered until dropped");
        slot.sent_under = Some(term);
        if term < applied_term {
            slot.settle(Fate::NotRun);
        }
    }

    /// Completes when the fate of the attempt is known. Cancel-safe.
    pub async fn fate(&mut self) -> Fate {
        loop {
            let fate = self.table.slots.lock().waiting.get(&self.counter).and_then(|slot| slot.fate.clone());
            match fate {
                Some(fate) => return fate,
                None => self.wake.notified().await,
            }
        }
    }

    /// Forgets an attempt that certainly did not run, so that the next can be sent. An outcome is never forgotten.
    pub fn reset(&mut self) {
        let mut slots = self.table.slots.lock();
        let slot = slots.waiting.get_mut(&self.counter).expect("registered until dropped");
        slot.sent_under = None;
        if !matches!(slot.fate, Some(Fate::Outcome(_))) {
            slot.fate = None;
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.table.slots.lock().waiting.remove(&self.counter);
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

    fn outcome(index: u64) -> Outcome {
        Outcome { index, position: 0, term: 1, time_ms: 0, verdict: Verdict::Reply(Bytes::new()) }
    }

    #[tokio::test]
    async fn outcome_reaches_its_waiter() {
        let waiters = Waiters::new(1, 1);
        let (mut first, mut second) = (waiters.register(origin(1)), waiters.register(origin(2)));
        first.sent_under(1);
        second.sent_under(1);
        waiters.entry_applied(1, vec![(origin(2), outcome(7))]);
        assert_eq!(second.fate().await, Fate::Outcome(outcome(7)));
        assert_eq!(first.fate().now_or_never(), None);
    }

    #[tokio::test]
    async fn entry_of_a_later_term_means_not_run_unless_it_holds_the_command() {
        let waiters = Waiters::new(1, 1);
        let (mut lost, mut kept) = (waiters.register(origin(1)), waiters.register(origin(2)));
        lost.sent_under(1);
        kept.sent_under(1);
        waiters.entry_applied(2, vec![(origin(2), outcome(8))]);
        assert_eq!(lost.fate().await, Fate::NotRun);
        assert_eq!(kept.fate().await, Fate::Outcome(outcome(8)));
        lost.reset();
        lost.sent_under(1);
        assert_eq!(lost.fate().await, Fate::NotRun, "that term is over already");
        lost.reset();
        lost.sent_under(2);
        assert_eq!(lost.fate().now_or_never(), None);
    }

    #[tokio::test]
    async fn snapshot_hides_the_fate_of_what_was_sent_only() {
        let waiters = Waiters::new(1, 1);
        let (mut sent, mut unsent) = (waiters.register(origin(1)), waiters.register(origin(2)));
        sent.sent_under(1);
        waiters.snapshot_installed(3);
        assert_eq!(sent.fate().await, Fate::Unknown);
        assert_eq!(unsent.fate().now_or_never(), None);
        unsent.sent_under(3);
        assert_eq!(unsent.fate().now_or_never(), None);
    }

    #[test]
    fn dropped_waiters_leave_nothing() {
        let waiters = Waiters::new(1, 1);
        drop(waiters.register(origin(1)));
        assert!(waiters.is_empty());
        waiters.entry_applied(1, vec![(origin(1), outcome(1))]);
    }
}
