//! What a log on disk holds, checked record by record when it is opened. Changes nothing: damage is reported, never repaired.

use std::ops::Range;
use std::path::Path;

use openraft::entry::RaftEntry;
use rocksdb::{ColumnFamily, DB, DBAccess, DBRawIteratorWithThreadMode, ReadOptions};
use serde::de::DeserializeOwned;

use super::super::StoreError;
use super::super::columns::{LOG, META, Meta, decode_entry, decode_log_key, encode_meta_key, entry_bytes, log_keys};
use super::super::pinned::family;
use crate::codec::decode_record;
use crate::types::{Entry, Identity, LogId, Vote};

/// A log that is sound.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) vote: Option<Vote>,
    /// Never beyond `last`.
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    pub(super) identity: Option<Identity>,
    /// Index of the first entry present.
    pub(super) first: Option<u64>,
    /// Bytes of all entries, as `columns::entry_bytes` counts them.
    pub(super) bytes: u64,
    last_entry: Option<LogId>,
}

impl Found {
    /// The last entry, or the last purged one.
    pub(super) fn last(&self) -> Option<LogId> {
        self.last_entry.or(self.purged)
    }
}

/// Reads all of it: every record passes its checksum, no index is missing, terms never go back, and it begins behind what was
/// purged.
pub(super) fn check(database: &DB, path: &Path, group: u32) -> Result<Found, StoreError> {
    let purged: Option<LogId> = meta(database, path, group, Meta::Purged)?;
    let mut found = Found {
        vote: meta(database, path, group, Meta::Vote)?,
        committed: meta(database, path, group, Meta::Committed)?,
        identity: meta(database, path, group, Meta::Identity)?,
        purged,
        first: None,
        bytes: 0,
        last_entry: None,
    };
    let all = database.raw_iterator_cf_opt(family(database, LOG), range_options(group, 0..u64::MAX));
    let mut before = purged;
    walk(all, path, group, |entry| {
        let log_id = entry.log_id();
        if let Some(before) = before
            && (log_id.index != before.index + 1 || log_id.leader_id < before.leader_id)
        {
            return Err(StoreError::damaged(path, format!("entry {log_id} follows {before}")));
        }
        before = Some(log_id);
        found.first.get_or_insert(log_id.index);
        found.bytes += entry_bytes(&entry) as u64;
        Ok(true)
    })?;
    if found.first.is_some() {
        found.last_entry = before;
    }
    if found.committed > found.last() {
        tracing::warn!(committed = ?found.committed, last = ?found.last(), "ignoring a committed hint beyond the log");
        // What was purged had been committed.
        found.committed = purged;
    }
    Ok(found)
}

/// Calls `each` with the entries of an iterator made with [`range_options`], in order, while it returns true.
pub(super) fn walk<D: DBAccess>(
    mut rows: DBRawIteratorWithThreadMode<'_, D>,
    path: &Path,
    group: u32,
    mut each: impl FnMut(Entry) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    rows.seek_to_first();
    while let Some((key, value)) = rows.item() {
        let Some((_, index)) = decode_log_key(key).filter(|(of, _)| *of == group) else {
            return Err(StoreError::damaged(path, format!("a key of {} bytes is not a log key", key.len())));
        };
        let entry = decode_entry(group, index, value)
            .map_err(|error| StoreError::damaged(path, format!("log entry {index}: {error}")))?;
        if !each(entry)? {
            return Ok(());
        }
        rows.next();
    }
    rows.status().map_err(StoreError::rocks("read the log", path))
}

/// Read options for the entries of `indexes`.
pub(super) fn range_options(group: u32, indexes: Range<u64>) -> ReadOptions {
    let keys = log_keys(group, indexes);
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(keys.start);
    options.set_iterate_upper_bound(keys.end);
    // Each entry is read once; the cache is for others.
    options.fill_cache(false);
    options
}

fn meta<T: DeserializeOwned>(database: &DB, path: &Path, group: u32, meta: Meta) -> Result<Option<T>, StoreError> {
    let family: &ColumnFamily = family(database, META);
    let value = database
        .get_cf(family, encode_meta_key(group, meta))
        .map_err(StoreError::rocks("read the log's meta", path))?;
    value
        .map(|value| decode_record(&value))
        .transpose()
        .map_err(|error| StoreError::damaged(path, format!("meta record {meta:?}: {error}")))
}
