//! Decides how many files the store may have open: its share of the process's descriptors. Also
//! checks whether descriptors are left now. Opens no database.

use std::fs::File;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::StoreError;
use crate::logs::Sparse;

/// Most table files that a database may have open; RocksDB's default is no limit. Enough for 32 GiB
/// at the usual file size.
const TABLES_MAX: u32 = 512;
/// Fewest table files that a database may have open. With fewer, a database of a few GiB opens a
/// file for every second read.
pub(super) const TABLES_MIN: u32 = 64;
/// Files of a database other than tables: its lock, manifest, text log, directories and write-ahead
/// logs.
const BESIDE_TABLES: u64 = 16;
/// Most databases that are open at a time: the log, the state, one that is being received or put in
/// force, and four more. These are checkpoints that are sent, backed up or inspected, with either
/// the three scratch states of a rehearsal or the two histories of a rollback's shadow. A machine
/// has no shadow while it rehearses.
const DATABASES_MAX: u64 = 7;

/// Files that a flush opens, with a compaction beside it: one or two for each family and output,
/// the manifest, and directories.
const A_FLUSH: usize = 16;

/// Limit on table files for the databases that are opened from now on.
static TABLES: AtomicU32 = AtomicU32::new(TABLES_MAX);

/// The store's share of the process's descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    tables: u32,
}

impl OpenFiles {
    /// Derives the store's share from `descriptors`, the number that it is given.
    ///
    /// The store takes no more than it can use. It cannot run with less than
    /// [`OpenFiles::descriptors`] returns.
    pub fn of(descriptors: u64) -> OpenFiles {
        let tables = (descriptors / DATABASES_MAX).saturating_sub(BESIDE_TABLES);
        OpenFiles { tables: u32::try_from(tables).unwrap_or(TABLES_MAX).clamp(TABLES_MIN, TABLES_MAX) }
    }

    /// Returns the number of files that may be open at a time.
    pub fn descriptors(self) -> u64 {
        DATABASES_MAX * (u64::from(self.tables) + BESIDE_TABLES)
    }

    /// Applies the limit to all databases that are opened from now on.
    pub fn limit(self) {
        TABLES.store(self.tables, Ordering::Relaxed);
    }
}

/// Returns the value for RocksDB's option `max_open_files`.
pub(super) fn tables_max() -> i32 {
    i32::try_from(TABLES.load(Ordering::Relaxed)).expect("a few hundred")
}

/// Returns the value for RocksDB's option `max_open_files` in a scratch state. It is the least that
/// a database works with, because there may be three of them.
pub(super) fn scratch_tables_max() -> i32 {
    i32::try_from(TABLES_MIN).expect("a few dozen")
}

/// Checks that a flush will find the descriptors it needs.
///
/// If a flush finds none, RocksDB accepts no more writes and never recovers. So the store does not
/// begin such a flush.
pub(super) fn check_some_are_left(path: &Path) -> Result<(), StoreError> {
    let mut opened = Vec::with_capacity(A_FLUSH);
    for _ in 0..A_FLUSH {
        opened.push(File::open(path).map_err(StoreError::io("open files in", path))?);
    }
    Ok(())
}

/// Time between two attempts to open a file when no descriptor is left.
const PAUSE: Duration = Duration::from_millis(100);

/// Limits the log lines about waiting for a descriptor.
static WAITS: LazyLock<Sparse> = LazyLock::new(Sparse::default);

/// Repeats `read`, which changes nothing, while no descriptor is left to open a file with.
///
/// The data on disk is whole, so the caller need not get an error.
pub(super) fn patiently<T>(mut read: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
    loop {
        match read() {
            Err(error) if error.lacks_descriptor() => wait(&error),
            read => return read,
        }
    }
}

/// Logs that the store waits for a descriptor, and sleeps for [`PAUSE`].
pub(super) fn wait(error: &StoreError) {
    if let Some(left_out) = WAITS.due() {
        tracing::warn!(%error, left_out, "no descriptor is left: the store waits until it can open a file");
    }
    std::thread::sleep(PAUSE);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn a_read_waits_for_a_descriptor() {
        let none_left = || StoreError::io("open", Path::new("x"))(std::io::Error::from(Errno::MFILE));
        let mut attempts = 0;
        let read = patiently(|| {
            attempts += 1;
            if attempts < 3 { Err(none_left()) } else { Ok(attempts) }
        });
        assert_eq!(read.unwrap(), 3);
        assert!(none_left().is_passing() && none_left().lacks_descriptor());
        let broken = || StoreError::io("open", Path::new("x"))(std::io::Error::from(Errno::IO));
        assert!(patiently(|| Err::<(), _>(broken())).is_err() && !broken().is_passing());
    }

    #[test]
    fn a_share_is_used_up_to_what_is_of_use() {
        for (descriptors, tables) in [(0, 64), (560, 64), (1_120, 144), (3_696, 512), (u64::MAX, 512)] {
            let files = OpenFiles::of(descriptors);
            assert_eq!(files.tables, tables, "{descriptors}");
            assert!(files.descriptors() <= descriptors.max(560), "{descriptors}");
        }
    }
}
