//! One method of a guest: its kind, and how fresh the state must be that it reads. It reads one
//! bool field of a request and decodes nothing else.

use std::sync::Arc;

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// How a method is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Goes through the log and runs on every node.
    Command,
    /// Reads the state of one node.
    Query,
    /// Streams, and runs again when the rows change that it read.
    Watch,
}

impl Kind {
    /// Returns the name of the kind in metrics and messages.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Command => "command",
            Kind::Query => "query",
            Kind::Watch => "watch",
        }
    }
}

/// How fresh the state must be that a query or a watch sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every command that was answered before the call began. It needs a leader.
    Linearizable,
    /// Sees the state that this node has applied.
    Local,
}

/// What decides the consistency of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// The method's option, or the default of its kind.
    Fixed(Consistency),
    /// The request's bool field of this number: true for linearizable.
    Field(u32),
}

/// One method of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method {
    /// `package.Service/Method`, without a leading slash.
    pub name: Arc<str>,
    /// How it is served.
    pub kind: Kind,
    /// What decides the consistency of its calls. A command is always ordered by the log.
    pub freshness: Freshness,
}

impl Method {
    /// Returns the consistency that this request asks for.
    pub fn consistency(&self, request: &[u8]) -> Consistency {
        match self.freshness {
            Freshness::Fixed(consistency) => consistency,
            Freshness::Field(number) if find_bool(request, number) => Consistency::Linearizable,
            Freshness::Field(_) => Consistency::Local,
        }
    }

    /// Returns kind and freshness in words, such as `query, linearizable`.
    pub fn nature(&self) -> String {
        match self.freshness() {
            Some(freshness) => format!("{}, {freshness}", self.kind.name()),
            None => self.kind.name().to_owned(),
        }
    }

    /// Returns the consistency of a query or a watch in words: `linearizable`, `local`, or which
    /// field of the request decides. A command has none.
    pub fn freshness(&self) -> Option<String> {
        match (self.kind, self.freshness) {
            (Kind::Command, _) => None,
            (_, Freshness::Fixed(Consistency::Linearizable)) => Some("linearizable".into()),
            (_, Freshness::Fixed(Consistency::Local)) => Some("local".into()),
            (_, Freshness::Field(number)) => Some(format!("as field {number} says")),
        }
    }
}

/// Returns whether the bool field `number` of an encoded message is true. If the field stands there
/// more than once, the last one counts, as protobuf says. If the message is malformed, only what
/// stands before the damage counts: the guest refuses such a request.
pub fn find_bool(message: &[u8], number: u32) -> bool {
    let mut rest = message;
    let mut found = false;
    while !rest.is_empty() {
        let Ok((tag, wire_type)) = decode_key(&mut rest) else { break };
        if tag == number && wire_type == WireType::Varint {
            let Ok(value) = decode_varint(&mut rest) else { break };
            found = value != 0;
        } else if skip_field(wire_type, tag, &mut rest, DecodeContext::default()).is_err() {
            break;
        }
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_field_is_found_among_others() {
        let cases: [(&[u8], bool); 9] = [
            (&[], false),
            (&[0x10, 1], true),
            (&[0x10, 0], false),
            (&[0x0a, 2, 0x10, 1], false),
            (&[0x0a, 1, b'k', 0x10, 1], true),
            (&[0x10, 1, 0x10, 0], false),
            (&[0x10, 0x80, 0x01], true),
            (&[0x19, 1, 2, 3, 4, 5, 6, 7, 8, 0x25, 1, 2, 3, 4, 0x10, 1], true),
            (&[0x12, 1, 1], false),
        ];
        for (message, expected) in cases {
            assert_eq!(find_bool(message, 2), expected, "{message:?}");
        }
    }

    #[test]
    fn groups_are_skipped_with_what_is_in_them() {
        assert!(!find_bool(&[0x0b, 0x10, 1, 0x0c], 2));
        assert!(find_bool(&[0x0b, 0x18, 1, 0x0c, 0x10, 1], 2));
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), number in 1u32..1000) {
            find_bool(&bytes, number);
        }
    }
}
