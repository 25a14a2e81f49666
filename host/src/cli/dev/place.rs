//! The directory of `lockstep dev`. Only one run uses it; it is locked while it is used, and
//! removed at the end. The directory of a run that was killed stays until a later run finds that it
//! is unused.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::cli::report::print_notice;
use crate::store::Lock;

const PREFIX: &str = "lockstep-dev-";
/// Name of the lock file. The `lockstep dev` that made the directory holds it locked.
const LOCK: &str = "lock";

/// A directory that belongs to this process alone. It is removed when dropped.
pub(crate) struct Directory {
    path: PathBuf,
    _lock: Lock,
}

impl Directory {
    /// Creates one in the system's directory for temporary files.
    pub(crate) fn create() -> anyhow::Result<Directory> {
        Directory::create_in(&std::env::temp_dir())
    }

    fn create_in(place: &Path) -> anyhow::Result<Directory> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).context("the system gives no random bytes")?;
        let path = place.join(format!("{PREFIX}{}", crate::types::hex(&random)));
        let created = DirBuilder::new().mode(0o700).create(&path);
        created.with_context(|| format!("cannot make the directory {}", path.display()))?;
        let lock = lock(&path).with_context(|| format!("cannot lock the directory {}", path.display()))?;
        Ok(Directory { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the directories that killed runs left beside this one. It returns each with its
    /// bytes. It does not remove a directory that is in use, that has another owner, or that has no
    /// lock file.
    pub(crate) fn remove_left_behind(&self) -> Vec<(PathBuf, u64)> {
        let beside = self.path.parent().and_then(|place| std::fs::read_dir(place).ok());
        let candidates = beside.into_iter().flatten().flatten().map(|entry| entry.path());
        candidates
            .filter(|path| self.is_sibling(path))
            .filter_map(|path| remove(&path).map(|bytes| (path, bytes)))
            .collect()
    }

    fn is_sibling(&self, path: &Path) -> bool {
        let named = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        let owner = |path: &Path| path.symlink_metadata().ok().filter(|found| found.is_dir()).map(|found| found.uid());
        named && path != self.path && owner(path).is_some() && owner(path) == owner(&self.path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            print_notice(format_args!("{} could not be removed: {error}", self.path.display()));
        }
    }
}

/// Creates the lock file. It is locked before it gets its name, so that no other process finds it
/// unlocked.
fn lock(directory: &Path) -> anyhow::Result<Lock> {
    let unnamed = directory.join(".lock");
    let lock = Lock::take(File::create(&unnamed)?)?;
    std::fs::rename(unnamed, directory.join(LOCK))?;
    Ok(lock)
}

/// Removes an unused directory and returns its bytes. `None` when it stays.
fn remove(directory: &Path) -> Option<u64> {
    let _locks = take_over(directory)?;
    let bytes = bytes(directory);
    match std::fs::remove_dir_all(directory) {
        Ok(()) => Some(bytes),
        Err(error) => {
            print_notice(format_args!(
                "{}, which a killed run left, could not be removed: {error}",
                directory.display()
            ));
            None
        }
    }
}

/// Takes the locks of a run and of its nodes, which may outlive the run for a moment. `None` when a
/// lock is held or cannot be taken.
fn take_over(directory: &Path) -> Option<Vec<Lock>> {
    let mut locks = vec![directory.join(LOCK)];
    let inside = std::fs::read_dir(directory).ok()?.flatten();
    locks.extend(inside.map(|entry| entry.path().join("LOCK")).filter(|lock| lock.is_file()));
    locks.iter().map(|lock| Lock::take(File::open(lock).ok()?).ok()).collect()
}

/// Returns the bytes that the files in a directory take on the disk. A file that cannot be read
/// counts as nothing.
fn bytes(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => bytes(&entry.path()),
            Ok(found) => found.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn directory_is_removed_with_its_contents() {
        let directory = Directory::create().unwrap();
        let path = directory.path().to_owned();
        std::fs::write(path.join("file"), "x").unwrap();
        drop(directory);
        assert!(!path.exists());
    }

    #[test]
    fn only_what_nobody_uses_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let mine = Directory::create_in(place.path()).unwrap();
        let other = place.path().join("lockstep-dev-other");
        std::fs::create_dir_all(other.join("nodeA")).unwrap();
        std::fs::write(other.join("nodeA/data"), "x".repeat(10_000)).unwrap();
        std::fs::create_dir(place.path().join("something-else")).unwrap();
        assert!(mine.remove_left_behind().is_empty(), "without a lock file it is not surely ours");

        let run = File::create(other.join(LOCK)).unwrap();
        let node = File::create(other.join("nodeA/LOCK")).unwrap();
        run.lock().unwrap();
        assert!(mine.remove_left_behind().is_empty(), "it runs");
        run.unlock().unwrap();
        node.lock().unwrap();
        assert!(mine.remove_left_behind().is_empty(), "a node of it still runs");
        node.unlock().unwrap();

        let running = Directory::create_in(place.path()).unwrap();
        let removed = mine.remove_left_behind();
        assert_eq!(removed.len(), 1);
        assert!(removed[0].0 == other && removed[0].1 >= 10_000, "{removed:?}");
        assert!(mine.path().exists() && running.path().exists() && place.path().join("something-else").exists());
    }
}
