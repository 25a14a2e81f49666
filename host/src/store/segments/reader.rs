//! Reads a segment file from its beginning to its end, and checks all of it. Opens no file, and
//! compares no files with each other.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::format::{
    END_BODY_BYTES, END_MARK, End, HEADER_BYTES, Header, RECORD_HEAD_BYTES, VALUE_BYTES_MAX, decode_value, part,
    unreadable,
};
use crate::store::StoreError;
use crate::types::{Entry, LogId};

/// A segment file that is read in order.
pub(crate) struct SegmentReader<R> {
    from: R,
    /// The name for errors.
    path: PathBuf,
    header: Header,
    hasher: blake3::Hasher,
    count: u64,
    last: Option<LogId>,
    end: Option<End>,
}

impl<R: Read> SegmentReader<R> {
    /// Reads the header of a file. `path` names the file in errors.
    pub(crate) fn new(mut from: R, path: &Path) -> Result<SegmentReader<R>, StoreError> {
        let bytes = fill(&mut from, path, HEADER_BYTES)?;
        let header = Header::decode(&bytes).map_err(|what| unreadable(path, what))?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes);
        Ok(SegmentReader { from, path: path.to_owned(), header, hasher, count: 0, last: None, end: None })
    }

    /// Returns what the file says of itself at its beginning.
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// Returns the next entry; `None` at the end, when the file is known to be whole.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, StoreError> {
        if self.end.is_some() {
            return Ok(None);
        }
        let head = self.fill(RECORD_HEAD_BYTES)?;
        let (index, length) = (u64::from_be_bytes(part(&head, 0)), u32::from_be_bytes(part(&head, 8)) as usize);
        if index == END_MARK {
            self.check_end(&head, length)?;
            return Ok(None);
        }
        let expected = self.header.first.checked_add(self.count);
        if expected != Some(index) {
            let expected = expected.map_or_else(|| "none".to_owned(), |expected| expected.to_string());
            return Err(self.damaged(format!("entry {index} stands where entry {expected} belongs")));
        }
        if length > VALUE_BYTES_MAX {
            return Err(self.damaged(format!("entry {index} has {length} bytes")));
        }
        let value = self.fill(length)?;
        let entry = decode_value(self.header.group, index, &value)
            .map_err(|what| self.damaged(format!("entry {index}: {what}")))?;
        self.hasher.update(&head).update(&value);
        self.count += 1;
        self.last = Some(entry.log_id);
        Ok(Some(entry))
    }

    /// Reads the file to its end, and returns what that says.
    pub(crate) fn verify(mut self) -> Result<End, StoreError> {
        while self.next_entry()?.is_some() {}
        Ok(self.end.expect("the file was read to its end"))
    }

    fn check_end(&mut self, head: &[u8], length: usize) -> Result<(), StoreError> {
        if length != END_BODY_BYTES {
            return Err(self.damaged("its end has another length"));
        }
        let body = self.fill(length)?;
        let bytes = [head, &body].concat();
        let (covered, _) = bytes.split_at(bytes.len() - blake3::OUT_LEN);
        let end = End::decode(&bytes).ok_or_else(|| self.damaged("its end cannot be read"))?;
        self.hasher.update(covered);
        let is_same_last = self.last.is_none_or(|last| last == end.last);
        if end.count != self.count || !is_same_last || !self.header.fits(&end) {
            return Err(self.damaged("its end does not fit what is before it"));
        }
        if self.hasher.finalize() != end.digest {
            return Err(self.damaged("its digest is another one"));
        }
        if self.from.read(&mut [0]).map_err(StoreError::io("read", &self.path))? != 0 {
            return Err(self.damaged("something follows its end"));
        }
        self.end = Some(end);
        Ok(())
    }

    fn fill(&mut self, length: usize) -> Result<Vec<u8>, StoreError> {
        fill(&mut self.from, &self.path, length)
    }

    fn damaged(&self, what: impl std::fmt::Display) -> StoreError {
        unreadable(&self.path, format!("the segment is damaged: {what}"))
    }
}

/// Reads exactly that many bytes. Allocates no more than there are.
fn fill(from: &mut impl Read, path: &Path, length: usize) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    from.take(length as u64).read_to_end(&mut bytes).map_err(StoreError::io("read", path))?;
    if bytes.len() < length {
        return Err(unreadable(path, "the segment is cut short: it has no end"));
    }
    Ok(bytes)
}
