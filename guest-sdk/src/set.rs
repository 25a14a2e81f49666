//! The sorted set: keys whose rows have empty values. This file owns what its methods do.

use std::marker::PhantomData;

use crate::collections::{Place, handle, remove_first, remove_range};
use crate::host;
use crate::key::{EncodeKey, Key, KeyRange, Prefix};
use crate::rows::{DrainKeys, Keys, Range, RawRows, decode_key};

/// A sorted set.
pub struct Set<K> {
    place: Place,
    types: PhantomData<fn() -> K>,
}

handle!(Set<K: Key>);

impl<K: Key> Set<K> {
    /// Tells whether a key is in the set.
    pub fn contains<Q: EncodeKey<K> + ?Sized>(&self, key: &Q) -> bool {
        host::get(&self.place.key(key)).is_some()
    }

    /// Adds a key and returns whether it is new.
    pub fn insert<Q: EncodeKey<K> + ?Sized>(&mut self, key: &Q) -> bool {
        let new = !self.contains(key);
        if new {
            host::put(&self.place.key(key), &[]);
        }
        new
    }

    /// Removes a key and returns whether it was present. Costs a read; [`delete`](Self::delete)
    /// costs none.
    pub fn remove<Q: EncodeKey<K> + ?Sized>(&mut self, key: &Q) -> bool {
        let there = self.contains(key);
        if there {
            host::remove(&self.place.key(key));
        }
        there
    }

    /// Removes a key if it is present. Reads nothing.
    pub fn delete<Q: EncodeKey<K> + ?Sized>(&mut self, key: &Q) {
        host::remove(&self.place.key(key));
    }

    /// Returns all keys.
    ///
    /// # Panics
    /// The iterator panics at a key that cannot be decoded, for example because its tag was reused
    /// for another type.
    pub fn iter(&self) -> Keys<'_, K> {
        self.keys(self.place.everything())
    }

    /// Returns the keys in a range.
    pub fn range(&self, range: impl KeyRange<K>) -> Keys<'_, K> {
        self.keys(self.place.range(&range))
    }

    /// Returns the keys with this prefix. Prefixes are those of [`Map::prefix`].
    pub fn prefix<P: Prefix<K> + ?Sized>(&self, prefix: &P) -> Keys<'_, K> {
        self.keys(self.place.prefix(prefix))
    }

    /// Returns the least key.
    pub fn first(&self) -> Option<K> {
        self.iter().first()
    }

    /// Returns the greatest key.
    pub fn last(&self) -> Option<K> {
        self.iter().last()
    }

    /// Removes the least key and returns it.
    pub fn pop_first(&mut self) -> Option<K> {
        let key = self.first();
        self.remove_popped(key)
    }

    /// Removes the greatest key and returns it.
    pub fn pop_last(&mut self) -> Option<K> {
        let key = self.last();
        self.remove_popped(key)
    }

    fn remove_popped(&mut self, key: Option<K>) -> Option<K> {
        if let Some(key) = &key {
            host::remove(&self.place.key(key));
        }
        key
    }

    /// Returns the number of keys. Reads them all.
    pub fn len(&self) -> usize {
        RawRows::new(self.place.everything()).count()
    }

    /// Tells whether the set is empty. Reads one row.
    pub fn is_empty(&self) -> bool {
        self.first().is_none()
    }

    /// Removes the keys in a range and returns how many.
    pub fn remove_range(&mut self, range: impl KeyRange<K>) -> u64 {
        remove_range(&self.place.range(&range))
    }

    /// Removes the keys with this prefix and returns how many.
    pub fn remove_prefix<P: Prefix<K> + ?Sized>(&mut self, prefix: &P) -> u64 {
        remove_range(&self.place.prefix(prefix))
    }

    /// Removes all keys and returns how many.
    pub fn clear(&mut self) -> u64 {
        remove_range(&self.place.everything())
    }

    /// Removes all keys and returns them. Keys that are not iterated over are removed, too.
    pub fn drain(&mut self) -> DrainKeys<'_, K> {
        DrainKeys::of(self.place.everything(), self.place)
    }

    /// Removes the keys in a range and returns them.
    pub fn drain_range(&mut self, range: impl KeyRange<K>) -> DrainKeys<'_, K> {
        DrainKeys::of(self.place.range(&range), self.place)
    }

    /// Removes the keys with this prefix and returns them.
    pub fn drain_prefix<P: Prefix<K> + ?Sized>(&mut self, prefix: &P) -> DrainKeys<'_, K> {
        DrainKeys::of(self.place.prefix(prefix), self.place)
    }

    /// Keeps the keys for which `keep` returns true and removes the others.
    pub fn retain(&mut self, mut keep: impl FnMut(&K) -> bool) {
        for (key, _) in RawRows::new(self.place.everything()) {
            if !keep(&decode_key(&key, self.place)) {
                host::remove(&key);
            }
        }
    }

    /// Removes the first keys of a range, at most `limit`, and returns how many.
    ///
    /// Fewer than `limit` means that the range is now empty.
    pub fn remove_first(&mut self, range: impl KeyRange<K>, limit: u32) -> u64 {
        remove_first(&self.place.range(&range), limit)
    }

    fn keys(&self, range: Range) -> Keys<'_, K> {
        Keys::of(range, self.place)
    }
}

impl<'a, K: Key> IntoIterator for &'a Set<K> {
    type Item = K;
    type IntoIter = Keys<'a, K>;

    fn into_iter(self) -> Keys<'a, K> {
        self.iter()
    }
}
