//! Checks a log on disk when it is opened, and returns what it holds. Finds which groups have one.
//! Changes nothing: reports damage, never repairs it.
//!
//! At open it checks the records in `meta` and the newest entries, up to a number of bytes: each
//! passes its checksum, none is missing, and terms never decrease. It also checks that the log
//! begins right after what was purged. Older entries are checked in the same way whenever they are
//! read.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use rocksdb::{ColumnFamily, DB, DBAccess, DBRawIteratorWithThreadMode, Range as KeyRange, ReadOptions};
use serde::de::DeserializeOwned;

use super::super::StoreError;
use super::super::columns::{
    ENTRY_BESIDE_PAYLOAD_BYTES, LOG, META, Meta, check_entry, decode_entry, decode_log_key, encode_meta_key, log_keys,
};
use super::super::pinned::family;
use super::synced::Ends;
use crate::codec::decode_record;
use crate::types::{Entry, GroupId, Identity, LogId, Vote};

/// Bytes of all logs on disk that are checked at a start, the same for each. By default a node
/// keeps far less; gigabytes of log must not delay its start.
pub(super) const CHECKED_BYTES: u64 = 256 << 20;

/// The contents of a sound log.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) vote: Option<Vote>,
    /// Never beyond `last`.
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    pub(super) identity: Option<Identity>,
    /// Index of the first entry present.
    pub(super) first: Option<u64>,
    /// Bytes of all entries, roughly as `columns::entry_bytes` counts them.
    pub(super) bytes: u64,
    last_entry: Option<LogId>,
}

impl Found {
    /// Returns the last entry, or the last purged one.
    pub(super) fn last(&self) -> Option<LogId> {
        self.last_entry.or(self.purged)
    }

    /// Returns the ends of the log in the form in which `SYNCED` holds them.
    pub(super) fn ends(&self) -> Ends {
        let (node, boot) = self.identity.as_ref().map_or((0, 0), |identity| (identity.node_id, identity.boot));
        Ends { vote: self.vote, last: self.last(), node, boot }
    }
}

/// Returns every group that has a key in the database.
pub(super) fn groups(database: &DB, path: &Path) -> Result<BTreeSet<GroupId>, StoreError> {
    let mut groups = BTreeSet::new();
    for name in [LOG, META] {
        let mut rows = database.raw_iterator_cf(family(database, name));
        rows.seek_to_first();
        while let Some(key) = rows.key() {
            let Some(group) = key.first_chunk().map(|group| GroupId::from_be_bytes(*group)) else {
                return Err(StoreError::damaged(path, format!("a key of {} bytes names no group", key.len())));
            };
            groups.insert(group);
            let Some(next) = group.checked_add(1) else { break };
            rows.seek(next.to_be_bytes());
        }
        rows.status().map_err(StoreError::rocks("read the log", path))?;
    }
    Ok(groups)
}

/// Checks the log of a group as the head of this file says: the newest `bytes` of it.
pub(super) fn check(database: &DB, path: &Path, group: GroupId, bytes: u64) -> Result<Found, StoreError> {
    let mut found = Found {
        vote: meta(database, path, group, Meta::Vote)?,
        committed: meta(database, path, group, Meta::Committed)?,
        identity: meta(database, path, group, Meta::Identity)?,
        purged: meta(database, path, group, Meta::Purged)?,
        first: None,
        bytes: 0,
        last_entry: None,
    };
    if let Some((first, last)) = outermost(database, path, group)? {
        if found.purged.is_some_and(|purged| purged.index + 1 != first) {
            let text = format!(
                "the first log entry is {first}, and entries up to {} were purged",
                found.purged.map_or(0, |id| id.index)
            );
            return Err(StoreError::damaged(path, text));
        }
        let from = newest_within(database, group, first..last + 1, bytes);
        if from > first {
            tracing::info!(
                group,
                first,
                last,
                from,
                "the log is long: entries before `from` are checked when they are read"
            );
        }
        let before = found.purged.filter(|_| from == first);
        found.first = Some(first);
        let (last_entry, checked) = check_range(database, path, group, from..last + 1, before)?;
        found.last_entry = Some(last_entry);
        // Assumes that the older entries have on average as many bytes as the newer.
        let whole = u128::from(checked) * u128::from(last + 1 - first) / u128::from(last + 1 - from);
        found.bytes = u64::try_from(whole).unwrap_or(u64::MAX);
    }
    if found.committed > found.last() {
        tracing::warn!(group, committed = ?found.committed, last = ?found.last(), "ignoring a committed hint beyond the log");
        // Whatever was purged had been committed.
        found.committed = found.purged;
    }
    Ok(found)
}

/// Returns the indexes of the first and the last entry.
fn outermost(database: &DB, path: &Path, group: GroupId) -> Result<Option<(u64, u64)>, StoreError> {
    let mut rows = database.raw_iterator_cf_opt(family(database, LOG), range_options(group, 0..u64::MAX));
    rows.seek_to_first();
    let first = rows.key().map(|key| index_of(key, path, group)).transpose()?;
    if first.is_some() {
        rows.seek_to_last();
    }
    let last = rows.key().map(|key| index_of(key, path, group)).transpose()?;
    rows.status().map_err(StoreError::rocks("read the log", path))?;
    Ok(first.zip(last))
}

/// Returns the first of the newest entries of `indexes` that take roughly `bytes` on disk.
fn newest_within(database: &DB, group: GroupId, indexes: Range<u64>, bytes: u64) -> u64 {
    let keys = log_keys(group, indexes.clone());
    let all = database.get_approximate_sizes_cf(family(database, LOG), &[KeyRange::new(&keys.start, &keys.end)]);
    let all = all.first().copied().unwrap_or(0);
    if all <= bytes {
        return indexes.start;
    }
    let count = indexes.end - indexes.start;
    let newest = u128::from(count) * u128::from(bytes) / u128::from(all);
    indexes.end - u64::try_from(newest).unwrap_or(count).clamp(1, count)
}

/// Checks every entry of `indexes`, all of which must be there. `before` is the log id before them.
///
/// Returns the last entry's log id, and the bytes of all.
fn check_range(
    database: &DB,
    path: &Path,
    group: GroupId,
    indexes: Range<u64>,
    mut before: Option<LogId>,
) -> Result<(LogId, u64), StoreError> {
    let mut rows = database.raw_iterator_cf_opt(family(database, LOG), range_options(group, indexes.clone()));
    rows.seek_to_first();
    let mut next = indexes.start;
    let mut bytes = 0;
    while let Some((key, value)) = rows.item() {
        let index = index_of(key, path, group)?;
        let (log_id, _, payload) =
            check_entry(group, index, value).map_err(|error| entry_damaged(path, index, &error))?;
        if index != next {
            return Err(StoreError::damaged(path, format!("log entry {next} is missing")));
        }
        if let Some(before) = before.filter(|before| log_id.leader_id < before.leader_id) {
            return Err(StoreError::damaged(path, format!("entry {log_id} follows {before}")));
        }
        before = Some(log_id);
        bytes += (payload.len() + ENTRY_BESIDE_PAYLOAD_BYTES) as u64;
        next += 1;
        rows.next();
    }
    rows.status().map_err(StoreError::rocks("read the log", path))?;
    match before.filter(|_| next == indexes.end) {
        Some(last) => Ok((last, bytes)),
        None => Err(StoreError::damaged(path, format!("log entry {next} is missing"))),
    }
}

fn index_of(key: &[u8], path: &Path, group: GroupId) -> Result<u64, StoreError> {
    match decode_log_key(key).filter(|(of, _)| *of == group) {
        Some((_, index)) => Ok(index),
        None => Err(StoreError::damaged(path, format!("a key of {} bytes is not a log key", key.len()))),
    }
}

fn entry_damaged(path: &Path, index: u64, error: &crate::codec::CodecError) -> StoreError {
    StoreError::damaged(path, format!("log entry {index}: {error}"))
}

/// Calls `each` with the entries of an iterator, in order, while it returns true.
///
/// The iterator is one from [`range_options`].
pub(super) fn walk<D: DBAccess>(
    mut rows: DBRawIteratorWithThreadMode<'_, D>,
    path: &Path,
    group: GroupId,
    mut each: impl FnMut(Entry) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    rows.seek_to_first();
    while let Some((key, value)) = rows.item() {
        let index = index_of(key, path, group)?;
        let entry = decode_entry(group, index, value).map_err(|error| entry_damaged(path, index, &error))?;
        if !each(entry)? {
            return Ok(());
        }
        rows.next();
    }
    rows.status().map_err(StoreError::rocks("read the log", path))
}

/// Returns read options for the entries of `indexes`.
pub(super) fn range_options(group: GroupId, indexes: Range<u64>) -> ReadOptions {
    let keys = log_keys(group, indexes);
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(keys.start);
    options.set_iterate_upper_bound(keys.end);
    // Each entry is read once. The cache is for other data.
    options.fill_cache(false);
    options
}

fn meta<T: DeserializeOwned>(database: &DB, path: &Path, group: GroupId, meta: Meta) -> Result<Option<T>, StoreError> {
    let family: &ColumnFamily = family(database, META);
    let value = database
        .get_cf(family, encode_meta_key(group, meta))
        .map_err(StoreError::rocks("read the log's meta", path))?;
    value
        .map(|value| decode_record(&value))
        .transpose()
        .map_err(|error| StoreError::damaged(path, format!("meta record {meta:?}: {error}")))
}
