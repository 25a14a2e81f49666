//! The only thread that writes `raft/`. It turns everything that waits into one batch and one
//! fsync, then completes all callers in order. Never reads the log.
//!
//! - No caller is answered before the fsync and the rewrite of `SYNCED`.
//! - After the first failure nothing more is written. Nothing is retried, because after a failed
//!   fsync the kernel may have dropped the pages.
//! - The committed hint never runs ahead of the entries on disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use openraft::entry::RaftEntry;
use rocksdb::{DB, WriteBatch};

use super::super::columns::{LOG, META, Meta, encode_entry, encode_log_key, encode_meta_key, log_keys};
use super::super::pinned::family;
use super::super::{StoreError, open_files, options};
use super::Shared;
use super::check::Found;
use super::queue::{Op, Work};
use super::synced::{Ends, Synced};
use crate::codec::encode_record;
use crate::faults;
use crate::types::{Fatal, LogId};

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
        if options::is_nearly_full(&self.database, LOG) {
            open_files::patiently(|| open_files::check_some_are_left(&self.path))?;
        }
        self.database.write_opt(batch, &options).map_err(StoreError::rocks("write the log", &self.path))
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

pub(super) struct Writer<S> {
    shared: Arc<Shared>,
    sink: S,
    synced: Synced,
    fatal: Fatal,
    /// The end of the log on disk, once the batch being built is written.
    disk: Ends,
}

/// A batch under construction.
struct Draft {
    batch: WriteBatch,
    /// The shortest length of the log within this batch, if the batch truncates it.
    cut_to: Option<Option<LogId>>,
}

impl<S: Sink> Writer<S> {
    pub(super) fn new(shared: Arc<Shared>, sink: S, synced: Synced, fatal: Fatal, found: &Found) -> Writer<S> {
        Writer { shared, sink, synced, fatal, disk: found.ends() }
    }

    /// Writes until the queue is closed and empty, or a write fails.
    pub(super) fn run(mut self) {
        loop {
            let Work { ops, committed, last } = self.shared.queue.take();
            *self.shared.writing.lock() = Some(Instant::now());
            let written = self.write(&ops, committed);
            *self.shared.writing.lock() = None;
            match written {
                Ok(()) => self.acknowledge(ops),
                Err(error) => return self.poison(ops, &error),
            }
            if last {
                return self.shared.progress.close();
            }
        }
    }

    fn write(&mut self, ops: &[Op], committed: Option<LogId>) -> Result<(), StoreError> {
        let before = self.disk;
        let mut draft = Draft { batch: WriteBatch::default(), cut_to: None };
        for op in ops {
            self.draft(op, &mut draft);
        }
        if let Some(committed) = committed {
            self.draft_committed(committed, &mut draft.batch);
        }
        if draft.batch.is_empty() {
            return Ok(());
        }
        // Only `recover` lowers a vote: it replaces a forged one of a term far beyond the log's.
        let lowers_vote = self.disk.vote < before.vote;
        if draft.cut_to.is_some() || lowers_vote {
            let last = draft.cut_to.map_or(before.last, |last| last.min(before.last));
            let vote = if lowers_vote { self.disk.vote } else { before.vote };
            self.synced.lower(&Ends { last, vote, ..before })?;
        }
        self.fail_before(ops)?;
        self.sink.commit(draft.batch)?;
        self.fail_after(ops)?;
        self.synced.write(&self.disk)
    }

    /// Lets a test fail a step that is not on disk yet.
    fn fail_before(&self, ops: &[Op]) -> Result<(), StoreError> {
        for op in ops {
            let failed = match op {
                Op::Append { .. } => faults::io("log-before-sync"),
                Op::Truncate { .. } => faults::io("truncate-before-sync"),
                Op::Purge { .. } => faults::io("purge-before-sync"),
                Op::Vote(..) => faults::io("vote-before-sync"),
                Op::Identity(..) => faults::io("identity-before-sync"),
                Op::Barrier(_) => Ok(()),
            };
            failed.map_err(StoreError::io("write the log in", self.sink.path()))?;
        }
        Ok(())
    }

    /// Lets a test fail a step that is already on disk.
    fn fail_after(&self, ops: &[Op]) -> Result<(), StoreError> {
        for op in ops {
            let failed = match op {
                Op::Append { .. } => faults::io("log-after-sync"),
                Op::Truncate { .. } => faults::io("truncate-after-sync"),
                Op::Purge { .. } => faults::io("purge-after-sync"),
                Op::Vote(..) => faults::io("vote-after-sync"),
                Op::Identity(..) => faults::io("identity-after-sync"),
                Op::Barrier(_) => Ok(()),
            };
            failed.map_err(StoreError::io("write the log in", self.sink.path()))?;
        }
        Ok(())
    }

    fn draft(&mut self, op: &Op, draft: &mut Draft) {
        let group = self.shared.group;
        let log = family(&self.shared.database, LOG);
        let meta = family(&self.shared.database, META);
        let batch = &mut draft.batch;
        match op {
            Op::Append { entries, .. } => {
                for entry in entries {
                    batch.put_cf(log, encode_log_key(group, entry.index()), encode_entry(group, entry));
                    self.disk.last = Some(entry.log_id());
                }
            }
            Op::Truncate { from, to, kept } => {
                // Single deletes: the truncated tail is short, and range tombstones at the growing
                // end would slow every read there.
                for index in *from..=*to {
                    batch.delete_cf(log, encode_log_key(group, index));
                }
                self.disk.last = *kept;
                draft.cut_to = Some(draft.cut_to.map_or(*kept, |shortest| shortest.min(*kept)));
            }
            Op::Purge { from, upto } => {
                let keys = log_keys(group, *from..upto.index + 1);
                if from <= &upto.index {
                    batch.delete_range_cf(log, keys.start, keys.end);
                }
                batch.put_cf(meta, encode_meta_key(group, Meta::Purged), encode_record(upto));
                self.disk.last = self.disk.last.max(Some(*upto));
            }
            Op::Vote(vote, _) => {
                batch.put_cf(meta, encode_meta_key(group, Meta::Vote), encode_record(vote));
                self.disk.vote = Some(*vote);
            }
            Op::Identity(identity, _) => {
                (self.disk.node, self.disk.boot) = (identity.node_id, identity.boot);
                batch.put_cf(meta, encode_meta_key(group, Meta::Identity), encode_record(identity));
            }
            Op::Barrier(_) => {}
        }
    }

    /// Adds the committed hint to the batch, or returns it to the queue until its entry is on disk.
    ///
    /// A hint beyond the entries on disk would keep openraft from starting after a crash.
    fn draft_committed(&self, committed: LogId, batch: &mut WriteBatch) {
        if self.disk.last.is_some_and(|last| committed.index <= last.index) {
            let meta = family(&self.shared.database, META);
            batch.put_cf(meta, encode_meta_key(self.shared.group, Meta::Committed), encode_record(&committed));
        } else {
            self.shared.queue.return_committed(committed);
        }
    }

    fn acknowledge(&self, ops: Vec<Op>) {
        let bytes = ops.iter().map(Op::bytes).sum();
        let newest = ops.iter().rev().find_map(|op| match op {
            Op::Append { append_number, .. } => Some(*append_number),
            _ => None,
        });
        if let Some(append_number) = newest {
            self.shared.synced(append_number, bytes);
        }
        for op in ops {
            op.complete(Ok(()));
        }
    }

    fn poison(&self, ops: Vec<Op>, error: &StoreError) {
        // Whatever was not written was not acknowledged.
        let advice = error
            .room_advice()
            .map(|advice| format!("; {advice}, and start this node again; nothing acknowledged is lost"));
        self.end(ops, format!("{error}{}", advice.unwrap_or_default()));
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
    fn end(&self, ops: Vec<Op>, reason: String) {
        self.fatal.raise(format!("the log could not be written: {reason}"));
        let queued = self.shared.queue.poison(reason.clone());
        self.shared.progress.poison(reason.clone());
        for op in ops.into_iter().chain(queued) {
            op.complete(Err(StoreError::Poisoned(reason.clone())));
        }
    }
}
