//! The data directory: its paths, its format number, its lock, the components stored by content,
//! their compiled code, and what else belongs to the whole process. What belongs to one group is in
//! `group_dir.rs`. Opens no database.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::files::{
    Lock, create_directory, names, read_if_there, read_regular, remove_directory, remove_file, rename, sync_directory,
    write_atomically,
};
use super::{GroupDir, StoreError};
use crate::faults;
use crate::types::{COMPONENT_BYTES_MAX, GroupId, hex};

/// The format that this version writes. Raised when an older version could misread what this one
/// writes.
const FORMAT: u32 = 1;

/// File suffix of components.
const COMPONENT_SUFFIX: &str = ".wasm";
/// File suffix of compiled code.
const CODE_SUFFIX: &str = ".code";
/// Most bytes of one file of compiled code. No real code comes near it.
const CODE_BYTES_MAX: u64 = (1 << 30) + 32;
/// Mode of `components/`. Stored code is run without a check, so no other user may write or read
/// there.
const COMPONENTS_MODE: u32 = 0o700;

/// An open data directory. Held exclusively until dropped.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    _lock: Lock,
}

impl DataDir {
    /// Opens or creates a data directory.
    ///
    /// Fails when another process has it open, or when its format is newer than this version's.
    pub fn open(root: &Path) -> Result<DataDir, StoreError> {
        create_directory(root)?;
        let lock = lock(&root.join("LOCK"))?;
        let directory = DataDir { root: root.to_owned(), _lock: lock };
        directory.check_format()?;
        directory.finish_replacing_log()?;
        for place in [directory.raft(), root.join("state"), root.join("snapshots"), directory.components()] {
            create_directory(&place)?;
        }
        directory.close_components();
        Ok(directory)
    }

    /// Opens the data directory of a stopped node to read it. Changes nothing in it, and keeps a
    /// node from starting on it meanwhile.
    ///
    /// Fails when it is no data directory, when a node runs on it, or when that node left a repair
    /// of its log unfinished.
    pub fn look(root: &Path) -> Result<DataDir, StoreError> {
        let unusable = |what: &str| StoreError::Unusable { path: root.to_owned(), what: what.to_owned() };
        if !root.join("LOCK").is_file() || !root.join("FORMAT").is_file() {
            return Err(unusable("it is no data directory of a node; give <raft_data_dir>/<raft_id>"));
        }
        let directory = DataDir { root: root.to_owned(), _lock: lock(&root.join("LOCK"))? };
        directory.check_format()?;
        if !directory.raft().is_dir() {
            return Err(unusable("its log is not in place; start the node once, which mends that, and stop it again"));
        }
        Ok(directory)
    }

    /// Restricts `components/` to this user. If it belongs to another user, on a shared volume, it
    /// is used as it is.
    fn close_components(&self) {
        let path = self.components();
        let mode = fs::metadata(&path).map(|metadata| metadata.permissions().mode() & 0o777);
        if mode.is_ok_and(|mode| mode == COMPONENTS_MODE) {
            return;
        }
        if let Err(error) = fs::set_permissions(&path, fs::Permissions::from_mode(COMPONENTS_MODE)) {
            tracing::warn!(%error, path = %path.display(), "others than this node's user may be able to change what it runs");
            return;
        }
        // Anyone who could write there may have left code.
        let remove = |code: &Path| fs::remove_file(code).map_err(StoreError::io("remove", code));
        let removed = names(&path).and_then(|names| {
            let mut codes = names.iter().filter(|name| name.ends_with(CODE_SUFFIX));
            codes.try_for_each(|name| remove(&path.join(name)))
        });
        if let Err(error) = removed {
            tracing::warn!(%error, "compiled code that others may have written stays");
        }
    }

    /// The data directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The database of log, vote and identity.
    pub fn raft(&self) -> PathBuf {
        self.root.join("raft")
    }

    /// The original of a log that was repaired. It stays until the next start that needs no repair.
    pub(super) fn damaged_log(&self) -> PathBuf {
        self.root.join("raft.damaged")
    }

    /// A repaired log that is whole and about to replace `raft/`.
    fn repaired_log(&self) -> PathBuf {
        self.root.join("raft.repaired")
    }

    /// Replaces `raft/` by the log at `copy`, which is on disk. Returns where the original is now.
    ///
    /// A crash in between leaves either `raft/` as it was, or `raft.repaired/` and no `raft/`. The
    /// next start finishes the latter.
    pub(super) fn replace_log(&self, copy: &Path) -> Result<PathBuf, StoreError> {
        let original = self.damaged_log();
        remove_directory(&original)?;
        rename(copy, &self.repaired_log())?;
        rename(&self.raft(), &original)?;
        rename(&self.repaired_log(), &self.raft())?;
        Ok(original)
    }

    fn finish_replacing_log(&self) -> Result<(), StoreError> {
        match (self.raft().exists(), self.repaired_log().exists()) {
            (false, true) => rename(&self.repaired_log(), &self.raft()),
            // The original is still in force. This start examines it again.
            (true, true) => remove_directory(&self.repaired_log()),
            (_, false) => Ok(()),
        }
    }

    /// What the directory holds of one group beside its log.
    pub fn group(&self, group: GroupId) -> GroupDir {
        GroupDir::new(&self.root, group)
    }

    /// Finds a file or directory that only a node with a log leaves behind.
    ///
    /// `None` in a new directory.
    pub(super) fn remains_of_state(&self) -> Result<Option<PathBuf>, StoreError> {
        for place in [self.root.join("state"), self.root.join("snapshots")] {
            for group in names(&place)? {
                let group = place.join(group);
                if group.is_dir() && !names(&group)?.is_empty() {
                    return Ok(Some(group));
                }
            }
        }
        let served = self.root.join("SERVED");
        Ok(fs::metadata(&served).is_ok_and(|metadata| metadata.len() > 0).then_some(served))
    }

    /// The encoded components, named by hash, and their compiled code.
    pub fn components(&self) -> PathBuf {
        self.root.join("components")
    }

    /// Stores a component under `hash`, which the caller computed. Durable on return.
    ///
    /// If the same bytes are there, the file is left as it is. Anything else of that name is
    /// replaced.
    pub fn save_component(&self, hash: &[u8; 32], bytes: &[u8]) -> Result<(), StoreError> {
        if self.load_component(hash).is_ok_and(|there| there.is_some_and(|there| there == bytes)) {
            return sync_directory(&self.components());
        }
        let path = self.component(hash);
        faults::io("component-before-write").map_err(StoreError::io("write", &path))?;
        write_atomically(&path, bytes)
    }

    /// Loads a stored component. The caller compares its BLAKE3 with `hash`.
    pub fn load_component(&self, hash: &[u8; 32]) -> Result<Option<Vec<u8>>, StoreError> {
        read_regular(&self.component(hash), COMPONENT_BYTES_MAX as u64)
    }

    /// Loads every stored component. The caller tells them apart by their BLAKE3.
    pub fn load_components(&self) -> Result<Vec<Vec<u8>>, StoreError> {
        let place = self.components();
        if !place.is_dir() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for name in names(&place)?.iter().filter(|name| name.ends_with(COMPONENT_SUFFIX)) {
            found.extend(read_regular(&place.join(name), COMPONENT_BYTES_MAX as u64)?);
        }
        Ok(found)
    }

    /// Stores compiled code, and removes code whose name begins with `replaces`.
    ///
    /// After a crash the new file is either whole or not there.
    pub fn save_code(&self, name: &str, replaces: &str, code: &[u8]) -> Result<(), StoreError> {
        let is_replaced = |old: &&String| old.starts_with(replaces) && old.ends_with(CODE_SUFFIX);
        for old in names(&self.components())?.iter().filter(is_replaced) {
            let path = self.components().join(old);
            fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        }
        write_atomically(&self.code(name), code)
    }

    /// Loads stored compiled code.
    pub fn load_code(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        read_regular(&self.code(name), CODE_BYTES_MAX)
    }

    /// Returns why this node must not serve, if another cluster has its place.
    pub fn disputed(&self) -> Result<Option<String>, StoreError> {
        Ok(read_if_there(&self.root.join("DISPUTED"))?.map(|text| String::from_utf8_lossy(&text).trim().to_owned()))
    }

    /// Records that dispute, or deletes the record. Durable on return.
    pub fn save_disputed(&self, why: Option<&str>) -> Result<(), StoreError> {
        let path = self.root.join("DISPUTED");
        match why {
            Some(why) => write_atomically(&path, format!("{why}\n").as_bytes()),
            None => remove_file(&path),
        }
    }

    fn component(&self, hash: &[u8; 32]) -> PathBuf {
        self.components().join(format!("{}{COMPONENT_SUFFIX}", hex(hash)))
    }

    fn code(&self, name: &str) -> PathBuf {
        self.components().join(format!("{name}{CODE_SUFFIX}"))
    }

    fn check_format(&self) -> Result<(), StoreError> {
        let path = self.root.join("FORMAT");
        let Some(bytes) = read_if_there(&path)? else {
            // FORMAT is written before anything else, so a directory that has data and no FORMAT
            // was tampered with.
            if self.raft().exists() {
                return Err(StoreError::damaged(&path, "raft/ is there and FORMAT is not"));
            }
            return write_atomically(&path, format!("{FORMAT}\n").as_bytes());
        };
        let found = String::from_utf8_lossy(&bytes).trim().to_owned();
        match found.parse::<u32>() {
            Ok(number) if (1..=FORMAT).contains(&number) => Ok(()),
            _ => Err(StoreError::Format { path, found, supported: FORMAT }),
        }
    }
}

fn lock(path: &Path) -> Result<Lock, StoreError> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(StoreError::io("open lock file", path))?;
    match Lock::take(file) {
        Ok(lock) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(StoreError::io("lock", path)(error)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_held_until_dropped() {
        let root = tempfile::tempdir().unwrap();
        let first = DataDir::open(root.path()).unwrap();
        let error = DataDir::open(root.path()).unwrap_err();
        assert!(matches!(error, StoreError::Locked { .. }));
        assert!(error.to_string().contains("in use by another process"));
        drop(first);
        DataDir::open(root.path()).unwrap();
    }

    #[test]
    fn a_stopped_node_is_looked_at_and_nothing_is_made() {
        let root = tempfile::tempdir().unwrap();
        let error = DataDir::look(root.path()).unwrap_err();
        assert!(error.to_string().contains("no data directory"), "{error}");
        assert!(names(root.path()).unwrap().is_empty());
        let running = DataDir::open(root.path()).unwrap();
        assert!(matches!(DataDir::look(root.path()), Err(StoreError::Locked { .. })));
        running.save_component(&[7; 32], b"wasm").unwrap();
        drop(running);
        let looked = DataDir::look(root.path()).unwrap();
        assert_eq!(looked.load_components().unwrap(), [b"wasm"]);
        assert!(matches!(DataDir::open(root.path()), Err(StoreError::Locked { .. })));
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let root = tempfile::tempdir().unwrap();
        drop(DataDir::open(root.path()).unwrap());
        fs::write(root.path().join("FORMAT"), "2\n").unwrap();
        let error = DataDir::open(root.path()).unwrap_err();
        assert!(error.to_string().contains("data format 2, this version reads up to 1"), "{error}");
        for soup in ["soup", "0\n", "", "1 1"] {
            fs::write(root.path().join("FORMAT"), soup).unwrap();
            assert!(matches!(DataDir::open(root.path()), Err(StoreError::Format { .. })), "{soup:?}");
        }
    }

    #[test]
    fn replacing_the_log_is_finished_after_a_crash_at_any_step() {
        for crash in 0..3 {
            let root = tempfile::tempdir().unwrap();
            let place = |name: &str| root.path().join(name);
            drop(DataDir::open(root.path()).unwrap());
            fs::write(place("raft").join("is"), "old").unwrap();
            fs::create_dir(place("raft.repaired")).unwrap();
            fs::write(place("raft.repaired").join("is"), "new").unwrap();
            if crash > 0 {
                fs::rename(place("raft"), place("raft.damaged")).unwrap();
            }
            if crash > 1 {
                fs::rename(place("raft.repaired"), place("raft")).unwrap();
            }
            let directory = DataDir::open(root.path()).unwrap();
            let expected = if crash == 0 { "old" } else { "new" };
            assert_eq!(fs::read_to_string(directory.raft().join("is")).unwrap(), expected);
            assert!(!place("raft.repaired").exists());
            assert_eq!(directory.damaged_log().exists(), crash > 0);
        }
    }

    #[test]
    fn data_without_a_format_is_refused() {
        let root = tempfile::tempdir().unwrap();
        drop(DataDir::open(root.path()).unwrap());
        fs::remove_file(root.path().join("FORMAT")).unwrap();
        assert!(matches!(DataDir::open(root.path()), Err(StoreError::Damaged { .. })));
    }

    #[test]
    fn components_are_kept_by_hash() {
        let root = tempfile::tempdir().unwrap();
        let directory = DataDir::open(&root.path().join("deep/er")).unwrap();
        assert_eq!(directory.load_component(&[7; 32]).unwrap(), None);
        directory.save_component(&[7; 32], b"\0asm").unwrap();
        directory.save_component(&[7; 32], b"\0asm").unwrap();
        assert_eq!(directory.load_component(&[7; 32]).unwrap().as_deref(), Some(&b"\0asm"[..]));
        assert_eq!(fs::read_dir(directory.components()).unwrap().count(), 1, "no temporary file stays");
        fs::write(directory.component(&[7; 32]), "rotten").unwrap();
        directory.save_component(&[7; 32], b"\0asm").unwrap();
        assert_eq!(directory.load_component(&[7; 32]).unwrap().as_deref(), Some(&b"\0asm"[..]));
    }

    /// Regression test: some files blocked the start of a node for ever.
    ///
    /// They were a link to an endless device, and a pipe without a writer.
    #[test]
    fn what_is_no_regular_file_is_neither_followed_nor_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let directory = DataDir::open(root.path()).unwrap();
        let (component, code) = (directory.component(&[7; 32]), directory.code("a.1"));
        for path in [&component, &code] {
            std::os::unix::fs::symlink("/dev/zero", path).unwrap();
        }
        let error = directory.load_component(&[7; 32]).unwrap_err().to_string();
        assert!(error.contains("it is not a regular file") && error.contains(".wasm"), "{error}");
        assert!(matches!(directory.load_code("a.1"), Err(StoreError::Unusable { .. })));
        fs::remove_file(&code).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&code).status().unwrap();
        assert!(made.success());
        assert!(matches!(directory.load_code("a.1"), Err(StoreError::Unusable { .. })));
        // A file too large for memory is not read either. This one is sparse and takes no room.
        File::create(directory.code("b.1")).unwrap().set_len(CODE_BYTES_MAX + 1).unwrap();
        let error = directory.load_code("b.1").unwrap_err().to_string();
        assert!(error.contains("nothing there has more than"), "{error}");
        directory.save_component(&[7; 32], b"\0asm").unwrap();
        assert_eq!(directory.load_component(&[7; 32]).unwrap().as_deref(), Some(&b"\0asm"[..]), "the link is replaced");
    }

    #[test]
    fn components_are_this_users_alone() {
        let root = tempfile::tempdir().unwrap();
        let mode = |directory: &DataDir| fs::metadata(directory.components()).unwrap().permissions().mode() & 0o777;
        let directory = DataDir::open(root.path()).unwrap();
        assert_eq!(mode(&directory), 0o700);
        directory.save_code("a.1", "a", b"of others, perhaps").unwrap();
        fs::set_permissions(directory.components(), fs::Permissions::from_mode(0o777)).unwrap();
        drop(directory);
        let directory = DataDir::open(root.path()).unwrap();
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(directory.load_code("a.1").unwrap(), None);
        directory.save_code("a.1", "a", b"ours").unwrap();
        drop(directory);
        assert_eq!(DataDir::open(root.path()).unwrap().load_code("a.1").unwrap().as_deref(), Some(&b"ours"[..]));
    }

    #[test]
    fn of_a_component_only_the_newest_code_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let directory = DataDir::open(root.path()).unwrap();
        directory.save_component(&[7; 32], b"\0asm").unwrap();
        let component = hex(&[7; 32]);
        let name = |version: &str| format!("{component}.{version}");
        for (name, replaces) in [(name("1"), &*component), (name("2"), &component), ("other.1".to_owned(), "other")] {
            directory.save_code(&name, replaces, name.as_bytes()).unwrap();
        }
        assert_eq!(directory.load_code(&name("1")).unwrap(), None);
        assert_eq!(directory.load_code(&name("2")).unwrap(), Some(name("2").into_bytes()));
        assert!(directory.load_code("other.1").unwrap().is_some());
        assert!(directory.load_component(&[7; 32]).unwrap().is_some(), "what it was compiled from stays");
    }
}
