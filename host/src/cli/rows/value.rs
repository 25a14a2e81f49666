//! Values of rows as JSON. The bytes are those of the SDK's `value.rs`, whose encodings never
//! change. `message` has the messages.

use super::shape::Shape;
use super::{message, scalar};
use crate::cli::json::Tree;

/// Bytes of the length in front of each part of a tuple but the last.
const PART_HEADER_BYTES: usize = 4;
/// The one NaN that the SDK stores.
const NAN_64: u64 = 0x7ff8_0000_0000_0000;
/// The same as an `f32`.
const NAN_32: u32 = 0x7fc0_0000;

/// Shows a value. `None` if the bytes are no value of that type.
pub(super) fn show(shape: &Shape, bytes: &[u8]) -> Option<Tree> {
    Some(match shape {
        Shape::Unit => bytes.is_empty().then_some(Tree::List(Vec::new()))?,
        Shape::Bool => match bytes {
            [0] => Tree::Leaf(false.into()),
            [1] => Tree::Leaf(true.into()),
            _ => return None,
        },
        Shape::Char => Tree::text(char::from_u32(u32::from_be_bytes(bytes.try_into().ok()?))?),
        Shape::Unsigned(count) => scalar::unsigned(integer(bytes, *count)?, *count),
        Shape::Signed(count) => {
            let unused = (size_of::<u128>() - count) * 8;
            scalar::signed((integer(bytes, *count)? << unused).cast_signed() >> unused, *count)
        }
        Shape::F64 => scalar::float(f64::from_be_bytes(bytes.try_into().ok()?)),
        // Every f32 is an f64.
        Shape::F32 => scalar::float(f32::from_be_bytes(bytes.try_into().ok()?).into()),
        Shape::Text => Tree::text(str::from_utf8(bytes).ok()?),
        Shape::Bytes => scalar::bytes(bytes),
        Shape::Array(count) => (bytes.len() == *count).then(|| scalar::bytes(bytes))?,
        Shape::Option(inner) => {
            let value = match bytes.split_first()? {
                (0, []) => None,
                (1, rest) => Some(show(inner, rest)?),
                _ => return None,
            };
            scalar::option(value, inner.is_nullable())
        }
        Shape::Tuple(parts) => tuple(parts, bytes)?,
        Shape::Message(descriptor) => message::show(descriptor, bytes)?,
        Shape::Reverse(_) | Shape::Unknown => return None,
    })
}

/// Returns the bytes of a value.
pub(super) fn encode(shape: &Shape, tree: &Tree) -> Result<Vec<u8>, String> {
    Ok(match shape {
        Shape::Unit => scalar::read_parts(tree, 0).map(|_| Vec::new())?,
        Shape::Bool => vec![scalar::read_bool(tree)?.into()],
        Shape::Char => u32::from(scalar::read_char(tree)?).to_be_bytes().to_vec(),
        Shape::Unsigned(count) => lowest(scalar::read_unsigned(tree, *count)?, *count),
        Shape::Signed(count) => lowest(scalar::read_signed(tree, *count)?.cast_unsigned(), *count),
        Shape::F64 => {
            let number = scalar::read_float(tree)?;
            let bits = if number.is_nan() { NAN_64 } else { number.to_bits() };
            bits.to_be_bytes().to_vec()
        }
        Shape::F32 => {
            let number = single(scalar::read_float(tree)?).ok_or_else(|| format!("{tree} is no f32"))?;
            let bits = if number.is_nan() { NAN_32 } else { number.to_bits() };
            bits.to_be_bytes().to_vec()
        }
        Shape::Text => scalar::read_text(tree)?.as_bytes().to_vec(),
        Shape::Bytes => scalar::read_bytes(tree)?,
        Shape::Array(count) => scalar::read_array(tree, *count)?,
        Shape::Option(inner) => match scalar::read_option(tree, inner.is_nullable())? {
            None => vec![0],
            Some(tree) => [vec![1], encode(inner, tree)?].concat(),
        },
        Shape::Tuple(parts) => encode_tuple(parts, tree)?,
        Shape::Message(descriptor) => message::encode(descriptor, tree)?,
        Shape::Reverse(_) | Shape::Unknown => return Err("the type of the value is not known here".into()),
    })
}

fn tuple(parts: &[Shape], mut bytes: &[u8]) -> Option<Tree> {
    let (last, others) = parts.split_last()?;
    let mut shown = Vec::with_capacity(parts.len());
    for part in others {
        let (length, rest) = bytes.split_first_chunk::<PART_HEADER_BYTES>()?;
        let (value, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        shown.push(show(part, value)?);
        bytes = rest;
    }
    shown.push(show(last, bytes)?);
    Some(Tree::List(shown))
}

fn encode_tuple(parts: &[Shape], tree: &Tree) -> Result<Vec<u8>, String> {
    let trees = scalar::read_parts(tree, parts.len())?;
    let mut out = Vec::new();
    for (place, (part, tree)) in parts.iter().zip(trees).enumerate() {
        let value = encode(part, tree)?;
        if place + 1 < parts.len() {
            let length = u32::try_from(value.len()).map_err(|_| "a part of a tuple is too large".to_owned())?;
            out.extend_from_slice(&length.to_be_bytes());
        }
        out.extend_from_slice(&value);
    }
    Ok(out)
}

fn integer(bytes: &[u8], count: usize) -> Option<u128> {
    let number = bytes.iter().fold(0, |number, byte| number << 8 | u128::from(*byte));
    (bytes.len() == count).then_some(number)
}

fn lowest(number: u128, count: usize) -> Vec<u8> {
    number.to_be_bytes()[size_of::<u128>() - count..].to_vec()
}

/// Returns the nearest `f32`; `None` if the number is beyond them.
#[allow(clippy::cast_possible_truncation)]
fn single(number: f64) -> Option<f32> {
    let single = number as f32;
    (single.is_finite() || !number.is_finite()).then_some(single)
}
