//! The histograms that openraft records the sizes of its batches in. This crate stands in for the
//! one of the same name. With the first histogram of a process, that one makes tables for sixteen
//! precisions, which have 27 MB. openraft uses one of them, and no node reads its figures: they
//! belong to openraft's feature `runtime-stats`, which is off.
//!
//! It has what openraft calls, and no more. A build against a version that calls more fails.

use std::fmt;
use std::marker::PhantomData;

/// One bucket for zero, and one for each number of significant bits.
const BUCKETS: usize = u64::BITS as usize + 1;

/// Counts values by their number of significant bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    buckets: [u64; BUCKETS],
    slots: PhantomData<T>,
}

impl<T> Histogram<T> {
    /// Returns a histogram without values.
    #[allow(clippy::new_without_default, reason = "openraft makes none by default")]
    pub fn new() -> Histogram<T> {
        Histogram { buckets: [0; BUCKETS], slots: PhantomData }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value `count` times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        let bucket = &mut self.buckets[bucket(value)];
        *bucket = bucket.saturating_add(count);
    }

    /// Returns how many values were counted.
    pub fn total(&self) -> u64 {
        self.buckets.iter().fold(0, |total, count| total.saturating_add(*count))
    }

    /// Returns the values below which certain shares of all values are.
    ///
    /// Each is the largest value of its bucket, and so at most twice the true one. Without values,
    /// each is 0.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.at_permille(1),
            p1: self.at_permille(10),
            p5: self.at_permille(50),
            p10: self.at_permille(100),
            p50: self.at_permille(500),
            p90: self.at_permille(900),
            p99: self.at_permille(990),
            p99_9: self.at_permille(999),
        }
    }

    fn at_permille(&self, permille: u64) -> u64 {
        let rank = (u128::from(self.total()) * u128::from(permille)).div_ceil(1000).max(1);
        let mut below = 0;
        let is_reached = |count: &u64| {
            below += u128::from(*count);
            below >= rank
        };
        self.buckets.iter().position(is_reached).map_or(0, largest)
    }
}

/// Returns the bucket of a value.
fn bucket(value: u64) -> usize {
    (u64::BITS - value.leading_zeros()) as usize
}

/// Returns the largest value of a bucket.
fn largest(bucket: usize) -> u64 {
    match bucket {
        0 => 0,
        bits => u64::MAX >> (BUCKETS - 1 - bits),
    }
}

/// Values below which certain shares of all values of a histogram are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PercentileStats {
    /// How many values were counted.
    pub samples: u64,
    /// One value in a thousand is not above this.
    pub p0_1: u64,
    /// One in a hundred is not above this.
    pub p1: u64,
    /// One in twenty is not above this.
    pub p5: u64,
    /// One in ten is not above this.
    pub p10: u64,
    /// A half is not above this.
    pub p50: u64,
    /// Nine in ten are not above this.
    pub p90: u64,
    /// 99 in a hundred are not above this.
    pub p99: u64,
    /// 999 in a thousand are not above this.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PercentileStats { samples, p50, p99, .. } = self;
        write!(f, "{samples} values, half of them up to {p50}, 99 % up to {p99}")
    }
}

/// Stands for a chart of histograms. openraft prints it with `runtime-stats` alone, so nothing is
/// kept.
#[derive(Debug)]
pub struct AsciiChart;

impl AsciiChart {
    /// Returns a chart.
    #[allow(clippy::new_without_default, reason = "openraft makes none by default")]
    pub fn new() -> AsciiChart {
        AsciiChart
    }

    /// Takes a histogram that belongs to the chart.
    #[allow(clippy::should_implement_trait, reason = "the name that openraft calls")]
    #[must_use]
    pub fn add(self, _name: &'static str, _histogram: Histogram) -> AsciiChart {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_counted_in_the_bucket_of_its_bits() {
        for (value, expected, up_to) in
            [(0, 0, 0), (1, 1, 1), (2, 2, 3), (3, 2, 3), (4, 3, 7), (1 << 63, 64, u64::MAX), (u64::MAX, 64, u64::MAX)]
        {
            assert_eq!((bucket(value), largest(bucket(value))), (expected, up_to), "{value}");
        }
    }

    #[test]
    fn shares_are_those_of_the_values() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats().p99_9, 0);
        histogram.record_n(5, 98);
        (0..2).for_each(|_| histogram.record(1000));
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p0_1, stats.p50, stats.p90), (100, 7, 7, 7));
        assert_eq!((stats.p99, stats.p99_9), (1023, 1023));
        assert_eq!(stats.to_string(), "100 values, half of them up to 7, 99 % up to 1023");
    }
}
