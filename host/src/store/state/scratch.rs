//! Scratch states: writable states beside the one in force, on which something is tried out. They
//! never come into force, no matter what ends the process. Also makes generations that may: copies
//! of a checkpoint.
//!
//! - The name of a scratch state is no number, so nothing takes it for a generation.
//! - It shares table files with the checkpoint that it is a copy of. Table files never change.
//! - It is removed when its last reader is dropped, or at the next open.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::State;
use crate::store::checkpoint::Checkpoint;
use crate::store::files::{names, remove_directory};
use crate::store::generation::Generation;
use crate::store::{StoreError, files};

/// Suffix of the directory of a scratch state.
const SUFFIX: &str = ".scratch";
/// Suffix of RocksDB's table files.
const TABLE_SUFFIX: &str = ".sst";

impl State {
    /// Makes a writable copy of a checkpoint. It costs the disk only what is written to it.
    pub fn scratch_of(&self, checkpoint: &Checkpoint) -> Result<Generation, StoreError> {
        self.make_scratch(false, |path| copy(&checkpoint.path, path))
    }

    /// Makes a writable copy of a checkpoint that takes many entries. It is compacted, which costs
    /// the disk as much as the tables of the checkpoint that it replaces.
    pub fn history_of(&self, checkpoint: &Checkpoint) -> Result<Generation, StoreError> {
        self.make_scratch(true, |path| copy(&checkpoint.path, path))
    }

    /// Makes a generation that holds what a checkpoint holds, for [`State::install`]. It costs the
    /// disk only what is written to it. It is removed if it is dropped without an install.
    ///
    /// Another generation may be built meanwhile: this one waits for nobody.
    pub fn generation_of(&self, checkpoint: &Checkpoint) -> Result<Generation, StoreError> {
        let number = self.0.newest.fetch_add(1, Ordering::Relaxed) + 1;
        let path = self.0.root.join(number.to_string());
        let made = copy(&checkpoint.path, &path).and_then(|()| sync(&path)).and_then(|()| Generation::open(&path));
        match made {
            Ok(generation) => {
                generation.doom();
                Ok(generation)
            }
            Err(error) => {
                drop(remove_directory(&path));
                Err(error)
            }
        }
    }

    /// Makes an empty scratch state.
    pub fn scratch(&self) -> Result<Generation, StoreError> {
        self.make_scratch(false, files::create_directory)
    }

    /// Makes an empty state that takes many entries.
    pub fn history(&self) -> Result<Generation, StoreError> {
        self.make_scratch(true, files::create_directory)
    }

    fn make_scratch(
        &self,
        is_compacted: bool,
        fill: impl FnOnce(&Path) -> Result<(), StoreError>,
    ) -> Result<Generation, StoreError> {
        let path = self.next_scratch();
        let made = fill(&path).and_then(|()| Generation::open_scratch(&path, is_compacted));
        if made.is_err() {
            // The caller gets the first error. A leftover is removed at the next open.
            drop(remove_directory(&path));
        }
        made
    }

    /// Returns the directory for another scratch state. Scratch states and generations take their
    /// numbers from one sequence.
    fn next_scratch(&self) -> PathBuf {
        let number = self.0.newest.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.root.join(format!("{number}{SUFFIX}"))
    }
}

/// Removes the scratch states that a crash left in `root`.
pub(super) fn remove_left_over(root: &Path) -> Result<(), StoreError> {
    for name in names(root)?.iter().filter(|name| name.ends_with(SUFFIX)) {
        remove_directory(&root.join(name))?;
    }
    Ok(())
}

/// Makes the files of a directory durable. Files that are linked already are.
fn sync(path: &Path) -> Result<(), StoreError> {
    for name in names(path)? {
        let file = path.join(&name);
        let synced = fs::File::open(&file).and_then(|open| open.sync_all());
        synced.map_err(StoreError::io("sync", &file))?;
    }
    files::sync_directory(path)
}

/// Copies the directory of a database that nobody writes to. Table files become hard links where
/// the file system can link them.
fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::create_dir(to).map_err(StoreError::io("create directory", to))?;
    for name in names(from)? {
        let (source, target) = (from.join(&name), to.join(&name));
        let is_linked = name.ends_with(TABLE_SUFFIX) && fs::hard_link(&source, &target).is_ok();
        if !is_linked {
            fs::copy(&source, &target).map_err(StoreError::io("copy to", &target))?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::sync::Arc;

    use super::*;
    use crate::store::{Batch, Checkpoints, Column, DataDir, Read};

    struct Disk {
        state: State,
        checkpoint: Arc<Checkpoint>,
        directory: DataDir,
        _root: tempfile::TempDir,
    }

    fn put(generation: &Generation, key: &str, value: &[u8]) {
        let mut batch = Batch::new();
        batch.put(Column::Data, key.as_bytes(), value);
        generation.commit(&batch).unwrap();
    }

    fn get(generation: &Generation, key: &str) -> Option<Vec<u8>> {
        generation.get(Column::Data, key.as_bytes()).unwrap()
    }

    fn disk() -> Disk {
        let root = tempfile::tempdir().unwrap();
        let directory = DataDir::open(root.path()).unwrap();
        let state = State::open(&directory, 0).unwrap();
        put(&state.current(), "a", b"1");
        let checkpoints = Checkpoints::open(&directory, 0).unwrap();
        let checkpoint = checkpoints.create(&state.current(), &|_| Ok(Some((7, 1)))).unwrap().unwrap();
        Disk { state, checkpoint, directory, _root: root }
    }

    fn places(disk: &Disk) -> Vec<String> {
        names(&disk.directory.group(0).state()).unwrap()
    }

    #[test]
    fn a_scratch_state_is_a_copy_that_changes_alone() {
        let disk = disk();
        let (one, other) =
            (disk.state.scratch_of(&disk.checkpoint).unwrap(), disk.state.scratch_of(&disk.checkpoint).unwrap());
        put(&one, "a", b"2");
        put(&one, "b", &vec![7; 1 << 20]);
        one.flush().unwrap();
        put(&disk.state.current(), "a", b"3");
        assert_eq!(get(&one, "a").as_deref(), Some(&b"2"[..]));
        for untouched in [&other, &disk.checkpoint.open().unwrap()] {
            assert_eq!((get(untouched, "a").as_deref(), get(untouched, "b")), (Some(&b"1"[..]), None));
        }
        let table = names(&disk.checkpoint.path).unwrap().into_iter().find(|name| name.ends_with(TABLE_SUFFIX));
        let table = fs::metadata(disk.checkpoint.path.join(table.unwrap())).unwrap();
        assert!(table.nlink() >= 3, "both share the checkpoint's tables, which has {} links", table.nlink());
        assert_eq!(places(&disk), ["1", "2.scratch", "3.scratch", "CURRENT"]);
        drop((one, other));
        assert_eq!(places(&disk), ["1", "CURRENT"]);
    }

    #[test]
    fn it_is_nearly_full_by_its_own_memtable() {
        let disk = disk();
        let history = disk.state.history_of(&disk.checkpoint).unwrap();
        for written in [&history, &disk.state.current()] {
            put(written, "b", &vec![7; 13 << 18]);
        }
        assert!(history.is_nearly_full() && !disk.state.current().is_nearly_full());
        history.flush().unwrap();
        assert!(!history.is_nearly_full());
    }

    #[test]
    fn it_is_nearly_full_by_both_families_together() {
        let disk = disk();
        let history = disk.state.history().unwrap();
        for (column, is_nearly_full) in [(Column::Data, false), (Column::System, true)] {
            let mut batch = Batch::new();
            batch.put(column, b"b", &vec![7; 7 << 18]);
            history.commit(&batch).unwrap();
            assert_eq!(history.is_nearly_full(), is_nearly_full, "{column:?}");
        }
    }

    #[test]
    fn it_stands_beside_a_state_that_is_built_and_never_comes_into_force() {
        let disk = disk();
        let (built, empty) = (disk.state.create().unwrap(), disk.state.scratch().unwrap());
        assert_eq!(get(&empty, "a"), None);
        assert_eq!(places(&disk), ["1", "2", "3.scratch", "CURRENT"]);
        disk.state.current().flush().unwrap();
        drop((built, empty));
        let Disk { directory, state, checkpoint, _root } = disk;
        drop(state);
        let root = directory.group(0).state();
        // A killed process leaves such a directory.
        copy(&checkpoint.path, &root.join("9.scratch")).unwrap();
        let state = State::open(&directory, 0).unwrap();
        assert_eq!(names(&root).unwrap(), ["1", "CURRENT"]);
        assert_eq!(get(&state.current(), "a").as_deref(), Some(&b"1"[..]));
    }

    #[test]
    fn a_generation_of_a_checkpoint_comes_into_force() {
        let disk = disk();
        let made = Arc::new(disk.state.generation_of(&disk.checkpoint).unwrap());
        // It stands beside one that is received.
        let built = disk.state.create().unwrap();
        put(&made, "b", b"2");
        disk.state.install(made, 7).unwrap();
        drop(built);
        assert_eq!(places(&disk), ["2", "CURRENT"]);
        let Disk { directory, state, checkpoint, _root } = disk;
        drop(state);
        let state = State::open(&directory, 0).unwrap();
        let current = state.current();
        let rows = (get(&current, "a"), get(&current, "b"), state.installed_from());
        assert_eq!(rows, (Some(b"1".to_vec()), Some(b"2".to_vec()), Some(7)));
        drop(current);
        assert_eq!(get(&checkpoint.open().unwrap(), "b"), None);
        drop(state.generation_of(&checkpoint).unwrap());
        assert_eq!(names(&directory.group(0).state()).unwrap(), ["2", "CURRENT"]);
    }

    #[test]
    fn a_copy_that_cannot_be_made_leaves_nothing_behind() {
        let disk = disk();
        let gone = Checkpoint { index: 9, term: 1, path: disk.checkpoint.path.join("gone") };
        assert!(disk.state.scratch_of(&gone).is_err());
        assert_eq!(places(&disk), ["1", "CURRENT"]);
    }
}
