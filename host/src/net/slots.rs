//! The places of one port: at most so many connections at a time, and at most so many of one
//! source. Opens and closes nothing itself.
//!
//! - A connection is *silent* until it has finished its preface. When the port is full, the oldest
//!   silent one makes room for a new one. When a source has all that it may have, its own oldest
//!   silent one does.
//! - A connection that is not silent is in use and is never evicted. When all are in use, there is
//!   no room.
//! - Silent ones are ordered by their number, which grows with each connection.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use parking_lot::Mutex;

use crate::source::Source;

/// The places of one port. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Slots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: usize,
    per_source_max: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// The number of the next connection.
    next: u64,
    /// Places that are taken. An evicted connection no longer has one.
    taken: usize,
    silent: BTreeMap<u64, (Source, Arc<Eviction>)>,
    /// The sources that have a place.
    sources: HashMap<Source, Taken>,
}

/// The places of one source.
#[derive(Debug, Default)]
struct Taken {
    count: usize,
    silent: BTreeSet<u64>,
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
    source: Source,
    eviction: Arc<Eviction>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// All places are in use.
    Port,
    /// The source has all that it may have, and all are in use.
    Source,
}

/// Who was evicted for a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evicted {
    /// Nobody: there was room.
    Nobody,
    /// The oldest silent one of all.
    Oldest,
    /// The oldest silent one of the same source.
    OfSource,
}

/// How many places are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count {
    /// All of them.
    pub(super) taken: usize,
    /// Those of silent connections.
    pub(super) silent: usize,
    /// Those of the source that has most.
    pub(super) of_one_source: usize,
}

impl Slots {
    /// Makes `max` places, of which one source may take `per_source_max`.
    pub(super) fn new(max: usize, per_source_max: usize) -> Slots {
        Slots(Arc::new(Inner { max, per_source_max: per_source_max.min(max), table: Mutex::default() }))
    }

    /// Takes a place for a new connection, evicting a silent one if necessary.
    pub(super) fn enter(&self, source: Source) -> Result<(Slot, Evicted), Full> {
        let mut table = self.0.table.lock();
        let evicted = table.make_room(source, &self.0)?;
        let (number, eviction) = (table.next, Arc::<Eviction>::default());
        table.next += 1;
        table.taken += 1;
        table.silent.insert(number, (source, eviction.clone()));
        let taken = table.sources.entry(source).or_default();
        taken.count += 1;
        taken.silent.insert(number);
        drop(table);
        Ok((Slot { slots: self.clone(), number, source, eviction }, evicted))
    }

    /// Evicts the oldest silent connection. Returns whether there was one.
    pub(super) fn evict_oldest(&self) -> bool {
        self.0.table.lock().evict_oldest()
    }

    pub(super) fn max(&self) -> usize {
        self.0.max
    }

    pub(super) fn per_source_max(&self) -> usize {
        self.0.per_source_max
    }

    pub(super) fn count(&self) -> Count {
        let table = self.0.table.lock();
        let of_one_source = table.sources.values().map(|taken| taken.count).max().unwrap_or(0);
        Count { taken: table.taken, silent: table.silent.len(), of_one_source }
    }
}

impl Table {
    /// Evicts a silent connection if the limits leave no place for one more of `source`.
    fn make_room(&mut self, source: Source, limits: &Inner) -> Result<Evicted, Full> {
        let of_source = self.sources.get(&source);
        // Where one source may have all places, the limit of the port is the one that is reached.
        let is_limited = limits.per_source_max < limits.max;
        if is_limited && of_source.is_some_and(|taken| taken.count >= limits.per_source_max) {
            let oldest = of_source.and_then(|taken| taken.silent.first().copied());
            return match oldest {
                Some(number) if self.evict(number) => Ok(Evicted::OfSource),
                _ => Err(Full::Source),
            };
        }
        if self.taken < limits.max {
            return Ok(Evicted::Nobody);
        }
        if self.evict_oldest() { Ok(Evicted::Oldest) } else { Err(Full::Port) }
    }

    fn evict_oldest(&mut self) -> bool {
        let oldest = self.silent.first_key_value().map(|(number, _)| *number);
        oldest.is_some_and(|number| self.evict(number))
    }

    fn evict(&mut self, number: u64) -> bool {
        let Some((source, eviction)) = self.silent.remove(&number) else { return false };
        self.give_back(source, number);
        eviction.is_due.store(true, Ordering::Release);
        eviction.waker.wake();
        true
    }

    /// Marks that a connection is not silent any more. Returns whether it was.
    fn speak(&mut self, source: Source, number: u64) -> bool {
        if let Some(taken) = self.sources.get_mut(&source) {
            taken.silent.remove(&number);
        }
        self.silent.remove(&number).is_some()
    }

    fn give_back(&mut self, source: Source, number: u64) {
        self.taken -= 1;
        let Some(taken) = self.sources.get_mut(&source) else { return };
        taken.silent.remove(&number);
        taken.count -= 1;
        if taken.count == 0 {
            self.sources.remove(&source);
        }
    }
}

impl Slot {
    /// Marks that the connection has finished its preface, so that it is never evicted. Returns
    /// false when it was just evicted.
    pub(super) fn has_spoken(&self) -> bool {
        self.slots.0.table.lock().speak(self.source, self.number)
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
            table.give_back(self.source, self.number);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const A: Source = Source::V6([1, 0, 0, 0]);
    const B: Source = Source::V6([2, 0, 0, 0]);

    fn is_evicted(slot: &Slot) -> bool {
        slot.poll_evicted(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    fn taken(slots: &Slots) -> (usize, usize) {
        let Count { taken, silent, .. } = slots.count();
        (taken, silent)
    }

    #[test]
    fn the_oldest_silent_one_makes_room_and_one_in_use_never_does() {
        let slots = Slots::new(3, 3);
        let [first, second] = [(); 2].map(|()| slots.enter(A).unwrap().0);
        let (third, _) = slots.enter(B).unwrap();
        assert!(first.has_spoken());
        assert_eq!(taken(&slots), (3, 2));
        let (fourth, evicted) = slots.enter(B).unwrap();
        assert!(evicted == Evicted::Oldest && is_evicted(&second), "the oldest that is silent");
        assert!(!is_evicted(&first) && !is_evicted(&third) && !is_evicted(&fourth));
        assert!(!second.has_spoken(), "it is too late");
        assert!(third.has_spoken() && fourth.has_spoken());
        assert!(!slots.evict_oldest() && slots.enter(A).unwrap_err() == Full::Port, "all are in use");
        drop(second);
        assert_eq!(taken(&slots), (3, 0), "it had no place any more");
        drop(first);
        let (fifth, evicted) = slots.enter(A).unwrap();
        assert!(evicted == Evicted::Nobody && !is_evicted(&third));
        drop((third, fourth, fifth));
        assert_eq!(taken(&slots), (0, 0));
        assert!(slots.0.table.lock().sources.is_empty(), "a source without a connection costs nothing");
    }

    #[test]
    fn a_source_that_has_all_it_may_have_makes_room_itself_or_gets_no_more() {
        let slots = Slots::new(10, 2);
        let (other, _) = slots.enter(B).unwrap();
        let [first, second] = [(); 2].map(|()| slots.enter(A).unwrap().0);
        assert_eq!(slots.count(), Count { taken: 3, silent: 3, of_one_source: 2 });
        assert!(first.has_spoken());
        let (third, evicted) = slots.enter(A).unwrap();
        assert!(evicted == Evicted::OfSource && is_evicted(&second) && !is_evicted(&other));
        assert!(third.has_spoken());
        assert_eq!(slots.enter(A).unwrap_err(), Full::Source);
        assert!(slots.enter(B).is_ok(), "another source has its own places");
        drop(first);
        assert!(slots.enter(A).is_ok());
        drop((second, third, other));
        assert_eq!(slots.count(), Count { taken: 0, silent: 0, of_one_source: 0 });
    }
}
