//! One state database: commits, flushes, reads and pinned views. Never decides which generation is
//! in force; `state.rs` does.
//!
//! - A commit is visible at once and durable only after a flush. Both families reach the disk at
//!   the same log position, whatever is committed while a flush runs.
//! - Only [`Generation::flush`] flushes on purpose, and it names every family. Threads beside the
//!   one that commits call it.
//! - A generation that is marked as doomed removes its directory when its last reader is dropped.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rocksdb::{DB, FlushOptions, WriteBatch};
use tokio::sync::watch;

use super::StoreError;
use super::checkpoint::Checkpoint;
use super::columns::{DATA, SYSTEM};
use super::files::remove_directory;
use super::open_files;
use super::options;
use super::pinned::{Pinned, family};
use super::record_files;
use super::rows::{Batch, Column, Read, Row, walk};
use super::space::free_bytes;
use crate::faults;

/// The family that RocksDB requires. The store keeps nothing in it.
const DEFAULT: &str = "default";

/// RocksDB's property for the bytes that a family holds in memory.
const MEMTABLE_BYTES: &str = "rocksdb.cur-size-all-mem-tables";
/// Room that a flush must leave free for the Raft log. A full disk would stop the log.
const FLUSH_ROOM_BYTES: u64 = 256 << 10;
/// Room from which on a flush may run beside commits. Until it has taken the memtables, at most one
/// memtable more and the writes of one command or migration are committed.
const AMPLE_ROOM_BYTES: u64 = 512 << 20;

/// An open state database, of `state/` or of a checkpoint.
pub struct Generation {
    // Declared before `place`, so that the database is closed before its directory is removed.
    database: Arc<DB>,
    place: Place,
    /// Size of one of its memtables.
    memtable_bytes: usize,
    /// The mark that this generation is under construction. At most one generation may be.
    under_construction: Mutex<Option<Construction>>,
    /// Keeps a checkpoint's directory on disk while this generation reads it.
    _checkpoint: Option<Arc<Checkpoint>>,
    /// Declared last: it is dropped when the database is closed.
    open: watch::Sender<()>,
}

/// The directory of a generation, and whether it is removed together with the generation.
struct Place {
    path: PathBuf,
    doomed: AtomicBool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.doomed.load(Ordering::Acquire)
            && let Err(error) = remove_directory(&self.path)
        {
            tracing::warn!(%error, "a replaced state stays on disk until the next start");
        }
    }
}

/// Holds the mark in `State` that a generation is being built.
pub(super) struct Construction(pub(super) Arc<AtomicBool>);

impl Drop for Construction {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Generation({})", self.place.path.display())
    }
}

impl Generation {
    /// Opens or creates the database at `path` for reading and writing.
    pub(super) fn open(path: &Path) -> Result<Generation, StoreError> {
        let database = open_files::patiently(|| {
            record_files::check(path)?;
            DB::open_cf_descriptors(&options::state(), path, options::state_families())
                .map_err(StoreError::rocks("open the state", path))
        })?;
        Ok(Generation::new(database, path, None))
    }

    /// Opens the database at `path` read-only.
    pub(super) fn open_read_only(path: &Path, pin: Option<Arc<Checkpoint>>) -> Result<Generation, StoreError> {
        let database = open_files::patiently(|| {
            record_files::check(path)?;
            DB::open_cf_descriptors_read_only(&options::state(), path, options::state_families(), false)
                .map_err(StoreError::rocks("open a checkpoint", path))
        })?;
        Ok(Generation::new(database, path, pin))
    }

    /// Opens or creates the database of a scratch state at `path`. Its directory is removed when
    /// the last reader is dropped.
    pub(super) fn open_scratch(path: &Path, is_compacted: bool) -> Result<Generation, StoreError> {
        let database = open_files::patiently(|| {
            record_files::check(path)?;
            DB::open_cf_descriptors(&options::scratch(), path, options::scratch_families(is_compacted))
                .map_err(StoreError::rocks("open a scratch state", path))
        })?;
        let memtable_bytes = options::SCRATCH_MEMTABLE_BYTES;
        let generation = Generation { memtable_bytes, ..Generation::new(database, path, None) };
        generation.doom();
        Ok(generation)
    }

    fn new(database: DB, path: &Path, checkpoint: Option<Arc<Checkpoint>>) -> Generation {
        Generation {
            database: Arc::new(database),
            place: Place { path: path.to_owned(), doomed: AtomicBool::new(false) },
            memtable_bytes: options::STATE_MEMTABLE_BYTES,
            under_construction: Mutex::new(None),
            _checkpoint: checkpoint,
            open: watch::channel(()).0,
        }
    }

    /// Returns a future that completes once the database is closed: nobody has the generation or a
    /// view of it any more.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut open = self.open.subscribe();
        async move { while open.changed().await.is_ok() {} }
    }

    /// Makes the whole batch visible, or nothing of it. It is durable only after a flush.
    pub fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut writes = WriteBatch::with_capacity_bytes(batch.bytes() + 16 * batch.len());
        for (column, key, value) in batch.changes() {
            let family = family(&self.database, column.family());
            match value {
                Some(value) => writes.put_cf(family, key, value),
                None => writes.delete_cf(family, key),
            }
        }
        self.database.write_opt(writes, &options::unlogged()).map_err(StoreError::rocks("write", self.path()))
    }

    /// Makes everything durable that was committed before the call. Commits may continue meanwhile:
    /// all families switch to new memtables at one moment. Nothing else flushes on purpose. Names
    /// all families.
    pub fn flush(&self) -> Result<(), StoreError> {
        let families = [DEFAULT, DATA, SYSTEM].map(|name| family(&self.database, name));
        let mut wait = FlushOptions::default();
        wait.set_wait(true);
        faults::io("state-before-flush").map_err(StoreError::io("flush", self.path()))?;
        self.check_room()?;
        self.database.flush_cfs_opt(&families, &wait).map_err(StoreError::rocks("flush", self.path()))?;
        faults::io("state-after-flush").map_err(StoreError::io("flush", self.path()))
    }

    /// Returns whether RocksDB will soon flush by itself. RocksDB does not check first whether
    /// there is room and descriptors for that. What is being flushed does not count.
    pub fn is_nearly_full(&self) -> bool {
        options::is_nearly_full(&self.database, &[DATA, SYSTEM], self.memtable_bytes)
    }

    /// Flushes before RocksDB does so by itself.
    ///
    /// # Errors
    /// There is no room or no descriptor for it, or the disk failed.
    pub fn flush_if_nearly_full(&self) -> Result<(), StoreError> {
        if self.is_nearly_full() { self.flush() } else { Ok(()) }
    }

    /// Returns whether a flush would find room on the disk also if much more is committed before it
    /// has begun.
    pub fn has_ample_room(&self) -> bool {
        free_bytes(self.path()).is_ok_and(|free| free >= self.bytes_to_flush() + AMPLE_ROOM_BYTES)
    }

    /// Returns about how many bytes a flush may take.
    fn bytes_to_flush(&self) -> u64 {
        let memory = |name| {
            let bytes = self.database.property_int_value_cf(family(&self.database, name), MEMTABLE_BYTES);
            bytes.ok().flatten().unwrap_or(0)
        };
        [DEFAULT, DATA, SYSTEM].map(memory).iter().sum::<u64>() + FLUSH_ROOM_BYTES
    }

    /// Checks that a flush would find descriptors and room on the disk.
    ///
    /// If a flush fails for lack of room, RocksDB refuses every write until more room is free than
    /// a small disk ever has. So the store does not begin such a flush.
    pub(super) fn check_room(&self) -> Result<(), StoreError> {
        let needed = self.bytes_to_flush();
        open_files::check_some_are_left(self.path())?;
        let free = free_bytes(self.path())?;
        if free >= needed {
            return Ok(());
        }
        let text = format!("No space left on device: {free} bytes are free, a flush of the state may take {needed}");
        Err(StoreError::io("flush", self.path())(io::Error::new(io::ErrorKind::StorageFull, text)))
    }

    /// Returns the state as it is now. It stays so for as long as the view lives.
    pub fn view(self: &Arc<Self>) -> View {
        View { pinned: Pinned::new(self.database.clone()), generation: self.clone() }
    }

    /// Returns roughly the bytes of live rows, in memory and on disk.
    pub fn approximate_bytes(&self) -> u64 {
        let number = |column: Column, property: &str| {
            let value = self.database.property_int_value_cf(family(&self.database, column.family()), property);
            value.ok().flatten().unwrap_or(0)
        };
        [Column::Data, Column::System]
            .map(|column| number(column, "rocksdb.estimate-live-data-size") + number(column, MEMTABLE_BYTES))
            .iter()
            .sum()
    }

    pub(super) fn path(&self) -> &Path {
        &self.place.path
    }

    pub(super) fn database(&self) -> &DB {
        &self.database
    }

    /// Marks the directory for removal. It is removed when the last reader is dropped.
    pub(super) fn doom(&self) {
        self.place.doomed.store(true, Ordering::Release);
    }

    /// Marks a generation that removes its directory when dropped.
    ///
    /// It keeps the directory if it is [`established`](Self::establish) first.
    pub(super) fn under_construction(self, construction: Construction) -> Generation {
        self.doom();
        *self.under_construction.lock() = Some(construction);
        self
    }

    /// Ends the construction: the directory stays, and another generation may be built.
    pub(super) fn establish(&self) {
        self.place.doomed.store(false, Ordering::Release);
        self.under_construction.lock().take();
    }
}

impl Read for Generation {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        faults::io("state-read").map_err(StoreError::io("read", self.path()))?;
        let family = family(&self.database, column.family());
        open_files::patiently(|| self.database.get_cf(family, key).map_err(StoreError::rocks("read", self.path())))
    }

    fn scan(
        &self,
        column: Column,
        start: &[u8],
        end: Option<&[u8]>,
        reverse: bool,
        row: Row<'_>,
    ) -> Result<(), StoreError> {
        if end.is_some_and(|end| end <= start) {
            return Ok(());
        }
        let family = family(&self.database, column.family());
        walk(|bounds| self.database.raw_iterator_cf_opt(family, bounds), self.path(), (start, end), reverse, row)
    }
}

/// A generation as it was at one moment. Later commits do not show. The generation's directory
/// stays while the view lives.
pub struct View {
    // Declared before `generation`, so that the database is closed before its directory may be
    // removed.
    pinned: Pinned,
    generation: Arc<Generation>,
}

impl Read for View {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        faults::io("view-read").map_err(StoreError::io("read", self.generation.path()))?;
        let family = self.pinned.family(column.family());
        let (snapshot, path) = (self.pinned.snapshot(), self.generation.path());
        open_files::patiently(|| snapshot.get_cf(family, key).map_err(StoreError::rocks("read", path)))
    }

    fn scan(
        &self,
        column: Column,
        start: &[u8],
        end: Option<&[u8]>,
        reverse: bool,
        row: Row<'_>,
    ) -> Result<(), StoreError> {
        if end.is_some_and(|end| end <= start) {
            return Ok(());
        }
        let family = self.pinned.family(column.family());
        let snapshot = self.pinned.snapshot();
        walk(|bounds| snapshot.raw_iterator_cf_opt(family, bounds), self.generation.path(), (start, end), reverse, row)
    }
}
