//! The places of one port: at most so many connections at a time. Opens and closes nothing itself.
//!
//! - A connection is *silent* until it has finished its preface. When the port is full, the oldest
//!   silent one makes room for a new one.
//! - A connection that is not silent is in use and is never evicted. When all are in use, there is
//!   no room.
//! - Silent ones are ordered by their number, which grows with each connection.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use parking_lot::Mutex;

/// The places of one port. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Slots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// The number of the next connection.
    next: u64,
    /// Places that are taken. An evicted connection no longer has one.
    taken: usize,
    silent: BTreeMap<u64, Arc<Eviction>>,
}

/// Tells a silent connection that it has to close.
#[derive(Debug, Default)]
struct Eviction {
    is_due: AtomicBool,
    waker: AtomicWaker,
}

/// One place. It is given back when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Slots,
    number: u64,
    eviction: Arc<Eviction>,
}

impl Slots {
    pub(super) fn new(max: usize) -> Slots {
        Slots(Arc::new(Inner { max, table: Mutex::default() }))
    }

    /// Takes a place for a new connection, evicting the oldest silent one if necessary. Returns the
    /// place and whether it evicted one.
    ///
    /// `None` when all are in use.
    pub(super) fn enter(&self) -> Option<(Slot, bool)> {
        let mut table = self.0.table.lock();
        let makes_room = table.taken >= self.0.max;
        if makes_room && !table.evict_oldest() {
            return None;
        }
        let (number, eviction) = (table.next, Arc::<Eviction>::default());
        table.next += 1;
        table.taken += 1;
        table.silent.insert(number, eviction.clone());
        drop(table);
        Some((Slot { slots: self.clone(), number, eviction }, makes_room))
    }

    /// Evicts the oldest silent connection. Returns whether there was one.
    pub(super) fn evict_oldest(&self) -> bool {
        self.0.table.lock().evict_oldest()
    }

    pub(super) fn max(&self) -> usize {
        self.0.max
    }

    /// Returns the number of connections, and how many of them are silent.
    pub(super) fn count(&self) -> (usize, usize) {
        let table = self.0.table.lock();
        (table.taken, table.silent.len())
    }
}

impl Table {
    fn evict_oldest(&mut self) -> bool {
        let Some((_, oldest)) = self.silent.pop_first() else { return false };
        self.taken -= 1;
        oldest.is_due.store(true, Ordering::Release);
        oldest.waker.wake();
        true
    }
}

impl Slot {
    /// Marks that the connection has finished its preface, so that it is never evicted. Returns
    /// false when it was just evicted.
    pub(super) fn has_spoken(&self) -> bool {
        self.slots.0.table.lock().silent.remove(&self.number).is_some()
    }

    /// Completes when a silent connection has to make room for a new one.
    pub(super) fn poll_evicted(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.eviction.waker.register(cx.waker());
        if self.eviction.is_due.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut table = self.slots.0.table.lock();
        table.silent.remove(&self.number);
        // Checked under the lock, so that each place is given back only once.
        if !self.eviction.is_due.load(Ordering::Acquire) {
            table.taken -= 1;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn is_evicted(slot: &Slot) -> bool {
        slot.poll_evicted(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    #[test]
    fn the_oldest_silent_one_makes_room_and_one_in_use_never_does() {
        let slots = Slots::new(3);
        let [first, second, third] = [(); 3].map(|()| slots.enter().unwrap().0);
        assert!(first.has_spoken());
        assert_eq!(slots.count(), (3, 2));
        let (fourth, made_room) = slots.enter().unwrap();
        assert!(made_room && is_evicted(&second), "the oldest that is silent");
        assert!(!is_evicted(&first) && !is_evicted(&third) && !is_evicted(&fourth));
        assert!(!second.has_spoken(), "it is too late");
        assert!(third.has_spoken() && fourth.has_spoken());
        assert!(slots.enter().is_none() && !slots.evict_oldest(), "all are in use");
        drop(second);
        assert_eq!(slots.count(), (3, 0), "it had no place any more");
        drop(first);
        let (fifth, made_room) = slots.enter().unwrap();
        assert!(!made_room && !is_evicted(&third));
        drop((third, fourth, fifth));
        assert_eq!(slots.count(), (0, 0));
    }
}
