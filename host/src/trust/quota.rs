//! Counts calls against the quotas of a policy. It has no clock; its user passes the time. What it
//! remembers is bounded: a subject that has not called for a second has its whole quota, and is
//! forgotten when room is needed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bucket::Bucket;

/// Most subjects, counted once for each of their grants, that are remembered. Some 100 bytes each.
const REMEMBERED_MAX: usize = 16_384;

/// The calls of the last second. The key is the number of a grant, and a subject.
#[derive(Debug, Default)]
pub(super) struct Quotas {
    buckets: HashMap<(usize, Option<Arc<str>>), Bucket>,
}

impl Quotas {
    /// Returns how many are remembered, and how many may be.
    pub(super) fn remembered(&self) -> (usize, usize) {
        (self.buckets.len(), REMEMBERED_MAX)
    }

    /// Takes one call of the quota of a grant, or returns how long to wait for it.
    pub(super) fn take(
        &mut self,
        grant: usize,
        subject: Option<&Arc<str>>,
        per_second: u32,
        now: Instant,
    ) -> Result<(), Duration> {
        let key = (grant, subject.cloned());
        if let Some(bucket) = self.buckets.get_mut(&key) {
            return bucket.take(per_second, now);
        }
        if self.buckets.len() >= REMEMBERED_MAX {
            self.buckets.retain(|_, bucket| !bucket.is_full(now));
        }
        if self.buckets.len() >= REMEMBERED_MAX {
            // So many subjects have called within this second.
            return Err(Duration::from_secs(1));
        }
        let mut bucket = Bucket::full(per_second, now);
        let taken = bucket.take(per_second, now);
        self.buckets.insert(key, bucket);
        taken
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn name(name: &str) -> Arc<str> {
        name.into()
    }

    #[test]
    fn a_quota_has_one_seconds_worth_at_once_and_says_how_long_to_wait() {
        let (mut quotas, start) = (Quotas::default(), Instant::now());
        let shop = name("shop");
        let mut take = |after_ms| quotas.take(0, Some(&shop), 4, start + Duration::from_millis(after_ms));
        for _ in 0..4 {
            assert_eq!(take(0), Ok(()));
        }
        assert_eq!(take(0), Err(Duration::from_millis(250)));
        assert_eq!(take(125), Err(Duration::from_millis(125)));
        assert_eq!(take(250), Ok(()));
        assert!(take(250).is_err());
        for _ in 0..4 {
            assert_eq!(take(60_000), Ok(()), "a quiet minute is worth one second");
        }
        assert!(take(60_000).is_err());
        assert!(take(0).is_err(), "a clock that goes back gives nothing");
    }

    #[test]
    fn each_subject_has_its_own_quota_of_each_grant() {
        let (mut quotas, now) = (Quotas::default(), Instant::now());
        let (one, other) = (name("one"), name("other"));
        assert!(quotas.take(0, Some(&one), 1, now).is_ok());
        assert!(quotas.take(0, Some(&one), 1, now).is_err());
        assert!(quotas.take(1, Some(&one), 1, now).is_ok());
        assert!(quotas.take(0, Some(&other), 1, now).is_ok());
        assert!(quotas.take(0, None, 1, now).is_ok());
        assert!(quotas.take(0, None, 1, now).is_err());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut quotas, now) = (Quotas::default(), Instant::now());
        for number in 0..REMEMBERED_MAX {
            assert!(quotas.take(0, Some(&name(&number.to_string())), 1, now).is_ok());
        }
        assert_eq!(quotas.take(0, Some(&name("one more")), 1, now), Err(Duration::from_secs(1)));
        let later = now + Duration::from_secs(1);
        assert!(quotas.take(0, Some(&name("one more")), 1, later).is_ok());
        assert_eq!(quotas.buckets.len(), 1);
    }
}
