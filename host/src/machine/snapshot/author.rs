//! Which component writes, restores or accompanies a snapshot: that of the profile in the
//! snapshot's own records, which may be older or newer than the one in use. Runs no guest.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Snapshots;
use super::error::SnapshotError;
use super::send::Author;
use super::transfers::Transfer;
use crate::codec::Genesis;
use crate::guest::Component;
use crate::machine::system::System;
use crate::store::Checkpoint;
use crate::types::NodeId;

/// Longest time that a receiver waits for the component that restores a snapshot: another node has
/// to send it, and it has to be compiled.
const COMPONENT_PATIENCE: Duration = Duration::from_secs(120);

impl Snapshots {
    /// Makes the host send the rows themselves from now on, until another component is in use. A
    /// receiver found that the guest's restore is not the inverse of its snapshot.
    pub fn distrust_guest(&self, why: &str) {
        let version = self.shared.components.version();
        if self.distrusted.swap(version, Ordering::AcqRel) != version {
            tracing::error!(%why, "the guest's own snapshots are not sent any more; the host ships the rows themselves");
        }
    }

    /// Makes the host send the rows themselves the next time that a snapshot goes to `node`: it did
    /// not get the component that wrote the last one. That says nothing about the guest.
    pub fn send_rows_next(&self, node: NodeId) {
        self.lack_guest.lock().insert(node);
    }

    /// Returns the guest that writes a snapshot of a state, which may be of before a change. `None`
    /// if the host has to send the rows.
    pub(super) fn author(&self, system: &System, to: NodeId) -> Option<Author> {
        if self.lack_guest.lock().remove(&to)
            || self.distrusted.load(Ordering::Acquire) == self.shared.components.version()
        {
            return None;
        }
        let (index, profile) = system.in_force()?;
        let component = self.shared.components.find(profile)?;
        let was_changed = system.profile.is_some() || self.shared.profile().is_some_and(|now| now.0 != index);
        Some(Author { component, profile: was_changed.then(|| profile.clone()) })
    }

    /// Returns the component that the rows of a checkpoint belong to. Blocks.
    pub(super) fn component_of(&self, checkpoint: &Arc<Checkpoint>) -> Result<Component, SnapshotError> {
        let system = System::read(&*checkpoint.open()?)?;
        let (_, profile) = system.in_force().ok_or(SnapshotError::NoComponent)?;
        self.shared.components.find_by_hash(&profile.component_hash).ok_or(SnapshotError::NoComponent)
    }

    /// Returns a component that restores a snapshot. If the sender told its profile, waits for it a
    /// while.
    pub(super) fn restorer(&self, hash: [u8; 32], profile: Option<&Genesis>, transfer: &Transfer) -> Option<Component> {
        let Some(profile) = profile else { return self.shared.components.find_by_hash(&hash) };
        let deadline = Instant::now() + COMPONENT_PATIENCE;
        self.shared.components.wait_for(profile, || {
            // The steps show the sender that this node is still alive.
            transfer.step();
            Instant::now() < deadline
        })
    }
}
