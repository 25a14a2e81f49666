//! The queue in front of the writer, with the operations of all groups in the order in which they
//! came: so none starves, and each group's own order is kept. `DurableProgress::room` bounds the
//! entries of each group; each caller adds at most one other small item. Knows which logs are open.
//! Never touches the disk.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use openraft::storage::IOFlushed;
use parking_lot::{Condvar, Mutex};

use super::super::StoreError;
use super::Shared;
use crate::types::{Entry, GROUP, GroupId, Identity, LogId, TypeConfig, Vote};

/// Most bytes of entries that one fsync covers, of all groups together, so that the first of them
/// need not wait for too many others.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// One submitted operation.
pub(super) enum Op {
    Append {
        entries: Vec<Entry>,
        bytes: usize,
        append_number: u64,
        callback: IOFlushed<TypeConfig>,
    },
    Truncate {
        from: u64,
        to: u64,
        kept: Option<LogId>,
    },
    Purge {
        from: u64,
        upto: LogId,
    },
    Vote(Vote, Reply),
    Identity(Identity, Reply),
    Barrier(Reply),
    /// The last one of its log. Writes only what waits for a next batch.
    Close,
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
            Op::Truncate { .. } | Op::Purge { .. } | Op::Close => {}
        }
    }

    /// Returns whether this operation itself changes the disk.
    pub(super) fn is_written(&self) -> bool {
        !matches!(self, Op::Barrier(_) | Op::Close)
    }

    /// Returns the bytes that leave the queue with this operation.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Op::Append { bytes, .. } => *bytes,
            _ => 0,
        }
    }
}

/// An operation in the queue.
pub(super) struct Submitted {
    pub(super) group: GroupId,
    /// The log that submitted it; `None` for what belongs to the process.
    pub(super) log: Option<Arc<Shared>>,
    pub(super) op: Op,
}

#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    submitted: VecDeque<Submitted>,
    /// The logs that are open. One that is being closed is among them until it is closed.
    logs: BTreeMap<GroupId, Arc<Shared>>,
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

impl State {
    /// Fails if no log of this group may be opened now.
    fn check_may_open(&self, group: GroupId) -> Result<(), StoreError> {
        if let Some(closed) = &self.closed {
            return Err(closed.error());
        }
        match self.logs.contains_key(&group) {
            true => Err(StoreError::Misuse(format!("the log of group {group} is open already"))),
            false => Ok(()),
        }
    }

    /// Returns why an operation is refused, if it is.
    fn refusal(&self, log: Option<&Shared>) -> Option<StoreError> {
        match &self.closed {
            Some(closed) => Some(closed.error()),
            None => log.is_some_and(Shared::is_closing).then_some(StoreError::Closed),
        }
    }

    fn close_log(&mut self, log: &Arc<Shared>) {
        if self.closed.is_none() && !log.closing.swap(true, Ordering::Relaxed) {
            self.submitted.push_back(Submitted { group: log.group, log: Some(log.clone()), op: Op::Close });
        }
    }
}

impl Queue {
    /// Submits an operation of a log. If the log or the queue is closed, it completes with the
    /// error at once.
    pub(super) fn push(&self, log: &Arc<Shared>, op: Op) {
        self.submit(Submitted { group: log.group, log: Some(log.clone()), op });
    }

    /// Submits an operation of the process. It is written among the keys of group 0.
    pub(super) fn push_of_process(&self, op: Op) {
        self.submit(Submitted { group: GROUP, log: None, op });
    }

    fn submit(&self, submitted: Submitted) {
        let mut state = self.state.lock();
        if let Some(error) = state.refusal(submitted.log.as_deref()) {
            drop(state);
            return submitted.op.complete(Err(error));
        }
        state.submitted.push_back(submitted);
        drop(state);
        self.changed.notify_one();
    }

    /// Waits for work. Returns the operations of one batch, group by group, and each group's in
    /// their order; `None` when the queue is closed and empty.
    pub(super) fn take(&self) -> Option<Vec<Submitted>> {
        let mut state = self.state.lock();
        while state.submitted.is_empty() {
            if state.closed.is_some() {
                return None;
            }
            self.changed.wait(&mut state);
        }
        let mut batch = Vec::new();
        let mut bytes = 0;
        while bytes < BATCH_BYTES_MAX
            && let Some(submitted) = state.submitted.pop_front()
        {
            bytes += submitted.op.bytes();
            batch.push(submitted);
        }
        drop(state);
        if !batch.is_sorted_by_key(|submitted| submitted.group) {
            // Stable: it keeps the order within a group.
            batch.sort_by_key(|submitted| submitted.group);
        }
        Some(batch)
    }

    /// Returns whether the writer has taken everything.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.state.lock().submitted.is_empty()
    }

    /// Fails if no log of this group may be opened now.
    pub(super) fn check_may_open(&self, group: GroupId) -> Result<(), StoreError> {
        self.state.lock().check_may_open(group)
    }

    /// Takes operations of this log from now on.
    pub(super) fn open_log(&self, log: &Arc<Shared>) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        state.check_may_open(log.group)?;
        state.logs.insert(log.group, log.clone());
        Ok(())
    }

    /// Refuses operations of this log from now on. Queued ones are still written. Returns at once.
    pub(super) fn close_log(&self, log: &Arc<Shared>) {
        self.state.lock().close_log(log);
        self.changed.notify_one();
    }

    /// Forgets a log that is closed. It may be opened again.
    pub(super) fn forget_log(&self, group: GroupId) {
        self.state.lock().logs.remove(&group);
    }

    /// Closes all logs, and refuses everything from now on. Queued operations are still written.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        let logs: Vec<_> = state.logs.values().cloned().collect();
        logs.iter().for_each(|log| state.close_log(log));
        state.closed.get_or_insert(Closed::ByOwner);
        self.changed.notify_one();
    }

    /// Refuses everything from now on. Returns the operations that will not be written, and the
    /// logs that were open.
    pub(super) fn poison(&self, reason: String) -> (VecDeque<Submitted>, BTreeMap<GroupId, Arc<Shared>>) {
        let mut state = self.state.lock();
        state.closed = Some(Closed::Poisoned(reason));
        (mem::take(&mut state.submitted), mem::take(&mut state.logs))
    }
}
