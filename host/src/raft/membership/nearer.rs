//! Decides whether a learner makes progress, so that the leader waits for one with a large state to
//! fetch and not for a broken one. Measures no time.

use crate::machine::SendAttempt;

/// Number of snapshot transfers to a learner that count as progress, each from its beginning.
const ATTEMPTS_WAITED_FOR: u32 = 8;

/// The progress of a learner so far. A point that was reached before does not count again. A few
/// snapshot transfers are the exception: the first ones may have broken. A learner that breaks all
/// of them must not be waited for.
#[derive(Default)]
pub(super) struct Nearer {
    matched: Option<u64>,
    attempt: u64,
    attempts: u32,
    steps: u64,
}

impl Nearer {
    /// Notes the progress and returns whether the learner is further than ever before.
    pub(super) fn came(&mut self, matched: Option<u64>, sending: Option<SendAttempt>) -> bool {
        let mut came = matched > self.matched;
        self.matched = self.matched.max(matched);
        if let Some(now) = sending {
            if now.number != self.attempt && now.steps > 0 {
                self.attempt = now.number;
                self.attempts += 1;
                if self.attempts <= ATTEMPTS_WAITED_FOR {
                    self.steps = 0;
                }
            }
            came |= now.steps > self.steps;
            self.steps = self.steps.max(now.steps);
        }
        came
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_learner_comes_nearer_by_entries_or_by_a_snapshot_and_not_by_breaking_it_for_ever() {
        let mut nearer = Nearer::default();
        assert!(!nearer.came(None, None));
        assert!(nearer.came(Some(5), None));
        assert!(!nearer.came(Some(5), None));
        let attempt = |number, steps| Some(SendAttempt { number, steps });
        assert!(!nearer.came(Some(5), attempt(1, 0)), "it was never heard of");
        assert!(nearer.came(Some(5), attempt(1, 10)));
        assert!(!nearer.came(Some(5), attempt(1, 10)), "stalled");
        for number in 2..=8 {
            assert!(nearer.came(Some(5), attempt(number, 3)));
        }
        for number in 9..20 {
            assert!(!nearer.came(Some(5), attempt(number, 3)));
        }
        assert!(nearer.came(Some(6), None));
    }
}
