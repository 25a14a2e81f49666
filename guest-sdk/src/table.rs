//! A map whose rows are also found by what is in them. Owns the index entries: they change with their row,
//! in the same command. The rows are those of a [`Map`] with the same tag, so a map becomes a table, and
//! back, without touching them.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};

use crate::collections::{Map, Place, remove_range};
use crate::dispatch::Collection;
use crate::host;
use crate::key::{EncodeKey, Key, Prefix, end_of_prefix};
use crate::rows::{Range, RawRows, Rows, decode_key, decode_value};
use crate::value::{Stored, describe};

/// What rows of a [`Table`] are found by.
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
/// An index whose function changes takes a new tag, and [`Table::reindex`] fills it.
pub trait Index: 'static {
    /// Key of the table.
    type Key: Key;
    /// Value of the table.
    type Value: Stored;
    /// What a row is found by.
    type By: Key;
    /// The tag of the entries, as of a collection: no other in the state has it.
    const TAG: u16;

    /// What this row is found by: none, one, or several things.
    fn by(key: &Self::Key, value: &Self::Value) -> Vec<Self::By>;
}

/// One index, or a tuple of up to four.
#[doc(hidden)]
pub trait Indexes<K, V>: 'static {
    /// Their tags.
    const TAGS: &'static [u16];

    /// Adds the keys of the entries of one row.
    fn entries(key: &K, value: &V, entries: &mut BTreeSet<Vec<u8>>);
}

impl<A: Index> Indexes<A::Key, A::Value> for A {
    const TAGS: &'static [u16] = &[A::TAG];

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

/// A sorted map with indexes: `Table<u64, Book, ByAuthor>`, `Table<u64, Book, (ByAuthor, ByYear)>`.
///
/// A row that is written costs a read of the old one and, for each index, what changed in it.
pub struct Table<K, V, I> {
    rows: Map<K, V>,
    indexes: PhantomData<fn() -> I>,
}

impl<K: Key, V: Stored, I: Indexes<K, V>> Collection for Table<K, V, I> {
    const INDEX_TAGS: &'static [u16] = I::TAGS;

    fn at(tag: u16) -> Self {
        Self { rows: Map::at(tag), indexes: PhantomData }
    }
}

impl<K, V, I> fmt::Debug for Table<K, V, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table(tag {})", self.rows.place.tag)
    }
}

impl<K: Key, V: Stored, I: Indexes<K, V>> Table<K, V, I> {
    /// The value of a key.
    pub fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: EncodeKey + ?Sized,
    {
        self.rows.get(key)
    }

    /// Whether a key has a value. Costs as much as reading it.
    pub fn contains<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: EncodeKey + ?Sized,
    {
        self.rows.contains(key)
    }

    /// Sets the value of a key and returns the one before.
    pub fn insert(&mut self, key: &K, value: &V) -> Option<V> {
        let old = self.rows.get(key);
        let before = old.as_ref().map(|old| entries::<K, V, I>(key, old)).unwrap_or_default();
        let after = entries::<K, V, I>(key, value);
        before.difference(&after).for_each(|entry| host::remove(entry));
        after.difference(&before).for_each(|entry| host::put(entry, &[]));
        self.rows.insert(key, value);
        old
    }

    /// Changes the value of a key in place; a missing one starts as the default. Returns it.
    pub fn update(&mut self, key: &K, change: impl FnOnce(&mut V)) -> V
    where
        V: Default,
    {
        let mut value = self.rows.get(key).unwrap_or_default();
        change(&mut value);
        self.insert(key, &value);
        value
    }

    /// Removes a key and returns its value.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let old = self.rows.take(key)?;
        entries::<K, V, I>(key, &old).iter().for_each(|entry| host::remove(entry));
        Some(old)
    }

    /// All rows, in the order of their keys.
    pub fn iter(&self) -> Rows<'_, K, V> {
        self.rows.iter()
    }

    /// The rows whose keys lie in a range.
    pub fn range<Q>(&self, bounds: impl RangeBounds<Q>) -> Rows<'_, K, V>
    where
        K: Borrow<Q>,
        Q: EncodeKey + ?Sized,
    {
        self.rows.range(bounds)
    }

    /// The rows whose keys begin so, as [`Map::prefix`].
    pub fn prefix<P: Prefix<K> + ?Sized>(&self, prefix: &P) -> Rows<'_, K, V> {
        self.rows.prefix(prefix)
    }

    /// The row with the least key.
    pub fn first(&self) -> Option<(K, V)> {
        self.rows.first()
    }

    /// The row with the greatest key.
    pub fn last(&self) -> Option<(K, V)> {
        self.rows.last()
    }

    /// How many rows there are. Reads them all.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row. Reads one.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows as an index has them: `books.by(ByAuthor).find("Le Guin")`.
    ///
    /// An index that the table does not have is an error of the build.
    pub fn by<A: Index<Key = K, Value = V>>(&self, _: A) -> By<'_, A> {
        const { assert!(contains(I::TAGS, A::TAG), "the table does not have this index") };
        By { rows: self.rows.place, state: PhantomData, index: PhantomData }
    }

    /// Keeps the rows that `keep` wants and removes the others.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        for (key, bytes) in RawRows::new(self.rows.place.everything()) {
            let (decoded, value) = (decode_key(&key, self.rows.place), decode_value(&key, &bytes));
            if !keep(&decoded, &value) {
                host::remove(&key);
                entries::<K, V, I>(&decoded, &value).iter().for_each(|entry| host::remove(entry));
            }
        }
    }

    /// Removes all rows and says how many.
    pub fn clear(&mut self) -> u64 {
        self.clear_indexes();
        self.rows.clear()
    }

    /// Writes the entries of all indexes anew: once, in a command, after an index was added to rows that
    /// were there. All of it is one command, with its limits; where there are too many rows for that,
    /// [`refresh`](Self::refresh) some of them in each command.
    pub fn reindex(&mut self) {
        self.clear_indexes();
        for (key, value) in self.rows.iter() {
            entries::<K, V, I>(&key, &value).iter().for_each(|entry| host::put(entry, &[]));
        }
    }

    /// Writes the entries of one row anew, and says whether there is such a row.
    pub fn refresh(&mut self, key: &K) -> bool {
        let row = self.rows.get(key);
        if let Some(value) = &row {
            entries::<K, V, I>(key, value).iter().for_each(|entry| host::put(entry, &[]));
        }
        row.is_some()
    }

    fn clear_indexes(&mut self) {
        for &tag in I::TAGS {
            remove_range(&Place { tag }.everything());
        }
    }
}

fn entries<K, V, I: Indexes<K, V>>(key: &K, value: &V) -> BTreeSet<Vec<u8>> {
    let mut entries = BTreeSet::new();
    I::entries(key, value, &mut entries);
    entries
}

const fn contains(tags: &[u16], tag: u16) -> bool {
    let mut i = 0;
    while i < tags.len() {
        if tags[i] == tag {
            return true;
        }
        i += 1;
    }
    false
}

/// A table as one of its indexes has it.
#[derive(Debug)]
pub struct By<'a, A> {
    rows: Place,
    state: PhantomData<&'a ()>,
    index: PhantomData<fn() -> A>,
}

impl<'a, A: Index> By<'a, A> {
    /// The rows that are found by just this, in the order of their keys.
    pub fn find<Q>(&self, by: &Q) -> Found<'a, A>
    where
        A::By: Borrow<Q>,
        Q: EncodeKey + ?Sized,
    {
        let start = Self::entries().key(by);
        self.found(Range { end: end_of_prefix(start.clone()), start })
    }

    /// All rows, in the order of the index.
    pub fn iter(&self) -> Found<'a, A> {
        self.found(Self::entries().everything())
    }

    /// The rows that are found by something in a range.
    pub fn range<Q>(&self, bounds: impl RangeBounds<Q>) -> Found<'a, A>
    where
        A::By: Borrow<Q>,
        Q: EncodeKey + ?Sized,
    {
        let everything = Self::entries().everything();
        // An entry goes on after what it is found by, and no such beginning begins another.
        let at = |by: &Q| Self::entries().key(by);
        let start = match bounds.start_bound() {
            Bound::Included(by) => at(by),
            Bound::Excluded(by) => end_of_prefix(at(by)).expect("a tag is not all ones"),
            Bound::Unbounded => everything.start,
        };
        let end = match bounds.end_bound() {
            Bound::Included(by) => end_of_prefix(at(by)),
            Bound::Excluded(by) => Some(at(by)),
            Bound::Unbounded => everything.end,
        };
        self.found(Range { start, end })
    }

    /// The rows that are found by something that begins so.
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

/// Rows in the order of an index.
#[derive(Debug)]
pub struct Found<'a, A> {
    keys: FoundKeys<'a, A>,
    rows: Place,
}

impl<'a, A> Found<'a, A> {
    /// Goes from the last row to the first. Call it before the first `next`.
    #[must_use]
    pub fn descending(mut self) -> Self {
        self.keys.entries.descend();
        self
    }

    /// The keys alone, without reading the rows.
    pub fn keys(self) -> FoundKeys<'a, A> {
        self.keys
    }
}

impl<A: Index> Iterator for Found<'_, A> {
    type Item = (A::Key, A::Value);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.keys.next()?;
        let row = self.rows.key(&key);
        let value = host::get(&row).unwrap_or_else(|| {
            panic!("index {} has an entry for the row {}, which is not there", A::TAG, describe(&row))
        });
        Some((key, decode_value(&row, &value)))
    }
}

/// Keys in the order of an index.
#[derive(Debug)]
pub struct FoundKeys<'a, A> {
    entries: RawRows,
    state: PhantomData<&'a ()>,
    index: PhantomData<fn() -> A>,
}

impl<A: Index> Iterator for FoundKeys<'_, A> {
    type Item = A::Key;

    fn next(&mut self) -> Option<A::Key> {
        let (entry, _) = self.entries.next()?;
        let (_, key): (A::By, A::Key) = decode_key(&entry, Place { tag: A::TAG });
        Some(key)
    }
}
