//! What is committed to the state and not yet flushed, and when that is due. Flushes nothing itself.

use std::time::{Duration, Instant};

/// The state is flushed after so many entries,
const FLUSH_ENTRIES: u64 = 4096;
/// so many bytes,
const FLUSH_BYTES: usize = 16 << 20;
/// or so long after the first unflushed one, whichever comes first: this bounds what a crash has to replay.
pub(super) const FLUSH_AFTER: Duration = Duration::from_secs(2);
/// The first time sooner: what a start replayed is not to be replayed again by the next one, or crashes in a row would add up.
pub(super) const FIRST_FLUSH_AFTER: Duration = Duration::from_millis(200);

/// See the file's head.
pub(super) struct Dirty {
    entries: u64,
    bytes: usize,
    since: Option<Instant>,
    /// How long after `since` it is flushed.
    patience: Duration,
}

impl Dirty {
    pub(super) fn nothing(patience: Duration) -> Dirty {
        Dirty { entries: 0, bytes: 0, since: None, patience }
    }

    /// A flush that did not succeed is tried again after [`FLUSH_AFTER`].
    pub(super) fn put_off() -> Dirty {
        Dirty { since: Some(Instant::now()), ..Dirty::nothing(FLUSH_AFTER) }
    }

    /// An entry was committed that wrote so many bytes.
    pub(super) fn note(&mut self, bytes: usize) {
        self.entries += 1;
        self.bytes += bytes;
        self.since.get_or_insert_with(Instant::now);
    }

    /// How long the flush can still wait; `None` when there is nothing to flush.
    pub(super) fn due_in(&self) -> Option<Duration> {
        let since = self.since?;
        let is_much = self.entries >= FLUSH_ENTRIES || self.bytes >= FLUSH_BYTES;
        Some(if is_much { Duration::ZERO } else { self.patience.saturating_sub(since.elapsed()) })
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
        assert!(dirty.is_due());
        let mut dirty = Dirty::nothing(hour);
        dirty.note(FLUSH_BYTES);
        assert!(dirty.is_due());
        let mut dirty = Dirty::nothing(Duration::ZERO);
        dirty.note(1);
        assert!(dirty.is_due());
        assert!(Dirty::put_off().due_in().unwrap() > FLUSH_AFTER / 2);
    }
}
