//! Reads the log: from memory if the entries are there, else from RocksDB on a blocking thread.
//! Never writes.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use futures::Stream;
use futures::stream::try_unfold;
use openraft::OptionalSend;
use openraft::RaftLogReader;
use openraft::entry::RaftEntry;

use super::super::StoreError;
use super::super::columns::{LOG, entry_bytes};
use super::super::open_files::patiently;
use super::super::pinned::Pinned;
use super::Shared;
use super::check::{range_options, walk};
use super::tail::View;
use crate::faults;
use crate::types::{Entry, TypeConfig, Vote};

/// Most bytes of entries in one read for replication or apply, but at least one entry: one peer
/// message, one step of the apply stream.
const READ_BYTES_MAX: usize = 1024 * 1024;

/// A reader of the log. Each replication task has one, and so has the apply task.
pub struct LogReader(Arc<Shared>);

/// Where the entries of a range are.
enum Plan {
    Memory(Vec<Entry>),
    /// The older entries are on disk, pinned; the newer ones are in memory.
    Disk {
        pinned: Pinned,
        indexes: Range<u64>,
        then: Vec<Entry>,
    },
}

impl LogReader {
    pub(super) fn new(shared: Arc<Shared>) -> LogReader {
        LogReader(shared)
    }

    /// Reads the entries of `indexes` until they exceed `bytes_max`, but at least one.
    ///
    /// The log must have all of `indexes`.
    async fn read(&self, indexes: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let plan = self.plan(&self.0.view.read(), indexes, bytes_max)?;
        self.follow(plan, bytes_max).await
    }

    /// Reads the entries of `indexes` that the log has, on this thread, until they exceed
    /// [`READ_BYTES_MAX`], but at least one. Blocks.
    pub(super) fn read_here(&self, indexes: Range<u64>) -> Result<Vec<Entry>, StoreError> {
        let plan = {
            let view = self.0.view.read();
            let there = present(&view, &indexes);
            if there.start > indexes.start {
                return Ok(Vec::new());
            }
            self.plan(&view, there, READ_BYTES_MAX)?
        };
        match plan {
            Plan::Memory(entries) => Ok(entries),
            Plan::Disk { pinned, indexes, .. } => {
                patiently(|| read_disk(&pinned, self.0.group, indexes.clone(), READ_BYTES_MAX))
                    .map_err(|error| error.of_group(self.0.group))
            }
        }
    }

    /// Plans a read under the lock, so that all of it belongs to one moment. Does not read the disk
    /// under the lock.
    fn plan(&self, view: &View, indexes: Range<u64>, bytes_max: usize) -> Result<Plan, StoreError> {
        if indexes.is_empty() {
            return Ok(Plan::Memory(Vec::new()));
        }
        if indexes.start < view.first() || indexes.end > view.end() {
            let present = view.first()..view.end();
            return Err(StoreError::Misuse(format!("reading log entries {indexes:?}, the log holds {present:?}")));
        }
        let in_memory = view.tail.first();
        if indexes.start >= in_memory {
            return Ok(Plan::Memory(view.tail.read(indexes, bytes_max)));
        }
        // Entries before the tail are on disk. A later truncation or purge does not affect the
        // pinned snapshot.
        let pinned = Pinned::new(self.0.database.clone());
        let on_disk = indexes.start..indexes.end.min(in_memory);
        let then = if indexes.end > in_memory && bytes_max == usize::MAX {
            view.tail.read(in_memory..indexes.end, bytes_max)
        } else {
            Vec::new()
        };
        Ok(Plan::Disk { pinned, indexes: on_disk, then })
    }

    /// Carries out a plan up to `bytes_max`, but at least one entry.
    ///
    /// If the log cannot be read or fails a checksum, this node ends with that reason, and no
    /// caller gets data that may be wrong.
    async fn follow(&self, plan: Plan, bytes_max: usize) -> io::Result<Vec<Entry>> {
        match plan {
            Plan::Memory(entries) => Ok(entries),
            Plan::Disk { pinned, indexes, then } => {
                let group = self.0.group;
                let reading = move || patiently(|| read_disk(&pinned, group, indexes.clone(), bytes_max));
                let read = tokio::task::spawn_blocking(reading).await.map_err(io::Error::other)?;
                let read = read.map_err(|error| error.of_group(group));
                let mut entries = read.inspect_err(|error| {
                    // Another log of the group may have purged what a closed one still knows.
                    if !self.0.is_closing() {
                        self.0.fatal.raise(format!("the log could not be read: {error}"));
                    }
                })?;
                entries.extend(then);
                Ok(entries)
            }
        }
    }
}

/// Returns the part of `range` that the log has.
fn present(view: &View, range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start.max(view.first())..end.min(view.end())
}

pub(super) fn read_disk(
    pinned: &Pinned,
    group: u32,
    indexes: Range<u64>,
    bytes_max: usize,
) -> Result<Vec<Entry>, StoreError> {
    let path = pinned.path();
    faults::io("log-read").map_err(StoreError::io("read the log in", path))?;
    let rows = pinned.snapshot().raw_iterator_cf_opt(pinned.family(LOG), range_options(group, indexes.clone()));
    let mut entries = Vec::new();
    let mut bytes = 0;
    walk(rows, path, group, |entry| {
        let expected = indexes.start + entries.len() as u64;
        if entry.index() != expected {
            return Err(StoreError::damaged(path, format!("log entry {expected} is missing")));
        }
        bytes += entry_bytes(&entry);
        if bytes > bytes_max && !entries.is_empty() {
            return Ok(false);
        }
        entries.push(entry);
        Ok(true)
    })?;
    let next = indexes.start + entries.len() as u64;
    if next < indexes.end && bytes <= bytes_max {
        return Err(StoreError::damaged(path, format!("log entry {next} is missing")));
    }
    Ok(entries)
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let plan = {
            let view = self.0.view.read();
            self.plan(&view, present(&view, &range), usize::MAX)?
        };
        self.follow(plan, usize::MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.0.view.read().vote)
    }

    /// Reads entries for replication.
    ///
    /// A task of a leadership that has ended may still ask for entries that a snapshot or another
    /// leader has replaced meanwhile. openraft checks only after the read whether the leadership
    /// holds; it then discards the entries. But it ends the node at an error. So this returns
    /// nothing for entries that are gone. A leader's own tasks never ask for those, because
    /// openraft purges only what none of them needs.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let plan = {
            let view = self.0.view.read();
            let there = present(&view, &(start..end));
            if there.start > start {
                return Ok(Vec::new());
            }
            self.plan(&view, there, READ_BYTES_MAX)?
        };
        self.follow(plan, READ_BYTES_MAX).await
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let reader = LogReader(self.0.clone());
        let present = present(&self.0.view.read(), &range);
        let chunks = try_unfold((reader, present), |(reader, left)| async move {
            let entries = reader.read(left.clone(), READ_BYTES_MAX).await?;
            let left = left.start + entries.len() as u64..left.end;
            Ok((!entries.is_empty()).then_some((entries, (reader, left))))
        });
        Box::pin(flatten(chunks))
    }
}

fn flatten(chunks: impl Stream<Item = io::Result<Vec<Entry>>>) -> impl Stream<Item = io::Result<Entry>> {
    use futures::{StreamExt, TryStreamExt};
    chunks.map_ok(|entries| futures::stream::iter(entries).map(Ok)).try_flatten()
}
