//! Leaves out of an encoded message what its descriptor does not declare. It copies the fields that
//! are declared as they stand, in their order, and decodes none of them.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost_reflect::{Kind, MessageDescriptor};

/// Most levels of messages within each other. A decoder accepts no more.
const DEPTH_MAX: usize = 100;

/// The declared fields of a message have more bytes than they may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

/// Why the copy ends early.
enum Stop {
    /// The rest is no message. The guest refuses it.
    Malformed,
    TooLarge,
}

/// Returns the fields of `bytes` that `message` declares, at every level. What follows a damage is
/// kept as it is: a guest refuses the message then, and says why.
///
/// # Errors
/// They have more than `bytes_max` bytes.
pub(crate) fn fields(message: &MessageDescriptor, bytes: &[u8], bytes_max: usize) -> Result<Vec<u8>, TooLarge> {
    let mut copy = Copy { out: Vec::new(), bytes_max };
    match copy.message(message, bytes, DEPTH_MAX) {
        Ok(()) => Ok(copy.out),
        Err(Stop::Malformed) if bytes.len() <= bytes_max => Ok(bytes.to_vec()),
        Err(Stop::Malformed | Stop::TooLarge) => Err(TooLarge),
    }
}

struct Copy {
    out: Vec<u8>,
    bytes_max: usize,
}

impl Copy {
    fn message(&mut self, message: &MessageDescriptor, bytes: &[u8], depth: usize) -> Result<(), Stop> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let field = rest;
            let (number, wire_type) = decode_key(&mut rest).map_err(|_| Stop::Malformed)?;
            let key = &field[..field.len() - rest.len()];
            match (kind_of(message, number), wire_type) {
                (Some(Kind::Message(inner)), WireType::LengthDelimited) => {
                    let body = taken(&mut rest)?;
                    self.inner(key, &inner, body, depth)?;
                }
                (known, _) => {
                    let skipped = skip_field(wire_type, number, &mut rest, DecodeContext::default());
                    skipped.map_err(|_| Stop::Malformed)?;
                    if known.is_some() {
                        self.put(&field[..field.len() - rest.len()])?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Copies a message within the message. Its length is known only then.
    fn inner(&mut self, key: &[u8], message: &MessageDescriptor, body: &[u8], depth: usize) -> Result<(), Stop> {
        let depth = depth.checked_sub(1).ok_or(Stop::Malformed)?;
        let mut inner = Copy { out: Vec::new(), bytes_max: self.bytes_max.saturating_sub(self.out.len()) };
        inner.message(message, body, depth)?;
        self.put(key)?;
        let mut length = Vec::new();
        prost::encoding::encode_varint(inner.out.len() as u64, &mut length);
        self.put(&length)?;
        self.put(&inner.out)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        if self.out.len() + bytes.len() > self.bytes_max {
            return Err(Stop::TooLarge);
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }
}

/// Returns the kind of a declared field or a known extension.
fn kind_of(message: &MessageDescriptor, number: u32) -> Option<Kind> {
    match message.get_field(number) {
        Some(field) => Some(field.kind()),
        None => message.get_extension(number).map(|extension| extension.kind()),
    }
}

/// Takes a length and as many bytes.
fn taken<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Stop> {
    let length = decode_varint(rest).map_err(|_| Stop::Malformed)?;
    let length = usize::try_from(length).map_err(|_| Stop::Malformed)?;
    let (body, after) = rest.split_at_checked(length).ok_or(Stop::Malformed)?;
    *rest = after;
    Ok(body)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message;
    use prost_reflect::DescriptorPool;
    use prost_types::field_descriptor_proto::{Label, Type};
    use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet};

    /// Returns `message Outer { string name = 1; Outer inner = 2; repeated int32 numbers = 3; }`.
    fn outer() -> MessageDescriptor {
        let field = |name: &str, number, of: Type, type_name: Option<&str>| FieldDescriptorProto {
            name: Some(name.into()),
            number: Some(number),
            r#type: Some(of as i32),
            type_name: type_name.map(Into::into),
            label: Some(Label::Optional as i32),
            ..FieldDescriptorProto::default()
        };
        let message = DescriptorProto {
            name: Some("Outer".into()),
            field: vec![
                field("name", 1, Type::String, None),
                field("inner", 2, Type::Message, Some(".Outer")),
                field("number", 3, Type::Int32, None),
            ],
            ..DescriptorProto::default()
        };
        let file = FileDescriptorProto {
            name: Some("outer.proto".into()),
            syntax: Some("proto3".into()),
            message_type: vec![message],
            ..FileDescriptorProto::default()
        };
        let set = FileDescriptorSet { file: vec![file] };
        DescriptorPool::decode(set.encode_to_vec().as_slice()).unwrap().get_message_by_name("Outer").unwrap()
    }

    fn kept(bytes: &[u8]) -> Vec<u8> {
        fields(&outer(), bytes, 1_000).unwrap()
    }

    #[test]
    fn what_is_not_declared_is_left_out_at_every_level() {
        let name: &[u8] = &[0x0a, 2, b'h', b'i'];
        let unknown: &[u8] = &[0x7a, 3, 1, 2, 3];
        assert_eq!(kept(name), name);
        assert_eq!(kept(&[unknown, name, unknown].concat()), name);
        let inner = [&[0x12, 9], name, unknown].concat();
        let expected = [&[0x12, 4], name].concat();
        assert_eq!(kept(&[&inner, unknown, name].concat()), [&expected, name].concat());
        assert_eq!(kept(&[0x18, 7, 0x78, 9, 0x18, 8]), [0x18, 7, 0x18, 8], "repeated fields in their order");
    }

    #[test]
    fn a_padded_message_is_small_and_a_large_one_is_refused() {
        let length = |bytes: usize| {
            let mut varint = Vec::new();
            prost::encoding::encode_varint(bytes as u64, &mut varint);
            varint
        };
        let padding = [&[0x7a][..], &length(3 << 20), &vec![0; 3 << 20]].concat();
        assert_eq!(kept(&[&padding[..], &[0x0a, 1, b'k']].concat()), [0x0a, 1, b'k']);
        let large = [&[0x0a][..], &length(1_000), &[b'k'; 1_000]].concat();
        assert_eq!(fields(&outer(), &large, 1_000), Err(TooLarge));
        let within = [&[0x12][..], &length(large.len()), &large].concat();
        assert_eq!(fields(&outer(), &within, 1_000), Err(TooLarge));
    }

    #[test]
    fn a_damaged_message_stays_damaged() {
        for damaged in [&[0x0a][..], &[0x0a, 9, 1], &[0x12, 2, 0x0a, 9], &[0xff]] {
            assert_eq!(kept(damaged), damaged);
        }
        let long = [&[0x0a, 1, b'k'][..], &[0xff; 2_000]].concat();
        assert_eq!(fields(&outer(), &long, 1_000), Err(TooLarge));
    }

    #[test]
    fn no_depth_ends_the_process() {
        let mut deep = Vec::new();
        for _ in 0..200 {
            let mut around = vec![0x12];
            prost::encoding::encode_varint(deep.len() as u64, &mut around);
            around.extend_from_slice(&deep);
            deep = around;
        }
        assert_eq!(kept(&deep), deep, "as a message that a guest refuses");
    }

    proptest! {
        #[test]
        fn the_result_is_no_longer_and_stays_the_same(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let once = kept(&bytes);
            prop_assert!(once.len() <= bytes.len());
            prop_assert_eq!(kept(&once), once);
        }
    }
}
