//! Integers, floats, letters and bytes as JSON. Keys and values share these forms.
//!
//! - Integers of up to 32 bits are numbers. Larger ones are texts, since many programs read every
//!   number as a float. Both forms are read for both.
//! - Floats are numbers, or `"NaN"`, `"Infinity"` and `"-Infinity"`. [`exact`] makes a text of a
//!   number that the parser would not read back exactly.
//! - Bytes are base64, as in the JSON of a message.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use crate::cli::json::Tree;

/// Widest integer that is written as a number, in bytes.
const NUMBER_BYTES_MAX: usize = 4;

pub(super) fn unsigned(number: u128, bytes: usize) -> Tree {
    match u32::try_from(number) {
        Ok(number) if bytes <= NUMBER_BYTES_MAX => Tree::Leaf(number.into()),
        _ => Tree::text(number.to_string()),
    }
}

pub(super) fn signed(number: i128, bytes: usize) -> Tree {
    match i32::try_from(number) {
        Ok(number) if bytes <= NUMBER_BYTES_MAX => Tree::Leaf(number.into()),
        _ => Tree::text(number.to_string()),
    }
}

/// Reads an unsigned integer of so many bytes.
pub(super) fn read_unsigned(tree: &Tree, bytes: usize) -> Result<u128, String> {
    let wrong = || format!("{tree} is no u{}", bytes * 8);
    let number: u128 = digits(tree).and_then(|digits| digits.parse().ok()).ok_or_else(wrong)?;
    let fits = bytes == size_of::<u128>() || number >> (bytes * 8) == 0;
    if fits { Ok(number) } else { Err(wrong()) }
}

/// Reads a signed integer of so many bytes.
pub(super) fn read_signed(tree: &Tree, bytes: usize) -> Result<i128, String> {
    let wrong = || format!("{tree} is no i{}", bytes * 8);
    let number: i128 = digits(tree).and_then(|digits| digits.parse().ok()).ok_or_else(wrong)?;
    // What is left of the sign bit equals it.
    let above = number >> (bytes * 8 - 1);
    if above == 0 || above == -1 { Ok(number) } else { Err(wrong()) }
}

fn digits(tree: &Tree) -> Option<String> {
    match tree {
        Tree::Leaf(Value::Number(number)) if !number.is_f64() => Some(number.to_string()),
        Tree::Leaf(Value::String(text)) => Some(text.clone()),
        _ => None,
    }
}

pub(super) fn float(number: f64) -> Tree {
    match serde_json::Number::from_f64(number) {
        Some(number) => Tree::Leaf(Value::Number(number)),
        None if number.is_nan() => Tree::text("NaN"),
        None if number > 0.0 => Tree::text("Infinity"),
        None => Tree::text("-Infinity"),
    }
}

/// Reads a float. A number that no float has becomes the nearest one.
pub(super) fn read_float(tree: &Tree) -> Result<f64, String> {
    let number = match tree {
        Tree::Leaf(Value::Number(number)) => number.as_f64(),
        Tree::Leaf(Value::String(text)) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            text => text.parse().ok().filter(|number: &f64| number.is_finite()),
        },
        _ => None,
    };
    number.ok_or_else(|| format!("{tree} is no float"))
}

/// Makes texts of the floats that the parser of JSON would not read back exactly, because it trades
/// the last digit for speed. Floats may be texts in the JSON of messages, too.
pub(super) fn exact(tree: Tree) -> Tree {
    match tree {
        Tree::Leaf(Value::Number(number)) if number.is_f64() => {
            let text = number.to_string();
            let is_exact = serde_json::from_str::<Value>(&text).is_ok_and(|read| read.as_f64() == number.as_f64());
            if is_exact { Tree::Leaf(Value::Number(number)) } else { Tree::text(text) }
        }
        Tree::Leaf(value) => Tree::Leaf(value),
        Tree::List(list) => Tree::List(list.into_iter().map(exact).collect()),
        Tree::Object(pairs) => Tree::Object(pairs.into_iter().map(|(name, tree)| (name, exact(tree))).collect()),
    }
}

pub(super) fn read_text(tree: &Tree) -> Result<&str, String> {
    match tree {
        Tree::Leaf(Value::String(text)) => Ok(text),
        _ => Err(format!("{tree} is no text")),
    }
}

pub(super) fn read_bool(tree: &Tree) -> Result<bool, String> {
    match tree {
        Tree::Leaf(Value::Bool(value)) => Ok(*value),
        _ => Err(format!("{tree} is neither true nor false")),
    }
}

pub(super) fn read_char(tree: &Tree) -> Result<char, String> {
    let mut letters = read_text(tree)?.chars();
    match (letters.next(), letters.next()) {
        (Some(letter), None) => Ok(letter),
        _ => Err(format!("{tree} is not one character")),
    }
}

pub(super) fn bytes(bytes: &[u8]) -> Tree {
    Tree::text(BASE64_STANDARD.encode(bytes))
}

pub(super) fn read_bytes(tree: &Tree) -> Result<Vec<u8>, String> {
    let text = read_text(tree)?;
    BASE64_STANDARD.decode(text).map_err(|error| format!("{tree} is no base64: {error}"))
}

/// Reads an array of so many bytes.
pub(super) fn read_array(tree: &Tree, count: usize) -> Result<Vec<u8>, String> {
    let bytes = read_bytes(tree)?;
    if bytes.len() == count { Ok(bytes) } else { Err(format!("{tree} has {} bytes, not {count}", bytes.len())) }
}

/// Reads the parts of a tuple.
pub(super) fn read_parts(tree: &Tree, count: usize) -> Result<&[Tree], String> {
    match tree {
        Tree::List(parts) if parts.len() == count => Ok(parts),
        _ => Err(format!("{tree} is no list of {count}")),
    }
}

/// Shows what is there: `null` for nothing. If `null` also stands for something within, that is put
/// in a list.
pub(super) fn option(value: Option<Tree>, is_nullable: bool) -> Tree {
    match value {
        None => Tree::Leaf(Value::Null),
        Some(value) if is_nullable => Tree::List(vec![value]),
        Some(value) => value,
    }
}

/// Reads what [`option`] shows.
pub(super) fn read_option(tree: &Tree, is_nullable: bool) -> Result<Option<&Tree>, String> {
    match tree {
        Tree::Leaf(Value::Null) => Ok(None),
        tree if is_nullable => read_parts(tree, 1).map(|parts| parts.first()),
        tree => Ok(Some(tree)),
    }
}
