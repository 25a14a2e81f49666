//! Decodes strings in the Huffman code of HPACK (RFC 7541, appendix B). Encodes only in tests.

/// Bits of the code of each byte, and of the end of a string. The code is canonical: shorter before
/// longer, then smaller before larger. So the lengths define it fully.
#[rustfmt::skip]
pub(super) const BITS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
     6, 10, 10, 12, 13,  6,  8, 11, 10, 10,  8, 11,  8,  6,  6,  6,  5,  5,  5,  6,  6,  6,  6,  6,  6,  6,  7,  8, 15,  6, 12, 10,
    13,  6,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  8,  7,  8, 13, 19, 13, 14,  6,
    15,  5,  6,  5,  6,  5,  6,  6,  6,  5,  7,  7,  6,  6,  6,  5,  6,  7,  6,  5,  5,  6,  7,  7,  7,  7,  7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// The symbol that marks the end. It occurs in no string.
const END: u16 = 256;

/// Bits of the longest code.
const LONGEST: usize = 30;

/// Most bits of padding.
const PADDING_BITS_MAX: usize = 7;

/// The code, ordered by length.
struct Code {
    /// The first code of each length.
    first: [u32; LONGEST + 1],
    /// The number of codes of each length.
    count: [u32; LONGEST + 1],
    /// Where the codes of each length begin in `symbols`.
    offset: [usize; LONGEST + 1],
    symbols: [u16; BITS.len()],
}

static CODE: Code = code();

const fn code() -> Code {
    let mut code =
        Code { first: [0; LONGEST + 1], count: [0; LONGEST + 1], offset: [0; LONGEST + 1], symbols: [0; BITS.len()] };
    let (mut next, mut placed, mut bits) = (0, 0, 1);
    while bits <= LONGEST {
        next <<= 1;
        code.first[bits] = next;
        code.offset[bits] = placed;
        let mut symbol = 0;
        while symbol < BITS.len() {
            if BITS[symbol] as usize == bits {
                code.symbols[placed] = symbol as u16;
                placed += 1;
                next += 1;
            }
            symbol += 1;
        }
        code.count[bits] = next - code.first[bits];
        bits += 1;
    }
    code
}

/// Calls `each` with each byte of the string. Returns `None` if the string is not valid in this
/// code.
///
/// `each` may have been called with some bytes even then.
pub(super) fn decode(text: &[u8], mut each: impl FnMut(u8)) -> Option<()> {
    let (mut read, mut bits) = (0_u32, 0);
    for byte in text {
        for shift in (0..8).rev() {
            read = read << 1 | u32::from(byte >> shift & 1);
            bits += 1;
            if bits > LONGEST {
                return None;
            }
            let nth = read.wrapping_sub(CODE.first[bits]);
            if nth < CODE.count[bits] {
                match CODE.symbols[CODE.offset[bits] + nth as usize] {
                    END => return None,
                    // Smaller than END, and so a byte.
                    symbol => each(symbol as u8),
                }
                (read, bits) = (0, 0);
            }
        }
    }
    // The rest must be the start of the end's code, which is all ones.
    (bits <= PADDING_BITS_MAX && read == (1 << bits) - 1).then_some(())
}

/// Encodes, for tests.
#[cfg(test)]
pub(super) fn encode(text: &[u8]) -> Vec<u8> {
    let (mut bytes, mut bits) = (Vec::new(), 0);
    let mut push = |code: u32, length: usize| {
        for shift in (0..length).rev() {
            if bits % 8 == 0 {
                bytes.push(0);
            }
            *bytes.last_mut().expect("one was pushed before the first bit") |=
                (code >> shift & 1) as u8 * (128 >> (bits % 8));
            bits += 1;
        }
        bits
    };
    for byte in text {
        let length = BITS[usize::from(*byte)] as usize;
        let of_length = &CODE.symbols[CODE.offset[length]..];
        let nth = of_length.iter().position(|symbol| *symbol == u16::from(*byte)).expect("each byte has a code");
        push(CODE.first[length] + nth as u32, length);
    }
    let used = push(0, 0) % 8;
    push(u32::from(u8::MAX), (8 - used) % 8);
    bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        decode(text, |byte| bytes.push(byte)).map(|()| bytes)
    }

    /// RFC 7541, appendix C.
    #[test]
    fn the_examples_of_the_standard_are_read() {
        let rows: [(&[u8], &str); 5] = [
            (&[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff], "www.example.com"),
            (&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], "no-cache"),
            (&[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf], "custom-value"),
            (&[0x64, 0x02], "302"),
            (&[], ""),
        ];
        for (encoded, text) in rows {
            assert_eq!(read(encoded).unwrap(), text.as_bytes(), "{text}");
            assert_eq!(encode(text.as_bytes()), encoded, "{text}");
        }
    }

    #[test]
    fn each_byte_has_a_code() {
        let all: Vec<u8> = (0..=u8::MAX).collect();
        assert_eq!(read(&encode(&all)).unwrap(), all);
    }

    #[test]
    fn what_is_no_code_is_refused() {
        let rows: [(&[u8], &str); 4] = [
            (&[0x1f, 0xff], "a whole byte of padding"),
            (&[0x18], "padding with zeros"),
            (&[0xff, 0xff, 0xff, 0xff], "the end inside a string"),
            (&[0xff], "nothing but padding, and a byte of it"),
        ];
        for (encoded, what) in rows {
            assert_eq!(read(encoded), None, "{what}");
        }
    }
}
