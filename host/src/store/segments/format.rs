//! The bytes of a segment file: its header, the values of its records, and its end. Does no IO.
//!
//! ```text
//! file   = header, record*, end
//! header = "LOCKSTEP SEGMENT", format u32, cluster id (16 bytes), group u32, incarnation u32,
//!          first index u64, crc32c u32 of what is before it
//! record = index u64, length u32, the value of the entry as the log has it (columns.rs)
//! end    = 2^64-1 u64, length u32, records u64, term u64, leader u64 and index u64 of the last one,
//!          BLAKE3 of everything before it
//! ```
//!
//! - Integers are big-endian. Indexes grow by one from record to record.
//! - The checksum of a value covers group, index, head and payload of its entry.
//! - A file without records is sound. It stands behind the entry before its first index.

use std::path::Path;

use crate::store::StoreError;
use crate::store::columns::{decode_entry, encode_entry};
use crate::types::{CommittedLeaderId, Entry, GroupId, LogId};

/// First bytes of every segment file.
pub(crate) const MAGIC: &[u8; 16] = b"LOCKSTEP SEGMENT";
/// Version of this format.
pub(super) const FORMAT: u32 = 1;
/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 56;
/// Bytes in front of a value: index and length.
pub(super) const RECORD_HEAD_BYTES: usize = 12;
/// Bytes of the end behind its index and length.
pub(super) const END_BODY_BYTES: usize = 64;
/// Bytes of the end.
pub(super) const END_BYTES: usize = RECORD_HEAD_BYTES + END_BODY_BYTES;
/// Bytes of a digest.
const DIGEST_BYTES: usize = 32;
/// Stands for the index where the end begins.
pub(super) const END_MARK: u64 = u64::MAX;
/// Most bytes of a value. No log has an entry that is nearly as large.
pub(super) const VALUE_BYTES_MAX: usize = 64 << 20;

/// What a segment file says of itself at its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The cluster whose log it is.
    pub(crate) cluster: [u8; 16],
    /// The group whose log it is.
    pub(crate) group: GroupId,
    /// The incarnation of the cluster in which it was written. A recovery from a lost majority
    /// raises it, and may give an index another entry.
    pub(crate) incarnation: u32,
    /// Index of its first entry.
    pub(crate) first: u64,
}

/// What a segment file says of itself at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// Number of its entries.
    pub(crate) count: u64,
    /// Its last entry. Of a file without entries it is the entry before, as far as the writer knew
    /// that; the index is right in any case.
    pub(crate) last: LogId,
    /// BLAKE3 of everything before it.
    pub(crate) digest: [u8; DIGEST_BYTES],
}

/// Builds the error for a segment file that is not as it was written.
pub(super) fn unreadable(path: &Path, what: impl Into<String>) -> StoreError {
    StoreError::Unreadable { path: path.to_owned(), what: what.into() }
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(FORMAT.to_be_bytes());
        bytes.extend(self.cluster);
        bytes.extend(self.group.to_be_bytes());
        bytes.extend(self.incarnation.to_be_bytes());
        bytes.extend(self.first.to_be_bytes());
        bytes.extend(crc32c::crc32c(&bytes).to_be_bytes());
        bytes
    }

    /// Reads a header. An error says what is wrong with it.
    pub(super) fn decode(bytes: &[u8]) -> Result<Header, String> {
        if !bytes.starts_with(MAGIC) {
            return Err(format!("this is no segment of a log: it does not begin with {:?}", "LOCKSTEP SEGMENT"));
        }
        let (head, crc) = bytes.split_at_checked(HEADER_BYTES - 4).ok_or("the segment is cut short in its header")?;
        let format = u32::from_be_bytes(part(head, 16));
        if format != FORMAT {
            return Err(format!(
                "the segment has format {format}, this version reads {FORMAT}: use the version that wrote it, or a newer one"
            ));
        }
        if *crc != crc32c::crc32c(head).to_be_bytes() {
            return Err("the segment is damaged: the checksum of its header does not fit".to_owned());
        }
        Ok(Header {
            cluster: part(head, 20),
            group: u32::from_be_bytes(part(head, 36)),
            incarnation: u32::from_be_bytes(part(head, 40)),
            first: u64::from_be_bytes(part(head, 44)),
        })
    }

    /// Returns whether an end belongs to a file with this header.
    pub(super) fn fits(&self, end: &End) -> bool {
        self.first.checked_add(end.count).is_some_and(|next| next == end.last.index.wrapping_add(1))
    }
}

impl End {
    /// Encodes the end without its digest, which covers these bytes, too.
    pub(super) fn encode_before_digest(count: u64, last: &LogId) -> Vec<u8> {
        let mut bytes = END_MARK.to_be_bytes().to_vec();
        bytes.extend((END_BODY_BYTES as u32).to_be_bytes());
        bytes.extend(count.to_be_bytes());
        bytes.extend(last.leader_id.term.to_be_bytes());
        bytes.extend(last.leader_id.node_id.to_be_bytes());
        bytes.extend(last.index.to_be_bytes());
        bytes
    }

    /// Reads an end; `None` if the bytes are no end.
    pub(super) fn decode(bytes: &[u8]) -> Option<End> {
        let bytes: &[u8; END_BYTES] = bytes.try_into().ok()?;
        let number = |at: usize| u64::from_be_bytes(part(bytes, at));
        if number(0) != END_MARK || u32::from_be_bytes(part(bytes, 8)) as usize != END_BODY_BYTES {
            return None;
        }
        let leader_id = CommittedLeaderId { term: number(20), node_id: number(28) };
        Some(End { count: number(12), last: LogId::new(leader_id, number(36)), digest: part(bytes, 44) })
    }
}

/// Encodes an entry as the log has it, to send it to somebody who writes a segment.
pub(crate) fn encode_value(group: GroupId, entry: &Entry) -> Vec<u8> {
    encode_entry(group, entry)
}

/// Decodes an entry that [`encode_value`] has encoded. An error says what is wrong with the bytes.
pub(crate) fn decode_value(group: GroupId, index: u64, value: &[u8]) -> Result<Entry, String> {
    decode_entry(group, index, value).map_err(|error| error.to_string())
}

/// Returns the bytes from `at` on. There must be enough.
pub(super) fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a slice of that length")
}
