//! One transaction over the guest's keys: its own writes on top of the stored rows. This module
//! never writes to the disk; the owner of the transaction turns its write set into a batch.
//!
//! - Reads see the transaction's own writes.
//! - `rollback` returns exactly to the last `savepoint`. A savepoint always exists, because the
//!   beginning of the transaction is one.
//! - The write set is sorted, with each key once.

use std::any::Any;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::btree_map;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use super::gaps::Gaps;
use crate::guest::{Page, Range, Rows, StoreFault};
use crate::store::{Column, Read, StoreError};

impl<R: Read + ?Sized> Read for Arc<R> {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        (**self).get(column, key)
    }

    fn scan(
        &self,
        column: Column,
        start: &[u8],
        end: Option<&[u8]>,
        reverse: bool,
        row: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        (**self).scan(column, start, end, reverse, row)
    }
}

/// The function that a scan calls with each key and value.
type Row<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// A written value; `None` is a removed key.
type Value = Option<Vec<u8>>;

/// Bytes of memory that a write takes beside its key and value, roughly.
pub(crate) const WRITE_OVERHEAD_BYTES: u64 = 128;

/// Writes on top of `base`, which can be rolled back to the last savepoint.
pub(crate) struct Transaction<R> {
    base: R,
    writes: BTreeMap<Vec<u8>, Value>,
    /// What `writes` held before each write since the savepoint, oldest first.
    undo: Vec<(Vec<u8>, Option<Value>)>,
    /// Removed keys that the last scan or removal of a range passed over.
    passed_over: u64,
    /// Bytes of the keys and values of all writes so far. A removed key counts as its length.
    written_bytes: u64,
    /// Writes so far. A key counts as often as it was written.
    write_count: u64,
    gaps: Gaps,
}

impl<R: Read> Transaction<R> {
    pub(crate) fn new(base: R) -> Self {
        Transaction {
            base,
            writes: BTreeMap::new(),
            undo: Vec::new(),
            passed_over: 0,
            written_bytes: 0,
            write_count: 0,
            gaps: Gaps::default(),
        }
    }

    /// Returns the bytes of the keys and values of all writes so far. A key counts as often as it
    /// was written; a removed key counts as its length.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Returns roughly the bytes of memory that all writes so far take: to those that
    /// [`written_bytes`](Self::written_bytes) counts, each adds [`WRITE_OVERHEAD_BYTES`].
    pub(crate) fn held_bytes(&self) -> u64 {
        self.written_bytes + self.write_count * WRITE_OVERHEAD_BYTES
    }

    /// Makes the writes so far permanent within the transaction.
    pub(crate) fn savepoint(&mut self) {
        self.undo.clear();
    }

    /// Undoes all writes since the last savepoint.
    pub(crate) fn rollback(&mut self) {
        while let Some((key, before)) = self.undo.pop() {
            match before {
                Some(value) => self.writes.insert(key, value),
                None => self.writes.remove(&key),
            };
        }
    }

    /// Returns the write set, in key order.
    pub(crate) fn into_writes(self) -> BTreeMap<Vec<u8>, Value> {
        self.writes
    }

    /// Takes the write set out and leaves an empty one. Correct only once `base` holds those
    /// writes.
    pub(crate) fn take_writes(&mut self) -> BTreeMap<Vec<u8>, Value> {
        self.undo.clear();
        self.gaps.clear();
        std::mem::take(&mut self.writes)
    }

    fn write(&mut self, key: &[u8], value: Value) {
        self.written_bytes += (key.len() + value.as_ref().map_or(0, Vec::len)) as u64;
        self.write_count += 1;
        let before = self.writes.insert(key.to_vec(), value);
        self.undo.push((key.to_vec(), before));
    }

    /// Calls `row` with each row of the range in order, own writes included. Ends early when `row`
    /// returns `Break`. Returns the number of keys that were passed over because this transaction
    /// removed them.
    fn rows(&mut self, range: Range<'_>, reverse: bool, row: &mut Row<'_>) -> Result<u64, StoreError> {
        if range.is_empty() {
            return Ok(0);
        }
        let mut own = OwnRows::new(&self.writes, range, reverse);
        let mut stopped = false;
        self.gaps.scan(&self.base, range.start, range.end, reverse, &mut |key, value| {
            let mut flow = own.before(key, row);
            if flow.is_continue() {
                flow = match own.take_equal(key) {
                    Some(Some(newer)) => row(key, newer),
                    Some(None) => {
                        own.passed_over += 1;
                        ControlFlow::Continue(())
                    }
                    None => row(key, value),
                };
            }
            stopped = flow.is_break();
            flow
        })?;
        if !stopped {
            let _stopped_or_done = own.rest(row);
        }
        Ok(own.passed_over)
    }
}

/// The transaction's own writes in a range, in scan order. The caller merges them with the rows of
/// `base`.
struct OwnRows<'a> {
    range: btree_map::Range<'a, Vec<u8>, Value>,
    next: Option<(&'a Vec<u8>, &'a Value)>,
    reverse: bool,
    /// Removed keys passed over so far.
    passed_over: u64,
}

impl<'a> OwnRows<'a> {
    fn new(writes: &'a BTreeMap<Vec<u8>, Value>, range: Range<'_>, reverse: bool) -> Self {
        let end = range.end.map_or(Bound::Unbounded, Bound::Excluded);
        let range = writes.range::<[u8], _>((Bound::Included(range.start), end));
        let mut own = OwnRows { range, next: None, reverse, passed_over: 0 };
        own.advance();
        own
    }

    fn advance(&mut self) {
        self.next = if self.reverse { self.range.next_back() } else { self.range.next() };
    }

    fn is_before(&self, key: &[u8], other: &[u8]) -> bool {
        key.cmp(other) == if self.reverse { Ordering::Greater } else { Ordering::Less }
    }

    /// Passes the own rows that come before `key` to `row`.
    fn before(&mut self, key: &[u8], row: &mut Row<'_>) -> ControlFlow<()> {
        while let Some((own, value)) = self.next.filter(|(own, _)| self.is_before(own, key)) {
            self.advance();
            match value {
                Some(value) => row(own, value)?,
                None => self.passed_over += 1,
            }
        }
        ControlFlow::Continue(())
    }

    /// Takes this transaction's own write to `key`, if there is one.
    fn take_equal(&mut self, key: &[u8]) -> Option<&'a Value> {
        let (_, value) = self.next.filter(|(own, _)| own.as_slice() == key)?;
        self.advance();
        Some(value)
    }

    fn rest(&mut self, row: &mut Row<'_>) -> ControlFlow<()> {
        while let Some((own, value)) = self.next {
            self.advance();
            match value {
                Some(value) => row(own, value)?,
                None => self.passed_over += 1,
            }
        }
        ControlFlow::Continue(())
    }
}

/// Collects rows into a page until it has `limit` rows (0: no limit) or is full.
pub(crate) struct Pager {
    pub(crate) page: Page,
    rows: u32,
    limit: u32,
    /// The last key in the page.
    pub(crate) last: Option<Vec<u8>>,
}

impl Pager {
    pub(crate) fn new(limit: u32) -> Self {
        Pager { page: Page::default(), rows: 0, limit, last: None }
    }

    pub(crate) fn row(&mut self, key: &[u8], value: &[u8]) -> ControlFlow<()> {
        if self.limit != 0 && self.rows == self.limit {
            self.page.more = true;
            return ControlFlow::Break(());
        }
        if !self.page.push(key, value) {
            return ControlFlow::Break(());
        }
        self.rows += 1;
        self.last = Some(key.to_vec());
        ControlFlow::Continue(())
    }
}

pub(crate) fn fault(error: StoreError) -> StoreFault {
    StoreFault(error.to_string())
}

impl<R: Read + Send + 'static> Rows for Transaction<R> {
    fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
        match self.writes.get(key) {
            Some(own) => Ok(own.clone()),
            None => self.base.get(Column::Data, key).map_err(fault),
        }
    }

    fn scan(&mut self, range: Range<'_>, reverse: bool, limit: u32) -> Result<Page, StoreFault> {
        let mut pager = Pager::new(limit);
        self.passed_over = self.rows(range, reverse, &mut |key, value| pager.row(key, value)).map_err(fault)?;
        Ok(pager.page)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreFault> {
        self.write(key, Some(value.to_vec()));
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), StoreFault> {
        self.write(key, None);
        Ok(())
    }

    fn remove_range(&mut self, range: Range<'_>, limit: u64) -> Result<u64, StoreFault> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        let counted = self.rows(range, false, &mut |key, _| {
            if limit != 0 && keys.len() as u64 == limit {
                return ControlFlow::Break(());
            }
            keys.push(key.to_vec());
            ControlFlow::Continue(())
        });
        self.passed_over = counted.map_err(fault)?;
        for key in &keys {
            self.write(key, None);
        }
        Ok(keys.len() as u64)
    }

    fn passed_over(&mut self) -> u64 {
        std::mem::take(&mut self.passed_over)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "overlay_tests.rs"]
mod tests;
