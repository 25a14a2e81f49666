//! When the files of a state that is above its quota may be rewritten again. It rewrites nothing:
//! `tidying` does.

use std::time::{Duration, Instant};

/// Shortest time between two times that the state is rewritten because it is above its quota.
const TIDYING_PAUSE: Duration = Duration::from_secs(5);
/// The state is rewritten at most for this part of the time: the pause is so many times as long as
/// the last rewriting.
const TIDYING_PART: u32 = 10;

/// When the state was rewritten last because it is above its quota.
#[derive(Debug, Default)]
pub(crate) struct Tidying {
    is_under_way: bool,
    /// The index up to which entries were applied when it began.
    index: Option<u64>,
    /// When the next one may begin.
    not_before: Option<Instant>,
}

impl Tidying {
    /// Begins one, if none is under way, the last is long enough ago, and something was applied
    /// since it began.
    pub(super) fn begin(&mut self, index: u64, now: Instant) -> bool {
        let is_due = self.not_before.is_none_or(|time| now >= time) && self.index != Some(index);
        let begins = is_due && !self.is_under_way;
        if begins {
            (self.is_under_way, self.index) = (true, Some(index));
        }
        begins
    }

    pub(super) fn end(&mut self, began: Instant, now: Instant) {
        let took = now.saturating_duration_since(began);
        self.is_under_way = false;
        self.not_before = Some(now + TIDYING_PAUSE.max(took * TIDYING_PART));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_rewritten_once_at_a_time_and_for_a_small_part_of_it() {
        let (mut tidying, began) = (Tidying::default(), Instant::now());
        let after = |ms: u64| began + Duration::from_millis(ms);
        assert!(tidying.begin(7, began));
        assert!(!tidying.begin(8, after(60_000)), "one is under way");
        tidying.end(began, after(100));
        assert!(!tidying.begin(8, after(5_099)), "too soon");
        assert!(!tidying.begin(7, after(5_100)), "nothing was applied since");
        assert!(tidying.begin(8, after(5_100)));
        tidying.end(after(5_100), after(8_100));
        assert!(!tidying.begin(9, after(38_099)) && tidying.begin(9, after(38_100)), "it took three seconds");
    }
}
