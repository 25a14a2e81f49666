//! Encodes values as bytes. Equal values have equal bytes on every node: the bytes do not depend on
//! the order of a hash map, on padding, or on the version of a library.
//!
//! - Integers: big-endian, fixed width. `bool`: one byte. `char`: its number, as a u32. `()`: no
//!   bytes.
//! - `f64`, `f32`: their bits, big-endian. Every NaN is stored as the same one, positive and quiet;
//!   -0 stays -0.
//! - `String`, `Vec<u8>`, `[u8; N]`: as they are.
//! - `Option<T>`: a byte 0, or a byte 1 and the value.
//! - Tuples of two to four: each part except the last has its length in front of it (u32,
//!   big-endian); the last part is as it is.
//! - Messages of the `.proto`, and `prost_types::{Timestamp, Duration}`: protobuf, with fields in
//!   order and maps sorted by key.
//!
//! The bytes are on disk. A field of a collection keeps its type; a message may grow as protobuf
//! allows.

use std::fmt;

use prost::Message;

use crate::shape::{Shape, UNNAMED};

/// A value that can be written as a value of type `V`: the value itself, its borrowed form, or a
/// reference to either.
///
/// The borrowed form of a `String` is `str`, and that of a `Vec<u8>` is `[u8]`.
/// The same holds in tuples and options.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no value of type `{V}`",
    note = "a value is given as its type, or as what that borrows: a `&str` for a `String`, a `&[u8]` for a `Vec<u8>`, also in tuples"
)]
pub trait EncodeValue<V: ?Sized = Self> {
    /// Appends the bytes of this value, the same bytes that the `V` would append.
    fn encode_value(&self, out: &mut Vec<u8>);
}

/// A type that can be the value of a collection.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be stored",
    note = "values are integers, `f64`, `f32`, `bool`, `char`, `String`, `Vec<u8>`, `[u8; N]`, `Option` of values, tuples of two to \
            four values, the messages of your `.proto`, and `Timestamp` and `Duration` of `prost_types`",
    note = "for a `HashMap` or `BTreeMap` declare a `Map` in `state!`, or a map field in a message, which is a `BTreeMap`: \
            the order of a hash map differs from node to node"
)]
pub trait Stored: EncodeValue + Sized {
    /// Names the type in the description of a state. A type of your own may name itself.
    const SHAPE: Shape = UNNAMED;

    /// Reads a value from `bytes`, which must contain nothing else.
    ///
    /// # Errors
    /// When the bytes are not a value of this type.
    fn decode_value(bytes: &[u8]) -> Result<Self, Malformed>;
}

/// The error for bytes that are not a value of the wanted type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    wanted: &'static str,
}

impl Malformed {
    /// Makes the error for bytes that are not a `T`.
    pub fn of<T>() -> Self {
        Self { wanted: std::any::type_name::<T>() }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a {}", self.wanted)
    }
}

impl std::error::Error for Malformed {}

/// Returns the bytes of a value.
pub(crate) fn encode<V>(value: &(impl EncodeValue<V> + ?Sized)) -> Vec<u8> {
    let mut out = Vec::new();
    value.encode_value(&mut out);
    out
}

/// Formats a few bytes for messages.
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
            const SHAPE: Shape = Shape::Name(stringify!($integer));

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
    const SHAPE: Shape = Shape::Name("bool");

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
    const SHAPE: Shape = Shape::Name("()");

    fn decode_value(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.is_empty() { Ok(()) } else { Err(Malformed::of::<Self>()) }
    }
}

impl EncodeValue<String> for str {
    fn encode_value(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }
}

impl EncodeValue for String {
    fn encode_value(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }
}

impl Stored for String {
    const SHAPE: Shape = Shape::Name("String");

    fn decode_value(bytes: &[u8]) -> Result<Self, Malformed> {
        Self::from_utf8(bytes.to_vec()).map_err(|_| Malformed::of::<Self>())
    }
}

impl EncodeValue<Vec<u8>> for [u8] {
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
    const SHAPE: Shape = Shape::Name("Vec<u8>");

    fn decode_value(bytes: &[u8]) -> Result<Self, Malformed> {
        Ok(bytes.to_vec())
    }
}

impl<V, W: EncodeValue<V> + ?Sized> EncodeValue<V> for &W {
    fn encode_value(&self, out: &mut Vec<u8>) {
        (**self).encode_value(out);
    }
}

impl<const N: usize> EncodeValue for [u8; N] {
    fn encode_value(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

impl<const N: usize> Stored for [u8; N] {
    const SHAPE: Shape = Shape::Bytes(N);

    fn decode_value(bytes: &[u8]) -> Result<Self, Malformed> {
        bytes.try_into().map_err(|_| Malformed::of::<Self>())
    }
}

impl EncodeValue for char {
    fn encode_value(&self, out: &mut Vec<u8>) {
        u32::from(*self).encode_value(out);
    }
}

impl Stored for char {
    const SHAPE: Shape = Shape::Name("char");

    fn decode_value(bytes: &[u8]) -> Result<Self, Malformed> {
        u32::decode_value(bytes).ok().and_then(Self::from_u32).ok_or_else(Malformed::of::<Self>)
    }
}

macro_rules! float_values {
    ($($float:ty, $bits:ty, $nan:literal;)*) => {$(
        impl EncodeValue for $float {
            fn encode_value(&self, out: &mut Vec<u8>) {
                // Processors differ in which NaN an operation returns.
                let bits = if self.is_nan() { $nan } else { self.to_bits() };
                bits.encode_value(out);
            }
        }

        impl Stored for $float {
            const SHAPE: Shape = Shape::Name(stringify!($float));

            fn decode_value(bytes: &[u8]) -> Result<Self, Malformed> {
                <$bits>::decode_value(bytes).map(Self::from_bits).map_err(|_| Malformed::of::<Self>())
            }
        }
    )*};
}

float_values! {
    f64, u64, 0x7ff8_0000_0000_0000;
    f32, u32, 0x7fc0_0000;
}

macro_rules! message_values {
    ($($message:ty, $name:literal;)*) => {$(
        impl EncodeValue for $message {
            fn encode_value(&self, out: &mut Vec<u8>) {
                encode_message(self, out);
            }
        }

        impl Stored for $message {
            const SHAPE: Shape = Shape::Name($name);

            fn decode_value(bytes: &[u8]) -> Result<Self, Malformed> {
                decode_message(bytes)
            }
        }
    )*};
}

message_values! {
    prost_types::Timestamp, "google.protobuf.Timestamp";
    prost_types::Duration, "google.protobuf.Duration";
}

/// Appends a part of a tuple that is not the last one: its length and its bytes.
fn encode_part<V>(part: &impl EncodeValue<V>, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; PART_HEADER_BYTES]);
    part.encode_value(out);
    let len = u32::try_from(out.len() - start - PART_HEADER_BYTES).expect("memory is smaller than that");
    out[start..start + PART_HEADER_BYTES].copy_from_slice(&len.to_be_bytes());
}

/// Splits such a part off the front.
fn split_part<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, rest) = bytes.split_first_chunk::<PART_HEADER_BYTES>()?;
    let (part, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
    *bytes = rest;
    Some(part)
}

/// Length of the header of a part, a u32.
const PART_HEADER_BYTES: usize = 4;

macro_rules! tuple_values {
    ($(($($part:ident $given:ident $place:tt),+; $last:ident $given_last:ident $last_place:tt);)*) => {$(
        impl<$($part, $given: EncodeValue<$part>,)+ $last, $given_last: EncodeValue<$last>> EncodeValue<($($part,)+ $last)>
            for ($($given,)+ $given_last)
        {
            fn encode_value(&self, out: &mut Vec<u8>) {
                $(encode_part(&self.$place, out);)+
                self.$last_place.encode_value(out);
            }
        }

        impl<$($part: Stored,)+ $last: Stored> Stored for ($($part,)+ $last) {
            const SHAPE: Shape = Shape::Tuple { parts: &[$($part::SHAPE,)+ $last::SHAPE] };

            fn decode_value(mut bytes: &[u8]) -> Result<Self, Malformed> {
                Ok((
                    $($part::decode_value(split_part(&mut bytes).ok_or_else(Malformed::of::<Self>)?)?,)+
                    $last::decode_value(bytes)?,
                ))
            }
        }
    )*};
}

tuple_values! {
    (A GivenA 0; B GivenB 1);
    (A GivenA 0, B GivenB 1; C GivenC 2);
    (A GivenA 0, B GivenB 1, C GivenC 2; D GivenD 3);
}

impl<V, W: EncodeValue<V>> EncodeValue<Option<V>> for Option<W> {
    fn encode_value(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.is_some()));
        if let Some(value) = self {
            value.encode_value(out);
        }
    }
}

impl<T: Stored> Stored for Option<T> {
    const SHAPE: Shape = Shape::Of { name: "Option", parts: &[T::SHAPE] };

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
            floats in any::<(f64, f32)>(),
            letter in any::<char>(),
            array in any::<[u8; 5]>(),
            pair in any::<(String, Vec<u8>)>(),
            nest in any::<((String, u8), (Option<String>, i64, String, bool), char)>(),
            (seconds, nanos) in any::<(i64, i32)>(),
        ) {
            round(floats.0);
            round(floats.1);
            round(letter);
            round(array);
            assert_eq!(encode::<(String, Vec<u8>)>(&(pair.0.as_str(), pair.1.as_slice())), encode(&pair));
            round(pair);
            round(nest);
            round(prost_types::Timestamp { seconds, nanos });
            round(prost_types::Duration { seconds, nanos });
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

        /// Different tuples have different bytes, and bytes that decode as a tuple are that tuple's
        /// encoding.
        #[test]
        fn tuples_are_told_apart(
            (a, b) in any::<((Vec<u8>, Vec<u8>, Vec<u8>), (Vec<u8>, Vec<u8>, Vec<u8>))>(),
            bytes in proptest::collection::vec(0_u8..3, 0..24),
        ) {
            prop_assert_eq!(encode(&a) == encode(&b), a == b);
            if let Ok(tuple) = <(Vec<u8>, Vec<u8>, Vec<u8>)>::decode_value(&bytes) {
                prop_assert_eq!(encode(&tuple), bytes);
            }
        }

        #[test]
        fn every_nan_is_stored_as_one(mantissa in 1_u64..1 << 52, negative in any::<bool>()) {
            let nan = f64::from_bits(u64::from(negative) << 63 | 0x7ff << 52 | mantissa);
            prop_assert_eq!(encode(&nan), encode(&f64::NAN));
            prop_assert!(f64::decode_value(&encode(&nan)).unwrap().is_nan());
        }
    }

    #[test]
    fn bytes_on_disk_stay_as_they_are() {
        assert_eq!(encode(&258_u32), [0, 0, 1, 2]);
        assert_eq!(encode(&-2_i16), [0xff, 0xfe]);
        assert_eq!(encode("añ"), [b'a', 0xc3, 0xb1]);
        assert_eq!(encode(&Some(true)), [1, 1]);
        assert_eq!(encode::<Option<u64>>(&None::<u64>), [0]);
        assert_eq!(encode(&1.5_f64), [0x3f, 0xf8, 0, 0, 0, 0, 0, 0]);
        assert_eq!(encode(&-f64::NAN), [0x7f, 0xf8, 0, 0, 0, 0, 0, 0]);
        assert_eq!(encode(&-0.0_f32), [0x80, 0, 0, 0]);
        assert_eq!(encode(&f32::NAN), [0x7f, 0xc0, 0, 0]);
        assert_eq!(encode(&'ñ'), [0, 0, 0, 0xf1]);
        assert_eq!(encode(&[7_u8, 0]), [7, 0]);
        assert_eq!(encode(&(258_u16, "ab".to_owned())), [0, 0, 0, 2, 1, 2, b'a', b'b']);
        assert_eq!(encode(&(String::new(), 'a', true)), [0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 97, 1]);
        assert_eq!(encode(&(1_u8, 2_u8, 3_u8, ())), [0, 0, 0, 1, 1, 0, 0, 0, 1, 2, 0, 0, 0, 1, 3]);
        assert_eq!(encode(&prost_types::Timestamp { seconds: 3, nanos: 1 }), [8, 3, 16, 1]);
    }

    #[test]
    fn wrong_bytes_name_the_wanted_type() {
        let error = u64::decode_value(b"abc").unwrap_err().to_string();
        assert_eq!(error, "not a u64");
        assert!(bool::decode_value(&[2]).is_err());
        assert!(Option::<u8>::decode_value(&[0, 0]).is_err());
        assert!(String::decode_value(&[0xff]).is_err());
        assert!(char::decode_value(&[0, 0, 0xd8, 0]).is_err());
        assert!(<[u8; 2]>::decode_value(&[1]).is_err());
        assert!(<(u8, u8)>::decode_value(&[0, 0, 0, 2, 1, 1]).is_err());
        assert!(<(u8, u8)>::decode_value(&[0xff, 0xff, 0xff, 0xff, 1]).is_err());
    }
}
