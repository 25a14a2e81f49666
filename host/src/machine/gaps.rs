//! Remembers the gaps of a state: key ranges that hold no rows. RocksDB steps over the traces of
//! removed rows one by one. No fuel can be charged for that, because the traces differ between
//! nodes. A transaction therefore remembers each gap that a slow scan found, so that a guest that
//! scans the same gap again and again delays apply no longer than one that scans it once. This
//! module affects only the speed of a scan, never its result.
//!
//! - The gaps hold for one unchanging base. Code that changes the base must clear them.
//! - Gaps that touch are merged into one, so that one lookup is enough to pass them.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::time::{Duration, Instant};

use crate::store::{Column, Read, StoreError};

/// A step from row to row that takes longer than this has passed over removed rows. The limit is
/// far longer than a normal step from one row to the next.
const SLOW: Duration = Duration::from_micros(20);

/// The function that a scan calls with each key and value.
type Row<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Gaps by first key. The value is the end, exclusive; `None` means that the gap reaches past the
/// last key.
#[derive(Debug, Default)]
pub(super) struct Gaps(BTreeMap<Vec<u8>, Option<Vec<u8>>>);

impl Gaps {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Returns the gap with the greatest start within the bound `to`.
    fn last_from(&self, to: Bound<&[u8]>) -> Option<(&Vec<u8>, &Option<Vec<u8>>)> {
        self.0.range::<[u8], _>((Bound::Unbounded, to)).next_back()
    }

    /// Remembers that no row has `start <= key < end`.
    fn learn(&mut self, mut start: Vec<u8>, mut end: Option<Vec<u8>>) {
        if let Some((before, before_end)) = self.last_from(Bound::Included(&start))
            && before_end.as_ref().is_none_or(|before_end| *before_end >= start)
        {
            (start, end) = (before.clone(), later(before_end.clone(), end));
        }
        while let Some((next, next_end)) = self.0.range(start.clone()..).next()
            && end.as_ref().is_none_or(|end| next <= end)
        {
            let (next, next_end) = (next.clone(), next_end.clone());
            end = later(next_end, end);
            self.0.remove(&next);
        }
        self.0.insert(start, end);
    }

    /// Scans `data` of `base` as [`Read::scan`] does, but skips the known gaps.
    pub(super) fn scan<R: Read>(
        &mut self,
        base: &R,
        start: &[u8],
        end: Option<&[u8]>,
        reverse: bool,
        row: &mut Row<'_>,
    ) -> Result<(), StoreError> {
        let (mut start, mut end) = (start.to_vec(), end.map(<[u8]>::to_vec));
        while let Some((from, to)) = self.unknown(&start, end.as_ref(), reverse) {
            if self.scan_unknown(base, &from, to.as_ref(), reverse, row)?.is_break() {
                break;
            }
            match (reverse, to) {
                (true, _) => end = Some(from),
                (false, Some(to)) => start = to,
                (false, None) => break,
            }
        }
        Ok(())
    }

    /// Returns the first part of the range, in scan order, that is in no gap; `None` if no part is
    /// left.
    fn unknown(&self, start: &[u8], end: Option<&Vec<u8>>, reverse: bool) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
        let (mut from, mut to) = (start.to_vec(), end.cloned());
        if reverse {
            let before = to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            if let Some((gap, gap_end)) = self.last_from(before) {
                match gap_end {
                    Some(gap_end) if to.as_ref().is_none_or(|to| gap_end < to) => from = from.max(gap_end.clone()),
                    // The gap reaches the end of the range. No other gap touches it.
                    _ => {
                        to = Some(gap.clone());
                        let next = self.last_from(Bound::Excluded(gap));
                        from = from.max(next.and_then(|(_, end)| end.clone()).unwrap_or_default());
                    }
                }
            }
        } else {
            if let Some((_, gap_end)) = self.last_from(Bound::Included(&from)) {
                from = from.max(gap_end.clone()?);
            }
            let next = self.0.range::<[u8], _>((Bound::Included(from.as_slice()), Bound::Unbounded)).next();
            if let Some((next, _)) = next
                && to.as_ref().is_none_or(|to| next < to)
            {
                to = Some(next.clone());
            }
        }
        to.as_ref().is_none_or(|to| from < *to).then_some((from, to))
    }

    fn scan_unknown<R: Read>(
        &mut self,
        base: &R,
        start: &[u8],
        end: Option<&Vec<u8>>,
        reverse: bool,
        row: &mut Row<'_>,
    ) -> Result<ControlFlow<()>, StoreError> {
        // There are no rows between the last row (or the start of the scan) and the next row.
        let mut edge: Option<Vec<u8>> = if reverse { end.cloned() } else { Some(start.to_vec()) };
        let (mut learned, mut flow, mut at) = (Vec::new(), ControlFlow::Continue(()), Instant::now());
        base.scan(Column::Data, start, end.map(Vec::as_slice), reverse, &mut |key, value| {
            let now = Instant::now();
            let after = || [key, &[0]].concat();
            if now - at > SLOW {
                learned.push(match reverse {
                    true => (after(), edge.clone()),
                    false => (edge.clone().unwrap_or_default(), Some(key.to_vec())),
                });
            }
            at = now;
            let edge = edge.get_or_insert_default();
            edge.clear();
            edge.extend_from_slice(key);
            if !reverse {
                edge.push(0);
            }
            flow = row(key, value);
            flow
        })?;
        if flow.is_continue() && at.elapsed() > SLOW {
            learned.push(match reverse {
                true => (start.to_vec(), edge),
                false => (edge.unwrap_or_default(), end.cloned()),
            });
        }
        for (start, end) in learned {
            if end.as_ref().is_none_or(|end| start < *end) {
                self.learn(start, end);
            }
        }
        Ok(flow)
    }
}

fn later(a: Option<Vec<u8>>, b: Option<Vec<u8>>) -> Option<Vec<u8>> {
    Some(a?.max(b?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    /// A base with keys of one byte. Every row is as slow to reach as if many removed rows preceded
    /// it.
    struct Slow {
        rows: Vec<u8>,
        scans: Cell<usize>,
    }

    impl Read for Slow {
        fn get(&self, _: Column, _: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
            unreachable!("only scans are tested")
        }

        fn scan(
            &self,
            _: Column,
            start: &[u8],
            end: Option<&[u8]>,
            reverse: bool,
            row: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
        ) -> Result<(), StoreError> {
            self.scans.set(self.scans.get() + 1);
            let mut rows: Vec<[u8; 1]> = self.rows.iter().map(|key| [*key]).collect();
            rows.retain(|key| key.as_slice() >= start && end.is_none_or(|end| key.as_slice() < end));
            if reverse {
                rows.reverse();
            }
            let pause = || {
                let began = Instant::now();
                while began.elapsed() <= SLOW {}
            };
            for key in rows {
                pause();
                if row(&key, b"").is_break() {
                    return Ok(());
                }
            }
            pause();
            Ok(())
        }
    }

    fn keys(gaps: &mut Gaps, base: &Slow, start: &[u8], end: Option<&[u8]>, reverse: bool, limit: usize) -> Vec<u8> {
        let mut found = Vec::new();
        gaps.scan(base, start, end, reverse, &mut |key, _| {
            found.push(key[0]);
            if found.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        found
    }

    #[test]
    fn an_empty_stretch_is_looked_at_once() {
        let base = Slow { rows: vec![9, 200], scans: Cell::default() };
        let mut gaps = Gaps::default();
        assert_eq!(keys(&mut gaps, &base, &[10], Some(&[200]), false, 9), [0u8; 0]);
        assert_eq!(base.scans.get(), 1);
        for start in 10..200 {
            assert_eq!(keys(&mut gaps, &base, &[start], Some(&[200]), start % 2 == 0, 9), [0u8; 0]);
        }
        assert_eq!(base.scans.get(), 1);
        assert_eq!(keys(&mut gaps, &base, &[0], None, false, 9), [9, 200]);
        assert_eq!(keys(&mut gaps, &base, &[0], None, true, 1), [200]);
    }

    #[test]
    fn stretches_that_touch_are_one() {
        let mut gaps = Gaps::default();
        for (start, end) in [(10, 20), (30, 40), (20, 30), (5, 9), (38, 50)] {
            gaps.learn(vec![start], Some(vec![end]));
        }
        let found: Vec<_> = gaps.0.iter().map(|(start, end)| (start[0], end.as_ref().unwrap()[0])).collect();
        assert_eq!(found, [(5, 9), (10, 50)]);
        gaps.learn(vec![0], None);
        assert_eq!(gaps.0, [(vec![0], None)].into());
    }

    proptest! {
        #[test]
        fn scans_find_what_they_would_find_without(
            rows in proptest::collection::btree_set(any::<u8>(), 0..12),
            scans in proptest::collection::vec((any::<u8>(), any::<Option<u8>>(), any::<bool>(), 1usize..6), 1..20),
        ) {
            let base = Slow { rows: rows.into_iter().collect(), scans: Cell::default() };
            let mut gaps = Gaps::default();
            for (start, end, reverse, limit) in scans {
                let end = end.map(|end| [end]);
                let end = end.as_ref().map(<[u8; 1]>::as_slice);
                let expected = keys(&mut Gaps::default(), &base, &[start], end, reverse, limit);
                prop_assert_eq!(keys(&mut gaps, &base, &[start], end, reverse, limit), expected);
            }
        }
    }
}
