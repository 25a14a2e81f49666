//! Compares this node's clock with log time, in numbers and in words for operators. Uses what other
//! modules report and changes nothing.

use std::time::Duration;

use super::log_clock::JUMP_MAX_MS;
use crate::types::date;

/// Three clocks at one moment, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnClock {
    /// This node's clock.
    pub own_ms: u64,
    /// Log time, which passes whether or not there are entries.
    pub log_ms: u64,
    /// The median of the voters' clocks, when the leader has heard a majority of them.
    pub median_ms: Option<u64>,
}

impl OwnClock {
    /// Returns how far the own clock is ahead of log time; negative when it is behind.
    pub fn ahead_ms(&self) -> i64 {
        let ahead = i128::from(self.own_ms) - i128::from(self.log_ms);
        i64::try_from(ahead).unwrap_or(if ahead < 0 { i64::MIN } else { i64::MAX })
    }

    /// Describes the problem: what is wrong, by how much, until when, and what to do. `None` while
    /// the own clock is within a minute of log time.
    pub fn problem(&self) -> Option<String> {
        let ahead_ms = self.ahead_ms();
        if ahead_ms.unsigned_abs() <= JUMP_MAX_MS {
            return None;
        }
        let (own, log) = (date(self.own_ms), date(self.log_ms));
        let difference = humantime::format_duration(Duration::from_secs(ahead_ms.unsigned_abs() / 1000));
        let so = match (ahead_ms > 0, self.median_ms) {
            (false, Some(median_ms)) if self.log_ms <= median_ms.saturating_add(JUMP_MAX_MS) => {
                "log time follows the voters' clocks, and this one is not like most of them: set this machine's clock".to_owned()
            }
            (false, _) => format!(
                "log time never goes back: it stands still, and with it every lease and timer, until the clocks of most voters have \
                 reached {log}. If that time is right, set this machine's clock"
            ),
            (true, Some(_)) => {
                "log time follows the median of the voters' clocks, which one clock does not move: set this machine's clock".to_owned()
            }
            (true, None) => format!(
                "a majority of the voters' clocks is not known, so log time runs at twice its pace at most, until about {}",
                date(self.own_ms.saturating_add(ahead_ms.unsigned_abs()))
            ),
        };
        let side = if ahead_ms > 0 { "ahead of" } else { "behind" };
        Some(format!("this node's clock says {own}, {difference} {side} log time, which is {log}; {so}"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_790_000_000_000;
    const DAY_MS: u64 = 86_400_000;

    fn compared(own_ms: u64, log_ms: u64, median_ms: Option<u64>) -> String {
        OwnClock { own_ms, log_ms, median_ms }.problem().unwrap_or_default()
    }

    #[test]
    fn a_minute_is_no_problem() {
        assert_eq!(compared(NOW_MS, NOW_MS, Some(NOW_MS)), "");
        assert_eq!(compared(NOW_MS + 60_000, NOW_MS, Some(NOW_MS)), "");
        assert_eq!(compared(NOW_MS - 60_000, NOW_MS, None), "");
    }

    #[test]
    fn what_is_wrong_is_said_with_both_times_by_how_much_and_until_when() {
        let (day, tomorrow) = (NOW_MS, NOW_MS + DAY_MS);
        let alone = compared(day, tomorrow, Some(tomorrow));
        assert!(
            alone.contains("2026-09-21T") && alone.contains("2026-09-22T") && alone.contains("1day behind"),
            "{alone}"
        );
        assert!(alone.contains("set this machine's clock") && !alone.contains("stands still"), "{alone}");
        for median in [Some(day), None] {
            let standing = compared(day, tomorrow, median);
            assert!(standing.contains("stands still") && standing.contains("have reached 2026-09-22T"), "{standing}");
        }
        let ahead = compared(tomorrow, day, Some(day));
        assert!(ahead.contains("1day ahead of") && ahead.contains("one clock does not move"), "{ahead}");
        let catching_up = compared(tomorrow, day, None);
        assert!(catching_up.contains("until about 2026-09-23T"), "{catching_up}");
    }

    #[test]
    fn no_clock_is_too_far_off_for_words() {
        assert!(compared(0, u64::MAX, None).contains("9999-12-31"));
        assert!(compared(u64::MAX, 0, None).contains("1970-01-01"));
        assert_eq!(OwnClock { own_ms: 0, log_ms: u64::MAX, median_ms: None }.ahead_ms(), i64::MIN);
    }
}
