//! The queue in front of the writer. `DurableProgress::room` bounds its entries; each caller adds
//! at most one other small item. Never touches the disk.

use openraft::storage::IOFlushed;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;

use super::super::StoreError;
use crate::types::{Entry, Identity, LogId, TypeConfig, Vote};

/// Most bytes of entries that one fsync covers, so that the first of them need not wait for too
/// many others.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// One submitted operation.
pub(super) enum Op {
    Append { entries: Vec<Entry>, bytes: usize, append_number: u64, callback: IOFlushed<TypeConfig> },
    Truncate { from: u64, to: u64, kept: Option<LogId> },
    Purge { from: u64, upto: LogId },
    Vote(Vote, Reply),
    Identity(Identity, Reply),
    Barrier(Reply),
}

/// The channel to the caller that waits for an operation.
pub(super) enum Reply {
    Async(tokio::sync::oneshot::Sender<Result<(), StoreError>>),
    Blocking(std::sync::mpsc::Sender<Result<(), StoreError>>),
}

impl Reply {
    /// Sends the result. A caller that gave up is no error.
    pub(super) fn send(self, result: Result<(), StoreError>) {
        match self {
            Reply::Async(sender) => drop(sender.send(result)),
            Reply::Blocking(sender) => drop(sender.send(result)),
        }
    }
}

impl Op {
    /// Reports the result to the submitter.
    pub(super) fn complete(self, result: Result<(), StoreError>) {
        match self {
            Op::Append { callback, .. } => callback.io_completed(result.map_err(Into::into)),
            Op::Vote(_, reply) | Op::Identity(_, reply) | Op::Barrier(reply) => reply.send(result),
            Op::Truncate { .. } | Op::Purge { .. } => {}
        }
    }

    /// Returns the bytes that leave the queue with this operation.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Op::Append { bytes, .. } => *bytes,
            _ => 0,
        }
    }
}

/// One batch for the writer.
pub(super) struct Work {
    pub(super) ops: Vec<Op>,
    /// The newest committed hint, if it changed since it was last taken.
    pub(super) committed: Option<LogId>,
    /// Whether this is the last batch.
    pub(super) last: bool,
}

#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    ops: VecDeque<Op>,
    committed: Option<LogId>,
    closed: Option<Closed>,
}

#[derive(Clone)]
enum Closed {
    ByOwner,
    Poisoned(String),
}

impl Closed {
    fn error(&self) -> StoreError {
        match self {
            Closed::ByOwner => StoreError::Closed,
            Closed::Poisoned(reason) => StoreError::Poisoned(reason.clone()),
        }
    }
}

impl Queue {
    /// Submits an operation. On a closed queue it completes with the error at once.
    pub(super) fn push(&self, op: Op) {
        let mut state = self.state.lock();
        if let Some(closed) = &state.closed {
            let error = closed.error();
            drop(state);
            return op.complete(Err(error));
        }
        state.ops.push_back(op);
        drop(state);
        self.changed.notify_one();
    }

    /// Stores the hint for the next batch. Does not wake the writer, because the hint is not worth
    /// an fsync of its own.
    pub(super) fn set_committed(&self, committed: Option<LogId>) {
        self.state.lock().committed = committed;
    }

    /// Gives back a hint that could not be written yet, unless a newer one came.
    pub(super) fn return_committed(&self, committed: LogId) {
        self.state.lock().committed.get_or_insert(committed);
    }

    /// Waits for work. The last work may be empty.
    pub(super) fn take(&self) -> Work {
        let mut state = self.state.lock();
        while state.ops.is_empty() && state.closed.is_none() {
            self.changed.wait(&mut state);
        }
        let mut ops = Vec::new();
        let mut bytes = 0;
        while bytes < BATCH_BYTES_MAX
            && let Some(op) = state.ops.pop_front()
        {
            bytes += op.bytes();
            ops.push(op);
        }
        let last = state.ops.is_empty() && state.closed.is_some();
        Work { ops, committed: state.committed.take(), last }
    }

    /// Returns whether the writer has taken everything.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.state.lock().ops.is_empty()
    }

    /// Refuses everything from now on. Queued operations are still written.
    pub(super) fn close(&self) {
        self.state.lock().closed.get_or_insert(Closed::ByOwner);
        self.changed.notify_one();
    }

    /// Refuses everything from now on, and returns the operations that will not be written.
    pub(super) fn poison(&self, reason: String) -> VecDeque<Op> {
        let mut state = self.state.lock();
        state.closed = Some(Closed::Poisoned(reason));
        std::mem::take(&mut state.ops)
    }
}
