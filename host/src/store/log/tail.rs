//! What readers see: the ends of the log, the vote, and the newest entries in memory. Never does IO.
//!
//! - `tail` holds every entry that is not on disk, and newer ones up to a byte cap; it ends where the log ends.
//! - An entry leaves the tail from the front, and only when it is on disk.

use std::collections::VecDeque;
use std::ops::Range;

use openraft::entry::RaftEntry;

use super::super::StoreError;
use super::super::columns::entry_bytes;
use super::check::Found;
use crate::types::{Entry, LogId, Vote};

/// Bytes of synced entries kept for replication and apply. A follower further behind is served from RocksDB.
const TAIL_BYTES_MAX: usize = 64 * 1024 * 1024;

pub(super) struct View {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    /// Everything up to here is gone.
    pub(super) purged: Option<LogId>,
    /// The last entry, or `purged` when there is none.
    pub(super) last: Option<LogId>,
    /// The first index present, or the next one when there is none.
    first: u64,
    pub(super) tail: Tail,
    /// Of what was found at the open, and of all appends since.
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

    /// Index of the first entry present.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Index after the last entry.
    pub(super) fn end(&self) -> u64 {
        self.last.map_or(self.first, |last| last.index + 1)
    }

    /// A gap or an overlap would be a bug of the caller; writing it would hide it until a restart.
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

    /// Numbers appends, so that the writer can say which of them are on disk.
    pub(super) fn next_append_number(&mut self) -> u64 {
        self.appends += 1;
        self.appends
    }

    pub(super) fn push(&mut self, entry: Entry, append_number: u64) {
        let log_id = entry.log_id();
        if self.last.is_none() {
            // The first entry ever says where the log begins.
            self.first = log_id.index;
            self.tail.first = log_id.index;
        }
        self.last = Some(log_id);
        self.tail.push(entry, append_number);
    }

    /// Cuts `from` and all behind it; `kept` is what remains last.
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

    /// All appends up to `append_number` are on disk, and everything before `next` was: the index before which the log as it is now is on
    /// disk. Entries that were cut meanwhile do not count, nor do the ones that took their place.
    pub(super) fn synced(&mut self, append_number: u64, next: u64) -> u64 {
        let next = self.tail.synced(append_number, next);
        self.tail.shrink(next);
        next
    }
}

/// The newest entries.
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

    /// Entries before this index are on disk only.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Entries of `indexes`, which must be in the tail, until they exceed `bytes_max`; at least one.
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
        // Everything in memory was cut, and more of what is on disk only.
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
        // What was purged while it was queued counts: a snapshot holds it.
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
