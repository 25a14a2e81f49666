//! Computes the digest of a whole state, row by row. A snapshot's receiver must arrive at the same
//! digest. This module reads nothing but the state or the rows that the caller passes.

use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::Mutex;

use super::hash;
use super::overlay::Transaction;
use super::snapshot::frames::{Footer, row_head};
use super::snapshot::transfers::Transfer;
use crate::guest::{Page, Range, Rows, StoreFault};
use crate::store::{Column, Generation, Read, StoreError};

/// Rows between two progress steps of a transfer.
const ROWS_A_STEP: u64 = 1024;

/// A BLAKE3 hash over the rows of `data`, then of `system`. A tag precedes the rows of each column;
/// the rows are in key order.
#[derive(Clone)]
pub(super) struct Digester {
    hasher: blake3::Hasher,
    rows: u64,
}

impl Digester {
    /// Makes a digester that stands before the first row of `data`.
    pub(super) fn new() -> Digester {
        let mut digester = Digester { hasher: blake3::Hasher::new(), rows: 0 };
        digester.begin(Column::Data);
        digester
    }

    /// Begins a column: the rows that follow belong to it.
    pub(super) fn begin(&mut self, column: Column) {
        let tag = match column {
            Column::Data => hash::DATA,
            Column::System => hash::SYSTEM,
        };
        self.hasher.update(&[tag]);
    }

    pub(super) fn row(&mut self, key: &[u8], value: &[u8]) {
        self.hasher.update(&row_head(key, value)).update(key).update(value);
        self.rows += 1;
    }

    /// Adds all rows of a column. The caller must have begun that column.
    pub(super) fn scan(&mut self, state: &dyn Read, column: Column, transfer: &Transfer) -> Result<(), StoreError> {
        state.scan(column, &[], None, false, &mut |key, value| {
            self.row(key, value);
            if self.rows.is_multiple_of(ROWS_A_STEP) {
                transfer.step();
            }
            ControlFlow::Continue(())
        })
    }

    pub(super) fn finish(self) -> Footer {
        Footer { digest: self.hasher.finalize().into(), rows: self.rows }
    }
}

/// Computes the digest of everything in a state.
pub(super) fn digest(state: &dyn Read, transfer: &Transfer) -> Result<Footer, StoreError> {
    let mut digester = Digester::new();
    digester.scan(state, Column::Data, transfer)?;
    digester.begin(Column::System);
    digester.scan(state, Column::System, transfer)?;
    Ok(digester.finish())
}

/// Digests the rows that a guest reads while it writes its snapshot. If a guest reads all its rows
/// once and in order, the sender need not read them a second time. Pages that do not continue the
/// page before are left out.
pub(super) struct Seen {
    digester: Digester,
    /// Where the next page has to begin; `None` before the first page.
    next: Option<Vec<u8>>,
    whole: bool,
}

impl Seen {
    pub(super) fn new() -> Seen {
        Seen { digester: Digester::new(), next: None, whole: false }
    }

    /// Returns the digest of `data`, if all of its rows have passed.
    pub(super) fn whole(&self) -> Option<Digester> {
        self.whole.then(|| self.digester.clone())
    }

    fn continues(&self, range: &Range<'_>) -> bool {
        let at = match &self.next {
            Some(next) => next == range.start,
            // No key is empty, so both of these starts come before the first key.
            None => range.start.is_empty() || range.start == [0],
        };
        at && range.end.is_none() && !self.whole
    }

    fn page(&mut self, rows: &[(&[u8], &[u8])], more: bool) {
        for (key, value) in rows {
            self.digester.row(key, value);
        }
        if let Some((last, _)) = rows.last() {
            self.next = Some([last, &[0][..]].concat());
        }
        self.whole = !more;
    }
}

/// The store that a guest's `snapshot` function reads. It counts and digests what the guest reads.
pub(super) struct Watched {
    store: Transaction<Arc<Generation>>,
    seen: Arc<Mutex<Seen>>,
    transfer: Arc<Transfer>,
}

impl Watched {
    pub(super) fn new(generation: Arc<Generation>, seen: Arc<Mutex<Seen>>, transfer: Arc<Transfer>) -> Watched {
        Watched { store: Transaction::new(generation), seen, transfer }
    }
}

impl Rows for Watched {
    fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
        self.transfer.step();
        self.store.get(key)
    }

    fn scan(&mut self, range: Range<'_>, reverse: bool, limit: u32) -> Result<Page, StoreFault> {
        let page = self.store.scan(range, reverse, limit)?;
        let rows = rows_of(&page);
        self.transfer.passed(rows.len() as u64);
        let mut seen = self.seen.lock();
        if !reverse && seen.continues(&range) {
            seen.page(&rows, page.more);
        }
        drop((seen, rows));
        Ok(page)
    }

    // The sandbox refuses writes during a snapshot. Anything written here is discarded with the
    // transaction.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreFault> {
        self.store.put(key, value)
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), StoreFault> {
        self.store.remove(key)
    }

    fn remove_range(&mut self, range: Range<'_>, limit: u64) -> Result<u64, StoreFault> {
        self.store.remove_range(range, limit)
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

/// Splits a page into its rows. A page frames rows as snapshots do.
fn rows_of(page: &Page) -> Vec<(&[u8], &[u8])> {
    let mut rows = Vec::new();
    let mut rest = page.rows.as_slice();
    while let Some((key, value)) = super::snapshot::frames::split_row(rest) {
        rest = &rest[8 + key.len() + value.len()..];
        rows.push((key, value));
    }
    rows
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::{Batch, DataDir, State};

    /// Makes a state of many pages. Also returns the digest of its `data` column alone.
    fn state(place: &std::path::Path) -> (Arc<Generation>, Footer) {
        let state = State::open(&DataDir::open(place).unwrap(), 0).unwrap();
        let mut batch = Batch::new();
        for key in 0u32..600 {
            batch.put(Column::Data, &key.to_be_bytes(), &[7; 4_000]);
        }
        state.current().commit(&batch).unwrap();
        let mut digester = Digester::new();
        let transfer = Transfer::default();
        digester.scan(&*state.current(), Column::Data, &transfer).unwrap();
        (state.current(), digester.finish())
    }

    fn watched(generation: Arc<Generation>) -> (Watched, Arc<Mutex<Seen>>) {
        let seen = Arc::new(Mutex::new(Seen::new()));
        (Watched::new(generation, seen.clone(), Arc::default()), seen)
    }

    fn read_on(store: &mut Watched, start: &mut Vec<u8>) -> bool {
        let page = store.scan(Range { start, end: None }, false, 0).unwrap();
        if let Some((key, _)) = rows_of(&page).last() {
            *start = [key, &[0][..]].concat();
        }
        page.more
    }

    #[test]
    fn a_guest_that_reads_all_in_order_has_it_digested_on_the_way() {
        let place = tempfile::tempdir().unwrap();
        let (generation, footer) = state(place.path());
        let (mut store, seen) = watched(generation);
        let mut start = vec![0];
        while read_on(&mut store, &mut start) {
            assert!(seen.lock().whole().is_none());
            // Other reads of the guest change nothing.
            store.scan(Range { start: b"", end: Some(b"\x01") }, false, 0).unwrap();
            store.scan(Range { start: b"", end: None }, true, 1).unwrap();
        }
        assert_eq!(seen.lock().whole().unwrap().finish(), footer);
    }

    #[test]
    fn a_guest_that_leaves_rows_out_has_nothing_digested() {
        let place = tempfile::tempdir().unwrap();
        let (generation, _) = state(place.path());
        let (mut store, seen) = watched(generation);
        let mut start = vec![0];
        assert!(read_on(&mut store, &mut start));
        start = 300u32.to_be_bytes().to_vec();
        while read_on(&mut store, &mut start) {}
        assert!(seen.lock().whole().is_none());
    }
}
