//! The disk of the logs: `raft/`, `SYNCED` and `SERVED`, opened once for all groups, and the thread
//! that writes them. Gives out the log of each group, and keeps the process's identity. Never reads
//! an entry.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use rocksdb::DB;

use super::super::{DataDir, GroupDir, StoreError};
use super::check::Found;
use super::opening::{self, Opened};
use super::queue::{Op, Queue, Reply};
use super::served::{Served, ServedFile};
use super::synced::{GROUPS_MAX, Synced};
use super::writer::{Figures, Rocks, Sink, Writer};
use super::{Log, Shared};
use crate::types::{Fatal, GROUP, GroupId, Identity};

/// The disk of the logs of all groups. Clones share it, and so does every log. Dropping the last of
/// them ends the writer thread.
#[derive(Clone)]
pub struct LogDisk(Arc<Disk>);

/// Figures of the disk of the logs, since it was opened. Tests see by them that groups share
/// fsyncs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogDiskStats {
    /// Batches that were written, each with one fsync for all groups.
    pub fsyncs: u64,
    /// Operations in these batches: appends, truncations, purges, votes and identities.
    pub operations: u64,
    /// Entries in these batches.
    pub entries: u64,
}

struct Disk {
    root: PathBuf,
    raft: PathBuf,
    database: Arc<DB>,
    queue: Arc<Queue>,
    synced: Arc<Synced>,
    served: Arc<ServedFile>,
    figures: Arc<Figures>,
    fatal: Fatal,
    identity: Mutex<Option<Identity>>,
    /// What was found of logs that nobody has opened yet. Locked while a log is opened, so that one
    /// is opened at a time.
    found: Mutex<BTreeMap<GroupId, Found>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl LogDisk {
    /// Opens the disk and checks the logs of all groups that were ever here. Cuts a torn tail and
    /// refuses damage (`log/opening.rs`).
    ///
    /// Each log must have no gaps and no record that fails its checksum, and must hold at least
    /// what the last run had synced. Starts the writer thread. `fatal` is raised when a write or a
    /// read fails, of whichever group.
    pub fn open(directory: &DataDir, fatal: Fatal) -> Result<LogDisk, StoreError> {
        let opened = opening::open(directory)?;
        let sink = Rocks::new(opened.database.clone(), directory.raft());
        LogDisk::with_sink(directory, fatal, opened, sink)
    }

    pub(super) fn with_sink(
        directory: &DataDir,
        fatal: Fatal,
        opened: Opened,
        sink: impl Sink,
    ) -> Result<LogDisk, StoreError> {
        let Opened { database, found, synced } = opened;
        let (queue, synced, figures) = (Arc::<Queue>::default(), Arc::new(synced), Arc::<Figures>::default());
        let writer = Writer {
            database: database.clone(),
            queue: queue.clone(),
            sink,
            synced: synced.clone(),
            fatal: fatal.clone(),
            figures: figures.clone(),
            disk: found.iter().map(|(group, found)| (*group, found.ends())).collect(),
        };
        let served = Arc::new(ServedFile::open(&directory.root().join("SERVED"))?);
        let thread = std::thread::Builder::new()
            .name("log-writer".into())
            .spawn(move || writer.run())
            .map_err(StoreError::io("start the log writer of", directory.root()))?;
        Ok(LogDisk(Arc::new(Disk {
            root: directory.root().to_owned(),
            raft: directory.raft(),
            database,
            queue,
            synced,
            served,
            figures,
            fatal,
            identity: Mutex::new(found.get(&GROUP).and_then(|found| found.identity.clone())),
            found: Mutex::new(found),
            writer: Mutex::new(Some(thread)),
        })))
    }

    /// Opens the log of a group, which is empty if the group was never here. Blocks for an fsync
    /// then.
    ///
    /// Fails while the group's log is open: before it is opened again, it must have been closed.
    pub fn log(&self, group: GroupId) -> Result<Log, StoreError> {
        let disk = &*self.0;
        let mut unopened = disk.found.lock();
        disk.queue.check_may_open(group)?;
        if group >= GROUPS_MAX {
            return Err(StoreError::Misuse(format!("group {group}: a data directory holds groups below {GROUPS_MAX}")));
        }
        let mut found = match unopened.remove(&group) {
            Some(found) => found,
            None => {
                let directory = GroupDir::new(&disk.root, group);
                opening::open_group(&disk.database, &disk.raft, &disk.synced, &directory, group)
                    .map_err(|error| opening::refusal(&disk.root, error))?
            }
        };
        let served = Served::open(disk.served.clone(), group, found.last())?;
        // Whatever was applied had been committed.
        found.committed = found.committed.max(served.log_id());
        let shared = Shared::new(group, disk.database.clone(), disk.queue.clone(), disk.fatal.clone(), served, &found);
        let shared = Arc::new(shared);
        disk.queue.open_log(&shared)?;
        Ok(Log::new(shared, self.clone()))
    }

    /// Returns this node's identity; `None` before the first start recorded it.
    pub fn identity(&self) -> Option<Identity> {
        self.0.identity.lock().clone()
    }

    /// Records this node's identity. Durable on return. Blocks for one fsync.
    pub fn save_identity(&self, identity: &Identity) -> Result<(), StoreError> {
        let (reply, answer) = std::sync::mpsc::channel();
        self.0.queue.push_of_process(Op::Identity(identity.clone(), Reply::Blocking(reply)));
        answer.recv().unwrap_or(Err(StoreError::Closed))?;
        *self.0.identity.lock() = Some(identity.clone());
        Ok(())
    }

    /// Returns how long the current batch has been written, of whichever groups: all wait for it.
    ///
    /// Zero between batches.
    pub fn writing_for(&self) -> Duration {
        self.0.figures.writing_for()
    }

    /// Returns the figures.
    pub fn stats(&self) -> LogDiskStats {
        let Figures { fsyncs, operations, entries, .. } = &*self.0.figures;
        let [fsyncs, operations, entries] = [fsyncs, operations, entries].map(|count| count.load(Ordering::Relaxed));
        LogDiskStats { fsyncs, operations, entries }
    }

    /// Closes all logs: writes what is queued, stops the writer thread and refuses everything
    /// after. A second call does nothing.
    pub fn close(&self) {
        self.0.close();
    }
}

impl Disk {
    fn close(&self) {
        self.queue.close();
        if let Some(thread) = self.writer.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the log writer panicked");
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.close();
    }
}
