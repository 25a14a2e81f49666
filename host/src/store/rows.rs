//! Rows of the state: columns, reads, and batches of changes. Opens nothing.

use std::ops::ControlFlow;
use std::path::Path;

use rocksdb::{DBAccess, DBRawIteratorWithThreadMode, ReadOptions};

use super::columns::{DATA, SYSTEM};
use super::{StoreError, open_files};

/// The owner of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Column {
    /// The guest's rows.
    Data,
    /// The host's rows: applied position, membership, log time, hash, genesis, counters.
    System,
}

impl Column {
    pub(super) fn family(self) -> &'static str {
        match self {
            Column::Data => DATA,
            Column::System => SYSTEM,
        }
    }
}

/// A function that a scan calls with each key and value, until it breaks.
pub type Row<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// A state that can be read: the newest one, or one pinned at a moment.
pub trait Read {
    /// Returns the value of a key.
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Calls `row` with each key and value of `[start, end)` in key order, until it breaks.
    ///
    /// With `reverse` the order is reversed. Without `end` the range goes to the last key.
    fn scan(
        &self,
        column: Column,
        start: &[u8],
        end: Option<&[u8]>,
        reverse: bool,
        row: Row<'_>,
    ) -> Result<(), StoreError>;
}

/// Changes that become visible together. They take effect in the order of the calls: of two changes
/// of one key the later wins.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    changes: Vec<Change>,
}

#[derive(Clone, Copy, Debug)]
struct Change {
    column: Column,
    key_bytes: usize,
    /// `None` removes the key.
    value_bytes: Option<usize>,
}

impl Batch {
    /// Makes an empty batch.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Sets a key.
    pub fn put(&mut self, column: Column, key: &[u8], value: &[u8]) {
        self.bytes.extend(key);
        self.bytes.extend(value);
        self.changes.push(Change { column, key_bytes: key.len(), value_bytes: Some(value.len()) });
    }

    /// Removes a key. A missing key is no error.
    pub fn remove(&mut self, column: Column, key: &[u8]) {
        self.bytes.extend(key);
        self.changes.push(Change { column, key_bytes: key.len(), value_bytes: None });
    }

    /// Returns the number of changes.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Returns whether there are no changes.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Returns the bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Returns column, key, and the value or `None` for a removal, in order.
    pub fn changes(&self) -> impl Iterator<Item = (Column, &[u8], Option<&[u8]>)> {
        let mut rest = self.bytes.as_slice();
        self.changes.iter().map(move |change| {
            let (key, tail) = rest.split_at(change.key_bytes);
            let (value, tail) = tail.split_at(change.value_bytes.unwrap_or(0));
            rest = tail;
            (change.column, key, change.value_bytes.map(|_| value))
        })
    }
}

/// Returns read options for `[start, end)`. RocksDB then reads no key outside.
pub(super) fn bounded(start: &[u8], end: Option<&[u8]>) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(start);
    if let Some(end) = end {
        options.set_iterate_upper_bound(end);
    }
    options
}

/// Walks the rows of `[start, end)` on an iterator that `open` makes.
///
/// When a file could not be opened for lack of a descriptor, it waits and continues after the last
/// row on a new iterator.
pub(super) fn walk<'a, D: DBAccess + 'a>(
    open: impl Fn(ReadOptions) -> DBRawIteratorWithThreadMode<'a, D>,
    path: &Path,
    (start, end): (&[u8], Option<&[u8]>),
    reverse: bool,
    row: Row<'_>,
) -> Result<(), StoreError> {
    let mut last: Option<Vec<u8>> = None;
    loop {
        let rows = match &last {
            None => open(bounded(start, end)),
            Some(last) if reverse => open(bounded(start, Some(last))),
            Some(last) => open(bounded(&[last, &[0][..]].concat(), end)),
        };
        match walk_once(rows, reverse, row, &mut last).map_err(StoreError::rocks("scan", path)) {
            Err(error) if error.lacks_descriptor() => open_files::wait(&error),
            walked => return walked,
        }
    }
}

/// Walks the rows of one iterator. When it fails, `last` holds the key of the last row, if there
/// was one.
fn walk_once<D: DBAccess>(
    mut rows: DBRawIteratorWithThreadMode<'_, D>,
    reverse: bool,
    row: Row<'_>,
    last: &mut Option<Vec<u8>>,
) -> Result<(), rocksdb::Error> {
    if reverse {
        rows.seek_to_last();
    } else {
        rows.seek_to_first();
    }
    while let Some((key, value)) = rows.item() {
        let handed_over = last.get_or_insert_default();
        handed_over.clear();
        handed_over.extend_from_slice(key);
        if row(key, value).is_break() {
            return Ok(());
        }
        if reverse {
            rows.prev();
        } else {
            rows.next();
        }
    }
    rows.status()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_gives_back_its_changes_in_order() {
        let mut batch = Batch::new();
        assert!(batch.is_empty());
        batch.put(Column::Data, b"k", b"value");
        batch.remove(Column::System, b"gone");
        batch.put(Column::Data, b"", b"");
        assert_eq!((batch.len(), batch.bytes()), (3, 10));
        assert_eq!(
            batch.changes().collect::<Vec<_>>(),
            [
                (Column::Data, &b"k"[..], Some(&b"value"[..])),
                (Column::System, b"gone", None),
                (Column::Data, b"", Some(b"")),
            ]
        );
    }
}
