//! Snapshots of the state: written on one node, and read on another one that has an empty store.
//!
//! [`AsItIs`] copies the store as it is. Its format stays readable for all later versions:
//! - the four bytes `LSR1`;
//! - rows in key order: key length, value length (u32, little-endian), key, value, as `store.page`;
//! - the end: key length 0, value length 8, the number of rows (u64, little-endian).
//!
//! Between nodes that run the same component, the host compares the restored state with the
//! original key by key. A format of your own must restore every key as it was. A node ends a
//! restore that writes more than 64 MiB and 1,024 bytes for each byte that it has read.

use crate::host;
use crate::rows::split_row;
use crate::status::Status;

/// A way to write and read the whole state.
pub trait Format {
    /// Writes the state of the store.
    ///
    /// # Errors
    /// When it cannot be written. The host then sends the raw rows itself.
    fn write(sink: &mut Sink) -> Result<(), Status>;

    /// Fills the empty store.
    ///
    /// # Errors
    /// When the input is not what [`write`](Self::write) wrote. The node then keeps its old state.
    fn read(source: &mut Source) -> Result<(), Status>;
}

/// The format that copies the store as it is. Nearly every machine uses it.
#[derive(Clone, Copy, Debug)]
pub struct AsItIs;

const MAGIC: [u8; 4] = *b"LSR1";

/// Length of the header of a row: key length and value length, each a u32.
const ROW_HEADER_BYTES: usize = 8;

/// Length of the value of the end row, a u64.
const END_VALUE_BYTES: u32 = 8;

impl Format for AsItIs {
    fn write(sink: &mut Sink) -> Result<(), Status> {
        sink.write(&MAGIC);
        let mut rows = 0_u64;
        let mut start = vec![0];
        loop {
            let page = host::scan(&start, None, false, 0);
            sink.write(&page.rows);
            let mut rest = page.rows.as_slice();
            let mut last = None;
            while let Some((key, _, after)) = split_row(rest) {
                rows += 1;
                last = Some(key);
                rest = after;
            }
            match last {
                Some(key) if page.more => {
                    start.clear();
                    start.extend_from_slice(key);
                    start.push(0);
                }
                _ => break,
            }
        }
        sink.write(&0_u32.to_le_bytes());
        sink.write(&END_VALUE_BYTES.to_le_bytes());
        sink.write(&rows.to_le_bytes());
        Ok(())
    }

    fn read(source: &mut Source) -> Result<(), Status> {
        if source.read_exact(MAGIC.len())? != MAGIC {
            return Err(Status::data_loss("the snapshot does not begin with LSR1"));
        }
        let mut rows = 0_u64;
        loop {
            let header = source.read_exact(ROW_HEADER_BYTES)?;
            let (key_len, value_len) = (u32_at(header, 0), u32_at(header, 4));
            if key_len == 0 {
                return read_end(source, value_len, rows);
            }
            let row = source.read_exact(key_len as usize + value_len as usize)?;
            let (key, value) = row.split_at(key_len as usize);
            host::put(key, value);
            rows += 1;
        }
    }
}

fn read_end(source: &mut Source, value_len: u32, rows: u64) -> Result<(), Status> {
    if value_len != END_VALUE_BYTES {
        return Err(Status::data_loss("the snapshot has a row without a key"));
    }
    let count = source.read_exact(END_VALUE_BYTES as usize)?;
    let expected = u64::from_le_bytes(count.try_into().expect("eight bytes were read"));
    if rows != expected {
        return Err(Status::data_loss(format!("the snapshot has {rows} rows and claims {expected}")));
    }
    if !source.at_end() {
        return Err(Status::data_loss("the snapshot goes on after its end"));
    }
    Ok(())
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let bytes = bytes[offset..offset + 4].try_into().expect("four bytes");
    u32::from_le_bytes(bytes)
}

/// Bytes of a chunk to or from the host, which takes at most 1 MiB.
const CHUNK_BYTES: usize = 256 * 1024;

/// Receives the bytes of a snapshot. It collects small writes into chunks.
#[derive(Debug)]
pub struct Sink {
    buffer: Vec<u8>,
}

impl Sink {
    pub(crate) fn open() -> Self {
        Self { buffer: Vec::with_capacity(CHUNK_BYTES) }
    }

    /// Appends bytes. The reader does not see the boundaries of the writes.
    pub fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = CHUNK_BYTES - self.buffer.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == CHUNK_BYTES {
                host::sink_write(&self.buffer);
                self.buffer.clear();
            }
        }
    }

    pub(crate) fn finish(self) {
        if !self.buffer.is_empty() {
            host::sink_write(&self.buffer);
        }
    }
}

/// Supplies the bytes of a snapshot.
#[derive(Debug)]
pub struct Source {
    buffer: Vec<u8>,
    /// Number of bytes of `buffer` that were returned.
    taken: usize,
}

impl Source {
    pub(crate) fn open() -> Self {
        Self { buffer: Vec::new(), taken: 0 }
    }

    /// Returns the next `len` bytes.
    ///
    /// # Errors
    /// `DATA_LOSS` when the snapshot has fewer bytes.
    pub fn read_exact(&mut self, len: usize) -> Result<&[u8], Status> {
        while self.buffer.len() - self.taken < len {
            if !self.fill() {
                return Err(Status::data_loss("the snapshot is cut short"));
            }
        }
        let bytes = &self.buffer[self.taken..self.taken + len];
        self.taken += len;
        Ok(bytes)
    }

    /// Tells whether everything was read.
    pub fn at_end(&mut self) -> bool {
        self.taken == self.buffer.len() && !self.fill()
    }

    /// Reads one more chunk. Returns false at the end.
    fn fill(&mut self) -> bool {
        let max = u32::try_from(CHUNK_BYTES).expect("a chunk is small");
        let chunk = host::source_read(max);
        if chunk.is_empty() {
            return false;
        }
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(&chunk);
        true
    }
}

/// The raw store, for snapshot formats of your own. Keys are as the collections write them.
pub mod raw {
    use crate::host;
    use crate::rows::{Range, RawRows};

    /// Returns all rows in key order. For use in [`Format::write`](super::Format::write).
    pub fn rows() -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        // No key is empty, so the least possible key is one zero byte.
        let range = Range { start: vec![0], end: None };
        RawRows::new(range)
    }

    /// Writes one row. For use in [`Format::read`](super::Format::read).
    pub fn put(key: &[u8], value: &[u8]) {
        host::put(key, value);
    }
}
