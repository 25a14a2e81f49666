//! What the data directory holds of one group beside its log: the places of its state, and the
//! small files that say whether the group may serve here. Opens no database.
//!
//! The small files of group 0 stand in the data directory itself. Those of another group stand in
//! `groups/<group>/`, which is made when the first of them is written.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::StoreError;
use super::files::{create_directory, names, read_if_there, remove_file, rename, sync_directory, write_atomically};
use crate::types::{GROUP, GroupId};

/// The files of one group in a data directory, which the caller holds open.
#[derive(Clone, Debug)]
pub struct GroupDir {
    root: PathBuf,
    group: GroupId,
}

impl GroupDir {
    pub(super) fn new(root: &Path, group: GroupId) -> GroupDir {
        GroupDir { root: root.to_owned(), group }
    }

    /// The generations of the group's state.
    pub fn state(&self) -> PathBuf {
        self.root.join("state").join(self.group.to_string())
    }

    /// The checkpoints of the group's state.
    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots").join(self.group.to_string())
    }

    /// Finds a directory that only a group with a log leaves behind.
    pub(super) fn remains_of_state(&self) -> Result<Option<PathBuf>, StoreError> {
        for place in [self.state(), self.snapshots()] {
            if place.is_dir() && !names(&place)?.is_empty() {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// Returns the index of the configuration in which the cluster removed this node.
    ///
    /// `None` while it is a member.
    pub fn removed_at(&self) -> Result<Option<u64>, StoreError> {
        let path = self.file("REMOVED");
        let Some(bytes) = read_if_there(&path)? else { return Ok(None) };
        let text = String::from_utf8_lossy(&bytes);
        let index = text.trim().parse().map_err(|_| StoreError::damaged(&path, format!("{text:?} is not an index")))?;
        Ok(Some(index))
    }

    /// Records the removal from the cluster, or deletes that record. Durable on return.
    pub fn save_removed_at(&self, index: Option<u64>) -> Result<(), StoreError> {
        match index {
            Some(index) => self.write("REMOVED", format!("{index}\n").as_bytes()),
            None => remove_file(&self.file("REMOVED")),
        }
    }

    /// Returns why this node must not serve, if its state was found to differ from its cluster's.
    pub fn quarantined(&self) -> Result<Option<String>, StoreError> {
        Ok(read_if_there(&self.file("QUARANTINE"))?.map(|text| String::from_utf8_lossy(&text).trim().to_owned()))
    }

    /// Records why this node must not serve, and beside it the entry that led to it. Durable on
    /// return.
    pub fn save_quarantined(&self, why: &str, entry: Option<&[u8]>) -> Result<(), StoreError> {
        if let Some(entry) = entry {
            self.write("QUARANTINE.entry", entry)?;
        }
        self.write("QUARANTINE", format!("{why}\n").as_bytes())
    }

    /// Ends the quarantine after the state was made anew from the backup at [`GroupDir::resync`],
    /// and removes that backup. Durable on return.
    ///
    /// The entry that led to the quarantine stays for inspection.
    pub fn end_quarantine(&self) -> Result<(), StoreError> {
        let (why, ended) = (self.file("QUARANTINE"), self.file("QUARANTINE.ended"));
        match fs::rename(&why, ended) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            renamed => renamed.map_err(StoreError::io("rename", &why))?,
        }
        // Also when an earlier run renamed it and crashed: the backup may go only after that.
        sync_directory(&self.place())?;
        self.drop_resync()
    }

    /// The file of a whole backup of another node. The next start takes its state from it.
    pub fn resync(&self) -> PathBuf {
        self.file("RESYNC")
    }

    /// The file that such a backup is written to until it is whole. The directory that it stands in
    /// exists on return.
    pub fn resync_unfinished(&self) -> Result<PathBuf, StoreError> {
        create_directory(&self.place())?;
        Ok(self.file("RESYNC.tmp"))
    }

    /// Renames the file at [`GroupDir::resync_unfinished`], which is whole and on disk. Durable on
    /// return.
    pub fn keep_resync(&self) -> Result<(), StoreError> {
        rename(&self.file("RESYNC.tmp"), &self.resync())
    }

    /// Removes the unfinished backup. Durable on return.
    pub fn drop_resync_unfinished(&self) -> Result<(), StoreError> {
        remove_file(&self.file("RESYNC.tmp"))
    }

    /// Removes the backup at [`GroupDir::resync`]. Durable on return.
    pub fn drop_resync(&self) -> Result<(), StoreError> {
        remove_file(&self.resync())
    }

    /// The directory of the small files.
    fn place(&self) -> PathBuf {
        if self.group == GROUP { self.root.clone() } else { self.root.join("groups").join(self.group.to_string()) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.place().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        create_directory(&self.place())?;
        write_atomically(&self.file(name), bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::DataDir;
    use super::*;

    #[test]
    fn a_removal_is_kept_until_it_is_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let directory = DataDir::open(root.path()).unwrap();
        for (group, file) in [(GROUP, "REMOVED"), (7, "groups/7/REMOVED")] {
            let of_group = directory.group(group);
            assert_eq!(of_group.removed_at().unwrap(), None);
            of_group.save_removed_at(None).unwrap();
            of_group.save_removed_at(Some(42)).unwrap();
            assert_eq!(of_group.removed_at().unwrap(), Some(42));
            assert_eq!(directory.group(group + 1).removed_at().unwrap(), None, "no other group is removed");
            assert_eq!(fs::read_to_string(root.path().join(file)).unwrap(), "42\n");
            for _ in 0..2 {
                of_group.save_removed_at(None).unwrap();
                assert_eq!(of_group.removed_at().unwrap(), None);
            }
            fs::write(root.path().join(file), "soup").unwrap();
            assert!(of_group.removed_at().unwrap_err().to_string().contains("REMOVED"));
        }
    }

    #[test]
    fn a_quarantine_and_a_backup_are_of_one_group() {
        let root = tempfile::tempdir().unwrap();
        let directory = DataDir::open(root.path()).unwrap();
        for (group, place) in [(GROUP, ""), (7, "groups/7")] {
            let (of_group, place) = (directory.group(group), root.path().join(place));
            of_group.drop_resync_unfinished().unwrap();
            of_group.save_quarantined("it differs", Some(b"entry")).unwrap();
            assert_eq!(of_group.quarantined().unwrap().as_deref(), Some("it differs"));
            assert_eq!(directory.group(group + 1).quarantined().unwrap(), None);
            fs::write(of_group.resync_unfinished().unwrap(), "backup").unwrap();
            of_group.keep_resync().unwrap();
            assert_eq!(fs::read_to_string(of_group.resync()).unwrap(), "backup");
            of_group.end_quarantine().unwrap();
            assert_eq!(of_group.quarantined().unwrap(), None);
            for (name, stays) in [("QUARANTINE.ended", true), ("QUARANTINE.entry", true), ("RESYNC", false)] {
                assert_eq!(place.join(name).exists(), stays, "{}", place.join(name).display());
            }
        }
    }
}
