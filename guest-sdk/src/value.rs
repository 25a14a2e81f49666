//! Values as bytes. Equal values have equal bytes on every node: no hash order, no padding, no version
//! of a library shows through.
//!
//! - Integers: big-endian, fixed width. `bool`: one byte. `()`: nothing.
//! - `String`, `Vec<u8>`: as they are.
//! - `Option<T>`: a byte 0, or a byte 1 and the value.
//! - Messages of the `.proto`: protobuf, fields in order, maps sorted by key.
//!
//! These bytes are on disk. A field of a collection keeps its type; a message may grow as protobuf allows.

use std::fmt;

use prost::Message;

/// A value that can be written.
pub trait EncodeValue {
    /// Appends the bytes of this value.
    fn encode_value(&self, out: &mut Vec<u8>);
}

/// A type that collections take as value.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be stored",
    note = "values are integers, `bool`, `String`, `Vec<u8>`, `Option` of values, and the messages of your `.proto`",
    note = "for a `HashMap` or `BTreeMap` declare a `Map` in `state!`, or a map field in a message, which is a `BTreeMap`: \
            the order of a hash map differs from node to node"
)]
pub trait Stored: EncodeValue + Sized {
    /// Reads a value from all of `bytes`.
    ///
    /// # Errors
    /// When the bytes are not such a value.
    fn decode_value(bytes: &[u8]) -> Result<Self, Malformed>;
}

/// Bytes that are not a value of the wanted type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    wanted: &'static str,
}

impl Malformed {
    /// Not a value of type `T`.
    pub fn of<T>() -> Self {
        Self { wanted: std::any::type_name::<T>() }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a {}; did a tag change its type?", self.wanted)
    }
}

impl std::error::Error for Malformed {}

/// The bytes of a value.
pub(crate) fn encode(value: &(impl EncodeValue + ?Sized)) -> Vec<u8> {
    let mut out = Vec::new();
    value.encode_value(&mut out);
    out
}

/// A few bytes in a form for messages.
pub(crate) fn describe(bytes: &[u8]) -> String {
    const SHOWN: usize = 32;
    let more = if bytes.len() > SHOWN { "…" } else { "" };
    format!("\"{}{more}\"", bytes[..bytes.len().min(SHOWN)].escape_ascii())
}

#[doc(hidden)]
pub fn encode_message(message: &impl Message, out: &mut Vec<u8>) {
    message.encode_raw(out);
}

#[doc(hidden)]
pub fn decode_message<M: Message + Default>(bytes: &[u8]) -> Result<M, Malformed> {
    M::decode(bytes).map_err(|_| Malformed::of::<M>())
}

macro_rules! integer_values {
    ($($integer:ty)*) => {$(
        impl EncodeValue for $integer {
            fn encode_value(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }
        }

        impl Stored for $integer {
            fn decode_value(bytes: &[u8]) -> Result<Self, Malformed> {
                let bytes = bytes.try_into().map_err(|_| Malformed::of::<Self>())?;
                Ok(Self::from_be_bytes(bytes))
            }
        }
    )*};
}

integer_values!(u8 u16 u32 u64 u128 i8 i16 i32 i64 i128);

impl EncodeValue for bool {
    fn encode_value(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
}

impl Stored for bool {
    fn decode_value(bytes: &[u8]) -> Result<Self, Malformed> {
        match bytes {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(Malformed::of::<Self>()),
        }
    }
}

impl EncodeValue for () {
    fn encode_value(&self, _: &mut Vec<u8>) {}
}

impl Stored for () {
    fn decode_value(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.is_empty() { Ok(()) } else { Err(Malformed::of::<Self>()) }
    }
}

impl EncodeValue for str {
    fn encode_value(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }
}

impl EncodeValue for String {
    fn encode_value(&self, out: &mut Vec<u8>) {
        self.as_str().encode_value(out);
    }
}

impl Stored for String {
    fn decode_value(bytes: &[u8]) -> Result<Self, Malformed> {
        Self::from_utf8(bytes.to_vec()).map_err(|_| Malformed::of::<Self>())
    }
}

impl EncodeValue for [u8] {
    fn encode_value(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

impl EncodeValue for Vec<u8> {
    fn encode_value(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

impl Stored for Vec<u8> {
    fn decode_value(bytes: &[u8]) -> Result<Self, Malformed> {
        Ok(bytes.to_vec())
    }
}

impl<T: EncodeValue> EncodeValue for Option<T> {
    fn encode_value(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.is_some()));
        if let Some(value) = self {
            value.encode_value(out);
        }
    }
}

impl<T: Stored> Stored for Option<T> {
    fn decode_value(bytes: &[u8]) -> Result<Self, Malformed> {
        match bytes.split_first() {
            Some((0, [])) => Ok(None),
            Some((1, rest)) => T::decode_value(rest).map(Some),
            _ => Err(Malformed::of::<Self>()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round<T: Stored + PartialEq + fmt::Debug>(value: T) {
        assert_eq!(T::decode_value(&encode(&value)).unwrap(), value);
    }

    proptest! {
        #[test]
        fn values_survive(
            integers in any::<(u8, u16, u32, u64)>(),
            signed in any::<(i8, i16, i32, i64, i128)>(),
            text in any::<String>(),
            bytes in any::<Vec<u8>>(),
            nested in any::<Option<Option<String>>>(),
            flag in any::<bool>(),
        ) {
            round(integers.0);
            round(integers.1);
            round(integers.2);
            round(integers.3);
            round(signed.0);
            round(signed.1);
            round(signed.2);
            round(signed.3);
            round(signed.4);
            round(text);
            round(bytes);
            round(nested);
            round(flag);
        }
    }

    #[test]
    fn bytes_on_disk_stay_as_they_are() {
        assert_eq!(encode(&258_u32), [0, 0, 1, 2]);
        assert_eq!(encode(&-2_i16), [0xff, 0xfe]);
        assert_eq!(encode("añ"), [b'a', 0xc3, 0xb1]);
        assert_eq!(encode(&Some(true)), [1, 1]);
        assert_eq!(encode(&None::<u64>), [0]);
    }

    #[test]
    fn wrong_bytes_name_the_wanted_type() {
        let error = u64::decode_value(b"abc").unwrap_err().to_string();
        assert_eq!(error, "not a u64; did a tag change its type?");
        assert!(bool::decode_value(&[2]).is_err());
        assert!(Option::<u8>::decode_value(&[0, 0]).is_err());
        assert!(String::decode_value(&[0xff]).is_err());
    }
}
