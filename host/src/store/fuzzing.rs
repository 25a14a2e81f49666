//! What the parsers of the log promise, for the fuzz targets. Opens no database.

use std::path::Path;

use bytes::Bytes;
use openraft::EntryPayload;

use super::columns::{check_entry, decode_entry, decode_log_key, encode_entry, encode_log_key};
use super::record_files::{BLOCK_BYTES, HEADER_BYTES, Seen, walk};
use super::{SegmentHeader, SegmentOut, SegmentReader, StoreError};
use crate::types::{CommittedLeaderId, Entry, EntryData, LogId};

/// Bytes of an entry's head, in front of its checksum.
const HEAD_BYTES: usize = 18;

/// Reads a key and a value of the log, or a file of records. The first byte says which.
pub fn log(bytes: &[u8]) {
    match bytes.split_first() {
        Some((0, key)) => log_key(key),
        Some((1, value)) => entry(value),
        Some((2, value)) => entry(&with_checksum(value)),
        Some((3, file)) => record_file(file),
        Some((4, parts)) => record_file(&fragments(parts)),
        _ => {}
    }
}

fn log_key(key: &[u8]) {
    if let Some((group, index)) = decode_log_key(key) {
        assert_eq!(encode_log_key(group, index)[..], *key);
    }
}

/// A value that is read has only one encoding, unless sets within it were out of order.
fn entry(value: &[u8]) {
    drop(check_entry(0, 1, value));
    if let Ok(entry) = decode_entry(0, 1, value) {
        let again = decode_entry(0, 1, &encode_entry(0, &entry));
        assert_eq!(again.ok(), Some(entry));
    }
}

/// Returns the value with the checksum that belongs to it, where there is room for one.
fn with_checksum(value: &[u8]) -> Vec<u8> {
    let mut value = value.to_vec();
    if let Some((head, rest)) = value.split_at_mut_checked(HEAD_BYTES)
        && let Some((checksum, payload)) = rest.split_at_mut_checked(4)
    {
        let of_key = crc32c::crc32c(&encode_log_key(0, 1));
        let fitting = crc32c::crc32c_append(crc32c::crc32c_append(of_key, head), payload);
        checksum.copy_from_slice(&fitting.to_be_bytes());
    }
    value
}

/// Reads a segment file that anybody made, or makes one of a list of payloads. The first byte says
/// which.
pub fn segment(bytes: &[u8]) {
    match bytes {
        [0, file @ ..] => {
            // Whatever is read is written again as it was. Without entries, the end may name any
            // entry before.
            if let Ok((header, entries)) = read_segment(file)
                && !entries.is_empty()
            {
                assert_eq!(write_segment(header, &entries), file, "another file says the same");
            }
        }
        [1, parts @ ..] => {
            let (header, entries) = payloads(parts);
            let read = read_segment(&write_segment(header, &entries)).expect("what was written is read");
            assert_eq!(read, (header, entries));
        }
        [2, high, low, parts @ ..] => {
            let (header, entries) = payloads(parts);
            let mut file = write_segment(header, &entries);
            let bit = usize::from(u16::from_be_bytes([*high, *low])) % (8 * file.len());
            file[bit / 8] ^= 1 << (bit % 8);
            assert!(read_segment(&file).is_err(), "bit {bit} is another one, and nobody notices");
        }
        _ => {}
    }
}

fn read_segment(file: &[u8]) -> Result<(SegmentHeader, Vec<Entry>), StoreError> {
    let mut reader = SegmentReader::new(file, Path::new("memory"))?;
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        entries.push(entry);
    }
    Ok((*reader.header(), entries))
}

fn write_segment(header: SegmentHeader, entries: &[Entry]) -> Vec<u8> {
    let mut out = SegmentOut::new(Vec::new(), Path::new("memory"), header).expect("memory takes everything");
    entries.iter().for_each(|entry| out.push(entry).expect("they follow each other"));
    out.finish().expect("memory takes everything").1
}

/// Makes entries of payloads, each behind a byte with its length.
fn payloads(mut parts: &[u8]) -> (SegmentHeader, Vec<Entry>) {
    let header = SegmentHeader { cluster: [7; 16], group: 0, incarnation: 2, first: 3 };
    let mut entries = Vec::new();
    while let Some((&length, rest)) = parts.split_first() {
        let (payload, behind) = rest.split_at(rest.len().min(length.into()));
        parts = behind;
        let log_id = LogId::new(CommittedLeaderId { term: 1, node_id: 9 }, header.first + entries.len() as u64);
        entries.push(Entry { log_id, payload: EntryPayload::Normal(EntryData(Bytes::copy_from_slice(payload))) });
    }
    (header, entries)
}

/// The walk goes forward, stays within the file, and reports a cut at its end alone.
fn record_file(file: &[u8]) {
    let (mut last, mut is_cut, mut reports) = (None, false, 0_usize);
    let walked = walk(file, |at, seen| {
        assert!(!is_cut, "something is reported behind the cut");
        assert!(at < file.len() as u64, "a place behind the end of the file");
        match seen {
            // A hole is reported once it has an end.
            Seen::Hole => assert!(last.is_none_or(|last| last < at), "a hole in front of what was read"),
            Seen::Cut => assert!(last.is_none_or(|last| last <= at), "a cut in front of what was read"),
            Seen::Fragment(_) => assert!(last.is_none_or(|last| last < at), "the walk goes back"),
        }
        is_cut = seen == Seen::Cut;
        last = Some(at);
        reports += 1;
    });
    assert!(walked.is_ok(), "bytes in memory can be read");
    let blocks = file.len().div_ceil(BLOCK_BYTES);
    assert!(reports <= file.len() / HEADER_BYTES + 2 * blocks + 1, "{reports} places in {} bytes", file.len());
}

/// Makes a file of sound fragments, each of a kind, a length and the bytes of its payload. A kind
/// of 255 is zeros up to the next block.
fn fragments(mut parts: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    while let Some((&[kind, length], rest)) = parts.split_first_chunk::<2>()
        && file.len() < 4 * BLOCK_BYTES
    {
        let (payload, behind) = rest.split_at(rest.len().min(length.into()));
        parts = behind;
        if kind == u8::MAX {
            file.resize(file.len().next_multiple_of(BLOCK_BYTES), 0);
            continue;
        }
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&[kind]), payload);
        file.extend_from_slice(&checksum.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes());
        file.extend_from_slice(&(payload.len() as u16).to_le_bytes());
        file.push(kind);
        file.extend_from_slice(payload);
    }
    file
}
