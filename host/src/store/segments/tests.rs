//! Tests of segment files: their bytes, damage, overlaps and gaps.

use bytes::Bytes;
use openraft::EntryPayload;
use proptest::prelude::*;

use super::*;
use crate::types::{CommittedLeaderId, EntryData, LogId, hex};

const CLUSTER: [u8; 16] = [7; 16];

fn entry_of(term: u64, index: u64, payload: &[u8]) -> Entry {
    Entry {
        log_id: LogId::new(CommittedLeaderId { term, node_id: 9 }, index),
        payload: EntryPayload::Normal(EntryData(Bytes::copy_from_slice(payload))),
    }
}

fn entry(index: u64) -> Entry {
    entry_of(1, index, format!("entry {index}").as_bytes())
}

fn header(first: u64) -> Header {
    Header { cluster: CLUSTER, group: 0, incarnation: 4, first }
}

fn bytes_of(first: u64, entries: &[Entry]) -> Vec<u8> {
    let header = header(first);
    let mut out = SegmentOut::new(Vec::new(), Path::new("memory"), header).unwrap();
    entries.iter().for_each(|entry| out.push(entry).unwrap());
    let (written, bytes) = out.finish().unwrap();
    assert_eq!((written.bytes, written.end.count), (bytes.len() as u64, entries.len() as u64));
    bytes
}

fn read_all(bytes: &[u8]) -> Result<Vec<Entry>, StoreError> {
    let mut reader = SegmentReader::new(bytes, Path::new("memory"))?;
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        entries.push(entry);
    }
    Ok(entries)
}

fn write(directory: &Path, indexes: RangeInclusive<u64>) -> PathBuf {
    let mut writer = SegmentWriter::create(directory, header(*indexes.start())).unwrap();
    indexes.clone().for_each(|index| writer.push(&entry(index)).unwrap());
    let (path, last) = writer.finish().unwrap();
    assert_eq!(last, entry(*indexes.end()).log_id);
    path
}

fn indexes(segments: &Segments, from: u64) -> Vec<u64> {
    let (mut next, mut found) = (from, Vec::new());
    loop {
        let entries = segments.read(next, 200).unwrap();
        let Some(last) = entries.last() else { return found };
        next = last.log_id.index + 1;
        for read in &entries {
            assert_eq!(*read, entry(read.log_id.index));
            found.push(read.log_id.index);
        }
    }
}

#[test]
fn bytes_are_frozen() {
    let bytes = bytes_of(3, &[entry_of(5, 3, b"abc")]);
    let value = encode_value(0, &entry_of(5, 3, b"abc"));
    let (number, end) = (|value: u8| format!("00000000000000{value:02x}"), "ff".repeat(8));
    let head =
        [hex(MAGIC), "00000001".into(), "07".repeat(16), "00000000".into(), "00000004".into(), number(3)].concat();
    assert_eq!(hex(&bytes[..HEADER_BYTES - 4]), head);
    let record = [number(3), format!("{:08x}", value.len()), hex(&value)].concat();
    let tail = [end, "00000040".into(), number(1), number(5), number(9), number(3)].concat();
    let digest_at = bytes.len() - blake3::OUT_LEN;
    assert_eq!(hex(&bytes[HEADER_BYTES..digest_at]), record + &tail);
    assert_eq!(bytes[digest_at..], *blake3::hash(&bytes[..digest_at]).as_bytes());
    assert_eq!(bytes[HEADER_BYTES - 4..HEADER_BYTES], crc32c::crc32c(&bytes[..HEADER_BYTES - 4]).to_be_bytes());
}

#[test]
fn any_flipped_bit_and_any_cut_is_noticed() {
    let bytes = bytes_of(3, &[entry(3), entry(4), entry(5)]);
    assert_eq!(read_all(&bytes).unwrap().len(), 3);
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            assert!(read_all(&damaged).is_err(), "bit {bit} of byte {at}");
        }
        assert!(read_all(&bytes[..at]).is_err(), "cut to {at} bytes");
    }
    assert!(read_all(&[&bytes[..], &[0]].concat()).unwrap_err().to_string().contains("follows"));
}

#[test]
fn a_damaged_entry_is_named_with_its_file() {
    let place = tempfile::tempdir().unwrap();
    let path = write(place.path(), 3..=9);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(7).position(|found| found == b"entry 6").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let segments = Segments::open(place.path()).unwrap();
    assert_eq!(segments.read(3, 1).unwrap(), [entry(3)]);
    let error = segments.read(4, usize::MAX).unwrap_err().to_string();
    assert!(error.contains("entry 6") && error.contains(&path.display().to_string()), "{error}");
    // What is sound is still read after an error.
    assert_eq!(segments.read(3, 1).unwrap(), [entry(3)]);
}

#[test]
fn a_cut_file_is_noticed_when_it_is_opened() {
    let place = tempfile::tempdir().unwrap();
    let path = write(place.path(), 3..=9);
    let bytes = std::fs::read(&path).unwrap();
    for length in [0, 10, HEADER_BYTES, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let error = Segments::open(place.path()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(&path.display().to_string()), "{length}: {error}");
    }
}

#[test]
fn several_files_are_one_log_and_names_sort() {
    let place = tempfile::tempdir().unwrap();
    assert!(Segments::open(&place.path().join("none")).is_err());
    let empty = Segments::open(place.path()).unwrap();
    assert_eq!((empty.cluster(), empty.range(), empty.newest()), (None, None, None));
    assert!(empty.read(0, 1).unwrap().is_empty());
    let paths = [write(place.path(), 0..=9), write(place.path(), 10..=99), write(place.path(), 100..=120)];
    assert!(paths.is_sorted());
    std::fs::write(place.path().join("notes.txt"), "no segment").unwrap();
    let segments = Segments::open(place.path()).unwrap();
    assert_eq!((segments.cluster(), segments.range()), (Some(CLUSTER), Some(0..=120)));
    assert_eq!(indexes(&segments, 0), (0..=120).collect::<Vec<_>>());
    assert_eq!(indexes(&segments, 57), (57..=120).collect::<Vec<_>>());
    assert!(segments.read(121, 1).unwrap().is_empty());
    assert_eq!(segments.newest().map(|newest| (newest.first, newest.last)), Some((100, entry(120).log_id)));
}

#[test]
fn overlaps_that_agree_are_fine_and_others_are_named() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let paths = [write(one.path(), 0..=20), write(other.path(), 5..=8), write(other.path(), 7..=30)];
    let both = [one.path().to_owned(), other.path().to_owned()];
    let segments = Segments::open_all(&both).unwrap();
    assert_eq!(segments.range(), Some(0..=30));
    assert_eq!(indexes(&segments, 0), (0..=30).collect::<Vec<_>>());
    assert_eq!(indexes(&segments, 8), (8..=30).collect::<Vec<_>>());
    // A later term does not win: one of the two is wrong, and nobody knows which.
    let mut writer = SegmentWriter::create(other.path(), header(19)).unwrap();
    writer.push(&entry_of(2, 19, b"entry 19")).unwrap();
    let (odd, _) = writer.finish().unwrap();
    let segments = Segments::open_all(&both).unwrap();
    let error = segments.read(19, 1).unwrap_err().to_string();
    assert!(error.contains("entry 19") && error.contains(&odd.display().to_string()), "{error}");
    assert!(paths.iter().any(|path| error.contains(&path.display().to_string())), "{error}");
}

#[test]
fn a_gap_is_named_and_the_run_begins_behind_it() {
    let place = tempfile::tempdir().unwrap();
    write(place.path(), 0..=9);
    write(place.path(), 15..=20);
    write(place.path(), 18..=25);
    let segments = Segments::open(place.path()).unwrap();
    assert_eq!((segments.range(), segments.runs()), (Some(15..=25), vec![0..=9, 15..=25]));
    assert_eq!(segments.read(8, usize::MAX).unwrap(), [entry(8), entry(9)]);
    let error = segments.read(10, usize::MAX).unwrap_err().to_string();
    assert!(error.contains("entries 10 to 14"), "{error}");
}

#[test]
fn a_file_that_is_written_anew_while_the_directory_is_read_is_not_missed() {
    let place = tempfile::tempdir().unwrap();
    write(place.path(), 0..=9);
    let small = write(place.path(), 10..=12);
    // A first listing has the small file, which goes before it is opened.
    let listings = std::cell::Cell::new(0);
    let found = found_in(place.path(), || {
        listings.set(listings.get() + 1);
        let names = files::names(place.path())?;
        if listings.get() == 1 {
            write(place.path(), 10..=20);
            std::fs::remove_file(&small).unwrap();
        }
        Ok(names)
    });
    let ends: Vec<u64> = found.unwrap().values().map(|(_, end, _)| end.last.index).collect();
    assert_eq!((ends, listings.get()), (vec![9, 20], 3));
    // A directory that never rests is an error.
    let restless = found_in(place.path(), || {
        listings.set(listings.get() + 1);
        Ok(vec![format!("{:020}{SUFFIX}", listings.get())])
    });
    assert!(restless.map(|_| ()).unwrap_err().to_string().contains("run this again"));
}

#[test]
fn of_a_file_that_goes_later_the_longer_one_is_read() {
    let place = tempfile::tempdir().unwrap();
    write(place.path(), 0..=9);
    let small = write(place.path(), 10..=20);
    let segments = Segments::open(place.path()).unwrap();
    std::fs::remove_file(&small).unwrap();
    // What begins or ends elsewhere, or is of another log, does not replace it.
    write(place.path(), 10..=19);
    write(place.path(), 11..=30);
    std::fs::write(place.path().join(format!("damaged{SUFFIX}")), b"damaged").unwrap();
    let mut other = SegmentWriter::create(place.path(), Header { incarnation: 5, ..header(10) }).unwrap();
    (10..=25).for_each(|index| other.push(&entry(index)).unwrap());
    other.finish().unwrap();
    let error = segments.read(10, 1).unwrap_err().to_string();
    assert!(error.contains("is gone since") && error.contains(&small.display().to_string()), "{error}");
    // It is read as far as the one that was listed.
    let long = write(place.path(), 10..=30);
    assert_eq!(indexes(&segments, 0), Vec::from_iter(0..=20));
    // It is checked as a whole.
    let mut bytes = std::fs::read(&long).unwrap();
    let at = bytes.windows(8).position(|found| found == b"entry 30").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&long, bytes).unwrap();
    let error = segments.read(10, usize::MAX).unwrap_err().to_string();
    assert!(error.contains("entry 30") && error.contains(&long.display().to_string()), "{error}");
}

#[test]
fn files_of_two_clusters_are_refused_by_name() {
    let place = tempfile::tempdir().unwrap();
    write(place.path(), 0..=9);
    let mut writer = SegmentWriter::create(place.path(), Header { cluster: [8; 16], ..header(10) }).unwrap();
    writer.push(&entry(10)).unwrap();
    let (path, _) = writer.finish().unwrap();
    let error = Segments::open(place.path()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("another cluster") && error.contains(&path.display().to_string()), "{error}");
    std::fs::remove_file(path).unwrap();
    let refused = |of: Header| open_archive(place.path(), &of).map(|_| ()).unwrap_err().to_string();
    assert!(refused(Header { cluster: [8; 16], ..header(0) }).contains("another cluster or group"));
    assert!(refused(Header { group: 1, ..header(0) }).contains("another cluster or group"));
    assert!(refused(Header { incarnation: 5, ..header(0) }).contains("a recovery left behind"));
    assert!(refused(Header { incarnation: 3, ..header(0) }).contains("has not taken part in"));
    std::fs::write(place.path().join("00000000000000000010.segment.tmp"), "half").unwrap();
    assert_eq!(open_archive(place.path(), &header(0)).unwrap().segments.range(), Some(0..=9));
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1, "what a crash left is removed");
}

#[test]
fn a_file_without_entries_is_sound_and_one_of_the_future_is_named() {
    let bytes = bytes_of(12, &[]);
    let end = SegmentReader::new(bytes.as_slice(), Path::new("memory")).unwrap().verify().unwrap();
    assert_eq!((end.count, end.last.index), (0, 11));
    let known = SegmentOut::new(Vec::new(), Path::new("memory"), header(12)).unwrap().behind(entry(11).log_id);
    let (written, known) = known.finish().unwrap();
    let read = SegmentReader::new(known.as_slice(), Path::new("memory")).unwrap().verify().unwrap();
    assert_eq!((read, read.last), (written.end, entry(11).log_id));
    let mut future = bytes;
    future[19] = 9;
    assert!(read_all(&future).unwrap_err().to_string().contains("has format 9"));
    assert!(
        read_all(b"just some text that somebody kept in a file, longer than a header is")
            .unwrap_err()
            .to_string()
            .contains("no segment")
    );
}

#[test]
fn a_writer_takes_no_gap() {
    let place = tempfile::tempdir().unwrap();
    let mut writer = SegmentWriter::create(place.path(), header(3)).unwrap();
    writer.push(&entry(3)).unwrap();
    assert!(matches!(writer.push(&entry(5)), Err(StoreError::Misuse(_))));
    assert_eq!(Segments::open(place.path()).unwrap().range(), None, "an unfinished file counts for nothing");
    drop(writer);
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "and takes no room");
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        first in 0u64..1 << 40,
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..16),
    ) {
        let entries: Vec<Entry> =
            (first..).zip(&payloads).map(|(index, payload)| entry_of(index / 3, index, payload)).collect();
        prop_assert_eq!(read_all(&bytes_of(first, &entries)).unwrap(), entries);
    }

    #[test]
    fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        drop(read_all(&bytes));
        drop(read_all(&[&MAGIC[..], &bytes].concat()));
    }
}
