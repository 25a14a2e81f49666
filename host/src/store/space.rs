//! Watches the room on the disk of the data directory, and tells what to refuse while room is
//! short. Keeps the ballast: files that are removed so that a node can start, vote and purge on a
//! full disk. Writes nothing but the ballast, and refuses nothing itself.
//!
//! - Below `min_free_bytes` commands are refused; everything else continues. Commands are accepted
//!   again once a little more is free.
//! - Below the size of the ballast, a follower takes no commands from its leader either, because a
//!   full disk would end it. It still takes the few that were under way, so that it can answer
//!   reads when the leader's disk is full too. Then it takes no more.
//! - The ballast is made when there is room for it above `min_free_bytes`. A small part of it is
//!   removed while the node runs, so that the node can vote and purge. The rest is removed only at
//!   a start, whatever filled the disk meanwhile.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use super::{DataDir, StoreError, file_limit};

const MIB: u64 = 1 << 20;
/// Most bytes of the ballast, and of the room that commands from a leader must leave free. Half of
/// `min_free_bytes` if that is less.
const BALLAST_BYTES_MAX: u64 = 32 * MIB;
/// Commands are accepted again when free room exceeds `min_free_bytes` by this fraction of it. This
/// avoids flapping at the limit.
const RESUME_PART: u64 = 32;
/// Size of the running node's ballast, as a fraction of the ballast; it is made in addition. It is
/// removed when less than half of that size is free.
const RUNNING_PART: u64 = 4;
/// Bytes of commands that are still taken from a leader on a full disk, as a fraction of the
/// ballast. More than a leader accepts before it notices that its own disk is full.
const IN_FLIGHT_PART: u64 = 16;
/// The file that is removed at a start.
const FOR_START: &str = "BALLAST";
const FOR_RUNNING: &str = "BALLAST.running";

/// How short the room on the disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// There is enough room.
    Ample = 0,
    /// Less than `min_free_bytes` is free: commands are refused.
    Low = 1,
    /// Less than the ballast is free: commands of a leader are refused, too.
    Full = 2,
}

impl Level {
    /// Returns the name that operators see.
    pub fn name(self) -> &'static str {
        match self {
            Level::Ample => "ample",
            Level::Low => "low",
            Level::Full => "full",
        }
    }

    fn of(number: u8) -> Level {
        match number {
            0 => Level::Ample,
            1 => Level::Low,
            _ => Level::Full,
        }
    }
}

/// Figures of the disk for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceStatus {
    /// Bytes that were free for this process at the last check.
    pub free_bytes: u64,
    /// Commands are refused below this; 0 means never.
    pub min_free_bytes: u64,
    /// How short the room is.
    pub level: Level,
}

/// The room of one data directory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Space(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    min_free_bytes: u64,
    free_bytes: AtomicU64,
    level: AtomicU8,
    /// Bytes of commands that are still taken from a leader while the disk is full.
    allowance: AtomicU64,
    /// Held during a check, so that only one runs at a time.
    looking: Mutex<()>,
    /// The last check's error, if it failed.
    said: Mutex<Option<String>>,
}

impl Space {
    /// Checks the disk for the first time. Call it before any database is opened.
    ///
    /// Removes the ballast if the node might not be able to start otherwise. `min_free_bytes` of 0
    /// switches all of it off.
    pub fn open(directory: &DataDir, min_free_bytes: u64) -> Result<Space, StoreError> {
        let space = Space(Arc::new(Inner {
            root: directory.root().to_owned(),
            min_free_bytes,
            free_bytes: AtomicU64::new(0),
            level: AtomicU8::new(Level::Ample as u8),
            allowance: AtomicU64::new(0),
            looking: Mutex::new(()),
            said: Mutex::new(None),
        }));
        if let Some(complaint) = file_limit::complaint() {
            tracing::warn!("{complaint}");
        }
        let is_needed = free_bytes(&space.0.root)? < space.ballast_bytes();
        for (name, bytes) in space.ballast() {
            let there = fs::metadata(space.0.root.join(name)).map(|metadata| metadata.len()).ok();
            if there.is_some() && (is_needed || there != Some(bytes)) {
                space.release(name)?;
            }
        }
        space.look();
        Ok(space)
    }

    /// Checks the disk, and removes or makes the ballast. Blocks. To be called regularly.
    pub fn look(&self) {
        let _looking = self.0.looking.lock();
        let looked = self.look_once();
        let mut said = self.0.said.lock();
        match looked {
            // Logged once per error, because the check runs several times a second.
            Err(error) if *said != Some(error.to_string()) => {
                tracing::warn!(%error, "the room on the disk is not known, or there is none for the ballast");
                *said = Some(error.to_string());
            }
            Err(_) => {}
            Ok(()) => *said = None,
        }
    }

    /// Returns the refusal for clients, if no command may be accepted now.
    pub fn refuses_commands(&self) -> Option<String> {
        (self.level() >= Level::Low).then(|| {
            let Inner { root, min_free_bytes, free_bytes, .. } = &*self.0;
            let name = root.file_name().unwrap_or_default().to_string_lossy();
            format!(
                "the disk of node {name} is nearly full: {} are free in {}, and commands are taken above {} (--min_free_bytes); reads go on",
                in_words(free_bytes.load(Ordering::Relaxed)),
                root.display(),
                in_words(*min_free_bytes)
            )
        })
    }

    /// Returns why this node cannot take `bytes` of commands from its leader now.
    ///
    /// If the disk is full and the commands are still taken, they are deducted from the allowance.
    pub fn refuses_entries(&self, bytes: u64) -> Option<String> {
        if self.level() < Level::Full {
            return None;
        }
        let allowance = &self.0.allowance;
        let taken = allowance.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        if taken.is_ok() { None } else { self.refuses_commands() }
    }

    /// Returns why `bytes` of scratch files may not be written now: commands would be refused for
    /// lack of room. Asks the file system.
    pub fn refuses_scratch(&self, bytes: u64) -> Result<Option<String>, StoreError> {
        let Inner { root, min_free_bytes, .. } = &*self.0;
        let (free, needed) = (free_bytes(root)?, bytes.saturating_add(*min_free_bytes));
        Ok((free < needed).then(|| {
            format!(
                "{} are free in {}; {} are needed beside {} that stay free (--min_free_bytes)",
                in_words(free),
                root.display(),
                in_words(bytes),
                in_words(*min_free_bytes)
            )
        }))
    }

    /// Returns why `bytes` may not be written in `directory` now: it is on the disk of the data
    /// directory, and commands would be refused for lack of room. Asks the file system.
    pub fn refuses_beside(&self, directory: &Path, bytes: u64) -> Result<Option<String>, StoreError> {
        let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).map_err(StoreError::io("look at", path));
        match device(directory)? == device(&self.0.root)? {
            true => self.refuses_scratch(bytes),
            false => Ok(None),
        }
    }

    /// Returns figures for operators.
    pub fn status(&self) -> SpaceStatus {
        SpaceStatus {
            free_bytes: self.0.free_bytes.load(Ordering::Relaxed),
            min_free_bytes: self.0.min_free_bytes,
            level: self.level(),
        }
    }

    fn level(&self) -> Level {
        Level::of(self.0.level.load(Ordering::Relaxed))
    }

    fn look_once(&self) -> Result<(), StoreError> {
        let (root, min_free_bytes, ballast_bytes) = (&self.0.root, self.0.min_free_bytes, self.ballast_bytes());
        let free = free_bytes(root)?;
        if ballast_bytes > 0 {
            if free < ballast_bytes / RUNNING_PART / 2 && root.join(FOR_RUNNING).exists() {
                self.release(FOR_RUNNING)?;
            } else if free >= min_free_bytes + min_free_bytes / RESUME_PART + 2 * ballast_bytes {
                // Records the free room first, in case the ballast cannot be made.
                self.note(free);
                self.make()?;
            }
        }
        self.note(free_bytes(root)?);
        Ok(())
    }

    /// Records `free`, and logs it when that changes what is refused.
    fn note(&self, free: u64) {
        let min = self.0.min_free_bytes;
        let before = self.level();
        let resume = min + min / RESUME_PART;
        let level = if free < self.ballast_bytes() {
            Level::Full
        } else if free < min || (before > Level::Ample && free < resume) {
            Level::Low
        } else {
            Level::Ample
        };
        self.0.free_bytes.store(free, Ordering::Relaxed);
        if level != before {
            self.0.allowance.store(self.ballast_bytes() / IN_FLIGHT_PART, Ordering::Relaxed);
        }
        self.0.level.store(level as u8, Ordering::Relaxed);
        if level == before {
            return;
        }
        let (free, path) = (in_words(free), self.0.root.display());
        match level {
            Level::Ample => tracing::info!(%free, %path, "there is room on the disk again: commands are taken"),
            Level::Low => {
                tracing::warn!(%free, %path, "the disk is nearly full: commands are refused until there is room")
            }
            Level::Full => {
                tracing::error!(%free, %path, "the disk is full: commands are refused, also from a leader, until there is room");
            }
        }
    }

    /// Makes the files of the ballast that are missing.
    fn make(&self) -> Result<(), StoreError> {
        for (name, bytes) in self.ballast() {
            let path = self.0.root.join(name);
            if path.exists() {
                continue;
            }
            File::create(&path).and_then(|file| allocate(file, bytes)).map_err(|error| {
                // An incomplete file would only take room.
                drop(fs::remove_file(&path));
                StoreError::io("make", &path)(error)
            })?;
        }
        Ok(())
    }

    fn release(&self, name: &str) -> Result<(), StoreError> {
        let path = self.0.root.join(name);
        fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        tracing::warn!(path = %path.display(), "gave up ballast, because the disk is full or --min_free_bytes changed");
        Ok(())
    }

    /// Returns the files of the ballast, each with its size.
    fn ballast(&self) -> [(&'static str, u64); 2] {
        let bytes = self.ballast_bytes();
        [(FOR_START, bytes), (FOR_RUNNING, bytes / RUNNING_PART)]
    }

    fn ballast_bytes(&self) -> u64 {
        BALLAST_BYTES_MAX.min(self.0.min_free_bytes / 2).min(file_limit::bytes().unwrap_or(u64::MAX))
    }
}

/// Returns the bytes that are free for this process on the file system of `root`.
pub(super) fn free_bytes(root: &Path) -> Result<u64, StoreError> {
    let found = statvfs(root).map_err(|error| StoreError::io("look at the room of", root)(error.into()))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Allocates the room, without writing it where the file system supports that.
fn allocate(mut file: File, bytes: u64) -> io::Result<()> {
    match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let zeros = vec![0; 1 << 16];
            let mut left = bytes;
            while left > 0 {
                let count = left.min(zeros.len() as u64);
                file.write_all(&zeros[..usize::try_from(count).expect("at most the zeros")])?;
                left -= count;
            }
            Ok(())
        }
        allocated => Ok(allocated?),
    }
}

fn in_words(bytes: u64) -> String {
    if bytes >= 10 * MIB { format!("{} MiB", bytes / MIB) } else { format!("{} KiB", bytes / 1024) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn space(root: &tempfile::TempDir, min_free_bytes: u64) -> (DataDir, Space) {
        let directory = DataDir::open(root.path()).unwrap();
        let space = Space::open(&directory, min_free_bytes).unwrap();
        (directory, space)
    }

    #[test]
    fn levels_follow_what_is_free_and_do_not_flutter() {
        let root = tempfile::tempdir().unwrap();
        let (_directory, space) = space(&root, 64 * MIB);
        let rows = [
            (70 * MIB, Level::Ample),
            (64 * MIB, Level::Ample),
            (63 * MIB, Level::Low),
            (65 * MIB, Level::Low),
            (31 * MIB, Level::Full),
            (40 * MIB, Level::Low),
            (66 * MIB, Level::Ample),
        ];
        for (free, level) in rows {
            space.note(free);
            assert_eq!(space.status().level, level, "{free}");
            assert_eq!(space.refuses_commands().is_some(), level >= Level::Low);
            assert_eq!(space.refuses_entries(3 * MIB).is_some(), level == Level::Full);
        }
        space.note(5 * MIB);
        let text = space.refuses_commands().unwrap();
        let name = root.path().file_name().unwrap().to_str().unwrap();
        assert!(text.contains(name) && text.contains("5120 KiB are free") && text.contains("64 MiB"), "{text}");
        assert_eq!(space.refuses_entries(MIB), None, "what was on its way");
        assert_eq!(space.refuses_entries(MIB), None);
        space.note(4 * MIB);
        assert!(space.refuses_entries(1).is_some(), "and no more, however often it looks");
    }

    #[test]
    fn scratch_files_leave_room_for_commands() {
        let root = tempfile::tempdir().unwrap();
        let (_directory, ample) = space(&root, MIB);
        assert_eq!(ample.refuses_scratch(0).unwrap(), None);
        let text = ample.refuses_scratch(1 << 60).unwrap().unwrap();
        assert!(text.contains("are needed beside 1024 KiB that stay free"), "{text}");
        assert!(ample.refuses_scratch(u64::MAX).unwrap().is_some());
    }

    #[test]
    fn zero_switches_it_off() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("BALLAST"), "old").unwrap();
        let (_directory, space) = space(&root, 0);
        space.note(0);
        assert_eq!(space.refuses_commands(), None);
        assert!(!root.path().join("BALLAST").exists());
    }

    #[test]
    fn the_ballast_is_made_when_there_is_room_and_kept() {
        let root = tempfile::tempdir().unwrap();
        let bytes = |name: &str| fs::metadata(root.path().join(name)).map_or(0, |file| file.len());
        let (directory, first) = space(&root, 2 * MIB);
        first.look();
        let _again = Space::open(&directory, 2 * MIB).unwrap();
        assert_eq!((bytes("BALLAST"), bytes("BALLAST.running")), (MIB, MIB / 4));
        // No disk has that much room: commands are refused, and the ballast, now of the wrong size,
        // is gone.
        let space = Space::open(&directory, 1 << 60).unwrap();
        assert_eq!((bytes("BALLAST"), bytes("BALLAST.running")), (0, 0));
        assert_eq!(space.status().level, Level::Low);
    }
}
