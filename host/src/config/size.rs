//! Sizes as people write them: `256MiB`, `4GiB`, `65536`. Powers of two only, so that nobody has to
//! guess what M means.

const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];

/// Parses `512`, `64KiB`, `256MiB`, `4GiB` or `1TiB` into bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let refuse =
        || format!("{text:?} is no size; write bytes, or a whole number of KiB, MiB, GiB or TiB, such as 256MiB");
    let (number, shift) = match UNITS.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift))) {
        Some(found) => found,
        None => (text.strip_suffix('B').unwrap_or(text), 0),
    };
    let number: u64 = number.trim_end().parse().map_err(|_| refuse())?;
    number.checked_shl(shift).filter(|bytes| bytes >> shift == number).ok_or_else(refuse)
}

/// Formats bytes in the shortest exact form that [`parse_size`] reads.
pub fn format_size(bytes: u64) -> String {
    let fits = |shift: u32| bytes != 0 && bytes.trailing_zeros() >= shift;
    match UNITS.iter().find(|(_, shift)| fits(*shift)) {
        Some((unit, shift)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        let table =
            [("0", 0), ("512", 512), ("512B", 512), ("1KiB", 1 << 10), ("256MiB", 256 << 20), ("4 GiB", 4 << 30)];
        for (text, bytes) in table {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
            assert_eq!(parse_size(&format_size(bytes)).unwrap(), bytes);
        }
        assert_eq!(format_size(256 << 20), "256MiB");
        assert_eq!(format_size(1000), "1000");
        for text in ["", "MiB", "-1", "1.5GiB", "10M", "99999999999TiB", "18446744073709551616"] {
            assert!(parse_size(text).unwrap_err().contains("256MiB"), "{text}");
        }
    }
}
