//! A sample of the queries that this node answers, for rehearsals. It keeps some of the newest, in
//! memory alone. Noting a query never waits, and costs the other queries one addition.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

/// One in this many queries is kept.
const EVERY: u64 = 16;
/// Most queries that are kept.
const KEPT_MAX: usize = 64;
/// Most bytes of a query that is kept: method, request and caller.
const QUERY_BYTES_MAX: usize = 64 << 10;

/// A query that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sampled {
    /// The method, as `package.Service/Method`.
    pub(crate) method: String,
    /// The encoded request.
    pub(crate) request: Bytes,
    /// The authenticated client; empty if there is none.
    pub(crate) caller: String,
}

/// The newest of the sampled queries.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    asked: AtomicU64,
    newest: Mutex<VecDeque<Sampled>>,
}

impl Samples {
    /// Notes that a query is asked. Leaves it out if somebody else notes or reads at this moment.
    pub(crate) fn note(&self, method: &str, request: &[u8], caller: &str) {
        if !self.asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(EVERY)
            || method.len() + request.len() + caller.len() > QUERY_BYTES_MAX
        {
            return;
        }
        let Some(mut newest) = self.newest.try_lock() else { return };
        if newest.len() == KEPT_MAX {
            newest.pop_front();
        }
        // A copy: the request may be a part of a buffer that is much larger.
        let request = Bytes::copy_from_slice(request);
        newest.push_back(Sampled { method: method.to_owned(), request, caller: caller.to_owned() });
    }

    /// Returns the sampled queries, oldest first.
    pub(crate) fn newest(&self) -> Vec<Sampled> {
        self.newest.lock().iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_sixteen_is_kept_and_only_the_newest_of_these() {
        let samples = Samples::default();
        for number in 0u64..EVERY * (KEPT_MAX as u64 + 3) {
            samples.note("S/Get", &number.to_be_bytes(), "alice");
        }
        let kept = samples.newest();
        let number = |sampled: &Sampled| sampled.request.last_chunk().map(|bytes| u64::from_be_bytes(*bytes));
        assert_eq!(kept.len(), KEPT_MAX);
        assert_eq!(number(&kept[0]), Some(3 * EVERY));
        assert_eq!((number(&kept[1]), &*kept[1].caller), (Some(4 * EVERY), "alice"));
    }

    #[test]
    fn a_large_query_is_left_out_and_a_busy_sample_is_not_waited_for() {
        let samples = Samples::default();
        samples.note("S/Get", &vec![0; QUERY_BYTES_MAX], "");
        assert!(samples.newest().is_empty());
        let held = samples.newest.lock();
        for _ in 0..EVERY {
            samples.note("S/Get", b"", "");
        }
        drop(held);
        assert!(samples.newest().is_empty());
    }
}
