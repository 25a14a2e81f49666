//! How many bytes at the end of a write-ahead log are the beginning of a record that a crash cut short. RocksDB leaves them out
//! without a word when it opens the log; an operator is told. Reads the whole file, looks at headers only, and decides nothing.
//!
//! The format is RocksDB's: see `store/record_files.rs`. A record is one full fragment, or a first, middle ones and a last.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::record_files::{BLOCK_BYTES, HEADER_BYTES};

/// The kinds of fragments behind which a record goes on.
const FIRST_AND_MIDDLE: [u8; 2] = [2, 3];

/// The newest write-ahead log in `raft`, and the bytes of its torn record; `None` when there is none to tell of.
pub(super) fn torn(raft: &Path) -> Option<(PathBuf, usize)> {
    let number = |path: &PathBuf| path.file_stem()?.to_str()?.parse::<u64>().ok();
    let logs = fs::read_dir(raft).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let newest = logs.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max_by_key(number)?;
    let bytes = fs::read(&newest).ok()?;
    Some((newest, bytes.len() - whole_bytes(&bytes))).filter(|(_, torn)| *torn > 0)
}

/// Up to here every record is complete.
fn whole_bytes(log: &[u8]) -> usize {
    let (mut at, mut whole) = (0, 0);
    while at < log.len() {
        let left_in_block = BLOCK_BYTES - at % BLOCK_BYTES;
        if left_in_block < HEADER_BYTES {
            at += left_in_block;
            whole = if whole + left_in_block >= at { at.min(log.len()) } else { whole };
            continue;
        }
        let Some(header) = log.get(at..at + HEADER_BYTES) else { return whole };
        let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
        let kind = header[6];
        if kind == 0 && length == 0 {
            // Room that was taken in advance and not written.
            return log.len();
        }
        at += HEADER_BYTES + length;
        if at > log.len() {
            return whole;
        }
        if !FIRST_AND_MIDDLE.contains(&kind) {
            whole = at;
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(kind: u8, bytes: usize) -> Vec<u8> {
        let length = u16::try_from(bytes).expect("a fragment fits a block").to_le_bytes();
        [&[9, 9, 9, 9, length[0], length[1], kind][..], &vec![7; bytes][..]].concat()
    }

    #[test]
    fn every_cut_inside_a_record_is_seen() {
        let records = [fragment(1, 10), fragment(1, 20)].concat();
        for cut in 0..=records.len() {
            let whole = if cut == records.len() {
                cut
            } else if cut >= 17 {
                17
            } else {
                0
            };
            assert_eq!(whole_bytes(&records[..cut]), whole, "{cut}");
        }
    }

    #[test]
    fn a_record_over_two_blocks_is_whole_with_its_last_fragment() {
        let first = fragment(2, BLOCK_BYTES - HEADER_BYTES);
        assert_eq!(whole_bytes(&first), 0);
        let both = [first, fragment(4, 5)].concat();
        assert_eq!(whole_bytes(&both), both.len());
        assert_eq!(whole_bytes(&both[..both.len() - 1]), 0);
    }

    #[test]
    fn what_ends_a_block_is_no_record() {
        let first = fragment(1, BLOCK_BYTES - HEADER_BYTES - 3);
        let log = [first, vec![0; 3], fragment(1, 4)].concat();
        assert_eq!(whole_bytes(&log), log.len());
        assert_eq!(whole_bytes(&log[..log.len() - 1]), BLOCK_BYTES);
        assert_eq!(whole_bytes(&log[..BLOCK_BYTES - 2]), BLOCK_BYTES - 2);
    }

    #[test]
    fn room_taken_in_advance_is_not_torn() {
        let log = [fragment(1, 10), vec![0; 100]].concat();
        assert_eq!(whole_bytes(&log), log.len());
    }
}
