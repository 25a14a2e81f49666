//! What the parsers of records, snapshots and backups promise, for the fuzz targets. Builds no
//! state on a disk.

use std::collections::BTreeMap;
use std::fmt::Debug;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::backup::{BackupReader, BackupWriter, RowsOf};
use super::log_position::LogPosition;
use super::operation::Operation;
use super::outcome::{decode_verdict, encode_verdict};
use super::profile::Profile;
use super::read_only::ReadOnly;
use super::snapshot::frames::{BODY_BYTES_MAX, End, FORMAT, Footer, Frame, Header, RowReader, row_head};
use super::system::{Counters, HashRecord, MembershipRecord, System};
use super::tried::Tried;
use crate::codec::{self, CodecError, decode_record, encode_record};
use crate::store::{Column, Read, Row, StoreError};
use crate::types::{Identity, LogId, Membership, StoredMembership, Vote};

/// Reads a record. The first byte says of which type.
pub fn record(bytes: &[u8]) {
    let Some((kind, record)) = bytes.split_first() else { return };
    match kind {
        0 => same_again::<Identity>(record),
        1 => same_again::<Vote>(record),
        2 => same_again::<LogId>(record),
        3 => same_again::<Membership>(record),
        4 => membership(record),
        5 => same_again::<Counters>(record),
        6 => same_again::<HashRecord>(record),
        7 => same_again::<LogPosition>(record),
        8 => same_again::<Header>(record),
        9 => same_again::<Footer>(record),
        10 => same_again::<End>(record),
        11 => verdict(record),
        12 => own(record, Operation::decode, Operation::encode),
        13 => own(record, ReadOnly::decode, ReadOnly::encode),
        14 => own(record, Tried::decode, Tried::encode),
        15 => own(record, Profile::decode, Profile::encode),
        _ => {}
    }
}

/// Reads a record that has a reader of its own.
fn own<T: PartialEq + Debug>(bytes: &[u8], decode: fn(&[u8]) -> Result<T, CodecError>, encode: fn(&T) -> Vec<u8>) {
    if let Ok(record) = decode(bytes) {
        assert_eq!(decode(&encode(&record)).ok(), Some(record));
    }
}

/// Values that an operator may set are recorded as they are set again, and this build knows them.
/// Those of an entry may be of any other build.
pub fn operation(entry: &codec::entry::Operation) {
    let found = Operation::set_by(5, 0, entry);
    drop((found.quotas(), found.unknown(), found.frees_room("a.B/C"), found.changes_to(&BTreeMap::new())));
    let values: Vec<(String, String)> = found.settings.into_iter().collect();
    let Ok(settings) = Operation::default().with(&values) else { return };
    let values: Vec<(String, String)> = settings.clone().into_iter().collect();
    assert_eq!(Operation::default().with(&values).as_ref(), Ok(&settings));
    assert!(Operation { settings, ..Operation::default() }.unknown().is_empty());
}

fn same_again<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
    if let Ok(record) = decode_record::<T>(bytes) {
        assert_eq!(decode_record::<T>(&encode_record(&record)).ok(), Some(record));
    }
}

fn membership(bytes: &[u8]) {
    let Ok(record) = decode_record::<MembershipRecord>(bytes) else { return };
    let Ok(stored) = StoredMembership::try_from(record) else { return };
    let again = StoredMembership::try_from(MembershipRecord::from(&stored));
    assert_eq!(again.ok(), Some(stored));
}

fn verdict(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(verdict) = decode_verdict(&bytes, "here") {
        assert_eq!(decode_verdict(&encode_verdict(&verdict).into(), "here").ok(), Some(verdict));
    }
}

/// Reads one frame. The first byte says whether its checksum and its packing are made to fit.
pub fn frame(bytes: &[u8]) {
    let decoded = match bytes.split_first() {
        Some((0, frame)) => Frame::decode(frame),
        Some((1, [kind, packed @ ..])) => Frame::decode(&sealed(*kind, packed)),
        Some((2, [kind, body @ ..])) => Frame::decode(&packed(*kind, body)),
        Some((3, rows)) => return rows_in_pieces(rows),
        _ => return,
    };
    let Ok(frame) = decoded else { return };
    let again = Frame::decode(&frame.encode());
    if let Frame::Raw(body) | Frame::System(body) = &frame {
        rows_in_pieces(body);
    }
    assert_eq!(again, Ok(frame));
}

/// Makes a frame whose checksum fits.
fn sealed(kind: u8, packed: &[u8]) -> Vec<u8> {
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&[kind]), packed);
    [&[kind], &checksum.to_le_bytes()[..], packed].concat()
}

fn packed(kind: u8, body: &[u8]) -> Vec<u8> {
    let body = &body[..body.len().min(BODY_BYTES_MAX)];
    sealed(kind, &zstd::bulk::compress(body, 1).expect("packing into a growing buffer does not fail"))
}

/// Rows are the same however they are cut, and nothing of them is lost.
fn rows_in_pieces(stream: &[u8]) {
    let (whole, rest) = rows(stream, stream.len().max(1));
    let length: usize = whole.iter().map(|(key, value)| 8 + key.len() + value.len()).sum();
    assert_eq!(rest, length == stream.len(), "what is left over is known");
    for size in [1, 7, 4096] {
        assert_eq!(rows(stream, size).0, whole, "in pieces of {size}");
    }
    let encoded: Vec<u8> =
        whole.iter().flat_map(|(key, value)| [&row_head(key, value)[..], key, value].concat()).collect();
    assert!(stream.starts_with(&encoded), "rows are read as they stand");
}

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// Reads rows from pieces of a size. Returns them, and whether nothing is left.
fn rows(stream: &[u8], size: usize) -> (Rows, bool) {
    let (mut reader, mut rows) = (RowReader::default(), Rows::new());
    // A stream of one byte each would take the square of its length.
    let size = size.max(stream.len() / 256);
    for piece in stream.chunks(size.max(1)) {
        let pushed = reader.push(piece, |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            Ok::<_, ()>(())
        });
        assert_eq!(pushed, Ok(()));
        drop(reader.problem());
    }
    (rows, reader.is_empty())
}

/// Reads a backup file. The first byte says whether its records are made to fit.
pub fn backup(bytes: &[u8]) {
    match bytes.split_first() {
        Some((0, file)) => drop(read(file)),
        Some((1, records)) => written(&frames(records)),
        Some((2, records)) => drop(read(&file_of(&frames(records)))),
        _ => {}
    }
}

/// Takes frames apart: a kind, two bytes of length, a body.
fn frames(mut records: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Some((&[kind, low, high], rest)) = records.split_first_chunk::<3>() {
        let length = usize::from(u16::from_le_bytes([low, high]));
        let (body, behind) = rest.split_at(rest.len().min(length));
        frames.push(packed(kind, body));
        records = behind;
    }
    frames
}

/// A file that was written without an error is read without one, and holds as much.
fn written(frames: &[Vec<u8>]) {
    let Ok(mut writer) = BackupWriter::new(Vec::new()) else { return };
    if frames.iter().any(|frame| writer.push(frame).is_err()) {
        return;
    }
    let Ok((summary, file)) = writer.finish() else { return };
    assert_eq!(read(&file), Some(summary), "a backup that was written is not read");
    assert_eq!(read(&file[..file.len() - 1]), None, "a backup that was cut is read");
}

/// Makes a file of any frames, with the end that belongs to them.
fn file_of(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = [&b"LOCKSTEP BACKUP\n"[..], &FORMAT.to_le_bytes()].concat();
    let mut index = 0;
    for frame in frames {
        if let Ok(Frame::Header(header)) = Frame::decode(frame) {
            index = header.applied.index;
        }
        file.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        file.extend_from_slice(frame);
    }
    let digest = *blake3::hash(&file).as_bytes();
    let end = Frame::End(End { index, frames: frames.len() as u64, digest }).encode();
    [&file[..], &(end.len() as u32).to_le_bytes(), &end].concat()
}

fn read(file: &[u8]) -> Option<super::backup::Summary> {
    let summary = BackupReader::new(file).and_then(BackupReader::verify).ok();
    let rows = RowsOf::open(file).and_then(|rows| rows.read(|_, _, _| Ok(())));
    assert!(rows.is_err() || summary.is_some(), "the rows of a damaged file are read");
    if let Some(system) = system_of(file) {
        system_records(&system);
    }
    summary
}

/// Returns the host's rows of a backup, as far as they can be read.
fn system_of(file: &[u8]) -> Option<Held> {
    let (mut held, mut rows) = (Held::default(), RowReader::default());
    let mut reader = BackupReader::new(file).ok()?;
    while let Some(frame) = reader.next_frame().ok()? {
        if let Ok(Frame::System(body)) = Frame::decode(&frame) {
            rows.push(&body, |key, value| {
                held.0.insert(key.to_vec(), value.to_vec());
                Ok::<_, ()>(())
            })
            .ok()?;
        }
    }
    Some(held)
}

/// The host's records, once read, are written so that they are read alike.
fn system_records(held: &Held) {
    let position = System::read_position(held).ok();
    let Ok(system) = System::read(held) else { return };
    assert_eq!(position, Some((system.applied_index(), system.time_ms)));
    let written = system.changes_since(&System::default());
    let mut again = Held(written.into_iter().map(|(key, value)| (key.to_vec(), value)).collect());
    again.0.insert(b"hash".to_vec(), encode_record(&system.hash));
    let again = System::read(&again).expect("what was read can be written");
    assert_eq!(format!("{again:?}"), format!("{system:?}"));
}

/// Rows of the host in memory.
#[derive(Default)]
struct Held(BTreeMap<Vec<u8>, Vec<u8>>);

impl Read for Held {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.get(key).filter(|_| column == Column::System).cloned())
    }

    /// The host's records are read by their keys alone.
    fn scan(&self, _: Column, _: &[u8], _: Option<&[u8]>, _: bool, _: Row<'_>) -> Result<(), StoreError> {
        Ok(())
    }
}
