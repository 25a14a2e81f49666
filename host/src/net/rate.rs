//! Limits how often something may happen: a burst at once, and a number per second in the long run.
//! Has no clock; the caller passes the time.

use std::time::Duration;

use tokio::time::Instant;

/// A bucket of tokens. It may be overdrawn; the caller pays for that by waiting.
#[derive(Debug)]
pub(super) struct Rate {
    burst: i64,
    a_second: i64,
    /// Tokens left, in thousandths.
    left: i64,
    at: Instant,
}

const THOUSANDTHS: i64 = 1_000;

impl Rate {
    /// Makes a full bucket.
    pub(super) fn new(burst: u32, a_second: u32, now: Instant) -> Rate {
        let burst = i64::from(burst) * THOUSANDTHS;
        Rate { burst, a_second: i64::from(a_second), left: burst, at: now }
    }

    /// Takes `count` tokens for what has happened. Returns how long nothing more may happen.
    pub(super) fn spend(&mut self, count: usize, now: Instant) -> Duration {
        self.refill(now);
        self.left = self.left.saturating_sub(i64::try_from(count).unwrap_or(i64::MAX).saturating_mul(THOUSANDTHS));
        let missing = u64::try_from(-self.left).unwrap_or(0);
        Duration::from_millis(missing.div_ceil(self.a_second.unsigned_abs()))
    }

    /// Returns whether at least half of a burst is free.
    pub(super) fn is_rested(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.left >= self.burst / 2
    }

    /// Forgets what is overdrawn beyond a wait of `most`.
    pub(super) fn forgive(&mut self, most: Duration) {
        let most_ms = i64::try_from(most.as_millis()).unwrap_or(i64::MAX);
        self.left = self.left.max(-most_ms.saturating_mul(self.a_second));
    }

    fn refill(&mut self, now: Instant) {
        let passed_ms = i64::try_from(now.saturating_duration_since(self.at).as_millis()).unwrap_or(i64::MAX);
        // Tokens per second equal thousandths of a token per millisecond.
        self.left = self.left.saturating_add(passed_ms.saturating_mul(self.a_second)).min(self.burst);
        self.at += Duration::from_millis(passed_ms.unsigned_abs());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_the_rest_is_paid_for_by_waiting() {
        let start = Instant::now();
        let mut rate = Rate::new(100, 10, start);
        assert_eq!(rate.spend(100, start), Duration::ZERO);
        assert_eq!(rate.spend(5, start), Duration::from_millis(500));
        let later = start + Duration::from_millis(500);
        assert_eq!(rate.spend(0, later), Duration::ZERO);
        assert_eq!(rate.spend(1, later), Duration::from_millis(100));
        let much_later = later + Duration::from_secs(3600);
        assert_eq!(rate.spend(100, much_later), Duration::ZERO, "no more than a burst is saved");
        assert_eq!(rate.spend(1, much_later), Duration::from_millis(100));
    }

    #[test]
    fn a_debt_can_be_forgiven_and_rest_shows() {
        let start = Instant::now();
        let mut rate = Rate::new(100, 10, start);
        assert!(rate.is_rested(start));
        assert_eq!(rate.spend(1_100, start), Duration::from_secs(100));
        rate.forgive(Duration::from_secs(1));
        assert_eq!(rate.spend(0, start), Duration::from_secs(1));
        assert!(!rate.is_rested(start + Duration::from_millis(5_900)));
        assert!(rate.is_rested(start + Duration::from_secs(6)));
    }
}
