//! How long no write was acknowledged around a change, as the clients saw it.

use std::time::Duration;

use crate::torture::history::{Operation, Outcome};

/// Returns the longest time between two acknowledged writes next to each other, of those that reach
/// into the time from `from` to `to` of the run's clock.
pub fn longest(history: &[Operation], from: u64, to: u64) -> Duration {
    let wrote = |operation: &&Operation| matches!(operation.outcome, Outcome::Wrote(..));
    let mut times: Vec<u64> = history.iter().filter(wrote).map(|operation| operation.returned).collect();
    times.sort_unstable();
    let pauses = times.windows(2).filter(|pair| pair[1] >= from && pair[0] <= to).map(|pair| pair[1] - pair[0]);
    Duration::from_nanos(pauses.max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torture::history::{Kind, Record, Stamp};

    fn wrote(returned: u64) -> Operation {
        let record = Record { token: returned, stamp: Stamp { index: returned, position: 0 }, version: 1 };
        let outcome = Outcome::Wrote(record, None);
        Operation { client: 0, node: 0, key: 0, kind: Kind::Put(returned), invoked: returned - 1, returned, outcome }
    }

    #[test]
    fn only_pauses_that_reach_into_the_change_count() {
        let mut history: Vec<Operation> = [10, 900, 20, 30, 130, 140].map(wrote).to_vec();
        assert_eq!(longest(&history, 25, 125), Duration::from_nanos(100));
        assert_eq!(longest(&history, 131, 139), Duration::from_nanos(10));
        assert_eq!(longest(&history, 25, 200), Duration::from_nanos(760));
        // A write without an answer proves nothing.
        history[1].outcome = Outcome::Maybe;
        assert_eq!(longest(&history, 25, 200), Duration::from_nanos(100));
        assert_eq!(longest(&[], 0, 10), Duration::ZERO);
    }
}
