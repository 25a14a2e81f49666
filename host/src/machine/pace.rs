//! How fast snapshots leave this node: a rate that all of them share, so that they leave disk and network to the log.
//! Sleeps nowhere itself: says until when the sender has to wait.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The rate of a node. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Pace(Option<Arc<Limit>>);

#[derive(Debug)]
struct Limit {
    bytes_per_second: NonZeroU64,
    /// When everything that was let through so far will have gone, at this rate.
    free_at: Mutex<Instant>,
}

impl Pace {
    /// At most so many bytes a second, over all snapshots; `None` for no limit.
    pub fn new(bytes_per_second: Option<NonZeroU64>) -> Pace {
        Pace(
            bytes_per_second
                .map(|bytes_per_second| Arc::new(Limit { bytes_per_second, free_at: Mutex::new(Instant::now()) })),
        )
    }

    /// Books so many bytes, and says how long they have to wait for their turn.
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
