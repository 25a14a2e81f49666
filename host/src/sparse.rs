//! Log lines that anybody who can reach a port can cause: at most one a second of a kind, and it says how many were left out. Decides
//! nothing else, and counts nothing that a metric should.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Between two lines of one kind.
const INTERVAL: Duration = Duration::from_secs(1);

/// One kind of line.
#[derive(Debug, Default)]
pub struct Sparse(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    last: Option<Instant>,
    left_out: u64,
}

impl Sparse {
    /// How many lines were left out since the last one, when another one is due now.
    pub fn due(&self) -> Option<u64> {
        self.due_at(Instant::now())
    }

    fn due_at(&self, now: Instant) -> Option<u64> {
        let mut said = self.0.lock();
        if said.last.is_some_and(|last| now.saturating_duration_since(last) < INTERVAL) {
            said.left_out += 1;
            return None;
        }
        said.last = Some(now);
        Some(std::mem::take(&mut said.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_says_how_many_were_left_out() {
        let (sparse, start) = (Sparse::default(), Instant::now());
        assert_eq!(sparse.due_at(start), Some(0));
        for _ in 0..7 {
            assert_eq!(sparse.due_at(start + INTERVAL / 2), None);
        }
        assert_eq!(sparse.due_at(start + INTERVAL), Some(7));
        assert_eq!(sparse.due_at(start + 2 * INTERVAL), Some(0));
    }
}
