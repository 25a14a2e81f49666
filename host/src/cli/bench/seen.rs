//! What a run has seen: the latencies of its calls in HDR histograms, and its errors. It calls
//! nothing and prints nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use parking_lot::Mutex;

/// Histograms that calls record in by turns, so that they seldom wait for each other.
const SHARDS: usize = 16;
/// The largest latency. A longer one is recorded as this one.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;
/// Every latency is recorded to a thousandth of itself.
const DIGITS: u8 = 3;
/// Most different errors that are kept apart. Errors may hold numbers that differ each time.
const ERROR_KINDS_MAX: usize = 20;
/// What further errors are counted as.
const OTHER_ERRORS: &str = "other errors";

/// Gathers, from many tasks.
pub(super) struct Seen {
    shards: Vec<Mutex<Histogram<u64>>>,
    errors: Mutex<Errors>,
}

/// How often each error came, by code and message.
pub(super) type Errors = BTreeMap<String, u64>;

impl Seen {
    pub(super) fn new() -> anyhow::Result<Seen> {
        let shards = (0..SHARDS).map(|_| histogram().map(Mutex::new)).collect::<anyhow::Result<_>>()?;
        Ok(Seen { shards, errors: Mutex::default() })
    }

    /// Records a call that was answered. `task` spreads the tasks over the histograms.
    pub(super) fn answered(&self, task: usize, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(LATENCY_NS_MAX);
        self.shards[task % SHARDS].lock().saturating_record(nanos);
    }

    /// Counts errors of one kind.
    pub(super) fn failed(&self, error: String, count: u64) {
        let mut errors = self.errors.lock();
        let is_full = errors.len() >= ERROR_KINDS_MAX && !errors.contains_key(&error);
        let kind = if is_full { OTHER_ERRORS.to_owned() } else { error };
        *errors.entry(kind).or_default() += count;
    }

    /// Returns how many calls were answered so far, and how many errors came.
    pub(super) fn counts(&self) -> (u64, u64) {
        let answered = self.shards.iter().map(|shard| shard.lock().len()).sum();
        (answered, self.errors.lock().values().sum())
    }

    /// Returns all latencies, in nanoseconds, and the errors.
    pub(super) fn take(&self) -> anyhow::Result<(Histogram<u64>, Errors)> {
        let mut all = histogram()?;
        for shard in &self.shards {
            all.add(&*shard.lock()).context("the latencies do not fit together")?;
        }
        Ok((all, std::mem::take(&mut *self.errors.lock())))
    }
}

fn histogram() -> anyhow::Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS).context("no histogram has these bounds")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn latencies_of_all_tasks_come_together() {
        let seen = Seen::new().unwrap();
        (1..=1000).for_each(|millis| seen.answered(millis, Duration::from_millis(millis as u64)));
        assert_eq!(seen.counts(), (1000, 0));
        let (latencies, _) = seen.take().unwrap();
        assert_eq!(latencies.len(), 1000);
        for (quantile, millis) in [(0.5, 500u64), (0.99, 990), (1.0, 1000)] {
            let value = latencies.value_at_quantile(quantile);
            let expected = millis * 1_000_000;
            assert!(value.abs_diff(expected) <= expected / 1000, "{quantile}: {value}");
        }
    }

    #[test]
    fn a_latency_beyond_the_bounds_is_the_largest_one() {
        let seen = Seen::new().unwrap();
        seen.answered(0, Duration::MAX);
        seen.answered(0, Duration::ZERO);
        let (latencies, _) = seen.take().unwrap();
        assert!(latencies.len() == 2 && latencies.max() >= LATENCY_NS_MAX, "{}", latencies.max());
    }

    #[test]
    fn errors_that_all_differ_are_not_kept_apart_for_ever() {
        let seen = Seen::new().unwrap();
        (0..100).for_each(|number| seen.failed(format!("UNAVAILABLE: {number}"), 1));
        seen.failed("UNAVAILABLE: 1".into(), 2);
        let (_, errors) = seen.take().unwrap();
        assert_eq!(errors.len(), ERROR_KINDS_MAX + 1);
        assert_eq!((errors[OTHER_ERRORS], errors["UNAVAILABLE: 1"]), (80, 3));
    }
}
