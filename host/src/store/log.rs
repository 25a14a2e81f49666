//! The Raft log, vote and identity of one group, durable before anything is acknowledged. Never
//! interprets an entry.
//!
//! ```text
//! openraft ── append, truncate, purge, save_vote ──► Shared: what readers see at once (tail.rs)
//!                                              └───► queue.rs ──► writer.rs: one thread, one
//!                                                              batch, one fsync ──► callbacks
//! ```
//!
//! - Readers see an append when the call returns. It is acknowledged only after its fsync.
//! - Everything reaches the disk in the order it was submitted: memory and queue change under one
//!   lock.
//! - After a failed write nothing is acknowledged any more, and the node ends.

mod check;
mod durable;
mod opening;
mod queue;
mod reader;
mod served;
mod synced;
mod tail;
mod wal_tail;
mod writer;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use openraft::OptionalSend;
use openraft::RaftLogReader;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use parking_lot::{Mutex, RwLock};
use rocksdb::DB;

pub use durable::Durable;
use durable::DurableProgress;
use opening::Opened;
use queue::{Op, Queue, Reply};
pub use reader::LogReader;
pub use served::Seen;
use served::Served;
pub use synced::holds_log;
use tail::View;
use writer::{Rocks, Sink, Writer};

use super::{DataDir, StoreError};
use crate::faults;
use crate::types::{CommittedLeaderId, Entry, Fatal, Identity, LogId, TypeConfig, Vote};

/// The log of one group. Clones share it. Dropping the last clone closes the log.
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
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// The data that the log, its readers and its writer share. Lock order: `view`, then queue or
/// progress.
struct Shared {
    group: u32,
    database: Arc<DB>,
    view: RwLock<View>,
    queue: Queue,
    progress: Arc<DurableProgress>,
    identity: Mutex<Option<Identity>>,
    /// Raised when the log cannot be read. That ends the node, as a failed write does.
    fatal: Fatal,
    served: Served,
    /// When the writer began the batch that it is writing now; `None` between batches.
    writing: Mutex<Option<Instant>>,
    /// Whether openraft must not learn the commit index.
    applies_nothing: AtomicBool,
}

impl Log {
    /// Opens the log and checks it. Cuts a torn tail and refuses damage (`log/opening.rs`).
    ///
    /// The log must have no gaps and no record that fails its checksum, and must hold at least what
    /// the last run had synced. Starts the writer thread. `fatal` is raised when a write or a read
    /// fails.
    pub fn open(directory: &DataDir, group: u32, fatal: Fatal) -> Result<Log, StoreError> {
        let opened = opening::open(directory, group)?;
        let sink = Rocks::new(opened.database.clone(), directory.raft());
        Log::with_sink(directory, group, fatal, opened, sink)
    }

    fn with_sink(
        directory: &DataDir,
        group: u32,
        fatal: Fatal,
        opened: Opened,
        sink: impl Sink,
    ) -> Result<Log, StoreError> {
        let Opened { database, mut found, synced } = opened;
        let served = Served::open(&directory.root().join("SERVED"), group, found.last())?;
        // Whatever was applied had been committed.
        found.committed = found.committed.max(served.log_id());
        let shared = Arc::new(Shared {
            group,
            database,
            fatal: fatal.clone(),
            progress: Arc::new(DurableProgress::new(found.last().map_or(0, |last| last.index + 1))),
            queue: Queue::default(),
            identity: Mutex::new(found.identity.clone()),
            view: RwLock::new(View::new(&found)),
            served,
            writing: Mutex::default(),
            applies_nothing: AtomicBool::new(false),
        });
        let writer = Writer::new(shared.clone(), sink, synced, fatal, &found);
        let thread = std::thread::Builder::new()
            .name("log-writer".into())
            .spawn(move || writer.run())
            .map_err(StoreError::io("start the log writer of", directory.root()))?;
        Ok(Log(Arc::new(Handle { shared, writer: Mutex::new(Some(thread)) })))
    }

    /// Returns this node's identity; `None` before the first start recorded it.
    pub fn identity(&self) -> Option<Identity> {
        self.0.shared.identity.lock().clone()
    }

    /// Records this node's identity. Durable on return. Blocks for one fsync.
    pub fn save_identity(&self, identity: &Identity) -> Result<(), StoreError> {
        let (reply, answer) = std::sync::mpsc::channel();
        self.0.shared.queue.push(Op::Identity(identity.clone(), Reply::Blocking(reply)));
        answer.recv().unwrap_or(Err(StoreError::Closed))?;
        *self.0.shared.identity.lock() = Some(identity.clone());
        Ok(())
    }

    /// Returns a handle that tells when entries are on this node's disk.
    pub fn durable(&self) -> Durable {
        Durable::new(self.0.shared.progress.clone())
    }

    /// Returns how long the disk has been writing the current batch of the log.
    ///
    /// Zero between batches.
    pub fn writing_for(&self) -> Duration {
        self.0.shared.writing.lock().map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Completes when everything submitted before is on disk.
    pub async fn barrier(&self) -> Result<(), StoreError> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.0.shared.queue.push(Op::Barrier(Reply::Async(reply)));
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

    /// Writes what is queued, stops the writer thread and refuses everything after. A second call
    /// does nothing.
    pub fn close(&self) {
        self.0.close();
    }
}

impl Handle {
    fn close(&self) {
        self.shared.queue.close();
        if let Some(thread) = self.writer.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the log writer panicked");
        }
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
            self.0.shared.queue.push(Op::Vote(*vote, Reply::Async(reply)));
        }
        Ok(answer.await.unwrap_or(Err(StoreError::Closed))?)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        // Runs on the task of openraft's core, as every method here does.
        faults::point("raft-core");
        let mut view = self.0.shared.view.write();
        view.committed = committed;
        self.0.shared.queue.set_committed(committed);
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
    fn append(&self, entries: Vec<Entry>, callback: IOFlushed<TypeConfig>) -> Result<(), StoreError> {
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
        self.queue.push(Op::Append { entries, bytes, append_number, callback });
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

    fn truncate_after(&self, last_log_id: Option<LogId>) {
        let mut view = self.view.write();
        let Some(old_last) = view.last else { return };
        let from = last_log_id.map_or(0, |kept| kept.index + 1).max(view.first());
        if from > old_last.index {
            return;
        }
        let kept = if from == view.first() { view.purged } else { last_log_id };
        view.truncate(from, kept);
        self.progress.truncate(from);
        self.queue.push(Op::Truncate { from, to: old_last.index, kept });
    }

    fn purge(&self, upto: LogId) {
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
        self.queue.push(Op::Purge { from, upto });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
