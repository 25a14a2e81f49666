//! What ends a rehearsal early: its caller has gone, the node stops, its time is over, or the disk
//! gets short. It ends nothing itself; the rehearsal asks between its steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::guest::HostFault;
use crate::machine::replica::ReplicaError;
use crate::machine::shared::Shared;
use crate::store::{Level, StoreError};

/// Longest time of a whole rehearsal.
const TIME_MAX: Duration = Duration::from_secs(600);

/// Why a rehearsal has no result. It says nothing about the change.
#[derive(Debug, thiserror::Error)]
pub(super) enum RehearsalError {
    #[error("the rehearsal failed on the disk: {0}")]
    Store(#[from] StoreError),
    #[error("the rehearsal failed: {0}")]
    Host(#[from] HostFault),
    #[error("the rehearsal could not snapshot and restore the new state: {0}")]
    Snapshot(ReplicaError),
    #[error("the rehearsal was cancelled")]
    Cancelled,
    #[error("this node stops")]
    Stopping,
    #[error(
        "the rehearsal was not done after {} minutes: rehearse fewer commands, or migrate lazily if the migration takes so long",
        TIME_MAX.as_secs() / 60
    )]
    Late,
    #[error("there is no room for the rehearsal: {0}")]
    NoRoom(String),
    #[error("no instance for a query was free in time")]
    Busy,
}

/// The bounds of one rehearsal. Cheap to clone.
#[derive(Clone)]
pub(super) struct Bounds {
    shared: Arc<Shared>,
    until: Instant,
    cancelled: Arc<AtomicBool>,
}

/// Cancels a rehearsal when it is dropped.
pub(super) struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Bounds {
    /// Makes the bounds of a rehearsal that begins now. It is cancelled when the second value is
    /// dropped.
    pub(super) fn begin(shared: &Arc<Shared>) -> (Bounds, CancelOnDrop) {
        let cancelled = Arc::<AtomicBool>::default();
        let bounds = Bounds { shared: shared.clone(), until: Instant::now() + TIME_MAX, cancelled: cancelled.clone() };
        (bounds, CancelOnDrop(cancelled))
    }

    /// Returns an error once the rehearsal has to end.
    pub(super) fn check(&self) -> Result<(), RehearsalError> {
        if self.cancelled.load(Ordering::Acquire) {
            return Err(RehearsalError::Cancelled);
        }
        if self.shared.stopping.load(Ordering::Acquire) {
            return Err(RehearsalError::Stopping);
        }
        if Instant::now() >= self.until {
            return Err(RehearsalError::Late);
        }
        match self.shared.space.status().level {
            Level::Ample => Ok(()),
            Level::Low | Level::Full => {
                Err(RehearsalError::NoRoom(self.shared.space.refuses_commands().unwrap_or_default()))
            }
        }
    }

    /// Returns whether the rehearsal has to end.
    pub(super) fn is_over(&self) -> bool {
        self.check().is_err()
    }

    /// Checks that `bytes` can be written and leave enough room.
    pub(super) fn check_room(&self, bytes: u64) -> Result<(), RehearsalError> {
        match self.shared.space.refuses_scratch(bytes)? {
            Some(why) => Err(RehearsalError::NoRoom(why)),
            None => Ok(()),
        }
    }
}
