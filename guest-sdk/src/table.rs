//! A map whose rows are also found by what is in them. Owns that index entries change with their row, in the
//! same command; what an entry is says `index`. The rows are those of a [`Map`] with the same tag, so a map becomes a table, and
//! back, without touching them.

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;

use crate::collections::{Place, remove_range};
use crate::dispatch::Collection;
use crate::host;
use crate::index::{By, Index, Indexes};
use crate::key::{EncodeKey, Key, KeyRange, Prefix};
use crate::map::Map;
use crate::rows::{RawRows, Rows, decode_key, decode_value};
use crate::value::Stored;

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
