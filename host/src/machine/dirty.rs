//! Tracks what is committed to the state since its last flush began, and when the next flush is
//! due. Flushes nothing itself.

use std::time::{Duration, Instant};

/// Unflushed entries at which the state is flushed.
pub(super) const FLUSH_ENTRIES: u64 = 4096;
/// Unflushed bytes at which the state is flushed.
const FLUSH_BYTES: usize = 16 << 20;
/// Entries beside a flush from which on apply waits for it.
pub(super) const BESIDE_FLUSH_ENTRIES_MAX: u64 = 4 * FLUSH_ENTRIES;
/// Longest time until the flush of an entry begins, unless `FLUSH_ENTRIES` or `FLUSH_BYTES` is
/// reached first. These three limits bound how much the node replays after a crash. What is
/// committed while a flush runs comes on top of that: at most a memtable and an entry, and not
/// more than [`BESIDE_FLUSH_ENTRIES_MAX`] entries.
pub(super) const FLUSH_AFTER: Duration = Duration::from_secs(2);
/// Longest time until the first flush after a start begins. It is short, so that the next start
/// need not replay again what this start replayed; otherwise the replays of several crashes in a
/// row would add up.
pub(super) const FIRST_FLUSH_AFTER: Duration = Duration::from_millis(200);

/// What is not flushed, and not being flushed.
pub(super) struct Dirty {
    entries: u64,
    bytes: usize,
    since: Option<Instant>,
    /// Time after `since` when the flush is due.
    patience: Duration,
}

impl Dirty {
    pub(super) fn nothing(patience: Duration) -> Dirty {
        Dirty { entries: 0, bytes: 0, since: None, patience }
    }

    /// Makes the state after a flush that failed: the retry is due after [`FLUSH_AFTER`].
    pub(super) fn put_off() -> Dirty {
        Dirty { since: Some(Instant::now()), ..Dirty::nothing(FLUSH_AFTER) }
    }

    /// Notes a committed entry that wrote `bytes` bytes.
    pub(super) fn note(&mut self, bytes: usize) {
        self.entries += 1;
        self.bytes += bytes;
        self.since.get_or_insert_with(Instant::now);
    }

    /// Returns how long the flush can still wait; `None` when there is nothing to flush.
    pub(super) fn due_in(&self) -> Option<Duration> {
        let since = self.since?;
        let is_much = self.entries >= FLUSH_ENTRIES || self.bytes >= FLUSH_BYTES;
        Some(if is_much { Duration::ZERO } else { self.patience.saturating_sub(since.elapsed()) })
    }

    /// Returns whether no more may be committed beside a flush.
    pub(super) fn is_too_much(&self) -> bool {
        self.entries >= BESIDE_FLUSH_ENTRIES_MAX
    }

    pub(super) fn is_due(&self) -> bool {
        self.due_in() == Some(Duration::ZERO)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_is_due_after_entries_or_bytes_or_time() {
        let hour = Duration::from_secs(3600);
        let mut dirty = Dirty::nothing(hour);
        assert!(dirty.due_in().is_none() && !dirty.is_due());
        for _ in 1..FLUSH_ENTRIES {
            dirty.note(1);
        }
        assert!(!dirty.is_due() && dirty.due_in().unwrap() > hour / 2);
        dirty.note(1);
        assert!(dirty.is_due() && !dirty.is_too_much());
        for _ in FLUSH_ENTRIES..BESIDE_FLUSH_ENTRIES_MAX {
            dirty.note(1);
        }
        assert!(dirty.is_too_much());
        let mut dirty = Dirty::nothing(hour);
        dirty.note(FLUSH_BYTES);
        assert!(dirty.is_due());
        let mut dirty = Dirty::nothing(Duration::ZERO);
        dirty.note(1);
        assert!(dirty.is_due());
        assert!(Dirty::put_off().due_in().unwrap() > FLUSH_AFTER / 2);
    }
}
