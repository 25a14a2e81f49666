//! The place of each collection in the store. A collection is a typed handle over a range of the
//! store. It holds a tag and nothing else; every read and write is a call to the host. The
//! collections themselves are in `map`, `set`, `table` and `single`.

use std::ops::Bound;

use crate::host;
use crate::key::{self, EncodeKey, KeyRange, Prefix, encode_tag, end_of_prefix};
use crate::rows::Range;

/// Initial capacity for a key, enough for most keys. Growing a buffer step by step costs a guest
/// more than the call that needs the key.
const KEY_BYTES_USUAL: usize = 48;

/// Place of a collection in the store.
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

    /// Returns how many bytes of a row's key are the tag.
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

/// Returns the range of rows whose keys are `prefix` followed by a key in `range`.
pub(crate) fn range_behind<K>(prefix: &[u8], range: &impl KeyRange<K>) -> Range {
    let at = |key: Vec<u8>| [prefix, &key].concat();
    // No key is a prefix of another key, so a key followed by a zero byte is the least byte string
    // above that key.
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

/// Removes the first rows of a range, at most `limit`, and returns how many it removed.
pub(crate) fn remove_first(range: &Range, limit: u32) -> u64 {
    match limit {
        // For the host a limit of 0 means no limit.
        0 => 0,
        limit => host::remove_range(&range.start, range.end.as_deref(), limit),
    }
}

macro_rules! handle {
    ($name:ident<$($parameter:ident: $bound:ident),*>) => {
        impl<$($parameter: $bound),*> $crate::dispatch::Collection for $name<$($parameter),*> {
            const ROWS: $crate::Shape = $crate::Shape::Of {
                name: stringify!($name),
                parts: &[$(<$parameter as $bound>::SHAPE),*],
            };

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
