//! The state as an author declares it: typed handles over ranges of the store. A handle holds a tag and
//! nothing else; every read and write is a call to the host. Owns where a collection lies in the store;
//! the collections stand in `map`, `set`, `table` and `single`.

use std::ops::Bound;

use crate::host;
use crate::key::{self, EncodeKey, KeyRange, Prefix, encode_tag, end_of_prefix};
use crate::rows::Range;

/// Room for most keys from the start: growing bytes piece by piece costs a guest more than the call that they are for.
const KEY_BYTES_USUAL: usize = 48;

/// Where a collection lies in the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) tag: u16,
}

impl Place {
    pub(crate) fn tag_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(KEY_BYTES_USUAL);
        encode_tag(self.tag, &mut bytes);
        bytes
    }

    /// How many bytes of a row's key are the tag.
    pub(crate) fn tag_len(self) -> usize {
        key::tag_len(self.tag)
    }

    pub(crate) fn key<K>(self, key: &(impl EncodeKey<K> + ?Sized)) -> Vec<u8> {
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

    pub(crate) fn range<K>(self, range: &impl KeyRange<K>) -> Range {
        range_behind(&self.tag_bytes(), range)
    }
}

/// The rows whose keys go on behind `prefix` with a key in a range.
pub(crate) fn range_behind<K>(prefix: &[u8], range: &impl KeyRange<K>) -> Range {
    let at = |key: Vec<u8>| [prefix, &key].concat();
    // No key is a prefix of another, so a zero byte makes the least bytes above a key.
    let above = |key: Vec<u8>| [prefix, &key, &[0]].concat();
    let start = match range.start() {
        Bound::Included(key) => at(key),
        Bound::Excluded(key) => above(key),
        Bound::Unbounded => prefix.to_vec(),
    };
    let end = match range.end() {
        Bound::Included(key) => Some(above(key)),
        Bound::Excluded(key) => Some(at(key)),
        Bound::Unbounded => end_of_prefix(prefix.to_vec()),
    };
    Range { start, end }
}

pub(crate) fn remove_range(range: &Range) -> u64 {
    host::remove_range(&range.start, range.end.as_deref(), 0)
}

/// Removes the first rows of a range.
pub(crate) fn remove_first(range: &Range, limit: u32) -> u64 {
    match limit {
        // To the host it is no limit.
        0 => 0,
        limit => host::remove_range(&range.start, range.end.as_deref(), limit),
    }
}

macro_rules! handle {
    ($name:ident<$($parameter:ident: $bound:ident),*>) => {
        impl<$($parameter: $bound),*> $crate::dispatch::Collection for $name<$($parameter),*> {
            fn at(tag: u16) -> Self {
                Self { place: $crate::collections::Place { tag }, types: ::std::marker::PhantomData }
            }
        }

        impl<$($parameter),*> ::std::fmt::Debug for $name<$($parameter),*> {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                write!(f, "{}(tag {})", stringify!($name), self.place.tag)
            }
        }
    };
}
pub(crate) use handle;
