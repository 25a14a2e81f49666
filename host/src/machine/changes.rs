//! Finds the readers that a commit concerns: compares the keys that each reader has read with the
//! keys that entries wrote. This module knows keys and ranges, but no guests and no streams.
//!
//! - A registration fires on every commit that touches its reads, after the index at which they
//!   were made. This includes commits between the read and the registration: the newest write sets
//!   are kept. When they no longer reach back that far, the registration fires at once. That may
//!   cause a needless step, but never loses one.
//! - An installed snapshot fires every registration made from an older state, with
//!   [`Change::Reset`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Most entries whose write sets are kept.
const ENTRIES_KEPT_MAX: usize = 1024;
/// Most keys in all kept write sets together.
const KEYS_KEPT_MAX: usize = 65_536;
/// Most keys and ranges remembered for one reader. A reader with more depends on every key.
const READS_MAX: usize = 4096;
/// Most bytes of these keys and ranges. A reader with more depends on every key.
const READS_BYTES_MAX: usize = 256 << 10;
/// Bytes that a key or a range takes beside its own: its places in the table and in maps.
const READ_OVERHEAD_BYTES: usize = 96;

/// The keys and ranges that a step of a watch read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadSet {
    keys: BTreeSet<Vec<u8>>,
    /// Start and end of each range; an end of `None` means that the range reaches to the last key.
    ranges: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// The step read more than `READS_MAX` keys and ranges, or `READS_BYTES_MAX` of them.
    everything: bool,
    /// Bytes of the keys and ranges.
    bytes: usize,
}

impl ReadSet {
    /// Remembers a key.
    pub fn key(&mut self, key: &[u8]) {
        if self.has_room(key.len()) && self.keys.insert(key.to_vec()) {
            self.bytes += key.len();
        }
    }

    /// Remembers a range.
    pub fn range(&mut self, start: Vec<u8>, end: Option<Vec<u8>>) {
        let bytes = start.len() + end.as_ref().map_or(0, Vec::len);
        if self.has_room(bytes) {
            self.ranges.push((start, end));
            self.bytes += bytes;
        }
    }

    /// Returns a set of every key. It costs nothing, and wakes its reader at each commit that
    /// writes.
    pub fn everything() -> ReadSet {
        ReadSet { everything: true, ..ReadSet::default() }
    }

    /// Returns the bytes that the set takes in the table of readers, where a key stands twice.
    pub fn bytes_held(&self) -> u64 {
        let count = self.keys.len() + self.ranges.len();
        (2 * self.bytes + count * READ_OVERHEAD_BYTES) as u64
    }

    fn has_room(&mut self, bytes: usize) -> bool {
        if self.keys.len() + self.ranges.len() >= READS_MAX || self.bytes + bytes > READS_BYTES_MAX {
            *self = ReadSet::everything();
        }
        !self.everything
    }

    fn is_touched_by(&self, written: &[Vec<u8>]) -> bool {
        if written.is_empty() {
            return false;
        }
        self.everything
            || written.iter().any(|key| self.keys.contains(key))
            || self.ranges.iter().any(|(start, end)| range_holds_any(start, end.as_deref(), written))
    }
}

fn range_holds_any(start: &[u8], end: Option<&[u8]>, written: &[Vec<u8>]) -> bool {
    let first = written.partition_point(|key| key.as_slice() < start);
    written.get(first).is_some_and(|key| end.is_none_or(|end| key.as_slice() < end))
}

/// Why a reader is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A commit touched what the reader read, or may have touched it.
    Touched,
    /// A snapshot replaced the state.
    Reset,
}

/// The registrations and the newest write sets.
#[derive(Debug, Default)]
pub(crate) struct Changes(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    /// Index and sorted keys of the newest entries, oldest first.
    recent: VecDeque<(u64, Vec<Vec<u8>>)>,
    recent_keys: usize,
    /// Every commit after this index is in `recent`, or wrote nothing.
    reaches_back_to: u64,
    /// Index of the last installed snapshot.
    reset_at: Option<u64>,
    next_id: u64,
    readers: BTreeMap<u64, Reader>,
    by_key: BTreeMap<Vec<u8>, BTreeSet<u64>>,
    /// Readers with ranges, and readers that depend on every key.
    by_range: BTreeSet<u64>,
}

#[derive(Debug)]
struct Reader {
    /// The index at which its reads were made.
    since: u64,
    reads: ReadSet,
    wake: oneshot::Sender<Change>,
}

impl Changes {
    /// Makes an empty table that begins after `index`: earlier write sets are unknown.
    pub(crate) fn new(index: u64) -> Changes {
        Changes(Mutex::new(Table { reaches_back_to: index, ..Table::default() }))
    }

    /// Registers the reads made at index `since`. The result fires once.
    pub(crate) fn register(self: &Arc<Self>, since: u64, reads: ReadSet) -> Changed {
        let (wake, woken) = oneshot::channel();
        let mut table = self.0.lock();
        let id = table.next_id;
        table.next_id += 1;
        match table.missed(since, &reads) {
            Some(change) => {
                wake.send(change).expect("the receiver is in this function");
            }
            None => table.insert(id, Reader { since, reads, wake }),
        }
        Changed { changes: self.clone(), id, woken }
    }

    /// Fires the registrations that an entry concerns. `written` holds the entry's keys in order.
    pub(crate) fn committed(&self, index: u64, written: Vec<Vec<u8>>) {
        if written.is_empty() {
            return;
        }
        let mut table = self.0.lock();
        for id in table.touched_by(&written) {
            table.fire(id, index, Change::Touched);
        }
        table.remember(index, written);
    }

    /// Fires all older registrations: a snapshot replaced the state, and `index` is its last entry.
    pub(crate) fn reset(&self, index: u64) {
        let mut table = self.0.lock();
        table.recent.clear();
        table.recent_keys = 0;
        table.reaches_back_to = index;
        table.reset_at = Some(index);
        let ids: Vec<u64> = table.readers.keys().copied().collect();
        for id in ids {
            table.fire(id, index, Change::Reset);
        }
    }
}

impl Table {
    /// Returns the change that the reader has missed since its read, if there is one.
    fn missed(&self, since: u64, reads: &ReadSet) -> Option<Change> {
        if self.reset_at.is_some_and(|reset_at| since < reset_at) {
            return Some(Change::Reset);
        }
        let later = || self.recent.iter().filter(|(index, _)| *index > since);
        let touched = since < self.reaches_back_to || later().any(|(_, written)| reads.is_touched_by(written));
        touched.then_some(Change::Touched)
    }

    fn insert(&mut self, id: u64, reader: Reader) {
        for key in &reader.reads.keys {
            self.by_key.entry(key.clone()).or_default().insert(id);
        }
        if reader.reads.everything || !reader.reads.ranges.is_empty() {
            self.by_range.insert(id);
        }
        self.readers.insert(id, reader);
    }

    fn remove(&mut self, id: u64) -> Option<Reader> {
        let reader = self.readers.remove(&id)?;
        for key in &reader.reads.keys {
            if let Some(ids) = self.by_key.get_mut(key) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.by_key.remove(key);
                }
            }
        }
        self.by_range.remove(&id);
        Some(reader)
    }

    /// Wakes a reader whose reads are older than `index`. A reader that read between the commit and
    /// this call has seen the commit already.
    fn fire(&mut self, id: u64, index: u64, change: Change) {
        let is_older = self.readers.get(&id).is_some_and(|reader| reader.since < index);
        if let Some(reader) = is_older.then(|| self.remove(id)).flatten() {
            // The reader may have gone.
            let _gone = reader.wake.send(change);
        }
    }

    fn touched_by(&self, written: &[Vec<u8>]) -> BTreeSet<u64> {
        let by_key = written.iter().filter_map(|key| self.by_key.get(key)).flatten().copied();
        let by_range = self.by_range.iter().copied().filter(|id| self.readers[id].reads.is_touched_by(written));
        by_key.chain(by_range).collect()
    }

    fn remember(&mut self, index: u64, written: Vec<Vec<u8>>) {
        self.recent_keys += written.len();
        self.recent.push_back((index, written));
        while self.recent.len() > ENTRIES_KEPT_MAX || (self.recent_keys > KEYS_KEPT_MAX && self.recent.len() > 1) {
            let (index, written) = self.recent.pop_front().expect("not empty");
            self.recent_keys -= written.len();
            self.reaches_back_to = index;
        }
    }
}

/// Completes when a commit touches what was read. Dropping it deregisters the reader.
#[derive(Debug)]
pub struct Changed {
    changes: Arc<Changes>,
    id: u64,
    woken: oneshot::Receiver<Change>,
}

impl Future for Changed {
    type Output = Change;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Change> {
        // The sender lives in the table until it fires. If the table is gone, the machine is gone
        // too, and nothing is missed.
        Pin::new(&mut self.woken).poll(context).map(|woken| woken.unwrap_or(Change::Touched))
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        drop(self.changes.0.lock().remove(self.id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn changes() -> Arc<Changes> {
        Arc::new(Changes::new(10))
    }

    fn keys(keys: &[&str]) -> Vec<Vec<u8>> {
        keys.iter().map(|key| key.as_bytes().to_vec()).collect()
    }

    fn reads(read: &[&str], ranges: &[(&str, Option<&str>)]) -> ReadSet {
        let mut set = ReadSet::default();
        read.iter().for_each(|key| set.key(key.as_bytes()));
        ranges
            .iter()
            .for_each(|(start, end)| set.range(start.as_bytes().to_vec(), end.map(|end| end.as_bytes().to_vec())));
        set
    }

    #[test]
    fn commits_wake_only_those_who_read_what_they_wrote() {
        let changes = changes();
        let mut by_key = changes.register(10, reads(&["b"], &[]));
        let mut by_range = changes.register(10, reads(&[], &[("c", Some("e"))]));
        let mut open_end = changes.register(10, reads(&[], &[("x", None)]));
        changes.committed(11, keys(&["a", "e"]));
        assert_eq!((&mut by_key).now_or_never(), None);
        assert_eq!((&mut by_range).now_or_never(), None);
        changes.committed(12, keys(&["b", "d"]));
        assert_eq!(by_key.now_or_never(), Some(Change::Touched));
        assert_eq!(by_range.now_or_never(), Some(Change::Touched));
        assert_eq!((&mut open_end).now_or_never(), None);
        changes.committed(13, keys(&["z"]));
        assert_eq!(open_end.now_or_never(), Some(Change::Touched));
        assert!(changes.0.lock().by_key.is_empty() && changes.0.lock().by_range.is_empty());
    }

    #[test]
    fn commits_between_the_read_and_the_registration_are_not_lost() {
        let changes = changes();
        changes.committed(11, keys(&["a"]));
        assert_eq!(changes.register(10, reads(&["a"], &[])).now_or_never(), Some(Change::Touched));
        assert_eq!(changes.register(11, reads(&["a"], &[])).now_or_never(), None);
        assert_eq!(
            changes.register(9, reads(&["q"], &[])).now_or_never(),
            Some(Change::Touched),
            "before what is known"
        );
    }

    #[test]
    fn forgotten_write_sets_wake_those_who_may_depend_on_them() {
        let changes = changes();
        for index in 11..11 + ENTRIES_KEPT_MAX as u64 + 1 {
            changes.committed(index, keys(&["a"]));
        }
        assert_eq!(changes.register(10, reads(&["q"], &[])).now_or_never(), Some(Change::Touched));
        assert_eq!(changes.register(11, reads(&["q"], &[])).now_or_never(), None);
    }

    #[test]
    fn snapshots_wake_everyone_with_reset() {
        let changes = changes();
        let before = changes.register(10, reads(&["a"], &[]));
        changes.reset(20);
        assert_eq!(before.now_or_never(), Some(Change::Reset));
        assert_eq!(changes.register(15, reads(&["a"], &[])).now_or_never(), Some(Change::Reset));
        assert_eq!(changes.register(20, reads(&["a"], &[])).now_or_never(), None);
    }

    #[test]
    fn a_set_knows_what_it_takes() {
        let mut set = reads(&["a", "bc", "a"], &[("d", Some("e")), ("fg", None)]);
        assert_eq!(set.bytes_held(), 2 * (1 + 2 + 2 + 2) + 4 * READ_OVERHEAD_BYTES as u64);
        set.key(b"a");
        assert_eq!(set.bytes, 7, "a key that is there already");
    }

    #[test]
    fn readers_of_very_much_depend_on_everything() {
        let mut set = ReadSet::default();
        (0..READS_MAX as u32 + 1).for_each(|n| set.key(&n.to_be_bytes()));
        assert_eq!(set, ReadSet::everything());
        let mut large = ReadSet::default();
        (0..65u8).for_each(|n| large.key(&vec![n; 4 << 10]));
        assert_eq!((large.bytes_held(), large), (0, ReadSet::everything()));
        let changes = changes();
        let everything = changes.register(10, set);
        changes.committed(11, keys(&["unrelated"]));
        assert_eq!(everything.now_or_never(), Some(Change::Touched));
    }
}
