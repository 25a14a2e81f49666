//! Why a snapshot cannot be made, sent or installed. It decides nothing.

use crate::guest::HostFault;
use crate::store::StoreError;

/// Why a snapshot was not made, sent or received.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Another snapshot is being received; only one is received at a time.
    #[error("this node is receiving another snapshot; try again when that is installed")]
    Busy,
    /// Another backup is being made; only one is made at a time.
    #[error("another backup of this node is under way; try again when that is done, or take it from another node")]
    BackingUp,
    /// A backup carries the component, and this node has none yet.
    #[error("there is nothing to back up yet: this node does not know its cluster's component")]
    NoComponent,
    /// No entry is applied yet, so there is no state to make a snapshot of.
    #[error("there is nothing to take a snapshot of: no entry is applied")]
    Empty,
    /// A node in this mode makes no snapshots.
    #[error("no snapshot of this state: {0}")]
    Mode(String),
    /// The frames are not what a sender sends.
    #[error("the snapshot is damaged: {0}; it was not installed")]
    Damaged(String),
    /// The snapshot has a format that this version does not read, such as a newer one.
    #[error("the snapshot has format {found}, this version reads {supported}; run the version that the sender runs")]
    Format {
        /// The sender's format.
        found: u32,
        /// The format that this node reads.
        supported: u32,
    },
    /// The guest's restore did not produce the state that was sent. The sender should send rows
    /// next time: see [`Snapshots::distrust_guest`].
    #[error("the guest's snapshot and restore are not inverse: {0}; the snapshot was not installed")]
    Unfaithful(String),
    /// The snapshot is the guest's own, of a component that this node does not have and did not get
    /// in time.
    #[error("the snapshot is written by component {0}, which this node does not have yet; it was not installed")]
    OtherComponent(String),
    /// The file that the frames come from could not be used.
    #[error("{0}")]
    Backup(String),
    /// The disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sandbox failed.
    #[error(transparent)]
    Host(#[from] HostFault),
    /// A thread could not be started, or ended without an answer.
    #[error("the snapshot's thread: {0}")]
    Thread(String),
}

impl SnapshotError {
    /// Returns whether the sender should be told to send rows instead of the guest's own snapshot.
    pub fn is_unfaithful(&self) -> bool {
        matches!(self, SnapshotError::Unfaithful(_))
    }

    /// Returns whether the receiver lacks the component that wrote the snapshot. The rows would do.
    pub fn lacks_component(&self) -> bool {
        matches!(self, SnapshotError::OtherComponent(_))
    }
}

impl From<SnapshotError> for std::io::Error {
    fn from(error: SnapshotError) -> Self {
        std::io::Error::other(error)
    }
}
