//! Reads one bool from an encoded protobuf message without decoding it, and parses `grpc-timeout`.
//! It never allocates for a request and never fails: refusing a malformed message is left to the
//! guest.

use std::time::Duration;

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// Tells whether the bool field `number` of `message` is set to true. The last occurrence wins, as
/// protobuf says. Of a malformed message, only the part before the damage counts.
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

/// Parses `grpc-timeout`: one to eight digits and a unit. Returns `None` for anything else.
pub fn parse_timeout(header: &str) -> Option<Duration> {
    let (unit_at, unit) = header.char_indices().last()?;
    let digits = &header[..unit_at];
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(amount * 3600),
        'M' => Duration::from_secs(amount * 60),
        'S' => Duration::from_secs(amount),
        'm' => Duration::from_millis(amount),
        'u' => Duration::from_micros(amount),
        'n' => Duration::from_nanos(amount),
        _ => return None,
    })
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

    #[test]
    fn timeouts_have_eight_digits_and_a_unit() {
        let cases = [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("5n", Some(Duration::from_nanos(5))),
            ("", None),
            ("S", None),
            ("100000000m", None),
            ("-1S", None),
            ("1.5S", None),
            ("5s", None),
            ("5µ", None),
        ];
        for (header, expected) in cases {
            assert_eq!(parse_timeout(header), expected, "{header}");
        }
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), number in 1u32..1000) {
            find_bool(&bytes, number);
        }

        #[test]
        fn foreign_headers_never_panic(header in ".{0,12}") {
            parse_timeout(&header);
        }
    }
}
