//! Walks the files that RocksDB reads record by record: write-ahead logs and manifests. Finds
//! damage in them that RocksDB does not report. The store checks every database with this before it
//! opens it. Changes only copies.
//!
//! It looks for two kinds of damage:
//!
//! - A record of a kind that only recycled logs have. The store never recycles logs, so such a kind
//!   is a damaged byte. RocksDB (since [#12643]) reads such a record again and again, without end.
//!   If it is the first record of its file, RocksDB ignores the whole file and reports nothing.
//! - A hole: zeros where a record should begin, and data in a later block. RocksDB takes the zeros
//!   for unused room and goes on at the next block, and reports nothing. Zeros in the last block
//!   are a tail that a crash left.
//!
//! The format: blocks of 32 KiB that hold fragments. A fragment is a header (crc32c u32 of kind and
//! payload, masked; length u16; kind u8; little-endian) and a payload. RocksDB goes on at the next
//! block after a fragment that does not fit in its block, that is all zeros, or that fails its
//! checksum. This module does the same, so that it reads what RocksDB reads. It also checks files
//! that RocksDB would not read any more; only a crash leaves such files.
//!
//! [#12643]: https://github.com/facebook/rocksdb/pull/12643

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::StoreError;
use super::files::names;

/// Bytes of a block.
pub(super) const BLOCK_BYTES: usize = 32 * 1024;
/// Bytes of a fragment's header.
pub(super) const HEADER_BYTES: usize = 7;
/// Offset of the kind in a header.
const KIND_AT: usize = 6;
/// The kinds whose header holds the number of their log: fragments of records, the size of
/// timestamps, the previous log.
const RECYCLED: [u8; 6] = [5, 6, 7, 8, 11, 131];
/// A kind that no record has. A fragment that is given this kind fails its checksum.
const NO_KIND: u8 = 12;
/// The constant that RocksDB masks checksums with (`util/crc32c.h`).
const MASK: u32 = 0xa282_ead8;

/// What [`walk`] found at one place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// A fragment of this kind.
    Fragment(u8),
    /// The file ends inside the fragment that was reported just before, or inside a header.
    Cut,
    /// Zeros, followed by data in a later block. Reported when that data is found.
    Hole,
}

impl Seen {
    /// Returns what is wrong, if it is damage that RocksDB does not report.
    fn fault(self) -> Option<&'static str> {
        match self {
            Seen::Fragment(kind) if RECYCLED.contains(&kind) => {
                Some("it is of a kind that only recycled logs have, and no log of this node is recycled")
            }
            Seen::Fragment(_) | Seen::Cut => None,
            Seen::Hole => Some("it begins with zeros, and others stand behind it"),
        }
    }
}

/// Fails if a file of the database in `directory` has damage that RocksDB would not report.
pub(super) fn check(directory: &Path) -> Result<(), StoreError> {
    for path in record_files(directory)? {
        if let Some((at, fault)) = faults(&path)?.first() {
            return Err(StoreError::Unreadable { what: format!("the record at byte {at}: {fault}"), path });
        }
    }
    Ok(())
}

/// Changes each such place in a copy, which nobody has open, so that RocksDB sees the damage.
pub(super) fn spoil(copy: &Path) -> Result<(), StoreError> {
    for path in record_files(copy)? {
        for (at, _) in faults(&path)? {
            let file = File::options().write(true).open(&path).map_err(StoreError::io("open", &path))?;
            file.write_all_at(&[NO_KIND], at + KIND_AT as u64).map_err(StoreError::io("write", &path))?;
        }
    }
    Ok(())
}

/// Returns nothing if the directory does not exist.
fn record_files(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let is_one = |name: &&String| name.starts_with("MANIFEST-") || name.ends_with(".log");
    Ok(names(directory)?.iter().filter(is_one).map(|name| directory.join(name)).collect())
}

/// Finds damage that RocksDB does not report: the byte offset, and what is wrong.
fn faults(path: &Path) -> Result<Vec<(u64, &'static str)>, StoreError> {
    let mut found = Vec::new();
    let walked =
        File::open(path).and_then(|file| walk(file, |at, seen| found.extend(seen.fault().map(|fault| (at, fault)))));
    walked.map_err(StoreError::io("read", path))?;
    Ok(found)
}

/// Reports what stands at each place of the file, in order.
pub(super) fn walk(mut file: impl Read, mut seen: impl FnMut(u64, Seen)) -> io::Result<()> {
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    let mut start = 0;
    // Where zeros began. Set until data is found behind them.
    let mut zeros = None;
    loop {
        block.clear();
        file.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
        if block.is_empty() {
            return Ok(());
        }
        let mut rest = &block[..];
        while let Some((header, _)) = rest.split_at_checked(HEADER_BYTES) {
            let at = start + (block.len() - rest.len()) as u64;
            let (kind, length) = (header[KIND_AT], usize::from(u16::from_le_bytes([header[4], header[5]])));
            if kind == 0 && length == 0 {
                zeros = zeros.or(Some(at));
                break;
            }
            if let Some(at) = zeros.take() {
                seen(at, Seen::Hole);
            }
            seen(at, Seen::Fragment(kind));
            let Some((fragment, behind)) = rest.split_at_checked(HEADER_BYTES + length) else {
                if block.len() < BLOCK_BYTES {
                    seen(at, Seen::Cut);
                }
                break;
            };
            let checksum = [header[0], header[1], header[2], header[3]];
            if checksum != masked(crc32c::crc32c(&fragment[KIND_AT..])).to_le_bytes() {
                break;
            }
            rest = behind;
        }
        // The rest of a full block may be shorter than a header; that is no cut.
        let used = block.len() - rest.len();
        if !rest.is_empty() && rest.len() < HEADER_BYTES && used + HEADER_BYTES <= BLOCK_BYTES {
            seen(start + used as u64, Seen::Cut);
        }
        start += block.len() as u64;
    }
}

fn masked(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(MASK)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use rocksdb::DB;

    use super::super::options;
    use super::*;

    fn seen(file: impl Read) -> Vec<(u64, Seen)> {
        let mut all = Vec::new();
        walk(file, |at, seen| all.push((at, seen))).unwrap();
        all
    }

    /// Returns where the fragments of a file begin.
    pub(in crate::store) fn fragments(path: &Path) -> Vec<u64> {
        let all = seen(File::open(path).unwrap()).into_iter();
        all.filter(|(_, seen)| matches!(seen, Seen::Fragment(_))).map(|(at, _)| at).collect()
    }

    /// Flips the bit that turns a whole record into a recycled one. Without [`check`], RocksDB
    /// would read such a record without end, and the test would never finish.
    pub(in crate::store) fn recycle(path: &Path, at: u64) {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let mut kind = [0];
        file.read_exact_at(&mut kind, at + KIND_AT as u64).unwrap();
        assert_eq!(kind, [1], "a whole record begins there");
        file.write_all_at(&[kind[0] ^ 4], at + KIND_AT as u64).unwrap();
    }

    /// Encodes a fragment as RocksDB writes it.
    pub(in crate::store) fn fragment(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_le_bytes();
        let checksum = masked(crc32c::crc32c_append(crc32c::crc32c(&[kind]), payload)).to_le_bytes();
        [&checksum[..], &length, &[kind], payload].concat()
    }

    /// Builds a file of blocks. Each block but the last is filled up with zeros.
    fn blocks(blocks: &[&[u8]]) -> Vec<u8> {
        let mut file = Vec::new();
        for block in blocks {
            file.resize(file.len().next_multiple_of(BLOCK_BYTES), 0);
            file.extend_from_slice(block);
        }
        file
    }

    /// Returns the error of [`check`] for a file.
    fn refusal(bytes: &[u8]) -> Option<String> {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("000007.log"), bytes).unwrap();
        let error = check(place.path()).err()?;
        assert!(error.is_damage());
        Some(error.to_string())
    }

    const NEXT: u64 = BLOCK_BYTES as u64;

    #[test]
    fn what_rocksdb_wrote_is_walked_to_its_end() {
        let place = tempfile::tempdir().unwrap();
        let database = DB::open_cf_descriptors(&options::raft(), place.path(), options::raft_families()).unwrap();
        for (key, bytes) in [("small", 10), ("over three blocks", 80_000), ("small again", 10)] {
            database.put(key, vec![b'v'; bytes]).unwrap();
        }
        check(place.path()).unwrap();
        let files = record_files(place.path()).unwrap();
        let kinds = |name: &str| {
            let file = files.iter().find(|file| file.to_str().unwrap().contains(name)).unwrap();
            seen(File::open(file).unwrap()).into_iter().map(|(_, seen)| seen).collect::<Vec<_>>()
        };
        assert_eq!(kinds(".log"), [1, 2, 3, 4, 1].map(Seen::Fragment));
        assert!(kinds("MANIFEST-").len() > 1 && kinds("MANIFEST-").iter().all(|seen| *seen == Seen::Fragment(1)));
    }

    #[test]
    fn each_recycled_kind_is_found_and_named_with_its_place() {
        for kind in 0..=u8::MAX {
            for (at, file) in [
                (0, [fragment(kind, b"first"), fragment(1, b"second")].concat()),
                (12, [fragment(1, b"first"), fragment(kind, b"second")].concat()),
            ] {
                let Some(text) = refusal(&file) else {
                    assert!(!RECYCLED.contains(&kind), "{kind}");
                    continue;
                };
                assert!(RECYCLED.contains(&kind), "{kind}");
                assert!(text.contains(&format!("000007.log: the record at byte {at}: it is of a kind")), "{text}");
            }
        }
    }

    #[test]
    fn behind_damage_the_next_block_is_looked_at_as_rocksdb_does() {
        let block = [fragment(1, b"first"), fragment(1, b"second"), fragment(5, b"not looked at")].concat();
        let log = blocks(&[&block, &fragment(1, b"in the next block")]);
        assert_eq!(seen(&log[..])[2], (25, Seen::Fragment(5)));
        let damage: [fn(&mut [u8]); 2] = [|second| second[8] ^= 1, |second| second[4..6].fill(0xff)];
        for damage in damage {
            let mut log = log.clone();
            damage(&mut log[12..]);
            assert_eq!(seen(&log[..]), [0, 12, NEXT].map(|at| (at, Seen::Fragment(1))));
        }
        // Bytes that are too few for a header end a block.
        let full = fragment(1, &vec![7; BLOCK_BYTES - 2 * HEADER_BYTES + 1]);
        let log = [full, vec![5; HEADER_BYTES - 1], fragment(1, b"next")].concat();
        assert_eq!(seen(&log[..]), [0, NEXT].map(|at| (at, Seen::Fragment(1))));
        let cut = [(0, Seen::Fragment(1)), (NEXT, Seen::Fragment(1)), (NEXT, Seen::Cut)];
        assert_eq!(seen(&log[..log.len() - 1]), cut);
        assert_eq!(seen(&log[..BLOCK_BYTES + 3]), [(0, Seen::Fragment(1)), (NEXT, Seen::Cut)]);
        assert_eq!(seen(&log[..BLOCK_BYTES - 3]), [(0, Seen::Fragment(1))]);
    }

    #[test]
    fn zeros_are_a_hole_if_a_later_block_has_a_record() {
        let (first, zeros) = (fragment(1, b"first"), [0; 50]);
        for sound in [
            blocks(&[&[&first[..], &zeros].concat()]),
            blocks(&[&[&first[..], &zeros].concat(), &zeros]),
            // RocksDB ignores the rest of that block, and nothing follows it.
            blocks(&[&[&first[..], &zeros, b"garbage"].concat()]),
        ] {
            assert_eq!(refusal(&sound), None);
        }
        let begun = [&first[..], &zeros].concat();
        for hole in [
            blocks(&[&begun, &first]),
            blocks(&[&begun, &zeros, &first]),
            blocks(&[&[&begun[..], b"garbage"].concat(), &first]),
        ] {
            let text = refusal(&hole).unwrap();
            assert!(text.contains("the record at byte 12: it begins with zeros"), "{text}");
        }
        let two = blocks(&[&begun, &begun, &first]);
        let holes = seen(&two[..]).into_iter().filter(|(_, seen)| *seen == Seen::Hole);
        assert_eq!(holes.map(|(at, _)| at).collect::<Vec<_>>(), [12, NEXT + 12]);
    }

    #[test]
    fn a_spoilt_copy_has_none_and_nothing_else_is_changed() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("MANIFEST-000002");
        let first = fragment(1, b"first");
        let sound = blocks(&[&[&first[..], &fragment(1, b"second")].concat(), &first, &first]);
        let mut damaged = sound.clone();
        let hole = BLOCK_BYTES;
        damaged[hole..hole + first.len()].fill(0);
        std::fs::write(&path, &damaged).unwrap();
        recycle(&path, 12);
        assert_eq!(faults(&path).unwrap().iter().map(|(at, _)| *at).collect::<Vec<_>>(), [12, NEXT]);
        spoil(place.path()).unwrap();
        check(place.path()).unwrap();
        damaged[12 + KIND_AT] = NO_KIND;
        damaged[hole + KIND_AT] = NO_KIND;
        assert_eq!(std::fs::read(&path).unwrap(), damaged);
    }
}
