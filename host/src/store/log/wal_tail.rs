//! Measures the torn record at the end of a write-ahead log: the start of a record that a crash cut
//! short. RocksDB drops it without a message when it opens the log; this lets the node tell the
//! operator. Decides nothing.
//!
//! The format is RocksDB's, see `store/record_files.rs`. A record is one full fragment, or a first,
//! middle ones and a last one.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::super::record_files::{Seen, walk};

/// The kinds of fragments that continue the record before them.
const MIDDLE_AND_LAST: [u8; 2] = [3, 4];
/// The kinds of fragments whose record continues after them.
const FIRST_AND_MIDDLE: [u8; 2] = [2, 3];

/// Returns the newest write-ahead log in `raft` and the bytes of its torn record.
///
/// `None` if there is none to report.
pub(super) fn torn(raft: &Path) -> Option<(PathBuf, u64)> {
    let number = |path: &PathBuf| path.file_stem()?.to_str()?.parse::<u64>().ok();
    let logs = fs::read_dir(raft).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let newest = logs.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max_by_key(number)?;
    let bytes = fs::metadata(&newest).ok()?.len();
    let begun = unfinished(File::open(&newest).ok()?).ok()??;
    Some((newest, bytes - begun))
}

/// Returns where the last record begins, if the log ends inside it.
fn unfinished(log: impl Read) -> io::Result<Option<u64>> {
    let (mut begun, mut goes_on, mut fragment) = (0, false, None);
    walk(log, |at, seen| match seen {
        Seen::Fragment(kind) => {
            if !MIDDLE_AND_LAST.contains(&kind) {
                begun = at;
            }
            goes_on = FIRST_AND_MIDDLE.contains(&kind);
            fragment = Some(at);
        }
        Seen::Cut => {
            // The log ends inside a header. It begins a record, unless one is unfinished.
            if fragment != Some(at) && !goes_on {
                begun = at;
            }
            goes_on = true;
        }
        Seen::Hole => {}
    })?;
    Ok(goes_on.then_some(begun))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::super::record_files::tests::fragment;
    use super::super::super::record_files::{BLOCK_BYTES, HEADER_BYTES};
    use super::*;

    fn begun(log: &[u8]) -> Option<usize> {
        unfinished(log).unwrap().map(|at| usize::try_from(at).unwrap())
    }

    #[test]
    fn every_cut_inside_a_record_is_seen() {
        let records = [fragment(1, &[7; 10]), fragment(1, &[7; 20])].concat();
        for cut in 0..=records.len() {
            let expected = match cut {
                1..=16 => Some(0),
                18..=43 => Some(17),
                _ => None,
            };
            assert_eq!(begun(&records[..cut]), expected, "{cut}");
        }
    }

    #[test]
    fn a_record_over_three_blocks_is_whole_with_its_last_fragment() {
        let full = [7; BLOCK_BYTES - HEADER_BYTES];
        let records = [fragment(2, &full), fragment(3, &full), fragment(4, &[7; 5])].concat();
        assert_eq!(begun(&records), None);
        for bytes in [records.len() - 1, 2 * BLOCK_BYTES + 3, 2 * BLOCK_BYTES, BLOCK_BYTES + 9, BLOCK_BYTES] {
            assert_eq!(begun(&records[..bytes]), Some(0), "{bytes}");
        }
    }

    #[test]
    fn what_ends_a_block_is_no_record() {
        let first = fragment(1, &[7; BLOCK_BYTES - HEADER_BYTES - 3]);
        let log = [first, vec![0; 3], fragment(1, &[7; 4])].concat();
        assert_eq!(begun(&log), None);
        assert_eq!(begun(&log[..log.len() - 1]), Some(BLOCK_BYTES));
        assert_eq!(begun(&log[..BLOCK_BYTES - 2]), None);
    }

    #[test]
    fn neither_room_taken_in_advance_nor_what_rocksdb_refuses_is_torn() {
        let whole = fragment(1, &[7; 10]);
        assert_eq!(begun(&[&whole[..], &[0; 100]].concat()), None);
        let mut damaged = whole;
        damaged[9] ^= 1;
        assert_eq!(begun(&damaged), None);
    }
}
