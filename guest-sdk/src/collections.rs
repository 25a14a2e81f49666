//! The state as an author declares it: typed handles over ranges of the store. A handle holds a tag and
//! nothing else; every read and write is a call to the host. Owns where a collection lies in the store,
//! and the map and the set; what holds one value is in `single`, a map with indexes in `table`.

use std::borrow::Borrow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};

use crate::host;
use crate::key::{self, EncodeKey, Key, Prefix, encode_tag, end_of_prefix};
use crate::rows::{Drain, DrainKeys, Keys, Range, RawRows, Rows, Values, decode_key, decode_value};
use crate::value::{EncodeValue, Stored, encode};

/// Where a collection lies in the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) tag: u16,
}

impl Place {
    pub(crate) fn tag_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_tag(self.tag, &mut bytes);
        bytes
    }

    /// How many bytes of a row's key are the tag.
    pub(crate) fn tag_len(self) -> usize {
        key::tag_len(self.tag)
    }

    pub(crate) fn key(self, key: &(impl EncodeKey + ?Sized)) -> Vec<u8> {
        let mut bytes = self.tag_bytes();
        key.encode_key(&mut bytes);
        bytes
    }

    pub(crate) fn everything(self) -> Range {
        let start = self.tag_bytes();
        let end = end_of_prefix(start.clone());
        Range { start, end }
    }

    pub(crate) fn prefix<K>(self, prefix: &(impl Prefix<K> + ?Sized)) -> Range {
        let mut start = self.tag_bytes();
        prefix.encode_prefix(&mut start);
        let end = end_of_prefix(start.clone());
        Range { start, end }
    }

    pub(crate) fn range<Q: EncodeKey + ?Sized>(self, bounds: &impl RangeBounds<Q>) -> Range {
        let everything = self.everything();
        // No key is a prefix of another, so a zero byte makes the least bytes above a key.
        let above = |key: &Q| {
            let mut bytes = self.key(key);
            bytes.push(0);
            bytes
        };
        let start = match bounds.start_bound() {
            Bound::Included(key) => self.key(key),
            Bound::Excluded(key) => above(key),
            Bound::Unbounded => everything.start,
        };
        let end = match bounds.end_bound() {
            Bound::Included(key) => Some(above(key)),
            Bound::Excluded(key) => Some(self.key(key)),
            Bound::Unbounded => everything.end,
        };
        Range { start, end }
    }
}

pub(crate) fn remove_range(range: &Range) -> u64 {
    host::remove_range(&range.start, range.end.as_deref(), 0)
}

macro_rules! handle {
    ($name:ident<$($parameter:ident: $bound:ident),*>) => {
        impl<$($parameter: $bound),*> $crate::dispatch::Collection for $name<$($parameter),*> {
            fn at(tag: u16) -> Self {
                Self { place: $crate::collections::Place { tag }, types: PhantomData }
            }
        }

        impl<$($parameter),*> fmt::Debug for $name<$($parameter),*> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}(tag {})", stringify!($name), self.place.tag)
            }
        }
    };
}
pub(crate) use handle;

/// A sorted map.
pub struct Map<K, V> {
    pub(crate) place: Place,
    types: PhantomData<fn() -> (K, V)>,
}

handle!(Map<K: Key, V: Stored>);

impl<K: Key, V: Stored> Map<K, V> {
    /// The value of a key.
    pub fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: EncodeKey + ?Sized,
    {
        let key = self.place.key(key);
        host::get(&key).map(|value| decode_value(&key, &value))
    }

    /// Whether a key has a value. Costs as much as reading it.
    pub fn contains<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: EncodeKey + ?Sized,
    {
        host::get(&self.place.key(key)).is_some()
    }

    /// Sets the value of a key.
    pub fn insert<Q, W>(&mut self, key: &Q, value: &W)
    where
        K: Borrow<Q>,
        Q: EncodeKey + ?Sized,
        V: Borrow<W>,
        W: EncodeValue + ?Sized,
    {
        host::put(&self.place.key(key), &encode(value));
    }

    /// Removes a key, if it is there. Reads nothing; [`take`](Self::take) says what was there.
    pub fn remove<Q>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
        Q: EncodeKey + ?Sized,
    {
        host::remove(&self.place.key(key));
    }

    /// Removes a key and returns its value.
    pub fn take<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: EncodeKey + ?Sized,
    {
        let value = self.get(key);
        if value.is_some() {
            self.remove(key);
        }
        value
    }

    /// Changes the value of a key in place; a missing one starts as the default. Returns it.
    pub fn update<Q>(&mut self, key: &Q, change: impl FnOnce(&mut V)) -> V
    where
        K: Borrow<Q>,
        Q: EncodeKey + ?Sized,
        V: Default,
    {
        let mut value = self.get(key).unwrap_or_default();
        change(&mut value);
        self.insert(key, &value);
        value
    }

    /// All entries.
    pub fn iter(&self) -> Rows<'_, K, V> {
        self.rows(self.place.everything())
    }

    /// All keys.
    pub fn keys(&self) -> Keys<'_, K> {
        Keys::of(self.place.everything(), self.place)
    }

    /// All values, in the order of their keys.
    pub fn values(&self) -> Values<'_, V> {
        Values::of(self.place.everything(), self.place)
    }

    /// The entries whose keys lie in a range.
    pub fn range<Q>(&self, bounds: impl RangeBounds<Q>) -> Rows<'_, K, V>
    where
        K: Borrow<Q>,
        Q: EncodeKey + ?Sized,
    {
        self.rows(self.place.range(&bounds))
    }

    /// The entries whose keys begin so: a part of a string, or the first parts of a tuple as `(&a,)`.
    pub fn prefix<P: Prefix<K> + ?Sized>(&self, prefix: &P) -> Rows<'_, K, V> {
        self.rows(self.place.prefix(prefix))
    }

    /// The entry with the least key.
    pub fn first(&self) -> Option<(K, V)> {
        self.iter().just_one().next()
    }

    /// The entry with the greatest key.
    pub fn last(&self) -> Option<(K, V)> {
        self.iter().descending().just_one().next()
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

    /// How many entries there are. Reads them all: keep a [`Counter`](crate::Counter) where this is asked
    /// often.
    pub fn len(&self) -> usize {
        self.iter().raw_count()
    }

    /// Whether there is no entry. Reads one row.
    pub fn is_empty(&self) -> bool {
        self.first().is_none()
    }

    /// Removes the entries whose keys lie in a range and says how many. Costs as much as reading them.
    pub fn remove_range<Q>(&mut self, bounds: impl RangeBounds<Q>) -> u64
    where
        K: Borrow<Q>,
        Q: EncodeKey + ?Sized,
    {
        remove_range(&self.place.range(&bounds))
    }

    /// Removes the entries whose keys begin so and says how many.
    pub fn remove_prefix<P: Prefix<K> + ?Sized>(&mut self, prefix: &P) -> u64 {
        remove_range(&self.place.prefix(prefix))
    }

    /// Removes all entries and says how many.
    pub fn clear(&mut self) -> u64 {
        remove_range(&self.place.everything())
    }

    /// Takes all entries out. What is not iterated over is removed all the same.
    pub fn drain(&mut self) -> Drain<'_, K, V> {
        Drain::of(self.place.everything(), self.place)
    }

    /// Takes the entries out whose keys lie in a range.
    pub fn drain_range<Q>(&mut self, bounds: impl RangeBounds<Q>) -> Drain<'_, K, V>
    where
        K: Borrow<Q>,
        Q: EncodeKey + ?Sized,
    {
        Drain::of(self.place.range(&bounds), self.place)
    }

    /// Takes the entries out whose keys begin so.
    pub fn drain_prefix<P: Prefix<K> + ?Sized>(&mut self, prefix: &P) -> Drain<'_, K, V> {
        Drain::of(self.place.prefix(prefix), self.place)
    }

    /// Keeps the entries that `keep` wants, as it leaves them, and removes the others. Only what changed
    /// is written.
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

    fn rows(&self, range: Range) -> Rows<'_, K, V> {
        Rows::new(range, self.place)
    }
}

/// A sorted set.
pub struct Set<K> {
    place: Place,
    types: PhantomData<fn() -> K>,
}

handle!(Set<K: Key>);

impl<K: Key> Set<K> {
    /// Whether a key is in the set.
    pub fn contains<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: EncodeKey + ?Sized,
    {
        host::get(&self.place.key(key)).is_some()
    }

    /// Adds a key and says whether it is new.
    pub fn insert<Q>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: EncodeKey + ?Sized,
    {
        let new = !self.contains(key);
        if new {
            host::put(&self.place.key(key), &[]);
        }
        new
    }

    /// Removes a key and says whether it was there.
    pub fn remove<Q>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: EncodeKey + ?Sized,
    {
        let there = self.contains(key);
        if there {
            host::remove(&self.place.key(key));
        }
        there
    }

    /// All keys.
    pub fn iter(&self) -> Keys<'_, K> {
        self.keys(self.place.everything())
    }

    /// The keys in a range.
    pub fn range<Q>(&self, bounds: impl RangeBounds<Q>) -> Keys<'_, K>
    where
        K: Borrow<Q>,
        Q: EncodeKey + ?Sized,
    {
        self.keys(self.place.range(&bounds))
    }

    /// The keys that begin so, as [`Map::prefix`].
    pub fn prefix<P: Prefix<K> + ?Sized>(&self, prefix: &P) -> Keys<'_, K> {
        self.keys(self.place.prefix(prefix))
    }

    /// The least key.
    pub fn first(&self) -> Option<K> {
        self.iter().just_one().next()
    }

    /// The greatest key.
    pub fn last(&self) -> Option<K> {
        self.iter().descending().just_one().next()
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

    /// How many keys there are. Reads them all.
    pub fn len(&self) -> usize {
        self.iter().raw_count()
    }

    /// Whether the set is empty. Reads one row.
    pub fn is_empty(&self) -> bool {
        self.first().is_none()
    }

    /// Removes the keys in a range and says how many.
    pub fn remove_range<Q>(&mut self, bounds: impl RangeBounds<Q>) -> u64
    where
        K: Borrow<Q>,
        Q: EncodeKey + ?Sized,
    {
        remove_range(&self.place.range(&bounds))
    }

    /// Removes the keys that begin so and says how many.
    pub fn remove_prefix<P: Prefix<K> + ?Sized>(&mut self, prefix: &P) -> u64 {
        remove_range(&self.place.prefix(prefix))
    }

    /// Removes all keys and says how many.
    pub fn clear(&mut self) -> u64 {
        remove_range(&self.place.everything())
    }

    /// Takes all keys out. What is not iterated over is removed all the same.
    pub fn drain(&mut self) -> DrainKeys<'_, K> {
        DrainKeys::of(self.place.everything(), self.place)
    }

    /// Takes the keys in a range out.
    pub fn drain_range<Q>(&mut self, bounds: impl RangeBounds<Q>) -> DrainKeys<'_, K>
    where
        K: Borrow<Q>,
        Q: EncodeKey + ?Sized,
    {
        DrainKeys::of(self.place.range(&bounds), self.place)
    }

    /// Takes the keys out that begin so.
    pub fn drain_prefix<P: Prefix<K> + ?Sized>(&mut self, prefix: &P) -> DrainKeys<'_, K> {
        DrainKeys::of(self.place.prefix(prefix), self.place)
    }

    /// Keeps the keys that `keep` wants and removes the others.
    pub fn retain(&mut self, mut keep: impl FnMut(&K) -> bool) {
        for (key, _) in RawRows::new(self.place.everything()) {
            if !keep(&decode_key(&key, self.place)) {
                host::remove(&key);
            }
        }
    }

    fn keys(&self, range: Range) -> Keys<'_, K> {
        Keys::of(range, self.place)
    }
}
