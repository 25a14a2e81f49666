//! Reads committed entries for somebody who keeps them elsewhere: an incremental backup, or a
//! replay. It reads what this node's log still has, at the rate of snapshots, and sends nothing
//! itself.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::GroupCell;
use crate::machine::{Machine, Pace};
use crate::store::{Log, StoreError, encode_value};
use crate::types::{Cluster, CommittedLeaderId, LogId};

/// The source of one group. Cheap to clone.
#[derive(Clone)]
pub struct LogSource(Arc<LogSourceParts>);

/// What a source works with.
pub struct LogSourceParts {
    /// Knows the cluster.
    pub cell: GroupCell,
    /// Says what is applied.
    pub machine: Machine,
    /// Has the entries.
    pub log: Log,
    /// The rate of everything that leaves this node in bulk.
    pub pace: Pace,
}

/// Why entries are not sent.
#[derive(Debug, thiserror::Error)]
pub enum LogSourceError {
    /// They are gone from this node's log.
    #[error(
        "entry {from} is not in this node's log any more, which begins with entry {first}: another node may still have it, and so does \
         the archive of a node that had --log_archive; or take a whole backup again"
    )]
    Purged {
        /// The first entry that was asked for.
        from: u64,
        /// The first entry that is there.
        first: u64,
    },
    /// They are not applied here.
    #[error(
        "entry {from} was asked for, and this node has applied entry {applied} as its last: is it a node of the same cluster?"
    )]
    Beyond {
        /// The first entry that was asked for.
        from: u64,
        /// The last that is there.
        applied: u64,
    },
    /// Another entry stands before the first one that was asked for.
    #[error(
        "entry {index} is of term {ours} in this node's log, and of term {theirs} in what is to be continued, or of another leader: that is \
         of a history that a recovery from a lost majority left behind, or of another cluster; take a whole backup again"
    )]
    OtherHistory {
        /// The entry.
        index: u64,
        /// Its term here.
        ours: u64,
        /// Its term there.
        theirs: u64,
    },
    /// The log still has entries that a snapshot has made obsolete.
    #[error(
        "this node is installing a snapshot, and its log is not that of the cluster yet; try again, or ask another node"
    )]
    Replaced,
    /// The node has no cluster yet.
    #[error("this node is in no cluster yet, and has no entries")]
    NoCluster,
    /// The disk failed.
    #[error("reading the log failed: {0}")]
    Store(#[from] StoreError),
    /// The reading thread ended.
    #[error("reading the log failed: {0}")]
    Ended(String),
}

/// An entry, encoded as a segment has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedEntry {
    /// Its index.
    pub index: u64,
    /// Its value in the log.
    pub value: Bytes,
}

impl LogSource {
    /// Makes the source of a group.
    pub fn new(parts: LogSourceParts) -> LogSource {
        LogSource(Arc::new(parts))
    }

    /// Returns the cluster whose log this is.
    pub fn cluster(&self) -> Result<Cluster, LogSourceError> {
        self.0.cell.get().ok_or(LogSourceError::NoCluster)
    }

    /// Returns which entries are to be read: from `from` to `to`, or to the last applied one.
    /// `before` is the leader of the entry before `from`, as the asker knows it.
    pub async fn range(
        &self,
        from: u64,
        to: Option<u64>,
        before: Option<CommittedLeaderId>,
    ) -> Result<Range<u64>, LogSourceError> {
        let applied = self.0.machine.applied().borrow().log_id;
        let range = self.present(from, to, applied.map_or(0, |applied| applied.index + 1))?;
        if let Some(applied) = applied {
            let ours = self.log_id_at(applied.index).await?;
            // What stands before an entry that is committed is committed, too.
            if ours != Some(applied) && from <= applied.index {
                return Err(LogSourceError::Replaced);
            }
        }
        if let (Some(index), Some(before)) = (from.checked_sub(1), before)
            && let Some(ours) = self.log_id_at(index).await?.filter(|ours| ours.leader_id != before)
        {
            return Err(LogSourceError::OtherHistory { index, ours: ours.leader_id.term, theirs: before.term });
        }
        Ok(range)
    }

    fn present(&self, from: u64, to: Option<u64>, end: u64) -> Result<Range<u64>, LogSourceError> {
        if from > end {
            return Err(LogSourceError::Beyond { from, applied: end.saturating_sub(1) });
        }
        let first = self.first();
        if from < first {
            return Err(LogSourceError::Purged { from, first });
        }
        let end = to.map_or(end, |to| end.min(to.saturating_add(1)));
        Ok(from..end.max(from))
    }

    /// Reads some of the entries of a range, from its start on, and at least one.
    pub async fn read(&self, range: Range<u64>) -> Result<Vec<EncodedEntry>, LogSourceError> {
        let (source, from, group) = (self.0.clone(), range.start, self.0.cell.group());
        let read = move || -> Result<Vec<EncodedEntry>, StoreError> {
            let entries = source.log.read_here(range)?;
            let encoded = entries.iter().map(|entry| {
                let value = Bytes::from(encode_value(group, entry));
                EncodedEntry { index: entry.log_id.index, value }
            });
            Ok(encoded.collect())
        };
        let read = tokio::task::spawn_blocking(read).await.map_err(|error| LogSourceError::Ended(error.to_string()))?;
        let entries = read?;
        if entries.is_empty() {
            return Err(LogSourceError::Purged { from, first: self.first() });
        }
        let bytes = entries.iter().map(|entry| entry.value.len()).sum();
        tokio::time::sleep(self.0.pace.book(bytes)).await;
        Ok(entries)
    }

    async fn log_id_at(&self, index: u64) -> Result<Option<LogId>, LogSourceError> {
        let source = self.0.clone();
        let read = tokio::task::spawn_blocking(move || source.log.log_id_at(index)).await;
        Ok(read.map_err(|error| LogSourceError::Ended(error.to_string()))??)
    }

    /// Returns the first entry that the log has, or would have.
    fn first(&self) -> u64 {
        let stats = self.0.log.stats();
        stats.first_index.or(stats.last_index.map(|last| last + 1)).unwrap_or(0)
    }
}
