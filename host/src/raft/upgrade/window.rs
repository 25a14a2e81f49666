//! Reads from the log the entries whose commands a rehearsal runs again. The leader chooses where
//! they begin, so that all members run the same ones. It runs none of them and writes nothing.

use std::io;

use openraft::storage::RaftLogStorage;
use openraft::{EntryPayload, RaftLogReader};

use crate::codec::{self, entry};
use crate::store::Log;
use crate::types::Entry;

/// Most bytes of entries that a rehearsal runs again.
const BYTES_MAX: usize = 32 << 20;

/// Entries of one read. An entry has at most a command of 2 MiB, so a read has at most as many
/// bytes as a rehearsal.
const ENTRIES_AT_ONCE: u64 = 16;

/// Most entries that are looked at. Entries without commands count as well.
const ENTRIES_MAX: u64 = 65_536;

/// Returns the first entry of those that hold the last `commands` commands before the entry
/// `before`, or as many of them as there are from `log_first` on. An entry that changed what the
/// cluster runs, or took that back, ends the search, since its predecessor's commands are not those
/// of today's machine. Returns `before` if there are none.
pub(super) async fn begins_at(log: &Log, log_first: u64, before: u64, commands: u32) -> io::Result<u64> {
    let mut reader = log.clone().get_log_reader().await;
    let mut taken = Taken { first: before, commands: 0, commands_max: u64::from(commands), bytes: 0 };
    let log_first = log_first.max(before.saturating_sub(ENTRIES_MAX));
    let mut end = before;
    while end > log_first {
        let start = end.saturating_sub(ENTRIES_AT_ONCE).max(log_first);
        let entries = reader.try_get_log_entries(start..end).await?;
        // Those that were purged meanwhile are missing at the beginning.
        let is_whole = entries.len() as u64 == end - start;
        if !entries.iter().rev().all(|entry| taken.take(entry)) || !is_whole {
            break;
        }
        end = start;
    }
    Ok(taken.first)
}

/// Returns the entries from `first` on and before `before` that have commands, with their indexes.
///
/// # Errors
/// The log does not have all of them, or they are more than a rehearsal runs.
pub(super) async fn read(log: &Log, first: u64, before: u64) -> Result<Vec<(u64, entry::Entry)>, String> {
    let mut reader = log.clone().get_log_reader().await;
    let (mut found, mut bytes, mut next) = (Vec::new(), 0, first);
    if before - first > ENTRIES_MAX {
        return Err(format!("{} entries are more than a rehearsal runs", before - first));
    }
    while next < before {
        let end = before.min(next + ENTRIES_AT_ONCE);
        let entries = reader.try_get_log_entries(next..end).await.map_err(|error| error.to_string())?;
        if entries.len() as u64 != end - next {
            return Err(format!("this node's log no longer has entry {next}; run the upgrade again"));
        }
        for entry in entries {
            let EntryPayload::Normal(data) = &entry.payload else { continue };
            bytes += data.0.len();
            if bytes > BYTES_MAX {
                return Err(format!("the entries have more than {BYTES_MAX} bytes"));
            }
            let decoded = codec::decode_entry(data).map_err(|error| error.to_string())?;
            if !decoded.commands.is_empty() {
                found.push((entry.log_id.index, decoded));
            }
        }
        next = end;
    }
    Ok(found)
}

/// What was taken so far, from the newest entry on.
struct Taken {
    first: u64,
    commands: u64,
    commands_max: u64,
    bytes: usize,
}

impl Taken {
    /// Takes one more entry. Returns whether there may be another one.
    fn take(&mut self, entry: &Entry) -> bool {
        if self.commands >= self.commands_max {
            return false;
        }
        if let EntryPayload::Normal(data) = &entry.payload {
            let Ok(decoded) = codec::decode_entry(data) else { return false };
            self.bytes += data.0.len();
            if decoded.change.is_some()
                || decoded.rollback.is_some()
                || decoded.genesis.is_some()
                || self.bytes > BYTES_MAX
            {
                return false;
            }
            self.commands += decoded.commands.len() as u64;
        }
        self.first = entry.log_id.index;
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::codec::{Change, Command};
    use crate::types::{CommittedLeaderId, LogId};

    fn entry(index: u64, entry: &entry::Entry) -> Entry {
        let log_id = LogId::new(CommittedLeaderId { term: 1, node_id: 1 }, index);
        Entry { log_id, payload: EntryPayload::Normal(codec::encode_entry(entry)) }
    }

    fn commands(index: u64, count: usize) -> Entry {
        entry(index, &entry::Entry { commands: vec![Command::default(); count], ..entry::Entry::default() })
    }

    fn taken(commands_max: u64) -> Taken {
        Taken { first: 10, commands: 0, commands_max, bytes: 0 }
    }

    #[test]
    fn whole_entries_are_taken_until_the_commands_are_enough() {
        let mut taken = taken(5);
        let takes = [commands(9, 3), commands(8, 1), commands(7, 4), commands(6, 1)].map(|entry| taken.take(&entry));
        assert_eq!((takes, taken.first, taken.commands), ([true, true, true, false], 7, 8));
    }

    #[test]
    fn a_change_and_the_genesis_end_the_search() {
        let change = entry::Entry { change: Some(Change::default()), ..entry::Entry::default() };
        let genesis = entry::Entry { genesis: Some(codec::Genesis::default()), ..entry::Entry::default() };
        for end in [change, genesis] {
            let mut taken = taken(100);
            assert!(taken.take(&commands(9, 1)) && !taken.take(&entry(8, &end)));
            assert_eq!(taken.first, 9);
        }
    }

    #[test]
    fn too_many_bytes_end_the_search() {
        let mut taken = taken(100);
        taken.bytes = BYTES_MAX;
        assert!(!taken.take(&commands(9, 1)));
        assert_eq!(taken.first, 10, "nothing is run again");
    }

    #[test]
    fn no_commands_are_none() {
        let mut taken = taken(0);
        assert!(!taken.take(&commands(9, 1)));
        assert_eq!(taken.first, 10);
    }
}
