//! What can go wrong with the disk, in words an operator can act on. Never decides what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use rocksdb::ErrorKind;
use rustix::io::Errno;

/// ENOSPC and EDQUOT, as the C library says them.
const FULL: [&str; 2] = ["No space left on device", "quota exceeded"];
/// EFBIG, likewise.
const TOO_LARGE: &str = "File too large";

/// EMFILE and, with more words behind them, ENFILE.
const NO_DESCRIPTOR: &str = "Too many open files";

/// A failure of the data directory or of a database in it. The text says what failed, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the data directory open.
    #[error("{} is in use by another process: stop that node, or give this one its own --raft_data_dir", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The directory was written by a newer version, or is not one of ours.
    #[error(
        "{} has data format {found}, this version reads up to {supported}: start the version that wrote it, or a newer one",
        path.display()
    )]
    Format {
        /// The file that holds the number.
        path: PathBuf,
        /// What stands there.
        found: String,
        /// The greatest number this version reads.
        supported: u32,
    },
    /// What is on disk contradicts itself or fails its checksum. Nothing was changed.
    #[error("damaged data in {}: {what}. Nothing was changed. Remove this node from the cluster and let it rejoin with an empty data directory", path.display())]
    Damaged {
        /// The file or database.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// A file of the data directory that can be replaced is not what this node left there.
    #[error("{} cannot be used: {what}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The log lacks what it had promised, or cannot be read. The node must not take part with it.
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
        /// What is missing, or what cannot be read.
        what: String,
        /// The node, as operators name it.
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
    /// A file of a database is damaged. What that means, and the way back, says whoever needs the database.
    #[error("{}: {what}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        what: String,
    },
    /// RocksDB refused.
    #[error("{doing} in {}: {source}", path.display())]
    Rocks {
        /// What was being done.
        doing: &'static str,
        /// The database.
        path: PathBuf,
        /// RocksDB's own words.
        source: rocksdb::Error,
    },
    /// The file system refused.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's own words.
        source: io::Error,
    },
    /// The caller broke a rule of the store: a gap in the log, or a second generation while one is being built.
    #[error("refused by the store: {0}")]
    Misuse(String),
    /// An earlier write failed, so nothing is acknowledged any more; the node must restart.
    #[error("the log takes no more writes since one failed: {0}")]
    Poisoned(String),
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
}

impl StoreError {
    /// For `map_err` on RocksDB calls.
    pub(super) fn rocks(doing: &'static str, path: &Path) -> impl FnOnce(rocksdb::Error) -> StoreError {
        move |source| StoreError::Rocks { doing, path: path.to_owned(), source }
    }

    /// For `map_err` on file system calls.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        move |source| StoreError::Io { doing, path: path.to_owned(), source }
    }

    /// Whether there is no room for a file to grow, which passes, as opposed to a disk that is broken.
    pub fn is_full(&self) -> bool {
        self.room_advice().is_some()
    }

    /// What makes room, when there is none.
    pub fn room_advice(&self) -> Option<&'static str> {
        let (is_full, is_too_large) = match self {
            StoreError::Io { source, .. } => (
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded),
                source.kind() == io::ErrorKind::FileTooLarge,
            ),
            // RocksDB hands on the system's words only.
            StoreError::Rocks { source, .. } => {
                let text = source.to_string();
                (FULL.iter().any(|words| text.contains(words)), text.contains(TOO_LARGE))
            }
            _ => (false, false),
        };
        if is_too_large {
            Some("a file met its greatest size: raise that limit (`ulimit -f`, LimitFSIZE=, or the file system's own)")
        } else {
            is_full.then_some("the disk is full: make room on it")
        }
    }

    /// Whether the process or the machine had no descriptor left.
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

    /// Whether a write of the state may work when it is tried again later. RocksDB takes no more writes once one of its own has found no
    /// descriptor, so that does not pass; it is looked for before.
    pub fn is_passing(&self) -> bool {
        self.is_full() || (self.lacks_descriptor() && !matches!(self, StoreError::Rocks { .. }))
    }

    /// Whether what is on disk is not what was written there, as opposed to a disk that does not answer.
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

    /// Something on disk that cannot be what we wrote.
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
    }
}
