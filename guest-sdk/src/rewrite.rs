//! Changes rows of an earlier version in place, some in each call of a migration: values of another
//! type, and index entries that were never written. The cursor between two calls is the key of the
//! next row, without its tag.

use crate::collections::{Place, remove_first};
use crate::host;
use crate::index::Indexes;
use crate::key::Key;
use crate::limits::COMMAND_WRITE_BYTES_MAX;
use crate::map::Map;
use crate::migration::Migrated;
use crate::rows::{Range, RawRows, decode_key, decode_value};
use crate::single::Value;
use crate::table::{Table, entries};
use crate::value::{Stored, encode};

/// Written bytes after which a call ends even if it may take more rows. One more row, with its
/// index entries, fits into what is left.
const CALL_WRITE_BYTES_USUAL: usize = COMMAND_WRITE_BYTES_MAX / 2;

impl<K: Key, V: Stored> Map<K, V> {
    /// Reads rows as values of the type that they had, and writes them as the map's own.
    ///
    /// It takes at most `rows` rows in key order, from `cursor` on, and returns the cursor for the
    /// next call. An empty cursor is the beginning. It ends a call early that has written 4 MiB.
    ///
    /// ```ignore
    /// "1" => |state, cx| Ok(state.locks.rewrite(cx.cursor(), 1000, |_, owner: String| Lock { owner, ..Lock::default() })),
    /// ```
    ///
    /// # Panics
    /// When a value is not an `Old`, or when `rows` is 0.
    pub fn rewrite<Old: Stored>(&mut self, cursor: &[u8], rows: u32, mut change: impl FnMut(&K, Old) -> V) -> Migrated {
        let place = self.place;
        some_rows(place, cursor, rows, |row, bytes| {
            let value = encode(&change(&decode_key(row, place), decode_value(row, bytes)));
            host::put(row, &value);
            row.len() + value.len()
        })
    }
}

impl<K: Key, V: Stored, I: Indexes<K, V>> Table<K, V, I> {
    /// Reads rows as values of the type that they had, writes them as the table's own, and writes
    /// their index entries.
    ///
    /// It works like [`Map::rewrite`], also for a map of an earlier version that is a table now.
    /// The first calls remove the entries of all indexes, at most `rows` in each.
    ///
    /// # Panics
    /// When a value is not an `Old`, or when `rows` is 0.
    pub fn rewrite<Old: Stored>(&mut self, cursor: &[u8], rows: u32, mut change: impl FnMut(&K, Old) -> V) -> Migrated {
        let place = self.place();
        Self::indexed(place, cursor, rows, |row, bytes| {
            let key = decode_key(row, place);
            let value = change(&key, decode_value(row, bytes));
            let encoded = encode(&value);
            host::put(row, &encoded);
            row.len() + encoded.len() + put_entries::<K, V, I>(&key, &value)
        })
    }

    /// Removes the entries of all indexes and writes them again, for a table whose rows stay as
    /// they are.
    ///
    /// It works like [`rewrite`](Self::rewrite), in as many calls as it takes. Outside of a
    /// migration, [`reindex`](Self::reindex) does the same within one command.
    ///
    /// # Panics
    /// When `rows` is 0.
    pub fn rebuild(&mut self, cursor: &[u8], rows: u32) -> Migrated {
        let place = self.place();
        Self::indexed(place, cursor, rows, |row, bytes| {
            put_entries::<K, V, I>(&decode_key(row, place), &decode_value(row, bytes))
        })
    }

    /// Removes index entries as long as there are any, then visits rows.
    fn indexed(place: Place, cursor: &[u8], rows: u32, visit: impl FnMut(&[u8], &[u8]) -> usize) -> Migrated {
        check_rows(rows);
        if cursor.is_empty() {
            let mut left = u64::from(rows);
            for &tag in I::TAGS {
                left -= remove_first(&Place { tag }.everything(), u32::try_from(left).expect("it was a u32"));
                if left == 0 {
                    return Migrated::more([]);
                }
            }
        }
        some_rows(place, cursor, rows, visit)
    }
}

impl<V: Stored> Value<V> {
    /// Reads the value as the type that it had and sets it. Without a value it does nothing.
    ///
    /// # Panics
    /// When the value is not an `Old`.
    pub fn rewrite<Old: Stored>(&mut self, change: impl FnOnce(Old) -> V) {
        let key = self.place().tag_bytes();
        if let Some(old) = host::get(&key) {
            self.set(&change(decode_value(&key, &old)));
        }
    }
}

/// Visits the next rows of a collection. `visit` returns how many bytes it wrote.
fn some_rows(place: Place, cursor: &[u8], rows: u32, mut visit: impl FnMut(&[u8], &[u8]) -> usize) -> Migrated {
    check_rows(rows);
    let Range { mut start, end } = place.everything();
    start.extend_from_slice(cursor);
    // One row more than it visits: the key of that row is the next cursor, which is therefore never
    // empty.
    let read = RawRows::new(Range { start, end }).in_pages_of(rows.saturating_add(1));
    let mut written = 0;
    for (taken, (row, bytes)) in read.enumerate() {
        if taken == rows as usize || written >= CALL_WRITE_BYTES_USUAL {
            return Migrated::more(&row[place.tag_len()..]);
        }
        written += visit(&row, &bytes);
    }
    Migrated::done()
}

fn check_rows(rows: u32) {
    assert!(rows > 0, "a call takes at least one row, or the migration would never end");
}

/// Writes the index entries of a row and returns their length.
fn put_entries<K: Key, V: Stored, I: Indexes<K, V>>(key: &K, value: &V) -> usize {
    let entries = entries::<K, V, I>(key, value);
    entries.iter().for_each(|entry| host::put(entry, &[]));
    entries.iter().map(Vec::len).sum()
}
