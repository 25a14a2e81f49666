//! Writes segment files: to any writer, or as a new file of a directory, which gets its name when
//! it is whole and durable. Reads nothing.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::format::{END_BYTES, End, Header, encode_value};
use crate::faults;
use crate::store::StoreError;
use crate::store::files::{TEMPORARY_SUFFIX, sync_directory};
use crate::types::{CommittedLeaderId, Entry, LogId};

/// End of the name of a segment file.
pub(crate) const SUFFIX: &str = ".segment";

/// Writes one segment to `out`.
pub(crate) struct SegmentOut<W> {
    out: W,
    /// The name for errors.
    path: PathBuf,
    header: Header,
    hasher: blake3::Hasher,
    count: u64,
    /// The last entry, or the one before the first.
    last: Option<LogId>,
    bytes: u64,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// What the end of the file says.
    pub(crate) end: End,
    /// Bytes of the whole file.
    pub(crate) bytes: u64,
}

impl<W: Write> SegmentOut<W> {
    /// Writes the header. `path` names the file in errors.
    pub(crate) fn new(out: W, path: &Path, header: Header) -> Result<SegmentOut<W>, StoreError> {
        let hasher = blake3::Hasher::new();
        let mut writer = SegmentOut { out, path: path.to_owned(), header, hasher, count: 0, last: None, bytes: 0 };
        writer.write(&header.encode())?;
        Ok(writer)
    }

    /// Says which entry stands before the first one, for a file that may stay without entries.
    pub(crate) fn behind(mut self, before: LogId) -> SegmentOut<W> {
        self.last = Some(before);
        self
    }

    /// Writes the entry that follows the one before.
    pub(crate) fn push(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let (index, next) = (entry.log_id.index, self.next_index());
        if index != next {
            return Err(StoreError::Misuse(format!("a segment gets entry {index} where entry {next} belongs")));
        }
        let value = encode_value(self.header.group, entry);
        self.write(&index.to_be_bytes())?;
        self.write(&(value.len() as u32).to_be_bytes())?;
        self.write(&value)?;
        self.count += 1;
        self.last = Some(entry.log_id);
        Ok(())
    }

    /// Returns the index of the entry that comes next.
    pub(crate) fn next_index(&self) -> u64 {
        self.header.first + self.count
    }

    /// Returns the bytes written so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes the end.
    pub(crate) fn finish(mut self) -> Result<(Written, W), StoreError> {
        let last = match self.last {
            Some(last) => last,
            None => LogId::new(CommittedLeaderId { term: 0, node_id: 0 }, self.header.first.wrapping_sub(1)),
        };
        let bytes = End::encode_before_digest(self.count, &last);
        debug_assert_eq!(bytes.len() + blake3::OUT_LEN, END_BYTES, "the end has one length");
        self.write(&bytes)?;
        let digest: [u8; blake3::OUT_LEN] = self.hasher.finalize().into();
        self.write(&digest)?;
        self.out.flush().map_err(StoreError::io("write", &self.path))?;
        let end = End { count: self.count, last, digest };
        Ok((Written { end, bytes: self.bytes }, self.out))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes).map_err(StoreError::io("write", &self.path))
    }
}

/// Writes one segment as a new file of a directory.
pub(crate) struct SegmentWriter {
    directory: PathBuf,
    // Declared in this order, so that the file is closed before it goes.
    out: SegmentOut<BufWriter<File>>,
    temporary: Unfinished,
}

/// The name of a file that is not whole. The file goes with this value, so that it takes no room.
struct Unfinished(Option<PathBuf>);

impl Unfinished {
    /// Renames the file, which is whole now.
    fn rename(mut self, path: &Path) -> Result<(), StoreError> {
        if let Some(temporary) = &self.0 {
            fs::rename(temporary, path).map_err(StoreError::io("rename to", path))?;
        }
        self.0 = None;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(%error, path = %path.display(), "an unfinished segment stays until the archive is opened again");
        }
    }
}

impl SegmentWriter {
    /// Begins a file. It has another name until it is whole, and goes if that never happens; only
    /// a crash may leave it.
    pub(crate) fn create(directory: &Path, header: Header) -> Result<SegmentWriter, StoreError> {
        let temporary = directory.join(format!("{:020}{SUFFIX}{TEMPORARY_SUFFIX}", header.first));
        let file = File::create(&temporary).map_err(StoreError::io("create", &temporary))?;
        let unfinished = Unfinished(Some(temporary.clone()));
        let out = SegmentOut::new(BufWriter::new(file), &temporary, header)?;
        Ok(SegmentWriter { directory: directory.to_owned(), out, temporary: unfinished })
    }

    /// Writes the entry that follows the one before.
    pub(crate) fn push(&mut self, entry: &Entry) -> Result<(), StoreError> {
        self.out.push(entry)
    }

    /// Returns the index of the first entry.
    pub(crate) fn first(&self) -> u64 {
        self.out.header.first
    }

    /// Returns the bytes written so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.out.bytes()
    }

    /// Completes the file, and returns its path and its last entry. Durable on return.
    pub(crate) fn finish(self) -> Result<(PathBuf, LogId), StoreError> {
        let SegmentWriter { directory, out, temporary } = self;
        let (first, name_now) = (out.header.first, out.path.clone());
        let (written, buffer) = out.finish()?;
        let file = buffer.into_inner().map_err(|error| StoreError::io("write", &name_now)(error.into_error()))?;
        faults::io("archive-sync").map_err(StoreError::io("fsync", &name_now))?;
        file.sync_all().map_err(StoreError::io("fsync", &name_now))?;
        let last = written.end.last;
        let path = directory.join(name(first, last.index));
        temporary.rename(&path)?;
        sync_directory(&directory)?;
        Ok((path, last))
    }
}

/// Returns the name of the file that holds the entries `first` to `last`. Names sort by them.
fn name(first: u64, last: u64) -> String {
    format!("{first:020}-{last:020}{SUFFIX}")
}

/// Returns the last entry of a file by its name.
pub(super) fn last_of(name: &str) -> Option<u64> {
    name.strip_suffix(SUFFIX)?.split_once('-')?.1.parse().ok()
}
