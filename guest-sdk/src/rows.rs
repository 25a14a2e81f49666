//! Iterates over rows of the store, page by page and from both ends. Rows are read ahead: the first
//! page asks for 16 rows, later pages for more. The host charges for all rows of a page, whether or
//! not the guest uses them. A watch depends on the range from the start of the iteration to the
//! last row of the last page. [`RawRows::just_one`] reads one row only.

use std::collections::VecDeque;
use std::iter::FusedIterator;
use std::marker::PhantomData;

use crate::collections::Place;
use crate::host;
use crate::key::Key;
use crate::value::{Stored, describe};

/// Rows that the first page of an iteration asks for. Each further page asks for four times as
/// many.
const FIRST_PAGE_ROWS: u32 = 16;

/// Page size from which on a page takes as many rows as fit into the host's 256 KiB.
const PAGE_ROWS_MAX: u32 = 1024;

/// A range of keys as the store defines it: `start <= key < end`.
#[derive(Clone, Debug)]
pub(crate) struct Range {
    pub(crate) start: Vec<u8>,
    /// `None` means up to the last key of the store.
    pub(crate) end: Option<Vec<u8>>,
}

/// Raw rows of a range, taken from both ends.
///
/// `range` is what lies between the two buffers and is not fetched yet.
#[derive(Clone, Debug)]
pub(crate) struct RawRows {
    range: Range,
    /// Whether there may still be rows in `range`.
    more: bool,
    front: Fetched,
    back: Fetched,
    /// Number of rows that the next page asks for; 0 means as many as fit.
    limit: u32,
}

type Row = (Vec<u8>, Vec<u8>);

impl RawRows {
    pub(crate) fn new(range: Range) -> Self {
        let (front, back) = (Fetched::default(), Fetched::default());
        Self { range, more: true, front, back, limit: FIRST_PAGE_ROWS }
    }

    /// Asks for so many rows with the first page.
    pub(crate) fn in_pages_of(mut self, rows: u32) -> Self {
        self.limit = rows;
        self
    }

    /// Returns the first or last remaining row, read as a page of one row.
    pub(crate) fn just_one(mut self, end: End) -> Option<Row> {
        self.limit = 1;
        match end {
            End::Front => self.next(),
            End::Back => self.next_back(),
        }
    }

    fn fetch(&mut self, end: End) -> Fetched {
        let reverse = end == End::Back;
        let page = host::scan(&self.range.start, self.range.end.as_deref(), reverse, self.limit);
        assert!(!page.more || !page.rows.is_empty(), "a page with more to come has a row");
        self.more = page.more;
        self.limit = match self.limit {
            0 | PAGE_ROWS_MAX.. => 0,
            limit => limit * 4,
        };
        let fetched = Fetched::of(page.rows);
        if let Some(last) = fetched.last_key() {
            self.advance_past(end, last);
        }
        fetched
    }

    /// Moves the range past the last key of a page, as `store.page.more` requires.
    fn advance_past(&mut self, end: End, key: &[u8]) {
        match end {
            End::Front => {
                self.range.start.clear();
                self.range.start.extend_from_slice(key);
                self.range.start.push(0);
            }
            End::Back => self.range.end = Some(key.to_vec()),
        }
    }
}

impl Iterator for RawRows {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        if self.front.is_empty() && self.more {
            self.front = self.fetch(End::Front);
        }
        // When everything is fetched, the two ends have met. The least remaining row is then the
        // last one in the buffer of the back.
        self.front.pop_first().or_else(|| self.back.pop_last())
    }
}

impl DoubleEndedIterator for RawRows {
    fn next_back(&mut self) -> Option<Row> {
        if self.back.is_empty() && self.more {
            self.back = self.fetch(End::Back);
        }
        self.back.pop_first().or_else(|| self.front.pop_last())
    }
}

impl FusedIterator for RawRows {}

/// The end that rows are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Front,
    Back,
}

/// A page as the host sent it, from which some rows may have been taken.
#[derive(Clone, Debug, Default)]
struct Fetched {
    page: Vec<u8>,
    /// Offsets in `page` of the rows that are left.
    starts: VecDeque<usize>,
}

impl Fetched {
    fn of(page: Vec<u8>) -> Self {
        let mut starts = VecDeque::new();
        let mut rest = page.as_slice();
        while !rest.is_empty() {
            starts.push_back(page.len() - rest.len());
            (_, _, rest) = split_row(rest).expect("the host sends whole rows");
        }
        Self { page, starts }
    }

    fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    fn at(&self, start: usize) -> (&[u8], &[u8]) {
        let (key, value, _) = split_row(&self.page[start..]).expect("a row starts here");
        (key, value)
    }

    fn last_key(&self) -> Option<&[u8]> {
        self.starts.back().map(|start| self.at(*start).0)
    }

    fn pop_first(&mut self) -> Option<Row> {
        let start = self.starts.pop_front();
        self.take(start)
    }

    fn pop_last(&mut self) -> Option<Row> {
        let start = self.starts.pop_back();
        self.take(start)
    }

    fn take(&mut self, start: Option<usize>) -> Option<Row> {
        let (key, value) = self.at(start?);
        let row = (key.to_vec(), value.to_vec());
        if self.starts.is_empty() {
            self.page = Vec::new();
        }
        Some(row)
    }
}

/// Splits one row off a page: key length, value length (u32, little-endian), key, value.
pub(crate) fn split_row(page: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (key_len, rest) = page.split_first_chunk::<4>()?;
    let (value_len, rest) = rest.split_first_chunk::<4>()?;
    let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*key_len) as usize)?;
    let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*value_len) as usize)?;
    Some((key, value, rest))
}

/// Implements what all iterators over rows have: both ends, and methods that read just one row.
macro_rules! both_ends {
    ($name:ident<$($parameter:ident: $bound:path),+>, $item:ty, |$self:ident, $row:ident| $decode:expr) => {
        impl<'a, $($parameter: $bound),+> $name<'a, $($parameter),+> {
            /// Returns the first remaining item. Reads one row, where `next` reads a page.
            pub fn first(self) -> Option<$item> {
                let row = self.raw().clone().just_one($crate::rows::End::Front)?;
                let ($self, $row) = (&self, row);
                Some($decode)
            }

            /// Returns the last remaining item. Reads one row, where `next_back` reads a page.
            pub fn last(self) -> Option<$item> {
                let row = self.raw().clone().just_one($crate::rows::End::Back)?;
                let ($self, $row) = (&self, row);
                Some($decode)
            }
        }

        /// # Panics
        /// When a row cannot be decoded, for example because its tag was reused for another type.
        impl<$($parameter: $bound),+> Iterator for $name<'_, $($parameter),+> {
            type Item = $item;

            fn next(&mut self) -> Option<$item> {
                let $row = self.raw_mut().next()?;
                let $self = &*self;
                Some($decode)
            }
        }

        impl<$($parameter: $bound),+> DoubleEndedIterator for $name<'_, $($parameter),+> {
            fn next_back(&mut self) -> Option<$item> {
                let $row = self.raw_mut().next_back()?;
                let $self = &*self;
                Some($decode)
            }
        }

        impl<$($parameter: $bound),+> std::iter::FusedIterator for $name<'_, $($parameter),+> {}
    };
}
pub(crate) use both_ends;

/// Entries of a [`Map`](crate::Map), in key order; `rev()` reverses the order.
///
/// Rows are read ahead, 16 at first and then more, and the host charges for all that are read.
#[derive(Debug)]
pub struct Rows<'a, K, V> {
    raw: RawRows,
    place: Place,
    /// Borrows the state, so that it cannot change during the iteration.
    state: PhantomData<&'a ()>,
    types: PhantomData<fn() -> (K, V)>,
}

impl<'a, K, V> Rows<'a, K, V> {
    pub(crate) fn new(range: Range, place: Place) -> Self {
        Self { raw: RawRows::new(range), place, state: PhantomData, types: PhantomData }
    }

    /// Returns the keys alone, without decoding the values.
    pub fn keys(self) -> Keys<'a, K> {
        Keys(Rows { raw: self.raw, place: self.place, state: PhantomData, types: PhantomData })
    }

    /// Returns the values alone, without decoding the keys.
    pub fn values(self) -> Values<'a, V> {
        Values(Rows { raw: self.raw, place: self.place, state: PhantomData, types: PhantomData })
    }

    fn raw(&self) -> &RawRows {
        &self.raw
    }

    fn raw_mut(&mut self) -> &mut RawRows {
        &mut self.raw
    }
}

both_ends!(Rows<K: Key, V: Stored>, (K, V), |rows, row| (decode_key(&row.0, rows.place), decode_value(&row.0, &row.1)));

/// Defines an iterator over rows that decodes only the key or only the value.
macro_rules! half {
    ($(#[$meta:meta])* $name:ident<$item:ident: $bound:path>, $rows:ty, |$half:ident, $row:ident| $decode:expr) => {
        $(#[$meta])*
        #[derive(Debug)]
        pub struct $name<'a, $item>($rows);

        impl<$item> $name<'_, $item> {
            pub(crate) fn of(range: Range, place: Place) -> Self {
                Self(Rows::new(range, place))
            }

            fn raw(&self) -> &RawRows {
                &self.0.raw
            }

            fn raw_mut(&mut self) -> &mut RawRows {
                &mut self.0.raw
            }
        }

        both_ends!($name<$item: $bound>, $item, |$half, $row| $decode);
    };
}

half! {
    /// Keys of a [`Map`](crate::Map) or a [`Set`](crate::Set), in order; `rev()` reverses the
    /// order.
    /// They are read ahead like [`Rows`].
    Keys<K: Key>, Rows<'a, K, ()>, |keys, row| decode_key(&row.0, keys.0.place)
}

half! {
    /// Values of a [`Map`](crate::Map), in the order of their keys; `rev()` reverses the order.
    /// They are read ahead like [`Rows`].
    Values<V: Stored>, Rows<'a, (), V>, |_values, row| decode_value(&row.0, &row.1)
}

/// Entries that are being removed from a [`Map`](crate::Map), in key order.
///
/// When the iterator is dropped, all entries of the range are removed with one call to the host.
#[derive(Debug)]
pub struct Drain<'a, K, V> {
    rows: Rows<'a, K, V>,
    range: Range,
}

impl<K, V> Drain<'_, K, V> {
    pub(crate) fn of(range: Range, place: Place) -> Self {
        Self { rows: Rows::new(range.clone(), place), range }
    }
}

impl<K: Key, V: Stored> Iterator for Drain<'_, K, V> {
    type Item = (K, V);

    fn next(&mut self) -> Option<Self::Item> {
        self.rows.next()
    }
}

impl<K: Key, V: Stored> DoubleEndedIterator for Drain<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.rows.next_back()
    }
}

impl<K: Key, V: Stored> FusedIterator for Drain<'_, K, V> {}

impl<K, V> Drop for Drain<'_, K, V> {
    fn drop(&mut self) {
        // The host undoes a call that ends here anyway. A second panic while unwinding would abort
        // the process.
        if !std::thread::panicking() {
            host::remove_range(&self.range.start, self.range.end.as_deref(), 0);
        }
    }
}

/// Keys that are being removed from a [`Set`](crate::Set). Works like [`Drain`].
#[derive(Debug)]
pub struct DrainKeys<'a, K>(Drain<'a, K, ()>);

impl<K> DrainKeys<'_, K> {
    pub(crate) fn of(range: Range, place: Place) -> Self {
        Self(Drain::of(range, place))
    }
}

impl<K: Key> Iterator for DrainKeys<'_, K> {
    type Item = K;

    fn next(&mut self) -> Option<K> {
        self.0.next().map(|(key, ())| key)
    }
}

impl<K: Key> DoubleEndedIterator for DrainKeys<'_, K> {
    fn next_back(&mut self) -> Option<K> {
        self.0.next_back().map(|(key, ())| key)
    }
}

impl<K: Key> FusedIterator for DrainKeys<'_, K> {}

pub(crate) fn decode_key<K: Key>(row: &[u8], place: Place) -> K {
    let mut rest = &row[place.tag_len()..];
    match K::decode_key(&mut rest) {
        Ok(key) if rest.is_empty() => key,
        _ => panic!("the key {} is not a {}; did a tag change its type?", describe(row), std::any::type_name::<K>()),
    }
}

pub(crate) fn decode_value<V: Stored>(key: &[u8], value: &[u8]) -> V {
    match V::decode_value(value) {
        Ok(value) => value,
        Err(error) => panic!("the value of key {} is {error}; did a tag change its type?", describe(key)),
    }
}
