//! The frames of a snapshot in transfer or in a backup file: kinds, bytes, limits. This module only
//! encodes and decodes; it knows no guest and no disk.
//!
//! ```text
//! frame   = kind u8, crc32c u32 LE (of kind and body), body (zstd)
//! stream  = Header, ([Profile] Guest* [Restart Raw*] | Raw*), System*, Footer   between nodes
//! backup  = Header, Component*, Raw*, System*, Footer, End              in a file, see backup.rs
//! Profile   = the profile of the component that wrote it, in a cluster whose machine was changed
//! Guest     = the guest's own snapshot, cut anywhere
//! Raw       = rows of the guest, cut anywhere
//! System    = rows of the host, cut anywhere
//! Component = the encoded component, cut anywhere
//! row       = key length u32 LE, value length u32 LE, key, value
//! ```

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec::{decode_record, encode_record};
use crate::machine::log_position::LogPosition;

/// Most bytes of a body before compression.
pub(crate) const BODY_BYTES_MAX: usize = 1 << 20;
/// Most bytes of key and value of a row together: many times the size that any limit lets a guest
/// or the host write.
const ROW_BYTES_MAX: u64 = 32 << 20;
/// The zstd level. It is fast; at higher levels compression would be slower than a cluster's
/// network and disk.
const ZSTD_LEVEL: i32 = 1;
/// Version of all formats in this file.
pub(crate) const FORMAT: u32 = 1;
/// Size of kind and checksum.
const HEAD_BYTES: usize = 5;

/// The position and kind of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) format: u32,
    pub(crate) applied: LogPosition,
    pub(crate) time_ms: u64,
    /// Hash of the component whose own snapshot follows; `None` if rows follow.
    pub(crate) component: Option<[u8; 32]>,
}

/// The values that the receiver must arrive at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Footer {
    /// BLAKE3 hash of all rows of both columns.
    pub(crate) digest: [u8; 32],
    pub(crate) rows: u64,
}

/// The last record of a backup file. A complete file matches its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    /// Index of the last entry in the state.
    pub(crate) index: u64,
    /// Number of frames before this one.
    pub(crate) frames: u64,
    /// BLAKE3 hash of all bytes of the file before this record.
    pub(crate) digest: [u8; 32],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Header(Header),
    Guest(Vec<u8>),
    /// The guest's frames so far are void; rows follow.
    Restart,
    Raw(Vec<u8>),
    System(Vec<u8>),
    Footer(Footer),
    /// Only in a backup: the encoded component that the rows belong to.
    Component(Vec<u8>),
    /// Only in a backup.
    End(End),
    /// Encoded `lockstep.entry.v1.Genesis`: the profile of the component whose own snapshot
    /// follows.
    Profile(Vec<u8>),
}

impl Frame {
    fn kind(&self) -> u8 {
        match self {
            Frame::Header(_) => 1,
            Frame::Guest(_) => 2,
            Frame::Restart => 3,
            Frame::Raw(_) => 4,
            Frame::System(_) => 5,
            Frame::Footer(_) => 6,
            Frame::Component(_) => 7,
            Frame::End(_) => 8,
            Frame::Profile(_) => 9,
        }
    }

    /// Returns the frame's name for messages, since a body may have 1 MiB.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Frame::Header(_) => "header",
            Frame::Guest(_) => "guest",
            Frame::Restart => "restart",
            Frame::Raw(_) => "rows",
            Frame::System(_) => "system rows",
            Frame::Footer(_) => "footer",
            Frame::Component(_) => "component",
            Frame::End(_) => "end",
            Frame::Profile(_) => "profile",
        }
    }

    pub(crate) fn encode(&self) -> Bytes {
        let body = match self {
            Frame::Header(header) => encode_record(header),
            Frame::Footer(footer) => encode_record(footer),
            Frame::End(end) => encode_record(end),
            Frame::Restart => Vec::new(),
            Frame::Guest(bytes)
            | Frame::Raw(bytes)
            | Frame::System(bytes)
            | Frame::Component(bytes)
            | Frame::Profile(bytes) => bytes.clone(),
        };
        assert!(body.len() <= BODY_BYTES_MAX, "whoever makes frames cuts them");
        let body = zstd::bulk::compress(&body, ZSTD_LEVEL).expect("compressing into a growing buffer does not fail");
        let mut frame = Vec::with_capacity(HEAD_BYTES + body.len());
        frame.push(self.kind());
        frame.extend_from_slice(&checksum(self.kind(), &body).to_le_bytes());
        frame.extend_from_slice(&body);
        frame.into()
    }

    /// Decodes a frame. An error says what is wrong with the bytes.
    pub(crate) fn decode(frame: &[u8]) -> Result<Frame, String> {
        let (head, body) = frame.split_at_checked(HEAD_BYTES).ok_or("a frame is cut short")?;
        let kind = head[0];
        if checksum(kind, body).to_le_bytes() != head[1..] {
            return Err("the checksum of a frame does not fit".into());
        }
        let body = zstd::bulk::decompress(body, BODY_BYTES_MAX)
            .map_err(|error| format!("a frame does not unpack: {error}"))?;
        match kind {
            1 => decode_record(&body).map(Frame::Header).map_err(|error| format!("header: {error}")),
            2 => Ok(Frame::Guest(body)),
            3 => Ok(Frame::Restart),
            4 => Ok(Frame::Raw(body)),
            5 => Ok(Frame::System(body)),
            6 => decode_record(&body).map(Frame::Footer).map_err(|error| format!("footer: {error}")),
            7 => Ok(Frame::Component(body)),
            8 => decode_record(&body).map(Frame::End).map_err(|error| format!("end: {error}")),
            9 => Ok(Frame::Profile(body)),
            _ => Err(format!("a frame of unknown kind {kind}; the sender is newer than this node")),
        }
    }
}

fn checksum(kind: u8, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&[kind]), body)
}

/// Cuts a stream of bytes into bodies.
#[derive(Default)]
pub(crate) struct Cutter(Vec<u8>);

impl Cutter {
    /// Appends bytes. `full` receives every complete body.
    pub(crate) fn push<E>(
        &mut self,
        mut bytes: &[u8],
        mut full: impl FnMut(Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        while self.0.len() + bytes.len() >= BODY_BYTES_MAX {
            let (now, later) = bytes.split_at(BODY_BYTES_MAX - self.0.len());
            self.0.extend_from_slice(now);
            bytes = later;
            full(std::mem::take(&mut self.0))?;
        }
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    /// Returns the bytes that are left.
    pub(crate) fn rest(&mut self) -> Option<Vec<u8>> {
        (!self.0.is_empty()).then(|| std::mem::take(&mut self.0))
    }
}

/// Encodes the head of a row.
pub(crate) fn row_head(key: &[u8], value: &[u8]) -> [u8; 8] {
    let mut head = [0; 8];
    head[..4].copy_from_slice(&(key.len() as u32).to_le_bytes());
    head[4..].copy_from_slice(&(value.len() as u32).to_le_bytes());
    head
}

/// Reassembles rows that were cut into bodies.
#[derive(Default)]
pub(crate) struct RowReader(Vec<u8>);

impl RowReader {
    /// Appends a body. `row` receives every complete row.
    pub(crate) fn push<E>(&mut self, body: &[u8], mut row: impl FnMut(&[u8], &[u8]) -> Result<(), E>) -> Result<(), E> {
        self.0.extend_from_slice(body);
        let mut at = 0;
        while let Some((key, value)) = split_row(&self.0[at..]) {
            at += 8 + key.len() + value.len();
            row(key, value)?;
        }
        self.0.drain(..at);
        Ok(())
    }

    /// Describes an incomplete row that no further bytes can make valid; `None` if there is no such
    /// problem.
    pub(crate) fn problem(&self) -> Option<String> {
        let lengths = self.0.first_chunk::<8>()?;
        let bytes: u64 = row_lengths(lengths).map(|length| length as u64).into_iter().sum();
        (bytes > ROW_BYTES_MAX).then(|| format!("a row of {bytes} bytes, of {ROW_BYTES_MAX} at most"))
    }

    /// Returns whether all rows so far are complete.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Returns the first row of `bytes`, if it is complete.
pub(in crate::machine) fn split_row(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    let [key_length, value_length] = row_lengths(head);
    let (key, rest) = rest.split_at_checked(key_length)?;
    Some((key, rest.get(..value_length)?))
}

/// Decodes the lengths of key and value from a row's head.
fn row_lengths(head: &[u8; 8]) -> [usize; 2] {
    [0, 4].map(|at| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes")) as usize)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames() -> Vec<Frame> {
        let applied = LogPosition { term: 1, leader: 2, index: 3 };
        vec![
            Frame::Header(Header { format: FORMAT, applied, time_ms: 4, component: Some([5; 32]) }),
            Frame::Guest(b"own".to_vec()),
            Frame::Restart,
            Frame::Raw(vec![0; BODY_BYTES_MAX]),
            Frame::System(b"rows".to_vec()),
            Frame::Footer(Footer { digest: [6; 32], rows: 7 }),
            Frame::Component(b"wasm".to_vec()),
            Frame::End(End { index: 3, frames: 6, digest: [8; 32] }),
            Frame::Profile(b"profile".to_vec()),
        ]
    }

    #[test]
    fn frames_arrive_as_they_were_sent() {
        for frame in frames() {
            assert_eq!(Frame::decode(&frame.encode()).unwrap(), frame);
        }
    }

    #[test]
    fn flipped_bits_are_noticed() {
        for frame in frames() {
            let bytes = frame.encode();
            for at in (0..bytes.len()).step_by(7) {
                let mut damaged = bytes.to_vec();
                damaged[at] ^= 4;
                assert!(Frame::decode(&damaged).is_err());
            }
        }
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            drop(Frame::decode(&bytes));
        }

        #[test]
        fn rows_survive_any_cut(
            rows in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..9), prop::collection::vec(any::<u8>(), 0..9)), 0..20),
            cut in 1usize..20,
        ) {
            let stream: Vec<u8> =
                rows.iter().flat_map(|(key, value)| [&row_head(key, value)[..], key, value].concat()).collect();
            let (mut reader, mut read) = (RowReader::default(), Vec::new());
            for body in stream.chunks(cut) {
                reader.push(body, |key, value| { read.push((key.to_vec(), value.to_vec())); Ok::<_, ()>(()) }).unwrap();
            }
            prop_assert!(reader.is_empty());
            prop_assert_eq!(read, rows);
        }
    }

    #[test]
    fn a_row_that_no_limit_allows_is_refused_before_it_is_there() {
        for (key, value, refused) in
            [(9, 9, false), (4 << 10, 1 << 20, false), (9, u32::MAX, true), (u32::MAX, u32::MAX, true)]
        {
            let mut reader = RowReader::default();
            reader.push(&[key.to_le_bytes(), value.to_le_bytes()].concat(), |_, _| Ok::<_, ()>(())).unwrap();
            assert_eq!(reader.problem().is_some(), refused, "{key} {value}");
        }
    }

    #[test]
    fn cutter_loses_nothing() {
        let (mut cutter, mut bodies) = (Cutter::default(), Vec::new());
        for size in [1, BODY_BYTES_MAX - 1, 5, 3 * BODY_BYTES_MAX] {
            cutter
                .push(&vec![9; size], |body| {
                    bodies.push(body.len());
                    Ok::<_, ()>(())
                })
                .unwrap();
        }
        assert!(bodies.iter().all(|body| *body == BODY_BYTES_MAX));
        assert_eq!(bodies.len() * BODY_BYTES_MAX + cutter.rest().unwrap().len(), 4 * BODY_BYTES_MAX + 5);
    }
}
