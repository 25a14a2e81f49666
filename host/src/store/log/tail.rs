//! The log as its readers see it: the ends of the log, the vote, and the newest entries in memory.
//! Never does IO.
//!
//! - `tail` holds every entry that is not on disk, and newer ones up to a byte limit. It ends where
//!   the log ends.
//! - Entries leave the tail from the front, and only when they are on disk.

use std::collections::VecDeque;
use std::ops::Range;

use openraft::entry::RaftEntry;

use super::super::StoreError;
use super::super::columns::entry_bytes;
use super::check::Found;
use crate::types::{Entry, LogId, Vote};

/// Bytes of synced entries kept for replication and apply. Who is further behind is served from
/// RocksDB.
pub(super) const TAIL_BYTES_MAX: usize = 8 << 20;

pub(super) struct View {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    /// Everything up to this entry is gone.
    pub(super) purged: Option<LogId>,
    /// The last entry, or `purged` when there is none.
    pub(super) last: Option<LogId>,
    /// The first index present, or the next one when there is none.
    first: u64,
    pub(super) tail: Tail,
    /// Bytes of the entries found at open, and of all appended since.
    pub(super) written_bytes: u64,
    appends: u64,
}

impl View {
    pub(super) fn new(found: &Found) -> View {
        let next = found.last().map_or(0, |last| last.index + 1);
        View {
            vote: found.vote,
            committed: found.committed,
            purged: found.purged,
            last: found.last(),
            first: found.first.unwrap_or(next),
            tail: Tail { first: next, entries: VecDeque::new(), bytes: 0 },
            written_bytes: found.bytes,
            appends: 0,
        }
    }

    /// Returns the index of the first entry present.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Returns the index after the last entry.
    pub(super) fn end(&self) -> u64 {
        self.last.map_or(self.first, |last| last.index + 1)
    }

    /// Fails on a gap or an overlap. That would be a bug of the caller, and writing it would hide
    /// it until a restart.
    pub(super) fn check_follows(&self, entries: &[Entry]) -> Result<(), StoreError> {
        let mut last = self.last;
        for entry in entries {
            let log_id = entry.log_id();
            if last.is_some_and(|last| log_id.index != last.index + 1 || log_id.leader_id < last.leader_id) {
                return Err(StoreError::Misuse(format!("appending {log_id} after {last:?}")));
            }
            last = Some(log_id);
        }
        Ok(())
    }

    /// Returns the number of the next append. With it the writer can tell which appends are on
    /// disk.
    pub(super) fn next_append_number(&mut self) -> u64 {
        self.appends += 1;
        self.appends
    }

    pub(super) fn push(&mut self, entry: Entry, append_number: u64) {
        let log_id = entry.log_id();
        if self.last.is_none() {
            // The very first entry decides where the log begins.
            self.first = log_id.index;
            self.tail.first = log_id.index;
        }
        self.last = Some(log_id);
        self.tail.push(entry, append_number);
    }

    /// Removes `from` and all after it. `kept` is the last entry that remains.
    pub(super) fn truncate(&mut self, from: u64, kept: Option<LogId>) {
        self.last = kept;
        self.tail.truncate(from);
    }

    pub(super) fn purge(&mut self, upto: LogId) {
        self.purged = Some(upto);
        self.first = upto.index + 1;
        if self.last.is_none_or(|last| last.index < upto.index) {
            self.last = Some(upto);
        }
        self.tail.drop_before(self.first);
    }

    /// Returns the index before which the log, as it is now, is on disk.
    ///
    /// All appends up to `append_number` are on disk, and everything before `next` already was.
    /// Entries that were truncated meanwhile do not count, nor do those that replaced them.
    pub(super) fn synced(&mut self, append_number: u64, next: u64) -> u64 {
        let next = self.tail.synced(append_number, next);
        self.tail.shrink(next);
        next
    }
}

/// The newest entries, in memory.
pub(super) struct Tail {
    /// The index of the front, or of the next entry when empty.
    first: u64,
    entries: VecDeque<Kept>,
    bytes: usize,
}

struct Kept {
    entry: Entry,
    bytes: usize,
    append_number: u64,
}

impl Tail {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the index before which entries are only on disk.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Returns the entries of `indexes` until they exceed `bytes_max`; at least one.
    ///
    /// All of `indexes` must be in the tail.
    pub(super) fn read(&self, indexes: Range<u64>, bytes_max: usize) -> Vec<Entry> {
        let start = usize::try_from(indexes.start - self.first).expect("the tail is in memory");
        let count = usize::try_from(indexes.end - indexes.start).expect("the tail is in memory");
        let mut bytes = 0;
        self.entries
            .iter()
            .skip(start)
            .take(count)
            .enumerate()
            .take_while(|(position, kept)| {
                bytes += kept.bytes;
                *position == 0 || bytes <= bytes_max
            })
            .map(|(_, kept)| kept.entry.clone())
            .collect()
    }

    fn push(&mut self, entry: Entry, append_number: u64) {
        let bytes = entry_bytes(&entry);
        self.bytes += bytes;
        self.entries.push_back(Kept { entry, bytes, append_number });
    }

    fn truncate(&mut self, from: u64) {
        while self.first + self.entries.len() as u64 > from
            && let Some(kept) = self.entries.pop_back()
        {
            self.bytes -= kept.bytes;
        }
        // Everything in memory was removed, and also entries that are only on disk.
        self.first = self.first.min(from);
    }

    fn drop_before(&mut self, first: u64) {
        while self.first < first
            && let Some(kept) = self.entries.pop_front()
        {
            self.bytes -= kept.bytes;
            self.first += 1;
        }
        self.first = self.first.max(first);
    }

    fn synced(&self, append_number: u64, next: u64) -> u64 {
        // Entries that were purged while queued count as synced: a snapshot holds them.
        let next = next.max(self.first);
        let known = usize::try_from(next - self.first).expect("the tail is in memory");
        let newly = self.entries.iter().skip(known).take_while(|kept| kept.append_number <= append_number).count();
        next + newly as u64
    }

    fn shrink(&mut self, next: u64) {
        while self.bytes > TAIL_BYTES_MAX
            && self.first < next
            && let Some(kept) = self.entries.pop_front()
        {
            self.bytes -= kept.bytes;
            self.first += 1;
        }
    }
}
