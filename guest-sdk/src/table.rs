//! A map whose rows can also be found through indexes. This file changes the index entries together
//! with their row, in the same command; `index` defines the entries. The rows are those of a
//! [`Map`] with the same tag, so a map can become a table, and a table a map, without rewriting
//! them.

use std::collections::BTreeSet;
use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;

use crate::collections::{Place, remove_range};
use crate::dispatch::Collection;
use crate::host;
use crate::index::{By, Index, Indexes};
use crate::key::{EncodeKey, Key, KeyRange, Prefix};
use crate::map::Map;
use crate::rows::{Keys, Range, RawRows, Rows, Values, decode_key, decode_value};
use crate::shape::Shape;
use crate::value::{Stored, encode};

/// A sorted map with indexes: `Table<u64, Book, ByAuthor>`, `Table<u64, Book, (ByAuthor, ByYear)>`.
///
/// Writing a row costs a read of the old row and, for each index, a write for each entry that
/// changed.
pub struct Table<K, V, I> {
    rows: Map<K, V>,
    indexes: PhantomData<fn() -> I>,
}

impl<K: Key, V: Stored, I: Indexes<K, V>> Collection for Table<K, V, I> {
    const ROWS: Shape = Map::<K, V>::ROWS;
    const INDEX_TAGS: &'static [u16] = I::TAGS;
    const INDEX_ENTRIES: &'static [Shape] = I::ENTRIES;

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
    /// Returns the value of a key.
    pub fn get<Q: EncodeKey<K> + ?Sized>(&self, key: &Q) -> Option<V> {
        self.rows.get(key)
    }

    /// Tells whether a key has a value. Costs as much as reading the value.
    pub fn contains<Q: EncodeKey<K> + ?Sized>(&self, key: &Q) -> bool {
        self.rows.contains(key)
    }

    /// Sets the value of a key and returns the old value.
    ///
    /// It reads the old value because the indexes must forget it. [`Map::insert`] reads and returns
    /// nothing.
    pub fn insert<Q: EncodeKey<K> + ?Sized>(&mut self, key: &Q, value: &V) -> Option<V> {
        let row = self.rows.place.key(key);
        let old = self.rows.get(key);
        self.write(&row, old.as_ref(), value);
        old
    }

    /// Changes the value of a key in place and returns it. A missing value starts as the default.
    pub fn update<Q: EncodeKey<K> + ?Sized>(&mut self, key: &Q, change: impl FnOnce(&mut V)) -> V
    where
        V: Default,
    {
        let row = self.rows.place.key(key);
        let bytes = host::get(&row);
        let old = bytes.as_ref().map(|bytes| decode_value(&row, bytes));
        let mut value = bytes.map(|bytes| decode_value(&row, &bytes)).unwrap_or_default();
        change(&mut value);
        self.write(&row, old.as_ref(), &value);
        value
    }

    /// Removes a key and returns its value.
    pub fn remove<Q: EncodeKey<K> + ?Sized>(&mut self, key: &Q) -> Option<V> {
        let old = self.rows.get(key)?;
        let row = self.rows.place.key(key);
        self.forget(&row, &old);
        Some(old)
    }

    /// Writes a row and the changes of its index entries.
    fn write(&mut self, row: &[u8], old: Option<&V>, value: &V) {
        let key = decode_key(row, self.rows.place);
        let before = old.map(|old| entries::<K, V, I>(&key, old)).unwrap_or_default();
        let after = entries::<K, V, I>(&key, value);
        before.difference(&after).for_each(|entry| host::remove(entry));
        after.difference(&before).for_each(|entry| host::put(entry, &[]));
        host::put(row, &encode(value));
    }

    /// Removes a row and its index entries.
    fn forget(&mut self, row: &[u8], old: &V) {
        host::remove(row);
        forget_entries::<K, V, I>(&decode_key(row, self.rows.place), old);
    }

    /// Returns all rows, in the order of their keys.
    pub fn iter(&self) -> Rows<'_, K, V> {
        self.rows.iter()
    }

    /// Returns all keys.
    pub fn keys(&self) -> Keys<'_, K> {
        self.rows.keys()
    }

    /// Returns all values, in the order of their keys.
    pub fn values(&self) -> Values<'_, V> {
        self.rows.values()
    }

    /// Returns the rows whose keys are in a range.
    pub fn range(&self, range: impl KeyRange<K>) -> Rows<'_, K, V> {
        self.rows.range(range)
    }

    /// Returns the rows whose keys have this prefix. Prefixes are those of [`Map::prefix`].
    pub fn prefix<P: Prefix<K> + ?Sized>(&self, prefix: &P) -> Rows<'_, K, V> {
        self.rows.prefix(prefix)
    }

    /// Returns the row with the least key.
    pub fn first(&self) -> Option<(K, V)> {
        self.rows.first()
    }

    /// Returns the row with the greatest key.
    pub fn last(&self) -> Option<(K, V)> {
        self.rows.last()
    }

    /// Removes the row with the least key and returns it.
    pub fn pop_first(&mut self) -> Option<(K, V)> {
        let row = self.first();
        self.remove_popped(row)
    }

    /// Removes the row with the greatest key and returns it.
    pub fn pop_last(&mut self) -> Option<(K, V)> {
        let row = self.last();
        self.remove_popped(row)
    }

    fn remove_popped(&mut self, row: Option<(K, V)>) -> Option<(K, V)> {
        if let Some((key, value)) = &row {
            host::remove(&self.rows.place.key(key));
            forget_entries::<K, V, I>(key, value);
        }
        row
    }

    /// Returns the number of rows. Reads them all.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Tells whether the table is empty. Reads one row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns a view of the rows through an index: `books.by(ByAuthor).find("Le Guin")`.
    ///
    /// The build fails for an index that the table does not have.
    pub fn by<A: Index<Key = K, Value = V>>(&self, _: A) -> By<'_, A> {
        const { assert!(contains(I::TAGS, A::TAG), "the table does not have this index") };
        By::of(self.rows.place)
    }

    /// Keeps the rows for which `keep` returns true and removes the others.
    ///
    /// `keep` may change the values. Only changed rows are written.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        for (row, bytes) in RawRows::new(self.rows.place.everything()) {
            let mut value = decode_value(&row, &bytes);
            if !keep(&decode_key(&row, self.rows.place), &mut value) {
                self.forget(&row, &decode_value(&row, &bytes));
            } else if encode(&value) != bytes {
                self.write(&row, Some(&decode_value(&row, &bytes)), &value);
            }
        }
    }

    /// Removes the rows whose keys are in a range and returns how many.
    ///
    /// It reads them, because the indexes must forget them.
    pub fn remove_range(&mut self, range: impl KeyRange<K>) -> u64 {
        self.remove_rows(&self.rows.place.range(&range))
    }

    /// Removes the rows whose keys have this prefix and returns how many.
    ///
    /// It reads them, like [`remove_range`](Self::remove_range).
    pub fn remove_prefix<P: Prefix<K> + ?Sized>(&mut self, prefix: &P) -> u64 {
        self.remove_rows(&self.rows.place.prefix(prefix))
    }

    /// Removes the first rows of a range, at most `limit`, and returns how many.
    ///
    /// Fewer than `limit` means that the range is now empty.
    pub fn remove_first(&mut self, range: impl KeyRange<K>, limit: u32) -> u64 {
        let rows = RawRows::new(self.rows.place.range(&range));
        rows.take(limit as usize).map(|(row, value)| self.forget(&row, &decode_value(&row, &value))).count() as u64
    }

    fn remove_rows(&mut self, range: &Range) -> u64 {
        for (row, value) in RawRows::new(range.clone()) {
            let key = decode_key(&row, self.rows.place);
            forget_entries::<K, V, I>(&key, &decode_value(&row, &value));
        }
        remove_range(range)
    }

    /// Removes all rows and returns them. Rows that are not iterated over are removed, too.
    pub fn drain(&mut self) -> DrainRows<'_, K, V, I> {
        DrainRows::of(self.rows.place.everything(), self.rows.place)
    }

    /// Removes the rows whose keys are in a range and returns them.
    pub fn drain_range(&mut self, range: impl KeyRange<K>) -> DrainRows<'_, K, V, I> {
        DrainRows::of(self.rows.place.range(&range), self.rows.place)
    }

    /// Removes the rows whose keys have this prefix and returns them.
    pub fn drain_prefix<P: Prefix<K> + ?Sized>(&mut self, prefix: &P) -> DrainRows<'_, K, V, I> {
        DrainRows::of(self.rows.place.prefix(prefix), self.rows.place)
    }

    /// Removes all rows and returns how many.
    pub fn clear(&mut self) -> u64 {
        self.clear_indexes();
        self.rows.clear()
    }

    /// Removes the entries of all indexes and writes them again.
    ///
    /// Call it once, in a command, after you added an index to a table that has rows. It runs
    /// within one command and its limits. If there are too many rows for that, call
    /// [`refresh`](Self::refresh) for some rows in each command.
    pub fn reindex(&mut self) {
        self.clear_indexes();
        for (key, value) in self.rows.iter() {
            entries::<K, V, I>(&key, &value).iter().for_each(|entry| host::put(entry, &[]));
        }
    }

    /// Writes the index entries of one row again, and returns whether the row exists.
    pub fn refresh<Q: EncodeKey<K> + ?Sized>(&mut self, key: &Q) -> bool {
        let value = self.rows.get(key);
        if let Some(value) = &value {
            let key = decode_key(&self.rows.place.key(key), self.rows.place);
            entries::<K, V, I>(&key, value).iter().for_each(|entry| host::put(entry, &[]));
        }
        value.is_some()
    }

    pub(crate) fn place(&self) -> Place {
        self.rows.place
    }

    fn clear_indexes(&mut self) {
        for &tag in I::TAGS {
            remove_range(&Place { tag }.everything());
        }
    }
}

/// Returns the keys of a row's index entries.
pub(crate) fn entries<K, V, I: Indexes<K, V>>(key: &K, value: &V) -> BTreeSet<Vec<u8>> {
    let mut entries = BTreeSet::new();
    I::entries(key, value, &mut entries);
    entries
}

fn forget_entries<K, V, I: Indexes<K, V>>(key: &K, value: &V) {
    entries::<K, V, I>(key, value).iter().for_each(|entry| host::remove(entry));
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

impl<'a, K: Key, V: Stored, I: Indexes<K, V>> IntoIterator for &'a Table<K, V, I> {
    type Item = (K, V);
    type IntoIter = Rows<'a, K, V>;

    fn into_iter(self) -> Rows<'a, K, V> {
        self.iter()
    }
}

/// Rows that are being removed from a [`Table`], in key order.
///
/// When the iterator is dropped, all rows of the range are removed, with their index entries.
#[derive(Debug)]
pub struct DrainRows<'a, K: Key, V: Stored, I: Indexes<K, V>> {
    rows: Rows<'a, K, V>,
    range: Range,
    indexes: PhantomData<fn() -> I>,
}

impl<K: Key, V: Stored, I: Indexes<K, V>> DrainRows<'_, K, V, I> {
    fn of(range: Range, place: Place) -> Self {
        Self { rows: Rows::new(range.clone(), place), range, indexes: PhantomData }
    }
}

impl<K: Key, V: Stored, I: Indexes<K, V>> Iterator for DrainRows<'_, K, V, I> {
    type Item = (K, V);

    fn next(&mut self) -> Option<(K, V)> {
        let (key, value) = self.rows.next()?;
        forget_entries::<K, V, I>(&key, &value);
        Some((key, value))
    }
}

impl<K: Key, V: Stored, I: Indexes<K, V>> DoubleEndedIterator for DrainRows<'_, K, V, I> {
    fn next_back(&mut self) -> Option<(K, V)> {
        let (key, value) = self.rows.next_back()?;
        forget_entries::<K, V, I>(&key, &value);
        Some((key, value))
    }
}

impl<K: Key, V: Stored, I: Indexes<K, V>> FusedIterator for DrainRows<'_, K, V, I> {}

impl<K: Key, V: Stored, I: Indexes<K, V>> Drop for DrainRows<'_, K, V, I> {
    fn drop(&mut self) {
        // As in `Drain`: the host undoes a call that ends here anyway.
        if !std::thread::panicking() {
            self.for_each(drop);
            remove_range(&self.range);
        }
    }
}
