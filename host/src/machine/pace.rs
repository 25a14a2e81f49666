//! Limits how fast this node sends snapshots. All snapshots share one rate, so that the log gets
//! enough of the disk and the network. This module never sleeps: it says how long the sender has to
//! wait.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The rate of a node. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Pace(Option<Arc<Limit>>);

#[derive(Debug)]
struct Limit {
    bytes_per_second: NonZeroU64,
    /// The time when all bytes booked so far will have been sent at this rate.
    free_at: Mutex<Instant>,
}

impl Pace {
    /// Makes a rate of at most `bytes_per_second` over all snapshots; `None` means no limit.
    pub fn new(bytes_per_second: Option<NonZeroU64>) -> Pace {
        Pace(
            bytes_per_second
                .map(|bytes_per_second| Arc::new(Limit { bytes_per_second, free_at: Mutex::new(Instant::now()) })),
        )
    }

    /// Books `bytes` bytes, and returns how long they have to wait for their turn.
    pub(crate) fn book(&self, bytes: usize) -> Duration {
        let Some(limit) = &self.0 else { return Duration::ZERO };
        let takes = Duration::from_secs_f64(bytes as f64 / limit.bytes_per_second.get() as f64);
        let now = Instant::now();
        let mut free_at = limit.free_at.lock();
        let turn = (*free_at).max(now);
        *free_at = turn + takes;
        turn - now
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_shared_and_idle_time_is_not_saved_up() {
        let pace = Pace::new(NonZeroU64::new(1_000));
        let other = pace.clone();
        assert_eq!(pace.book(500_000), Duration::ZERO, "the first goes at once");
        let wait = other.book(1_000);
        assert!(wait > Duration::from_secs(490) && wait <= Duration::from_secs(500), "{wait:?}");
        assert!(pace.book(1) > wait);
        assert_eq!(Pace::new(None).book(usize::MAX), Duration::ZERO);
    }
}
