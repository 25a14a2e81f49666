//! Errors of the disk, in words that an operator can act on. Never decides what to do about one.

use std::io;
use std::path::{Path, PathBuf};

use rocksdb::ErrorKind;
use rustix::io::Errno;

use crate::types::{GROUP, GroupId};

/// The C library's texts for ENOSPC and EDQUOT.
const FULL: [&str; 2] = ["No space left on device", "quota exceeded"];
/// The C library's text for EFBIG.
const TOO_LARGE: &str = "File too large";

/// The C library's text for EMFILE. That for ENFILE begins with it.
const NO_DESCRIPTOR: &str = "Too many open files";

/// A failure of the data directory or of a database in it. The text says what failed, where, and
/// what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the data directory open.
    #[error("{} is in use by another process: stop that node, or give this one its own --raft_data_dir", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The directory was written by a newer version, or by another program.
    #[error(
        "{} has data format {found}, this version reads up to {supported}: start the version that wrote it, or a newer one",
        path.display()
    )]
    Format {
        /// The file that holds the number.
        path: PathBuf,
        /// The file's contents.
        found: String,
        /// The greatest number that this version reads.
        supported: u32,
    },
    /// The data on disk contradicts itself or fails its checksum. Nothing was changed.
    #[error("damaged data in {}: {what}. Nothing was changed. Remove this node from the cluster and let it rejoin with an empty data directory", path.display())]
    Damaged {
        /// The file or database.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// A newer version wrote something that this one does not know and must not pass over.
    #[error(
        "{what}, which this build does not know: a newer build of Lockstep wrote it. Nothing was changed; start that build, or a newer one"
    )]
    Newer {
        /// What was found.
        what: String,
    },
    /// A replaceable file of the data directory is not as this node left it.
    #[error("{} cannot be used: {what}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The leader has other entries than those that this node has applied.
    #[error(
        "this node has applied entry {applied}, and the leader's log has other entries after {}: a majority of the voters lost entries that \
         were committed, for instance because a data directory was put back to an earlier copy. What this node has is kept, and it stops. \
         To give up what only this node has, remove it from the cluster and add it again with an empty data directory. To keep it, stop the \
         others and recover this one: docs/lost-majority.md",
        last.map_or("its beginning".to_owned(), |last| format!("entry {last}"))
    )]
    AppliedIsReplaced {
        /// Index of the last entry that this node has applied.
        applied: u64,
        /// Index of the last entry that both logs have; `None` when that is no entry.
        last: Option<u64>,
    },
    /// The log lacks data that it had acknowledged, or cannot be read. The node must not take part
    /// in the cluster with it.
    #[error(
        "the log of this node is damaged, and the node does not start with it: {}: {what}. A node that lost what it had acknowledged must \
         neither vote nor acknowledge again: remove it from the cluster (lockstep admin <leader's grpc_addr> remove_server {name} 0), \
         delete {}, start it empty and add it again; it will be a new node",
        path.display(),
        root.display()
    )]
    LogDamaged {
        /// The file or database.
        path: PathBuf,
        /// What is missing or cannot be read.
        what: String,
        /// The node's name, as operators know it.
        name: String,
        /// Its data directory.
        root: PathBuf,
    },
    /// The state cannot be opened. It is made from the log, so it can be made again.
    #[error(
        "the state of this node is damaged: {what}. Nothing was changed. Delete {} to have it made again from the newest snapshot and the \
         log when the node starts; should that be refused too, remove the node from the cluster and add it again with an empty data directory",
        root.display()
    )]
    StateDamaged {
        /// What cannot be read.
        what: String,
        /// The directory of the state's generations.
        root: PathBuf,
    },
    /// A file of a database is damaged. The code that needs the database adds what that means and
    /// what to do.
    #[error("{}: {what}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        what: String,
    },
    /// RocksDB returned an error.
    #[error("{doing} in {}: {source}", path.display())]
    Rocks {
        /// The operation that failed.
        doing: &'static str,
        /// The database.
        path: PathBuf,
        /// RocksDB's own error.
        source: rocksdb::Error,
    },
    /// The file system returned an error.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// The operation that failed.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's own error.
        source: io::Error,
    },
    /// The caller broke a rule of the store: a gap in the log, or a second generation while one is
    /// being built.
    #[error("refused by the store: {0}")]
    Misuse(String),
    /// An earlier write failed, so nothing is acknowledged any more. The node must restart.
    #[error("the log takes no more writes since one failed: {0}")]
    Poisoned(String),
    /// There is room, and it is kept for something else.
    #[error("nothing is written in {}: {what}", path.display())]
    NoRoom {
        /// The directory.
        path: PathBuf,
        /// How much there is, and what it is kept for.
        what: String,
    },
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
}

impl StoreError {
    /// Returns a closure for `map_err` on RocksDB calls.
    pub(super) fn rocks(doing: &'static str, path: &Path) -> impl FnOnce(rocksdb::Error) -> StoreError {
        move |source| StoreError::Rocks { doing, path: path.to_owned(), source }
    }

    /// Returns a closure for `map_err` on file system calls.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        move |source| StoreError::Io { doing, path: path.to_owned(), source }
    }

    /// Returns whether a file has no room to grow. That can pass, unlike a broken disk.
    pub fn is_full(&self) -> bool {
        self.room_advice().is_some()
    }

    /// Returns advice on how to make room, if the error is a lack of room.
    pub fn room_advice(&self) -> Option<&'static str> {
        let (is_full, is_too_large) = match self {
            StoreError::Io { source, .. } => (
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded),
                source.kind() == io::ErrorKind::FileTooLarge,
            ),
            // RocksDB passes on only the system's text.
            StoreError::Rocks { source, .. } => {
                let text = source.to_string();
                (FULL.iter().any(|words| text.contains(words)), text.contains(TOO_LARGE))
            }
            StoreError::NoRoom { .. } => (true, false),
            _ => (false, false),
        };
        if is_too_large {
            Some("a file met its greatest size: raise that limit (`ulimit -f`, LimitFSIZE=, or the file system's own)")
        } else {
            is_full.then_some("the disk is full: make room on it")
        }
    }

    /// Returns whether the process or the machine had no descriptor left.
    pub fn lacks_descriptor(&self) -> bool {
        match self {
            StoreError::Io { source, .. } => {
                let errno = source.raw_os_error().map(Errno::from_raw_os_error);
                matches!(errno, Some(Errno::MFILE | Errno::NFILE))
            }
            StoreError::Rocks { source, .. } => source.to_string().contains(NO_DESCRIPTOR),
            _ => false,
        }
    }

    /// Returns whether a write of the state may succeed when it is tried again later.
    ///
    /// RocksDB accepts no more writes once one of its own found no descriptor, so that error does
    /// not pass. The store therefore checks for descriptors before it writes.
    pub fn is_passing(&self) -> bool {
        self.is_full() || (self.lacks_descriptor() && !matches!(self, StoreError::Rocks { .. }))
    }

    /// Returns whether the data on disk differs from what was written.
    ///
    /// A disk that does not answer is not such a case.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            StoreError::Damaged { .. } | StoreError::LogDamaged { .. } | StoreError::Unreadable { .. } => true,
            StoreError::Rocks { source, .. } => match source.kind() {
                ErrorKind::IOError => source.to_string().contains("No such file"),
                ErrorKind::Busy | ErrorKind::TimedOut | ErrorKind::Aborted | ErrorKind::ShutdownInProgress => false,
                _ => true,
            },
            _ => false,
        }
    }

    /// Names the group whose data the error is about. Group 0, which every process has, stays
    /// unnamed.
    pub(super) fn of_group(self, group: GroupId) -> StoreError {
        match self {
            StoreError::Damaged { path, what } if group != GROUP => {
                StoreError::Damaged { path, what: format!("group {group}: {what}") }
            }
            error => error,
        }
    }

    /// Builds the error for data on disk that this node cannot have written.
    pub(super) fn damaged(path: &Path, what: impl Into<String>) -> StoreError {
        StoreError::Damaged { path: path.to_owned(), what: what.into() }
    }
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        io::Error::other(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_room_is_told_apart_from_a_broken_disk() {
        let advice =
            |number| StoreError::io("write", Path::new("x"))(io::Error::from_raw_os_error(number)).room_advice();
        assert!(advice(libc::ENOSPC).is_some_and(|advice| advice.contains("make room")));
        assert!(advice(libc::EDQUOT).is_some_and(|advice| advice.contains("make room")));
        assert!(advice(libc::EFBIG).is_some_and(|advice| advice.contains("ulimit -f")));
        assert_eq!(advice(libc::EIO), None);
        let kept = StoreError::NoRoom { path: Path::new("x").to_owned(), what: "1 KiB are free".into() };
        assert!(kept.room_advice().is_some_and(|advice| advice.contains("make room")));
    }
}
