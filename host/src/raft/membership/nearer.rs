//! Whether a learner comes nearer, so that one with a large state to fetch is waited for and a broken one is not. Measures no time.

use crate::machine::Attempt;

/// Attempts to send a learner a snapshot that count as progress, each from its beginning.
const ATTEMPTS_WAITED_FOR: u32 = 8;

/// How far a learner has come. What was reached before does not count again, but for a few attempts to send it a snapshot: the
/// first ones may have broken, and a learner that breaks all of them must not be waited for.
#[derive(Default)]
pub(super) struct Nearer {
    matched: Option<u64>,
    attempt: u64,
    attempts: u32,
    steps: u64,
}

impl Nearer {
    /// Whether it is nearer than ever before.
    pub(super) fn came(&mut self, matched: Option<u64>, sending: Option<Attempt>) -> bool {
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
        let attempt = |number, steps| Some(Attempt { number, steps });
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
