//! How far the log is on disk, and who waits for that. Changed by the writer and, when the log is
//! truncated, by the submitter.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use super::super::StoreError;

/// Bytes submitted and not yet on disk at which `append` waits, and openraft with it. A slow disk
/// must not fill the memory.
const UNSYNCED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Tells when entries are on this node's disk. Cheap to clone.
#[derive(Clone)]
pub struct Durable(Arc<DurableProgress>);

impl Durable {
    pub(super) fn new(progress: Arc<DurableProgress>) -> Durable {
        Durable(progress)
    }

    /// Blocks until entry `index` is on disk.
    ///
    /// Fails when it never will be: a write failed, or the log was closed.
    pub fn wait(&self, index: u64) -> Result<(), StoreError> {
        let mut state = self.0.state.lock();
        while state.next <= index {
            state.ended()?;
            self.0.changed.wait(&mut state);
        }
        Ok(())
    }

    /// Returns the index up to which everything is on disk; 0 also when nothing is.
    pub fn index(&self) -> u64 {
        self.0.index()
    }
}

pub(super) struct DurableProgress {
    state: Mutex<State>,
    changed: Condvar,
    room: Notify,
}

struct State {
    /// Everything before this index is on disk. Exclusive, because index 0 is an entry.
    next: u64,
    unsynced_bytes: usize,
    end: Option<End>,
}

#[derive(Clone)]
enum End {
    Closed,
    Poisoned(String),
}

impl State {
    fn ended(&self) -> Result<(), StoreError> {
        match &self.end {
            None => Ok(()),
            Some(End::Closed) => Err(StoreError::Closed),
            Some(End::Poisoned(reason)) => Err(StoreError::Poisoned(reason.clone())),
        }
    }
}

impl DurableProgress {
    pub(super) fn new(next: u64) -> DurableProgress {
        let state = State { next, unsynced_bytes: 0, end: None };
        DurableProgress { state: Mutex::new(state), changed: Condvar::new(), room: Notify::new() }
    }

    pub(super) fn index(&self) -> u64 {
        self.next().saturating_sub(1)
    }

    pub(super) fn next(&self) -> u64 {
        self.state.lock().next
    }

    /// Counts bytes that entered the queue.
    pub(super) fn submitted(&self, bytes: usize) {
        self.state.lock().unsynced_bytes += bytes;
    }

    /// Counts bytes that left the queue, and records that the log is on disk before `next`.
    pub(super) fn synced(&self, bytes: usize, next: u64) {
        let mut state = self.state.lock();
        state.unsynced_bytes -= bytes;
        state.next = next;
        drop(state);
        self.wake();
    }

    /// Records that the log was cut at `next`. Entries that are appended there now are not on disk
    /// yet.
    pub(super) fn truncate(&self, next: u64) {
        let mut state = self.state.lock();
        state.next = state.next.min(next);
    }

    /// Records that a snapshot replaced everything before `next`.
    pub(super) fn skip_to(&self, next: u64) {
        let mut state = self.state.lock();
        state.next = state.next.max(next);
        drop(state);
        self.wake();
    }

    /// Records that no more entries will reach the disk. The first reason stays.
    pub(super) fn poison(&self, reason: String) {
        self.state.lock().end.get_or_insert(End::Poisoned(reason));
        self.wake();
    }

    pub(super) fn close(&self) {
        self.state.lock().end.get_or_insert(End::Closed);
        self.wake();
    }

    /// Blocks until nothing more of this log will reach the disk.
    pub(super) fn wait_end(&self) {
        let mut state = self.state.lock();
        while state.end.is_none() {
            self.changed.wait(&mut state);
        }
    }

    /// Completes when another append may enter, or when none ever will.
    pub(super) async fn room(&self) {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            // Registered before the check, so that a change in between wakes this task.
            room.as_mut().enable();
            {
                let state = self.state.lock();
                if state.unsynced_bytes < UNSYNCED_BYTES_MAX || state.end.is_some() {
                    return;
                }
            }
            room.await;
        }
    }

    fn wake(&self) {
        self.changed.notify_all();
        self.room.notify_waiters();
    }
}
