//! The sections of a module or a component as bytes: splits a file into them, and writes them with
//! the numbers that they need. It knows no section's content.

use wasmparser::{BinaryReader, Result};

/// Bytes in front of the sections: the magic number and the version.
const HEADER_BYTES: usize = 8;

/// A section: its number, and a reader of what is in it.
pub(super) struct Section<'a> {
    pub(super) id: u8,
    pub(super) body: BinaryReader<'a>,
}

impl<'a> Section<'a> {
    /// Returns all bytes of the section behind its length.
    pub(super) fn bytes(&self) -> Result<&'a [u8]> {
        rest(&mut self.body.clone())
    }
}

/// A file: its header, and its sections in their order.
pub(super) struct File<'a> {
    pub(super) header: &'a [u8],
    pub(super) sections: Vec<Section<'a>>,
}

/// Splits a module or a component. Positions in it stay those of the whole file.
pub(super) fn split(mut file: BinaryReader<'_>) -> Result<File<'_>> {
    let header = file.read_bytes(HEADER_BYTES)?;
    let mut sections = Vec::new();
    while !file.eof() {
        sections.push(Section { id: file.read_u8()?, body: file.read_reader()? });
    }
    Ok(File { header, sections })
}

/// Returns the bytes that a reader has not read yet.
pub(super) fn rest<'a>(reader: &mut BinaryReader<'a>) -> Result<&'a [u8]> {
    let left = reader.bytes_remaining();
    reader.read_bytes(left)
}

/// Writes a section, or anything else that has a number and a length.
pub(super) fn put_section(out: &mut Vec<u8>, id: u8, body: &[u8]) -> Result<(), String> {
    out.push(id);
    put_bytes(out, body)
}

/// Writes bytes behind their length.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), String> {
    let length = u32::try_from(bytes.len());
    let length = length.map_err(|_| format!("{} bytes are too many once the depth is metered", bytes.len()))?;
    put_u32(out, length);
    out.extend_from_slice(bytes);
    Ok(())
}

/// Writes an unsigned number in LEB128.
pub(super) fn put_u32(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Writes a signed number in LEB128.
pub(super) fn put_signed(out: &mut Vec<u8>, mut value: i64) {
    loop {
        let (low, sign) = ((value & 0x7f) as u8, value & 0x40 != 0);
        value >>= 7;
        if (value == 0 && !sign) || (value == -1 && sign) {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_were_written() {
        for value in [0, 1, 63, 64, 127, 128, 300, 65_536, u32::MAX / 2, u32::MAX] {
            let mut out = Vec::new();
            put_u32(&mut out, value);
            let mut reader = BinaryReader::new(&out, 0);
            assert_eq!((reader.read_var_u32().unwrap(), reader.eof()), (value, true));
        }
        for value in [0, 1, -1, 63, 64, -64, -65, 8_191, 1 << 21, i64::from(i32::MAX), i64::from(i32::MIN)] {
            let mut out = Vec::new();
            put_signed(&mut out, value);
            let mut reader = BinaryReader::new(&out, 0);
            assert_eq!((i64::from(reader.read_var_i32().unwrap()), reader.eof()), (value, true));
        }
    }
}
