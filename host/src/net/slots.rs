//! The places of one port: at most so many connections at a time, and at most so many of one
//! source. Opens and closes nothing itself.
//!
//! - A connection is *silent* until it has finished its preface. When the port is full, the oldest
//!   silent one makes room for a new one. When a source has all that it may have, its own oldest
//!   silent one does.
//! - A connection that is not silent is in use and is never evicted. When all are in use, there is
//!   no room.
//! - Silent ones are ordered by their number, which grows with each connection.
//! - The last places may be reserved for connections of this machine, so that an operator there
//!   gets in however many connections others have. Others do not evict such connections either. A
//!   source on this machine may have so many beyond what one source may have, once none of its
//!   connections is silent: an operator and a program there are one source.
//! - Where peers prefer TLS and do not require it, connections in use that are not encrypted have
//!   at most half of the places. So one that is encrypted finds a place, and only it shows who it
//!   is.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use parking_lot::Mutex;

use crate::source::Source;

/// The part of the places that connections of peers which are not encrypted may have.
const PLAIN_PART: usize = 2;

/// The places of one port. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Slots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: usize,
    per_source_max: usize,
    /// The places among `max` that only connections of this machine get.
    reserved: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// The number of the next connection.
    next: u64,
    /// Places that are taken. An evicted connection no longer has one.
    taken: usize,
    silent: BTreeMap<u64, Silent>,
    /// Connections in use that are not encrypted although they could be.
    plain: HashSet<u64>,
    /// The sources that have a place.
    sources: HashMap<Source, Taken>,
}

#[derive(Debug)]
struct Silent {
    source: Source,
    origin: Origin,
    eviction: Arc<Eviction>,
}

/// Where the other end of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// On the machine of this node.
    Here,
    /// On another machine, as far as this node can tell.
    Elsewhere,
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
    /// Whether it is not encrypted although it could be.
    is_plain: bool,
}

/// Why a connection that has finished its preface may not stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    /// It was silent, and made room for another one.
    MadeRoom,
    /// It is not encrypted, and half of the places are taken by others that are not.
    Plain,
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
    /// Makes `max` places, of which one source may take `per_source_max`. The last `reserved` ones
    /// are for connections of this machine.
    pub(super) fn new(max: usize, per_source_max: usize, reserved: usize) -> Slots {
        let per_source_max = per_source_max.min(max);
        Slots(Arc::new(Inner { max, per_source_max, reserved: reserved.min(max), table: Mutex::default() }))
    }

    /// Takes a place for a new connection, evicting a silent one if necessary.
    pub(super) fn enter(&self, source: Source, origin: Origin) -> Result<(Slot, Evicted), Full> {
        let mut table = self.0.table.lock();
        let evicted = table.make_room(source, origin, &self.0)?;
        let (number, eviction) = (table.next, Arc::<Eviction>::default());
        table.next += 1;
        table.taken += 1;
        table.silent.insert(number, Silent { source, origin, eviction: eviction.clone() });
        let taken = table.sources.entry(source).or_default();
        taken.count += 1;
        taken.silent.insert(number);
        drop(table);
        Ok((Slot { slots: self.clone(), number, source, eviction, is_plain: false }, evicted))
    }

    /// Evicts the oldest silent connection. Returns whether there was one.
    pub(super) fn evict_oldest(&self) -> bool {
        self.0.table.lock().evict_oldest(Origin::Here)
    }

    pub(super) fn max(&self) -> usize {
        self.0.max
    }

    /// Returns how many of them are reserved for connections of this machine.
    pub(super) fn reserved(&self) -> usize {
        self.0.reserved
    }

    pub(super) fn per_source_max(&self) -> usize {
        self.0.per_source_max
    }

    /// Returns how many a source of that origin may have, with the reserved ones.
    pub(super) fn of_source_max(&self, origin: Origin) -> usize {
        self.0.of_source_max(origin)
    }

    pub(super) fn count(&self) -> Count {
        let table = self.0.table.lock();
        let of_one_source = table.sources.values().map(|taken| taken.count).max().unwrap_or(0);
        Count { taken: table.taken, silent: table.silent.len(), of_one_source }
    }
}

impl Inner {
    fn of_source_max(&self, origin: Origin) -> usize {
        match origin {
            Origin::Here => self.per_source_max + self.reserved,
            Origin::Elsewhere => self.per_source_max,
        }
    }
}

impl Table {
    /// Evicts a silent connection if the limits leave no place for one more of `source`.
    fn make_room(&mut self, source: Source, origin: Origin, limits: &Inner) -> Result<Evicted, Full> {
        let of_source = self.sources.get(&source);
        // Where one source may have all places, the limit of the port is the one that is reached.
        let is_limited = limits.per_source_max < limits.max;
        if is_limited && of_source.is_some_and(|taken| taken.count >= limits.per_source_max) {
            let count = of_source.map_or(0, |taken| taken.count);
            let oldest = of_source.and_then(|taken| taken.silent.first().copied());
            if oldest.is_some_and(|number| self.evict(number)) {
                return Ok(Evicted::OfSource);
            }
            if count >= limits.of_source_max(origin) {
                return Err(Full::Source);
            }
        }
        let max = match origin {
            Origin::Here => limits.max,
            Origin::Elsewhere => limits.max - limits.reserved,
        };
        if self.taken < max {
            return Ok(Evicted::Nobody);
        }
        if self.evict_oldest(origin) { Ok(Evicted::Oldest) } else { Err(Full::Port) }
    }

    /// Evicts the oldest silent connection that has to make room for one of `origin`.
    fn evict_oldest(&mut self, origin: Origin) -> bool {
        let gives_way = |silent: &Silent| origin == Origin::Here || silent.origin == Origin::Elsewhere;
        let oldest = self.silent.iter().find(|(_, silent)| gives_way(silent)).map(|(number, _)| *number);
        oldest.is_some_and(|number| self.evict(number))
    }

    fn evict(&mut self, number: u64) -> bool {
        let Some(Silent { source, eviction, .. }) = self.silent.remove(&number) else { return false };
        self.give_back(source, number);
        eviction.is_due.store(true, Ordering::Release);
        eviction.waker.wake();
        true
    }

    /// Marks that a connection is not silent any more, unless it may not stay.
    fn speak(&mut self, slot: &Slot, plain_max: usize) -> Result<(), Gone> {
        let Slot { number, source, .. } = *slot;
        if !self.silent.contains_key(&number) {
            return Err(Gone::MadeRoom);
        }
        if slot.is_plain && self.plain.len() >= plain_max {
            return Err(Gone::Plain);
        }
        if slot.is_plain {
            self.plain.insert(number);
        }
        if let Some(taken) = self.sources.get_mut(&source) {
            taken.silent.remove(&number);
        }
        self.silent.remove(&number);
        Ok(())
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
    /// Marks that the connection is not encrypted, although it could be.
    pub(super) fn is_not_encrypted(&mut self) {
        self.is_plain = true;
    }

    /// Marks that the connection has finished its preface, so that it is never evicted. An error
    /// says why it has to go: it was just evicted, or too many are not encrypted.
    pub(super) fn has_spoken(&self) -> Result<(), Gone> {
        let plain_max = (self.slots.0.max / PLAIN_PART).max(1);
        self.slots.0.table.lock().speak(self, plain_max)
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
        table.plain.remove(&self.number);
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

    use super::Origin::{Elsewhere, Here};

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
        let slots = Slots::new(3, 3, 0);
        let [first, second] = [(); 2].map(|()| slots.enter(A, Elsewhere).unwrap().0);
        let (third, _) = slots.enter(B, Elsewhere).unwrap();
        assert_eq!(first.has_spoken(), Ok(()));
        assert_eq!(taken(&slots), (3, 2));
        let (fourth, evicted) = slots.enter(B, Elsewhere).unwrap();
        assert!(evicted == Evicted::Oldest && is_evicted(&second), "the oldest that is silent");
        assert!(!is_evicted(&first) && !is_evicted(&third) && !is_evicted(&fourth));
        assert_eq!(second.has_spoken(), Err(Gone::MadeRoom), "it is too late");
        assert!(third.has_spoken().is_ok() && fourth.has_spoken().is_ok());
        assert!(!slots.evict_oldest() && slots.enter(A, Elsewhere).unwrap_err() == Full::Port, "all are in use");
        drop(second);
        assert_eq!(taken(&slots), (3, 0), "it had no place any more");
        drop(first);
        let (fifth, evicted) = slots.enter(A, Elsewhere).unwrap();
        assert!(evicted == Evicted::Nobody && !is_evicted(&third));
        drop((third, fourth, fifth));
        assert_eq!(taken(&slots), (0, 0));
        assert!(slots.0.table.lock().sources.is_empty(), "a source without a connection costs nothing");
    }

    #[test]
    fn those_that_are_not_encrypted_leave_half_to_those_that_are() {
        let slots = Slots::new(4, 4, 0);
        let enter = |is_plain: bool| {
            let (mut slot, _) = slots.enter(A, Elsewhere).unwrap();
            if is_plain {
                slot.is_not_encrypted();
            }
            slot
        };
        let [first, second, third] = [(); 3].map(|()| enter(true));
        assert_eq!([&first, &second, &third].map(Slot::has_spoken), [Ok(()), Ok(()), Err(Gone::Plain)]);
        let encrypted = [(); 2].map(|()| enter(false));
        assert_eq!(encrypted.each_ref().map(Slot::has_spoken), [Ok(()), Ok(())], "the silent one made room");
        assert_eq!(third.has_spoken(), Err(Gone::MadeRoom));
        drop((first, encrypted, third));
        assert_eq!(enter(true).has_spoken(), Ok(()));
        drop(second);
        assert!(slots.0.table.lock().plain.is_empty());
    }

    #[test]
    fn a_source_that_has_all_it_may_have_makes_room_itself_or_gets_no_more() {
        let slots = Slots::new(10, 2, 0);
        let (other, _) = slots.enter(B, Elsewhere).unwrap();
        let [first, second] = [(); 2].map(|()| slots.enter(A, Elsewhere).unwrap().0);
        assert_eq!(slots.count(), Count { taken: 3, silent: 3, of_one_source: 2 });
        assert_eq!(first.has_spoken(), Ok(()));
        let (third, evicted) = slots.enter(A, Elsewhere).unwrap();
        assert!(evicted == Evicted::OfSource && is_evicted(&second) && !is_evicted(&other));
        assert_eq!(third.has_spoken(), Ok(()));
        assert_eq!(slots.enter(A, Elsewhere).unwrap_err(), Full::Source);
        assert!(slots.enter(B, Elsewhere).is_ok(), "another source has its own places");
        drop(first);
        assert!(slots.enter(A, Elsewhere).is_ok());
        drop((second, third, other));
        assert_eq!(slots.count(), Count { taken: 0, silent: 0, of_one_source: 0 });
    }

    #[test]
    fn the_last_places_are_for_this_machine_and_others_evict_none_of_its_own() {
        let slots = Slots::new(4, 4, 2);
        let used = [(); 2].map(|()| slots.enter(A, Elsewhere).unwrap().0);
        assert_eq!(used.each_ref().map(Slot::has_spoken), [Ok(()), Ok(())]);
        assert_eq!(slots.enter(A, Elsewhere).unwrap_err(), Full::Port);
        let (mut own, evicted) = slots.enter(B, Here).unwrap();
        assert!(evicted == Evicted::Nobody && slots.enter(A, Elsewhere).is_err() && !is_evicted(&own));
        assert_eq!(own.has_spoken(), Ok(()));
        let (silent, _) = slots.enter(B, Here).unwrap();
        let (next, evicted) = slots.enter(B, Here).unwrap();
        assert!(evicted == Evicted::Oldest && is_evicted(&silent), "those of this machine evict each other");
        assert_eq!((next.has_spoken(), slots.enter(B, Here).unwrap_err()), (Ok(()), Full::Port));
        drop(used);
        assert_eq!(slots.enter(A, Elsewhere).unwrap_err(), Full::Port, "the port has as many as others may have");
        drop((next, silent));
        own = slots.enter(A, Elsewhere).unwrap().0;
        drop(own);
        assert_eq!(taken(&slots), (0, 0));
    }

    #[test]
    fn a_source_on_this_machine_gets_the_reserved_places_beyond_its_limit() {
        let slots = Slots::new(10, 2, 1);
        let mut own = Vec::from([(); 2].map(|()| slots.enter(A, Here).unwrap().0));
        assert_eq!(own[0].has_spoken(), Ok(()));
        let (next, evicted) = slots.enter(A, Here).unwrap();
        assert!(evicted == Evicted::OfSource && is_evicted(&own[1]), "first its own silent one makes room");
        assert_eq!(next.has_spoken(), Ok(()));
        own.push(next);
        let (last, evicted) = slots.enter(A, Here).unwrap();
        assert_eq!((evicted, last.has_spoken()), (Evicted::Nobody, Ok(())));
        assert_eq!((slots.count().of_one_source, slots.of_source_max(Here)), (3, 3));
        assert_eq!(slots.enter(A, Here).unwrap_err(), Full::Source);
        let others = [(); 2].map(|()| slots.enter(B, Elsewhere).unwrap().0);
        assert_eq!(others.each_ref().map(Slot::has_spoken), [Ok(()), Ok(())]);
        assert_eq!(slots.enter(B, Elsewhere).unwrap_err(), Full::Source, "other machines get none of them");
    }

    #[test]
    fn a_silent_one_of_others_makes_room_for_this_machine_only_when_all_is_taken() {
        let slots = Slots::new(2, 2, 1);
        let (silent, _) = slots.enter(A, Elsewhere).unwrap();
        let (own, evicted) = slots.enter(B, Here).unwrap();
        assert!(evicted == Evicted::Nobody && !is_evicted(&silent));
        let (_next, evicted) = slots.enter(B, Here).unwrap();
        assert!(evicted == Evicted::Oldest && is_evicted(&silent) && !is_evicted(&own));
    }
}
