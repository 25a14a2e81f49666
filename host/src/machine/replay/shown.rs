//! One entry as a replay shows it: its commands, how they ended, what they did, and the rows that
//! changed. This file runs nothing.

use super::trace::Attempt;
use crate::guest::{Component, Verdict};
use crate::machine::entry::Writes;
use crate::machine::tried::ChangeReport;
use crate::store::{Column, Read, StoreError};
use bytes::Bytes;

/// Most changed rows that are kept.
const ROWS_MAX: usize = 1000;
/// Most bytes of them.
const ROWS_BYTES_MAX: usize = 16 << 20;

/// An entry that was run.
pub struct ShownEntry {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// What it holds: `blank`, `membership`, `commands`, `change` or `rollback`.
    pub kind: &'static str,
    /// Log time behind it, in milliseconds since 1970.
    pub time_ms: u64,
    /// The rolling hash behind it.
    pub hash: u64,
    /// The component that ran it.
    pub component: Component,
    /// Its commands, in order.
    pub commands: Vec<ShownCommand>,
    /// The change or the rollback, if it holds one.
    pub change: Option<ChangeReport>,
    /// The rows of the guest that changed. A rollback replaces all of them and shows none.
    pub rows: Vec<RowChange>,
    /// Changed rows that were left out, because there were too many.
    pub rows_left_out: u64,
}

/// A command that was run.
pub struct ShownCommand {
    /// Its place in the entry.
    pub position: u32,
    /// The method, as `package.Service/Method`.
    pub method: String,
    /// The authenticated client; empty if there is none.
    pub caller: String,
    /// The encoded request.
    pub request: Bytes,
    /// How it ended.
    pub verdict: Verdict,
    /// Its runs; two, if it failed in a used instance. None if it was not run.
    pub attempts: Vec<Attempt>,
}

/// A row that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowChange {
    /// The key.
    pub key: Vec<u8>,
    /// The value before; `None` if there was no row.
    pub before: Option<Vec<u8>>,
    /// The value behind the entry; `None` if the row is gone.
    pub after: Option<Vec<u8>>,
}

/// Returns the rows that changed, and how many were left out. `before` is the state before the
/// writes.
pub(super) fn changed(before: &dyn Read, writes: Writes) -> Result<(Vec<RowChange>, u64), StoreError> {
    let (mut rows, mut bytes, mut left_out) = (Vec::new(), 0, 0);
    for (key, after) in writes {
        if rows.len() == ROWS_MAX || bytes > ROWS_BYTES_MAX {
            left_out += 1;
            continue;
        }
        let old = before.get(Column::Data, &key)?;
        bytes += key.len() + [&old, &after].into_iter().flatten().map(Vec::len).sum::<usize>();
        rows.push(RowChange { key, before: old, after });
    }
    Ok((rows, left_out))
}
