//! Follows a client's header blocks (HPACK, RFC 7541) far enough to find each `:authority`, and
//! replaces a bad one. Keeps only the sizes of the entries in the client's table, and judges
//! nothing but an authority.

use std::collections::VecDeque;

use http::uri::Authority;

use super::huffman;

/// Most bytes of the client's table, as HPACK counts them: SETTINGS_HEADER_TABLE_SIZE, which the
/// server leaves at its default.
const TABLE_BYTES_MAX: usize = 4096;

/// Bytes that HPACK adds to those of each entry.
const ENTRY_OVERHEAD_BYTES: usize = 32;

const AUTHORITY: &[u8] = b":authority";

/// The name in Huffman's code, which has only one encoding.
const AUTHORITY_HUFFMAN: [u8; 8] = [0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];

/// The name's index in the static table, where its value is empty.
const AUTHORITY_INDEX: usize = 1;

/// The byte that a replacement authority consists of.
const GOOD: u8 = b'0';

/// Bytes of the names in the static table (RFC 7541, appendix A).
#[rustfmt::skip]
const STATIC_NAME_BYTES: [usize; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16, 13, 12,
    6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3, 16,
];

/// A block that h2 will not be able to read either.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

/// The table of one client, as its blocks change it.
#[derive(Debug)]
pub(super) struct Table {
    /// The newest first.
    entries: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    name: Name,
    value_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Name {
    bytes: usize,
    is_authority: bool,
}

impl Table {
    /// Makes the table as it is at the start of a connection.
    pub(super) fn new() -> Table {
        Table { entries: VecDeque::new(), bytes: 0, bytes_max: TABLE_BYTES_MAX }
    }

    /// Reads a whole block. If it has a bad authority, returns the block with good ones.
    pub(super) fn mend(&mut self, block: &[u8]) -> Result<Option<Vec<u8>>, Unreadable> {
        let mut reader = Reader { block, at: 0 };
        let (mut mended, mut copied) = (Vec::new(), 0);
        while reader.at < block.len() {
            let from = reader.at;
            if let Some(spelled) = self.field(&mut reader)? {
                mended.extend_from_slice(&block[copied..from]);
                mended.extend_from_slice(&spelled);
                copied = reader.at;
            }
        }
        if copied == 0 {
            return Ok(None);
        }
        mended.extend_from_slice(&block[copied..]);
        Ok(Some(mended))
    }

    /// Reads one field, or one change of the table's size. Returns a replacement if the field is a
    /// bad authority.
    fn field(&mut self, reader: &mut Reader<'_>) -> Result<Option<Vec<u8>>, Unreadable> {
        let first = reader.peek()?;
        if first & 0x80 != 0 {
            // An authority in the table was corrected when it was inserted. The exception is the
            // empty one of the static table.
            return Ok((reader.integer(7)? == AUTHORITY_INDEX).then(|| spell(0, 0)));
        }
        if first & 0xe0 == 0x20 {
            self.resize(reader.integer(5)?)?;
            return Ok(None);
        }
        let is_indexed = first & 0x40 != 0;
        let (prefix_bits, form) = if is_indexed { (6, 0x40) } else { (4, first & 0xf0) };
        let name = match reader.integer(prefix_bits)? {
            0 => reader.text()?.name()?,
            index => self.name(index)?,
        };
        let value = reader.text()?;
        // The length does not matter for a field that is neither indexed nor an authority.
        let value_bytes = if is_indexed || name.is_authority { value.length()? } else { 0 };
        let is_bad = name.is_authority && !value.is_good_authority();
        if is_indexed {
            self.insert(Entry { name, value_bytes });
        }
        Ok(is_bad.then(|| spell(form, value_bytes)))
    }

    fn name(&self, index: usize) -> Result<Name, Unreadable> {
        match STATIC_NAME_BYTES.get(index - 1) {
            Some(bytes) => Ok(Name { bytes: *bytes, is_authority: index == AUTHORITY_INDEX }),
            None => self.entries.get(index - 1 - STATIC_NAME_BYTES.len()).map(|entry| entry.name).ok_or(Unreadable),
        }
    }

    fn insert(&mut self, entry: Entry) {
        self.shrink(self.bytes_max.saturating_sub(entry.bytes()));
        // An entry larger than the whole table empties the table and is not inserted.
        if entry.bytes() <= self.bytes_max {
            self.bytes += entry.bytes();
            self.entries.push_front(entry);
        }
    }

    fn resize(&mut self, bytes_max: usize) -> Result<(), Unreadable> {
        if bytes_max > TABLE_BYTES_MAX {
            return Err(Unreadable);
        }
        self.bytes_max = bytes_max;
        self.shrink(bytes_max);
        Ok(())
    }

    fn shrink(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max
            && let Some(oldest) = self.entries.pop_back()
        {
            self.bytes -= oldest.bytes();
        }
    }
}

impl Entry {
    fn bytes(&self) -> usize {
        self.name.bytes + self.value_bytes + ENTRY_OVERHEAD_BYTES
    }
}

/// Encodes `:authority` as a literal with a good value of `value_bytes` bytes.
///
/// `form` is indexed, not indexed or never indexed.
///
/// An empty value gets one byte. If its entry is in a table that is full to that byte, h2 ends the
/// connection where the client refers to its oldest entry.
fn spell(form: u8, value_bytes: usize) -> Vec<u8> {
    let value_bytes = value_bytes.max(1);
    let mut spelled = vec![form | AUTHORITY_INDEX as u8];
    let mut rest = value_bytes;
    if rest < 0x7f {
        spelled.push(rest as u8);
    } else {
        spelled.push(0x7f);
        rest -= 0x7f;
        while rest >= 0x80 {
            spelled.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        spelled.push(rest as u8);
    }
    spelled.resize(spelled.len() + value_bytes, GOOD);
    spelled
}

/// A position in a block.
struct Reader<'a> {
    block: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Result<u8, Unreadable> {
        self.block.get(self.at).copied().ok_or(Unreadable)
    }

    fn byte(&mut self) -> Result<u8, Unreadable> {
        let byte = self.peek()?;
        self.at += 1;
        Ok(byte)
    }

    /// Reads an integer. Like h2, accepts at most five bytes.
    fn integer(&mut self, prefix_bits: u32) -> Result<usize, Unreadable> {
        let mask = (1_usize << prefix_bits) - 1;
        let mut value = usize::from(self.byte()?) & mask;
        if value < mask {
            return Ok(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Unreadable)
    }

    fn text(&mut self) -> Result<Text<'a>, Unreadable> {
        let is_huffman = self.peek()? & 0x80 != 0;
        let length = self.integer(7)?;
        let bytes = self.block.get(self.at..self.at + length).ok_or(Unreadable)?;
        self.at += length;
        Ok(Text { bytes, is_huffman })
    }
}

/// A string as encoded in the block.
struct Text<'a> {
    bytes: &'a [u8],
    is_huffman: bool,
}

impl Text<'_> {
    fn length(&self) -> Result<usize, Unreadable> {
        if !self.is_huffman {
            return Ok(self.bytes.len());
        }
        let mut length = 0;
        huffman::decode(self.bytes, |_| length += 1).ok_or(Unreadable)?;
        Ok(length)
    }

    fn name(&self) -> Result<Name, Unreadable> {
        let authority = if self.is_huffman { &AUTHORITY_HUFFMAN[..] } else { AUTHORITY };
        Ok(Name { bytes: self.length()?, is_authority: self.bytes == authority })
    }

    /// Checks the authority with the library that h2 uses.
    fn is_good_authority(&self) -> bool {
        if !self.is_huffman {
            return Authority::try_from(self.bytes).is_ok();
        }
        let mut value = Vec::with_capacity(self.bytes.len() * 8 / 5);
        huffman::decode(self.bytes, |byte| value.push(byte)).is_some() && Authority::try_from(value).is_ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_known_in_either_spelling() {
        assert_eq!(huffman::encode(AUTHORITY), AUTHORITY_HUFFMAN);
        assert_eq!(STATIC_NAME_BYTES[AUTHORITY_INDEX - 1], AUTHORITY.len());
    }

    /// Recognizes a good authority in each of its forms. A bad one keeps form and length.
    #[test]
    fn only_a_bad_authority_is_spelled_anew() {
        let rows: [(&[u8], Option<&[u8]>); 9] = [
            (b"\x41\x03a:1", None),
            (b"\x41\x05a:1:2", Some(b"\x41\x0500000")),
            (b"\x01\x03a/b", Some(b"\x01\x03000")),
            (b"\x11\x03a b", Some(b"\x11\x03000")),
            (b"\x40\x0a:authority\x03\xff\xfe\xfd", Some(b"\x41\x03000")),
            (b"\x40\x0ax-uthority\x03\xff\xfe\xfd", None),
            (b"\x82\x81\x86", Some(b"\x82\x01\x010\x86")),
            (b"\x41\x00", Some(b"\x41\x010")),
            (b"\x01\x02a b", Some(b"\x01\x0200b")),
        ];
        // The last row's `b` lies outside its length: what follows is not a field.
        for (block, mended) in &rows[..8] {
            assert_eq!(Table::new().mend(block).unwrap().as_deref(), *mended, "{}", block.escape_ascii());
        }
        assert_eq!(Table::new().mend(rows[8].0), Err(Unreadable));
    }

    #[test]
    fn long_values_keep_their_length() {
        for length in [126, 127, 128, 254, 255, 256, 5_000, 40_000] {
            let spelled = spell(0x40, length);
            let mut reader = Reader { block: &spelled, at: 1 };
            assert_eq!(reader.text().unwrap().length(), Ok(length));
            assert_eq!(reader.at, spelled.len());
        }
    }

    /// An entry that names later fields is where the client expects it.
    #[test]
    fn names_are_found_in_a_table_that_forgets() {
        let mut table = Table::new();
        table.mend(b"\x41\x01a").unwrap();
        // 62 is the newest entry. A bad authority is recognized by the name in the table.
        assert_eq!(table.mend(b"\x7e\x01 ").unwrap().unwrap(), b"\x41\x010");
        let filler = [&b"\x40\x01x\x7f\xc9\x1e"[..], &[b'v'; 4040]].concat();
        assert_eq!(table.mend(&filler), Ok(None));
        assert_eq!(table.entries.len(), 1, "the table is full of it");
        assert_eq!(table.mend(b"\x7f\x00\x01 "), Err(Unreadable), "63 is gone");
        assert_eq!(table.mend(b"\x20\x3f\xe1\x1f"), Ok(None), "to nothing, and to all of it again");
        assert_eq!((table.entries.len(), table.bytes, table.bytes_max), (0, 0, TABLE_BYTES_MAX));
        assert_eq!(table.mend(b"\x3f\xe2\x1f"), Err(Unreadable), "to more than it may have");
    }
}
