//! The contents of a disk in two versions: as programs see them, and as they would be after a power
//! cut. This file owns what a sync makes durable. It knows nothing of FUSE.
//!
//! It reads POSIX as strictly as possible: the bytes of a file survive once the file was synced
//! with fsync, and a name survives once its directory was synced. Nothing else survives. Real file
//! systems keep more.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::ops::Range;

/// The root directory.
pub const ROOT: u64 = 1;

/// Number of removed names after which unreachable inodes are looked for.
const SWEEP_AFTER: usize = 256;

/// Why an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// ENOENT.
    Missing,
    /// EEXIST.
    Exists,
    /// ENOTDIR.
    NotADirectory,
    /// EISDIR.
    IsADirectory,
    /// ENOTEMPTY.
    NotEmpty,
}

/// Names and their inodes.
pub type Names = BTreeMap<OsString, u64>;

/// One inode.
pub enum Inode {
    /// A file with bytes.
    File(File),
    /// A directory with names.
    Directory {
        /// Names as programs see them.
        live: Names,
        /// Names after a power cut.
        synced: Names,
    },
}

/// A file.
#[derive(Default)]
pub struct File {
    /// Content as programs see it.
    pub live: Vec<u8>,
    synced: Vec<u8>,
    /// Range in which both contents may differ, apart from the length.
    dirty: Option<Range<usize>>,
    opens: usize,
}

impl File {
    fn touch(&mut self, range: Range<usize>) {
        let dirty = self.dirty.get_or_insert(range.clone());
        *dirty = dirty.start.min(range.start)..dirty.end.max(range.end);
    }

    /// Writes bytes. A gap before them is filled with zeros.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.live.len() < end {
            self.touch(self.live.len()..end);
            self.live.resize(end, 0);
        }
        self.live[offset..end].copy_from_slice(bytes);
        self.touch(offset..end);
    }

    /// Cuts the file, or fills it with zeros.
    pub fn resize(&mut self, length: usize) {
        let (short, long) = (length.min(self.live.len()), length.max(self.live.len()));
        self.touch(short..long);
        self.live.resize(length, 0);
    }

    fn sync(&mut self) {
        self.synced.resize(self.live.len(), 0);
        if let Some(dirty) = self.dirty.take() {
            let dirty = dirty.start.min(self.live.len())..dirty.end.min(self.live.len());
            self.synced[dirty.clone()].copy_from_slice(&self.live[dirty]);
        }
    }

    fn lose(&mut self) {
        self.live.clone_from(&self.synced);
        self.dirty = None;
        self.opens = 0;
    }
}

/// All inodes of the disk.
pub struct Files {
    inodes: HashMap<u64, Inode>,
    next: u64,
    gone: usize,
}

impl Default for Files {
    fn default() -> Files {
        let root = Inode::Directory { live: Names::new(), synced: Names::new() };
        Files { inodes: HashMap::from([(ROOT, root)]), next: ROOT + 1, gone: 0 }
    }
}

impl Files {
    /// Returns an inode.
    pub fn get(&self, inode: u64) -> Result<&Inode, Refusal> {
        self.inodes.get(&inode).ok_or(Refusal::Missing)
    }

    /// Returns a file.
    pub fn file(&mut self, inode: u64) -> Result<&mut File, Refusal> {
        match self.inodes.get_mut(&inode).ok_or(Refusal::Missing)? {
            Inode::File(file) => Ok(file),
            Inode::Directory { .. } => Err(Refusal::IsADirectory),
        }
    }

    /// Returns the names in a directory.
    pub fn names(&mut self, directory: u64) -> Result<&mut Names, Refusal> {
        match self.inodes.get_mut(&directory).ok_or(Refusal::Missing)? {
            Inode::Directory { live, .. } => Ok(live),
            Inode::File(_) => Err(Refusal::NotADirectory),
        }
    }

    /// Returns the inode of a name.
    pub fn lookup(&mut self, parent: u64, name: &OsStr) -> Result<u64, Refusal> {
        self.names(parent)?.get(name).copied().ok_or(Refusal::Missing)
    }

    fn add(&mut self, parent: u64, name: &OsStr, inode: Inode) -> Result<u64, Refusal> {
        let number = self.next;
        self.link(number, parent, name)?;
        self.inodes.insert(number, inode);
        self.next += 1;
        Ok(number)
    }

    /// Makes a new, empty file.
    pub fn create(&mut self, parent: u64, name: &OsStr) -> Result<u64, Refusal> {
        self.add(parent, name, Inode::File(File::default()))
    }

    /// Makes a new, empty directory.
    pub fn make_directory(&mut self, parent: u64, name: &OsStr) -> Result<u64, Refusal> {
        self.add(parent, name, Inode::Directory { live: Names::new(), synced: Names::new() })
    }

    /// Adds another name for an inode.
    pub fn link(&mut self, inode: u64, parent: u64, name: &OsStr) -> Result<(), Refusal> {
        let names = self.names(parent)?;
        if names.contains_key(name) {
            return Err(Refusal::Exists);
        }
        names.insert(name.to_owned(), inode);
        Ok(())
    }

    /// Removes a name.
    ///
    /// The inode stays while it has other names, also names that a power cut would restore, or is
    /// open.
    pub fn unlink(&mut self, parent: u64, name: &OsStr) -> Result<(), Refusal> {
        let inode = self.lookup(parent, name)?;
        if let Inode::Directory { live, .. } = self.get(inode)?
            && !live.is_empty()
        {
            return Err(Refusal::NotEmpty);
        }
        self.names(parent)?.remove(name);
        self.went();
        Ok(())
    }

    /// Moves a name. An existing name at the target is replaced.
    pub fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr)) -> Result<(), Refusal> {
        let inode = self.lookup(from.0, from.1)?;
        self.names(to.0)?;
        self.names(from.0)?.remove(from.1);
        self.names(to.0)?.insert(to.1.to_owned(), inode);
        self.went();
        Ok(())
    }

    /// Records that a program opened the file.
    pub fn open(&mut self, inode: u64) -> Result<(), Refusal> {
        self.file(inode)?.opens += 1;
        Ok(())
    }

    /// Records that a program closed the file. Opens from before a power cut no longer count.
    pub fn close(&mut self, inode: u64) {
        if let Ok(file) = self.file(inode) {
            file.opens = file.opens.saturating_sub(1);
        }
    }

    /// Syncs a file or a directory, as fsync does.
    pub fn sync(&mut self, inode: u64) -> Result<(), Refusal> {
        match self.inodes.get_mut(&inode).ok_or(Refusal::Missing)? {
            Inode::File(file) => file.sync(),
            Inode::Directory { live, synced } => synced.clone_from(live),
        }
        Ok(())
    }

    /// Loses everything that was not synced.
    pub fn cut_power(&mut self) {
        for inode in self.inodes.values_mut() {
            match inode {
                Inode::File(file) => file.lose(),
                Inode::Directory { live, synced } => live.clone_from(synced),
            }
        }
        self.sweep();
    }

    fn went(&mut self) {
        self.gone += 1;
        if self.gone >= SWEEP_AFTER {
            self.sweep();
        }
    }

    /// Removes the inodes that have no name, live or synced, and are not open.
    fn sweep(&mut self) {
        self.gone = 0;
        let mut reached = HashSet::from([ROOT]);
        let mut open = vec![ROOT];
        while let Some(number) = open.pop() {
            if let Some(Inode::Directory { live, synced }) = self.inodes.get(&number) {
                open.extend(live.values().chain(synced.values()).filter(|inode| reached.insert(**inode)));
            }
        }
        let is_open = |inode: &Inode| matches!(inode, Inode::File(file) if file.opens > 0);
        self.inodes.retain(|number, inode| reached.contains(number) || is_open(inode));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn name(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    #[test]
    fn bytes_survive_from_their_sync_on() {
        let mut files = Files::default();
        let file = files.create(ROOT, name("a")).unwrap();
        files.sync(ROOT).unwrap();
        files.file(file).unwrap().write(0, b"synced");
        files.sync(file).unwrap();
        files.file(file).unwrap().write(2, b"LOST AND LONGER");
        files.cut_power();
        assert_eq!(files.file(file).unwrap().live, b"synced");
        files.file(file).unwrap().resize(2);
        files.file(file).unwrap().resize(4);
        files.sync(file).unwrap();
        files.cut_power();
        assert_eq!(files.file(file).unwrap().live, b"sy\0\0");
    }

    #[test]
    fn names_survive_from_the_sync_of_their_directory_on() {
        let mut files = Files::default();
        let directory = files.make_directory(ROOT, name("d")).unwrap();
        let file = files.create(directory, name("new")).unwrap();
        files.sync(file).unwrap();
        files.sync(ROOT).unwrap();
        files.cut_power();
        assert_eq!(files.lookup(directory, name("new")), Err(Refusal::Missing));
        assert!(files.get(file).is_err(), "nothing names it");

        let file = files.create(directory, name("tmp")).unwrap();
        files.sync(directory).unwrap();
        files.rename((directory, name("tmp")), (directory, name("CURRENT"))).unwrap();
        files.cut_power();
        assert_eq!(files.lookup(directory, name("tmp")), Ok(file));
        assert_eq!(files.lookup(directory, name("CURRENT")), Err(Refusal::Missing));
    }

    #[test]
    fn what_is_taken_away_comes_back_when_that_was_not_synced() {
        let mut files = Files::default();
        let file = files.create(ROOT, name("a")).unwrap();
        files.sync(ROOT).unwrap();
        files.unlink(ROOT, name("a")).unwrap();
        files.sweep();
        files.cut_power();
        assert_eq!(files.lookup(ROOT, name("a")), Ok(file));
    }
}
