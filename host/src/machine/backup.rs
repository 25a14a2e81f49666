//! A backup file: the frames of a snapshot, with the component that the rows belong to, and an end
//! record that shows whether the file is complete. This module reads and writes bytes that the
//! caller passes. It opens no file and knows no node.
//!
//! ```text
//! file   = "LOCKSTEP BACKUP\n", format u32 LE, record*
//! record = length u32 LE, frame (snapshot_frames.rs); the last one is End, and nothing follows it
//! ```
//!
//! - The file holds the rows themselves, never a guest's own format, because reading a backup back
//!   must not depend on a guest.
//! - A file is good when every frame passes its checksum, the digest in the end record is that of
//!   the bytes before it, and the state built from the rows has the digest in the footer.

use std::io::{self, Read, Write};

use bytes::Bytes;

use super::snapshot::error::SnapshotError;
use super::snapshot::frames::{BODY_BYTES_MAX, End, FORMAT, Frame};

mod forward;
mod found;
mod origin;
mod rows;
mod succession;

pub use forward::{Forward, ForwardError, Forwarded, Until};
pub use found::{Founded, Founder, Replaced, Unfounded, found, replace};
pub use origin::BackupOrigin;
pub use rows::{Beginning, RowsOf};
pub use succession::Successor;

const MAGIC: &[u8; 16] = b"LOCKSTEP BACKUP\n";
/// Most bytes of a frame. A frame is hardly longer than its body: zstd adds little to data that it
/// cannot compress.
const FRAME_BYTES_MAX: usize = BODY_BYTES_MAX + (64 << 10);

/// Why a backup was not written, or why a file is not a good backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file is not a backup.
    #[error("this is no backup of Lockstep: it does not begin with {:?}", "LOCKSTEP BACKUP")]
    Foreign,
    /// The backup has a format that this version does not read, such as a newer one.
    #[error(
        "the backup has format {found}, this version reads {supported}: use the version that wrote it, or a newer one"
    )]
    Newer {
        /// The format of the file.
        found: u32,
        /// The format that this version reads.
        supported: u32,
    },
    /// The file ends too soon.
    #[error("the backup is cut short: it ends after {0} whole frames, without its end record")]
    Cut(u64),
    /// The file is not as it was written.
    #[error("the backup is damaged: {0}")]
    Damaged(String),
    /// The frames do not build a state.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Reading or writing the file or the pipe failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl BackupError {
    /// Returns whether the file is unusable, as opposed to a fault of this node's disk.
    pub fn is_of_the_file(&self) -> bool {
        !matches!(self, BackupError::Io(_) | BackupError::Snapshot(SnapshotError::Store(_)))
    }
}

/// The contents of a complete backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Index of the last entry in the state.
    pub index: u64,
    /// Rows of the state, including the host's own.
    pub rows: u64,
    /// Bytes of the whole file.
    pub bytes: u64,
}

/// Counts and digests the bytes that pass through.
struct Tally {
    hasher: blake3::Hasher,
    bytes: u64,
    frames: u64,
}

impl Tally {
    fn new() -> Tally {
        Tally { hasher: blake3::Hasher::new(), bytes: 0, frames: 0 }
    }

    fn pass(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    fn end(&self, index: u64) -> End {
        End { index, frames: self.frames, digest: self.hasher.finalize().into() }
    }
}

/// Writes a backup from the frames that [`super::Snapshots::back_up`] sends.
pub struct BackupWriter<W> {
    out: W,
    tally: Tally,
    index: Option<u64>,
    rows: Option<u64>,
}

impl<W: Write> BackupWriter<W> {
    /// Writes the beginning of the file.
    pub fn new(out: W) -> Result<BackupWriter<W>, BackupError> {
        let mut writer = BackupWriter { out, tally: Tally::new(), index: None, rows: None };
        writer.write(MAGIC)?;
        writer.write(&FORMAT.to_le_bytes())?;
        Ok(writer)
    }

    /// Checks a frame and writes it.
    pub fn push(&mut self, frame: &[u8]) -> Result<(), BackupError> {
        match Frame::decode(frame).map_err(BackupError::Damaged)? {
            Frame::Header(header) if self.index.is_none() => self.index = Some(header.applied.index),
            Frame::Footer(footer) if self.rows.is_none() && self.index.is_some() => self.rows = Some(footer.rows),
            Frame::Component(_) | Frame::Raw(_) | Frame::System(_) if self.index.is_some() && self.rows.is_none() => {}
            other => return Err(BackupError::Damaged(format!("the node sent a frame out of place: {}", other.name()))),
        }
        self.record(frame)
    }

    /// Writes the end record. Returns an error if the footer has not come, because the node stopped
    /// sending before.
    pub fn finish(mut self) -> Result<(Summary, W), BackupError> {
        let (Some(index), Some(rows)) = (self.index, self.rows) else {
            return Err(BackupError::Cut(self.tally.frames));
        };
        let end = Frame::End(self.tally.end(index)).encode();
        self.record(&end)?;
        self.out.flush()?;
        Ok((Summary { index, rows, bytes: self.tally.bytes }, self.out))
    }

    /// Returns the bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.tally.bytes
    }

    fn record(&mut self, frame: &[u8]) -> Result<(), BackupError> {
        self.write(&(frame.len() as u32).to_le_bytes())?;
        self.write(frame)?;
        self.tally.frames += 1;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        self.tally.pass(bytes);
        Ok(self.out.write_all(bytes)?)
    }
}

/// Reads the frames of a backup and checks its end.
pub struct BackupReader<R> {
    from: R,
    tally: Tally,
    ended: bool,
    index: u64,
    rows: u64,
}

impl<R: Read> BackupReader<R> {
    /// Reads the beginning of the file. Returns an error if the file is not a backup of this
    /// format.
    pub fn new(from: R) -> Result<BackupReader<R>, BackupError> {
        let mut reader = BackupReader { from, tally: Tally::new(), ended: false, index: 0, rows: 0 };
        let mut magic = [0; MAGIC.len()];
        if reader.fill(&mut magic)? < MAGIC.len() || magic != *MAGIC {
            return Err(BackupError::Foreign);
        }
        let mut format = [0; 4];
        if reader.fill(&mut format)? < format.len() {
            return Err(BackupError::Cut(0));
        }
        match u32::from_le_bytes(format) {
            FORMAT => Ok(reader),
            found => Err(BackupError::Newer { found, supported: FORMAT }),
        }
    }

    /// Returns the next frame other than the end record; `None` when the file is complete and read
    /// to its end.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, BackupError> {
        if self.ended {
            return Ok(None);
        }
        let before = self.tally.end(0);
        let frame = self.record()?;
        match Frame::decode(&frame).map_err(BackupError::Damaged)? {
            Frame::End(end) => {
                self.check_end(end, before)?;
                return Ok(None);
            }
            Frame::Header(header) => self.index = header.applied.index,
            Frame::Footer(footer) => self.rows = footer.rows,
            _ => {}
        }
        Ok(Some(frame))
    }

    /// Reads the whole file, and returns its contents if it is good.
    pub fn verify(mut self) -> Result<Summary, BackupError> {
        while self.next_frame()?.is_some() {}
        Ok(Summary { index: self.index, rows: self.rows, bytes: self.tally.bytes })
    }

    fn record(&mut self) -> Result<Bytes, BackupError> {
        let cut = BackupError::Cut(self.tally.frames);
        let mut length = [0; 4];
        if self.fill(&mut length)? < length.len() {
            return Err(cut);
        }
        let length = u32::from_le_bytes(length) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(BackupError::Damaged(format!("a frame of {length} bytes")));
        }
        let mut frame = vec![0; length];
        if self.fill(&mut frame)? < length {
            return Err(cut);
        }
        self.tally.frames += 1;
        Ok(frame.into())
    }

    fn check_end(&mut self, end: End, before: End) -> Result<(), BackupError> {
        let wanted = End { index: self.index, ..before };
        if end != wanted {
            return Err(BackupError::Damaged("its end record does not fit what is before it".into()));
        }
        if self.from.read(&mut [0])? != 0 {
            return Err(BackupError::Damaged("something follows its end record".into()));
        }
        self.ended = true;
        Ok(())
    }

    /// Reads until `into` is full or the file ends.
    fn fill(&mut self, into: &mut [u8]) -> Result<usize, BackupError> {
        let mut filled = 0;
        while filled < into.len() {
            match self.from.read(&mut into[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.tally.pass(&into[..filled]);
        Ok(filled)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::log_position::LogPosition;
    use super::*;
    use crate::machine::snapshot::frames::{Footer, Header};

    fn frames() -> Vec<Frame> {
        let applied = LogPosition { term: 1, leader: 2, index: 30 };
        vec![
            Frame::Header(Header { format: FORMAT, applied, time_ms: 4, component: None }),
            Frame::Component(vec![5; 1_000]),
            Frame::Raw(b"rows".to_vec()),
            Frame::System(b"rows".to_vec()),
            Frame::Footer(Footer { digest: [6; 32], rows: 7 }),
        ]
    }

    fn file() -> Vec<u8> {
        let mut writer = BackupWriter::new(Vec::new()).unwrap();
        for frame in frames() {
            writer.push(&frame.encode()).unwrap();
        }
        let (summary, file) = writer.finish().unwrap();
        assert_eq!(summary, Summary { index: 30, rows: 7, bytes: file.len() as u64 });
        file
    }

    fn verify(file: &[u8]) -> Result<Summary, BackupError> {
        BackupReader::new(file)?.verify()
    }

    #[test]
    fn what_is_written_is_read() {
        let file = file();
        let mut reader = BackupReader::new(file.as_slice()).unwrap();
        for frame in frames() {
            assert_eq!(Frame::decode(&reader.next_frame().unwrap().unwrap()).unwrap(), frame);
        }
        assert!(reader.next_frame().unwrap().is_none());
        assert_eq!(verify(&file).unwrap(), Summary { index: 30, rows: 7, bytes: file.len() as u64 });
    }

    #[test]
    fn a_cut_file_is_known_wherever_it_is_cut() {
        let file = file();
        for length in 0..file.len() {
            let error = verify(&file[..length]).unwrap_err();
            let expected = if length < MAGIC.len() { "no backup" } else { "cut short" };
            assert!(error.to_string().contains(expected), "{length}: {error}");
        }
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let file = file();
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 8;
            assert!(verify(&damaged).is_err(), "{at}");
        }
    }

    #[test]
    fn a_file_that_goes_on_is_damaged_and_frames_cannot_be_left_out() {
        let mut long = file();
        long.push(0);
        assert!(verify(&long).unwrap_err().to_string().contains("follows"));
        // A file of the same records, with one of them left out.
        let (head, tail) = (MAGIC.len() + 4, file());
        let first = 4 + u32::from_le_bytes(tail[head..head + 4].try_into().unwrap()) as usize;
        let second = 4 + u32::from_le_bytes(tail[head + first..head + first + 4].try_into().unwrap()) as usize;
        let shorter = [&tail[..head + first], &tail[head + first + second..]].concat();
        assert!(verify(&shorter).unwrap_err().to_string().contains("does not fit"));
    }

    #[test]
    fn files_of_others_and_of_the_future_are_named() {
        assert!(matches!(verify(b"\0asm and so on and so on"), Err(BackupError::Foreign)));
        let mut future = file();
        future[MAGIC.len()] = 9;
        assert!(matches!(verify(&future), Err(BackupError::Newer { found: 9, supported: FORMAT })));
    }

    #[test]
    fn a_node_that_stops_sending_leaves_no_end() {
        for sent in 0..frames().len() {
            let mut writer = BackupWriter::new(Vec::new()).unwrap();
            for frame in &frames()[..sent] {
                writer.push(&frame.encode()).unwrap();
            }
            assert!(matches!(writer.finish(), Err(BackupError::Cut(_))), "{sent}");
        }
        let mut writer = BackupWriter::new(Vec::new()).unwrap();
        assert!(writer.push(&frames()[1].encode()).is_err(), "the header comes first");
    }
}
