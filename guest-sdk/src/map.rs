//! The sorted map. This file owns what its methods do. `Place` owns the range of its rows, `rows`
//! the iteration.

use std::marker::PhantomData;

use crate::collections::{Place, handle, remove_first, remove_range};
use crate::host;
use crate::key::{EncodeKey, Key, KeyRange, Prefix};
use crate::rows::{Drain, Keys, Range, RawRows, Rows, Values, decode_key, decode_value};
use crate::value::{EncodeValue, Stored, encode};

/// A sorted map.
pub struct Map<K, V> {
    pub(crate) place: Place,
    types: PhantomData<fn() -> (K, V)>,
}

handle!(Map<K: Key, V: Stored>);

impl<K: Key, V: Stored> Map<K, V> {
    /// Returns the value of a key.
    ///
    /// # Panics
    /// When the value cannot be decoded, for example because its tag was reused for another type;
    /// the host then undoes the command. All other methods that read values panic likewise, and
    /// iterators over keys panic at a key that cannot be decoded.
    pub fn get<Q: EncodeKey<K> + ?Sized>(&self, key: &Q) -> Option<V> {
        let key = self.place.key(key);
        host::get(&key).map(|value| decode_value(&key, &value))
    }

    /// Tells whether a key has a value. Costs as much as reading the value.
    pub fn contains<Q: EncodeKey<K> + ?Sized>(&self, key: &Q) -> bool {
        host::get(&self.place.key(key)).is_some()
    }

    /// Sets the value of a key.
    ///
    /// It reads nothing, so it does not return the old value.
    /// [`Table::insert`](crate::Table::insert) does, because it must read the old value anyway.
    pub fn insert<Q, W>(&mut self, key: &Q, value: &W)
    where
        Q: EncodeKey<K> + ?Sized,
        W: EncodeValue<V> + ?Sized,
    {
        host::put(&self.place.key(key), &encode(value));
    }

    /// Removes a key and returns its value. Costs a read; [`delete`](Self::delete) costs none.
    pub fn remove<Q: EncodeKey<K> + ?Sized>(&mut self, key: &Q) -> Option<V> {
        let value = self.get(key);
        if value.is_some() {
            self.delete(key);
        }
        value
    }

    /// Removes a key if it is present. Reads nothing.
    pub fn delete<Q: EncodeKey<K> + ?Sized>(&mut self, key: &Q) {
        host::remove(&self.place.key(key));
    }

    /// Changes the value of a key in place and returns it. A missing value starts as the default.
    pub fn update<Q>(&mut self, key: &Q, change: impl FnOnce(&mut V)) -> V
    where
        Q: EncodeKey<K> + ?Sized,
        V: Default,
    {
        let mut value = self.get(key).unwrap_or_default();
        change(&mut value);
        self.insert(key, &value);
        value
    }

    /// Returns all entries.
    pub fn iter(&self) -> Rows<'_, K, V> {
        self.rows(self.place.everything())
    }

    /// Returns all keys.
    pub fn keys(&self) -> Keys<'_, K> {
        Keys::of(self.place.everything(), self.place)
    }

    /// Returns all values, in the order of their keys.
    pub fn values(&self) -> Values<'_, V> {
        Values::of(self.place.everything(), self.place)
    }

    /// Returns the entries whose keys are in a range.
    pub fn range(&self, range: impl KeyRange<K>) -> Rows<'_, K, V> {
        self.rows(self.place.range(&range))
    }

    /// Returns the entries whose keys have this prefix.
    ///
    /// The prefix is the beginning of a string, or the first parts of a tuple as `(&a,)`.
    pub fn prefix<P: Prefix<K> + ?Sized>(&self, prefix: &P) -> Rows<'_, K, V> {
        self.rows(self.place.prefix(prefix))
    }

    /// Returns the entry with the least key.
    pub fn first(&self) -> Option<(K, V)> {
        self.iter().first()
    }

    /// Returns the entry with the greatest key.
    pub fn last(&self) -> Option<(K, V)> {
        self.iter().last()
    }

    /// Removes the entry with the least key and returns it.
    pub fn pop_first(&mut self) -> Option<(K, V)> {
        let entry = self.first();
        self.remove_popped(entry)
    }

    /// Removes the entry with the greatest key and returns it.
    pub fn pop_last(&mut self) -> Option<(K, V)> {
        let entry = self.last();
        self.remove_popped(entry)
    }

    fn remove_popped(&mut self, entry: Option<(K, V)>) -> Option<(K, V)> {
        if let Some((key, _)) = &entry {
            host::remove(&self.place.key(key));
        }
        entry
    }

    /// Returns the number of entries.
    ///
    /// It reads them all: keep a [`Counter`](crate::Counter) if you need the number often.
    pub fn len(&self) -> usize {
        RawRows::new(self.place.everything()).count()
    }

    /// Tells whether the map is empty. Reads one row.
    pub fn is_empty(&self) -> bool {
        self.first().is_none()
    }

    /// Removes the entries whose keys are in a range and returns how many.
    /// Costs as much as reading them.
    pub fn remove_range(&mut self, range: impl KeyRange<K>) -> u64 {
        remove_range(&self.place.range(&range))
    }

    /// Removes the entries whose keys have this prefix and returns how many.
    pub fn remove_prefix<P: Prefix<K> + ?Sized>(&mut self, prefix: &P) -> u64 {
        remove_range(&self.place.prefix(prefix))
    }

    /// Removes all entries and returns how many.
    pub fn clear(&mut self) -> u64 {
        remove_range(&self.place.everything())
    }

    /// Removes all entries and returns them. Entries that are not iterated over are removed, too.
    pub fn drain(&mut self) -> Drain<'_, K, V> {
        Drain::of(self.place.everything(), self.place)
    }

    /// Removes the entries whose keys are in a range and returns them.
    pub fn drain_range(&mut self, range: impl KeyRange<K>) -> Drain<'_, K, V> {
        Drain::of(self.place.range(&range), self.place)
    }

    /// Removes the entries whose keys have this prefix and returns them.
    pub fn drain_prefix<P: Prefix<K> + ?Sized>(&mut self, prefix: &P) -> Drain<'_, K, V> {
        Drain::of(self.place.prefix(prefix), self.place)
    }

    /// Keeps the entries for which `keep` returns true and removes the others.
    ///
    /// `keep` may change the values. Only changed values are written.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        let range = self.place.everything();
        for (key, bytes) in RawRows::new(range) {
            let mut value = decode_value(&key, &bytes);
            if !keep(&decode_key(&key, self.place), &mut value) {
                host::remove(&key);
                continue;
            }
            let changed = encode(&value);
            if changed != bytes {
                host::put(&key, &changed);
            }
        }
    }

    /// Removes the first entries of a range, at most `limit`, and returns how many.
    ///
    /// Fewer than `limit` means that the range is now empty.
    pub fn remove_first(&mut self, range: impl KeyRange<K>, limit: u32) -> u64 {
        remove_first(&self.place.range(&range), limit)
    }

    fn rows(&self, range: Range) -> Rows<'_, K, V> {
        Rows::new(range, self.place)
    }
}

impl<'a, K: Key, V: Stored> IntoIterator for &'a Map<K, V> {
    type Item = (K, V);
    type IntoIter = Rows<'a, K, V>;

    fn into_iter(self) -> Rows<'a, K, V> {
        self.iter()
    }
}
