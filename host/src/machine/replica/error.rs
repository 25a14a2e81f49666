//! Why a replica, or a snapshot that one process writes and restores, cannot go on.

use crate::guest::HostFault;
use crate::machine::snapshot::error::SnapshotError;
use crate::store::StoreError;

/// Why a replica cannot go on. A guest cannot cause these errors in a command or a query.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// The disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sandbox failed.
    #[error(transparent)]
    Host(#[from] HostFault),
    /// The guest did not write its snapshot.
    #[error("the guest's snapshot did not end well: {0}")]
    Snapshot(String),
    /// The restored state differs from the state before, or nothing was restored.
    #[error(transparent)]
    Restore(#[from] SnapshotError),
    /// A thread could not be started.
    #[error("start the thread that sends a snapshot: {0}")]
    Thread(#[source] std::io::Error),
}

impl ReplicaError {
    /// Returns whether the guest's snapshot or restore function caused the error.
    pub fn is_of_the_guest(&self) -> bool {
        match self {
            ReplicaError::Snapshot(_) => true,
            ReplicaError::Restore(error) => error.is_unfaithful(),
            ReplicaError::Store(_) | ReplicaError::Host(_) | ReplicaError::Thread(_) => false,
        }
    }
}
