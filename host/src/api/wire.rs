//! Parses `grpc-timeout`. It never allocates for a request and never fails.

use std::time::Duration;

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
        fn foreign_headers_never_panic(header in ".{0,12}") {
            parse_timeout(&header);
        }
    }
}
