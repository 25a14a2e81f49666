//! The indexes of a table. This file owns the index entries and their lookup. The key of an entry
//! is the value that a row is found by, followed by the row's own key. This file never writes:
//! `table` changes the entries together with their row.

use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::ops::Bound;

use crate::collections::{Place, range_behind};
use crate::host;
use crate::key::{EncodeKey, Key, KeyRange, Prefix, end_of_prefix};
use crate::rows::{Range, RawRows, both_ends, decode_key, decode_value};
use crate::shape::Shape;
use crate::value::{Stored, describe};

/// An index of a [`Table`](crate::Table): it computes what the rows are found by.
///
/// ```
/// # use lockstep_guest::{Index, Table};
/// /// Names by their length.
/// struct ByLength;
///
/// impl Index for ByLength {
///     type Key = u64;
///     type Value = String;
///     type By = u32;
///     const TAG: u16 = 2;
///
///     fn by(_: &u64, name: &String) -> Vec<u32> {
///         vec![name.len() as u32]
///     }
/// }
///
/// lockstep_guest::state! {
///     struct Names {
///         names: Table<u64, String, ByLength> = 1,
///     }
/// }
/// ```
///
/// If you change the function of an index, give the index a new tag;
/// [`Table::reindex`](crate::Table::reindex) fills it.
pub trait Index: 'static {
    /// Key type of the table.
    type Key: Key;
    /// Value type of the table.
    type Value: Stored;
    /// Type of the values that rows are found by.
    type By: Key;
    /// Tag of the index entries. No collection or other index of the state has the same tag.
    const TAG: u16;

    /// Type of the index entries.
    #[doc(hidden)]
    const ENTRIES: Shape = Shape::Of {
        name: "Set",
        parts: &[Shape::Tuple { parts: &[<Self::By as Key>::SHAPE, <Self::Key as Key>::SHAPE] }],
    };

    /// Returns the values that this row is found by: none, one or several.
    fn by(key: &Self::Key, value: &Self::Value) -> Vec<Self::By>;
}

/// One index, or a tuple of up to four indexes.
#[doc(hidden)]
pub trait Indexes<K, V>: 'static {
    /// Tags of the indexes.
    const TAGS: &'static [u16];
    /// Types of their entries, in the same order.
    const ENTRIES: &'static [Shape];

    /// Adds the keys of the index entries of one row to `entries`.
    fn entries(key: &K, value: &V, entries: &mut BTreeSet<Vec<u8>>);
}

impl<A: Index> Indexes<A::Key, A::Value> for A {
    const TAGS: &'static [u16] = &[A::TAG];
    const ENTRIES: &'static [Shape] = &[<A as Index>::ENTRIES];

    fn entries(key: &A::Key, value: &A::Value, entries: &mut BTreeSet<Vec<u8>>) {
        for by in A::by(key, value) {
            let mut entry = Place { tag: A::TAG }.key(&by);
            key.encode_key(&mut entry);
            entries.insert(entry);
        }
    }
}

macro_rules! index_tuples {
    ($(($first:ident $(, $other:ident)*);)*) => {$(
        impl<$first: Index, $($other: Index<Key = $first::Key, Value = $first::Value>),*>
            Indexes<$first::Key, $first::Value> for ($first, $($other,)*)
        {
            const TAGS: &'static [u16] = &[$first::TAG, $($other::TAG),*];
            const ENTRIES: &'static [Shape] = &[<$first as Index>::ENTRIES, $(<$other as Index>::ENTRIES),*];

            fn entries(key: &$first::Key, value: &$first::Value, entries: &mut BTreeSet<Vec<u8>>) {
                <$first as Indexes<_, _>>::entries(key, value, entries);
                $(<$other as Indexes<_, _>>::entries(key, value, entries);)*
            }
        }
    )*};
}

index_tuples! {
    (A);
    (A, B);
    (A, B, C);
    (A, B, C, D);
}

/// A view of a table through one of its indexes.
#[derive(Debug)]
pub struct By<'a, A> {
    rows: Place,
    state: PhantomData<&'a ()>,
    index: PhantomData<fn() -> A>,
}

impl<'a, A: Index> By<'a, A> {
    pub(crate) fn of(rows: Place) -> Self {
        Self { rows, state: PhantomData, index: PhantomData }
    }

    /// Returns the rows that are found by exactly `by`, in the order of their keys.
    pub fn find<Q: EncodeKey<A::By> + ?Sized>(&self, by: &Q) -> Found<'a, A> {
        let start = Self::entries().key(by);
        self.found(Range { end: end_of_prefix(start.clone()), start })
    }

    /// Returns the rows that are found by exactly `by` and whose keys are in a range.
    pub fn find_range<Q: EncodeKey<A::By> + ?Sized>(&self, by: &Q, keys: impl KeyRange<A::Key>) -> Found<'a, A> {
        self.found(range_behind(&Self::entries().key(by), &keys))
    }

    /// Returns the rows that are found by exactly `by` and whose keys are above `key`.
    ///
    /// This is the next page of [`find`](Self::find) when `key` is the last key of the page before.
    /// The row with that key may have been removed meanwhile.
    pub fn find_after<Q, K>(&self, by: &Q, key: &K) -> Found<'a, A>
    where
        Q: EncodeKey<A::By> + ?Sized,
        K: EncodeKey<A::Key> + ?Sized,
    {
        let prefix = Self::entries().key(by);
        let end = end_of_prefix(prefix.clone());
        self.found(Range { start: behind(prefix, key), end })
    }

    /// Returns all rows above (`by`, `key`), in the order of the index.
    ///
    /// This is the next page of [`iter`](Self::iter) when the last row of the page before has `key`
    /// and was found by `by`.
    pub fn after<Q, K>(&self, by: &Q, key: &K) -> Found<'a, A>
    where
        Q: EncodeKey<A::By> + ?Sized,
        K: EncodeKey<A::Key> + ?Sized,
    {
        let end = Self::entries().everything().end;
        self.found(Range { start: behind(Self::entries().key(by), key), end })
    }

    /// Returns all rows, in the order of the index.
    pub fn iter(&self) -> Found<'a, A> {
        self.found(Self::entries().everything())
    }

    /// Returns the rows that are found by a value in a range.
    pub fn range(&self, range: impl KeyRange<A::By>) -> Found<'a, A> {
        let everything = Self::entries().everything();
        let at = |by: Vec<u8>| [Self::entries().tag_bytes(), by].concat();
        // The encoded value is followed by the row's key, and no encoded value is a prefix of
        // another.
        let start = match range.start() {
            Bound::Included(by) => at(by),
            Bound::Excluded(by) => end_of_prefix(at(by)).expect("a tag is not all ones"),
            Bound::Unbounded => everything.start,
        };
        let end = match range.end() {
            Bound::Included(by) => end_of_prefix(at(by)),
            Bound::Excluded(by) => Some(at(by)),
            Bound::Unbounded => everything.end,
        };
        self.found(Range { start, end })
    }

    /// Returns the rows that are found by a value with this prefix.
    pub fn prefix<P: Prefix<A::By> + ?Sized>(&self, prefix: &P) -> Found<'a, A> {
        self.found(Self::entries().prefix(prefix))
    }

    fn entries() -> Place {
        Place { tag: A::TAG }
    }

    fn found(&self, range: Range) -> Found<'a, A> {
        Found {
            keys: FoundKeys { entries: RawRows::new(range), state: PhantomData, index: PhantomData },
            rows: self.rows,
        }
    }
}

/// Rows in the order of an index; `rev()` reverses the order.
#[derive(Debug)]
pub struct Found<'a, A> {
    keys: FoundKeys<'a, A>,
    rows: Place,
}

impl<'a, A> Found<'a, A> {
    /// Returns the keys alone, without reading the rows.
    pub fn keys(self) -> FoundKeys<'a, A> {
        self.keys
    }

    fn raw(&self) -> &RawRows {
        &self.keys.entries
    }

    fn raw_mut(&mut self) -> &mut RawRows {
        &mut self.keys.entries
    }
}

both_ends!(Found<A: Index>, (A::Key, A::Value), |found, entry| read_row::<A>(found.rows, key_of::<A>(&entry.0)));

/// Keys in the order of an index; `rev()` reverses the order.
#[derive(Debug)]
pub struct FoundKeys<'a, A> {
    entries: RawRows,
    state: PhantomData<&'a ()>,
    index: PhantomData<fn() -> A>,
}

impl<A> FoundKeys<'_, A> {
    fn raw(&self) -> &RawRows {
        &self.entries
    }

    fn raw_mut(&mut self) -> &mut RawRows {
        &mut self.entries
    }
}

both_ends!(FoundKeys<A: Index>, A::Key, |_found, entry| key_of::<A>(&entry.0));

/// Returns the least byte string above the entry with this key.
fn behind<K: Key>(mut entry: Vec<u8>, key: &(impl EncodeKey<K> + ?Sized)) -> Vec<u8> {
    key.encode_key(&mut entry);
    // No entry is a prefix of another.
    entry.push(0);
    entry
}

/// Returns the key of the row that an entry refers to.
fn key_of<A: Index>(entry: &[u8]) -> A::Key {
    let (_, key): (A::By, A::Key) = decode_key(entry, Place { tag: A::TAG });
    key
}

fn read_row<A: Index>(rows: Place, key: A::Key) -> (A::Key, A::Value) {
    let row = rows.key(&key);
    let value = host::get(&row)
        .unwrap_or_else(|| panic!("index {} has an entry for the row {}, which is not there", A::TAG, describe(&row)));
    (key, decode_value(&row, &value))
}
