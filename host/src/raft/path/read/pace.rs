//! Decides when the next request for a read index may begin while others are under way. Knows times
//! only; sends nothing.
//!
//! One request at a time serves the most readers, because each request costs every voter a
//! heartbeat. So the next readers gather while one is under way. A slow request must not delay
//! them: after half of the usual duration of a request, another one may begin.

use std::time::Duration;

use tokio::time::Instant;

/// Most requests to the leader at a time.
const ROUNDS_MAX: usize = 4;
/// Shortest time after which a request counts as slow. Requests between nodes of one data centre
/// take less.
const SLOW_MIN: Duration = Duration::from_millis(2);
/// The weight of the newest request in the usual duration, as its inverse.
const NEWEST_SHARE: u32 = 8;

/// When a request may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Now,
    At(Instant),
}

/// What is known of earlier requests.
#[derive(Debug)]
pub(super) struct Pace {
    slow_min: Duration,
    usual: Duration,
    last_began: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Pace { slow_min: SLOW_MIN, usual: Duration::ZERO, last_began: None }
    }
}

impl Pace {
    /// Creates a pace with another `slow_min`.
    #[cfg(test)]
    pub(super) fn slow_after(slow_min: Duration) -> Self {
        Pace { slow_min, ..Pace::default() }
    }

    /// Returns when the next request may begin while `under_way` are. `None`: not before one of
    /// them has ended.
    pub(super) fn next_turn(&self, under_way: usize) -> Option<Turn> {
        match (under_way, self.last_began) {
            (0, _) | (_, None) => Some(Turn::Now),
            (ROUNDS_MAX.., _) => None,
            (_, Some(began)) => Some(Turn::At(began + (self.usual / 2).max(self.slow_min))),
        }
    }

    /// Notes that a request has begun.
    pub(super) fn began(&mut self, now: Instant) {
        self.last_began = Some(now);
    }

    /// Notes that a request has ended, successfully or not.
    pub(super) fn ended(&mut self, took: Duration) {
        self.usual = self.usual - self.usual / NEWEST_SHARE + took / NEWEST_SHARE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_begin_one_after_the_other_unless_they_are_slow() {
        let mut pace = Pace::default();
        assert_eq!(pace.next_turn(0), Some(Turn::Now));
        let now = Instant::now();
        pace.began(now);
        assert_eq!(pace.next_turn(1), Some(Turn::At(now + SLOW_MIN)));
        assert_eq!(pace.next_turn(ROUNDS_MAX), None);
        for _ in 0..100 {
            pace.ended(Duration::from_millis(80));
        }
        let Some(Turn::At(turn)) = pace.next_turn(1) else { panic!("a slow request is overtaken") };
        let after = turn - now;
        assert!(after > Duration::from_millis(35) && after <= Duration::from_millis(40), "{after:?}");
        assert_eq!(pace.next_turn(0), Some(Turn::Now));
    }
}
