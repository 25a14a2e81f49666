//! Why a replay does not go on, in words that say at which entry, and what to do. A difference that
//! a replay finds is no error.

use super::history::HistoryError;
use super::supply::SupplyError;
use crate::guest::HostFault;
use crate::machine::backup::BackupError;
use crate::store::StoreError;

/// Why a replay does not go on.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The disk failed, or what is on it is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sandbox failed.
    #[error(transparent)]
    Host(#[from] HostFault),
    /// The backup cannot be read.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The sources do not have what the replay needs.
    #[error("{0}")]
    Lacks(String),
    /// An entry cannot be run here.
    #[error("entry {index} cannot be run here: {why}")]
    Entry {
        /// The entry.
        index: u64,
        /// Why, and what to do.
        why: String,
    },
    /// An entry changes the machine to a component that was not given, or that cannot run here.
    #[error("entry {index} cannot be run here: {why}")]
    Component {
        /// The entry.
        index: u64,
        /// Why not.
        why: SupplyError,
    },
    /// An entry takes a change back that was made before the replay began.
    #[error(
        "entry {index} cannot be run here: it takes the change at entry {change} back, and this replay began behind that; begin before \
         entry {change}, or behind entry {index}"
    )]
    RolledBack {
        /// The entry of the rollback.
        index: u64,
        /// The entry of the change.
        change: u64,
    },
    /// The candidate does not take the state over.
    #[error("the candidate does not take over the state of entry {index} ({kind}): {detail}")]
    Refused {
        /// The last entry in the state.
        index: u64,
        /// What becomes of the state.
        kind: &'static str,
        /// The guest's words.
        detail: String,
    },
}

impl From<HistoryError> for ReplayError {
    fn from(error: HistoryError) -> ReplayError {
        match error {
            HistoryError::Store(error) => ReplayError::Store(error),
            HistoryError::Host(fault) => ReplayError::Host(fault),
        }
    }
}
