//! A map whose rows are also found by what is in them. Owns that index entries change with their row, in the
//! same command; what an entry is says `index`. The rows are those of a [`Map`] with the same tag, so a map becomes a table, and
//! back, without touching them.

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
use crate::value::{Stored, encode};

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
    pub fn get<Q: EncodeKey<K> + ?Sized>(&self, key: &Q) -> Option<V> {
        self.rows.get(key)
    }

    /// Whether a key has a value. Costs as much as reading it.
    pub fn contains<Q: EncodeKey<K> + ?Sized>(&self, key: &Q) -> bool {
        self.rows.contains(key)
    }

    /// Sets the value of a key and returns the one before, which it reads because the indexes must forget it.
    /// [`Map::insert`] reads nothing and returns nothing.
    pub fn insert<Q: EncodeKey<K> + ?Sized>(&mut self, key: &Q, value: &V) -> Option<V> {
        let row = self.rows.place.key(key);
        let old = self.rows.get(key);
        self.write(&row, old.as_ref(), value);
        old
    }

    /// Changes the value of a key in place; a missing one starts as the default. Returns it.
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

    /// Writes a row and what changes in its entries.
    fn write(&mut self, row: &[u8], old: Option<&V>, value: &V) {
        let key = decode_key(row, self.rows.place);
        let before = old.map(|old| entries::<K, V, I>(&key, old)).unwrap_or_default();
        let after = entries::<K, V, I>(&key, value);
        before.difference(&after).for_each(|entry| host::remove(entry));
        after.difference(&before).for_each(|entry| host::put(entry, &[]));
        host::put(row, &encode(value));
    }

    /// Removes a row and its entries.
    fn forget(&mut self, row: &[u8], old: &V) {
        host::remove(row);
        forget_entries::<K, V, I>(&decode_key(row, self.rows.place), old);
    }

    /// All rows, in the order of their keys.
    pub fn iter(&self) -> Rows<'_, K, V> {
        self.rows.iter()
    }

    /// All keys.
    pub fn keys(&self) -> Keys<'_, K> {
        self.rows.keys()
    }

    /// All values, in the order of their keys.
    pub fn values(&self) -> Values<'_, V> {
        self.rows.values()
    }

    /// The rows whose keys lie in a range.
    pub fn range(&self, range: impl KeyRange<K>) -> Rows<'_, K, V> {
        self.rows.range(range)
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
        By::of(self.rows.place)
    }

    /// Keeps the rows that `keep` wants, as it leaves them, and removes the others. Only what changed is written.
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

    /// Removes the rows whose keys lie in a range and says how many. Reads them, for the indexes to forget them.
    pub fn remove_range(&mut self, range: impl KeyRange<K>) -> u64 {
        self.remove_rows(&self.rows.place.range(&range))
    }

    /// Removes the rows whose keys begin so and says how many, as [`remove_range`](Self::remove_range).
    pub fn remove_prefix<P: Prefix<K> + ?Sized>(&mut self, prefix: &P) -> u64 {
        self.remove_rows(&self.rows.place.prefix(prefix))
    }

    /// Removes the first rows of a range, at most `limit` of them, and says how many. Fewer than `limit` were the last.
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

    /// Takes all rows out. What is not iterated over is removed all the same.
    pub fn drain(&mut self) -> DrainRows<'_, K, V, I> {
        DrainRows::of(self.rows.place.everything(), self.rows.place)
    }

    /// Takes the rows out whose keys lie in a range.
    pub fn drain_range(&mut self, range: impl KeyRange<K>) -> DrainRows<'_, K, V, I> {
        DrainRows::of(self.rows.place.range(&range), self.rows.place)
    }

    /// Takes the rows out whose keys begin so.
    pub fn drain_prefix<P: Prefix<K> + ?Sized>(&mut self, prefix: &P) -> DrainRows<'_, K, V, I> {
        DrainRows::of(self.rows.place.prefix(prefix), self.rows.place)
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
    pub fn refresh<Q: EncodeKey<K> + ?Sized>(&mut self, key: &Q) -> bool {
        let value = self.rows.get(key);
        if let Some(value) = &value {
            let key = decode_key(&self.rows.place.key(key), self.rows.place);
            entries::<K, V, I>(&key, value).iter().for_each(|entry| host::put(entry, &[]));
        }
        value.is_some()
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

/// Rows that leave a [`Table`], in key order. When it is dropped all of them are removed, with their entries.
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
        // As in `Drain`: a call that ends here is undone anyway.
        if !std::thread::panicking() {
            self.for_each(drop);
            remove_range(&self.range);
        }
    }
}
