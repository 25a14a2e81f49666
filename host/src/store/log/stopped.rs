//! The log of a stopped node, to be read. Never writes: the database is opened read-only, and
//! nothing beside it is touched. A torn tail stays where it is, and is not shown.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use rocksdb::DB;

use super::super::open_files::patiently;
use super::super::pinned::Pinned;
use super::super::{DataDir, StoreError, options, record_files};
use super::check::{self, CHECKED_BYTES, Found};
use super::reader::read_disk;
use crate::types::{Entry, GroupId, Identity};

/// The log of one group in the directory of a stopped node. The caller holds the directory open.
pub struct StoppedLog {
    database: Arc<DB>,
    path: PathBuf,
    group: GroupId,
    found: Found,
}

impl StoppedLog {
    /// Opens the log read-only, and checks it as a start does.
    pub fn open(directory: &DataDir, group: GroupId) -> Result<StoppedLog, StoreError> {
        let path = directory.raft();
        let database = patiently(|| {
            record_files::check(&path)?;
            DB::open_cf_descriptors_read_only(&options::raft(), &path, options::raft_families(), false)
                .map_err(StoreError::rocks("open the log", &path))
        })?;
        let found = check::check(&database, &path, group, CHECKED_BYTES)?;
        Ok(StoppedLog { database: Arc::new(database), path, group, found })
    }

    /// Returns the node that the log is of; `None` if it was never started.
    pub fn identity(&self) -> Option<&Identity> {
        self.found.identity.as_ref()
    }

    /// Returns the indexes of the entries; `None` if there are none.
    pub fn range(&self) -> Option<RangeInclusive<u64>> {
        let (first, last) = (self.found.first?, self.found.last()?);
        Some(first..=last.index)
    }

    /// Returns the last entry that is known to be committed. More entries may be.
    pub fn committed(&self) -> Option<u64> {
        self.found.committed.map(|log_id| log_id.index)
    }

    /// Reads entries from `from` on until they exceed `bytes_max`, but at least one. Returns none
    /// behind the end.
    pub fn read(&self, from: u64, bytes_max: usize) -> Result<Vec<Entry>, StoreError> {
        match self.range() {
            Some(range) if from < *range.start() => {
                let (path, first) = (self.path.display(), range.start());
                Err(StoreError::Misuse(format!("reading log entry {from} of {path}, which begins at entry {first}")))
            }
            Some(range) if from <= *range.end() => {
                let pinned = Pinned::new(self.database.clone());
                patiently(|| read_disk(&pinned, self.group, from..range.end() + 1, bytes_max))
            }
            Some(_) | None => Ok(Vec::new()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use openraft::EntryPayload;
    use openraft::storage::{IOFlushed, RaftLogStorage};

    use super::super::LogDisk;
    use super::*;
    use crate::types::{CommittedLeaderId, EntryData, Fatal, GROUP, LogId};

    fn entry(index: u64) -> Entry {
        let log_id = LogId::new(CommittedLeaderId { term: 3, node_id: 1 }, index);
        Entry { log_id, payload: EntryPayload::Normal(EntryData(vec![7; 100].into())) }
    }

    #[tokio::test]
    async fn a_log_is_read_as_its_node_left_it() {
        let place = tempfile::tempdir().unwrap();
        {
            let directory = DataDir::open(place.path()).unwrap();
            let disk = LogDisk::open(&directory, Fatal::default()).unwrap();
            let mut log = disk.log(GROUP).unwrap();
            log.append((0..5).map(entry), IOFlushed::noop()).await.unwrap();
            log.barrier().await.unwrap();
            log.purge(entry(1).log_id).await.unwrap();
            log.barrier().await.unwrap();
            disk.close();
        }
        let directory = DataDir::look(place.path()).unwrap();
        let log = StoppedLog::open(&directory, GROUP).unwrap();
        assert_eq!(log.range(), Some(2..=4));
        let indexes = |from: u64, bytes_max: usize| -> Vec<u64> {
            log.read(from, bytes_max).unwrap().iter().map(|entry| entry.log_id.index).collect()
        };
        assert_eq!((indexes(2, usize::MAX), indexes(3, 1), indexes(5, 1)), (vec![2, 3, 4], vec![3], vec![]));
        assert!(log.read(1, 1).unwrap_err().to_string().contains("begins at entry 2"));
    }
}
