//! Names of the types of keys and values. A name says which bytes a row has, and does not depend on
//! how the source spells the type: an alias or a path changes nothing. The encodings themselves are
//! in `key` and `value`.

/// The type of a key, a value or the rows of a collection.
///
/// Equal shapes have equal encodings. A message counts as equal to a later version of itself,
/// because messages grow as protobuf allows.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// A type that consists of nothing else: `u64`, or a message by its full name.
    Name(&'static str),
    /// An array of so many bytes.
    Bytes(usize),
    /// A type around others.
    Of {
        /// Its name: `Option`.
        name: &'static str,
        /// The others.
        parts: &'static [Shape],
    },
    /// A tuple.
    Tuple {
        /// Its parts.
        parts: &'static [Shape],
    },
}

/// The shape of a type of the author's own that names none.
pub(crate) const UNNAMED: Shape = Shape::Name("?");

impl Shape {
    /// Writes the name into `out` from `at` on, as far as it fits, and returns where it ends.
    pub(crate) const fn write(&self, out: &mut [u8], at: usize) -> usize {
        match self {
            Shape::Name(name) => put(out, at, name),
            Shape::Bytes(count) => {
                let at = put(out, at, "[u8; ");
                let at = put_number(out, at, *count);
                put(out, at, "]")
            }
            Shape::Of { name, parts } => {
                let at = put(out, at, name);
                let at = put(out, at, "<");
                let at = write_parts(parts, out, at);
                put(out, at, ">")
            }
            Shape::Tuple { parts } => {
                let at = put(out, at, "(");
                let at = write_parts(parts, out, at);
                put(out, at, ")")
            }
        }
    }
}

const fn write_parts(parts: &[Shape], out: &mut [u8], mut at: usize) -> usize {
    let mut i = 0;
    while i < parts.len() {
        if i > 0 {
            at = put(out, at, ", ");
        }
        at = parts[i].write(out, at);
        i += 1;
    }
    at
}

/// Writes a text into `out` from `at` on, as far as it fits, and returns where it ends.
pub(crate) const fn put(out: &mut [u8], at: usize, text: &str) -> usize {
    let text = text.as_bytes();
    let mut i = 0;
    while i < text.len() {
        if at + i < out.len() {
            out[at + i] = text[i];
        }
        i += 1;
    }
    at + text.len()
}

/// Does what [`put`] does, with a number in decimal.
pub(crate) const fn put_number(out: &mut [u8], at: usize, number: usize) -> usize {
    const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let at = if number < 10 { at } else { put_number(out, at, number / 10) };
    put(out, at, DIGITS[number % 10])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cmp::Reverse;

    use super::*;
    use crate::dispatch::Collection;
    use crate::{Counter, Key, Map, Set, Stored, Value};

    fn name(shape: Shape) -> String {
        let mut bytes = vec![0; shape.write(&mut [], 0)];
        shape.write(&mut bytes, 0);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_type_has_one_name_however_it_is_written() {
        type Price = u64;
        assert_eq!(name(Map::<std::string::String, Price>::ROWS), "Map<String, u64>");
        assert_eq!(name(Set::<(Reverse<i64>, Option<char>)>::ROWS), "Set<(Reverse<i64>, Option<char>)>");
        assert_eq!(name(Value::<([u8; 16], Vec<u8>, bool, ())>::ROWS), "Value<([u8; 16], Vec<u8>, bool, ())>");
        assert_eq!(name(Counter::ROWS), name(Value::<u64>::ROWS));
        assert_eq!(name(<prost_types::Timestamp as Stored>::SHAPE), "google.protobuf.Timestamp");
        assert_eq!(name(<Vec<u8> as Key>::SHAPE), "Vec<u8>");
        assert_eq!(name(<[u8; 0] as Key>::SHAPE), "[u8; 0]");
    }
}
