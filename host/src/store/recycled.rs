//! Finds records, in RocksDB's write-ahead logs and manifests, of the kinds that only recycled logs have. Ours are never recycled, so such
//! a kind is a damaged byte; and RocksDB (since [#12643]) reads a record of that kind behind the first one again and again, for ever.
//! So every database is looked through before it is opened. Changes nothing but copies.
//!
//! The format is RocksDB's: blocks of 32 KiB, in them fragments of header (crc32c u32, masked, of kind and payload; length u16; kind u8;
//! little-endian) and payload. RocksDB goes on at the next block behind a fragment that does not fit in its block, that is all zeros, or that
//! fails its checksum, and so does this, to look at what RocksDB looks at.
//!
//! [#12643]: https://github.com/facebook/rocksdb/pull/12643

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::StoreError;
use super::files::names;

/// A block of a log file.
pub(super) const BLOCK_BYTES: usize = 32 * 1024;
/// What stands before a payload.
pub(super) const HEADER_BYTES: usize = 7;
/// Where in a header the kind is.
const KIND_AT: usize = 6;
/// The kinds with a number of their log in the header: fragments of records, the size of timestamps, the log before.
const RECYCLED: [u8; 6] = [5, 6, 7, 8, 11, 131];
/// A kind that no record has. One that is given it fails its checksum.
const NO_KIND: u8 = 12;
/// RocksDB's masking of checksums (`util/crc32c.h`).
const MASK: u32 = 0xa282_ead8;

/// Refuses the database in `directory` if RocksDB would read one of its files for ever.
pub(super) fn check(directory: &Path) -> Result<(), StoreError> {
    for file in log_files(directory)? {
        if let Some(at) = places(&file)?.first() {
            let what = format!(
                "the record at byte {at} is of a kind that only recycled logs have; no log of this node is recycled"
            );
            return Err(StoreError::damaged(&file, what));
        }
    }
    Ok(())
}

/// Makes each such record, in a copy that nobody has open, one that RocksDB sees to be damaged.
pub(super) fn spoil(copy: &Path) -> Result<(), StoreError> {
    for path in log_files(copy)? {
        for at in places(&path)? {
            let file = File::options().write(true).open(&path).map_err(StoreError::io("open", &path))?;
            file.write_all_at(&[NO_KIND], at + KIND_AT as u64).map_err(StoreError::io("write", &path))?;
        }
    }
    Ok(())
}

/// The files that RocksDB reads as records; none where there is no directory.
fn log_files(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let is_log = |name: &&String| name.starts_with("MANIFEST-") || name.ends_with(".log");
    Ok(names(directory)?.iter().filter(is_log).map(|name| directory.join(name)).collect())
}

/// Where records of those kinds begin, in bytes.
fn places(path: &Path) -> Result<Vec<u64>, StoreError> {
    let mut found = Vec::new();
    let walked = File::open(path).and_then(|file| {
        walk(file, |at, kind| {
            if RECYCLED.contains(&kind) {
                found.push(at);
            }
        })
    });
    walked.map_err(StoreError::io("read", path))?;
    Ok(found)
}

/// Shows the place and kind of each fragment, in order.
fn walk(mut file: impl Read, mut seen: impl FnMut(u64, u8)) -> io::Result<()> {
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    let mut start = 0;
    loop {
        block.clear();
        file.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
        if block.is_empty() {
            return Ok(());
        }
        let mut rest = &block[..];
        while let Some((header, _)) = rest.split_at_checked(HEADER_BYTES) {
            let (kind, length) = (header[KIND_AT], usize::from(u16::from_le_bytes([header[4], header[5]])));
            seen(start + (block.len() - rest.len()) as u64, kind);
            let Some((fragment, behind)) = rest.split_at_checked(HEADER_BYTES + length) else { break };
            let checksum = [header[0], header[1], header[2], header[3]];
            if (kind == 0 && length == 0) || checksum != masked(crc32c::crc32c(&fragment[KIND_AT..])).to_le_bytes() {
                break;
            }
            rest = behind;
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

    /// Where the fragments of a file begin.
    pub(in crate::store) fn fragments(path: &Path) -> Vec<(u64, u8)> {
        let mut all = Vec::new();
        walk(File::open(path).unwrap(), |at, kind| all.push((at, kind))).unwrap();
        all
    }

    /// Flips the bit that makes a whole record a recycled one.
    pub(in crate::store) fn recycle(path: &Path, at: u64) {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let mut kind = [0];
        file.read_exact_at(&mut kind, at + KIND_AT as u64).unwrap();
        assert_eq!(kind, [1], "a whole record begins there");
        file.write_all_at(&[kind[0] ^ 4], at + KIND_AT as u64).unwrap();
    }

    fn fragment(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_le_bytes();
        let checksum = masked(crc32c::crc32c_append(crc32c::crc32c(&[kind]), payload)).to_le_bytes();
        [&checksum[..], &length, &[kind], payload].concat()
    }

    fn seen(bytes: &[u8]) -> Vec<(u64, u8)> {
        let mut all = Vec::new();
        walk(bytes, |at, kind| all.push((at, kind))).unwrap();
        all
    }

    #[test]
    fn what_rocksdb_wrote_is_walked_to_its_end() {
        let place = tempfile::tempdir().unwrap();
        let database = DB::open_cf_descriptors(&options::raft(), place.path(), options::raft_families()).unwrap();
        for (key, bytes) in [("small", 10), ("over three blocks", 80_000), ("small again", 10)] {
            database.put(key, vec![b'v'; bytes]).unwrap();
        }
        check(place.path()).unwrap();
        let files = log_files(place.path()).unwrap();
        let kinds = |suffix: &str| {
            let file = files.iter().find(|file| file.to_str().unwrap().contains(suffix)).unwrap();
            fragments(file).into_iter().map(|(_, kind)| kind).collect::<Vec<_>>()
        };
        assert_eq!(kinds(".log"), [1, 2, 3, 4, 1]);
        assert!(kinds("MANIFEST-").len() > 1 && kinds("MANIFEST-").iter().all(|kind| *kind == 1));
    }

    #[test]
    fn each_recycled_kind_is_found_and_named_with_its_place() {
        for kind in 0..=u8::MAX {
            let place = tempfile::tempdir().unwrap();
            let path = place.path().join("000007.log");
            std::fs::write(&path, [fragment(1, b"first"), fragment(kind, b"second")].concat()).unwrap();
            match check(place.path()) {
                Ok(()) => assert!(!RECYCLED.contains(&kind), "{kind}"),
                Err(error) => {
                    assert!(RECYCLED.contains(&kind), "{kind}");
                    assert!(error.is_damage());
                    let text = error.to_string();
                    assert!(text.contains("000007.log: the record at byte 12 is of a kind"), "{text}");
                }
            }
        }
    }

    #[test]
    fn behind_damage_the_next_block_is_looked_at_as_rocksdb_does() {
        let mut block = [fragment(1, b"first"), fragment(1, b"second"), fragment(5, b"not looked at")].concat();
        block.resize(BLOCK_BYTES, 0);
        let log = [block.clone(), fragment(1, b"in the next block")].concat();
        let second = 12;
        let next = BLOCK_BYTES as u64;
        let whole = seen(&log);
        assert_eq!(whole[..3], [(0, 1), (second, 1), (second + 13, 5)]);
        assert_eq!(whole.last(), Some(&(next, 1)));
        let damage: [fn(&mut [u8]); 3] =
            [|fragment| fragment[8] ^= 1, |fragment| fragment[..7].fill(0), |fragment| fragment[4..6].fill(0xff)];
        for damage in damage {
            let mut log = log.clone();
            damage(&mut log[usize::try_from(second).unwrap()..]);
            let places: Vec<u64> = seen(&log).into_iter().map(|(at, _)| at).collect();
            assert_eq!(places, [0, second, next]);
        }
        // What is too short to be a header ends a block.
        let full = fragment(1, &vec![7; BLOCK_BYTES - 2 * HEADER_BYTES + 1]);
        let log = [full, vec![5; HEADER_BYTES - 1], fragment(1, b"next")].concat();
        assert_eq!(seen(&log), [(0, 1), (next, 1)]);
        assert_eq!(seen(&log[..log.len() - 1]), [(0, 1), (next, 1)]);
    }

    #[test]
    fn a_spoilt_copy_has_none_and_nothing_else_is_changed() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("MANIFEST-000002");
        let sound = [fragment(1, b"first"), fragment(1, b"second")].concat();
        std::fs::write(&path, &sound).unwrap();
        recycle(&path, 12);
        assert!(check(place.path()).is_err());
        spoil(place.path()).unwrap();
        check(place.path()).unwrap();
        let mut expected = sound;
        expected[12 + KIND_AT] = NO_KIND;
        assert_eq!(std::fs::read(&path).unwrap(), expected);
    }
}
