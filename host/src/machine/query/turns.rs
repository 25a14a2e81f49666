//! Whose query is next. Clients take turns, so that the queries of one client delay those of
//! another by no more than one each. Owns the work that waits, and knows nothing of what it does.
//!
//! - The work of one client stays in order.
//! - While several clients have work, one of them never has all threads, so that a thread is soon
//!   free for the others.
//! - A client that is alone has all threads and is not held back.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::source::Party;

/// One client may have this part of the places in a queue, so that others find some.
const OF_ONE: usize = 2;
/// How long threads count as shared after work came from another client than the work before. It is
/// long enough for a client that asks now and then.
const SHARED_FOR: Duration = Duration::from_secs(5);

/// The work that waits in one queue.
#[derive(Debug)]
pub(super) struct Turns<W> {
    /// The clients that have work here.
    lines: HashMap<Party, VecDeque<W>>,
    /// The same clients, in the order of their turns.
    order: VecDeque<Party>,
    waiting: usize,
    max: usize,
}

impl<W> Turns<W> {
    /// Makes a queue with `max` places.
    pub(super) fn new(max: usize) -> Turns<W> {
        Turns { lines: HashMap::new(), order: VecDeque::new(), waiting: 0, max }
    }

    /// Adds work at the end of its client's line. Returns false when there is no place.
    pub(super) fn push(&mut self, party: Party, work: W) -> bool {
        let (max, of_one_max) = self.max();
        let own = self.lines.get(&party).map_or(0, VecDeque::len);
        if self.waiting >= max || own >= of_one_max {
            return false;
        }
        if own == 0 {
            self.order.push_back(party);
        }
        self.lines.entry(party).or_default().push_back(work);
        self.waiting += 1;
        true
    }

    /// Takes the next work of a client that may go.
    pub(super) fn pop(&mut self, may_go: impl Fn(Party) -> bool) -> Option<(Party, W)> {
        // Those that may not go have all threads but one, so there are hardly ever two of them.
        let place = self.order.iter().position(|party| may_go(*party))?;
        let party = self.order.remove(place)?;
        let line = self.lines.get_mut(&party)?;
        let work = line.pop_front()?;
        self.waiting -= 1;
        match line.is_empty() {
            true => drop(self.lines.remove(&party)),
            false => self.order.push_back(party),
        }
        Some((party, work))
    }

    /// Returns how much waits, and how much of the client that has most.
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.waiting, self.lines.values().map(VecDeque::len).max().unwrap_or(0))
    }

    /// Returns how much may wait, and how much of one client.
    pub(super) fn max(&self) -> (usize, usize) {
        (self.max, (self.max / OF_ONE).max(1))
    }

    /// Returns whether [`Turns::pop`] would return work.
    pub(super) fn has_next(&self, may_go: impl Fn(Party) -> bool) -> bool {
        self.order.iter().any(|party| may_go(*party))
    }
}

/// Whose work runs, and whether several clients have work.
#[derive(Debug)]
pub(super) struct Running {
    /// Threads that each client has. Clients without a thread are not in it.
    threads: HashMap<Party, usize>,
    /// Threads that one client may have while others have work.
    of_one_max: usize,
    /// Whose work came last, and when work of another client than that came before.
    newest: Option<Party>,
    changed: Option<Instant>,
}

impl Running {
    /// Makes the account of so many threads.
    pub(super) fn new(threads: usize) -> Running {
        let of_one_max = threads.saturating_sub(1).max(1);
        Running { threads: HashMap::new(), of_one_max, newest: None, changed: None }
    }

    /// Notes that a client has work.
    pub(super) fn arrived(&mut self, party: Party, now: Instant) {
        if self.newest.replace(party).is_some_and(|before| before != party) {
            self.changed = Some(now);
        }
    }

    /// Returns whether a client may have one more thread.
    pub(super) fn may_go(&self, party: Party) -> bool {
        let own = self.threads.get(&party).copied().unwrap_or(0);
        own < self.of_one_max || !self.is_shared()
    }

    /// Notes that a thread begins work of a client.
    pub(super) fn begun(&mut self, party: Party) {
        *self.threads.entry(party).or_default() += 1;
    }

    /// Notes that this work is over.
    pub(super) fn ended(&mut self, party: Party) {
        let Some(own) = self.threads.get_mut(&party) else { return };
        *own -= 1;
        if *own == 0 {
            self.threads.remove(&party);
        }
    }

    fn is_shared(&self) -> bool {
        self.changed.is_some_and(|changed| changed.elapsed() < SHARED_FOR)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parties() -> [Party; 2] {
        ["ann", "bob"].map(Party::named)
    }

    #[test]
    fn a_flood_of_one_client_delays_another_by_one() {
        let [ann, bob] = parties();
        let mut turns = Turns::new(100);
        assert!((0..40).all(|number| turns.push(ann, number)));
        assert!((100..102).all(|number| turns.push(bob, number)));
        let order: Vec<u64> = std::iter::from_fn(|| turns.pop(|_| true)).map(|(_, number)| number).take(6).collect();
        assert_eq!(order, [0, 100, 1, 101, 2, 3]);
    }

    #[test]
    fn one_client_never_has_all_places() {
        let [ann, bob] = parties();
        let mut turns = Turns::new(4);
        assert_eq!((0..3).map(|number| turns.push(ann, number)).collect::<Vec<_>>(), [true, true, false]);
        assert!(turns.push(bob, 3) && turns.push(bob, 4));
        let third = Party::named("cat");
        assert!(!turns.push(third, 5), "all places are taken");
        assert_eq!(turns.pop(|_| true), Some((ann, 0)));
        assert!(turns.push(third, 5));
        while turns.pop(|_| true).is_some() {}
        assert!(turns.lines.is_empty() && turns.order.is_empty() && turns.waiting == 0);
    }

    #[test]
    fn one_client_never_has_all_threads_while_others_have_work() {
        let [ann, bob] = parties();
        let mut running = Running::new(3);
        let now = Instant::now();
        running.arrived(ann, now);
        for _ in 0..2 {
            running.begun(ann);
        }
        assert!(running.may_go(ann), "it is alone");
        running.arrived(bob, now);
        assert!(!running.may_go(ann) && running.may_go(bob));
        let mut turns = Turns::new(10);
        assert!(turns.push(ann, 1) && turns.push(bob, 2));
        assert_eq!(turns.pop(|party| running.may_go(party)), Some((bob, 2)), "the first in order may not go");
        assert!(!turns.has_next(|party| running.may_go(party)));
        running.ended(ann);
        assert_eq!(turns.pop(|party| running.may_go(party)), Some((ann, 1)));
        running.ended(ann);
        assert!(running.threads.is_empty());
    }

    #[test]
    fn a_client_is_alone_again_when_no_other_came_for_a_while() {
        let [ann, bob] = parties();
        let mut running = Running::new(1);
        let Some(before) = Instant::now().checked_sub(2 * SHARED_FOR) else { return };
        running.arrived(bob, before);
        running.arrived(ann, before);
        running.begun(ann);
        assert!(running.may_go(ann));
    }
}
