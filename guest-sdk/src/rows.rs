//! Iteration over rows of the store, page by page. Pages begin small, so that taking three rows costs
//! three rows and a watch depends on little more than what was looked at.

use std::marker::PhantomData;

use crate::collections::Place;
use crate::host;
use crate::key::Key;
use crate::value::{Stored, describe};

/// Rows asked for in the first page of an iteration; each further page asks for four times as many.
const FIRST_PAGE_ROWS: u32 = 16;

/// From here on a page takes as many rows as fit the host's 256 KiB.
const PAGE_ROWS_MAX: u32 = 1024;

/// A range of keys as the store counts: `start <= key < end`.
#[derive(Clone, Debug)]
pub(crate) struct Range {
    pub(crate) start: Vec<u8>,
    /// None: to the last key of the store.
    pub(crate) end: Option<Vec<u8>>,
}

/// Raw rows of a range.
#[derive(Clone, Debug)]
pub(crate) struct RawRows {
    range: Range,
    reverse: bool,
    page: Vec<u8>,
    offset: usize,
    more: bool,
    limit: u32,
}

impl RawRows {
    pub(crate) fn new(range: Range) -> Self {
        Self { range, reverse: false, page: Vec::new(), offset: 0, more: true, limit: FIRST_PAGE_ROWS }
    }

    pub(crate) fn descend(&mut self) {
        self.reverse = true;
    }

    fn fetch(&mut self) {
        let page = host::scan(&self.range.start, self.range.end.as_deref(), self.reverse, self.limit);
        assert!(!page.more || !page.rows.is_empty(), "a page with more to come has a row");
        self.page = page.rows;
        self.offset = 0;
        self.more = page.more;
        self.limit = match self.limit {
            0 | PAGE_ROWS_MAX.. => 0,
            limit => limit * 4,
        };
    }

    fn take_row(&mut self) -> (Vec<u8>, Vec<u8>) {
        let (key, value, rest) = split_row(&self.page[self.offset..]).expect("the host sends whole rows");
        let row = (key.to_vec(), value.to_vec());
        self.offset = self.page.len() - rest.len();
        if self.offset == self.page.len() {
            self.page = Vec::new();
            self.offset = 0;
            self.advance_past(&row.0);
        }
        row
    }

    /// Moves the range past the last key of a page, as `store.page.more` prescribes.
    fn advance_past(&mut self, key: &[u8]) {
        if self.reverse {
            self.range.end = Some(key.to_vec());
        } else {
            self.range.start.clear();
            self.range.start.extend_from_slice(key);
            self.range.start.push(0);
        }
    }
}

impl Iterator for RawRows {
    type Item = (Vec<u8>, Vec<u8>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.page.is_empty() {
            if !self.more {
                return None;
            }
            self.fetch();
            if self.page.is_empty() {
                return None;
            }
        }
        Some(self.take_row())
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

/// Entries of a [`Map`](crate::Map), in key order.
#[derive(Debug)]
pub struct Rows<'a, K, V> {
    raw: RawRows,
    place: Place,
    /// Borrows the state, so that it cannot change under the iteration.
    state: PhantomData<&'a ()>,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Rows<'_, K, V> {
    pub(crate) fn new(range: Range, place: Place) -> Self {
        Self { raw: RawRows::new(range), place, state: PhantomData, types: PhantomData }
    }

    /// Goes from the last entry to the first. Call it before the first `next`.
    #[must_use]
    pub fn descending(mut self) -> Self {
        self.raw.descend();
        self
    }

    /// Counts without decoding.
    pub(crate) fn raw_count(self) -> usize {
        self.raw.count()
    }

    /// Asks the host for one row only.
    pub(crate) fn just_one(mut self) -> Self {
        self.raw.limit = 1;
        self
    }
}

impl<K: Key, V: Stored> Iterator for Rows<'_, K, V> {
    type Item = (K, V);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, value) = self.raw.next()?;
        Some((decode_key(&key, self.place), decode_value(&key, &value)))
    }
}

/// Rows of which one half is decoded.
macro_rules! half {
    ($(#[$meta:meta])* $name:ident<$item:ident: $bound:ident>, $rows:ty, |$key:ident, $value:ident, $place:ident| $decode:expr) => {
        $(#[$meta])*
        #[derive(Debug)]
        pub struct $name<'a, $item>($rows);

        impl<$item> $name<'_, $item> {
            pub(crate) fn of(range: Range, place: Place) -> Self {
                Self(Rows::new(range, place))
            }

            /// Goes from the last to the first. Call it before the first `next`.
            #[must_use]
            pub fn descending(self) -> Self {
                Self(self.0.descending())
            }

            #[allow(dead_code, reason = "values are not asked for one or a count")]
            pub(crate) fn just_one(self) -> Self {
                Self(self.0.just_one())
            }

            #[allow(dead_code, reason = "values are not asked for one or a count")]
            pub(crate) fn raw_count(self) -> usize {
                self.0.raw_count()
            }
        }

        impl<$item: $bound> Iterator for $name<'_, $item> {
            type Item = $item;

            fn next(&mut self) -> Option<$item> {
                let ($key, $value) = self.0.raw.next()?;
                let $place = self.0.place;
                Some($decode)
            }
        }
    };
}

half! {
    /// Keys of a [`Map`](crate::Map) or a [`Set`](crate::Set), in order.
    Keys<K: Key>, Rows<'a, K, ()>, |key, _value, place| decode_key(&key, place)
}

half! {
    /// Values of a [`Map`](crate::Map), in the order of their keys.
    Values<V: Stored>, Rows<'a, (), V>, |key, value, _place| decode_value(&key, &value)
}

/// Entries that leave a [`Map`](crate::Map), in key order. When it is dropped all of them are removed, with
/// one call to the host.
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

impl<K, V> Drop for Drain<'_, K, V> {
    fn drop(&mut self) {
        // A call that ends here is undone anyway, and in an unwinding thread another end would abort the process.
        if !std::thread::panicking() {
            host::remove_range(&self.range.start, self.range.end.as_deref(), 0);
        }
    }
}

/// Keys that leave a [`Set`](crate::Set), as [`Drain`].
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
        Err(error) => panic!("the value of key {} is {error}", describe(key)),
    }
}
