//! Where the entries of a replay come from: the log of a stopped node, or segments of a log, which
//! are an archive or were fetched. This file interprets no entry.

use std::ops::RangeInclusive;

use crate::store::{Segments, StoppedLog, StoreError, joined_runs};
use crate::types::Entry;

/// Most bytes of entries that are read at once, but at least one entry.
const READ_BYTES_MAX: usize = 4 << 20;

/// Entries that are there, one behind the other.
///
/// An implementation gives the same entries however often it is asked.
pub trait EntrySource {
    /// Returns the last run of entries without a gap that can be read; `None` if there is none.
    fn range(&self) -> Option<RangeInclusive<u64>>;
    /// Returns all runs of entries without a gap, in order.
    fn runs(&self) -> Vec<RangeInclusive<u64>> {
        self.range().into_iter().collect()
    }
    /// Reads entries from `from` on: at least one, or none behind the end.
    fn read(&self, from: u64) -> Result<Vec<Entry>, StoreError>;
}

impl EntrySource for StoppedLog {
    fn range(&self) -> Option<RangeInclusive<u64>> {
        StoppedLog::range(self)
    }

    fn read(&self, from: u64) -> Result<Vec<Entry>, StoreError> {
        StoppedLog::read(self, from, READ_BYTES_MAX)
    }
}

impl EntrySource for Segments {
    fn range(&self) -> Option<RangeInclusive<u64>> {
        Segments::range(self)
    }

    fn runs(&self) -> Vec<RangeInclusive<u64>> {
        Segments::runs(self)
    }

    fn read(&self, from: u64) -> Result<Vec<Entry>, StoreError> {
        Segments::read(self, from, READ_BYTES_MAX)
    }
}

/// A source of which nothing behind an index counts: what follows is not known to be committed.
pub struct Upto<S>(pub S, pub u64);

impl<S: EntrySource> EntrySource for Upto<S> {
    fn range(&self) -> Option<RangeInclusive<u64>> {
        let (first, last) = self.0.range()?.into_inner();
        let last = last.min(self.1);
        (first <= last).then_some(first..=last)
    }

    fn read(&self, from: u64) -> Result<Vec<Entry>, StoreError> {
        let mut entries = if from <= self.1 { self.0.read(from)? } else { Vec::new() };
        entries.retain(|entry| entry.log_id.index <= self.1);
        Ok(entries)
    }
}

/// Several sources of one log. Where they overlap, the first one counts.
pub struct Joined(pub Vec<Box<dyn EntrySource>>);

impl EntrySource for Joined {
    fn range(&self) -> Option<RangeInclusive<u64>> {
        self.runs().pop()
    }

    fn runs(&self) -> Vec<RangeInclusive<u64>> {
        joined_runs(self.0.iter().flat_map(|source| source.runs()).collect())
    }

    fn read(&self, from: u64) -> Result<Vec<Entry>, StoreError> {
        let has_it = |source: &dyn EntrySource| source.runs().iter().any(|run| run.contains(&from));
        let source = self.0.iter().find(|source| has_it(source.as_ref()));
        source.map_or_else(|| Ok(Vec::new()), |source| source.read(from))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use openraft::EntryPayload;

    use super::*;
    use crate::types::{CommittedLeaderId, LogId};

    /// Blank entries of a term, two at a time.
    struct Blanks(u64, RangeInclusive<u64>);

    impl EntrySource for Blanks {
        fn range(&self) -> Option<RangeInclusive<u64>> {
            Some(self.1.clone())
        }

        fn read(&self, from: u64) -> Result<Vec<Entry>, StoreError> {
            let leader_id = CommittedLeaderId { term: self.0, node_id: 1 };
            let entry = |index| Entry { log_id: LogId::new(leader_id, index), payload: EntryPayload::Blank };
            Ok((from..=*self.1.end()).take(2).map(entry).collect())
        }
    }

    fn joined(ranges: &[RangeInclusive<u64>]) -> Joined {
        let source = |(term, range): (u64, &RangeInclusive<u64>)| Box::new(Blanks(term, range.clone())) as _;
        Joined((1..).zip(ranges).map(source).collect())
    }

    #[test]
    fn sources_are_joined_as_far_as_they_reach_without_a_gap() {
        assert_eq!(joined(&[]).range(), None);
        assert_eq!(joined(&[5..=9, 0..=4, 8..=20]).range(), Some(0..=20));
        assert_eq!(joined(&[5..=9, 0..=3]).range(), Some(5..=9));
        assert_eq!(joined(&[0..=9, 3..=4]).range(), Some(0..=9));
        let source = joined(&[5..=9, 0..=4, 8..=20]);
        let terms = |from| -> Vec<(u64, u64)> {
            let read = source.read(from).unwrap();
            read.iter().map(|entry| (entry.log_id.index, entry.log_id.leader_id.term)).collect()
        };
        assert_eq!((terms(4), terms(9), terms(21)), (vec![(4, 2)], vec![(9, 1)], vec![]));
        assert_eq!(terms(10), [(10, 3), (11, 3)]);
        // What stands before a gap is read, too.
        let gap = joined(&[5..=9, 0..=3]);
        assert_eq!(gap.runs(), [0..=3, 5..=9]);
        assert_eq!((gap.read(3).unwrap().len(), gap.read(4).unwrap().len()), (1, 0));
    }

    /// Regression test: the uncommitted tail of a log was run where an archive has what was
    /// committed instead.
    #[test]
    fn nothing_counts_behind_the_last_committed_entry_of_a_log() {
        let log = || Upto(Blanks(1, 5..=20), 10);
        assert_eq!((log().range(), Upto(Blanks(1, 5..=20), 4).range()), (Some(5..=10), None));
        let indexes = |read: Vec<Entry>| read.iter().map(|entry| entry.log_id.index).collect::<Vec<_>>();
        assert_eq!(indexes(log().read(10).unwrap()), [10]);
        assert!(log().read(11).unwrap().is_empty());
        let both = Joined(vec![Box::new(Blanks(2, 0..=15)), Box::new(log())]);
        assert_eq!(both.range(), Some(0..=15));
        assert!(both.read(12).unwrap().iter().all(|entry| entry.log_id.leader_id.term == 2));
        assert!(both.read(16).unwrap().is_empty());
    }
}
