//! One state database: commit, flush, read, pin. Never decides which generation is in force; `state.rs` does.
//!
//! - A commit is visible at once and durable only after a flush. Both families reach the disk at the same log position.
//! - Only [`Generation::flush`] flushes on purpose, and it names every family.
//! - A generation whose directory is doomed removes it when the last reader is gone.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rocksdb::{DB, FlushOptions, WriteBatch};

use super::StoreError;
use super::columns::{DATA, SYSTEM};
use super::files::remove_directory;
use super::open_files;
use super::options;
use super::pinned::{Pinned, family};
use super::record_files;
use super::rows::{Batch, Column, Read, Row, walk};
use super::snapshot::Checkpoint;
use super::space::free_bytes;
use crate::faults;

/// The family RocksDB insists on. We keep nothing in it.
const DEFAULT: &str = "default";

/// RocksDB's name for what a family holds in memory, in bytes.
const MEMTABLE_BYTES: &str = "rocksdb.cur-size-all-mem-tables";
/// Room that a flush leaves to the log, which a full disk would end.
const FLUSH_ROOM_BYTES: u64 = 256 << 10;

/// An open state database, of `state/` or of a checkpoint.
pub struct Generation {
    // Declared before `place`, so closed before its directory is removed.
    database: Arc<DB>,
    place: Place,
    /// Frees the place of the one generation that may be under construction.
    under_construction: Mutex<Option<Construction>>,
    /// Keeps a checkpoint's directory while it is read.
    _checkpoint: Option<Arc<Checkpoint>>,
}

/// Where a generation lives, and whether that is to be removed with it.
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

/// Holds `State`'s mark that a generation is being built.
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

    /// Opens the database at `path` so that nothing in it can change.
    pub(super) fn open_read_only(path: &Path, pin: Option<Arc<Checkpoint>>) -> Result<Generation, StoreError> {
        let database = open_files::patiently(|| {
            record_files::check(path)?;
            DB::open_cf_descriptors_read_only(&options::state(), path, options::state_families(), false)
                .map_err(StoreError::rocks("open a checkpoint", path))
        })?;
        Ok(Generation::new(database, path, pin))
    }

    fn new(database: DB, path: &Path, checkpoint: Option<Arc<Checkpoint>>) -> Generation {
        Generation {
            database: Arc::new(database),
            place: Place { path: path.to_owned(), doomed: AtomicBool::new(false) },
            under_construction: Mutex::new(None),
            _checkpoint: checkpoint,
        }
    }

    /// Makes the batch visible, all of it or nothing. Durable only after a flush.
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

    /// Makes everything committed so far durable. The only place that flushes, and it names all families.
    pub fn flush(&self) -> Result<(), StoreError> {
        let families = [DEFAULT, DATA, SYSTEM].map(|name| family(&self.database, name));
        let mut wait = FlushOptions::default();
        wait.set_wait(true);
        faults::io("state-before-flush").map_err(StoreError::io("flush", self.path()))?;
        self.check_room()?;
        self.database.flush_cfs_opt(&families, &wait).map_err(StoreError::rocks("flush", self.path()))?;
        faults::io("state-after-flush").map_err(StoreError::io("flush", self.path()))
    }

    /// Whether RocksDB will soon flush by itself, without a look at what it needs for that.
    pub fn is_nearly_full(&self) -> bool {
        [DATA, SYSTEM].iter().any(|family| options::is_nearly_full(&self.database, family))
    }

    /// Whether a flush would find descriptors, and fit on the disk. One that does not leaves RocksDB refusing every write, until there is more room than a
    /// small disk ever has; so it is not begun.
    pub(super) fn check_room(&self) -> Result<(), StoreError> {
        let memory = |name| {
            let bytes = self.database.property_int_value_cf(family(&self.database, name), MEMTABLE_BYTES);
            bytes.ok().flatten().unwrap_or(0)
        };
        let needed = [DEFAULT, DATA, SYSTEM].map(memory).iter().sum::<u64>() + FLUSH_ROOM_BYTES;
        open_files::check_some_are_left(self.path())?;
        let free = free_bytes(self.path())?;
        if free >= needed {
            return Ok(());
        }
        let text = format!("No space left on device: {free} bytes are free, a flush of the state may take {needed}");
        Err(StoreError::io("flush", self.path())(io::Error::new(io::ErrorKind::StorageFull, text)))
    }

    /// The state as it is now, for as long as the view lives.
    pub fn view(self: &Arc<Self>) -> View {
        View { pinned: Pinned::new(self.database.clone()), generation: self.clone() }
    }

    /// About the bytes of live rows, in memory and on disk.
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

    /// The directory goes when the last reader drops.
    pub(super) fn doom(&self) {
        self.place.doomed.store(true, Ordering::Release);
    }

    /// Marks a generation that goes away again unless it is [`established`](Self::establish).
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

/// A generation as it was at one moment. Later commits do not show; the generation's directory stays while the view lives.
pub struct View {
    // Declared before `generation`, so that the database is closed before its directory may go.
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
