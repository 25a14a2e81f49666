//! Encodes keys as bytes that sort like the values, so that a range of keys is a range of rows.
//!
//! - Unsigned integers: big-endian, fixed width. Signed: the same with the sign bit flipped.
//! - `bool`: one byte, 0 or 1.
//! - `String`, `Vec<u8>`: the bytes, with each 0x00 written as 0x00 0xFF, then 0x00 0x00 as the
//!   end. The end sorts before every continuation, so a string sorts before its extensions, also
//!   inside a tuple.
//! - `[u8; N]`: the bytes. `char`: its number, as a u32. `()`: nothing.
//! - `Option<K>`: a byte 0, or a byte 1 and the key. `None` comes first.
//! - `Reverse<K>`: the key with every bit flipped, so the greatest key comes first.
//! - Tuples of two to four: one part after the other. For more parts, put a tuple in a tuple.
//!
//! No encoding is a prefix of another encoding of the same type. The bytes are on disk, so the
//! encodings never change.

use std::cmp::Reverse;
use std::fmt;
use std::ops::{Bound, Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

use crate::shape::{Shape, UNNAMED};

/// A value that can be written as a key of type `K`: the key itself, its borrowed form, or a
/// reference to either.
///
/// The borrowed form of a `String` is `str`, and that of a `Vec<u8>` is `[u8]`.
/// The same holds in tuples: `("ann", 5)` is a key of type `(String, u64)`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no key of type `{K}`",
    note = "a key is named by a value of its type, or by what that borrows: a `&str` for a `String`, a `&[u8]` for a `Vec<u8>`, also in tuples"
)]
pub trait EncodeKey<K: ?Sized = Self> {
    /// Appends the bytes of this key, the same bytes that the `K` would append.
    fn encode_key(&self, out: &mut Vec<u8>);
}

/// A type that can be the key of a collection.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a key: its bytes have no order of their own",
    note = "keys are integers, `bool`, `char`, `String`, `Vec<u8>`, `[u8; N]`, `Option` and `Reverse` of keys, and tuples of two to four keys",
    note = "a float is no key, because floats have no total order (NaN is not even equal to itself, -0 equals 0): round it to an integer. \
            What a hash orders is not equal on every node"
)]
pub trait Key: EncodeKey + Sized {
    /// Names the type in the description of a state. A type of your own may name itself.
    const SHAPE: Shape = UNNAMED;

    /// Reads a key from the front of `input` and advances `input` past it.
    ///
    /// # Errors
    /// When the bytes are not a key of this type.
    fn decode_key(input: &mut &[u8]) -> Result<Self, NotAKey>;
}

/// A prefix of keys of type `K`: `"ab"` for strings, `("ann",)` for tuples, and [`Begins`] for a
/// prefix of one part of a tuple.
#[diagnostic::on_unimplemented(
    message = "keys of type `{K}` cannot begin with `{Self}`",
    note = "a string begins with a `str`, a tuple with its first parts as `(a,)` or `(a, b)`, or with `Begins((a,), \"ab\")`"
)]
pub trait Prefix<K> {
    /// Appends a byte string that the encodings of exactly those keys begin with.
    fn encode_prefix(&self, out: &mut Vec<u8>);
}

/// The first parts of a tuple and a prefix of the next part.
///
/// `Begins(("ann",), "2024-")` stands for the keys of type `(String, String)` whose first part is
/// `"ann"` and whose second part begins with `"2024-"`.
#[derive(Clone, Copy, Debug)]
pub struct Begins<H, P>(pub H, pub P);

/// A range of keys of type `K`.
///
/// It is a range expression of Rust over keys or their borrowed forms, or a pair of [`Bound`]s.
/// Examples are `"a".."b"`, `("ann", 3)..` and `..`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no range of keys of type `{K}`",
    note = "a range is `a..b`, `a..=b`, `a..`, `..b`, `..=b`, `..` or a pair of `Bound`s, where both ends name keys"
)]
pub trait KeyRange<K> {
    /// Returns the lower bound, with the key encoded.
    fn start(&self) -> Bound<Vec<u8>>;

    /// Returns the upper bound, with the key encoded.
    fn end(&self) -> Bound<Vec<u8>>;
}

/// The error for bytes that are not a key of the wanted type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAKey;

impl fmt::Display for NotAKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a key of this type")
    }
}

impl std::error::Error for NotAKey {}

/// Appends the bytes of a tag, which every key of its collection begins with.
///
/// A tag up to 127 takes one byte. A larger one takes two bytes, with the top bit set. No encoded
/// tag is a prefix of another.
pub(crate) fn encode_tag(tag: u16, out: &mut Vec<u8>) {
    match u8::try_from(tag) {
        Ok(small) if small < 0x80 => out.push(small),
        _ => out.extend_from_slice(&(tag | 0x8000).to_be_bytes()),
    }
}

/// Returns the length of what [`encode_tag`] appends.
pub(crate) fn tag_len(tag: u16) -> usize {
    if tag < 0x80 { 1 } else { 2 }
}

/// Returns the least byte string above everything that begins with `prefix`, if there is one.
pub(crate) fn end_of_prefix(mut prefix: Vec<u8>) -> Option<Vec<u8>> {
    while let Some(last) = prefix.pop() {
        if last < u8::MAX {
            prefix.push(last + 1);
            return Some(prefix);
        }
    }
    None
}

fn take<'a>(input: &mut &'a [u8], len: usize) -> Result<&'a [u8], NotAKey> {
    let (head, rest) = input.split_at_checked(len).ok_or(NotAKey)?;
    *input = rest;
    Ok(head)
}

macro_rules! integer_keys {
    ($($unsigned:ty, $signed:ty;)*) => {$(
        impl EncodeKey for $unsigned {
            fn encode_key(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }
        }

        impl Key for $unsigned {
            const SHAPE: Shape = Shape::Name(stringify!($unsigned));

            fn decode_key(input: &mut &[u8]) -> Result<Self, NotAKey> {
                let bytes = take(input, size_of::<Self>())?;
                Ok(Self::from_be_bytes(bytes.try_into().map_err(|_| NotAKey)?))
            }
        }

        impl EncodeKey for $signed {
            fn encode_key(&self, out: &mut Vec<u8>) {
                // With the sign bit flipped, negative numbers sort below the others.
                (self.cast_unsigned() ^ (1 << (Self::BITS - 1))).encode_key(out);
            }
        }

        impl Key for $signed {
            const SHAPE: Shape = Shape::Name(stringify!($signed));

            fn decode_key(input: &mut &[u8]) -> Result<Self, NotAKey> {
                let flipped = <$unsigned>::decode_key(input)?;
                Ok((flipped ^ (1 << (Self::BITS - 1))).cast_signed())
            }
        }
    )*};
}

integer_keys! {
    u8, i8;
    u16, i16;
    u32, i32;
    u64, i64;
    u128, i128;
}

impl EncodeKey for bool {
    fn encode_key(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
}

impl Key for bool {
    const SHAPE: Shape = Shape::Name("bool");

    fn decode_key(input: &mut &[u8]) -> Result<Self, NotAKey> {
        match take(input, 1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(NotAKey),
        }
    }
}

impl EncodeKey for () {
    fn encode_key(&self, _: &mut Vec<u8>) {}
}

impl Key for () {
    const SHAPE: Shape = Shape::Name("()");

    fn decode_key(_: &mut &[u8]) -> Result<Self, NotAKey> {
        Ok(())
    }
}

impl EncodeKey for char {
    fn encode_key(&self, out: &mut Vec<u8>) {
        u32::from(*self).encode_key(out);
    }
}

impl Key for char {
    const SHAPE: Shape = Shape::Name("char");

    fn decode_key(input: &mut &[u8]) -> Result<Self, NotAKey> {
        Self::from_u32(u32::decode_key(input)?).ok_or(NotAKey)
    }
}

impl<const N: usize> EncodeKey for [u8; N] {
    fn encode_key(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

impl<const N: usize> Key for [u8; N] {
    const SHAPE: Shape = Shape::Bytes(N);

    fn decode_key(input: &mut &[u8]) -> Result<Self, NotAKey> {
        take(input, N)?.try_into().map_err(|_| NotAKey)
    }
}

impl<K, Q: EncodeKey<K>> EncodeKey<Option<K>> for Option<Q> {
    fn encode_key(&self, out: &mut Vec<u8>) {
        self.is_some().encode_key(out);
        if let Some(key) = self {
            key.encode_key(out);
        }
    }
}

impl<K: Key> Key for Option<K> {
    const SHAPE: Shape = Shape::Of { name: "Option", parts: &[K::SHAPE] };

    fn decode_key(input: &mut &[u8]) -> Result<Self, NotAKey> {
        if bool::decode_key(input)? { K::decode_key(input).map(Some) } else { Ok(None) }
    }
}

impl<K, Q: EncodeKey<K>> EncodeKey<Reverse<K>> for Reverse<Q> {
    fn encode_key(&self, out: &mut Vec<u8>) {
        let start = out.len();
        self.0.encode_key(out);
        // No encoding is a prefix of another, so the first byte that differs decides the order.
        // Flipping that byte reverses the order.
        out[start..].iter_mut().for_each(|byte| *byte = !*byte);
    }
}

impl<K: Key> Key for Reverse<K> {
    const SHAPE: Shape = Shape::Of { name: "Reverse", parts: &[K::SHAPE] };

    fn decode_key(input: &mut &[u8]) -> Result<Self, NotAKey> {
        let flipped: Vec<u8> = input.iter().map(|byte| !byte).collect();
        let mut rest = flipped.as_slice();
        let key = K::decode_key(&mut rest)?;
        take(input, flipped.len() - rest.len())?;
        Ok(Self(key))
    }
}

const ESCAPE: u8 = 0x00;
const ESCAPED_ZERO: u8 = 0xff;
const END: u8 = 0x00;

fn encode_escaped(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len() + 2);
    for &byte in bytes {
        out.push(byte);
        if byte == ESCAPE {
            out.push(ESCAPED_ZERO);
        }
    }
}

impl EncodeKey<Vec<u8>> for [u8] {
    fn encode_key(&self, out: &mut Vec<u8>) {
        encode_escaped(self, out);
        out.extend_from_slice(&[ESCAPE, END]);
    }
}

impl EncodeKey for Vec<u8> {
    fn encode_key(&self, out: &mut Vec<u8>) {
        self.as_slice().encode_key(out);
    }
}

impl EncodeKey<String> for str {
    fn encode_key(&self, out: &mut Vec<u8>) {
        self.as_bytes().encode_key(out);
    }
}

impl EncodeKey for String {
    fn encode_key(&self, out: &mut Vec<u8>) {
        self.as_bytes().encode_key(out);
    }
}

impl<K, Q: EncodeKey<K> + ?Sized> EncodeKey<K> for &Q {
    fn encode_key(&self, out: &mut Vec<u8>) {
        (**self).encode_key(out);
    }
}

impl Key for Vec<u8> {
    const SHAPE: Shape = Shape::Name("Vec<u8>");

    fn decode_key(input: &mut &[u8]) -> Result<Self, NotAKey> {
        let mut bytes = Vec::new();
        loop {
            let zero = input.iter().position(|&byte| byte == ESCAPE).ok_or(NotAKey)?;
            bytes.extend_from_slice(take(input, zero)?);
            match take(input, 2)? {
                [ESCAPE, ESCAPED_ZERO] => bytes.push(0),
                [ESCAPE, END] => return Ok(bytes),
                _ => return Err(NotAKey),
            }
        }
    }
}

impl Key for String {
    const SHAPE: Shape = Shape::Name("String");

    fn decode_key(input: &mut &[u8]) -> Result<Self, NotAKey> {
        Self::from_utf8(Vec::decode_key(input)?).map_err(|_| NotAKey)
    }
}

impl Prefix<String> for str {
    fn encode_prefix(&self, out: &mut Vec<u8>) {
        encode_escaped(self.as_bytes(), out);
    }
}

impl Prefix<String> for String {
    fn encode_prefix(&self, out: &mut Vec<u8>) {
        encode_escaped(self.as_bytes(), out);
    }
}

impl Prefix<Vec<u8>> for [u8] {
    fn encode_prefix(&self, out: &mut Vec<u8>) {
        encode_escaped(self, out);
    }
}

impl Prefix<Vec<u8>> for Vec<u8> {
    fn encode_prefix(&self, out: &mut Vec<u8>) {
        encode_escaped(self, out);
    }
}

impl<K, P: Prefix<K> + ?Sized> Prefix<K> for &P {
    fn encode_prefix(&self, out: &mut Vec<u8>) {
        (**self).encode_prefix(out);
    }
}

macro_rules! tuple_keys {
    ($($part:ident $given:ident $place:tt),+) => {
        impl<$($part, $given: EncodeKey<$part>),+> EncodeKey<($($part,)+)> for ($($given,)+) {
            fn encode_key(&self, out: &mut Vec<u8>) {
                $(self.$place.encode_key(out);)+
            }
        }

        impl<$($part: Key),+> Key for ($($part,)+) {
            const SHAPE: Shape = Shape::Tuple { parts: &[$($part::SHAPE),+] };

            fn decode_key(input: &mut &[u8]) -> Result<Self, NotAKey> {
                Ok(($($part::decode_key(input)?,)+))
            }
        }
    };
}

tuple_keys!(A GivenA 0, B GivenB 1);
tuple_keys!(A GivenA 0, B GivenB 1, C GivenC 2);
tuple_keys!(A GivenA 0, B GivenB 1, C GivenC 2, D GivenD 3);

macro_rules! tuple_prefixes {
    ($(($($whole:ident),+): $($given:ident $key:ident $place:tt),+; then $next:ident;)*) => {$(
        impl<$($whole,)+ $($given: EncodeKey<$key>),+> Prefix<($($whole,)+)> for ($($given,)+) {
            fn encode_prefix(&self, out: &mut Vec<u8>) {
                $(self.$place.encode_key(out);)+
            }
        }

        impl<$($whole,)+ $($given: EncodeKey<$key>,)+ P: Prefix<$next>> Prefix<($($whole,)+)> for Begins<($($given,)+), P> {
            fn encode_prefix(&self, out: &mut Vec<u8>) {
                $(self.0.$place.encode_key(out);)+
                self.1.encode_prefix(out);
            }
        }
    )*};
}

tuple_prefixes! {
    (A, B): GivenA A 0; then B;
    (A, B, C): GivenA A 0; then B;
    (A, B, C): GivenA A 0, GivenB B 1; then C;
    (A, B, C, D): GivenA A 0; then B;
    (A, B, C, D): GivenA A 0, GivenB B 1; then C;
    (A, B, C, D): GivenA A 0, GivenB B 1, GivenC C 2; then D;
}

/// Returns the bytes of a key.
fn encode<K>(key: &(impl EncodeKey<K> + ?Sized)) -> Vec<u8> {
    let mut bytes = Vec::new();
    key.encode_key(&mut bytes);
    bytes
}

macro_rules! key_ranges {
    ($($range:ty: |$it:ident| $start:expr, $end:expr;)*) => {$(
        impl<K, Q: EncodeKey<K>> KeyRange<K> for $range {
            fn start(&self) -> Bound<Vec<u8>> {
                let $it = self;
                $start
            }

            fn end(&self) -> Bound<Vec<u8>> {
                let $it = self;
                $end
            }
        }
    )*};
}

key_ranges! {
    Range<Q>: |it| Bound::Included(encode(&it.start)), Bound::Excluded(encode(&it.end));
    RangeInclusive<Q>: |it| Bound::Included(encode(it.start())), Bound::Included(encode(it.end()));
    RangeFrom<Q>: |it| Bound::Included(encode(&it.start)), { let _ = it; Bound::Unbounded };
    RangeTo<Q>: |it| { let _ = it; Bound::Unbounded }, Bound::Excluded(encode(&it.end));
    RangeToInclusive<Q>: |it| { let _ = it; Bound::Unbounded }, Bound::Included(encode(&it.end));
    (Bound<Q>, Bound<Q>): |it| it.0.as_ref().map(encode), it.1.as_ref().map(encode);
}

impl<K> KeyRange<K> for RangeFull {
    fn start(&self) -> Bound<Vec<u8>> {
        Bound::Unbounded
    }

    fn end(&self) -> Bound<Vec<u8>> {
        Bound::Unbounded
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
