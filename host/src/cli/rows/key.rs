//! Keys of rows as JSON. The bytes are those of the SDK's `key.rs`, whose encodings never change.

use super::scalar;
use super::shape::Shape;
use crate::cli::json::Tree;

const ESCAPE: u8 = 0x00;
const ESCAPED_ZERO: u8 = 0xff;
const END: u8 = 0x00;
/// Flag of a tag that takes two bytes.
const LONG_TAG: u16 = 0x8000;

/// Splits the tag off the front of a row's key.
pub(super) fn split_tag(key: &[u8]) -> Option<(u16, &[u8])> {
    match key {
        [first, rest @ ..] if *first < 0x80 => Some((u16::from(*first), rest)),
        [first, second, rest @ ..] => Some((u16::from_be_bytes([*first, *second]) & !LONG_TAG, rest)),
        _ => None,
    }
}

/// Appends a tag.
pub(super) fn encode_tag(tag: u16, out: &mut Vec<u8>) {
    match u8::try_from(tag) {
        Ok(small) if small < 0x80 => out.push(small),
        _ => out.extend_from_slice(&(tag | LONG_TAG).to_be_bytes()),
    }
}

/// Shows a key that has nothing behind it. `None` if the bytes are no key of that type.
pub(super) fn show(shape: &Shape, mut bytes: &[u8]) -> Option<Tree> {
    let tree = decode(shape, &mut bytes)?;
    bytes.is_empty().then_some(tree)
}

/// Appends the bytes of a key.
pub(super) fn encode(shape: &Shape, tree: &Tree, out: &mut Vec<u8>) -> Result<(), String> {
    match shape {
        Shape::Unit => drop(scalar::read_parts(tree, 0)?),
        Shape::Bool => out.push(scalar::read_bool(tree)?.into()),
        Shape::Char => out.extend_from_slice(&u32::from(scalar::read_char(tree)?).to_be_bytes()),
        Shape::Unsigned(bytes) => put(scalar::read_unsigned(tree, *bytes)?, *bytes, out),
        Shape::Signed(bytes) => put(flipped(scalar::read_signed(tree, *bytes)?.cast_unsigned(), *bytes), *bytes, out),
        Shape::Text => escape(scalar::read_text(tree)?.as_bytes(), out),
        Shape::Bytes => escape(&scalar::read_bytes(tree)?, out),
        Shape::Array(count) => out.extend_from_slice(&scalar::read_array(tree, *count)?),
        Shape::Option(inner) => match scalar::read_option(tree, inner.is_nullable())? {
            None => out.push(0),
            Some(tree) => {
                out.push(1);
                encode(inner, tree, out)?;
            }
        },
        Shape::Reverse(inner) => {
            let start = out.len();
            encode(inner, tree, out)?;
            out[start..].iter_mut().for_each(|byte| *byte = !*byte);
        }
        Shape::Tuple(parts) => {
            for (shape, tree) in parts.iter().zip(scalar::read_parts(tree, parts.len())?) {
                encode(shape, tree, out)?;
            }
        }
        Shape::F32 | Shape::F64 | Shape::Message(_) | Shape::Unknown => {
            return Err("the type of the key is not known here".into());
        }
    }
    Ok(())
}

fn decode(shape: &Shape, input: &mut &[u8]) -> Option<Tree> {
    Some(match shape {
        Shape::Unit => Tree::List(Vec::new()),
        Shape::Bool => Tree::Leaf(flag(input)?.into()),
        Shape::Char => {
            let number = u32::try_from(integer(input, 4)?).ok()?;
            Tree::text(char::from_u32(number)?)
        }
        Shape::Unsigned(bytes) => scalar::unsigned(integer(input, *bytes)?, *bytes),
        Shape::Signed(bytes) => {
            let number = flipped(integer(input, *bytes)?, *bytes);
            // Moves the sign to the front and back.
            let unused = (size_of::<u128>() - bytes) * 8;
            scalar::signed((number << unused).cast_signed() >> unused, *bytes)
        }
        Shape::Text => Tree::text(String::from_utf8(unescape(input)?).ok()?),
        Shape::Bytes => scalar::bytes(&unescape(input)?),
        Shape::Array(count) => scalar::bytes(take(input, *count)?),
        Shape::Option(inner) => {
            let value = if flag(input)? { Some(decode(inner, input)?) } else { None };
            scalar::option(value, inner.is_nullable())
        }
        Shape::Reverse(inner) => {
            let flipped: Vec<u8> = input.iter().map(|byte| !byte).collect();
            let mut rest = flipped.as_slice();
            let tree = decode(inner, &mut rest)?;
            take(input, flipped.len() - rest.len())?;
            tree
        }
        Shape::Tuple(parts) => {
            let parts: Option<Vec<Tree>> = parts.iter().map(|part| decode(part, input)).collect();
            Tree::List(parts?)
        }
        Shape::F32 | Shape::F64 | Shape::Message(_) | Shape::Unknown => return None,
    })
}

fn take<'a>(input: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (head, rest) = input.split_at_checked(count)?;
    *input = rest;
    Some(head)
}

fn flag(input: &mut &[u8]) -> Option<bool> {
    match take(input, 1)? {
        [0] => Some(false),
        [1] => Some(true),
        _ => None,
    }
}

fn integer(input: &mut &[u8], bytes: usize) -> Option<u128> {
    Some(take(input, bytes)?.iter().fold(0, |number, byte| number << 8 | u128::from(*byte)))
}

/// Appends the lowest bytes of a number.
fn put(number: u128, bytes: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&number.to_be_bytes()[size_of::<u128>() - bytes..]);
}

/// Flips the sign bit of a number of so many bytes.
fn flipped(number: u128, bytes: usize) -> u128 {
    number ^ 1 << (bytes * 8 - 1)
}

fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for &byte in bytes {
        out.push(byte);
        if byte == ESCAPE {
            out.push(ESCAPED_ZERO);
        }
    }
    out.extend_from_slice(&[ESCAPE, END]);
}

fn unescape(input: &mut &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let zero = input.iter().position(|&byte| byte == ESCAPE)?;
        bytes.extend_from_slice(take(input, zero)?);
        match take(input, 2)? {
            [ESCAPE, ESCAPED_ZERO] => bytes.push(0),
            [ESCAPE, END] => return Some(bytes),
            _ => return None,
        }
    }
}
