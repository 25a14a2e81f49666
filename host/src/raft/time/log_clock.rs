//! Computes the time stamps of entries from the nodes' clocks and from the time that passed. Reads
//! no clock itself and talks to no node (`log_time` does). Never decides what log time is: apply
//! takes the later of two times.

use std::time::Duration;

use tokio::time::Instant;

/// Largest difference at which two clocks count as equal. Also how much further than the time that
/// passed a leader may move log time by its own clock alone.
pub const TIME_JUMP_MAX: Duration = Duration::from_secs(60);
/// [`TIME_JUMP_MAX`] in milliseconds.
pub(in crate::raft) const JUMP_MAX_MS: u64 = TIME_JUMP_MAX.as_millis() as u64;

/// The state of the clocks at one moment, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// This node's clock.
    pub own_ms: u64,
    /// The median of the voters' clocks, if a majority of them was heard recently.
    pub median_ms: Option<u64>,
    /// Whether a missing median may still come. A new leader has heard no other clock before its
    /// first heartbeats are answered.
    pub is_awaited: bool,
}

/// Follows the later of the own clock and the voters' median. One wrong clock moves nothing:
///
/// - An own clock that is more than [`TIME_JUMP_MAX`] ahead of the median is not believed. Log time
///   then runs on at the pace of time.
/// - Log time moves to the median at once, however far that is: after a stop of the whole cluster,
///   or a restore.
/// - While a median may still come, log time runs at most at the pace of time.
/// - While no median can be had, log time never moves more than [`TIME_JUMP_MAX`] further than the
///   time that passed, however many entries are stamped. The part of that minute that was used
///   comes back at the pace of time, so log time runs at most at twice that pace.
#[derive(Debug)]
pub struct LogClock {
    time_ms: u64,
    /// When log time reached `time_ms`.
    seen: Instant,
    /// How far log time could have moved at `seen` without any time passing.
    jump_ms: u64,
}

impl LogClock {
    /// Creates a clock that has seen nothing. The first entry of a cluster takes the wall clock as
    /// it is.
    pub fn new(now: Instant) -> LogClock {
        LogClock { time_ms: 0, seen: now, jump_ms: JUMP_MAX_MS }
    }

    /// Notes that log time is at `log_ms`.
    pub fn observe(&mut self, log_ms: u64, now: Instant) {
        if log_ms > self.time_ms {
            // Another node moved it.
            *self = LogClock { time_ms: log_ms, seen: now, jump_ms: JUMP_MAX_MS };
        }
    }

    /// Returns the stamp that an entry would get now.
    pub fn at(&self, clocks: Clocks, now: Instant) -> u64 {
        if self.time_ms == 0 {
            return clocks.own_ms;
        }
        let by_pace_ms = self.time_ms.saturating_add(self.passed_ms(now));
        let Some(median_ms) = clocks.median_ms else {
            let jump_ms = if clocks.is_awaited { 0 } else { self.jump_ms(now) };
            return clocks.own_ms.min(by_pace_ms.saturating_add(jump_ms));
        };
        let is_believed = clocks.own_ms <= median_ms.saturating_add(JUMP_MAX_MS);
        let own_ms = if is_believed { clocks.own_ms } else { clocks.own_ms.min(by_pace_ms) };
        own_ms.max(median_ms)
    }

    /// Returns the time for the next entry, given that log time is at `log_ms`.
    pub fn stamp(&mut self, clocks: Clocks, log_ms: u64, now: Instant) -> u64 {
        self.observe(log_ms, now);
        let stamp = self.at(clocks, now);
        if self.time_ms == 0 {
            self.observe(stamp, now);
        } else if stamp > self.time_ms {
            let jumped_ms = (stamp - self.time_ms).saturating_sub(self.passed_ms(now));
            if jumped_ms > JUMP_MAX_MS {
                tracing::warn!(jumped_ms, "log time moves ahead to where most voters' clocks stand");
            }
            *self = LogClock { time_ms: stamp, seen: now, jump_ms: self.jump_ms(now).saturating_sub(jumped_ms) };
        }
        stamp
    }

    fn passed_ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.seen).as_millis() as u64
    }

    fn jump_ms(&self, now: Instant) -> u64 {
        self.jump_ms.saturating_add(self.passed_ms(now)).min(JUMP_MAX_MS)
    }
}

/// Returns the median of the clocks that were heard, or the earlier of the two in the middle.
/// `None` if they do not belong to a majority of the voters.
pub fn median(mut heard_ms: Vec<u64>, voters: usize) -> Option<u64> {
    heard_ms.sort_unstable();
    (heard_ms.len() > voters / 2).then(|| heard_ms[(heard_ms.len() - 1) / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR_MS: u64 = 3_600_000;
    const DECADE_MS: u64 = 315_360_000_000;
    const BASE_MS: u64 = 1_000_000;

    fn alone(own_ms: u64) -> Clocks {
        Clocks { own_ms, median_ms: None, is_awaited: false }
    }

    fn among(own_ms: u64, median_ms: u64) -> Clocks {
        Clocks { own_ms, median_ms: Some(median_ms), is_awaited: false }
    }

    fn clock_at(log_ms: u64, now: Instant) -> LogClock {
        let mut clock = LogClock::new(now);
        clock.observe(log_ms, now);
        clock
    }

    #[test]
    fn half_of_the_voters_agree_on_nothing_and_one_wrong_clock_moves_no_median() {
        assert_eq!(median(vec![], 0), None);
        assert_eq!(median(vec![5], 1), Some(5));
        assert_eq!(median(vec![5], 2), None);
        assert_eq!(median(vec![DECADE_MS, 5], 2), Some(5));
        assert_eq!(median(vec![DECADE_MS, 5], 3), Some(5));
        assert_eq!(median(vec![DECADE_MS, 5, 6], 3), Some(6));
        assert_eq!(median(vec![0, 5, 6], 3), Some(5));
        assert_eq!(median(vec![DECADE_MS, 0, 5, 6], 5), Some(5));
        assert_eq!(median(vec![5, 6], 4), None);
    }

    #[test]
    fn a_clock_ahead_of_the_median_moves_log_time_at_the_pace_of_time() {
        let start = Instant::now();
        let mut clock = clock_at(BASE_MS, start);
        let mut log_ms = BASE_MS;
        for second in 0..100 {
            let (now, right_ms) = (start + second * SECOND, BASE_MS + 1_000 * u64::from(second));
            for _ in 0..100 {
                log_ms = log_ms.max(clock.stamp(among(right_ms + DECADE_MS, right_ms), log_ms, now));
            }
            assert_eq!(log_ms, right_ms);
        }
    }

    #[test]
    fn a_clock_behind_the_median_holds_log_time_up_no_more_than_one_ahead_drives_it() {
        let start = Instant::now();
        let mut clock = clock_at(BASE_MS, start);
        assert_eq!(clock.stamp(among(0, BASE_MS + 5_000), BASE_MS, start + 5 * SECOND), BASE_MS + 5_000);
    }

    #[test]
    fn clocks_within_a_minute_are_right_and_the_leaders_counts() {
        let start = Instant::now();
        let mut clock = clock_at(BASE_MS, start);
        assert_eq!(clock.stamp(among(BASE_MS + 59_000, BASE_MS), BASE_MS, start), BASE_MS + 59_000);
        assert_eq!(clock.stamp(among(BASE_MS + 61_000, BASE_MS), BASE_MS, start), BASE_MS + 59_000);
    }

    #[test]
    fn log_time_is_right_at_once_where_most_clocks_agree() {
        let start = Instant::now();
        let mut clock = clock_at(BASE_MS, start);
        let right_ms = BASE_MS + DECADE_MS;
        assert_eq!(clock.at(among(right_ms, right_ms - 7), start), right_ms, "what would be stamped");
        assert_eq!(clock.stamp(among(right_ms, right_ms - 7), BASE_MS, start), right_ms);
        assert_eq!(clock.stamp(among(right_ms + 1, right_ms - 6), right_ms, start), right_ms + 1);
    }

    #[test]
    fn a_minority_that_disagrees_lets_time_pass() {
        // Two voters of three, one of them far behind: nobody knows which one is right.
        let start = Instant::now();
        let mut clock = clock_at(BASE_MS, start);
        let stamp = clock.stamp(among(BASE_MS + 7_000, 0), BASE_MS, start + 7 * SECOND);
        assert_eq!(stamp, BASE_MS + 7_000);
    }

    #[test]
    fn alone_the_clock_starts_at_the_wall_and_refuses_to_jump() {
        let start = Instant::now();
        let mut clock = LogClock::new(start);
        assert_eq!(clock.stamp(alone(BASE_MS), 0, start), BASE_MS);
        assert_eq!(clock.stamp(alone(1_002_000), BASE_MS, start + SECOND), 1_002_000, "a second or two is no jump");
        assert_eq!(clock.stamp(alone(DECADE_MS), 1_002_000, start + 2 * SECOND), 1_002_000 + 1_000 + 60_000);
    }

    #[test]
    fn alone_a_clock_years_ahead_moves_log_time_by_a_minute_however_many_entries_it_stamps() {
        let start = Instant::now();
        let mut clock = clock_at(BASE_MS, start);
        let mut log_ms = BASE_MS;
        for _ in 0..10_000 {
            log_ms = clock.stamp(alone(DECADE_MS), log_ms, start);
        }
        assert_eq!(log_ms, BASE_MS + 60_000);
        for second in 1..=100 {
            for _ in 0..100 {
                let stamp = clock.stamp(alone(DECADE_MS), log_ms, start + Duration::from_secs(second));
                assert!(stamp >= log_ms, "never back");
                log_ms = stamp;
            }
            assert_eq!(log_ms, BASE_MS + 60_000 + 2_000 * second, "then at twice the pace of time");
        }
    }

    #[test]
    fn alone_log_time_catches_up_after_a_stop_of_all() {
        let start = Instant::now();
        let mut clock = LogClock::new(start);
        let (mut log_ms, wall_ms) = (BASE_MS, BASE_MS + HOUR_MS);
        let mut second = 0;
        while log_ms < wall_ms + 1_000 * second {
            second += 1;
            let now = start + Duration::from_secs(second);
            log_ms = clock.stamp(alone(wall_ms + 1_000 * second), log_ms, now);
            assert!(second < 10_000, "log time does not catch up");
        }
        assert!((3_500..3_600).contains(&second), "an hour behind is made up within an hour: {second} s");
    }

    #[test]
    fn a_new_leader_that_has_heard_nobody_moves_log_time_at_the_pace_of_time() {
        let start = Instant::now();
        let mut clock = clock_at(BASE_MS, start);
        let mut log_ms = BASE_MS;
        for second in 0..5 {
            let ahead = Clocks { own_ms: DECADE_MS, median_ms: None, is_awaited: true };
            log_ms = log_ms.max(clock.stamp(ahead, log_ms, start + second * SECOND));
            assert_eq!(log_ms, BASE_MS + 1_000 * u64::from(second));
        }
        let behind = Clocks { own_ms: BASE_MS, median_ms: None, is_awaited: true };
        assert_eq!(clock.stamp(behind, log_ms, start + 5 * SECOND), BASE_MS, "apply takes the later time");
    }

    #[test]
    fn an_idle_hour_is_no_jump() {
        let start = Instant::now();
        let mut clock = clock_at(BASE_MS, start);
        let now = start + Duration::from_millis(HOUR_MS);
        assert_eq!(clock.stamp(alone(BASE_MS + HOUR_MS), BASE_MS, now), BASE_MS + HOUR_MS);
    }

    #[test]
    fn a_clock_behind_log_time_is_left_to_apply() {
        let start = Instant::now();
        let mut clock = LogClock::new(start);
        assert_eq!(clock.stamp(alone(500), BASE_MS, start), 500);
        assert_eq!(clock.stamp(alone(1_030_000), BASE_MS, start), 1_030_000);
    }
}
