//! Gives room back that removed rows take: flushes a state and rewrites its table files. RocksDB
//! does so by itself in time, but only while rows are written. It decides nothing about when.
//!
//! - It blocks, and takes as long as writing all rows, so no thread that others wait for calls it.
//! - What readers and checkpoints still need stays on disk until they are done.

use std::io::{Error, ErrorKind};

use rocksdb::CompactOptions;

use super::StoreError;
use super::columns::DATA;
use super::generation::Generation;
use super::pinned::family;
use super::space::free_bytes;

impl Generation {
    /// Flushes, and rewrites the rows of the guest. Looks between two table files whether it still
    /// `goes_on`. Returns whether it came to the end.
    ///
    /// # Errors
    /// The flush failed, or there is not enough room or no descriptor to rewrite the rows. RocksDB
    /// tells of a failure of the rewriting itself at the next flush.
    pub fn compact(&self, goes_on: impl Fn() -> bool) -> Result<bool, StoreError> {
        self.flush()?;
        let mut options = CompactOptions::default();
        // RocksDB's own compactions of what is written meanwhile do not wait for this one.
        options.set_exclusive_manual_compaction(false);
        let mut start: Option<Vec<u8>> = None;
        for end in self.ends()?.into_iter().map(Some).chain([None]) {
            if !goes_on() {
                return Ok(false);
            }
            self.check_room_to_rewrite()?;
            let data = family(self.database(), DATA);
            self.database().compact_range_cf_opt(data, start.as_deref(), end.as_deref(), &options);
            start = end;
        }
        Ok(true)
    }

    /// Returns the largest keys of the table files, in order.
    fn ends(&self) -> Result<Vec<Vec<u8>>, StoreError> {
        let files = self.database().live_files().map_err(StoreError::rocks("list the files of", self.path()))?;
        let of_guest = files.into_iter().filter(|file| file.column_family_name == DATA);
        let mut ends: Vec<Vec<u8>> = of_guest.filter_map(|file| file.end_key).collect();
        ends.sort_unstable();
        ends.dedup();
        Ok(ends)
    }

    /// Checks that there is room for a second copy of all rows. Without room, RocksDB would refuse
    /// every write from then on.
    fn check_room_to_rewrite(&self) -> Result<(), StoreError> {
        self.check_room()?;
        let (free, needed) = (free_bytes(self.path())?, self.approximate_bytes());
        if free >= needed {
            return Ok(());
        }
        let text = format!("No space left on device: {free} bytes are free, rewriting the state may take {needed}");
        let error = Error::new(ErrorKind::StorageFull, text);
        Err(StoreError::io("compact", self.path())(error))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::store::{Batch, Column, DataDir, Generation, Read, State};

    const ROWS: u32 = 200;
    const VALUE_BYTES: usize = 32 << 10;

    /// A value that cannot be compressed.
    fn value(row: u32) -> Vec<u8> {
        let mut bytes = vec![0; VALUE_BYTES];
        blake3::Hasher::new().update(&row.to_be_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn commit(generation: &Generation, change: impl Fn(&mut Batch, &[u8], u32)) {
        for row in 0..ROWS {
            let mut batch = Batch::new();
            change(&mut batch, &row.to_be_bytes(), row);
            generation.commit(&batch).unwrap();
        }
    }

    #[test]
    fn rows_that_were_removed_take_no_room_afterwards() {
        let root = tempfile::tempdir().unwrap();
        let directory = DataDir::open(root.path()).unwrap();
        let state = State::open(&directory, 0).unwrap();
        let current = state.current();
        commit(&current, |batch, key, row| batch.put(Column::Data, key, &value(row)));
        current.flush().unwrap();
        let filled = u64::from(ROWS) * VALUE_BYTES as u64;
        assert!(current.approximate_bytes() > filled / 2, "{}", current.approximate_bytes());
        commit(&current, |batch, key, row| match row {
            0 => batch.put(Column::Data, key, b"stays"),
            _ => batch.remove(Column::Data, key),
        });
        assert!(!current.compact(|| false).unwrap(), "it was ended before");
        assert!(current.compact(|| true).unwrap());
        assert!(current.approximate_bytes() < filled / 10, "{}", current.approximate_bytes());
        assert_eq!(current.get(Column::Data, &0_u32.to_be_bytes()).unwrap().as_deref(), Some(&b"stays"[..]));
        assert_eq!(current.get(Column::Data, &1_u32.to_be_bytes()).unwrap(), None);
    }

    #[test]
    fn an_empty_state_is_rewritten_at_once() {
        let root = tempfile::tempdir().unwrap();
        let directory = DataDir::open(root.path()).unwrap();
        assert!(State::open(&directory, 0).unwrap().current().compact(|| true).unwrap());
    }
}
