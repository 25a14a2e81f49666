//! The only thread that writes `raft/`. It turns everything that waits, of all groups, into one
//! batch and one fsync, then completes all callers in order. Never reads the logs.
//!
//! - No caller is answered before the fsync and the rewrite of `SYNCED`.
//! - After the first failure nothing more is written, of no group. Nothing is retried, because
//!   after a failed fsync the kernel may have dropped the pages.
//! - A committed hint never runs ahead of the entries on disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use openraft::entry::RaftEntry;
use parking_lot::Mutex;
use rocksdb::{ColumnFamily, DB, WriteBatch};

use super::super::columns::{LOG, META, Meta, encode_entry, encode_log_key, encode_meta_key, log_keys};
use super::super::pinned::family;
use super::super::{StoreError, open_files, options};
use super::Shared;
use super::queue::{Op, Queue, Submitted};
use super::synced::{Ends, Synced};
use crate::codec::encode_record;
use crate::faults;
use crate::types::{Fatal, GroupId, LogId};

/// The place where a batch becomes durable: RocksDB, or a test's disk that fails on demand.
pub(super) trait Sink: Send + 'static {
    /// Writes a batch. It is on disk when this returns `Ok`; after an error that is unknown.
    fn commit(&mut self, batch: WriteBatch) -> Result<(), StoreError>;
    /// Returns the path to name in an error.
    fn path(&self) -> &Path;
}

pub(super) struct Rocks {
    database: Arc<DB>,
    path: PathBuf,
}

impl Rocks {
    pub(super) fn new(database: Arc<DB>, path: PathBuf) -> Rocks {
        Rocks { database, path }
    }
}

impl Sink for Rocks {
    fn commit(&mut self, batch: WriteBatch) -> Result<(), StoreError> {
        let options = if faults::is_set("log-skip-sync") { options::unsynced() } else { options::synced() };
        // When the memtable is full RocksDB opens files. A write that then finds no descriptor
        // would be the last one. Nothing is written while this waits; a leader that waits for long
        // gives way to another.
        if options::is_nearly_full(&self.database, &[LOG], options::LOG_MEMTABLE_BYTES) {
            open_files::patiently(|| open_files::check_some_are_left(&self.path))?;
        }
        self.database.write_opt(batch, &options).map_err(StoreError::rocks("write the log", &self.path))
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// Figures of the writer's work.
#[derive(Default)]
pub(super) struct Figures {
    /// When the writer began the batch that it is writing now; `None` between batches.
    writing: Mutex<Option<Instant>>,
    pub(super) fsyncs: AtomicU64,
    pub(super) operations: AtomicU64,
    pub(super) entries: AtomicU64,
}

impl Figures {
    /// Returns how long the current batch has been written; zero between batches.
    pub(super) fn writing_for(&self) -> Duration {
        self.writing.lock().map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Counts a batch that is on disk.
    fn count(&self, batch: &[Submitted]) {
        let (mut operations, mut entries) = (0, 0);
        for Submitted { op, .. } in batch {
            operations += u64::from(op.is_written());
            if let Op::Append { entries: appended, .. } = op {
                entries += appended.len() as u64;
            }
        }
        self.fsyncs.fetch_add(1, Ordering::Relaxed);
        self.operations.fetch_add(operations, Ordering::Relaxed);
        self.entries.fetch_add(entries, Ordering::Relaxed);
    }
}

pub(super) struct Writer<S> {
    pub(super) database: Arc<DB>,
    pub(super) queue: Arc<Queue>,
    pub(super) sink: S,
    pub(super) synced: Arc<Synced>,
    pub(super) fatal: Fatal,
    pub(super) figures: Arc<Figures>,
    /// The end of each group's log on disk, once the batch being built is written.
    pub(super) disk: BTreeMap<GroupId, Ends>,
}

/// A batch under construction.
struct Batch<'a> {
    writes: WriteBatch,
    log: &'a ColumnFamily,
    meta: &'a ColumnFamily,
}

/// What a batch changes of one group.
struct Draft {
    group: GroupId,
    before: Ends,
    after: Ends,
    /// The shortest length of the log within this batch, if the batch truncates it.
    cut_to: Option<Option<LogId>>,
}

/// Returns the operations of a batch, one slice for each group.
fn by_group(batch: &[Submitted]) -> impl Iterator<Item = &[Submitted]> {
    batch.chunk_by(|one, next| one.group == next.group)
}

/// Returns the log of operations of one group. Those of the process alone have none.
fn log_of(of_group: &[Submitted]) -> Option<&Arc<Shared>> {
    of_group.iter().find_map(|submitted| submitted.log.as_ref())
}

impl<S: Sink> Writer<S> {
    /// Writes until the queue is closed and empty, or a write fails.
    pub(super) fn run(mut self) {
        while let Some(batch) = self.queue.take() {
            *self.figures.writing.lock() = Some(Instant::now());
            let written = self.write(&batch);
            *self.figures.writing.lock() = None;
            match written {
                Ok(()) => self.acknowledge(batch),
                Err(error) => return self.poison(batch, &error),
            }
        }
    }

    fn write(&mut self, submitted: &[Submitted]) -> Result<(), StoreError> {
        let (log, meta) = (family(&self.database, LOG), family(&self.database, META));
        let mut batch = Batch { writes: WriteBatch::default(), log, meta };
        let (mut lowered, mut ends) = (Vec::new(), Vec::new());
        for of_group in by_group(submitted) {
            let (group, writes) = (of_group[0].group, batch.writes.len());
            let mut draft = Draft::new(group, self.disk.get(&group).copied().unwrap_or_default());
            of_group.iter().for_each(|submitted| draft.add(&submitted.op, &mut batch));
            if let Some(log) = log_of(of_group) {
                draft.add_committed(log, &mut batch);
            }
            if batch.writes.len() > writes {
                lowered.extend(draft.lowered().map(|ends| (group, ends)));
                ends.push((group, draft.after));
                self.disk.insert(group, draft.after);
            }
        }
        if ends.is_empty() {
            return Ok(());
        }
        if !lowered.is_empty() {
            self.synced.lower(&lowered)?;
        }
        self.fail_before(submitted)?;
        self.sink.commit(batch.writes)?;
        self.figures.count(submitted);
        self.fail_after(submitted)?;
        self.synced.write(&ends)
    }

    /// Lets a test fail a step that is not on disk yet.
    fn fail_before(&self, batch: &[Submitted]) -> Result<(), StoreError> {
        for Submitted { op, .. } in batch {
            let failed = match op {
                Op::Append { .. } => faults::io("log-before-sync"),
                Op::Truncate { .. } => faults::io("truncate-before-sync"),
                Op::Purge { .. } => faults::io("purge-before-sync"),
                Op::Vote(..) => faults::io("vote-before-sync"),
                Op::Identity(..) => faults::io("identity-before-sync"),
                Op::Barrier(_) | Op::Close => Ok(()),
            };
            failed.map_err(StoreError::io("write the log in", self.sink.path()))?;
        }
        Ok(())
    }

    /// Lets a test fail a step that is already on disk.
    fn fail_after(&self, batch: &[Submitted]) -> Result<(), StoreError> {
        for Submitted { op, .. } in batch {
            let failed = match op {
                Op::Append { .. } => faults::io("log-after-sync"),
                Op::Truncate { .. } => faults::io("truncate-after-sync"),
                Op::Purge { .. } => faults::io("purge-after-sync"),
                Op::Vote(..) => faults::io("vote-after-sync"),
                Op::Identity(..) => faults::io("identity-after-sync"),
                Op::Barrier(_) | Op::Close => Ok(()),
            };
            failed.map_err(StoreError::io("write the log in", self.sink.path()))?;
        }
        Ok(())
    }

    fn acknowledge(&self, batch: Vec<Submitted>) {
        for of_group in by_group(&batch) {
            let newest = of_group.iter().rev().find_map(|submitted| match &submitted.op {
                Op::Append { append_number, .. } => Some(*append_number),
                _ => None,
            });
            if let (Some(append_number), Some(log)) = (newest, log_of(of_group)) {
                log.synced(append_number, of_group.iter().map(|submitted| submitted.op.bytes()).sum());
            }
        }
        for Submitted { group, log, op } in batch {
            if let (Op::Close, Some(log)) = (&op, log) {
                // In this order: who waits for the close may open the group's log again.
                self.queue.forget_log(group);
                log.progress.close();
            }
            op.complete(Ok(()));
        }
    }

    fn poison(&self, batch: Vec<Submitted>, error: &StoreError) {
        // Whatever was not written was not acknowledged.
        let advice = error
            .room_advice()
            .map(|advice| format!("; {advice}, and start this node again; nothing acknowledged is lost"));
        self.end(batch, format!("{error}{}", advice.unwrap_or_default()));
    }
}

/// A writer that panicked writes no more. Its callers must not wait for ever.
impl<S> Drop for Writer<S> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.end(Vec::new(), "its writer panicked".to_owned());
        }
    }
}

impl<S> Writer<S> {
    fn end(&self, batch: Vec<Submitted>, reason: String) {
        self.fatal.raise(format!("the log could not be written: {reason}"));
        let (queued, logs) = self.queue.poison(reason.clone());
        logs.values().for_each(|log| log.progress.poison(reason.clone()));
        for Submitted { op, .. } in batch.into_iter().chain(queued) {
            op.complete(Err(StoreError::Poisoned(reason.clone())));
        }
    }
}

impl Draft {
    fn new(group: GroupId, before: Ends) -> Draft {
        Draft { group, before, after: before, cut_to: None }
    }

    fn add(&mut self, op: &Op, batch: &mut Batch<'_>) {
        let (group, writes) = (self.group, &mut batch.writes);
        match op {
            Op::Append { entries, .. } => {
                for entry in entries {
                    writes.put_cf(batch.log, encode_log_key(group, entry.index()), encode_entry(group, entry));
                    self.after.last = Some(entry.log_id());
                }
            }
            Op::Truncate { from, to, kept } => {
                // Single deletes: the truncated tail is short, and range tombstones at the growing
                // end would slow every read there.
                for index in *from..=*to {
                    writes.delete_cf(batch.log, encode_log_key(group, index));
                }
                self.after.last = *kept;
                self.cut_to = Some(self.cut_to.map_or(*kept, |shortest| shortest.min(*kept)));
            }
            Op::Purge { from, upto } => {
                let keys = log_keys(group, *from..upto.index + 1);
                if from <= &upto.index {
                    writes.delete_range_cf(batch.log, keys.start, keys.end);
                }
                writes.put_cf(batch.meta, encode_meta_key(group, Meta::Purged), encode_record(upto));
                self.after.last = self.after.last.max(Some(*upto));
            }
            Op::Vote(vote, _) => {
                writes.put_cf(batch.meta, encode_meta_key(group, Meta::Vote), encode_record(vote));
                self.after.vote = Some(*vote);
            }
            Op::Identity(identity, _) => {
                (self.after.node, self.after.boot) = (identity.node_id, identity.boot);
                writes.put_cf(batch.meta, encode_meta_key(group, Meta::Identity), encode_record(identity));
            }
            Op::Barrier(_) | Op::Close => {}
        }
    }

    /// Adds the committed hint of the log, or leaves it there until its entry is on disk.
    ///
    /// A hint beyond the entries on disk would keep openraft from starting after a crash. A hint
    /// for an entry that another one still has the place of would have that other one applied.
    fn add_committed(&self, log: &Shared, batch: &mut Batch<'_>) {
        let mut hint = log.hint.lock();
        let is_on_disk = |committed: &mut LogId| {
            self.after.last.is_some_and(|last| committed.index <= last.index && *committed <= last)
        };
        if let Some(committed) = hint.take_if(is_on_disk) {
            let key = encode_meta_key(self.group, Meta::Committed);
            batch.writes.put_cf(batch.meta, key, encode_record(&committed));
        }
    }

    /// Returns what the log may be promised to hold before the batch is written, if that is less
    /// than before.
    fn lowered(&self) -> Option<Ends> {
        // Only `recover` lowers a vote: it replaces a forged one of a term far beyond the log's.
        let lowers_vote = self.after.vote < self.before.vote;
        if self.cut_to.is_none() && !lowers_vote {
            return None;
        }
        let last = self.cut_to.map_or(self.before.last, |last| last.min(self.before.last));
        let vote = if lowers_vote { self.after.vote } else { self.before.vote };
        Some(Ends { last, vote, ..self.before })
    }
}
