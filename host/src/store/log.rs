//! The Raft logs and votes of all groups, durable before anything is acknowledged. Never interprets
//! an entry.
//!
//! ```text
//! openraft ── append, truncate, purge, save_vote ──► Shared: what readers see at once (tail.rs)
//! of a group                                   └──┐
//! openraft                                        ├─► queue.rs ──► writer.rs: one thread, one
//! of another group ───────────────────────────────┘            batch, one fsync ──► callbacks
//! ```
//!
//! [`LogDisk`] (`disk.rs`) is what the logs share: the database, the queue, the writer, its fsync.
//! A [`Log`] is that of one group.
//!
//! - Readers see an append when the call returns. It is acknowledged only after its fsync.
//! - Everything of a group reaches the disk in the order it was submitted: memory and queue change
//!   under one lock.
//! - After a failed write nothing is acknowledged any more, of no group, and the node ends.

mod check;
mod disk;
mod durable;
mod opening;
mod queue;
mod reader;
mod served;
mod stopped;
mod synced;
mod tail;
mod wal_tail;
mod writer;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::OptionalSend;
use openraft::RaftLogReader;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use parking_lot::{Mutex, RwLock};
use rocksdb::DB;

use check::Found;
pub use disk::{LogDisk, LogDiskStats};
pub use durable::Durable;
use durable::DurableProgress;
use queue::{Op, Queue, Reply};
pub use reader::LogReader;
pub use served::Seen;
use served::Served;
pub use stopped::StoppedLog;
pub use synced::holds_log;
use tail::View;

use super::StoreError;
use crate::faults;
use crate::types::{CommittedLeaderId, Entry, Fatal, GroupId, LogId, TypeConfig, Vote};

/// The log of one group. Clones share it. Dropping the last clone closes this log and no other.
#[derive(Clone)]
pub struct Log(Arc<Handle>);

/// Figures of the log for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogStats {
    /// The first index present; `None` when the log holds no entries.
    pub first_index: Option<u64>,
    /// The last index present or purged; `None` when nothing was ever appended.
    pub last_index: Option<u64>,
    /// Everything up to this index is on disk; 0 also when nothing is.
    pub durable_index: u64,
    /// Bytes held in memory for readers.
    pub tail_bytes: usize,
    /// Bytes of the entries found when the log was opened, plus all appended since. Purging does
    /// not lower it.
    pub written_bytes: u64,
}

struct Handle {
    shared: Arc<Shared>,
    /// Dropped after the log is closed. The last log to be dropped may be the last user of the
    /// disk.
    disk: LogDisk,
}

/// The data that a log, its readers and the writer share. Lock order: `view`, then queue, progress
/// or hint.
struct Shared {
    group: GroupId,
    database: Arc<DB>,
    view: RwLock<View>,
    queue: Arc<Queue>,
    progress: Arc<DurableProgress>,
    /// Raised when the log cannot be read. That ends the node, as a failed write does.
    fatal: Fatal,
    served: Served,
    /// The newest committed hint, until it is written. It is not worth an fsync of its own.
    hint: Mutex<Option<LogId>>,
    /// Whether openraft must not learn the commit index.
    applies_nothing: AtomicBool,
    /// Whether the log takes no more operations. Changed under the queue's lock.
    closing: AtomicBool,
}

impl Log {
    fn new(shared: Arc<Shared>, disk: LogDisk) -> Log {
        Log(Arc::new(Handle { shared, disk }))
    }

    /// Returns a handle that tells when entries are on this node's disk.
    pub fn durable(&self) -> Durable {
        Durable::new(self.0.shared.progress.clone())
    }

    /// Returns how long the disk has been writing its current batch, of whichever groups: an append
    /// here waits for it.
    ///
    /// Zero between batches.
    pub fn writing_for(&self) -> Duration {
        self.0.disk.writing_for()
    }

    /// Reads entries of `indexes`, from its start on: some of them, and none if the log does not
    /// have the first one. Blocks this thread.
    pub fn read_here(&self, indexes: std::ops::Range<u64>) -> Result<Vec<Entry>, StoreError> {
        LogReader::new(self.0.shared.clone()).read_here(indexes)
    }

    /// Returns the id of an entry that the log has, or of the last one that has left it; `None` of
    /// any other. Blocks this thread.
    pub fn log_id_at(&self, index: u64) -> Result<Option<LogId>, StoreError> {
        let purged = self.0.shared.view.read().purged.filter(|purged| purged.index == index);
        match purged {
            Some(purged) => Ok(Some(purged)),
            None => Ok(self.read_here(index..index.saturating_add(1))?.first().map(|entry| entry.log_id)),
        }
    }

    /// Completes when everything submitted before is on disk.
    pub async fn barrier(&self) -> Result<(), StoreError> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.0.shared.submit(Op::Barrier(Reply::Async(reply)));
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Returns the greatest log id known to be committed.
    ///
    /// After a restart this is what the last run had recorded. It is never less than what that run
    /// had applied, unless the machine crashed.
    pub fn committed_hint(&self) -> Option<LogId> {
        self.0.shared.view.read().committed
    }

    /// Returns how far readers may have seen the state before this start.
    pub fn seen_before(&self) -> Seen {
        self.0.shared.served.before()
    }

    /// Returns an entry after the end of the log that readers of this node have certainly seen.
    ///
    /// This is sound only when the state reaches that entry.
    pub fn seen_beyond(&self) -> Option<LogId> {
        self.0.shared.served.beyond()
    }

    /// Records that entry `log_id`, which is on disk, becomes visible to readers next. One small
    /// write, no fsync.
    pub fn note_served(&self, log_id: LogId) -> Result<(), StoreError> {
        self.0.shared.served.write(log_id)
    }

    /// Records that the state has reached all of [`Log::seen_before`].
    pub fn note_recovered(&self) -> Result<(), StoreError> {
        self.0.shared.served.recovered()
    }

    /// Hides the commit index from openraft at its start, so that a node that must not apply
    /// applies nothing.
    pub fn apply_nothing(&self) {
        self.0.shared.applies_nothing.store(true, Ordering::Relaxed);
    }

    /// Continues the log after a state at `applied` that came from another node. Durable on return.
    ///
    /// Removes the log up to `applied`, unless the log holds that very entry. If the log holds
    /// another entry at that index, the entries after it go too: another leader had appended them.
    pub async fn go_on_behind(&mut self, applied: LogId) -> io::Result<()> {
        let index = applied.index;
        let mut reader = self.get_log_reader().await;
        let around = reader.try_get_log_entries(index.saturating_sub(1)..=index).await?;
        let found = around.iter().map(|entry| entry.log_id).find(|log_id| log_id.index == index);
        if found != Some(applied) {
            if found.is_some() {
                let before = around.iter().map(|entry| entry.log_id).find(|log_id| log_id.index + 1 == index);
                self.0.shared.truncate_after(before);
            }
            self.purge(applied).await?;
        }
        Ok(self.barrier().await?)
    }

    /// Saves a vote for `leader` if its term is later than the saved vote's. Durable on return.
    ///
    /// A follower that takes a leader's entries votes the same way.
    pub async fn vote_with(&mut self, leader: CommittedLeaderId) -> io::Result<()> {
        let vote = Vote::new_committed(leader.term, leader.node_id);
        let before = self.0.shared.view.read().vote;
        match before {
            Some(before) if before.leader_id.term >= leader.term => Ok(()),
            _ => self.save_vote(&vote).await,
        }
    }

    /// Returns figures for operators.
    pub fn stats(&self) -> LogStats {
        let view = self.0.shared.view.read();
        LogStats {
            first_index: view.last.filter(|last| view.first() <= last.index).map(|_| view.first()),
            last_index: view.last.map(|last| last.index),
            durable_index: self.0.shared.progress.index(),
            tail_bytes: view.tail.bytes(),
            written_bytes: view.written_bytes,
        }
    }

    /// Writes what is queued and refuses everything after. A second call does nothing.
    ///
    /// Other groups go on. The group's log may be opened again.
    pub fn close(&self) {
        self.0.close();
    }
}

impl Handle {
    fn close(&self) {
        self.shared.queue.close_log(&self.shared);
        self.shared.progress.wait_end();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let view = self.0.shared.view.read();
        Ok(LogState { last_purged_log_id: view.purged, last_log_id: view.last })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader::new(self.0.shared.clone())
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        {
            let mut view = self.0.shared.view.write();
            view.vote = Some(*vote);
            self.0.shared.submit(Op::Vote(*vote, Reply::Async(reply)));
        }
        Ok(answer.await.unwrap_or(Err(StoreError::Closed))?)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        // Runs on the task of openraft's core, as every method here does.
        faults::point("raft-core");
        let mut view = self.0.shared.view.write();
        view.committed = committed;
        *self.0.shared.hint.lock() = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let held = self.0.shared.applies_nothing.load(Ordering::Relaxed);
        Ok(self.committed_hint().filter(|_| !held))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        self.0.shared.progress.room().await;
        self.0.shared.append(entries, callback)?;
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        self.0.shared.check_keeps_applied(last_log_id)?;
        self.0.shared.truncate_after(last_log_id);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        self.0.shared.purge(log_id);
        Ok(())
    }
}

impl Shared {
    fn new(
        group: GroupId,
        database: Arc<DB>,
        queue: Arc<Queue>,
        fatal: Fatal,
        served: Served,
        found: &Found,
    ) -> Shared {
        Shared {
            group,
            database,
            view: RwLock::new(View::new(found)),
            queue,
            progress: Arc::new(DurableProgress::new(found.last().map_or(0, |last| last.index + 1))),
            fatal,
            served,
            hint: Mutex::default(),
            applies_nothing: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        }
    }

    fn submit(self: &Arc<Self>, op: Op) {
        self.queue.push(self, op);
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    fn append(self: &Arc<Self>, entries: Vec<Entry>, callback: IOFlushed<TypeConfig>) -> Result<(), StoreError> {
        let mut view = self.view.write();
        view.check_follows(&entries)?;
        let append_number = view.next_append_number();
        let before = view.tail.bytes();
        for entry in &entries {
            view.push(entry.clone(), append_number);
        }
        let bytes = view.tail.bytes() - before;
        view.written_bytes += bytes as u64;
        self.progress.submitted(bytes);
        self.submit(Op::Append { entries, bytes, append_number, callback });
        Ok(())
    }

    /// Refuses to cut off entries that the state holds. The state cannot take them back, and what
    /// readers saw of them would stay. Raft never asks for that, unless a majority lost entries
    /// that were committed: then this node ends.
    fn check_keeps_applied(&self, last: Option<LogId>) -> Result<(), StoreError> {
        let last = last.map(|last| last.index);
        match self.served.log_id().map(|applied| applied.index) {
            Some(applied) if last < Some(applied) => {
                let error = StoreError::AppliedIsReplaced { applied, last };
                self.fatal.raise(error.to_string());
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Records that every append up to `append_number` is on disk.
    fn synced(&self, append_number: u64, bytes: usize) {
        // The lock keeps a truncation from happening between the check and the change.
        let mut view = self.view.write();
        let next = view.synced(append_number, self.progress.next());
        self.progress.synced(bytes, next);
    }

    fn truncate_after(self: &Arc<Self>, last_log_id: Option<LogId>) {
        let mut view = self.view.write();
        let Some(old_last) = view.last else { return };
        let from = last_log_id.map_or(0, |kept| kept.index + 1).max(view.first());
        if from > old_last.index {
            return;
        }
        let kept = if from == view.first() { view.purged } else { last_log_id };
        view.truncate(from, kept);
        self.progress.truncate(from);
        self.submit(Op::Truncate { from, to: old_last.index, kept });
    }

    fn purge(self: &Arc<Self>, upto: LogId) {
        let mut view = self.view.write();
        if view.purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        let from = view.first();
        if view.last.is_none_or(|last| last.index < upto.index) {
            // A snapshot covers more than the log. From here on the log begins after the snapshot.
            self.progress.skip_to(upto.index + 1);
        }
        view.purge(upto);
        self.submit(Op::Purge { from, upto });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
