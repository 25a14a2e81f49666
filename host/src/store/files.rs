//! Owns the primitives for files and directories. A file is replaced atomically: after a crash it
//! is either the old or the new one. Reads are whole; those of files that others may have written
//! are bounded. Directory entries survive a crash. Never interprets the contents.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::StoreError;

/// Suffix of files that are being written. A crash may leave one; nothing ever reads it.
pub(super) const TEMPORARY_SUFFIX: &str = ".tmp";

/// A file lock that one holder on this machine has for as long as this value lives.
///
/// Closing the file would not release it reliably. A process that is being started has a copy of
/// every open file until it runs its own program, and a lock lasts until the last copy is closed
/// (flock(2)). Unlocking releases it for all copies.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Takes the lock of an open file, which may be a directory. Does not wait.
    ///
    /// [`TryLockError::WouldBlock`] means that someone else holds the lock.
    pub fn take(file: File) -> Result<Lock, TryLockError> {
        file.try_lock()?;
        Ok(Lock(file))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "a lock stays until every copy of its file is closed");
        }
    }
}

/// Replaces `path` by `bytes`: writes beside it, fsyncs, renames, and fsyncs the directory.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY_SUFFIX);
    let temporary = Path::new(&name);
    let mut file = File::create(temporary).map_err(StoreError::io("create", temporary))?;
    file.write_all(bytes).map_err(StoreError::io("write", temporary))?;
    file.sync_all().map_err(StoreError::io("fsync", temporary))?;
    fs::rename(temporary, path).map_err(StoreError::io("rename to", path))?;
    sync_directory(path.parent().expect("a file in the data directory has a parent"))
}

/// Returns the contents of a regular file of at most `bytes_max` bytes.
///
/// `None` if it does not exist. Anything else of that name (links, pipes, devices) is an error. It
/// is neither followed nor waited for.
pub(super) fn read_regular(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let unusable = |what: String| StoreError::Unusable { path: path.to_owned(), what };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("look at", path)(error)),
    };
    if !metadata.is_file() {
        return Err(unusable("it is not a regular file".to_owned()));
    }
    if metadata.len() > bytes_max {
        return Err(unusable(format!("it has {} bytes, and nothing there has more than {bytes_max}", metadata.len())));
    }
    // If someone puts something else in its place meanwhile, this does not wait for it either.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(StoreError::io("open", path))?;
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    file.take(bytes_max).read_to_end(&mut bytes).map_err(StoreError::io("read", path))?;
    Ok(Some(bytes))
}

/// Returns the contents of a small file of this node; `None` if it does not exist.
pub(super) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("read", path)(error)),
    }
}

/// Renames a file or directory within its directory. Durable on return.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(StoreError::io("rename to", to))?;
    sync_directory(to.parent().expect("a file in the data directory has a parent"))
}

/// Removes a file. Durable on return. A missing file is no error.
pub(super) fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::io("remove", path)(error)),
        Ok(()) => sync_directory(path.parent().expect("a file in the data directory has a parent")),
    }
}

/// Opens a small file that is rewritten in place, and creates it if missing. Its name is not
/// durable yet.
pub(super) fn open_in_place(path: &Path) -> Result<File, StoreError> {
    File::options().create(true).truncate(false).read(true).write(true).open(path).map_err(StoreError::io("open", path))
}

/// Makes creations, renames and removals in `path` survive a power cut.
pub(super) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(StoreError::io("fsync directory", path))
}

/// Creates `path` and its parents. Each new name survives a power cut.
pub(super) fn create_directory(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_directory(parent)?;
    }
    match fs::create_dir(path) {
        // Another node's process made it just now.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made.map_err(StoreError::io("create directory", path))?,
    }
    sync_directory(parent.unwrap_or(Path::new(".")))
}

/// Removes a directory and its contents. A directory that is already gone is no error.
pub(super) fn remove_directory(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::io("remove directory", path)(error)),
        _ => Ok(()),
    }
}

/// Returns the names in a directory, sorted. Leaves out names that are not UTF-8; the store never
/// makes such names.
pub(super) fn names(path: &Path) -> Result<Vec<String>, StoreError> {
    let listing = fs::read_dir(path).map_err(StoreError::io("list", path))?;
    let mut names = Vec::new();
    for entry in listing {
        let entry = entry.map_err(StoreError::io("list", path))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_when_a_process_that_is_being_started_still_has_a_copy_of_the_file() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("LOCK");
        let lock = Lock::take(File::create(&path).unwrap()).unwrap();
        let copy = lock.0.try_clone().unwrap();
        let other = File::open(&path).unwrap();
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        drop(lock);
        drop(Lock::take(other).unwrap());
        drop(copy);
    }
}
