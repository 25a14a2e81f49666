//! A rate: so many a second, and at most one second's worth at once. It has no clock; its user
//! passes the time.

use std::time::{Duration, Instant};

/// What is left of a rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    /// Makes one of which nothing is used.
    pub(super) fn full(per_second: u32, now: Instant) -> Bucket {
        Bucket { left: f64::from(per_second), at: now }
    }

    /// Takes one, or returns how long it takes until there is one.
    pub(super) fn take(&mut self, per_second: u32, now: Instant) -> Result<(), Duration> {
        let rate = f64::from(per_second);
        let passed = now.saturating_duration_since(self.at);
        self.left = (self.left + passed.as_secs_f64() * rate).min(rate);
        self.at = self.at.max(now);
        if self.left >= 1.0 {
            self.left -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.left) / rate))
    }

    /// Whether it is as full as a new one.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) >= Duration::from_secs(1)
    }
}
