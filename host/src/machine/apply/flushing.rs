//! The apply thread's part in the flushes of the state: it says when one begins, and judges how it
//! ended. `flusher.rs` has the thread that flushes while entries are applied.
//!
//! - The log is the WAL of the state, so apply need not wait for a flush. What needs the state on
//!   disk waits for the flush under way, and then flushes on this thread.
//! - A flush that failed is found behind the next entry, or while there is none. So an entry that
//!   waits, for instance for a newer build, comes first.
//! - RocksDB never flushes by itself while there is room on the disk: it would not check first
//!   whether it can open files. So apply waits while the memtable that it fills is nearly full and
//!   the one before is not on disk. While there is little room, apply flushes by itself: what it
//!   commits beside a flush might be more than that found room for.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::Applier;
use crate::machine::ApplyError;
use crate::machine::dirty::{Dirty, FLUSH_AFTER};
use crate::store::StoreError;

/// Time between two looks whether a flush has made room in the memtables. It takes about as long
/// until a flush has switched to new ones.
const ROOM_LOOK: Duration = Duration::from_millis(1);

impl Applier {
    /// Takes note of a flush that has ended, and begins one that is due.
    pub(super) fn flush_if_due(&mut self) -> Result<(), ApplyError> {
        if let Some(flushed) = self.flusher.ended_within(Duration::ZERO) {
            self.note_flush(flushed)?;
        }
        self.wait_for_memtables()?;
        if !self.flusher.is_busy() && (self.dirty.is_due() || self.generation.is_nearly_full()) {
            if !self.generation.has_ample_room() {
                return self.flush();
            }
            // What is committed from now on may miss this flush.
            self.dirty = Dirty::nothing(FLUSH_AFTER);
            self.flusher.begin(self.generation.clone());
            self.wait_for_memtables()?;
        }
        Ok(())
    }

    /// Waits while a flush is under way and the memtables are nearly full: until it has switched to
    /// new ones, or, if these are nearly full, until it has ended. Waits for the end also if very
    /// many entries are not flushed.
    fn wait_for_memtables(&mut self) -> Result<(), ApplyError> {
        while self.flusher.is_busy() && (self.generation.is_nearly_full() || self.dirty.is_too_much()) {
            if let Some(flushed) = self.flusher.ended_within(ROOM_LOOK) {
                self.note_flush(flushed)?;
            }
        }
        Ok(())
    }

    /// Flushes the state on this thread: everything is on disk when this returns. When the disk is
    /// full or no file descriptor is left, the state stays unflushed.
    pub(super) fn flush(&mut self) -> Result<(), ApplyError> {
        self.settle()?;
        self.dirty = Dirty::nothing(FLUSH_AFTER);
        let flushed = self.generation.flush();
        self.note_flush(flushed)
    }

    /// Waits for the flush that is under way, if there is one.
    pub(super) fn settle(&mut self) -> Result<(), ApplyError> {
        match self.flusher.wait() {
            Some(flushed) => self.note_flush(flushed),
            None => Ok(()),
        }
    }

    /// Waits for the flush that is under way, if there is one, of a state that is about to be
    /// replaced. How it ends does not matter any more.
    pub(super) fn let_go(&mut self) {
        if let Some(Err(error)) = self.flusher.wait() {
            tracing::warn!(%error, "a flush of the state that is replaced");
        }
    }

    /// Judges how a flush ended. After one that found the disk full or no file descriptor left, the
    /// next attempt is due after [`FLUSH_AFTER`]; the log still has everything. Without a
    /// descriptor no more entries are applied once RocksDB might flush by itself.
    fn note_flush(&mut self, mut flushed: Result<(), StoreError>) -> Result<(), ApplyError> {
        if flushed.as_ref().is_err_and(StoreError::lacks_descriptor) && self.generation.is_nearly_full() {
            flushed = Ok(self.until_there_is_room(|| self.generation.flush())?);
            self.dirty = Dirty::nothing(FLUSH_AFTER);
        }
        match flushed {
            Ok(()) => {
                self.shared.counts.flushes.fetch_add(1, Relaxed);
            }
            Err(error) if error.is_passing() => {
                self.shared.note_shortage(&error, "the state is not written yet");
                self.dirty = Dirty::put_off();
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}
