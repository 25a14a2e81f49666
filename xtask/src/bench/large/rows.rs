//! The rows of a state, as the lines that `lockstep rows import` takes. Keys and values are like
//! those of `lockstep bench`: values have no pattern, so that they hardly compress. It sends
//! nothing.

use std::io::Write;

use anyhow::{Context, Result, ensure};

use crate::bench::nodes::VALUE_BYTES;

/// Bytes of a row as a client sees it: `bench/` with a number of seven digits, and a value.
pub(super) const ROW_BYTES: u64 = 13 + VALUE_BYTES;
/// The collection of the key-value guest.
const COLLECTION: &str = "values";
/// Values are parts of a text of this length, so that two values are seldom alike.
const POOL_BYTES: u64 = 1 << 20;
/// Letters that need no escape in JSON.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Returns how many rows a state of so many bytes has.
pub(super) fn rows_in(state_bytes: u64) -> u64 {
    state_bytes.div_ceil(ROW_BYTES).max(1)
}

/// Writes the keys `bench/0` and so on between the two lines that an export of an empty state has.
pub(super) fn write(exported: &str, rows: u64, mut out: impl Write) -> Result<()> {
    let mut lines = exported.lines();
    let around = lines.next().zip(lines.next());
    let (first, last) = around.context("`lockstep rows export` wrote fewer than two lines")?;
    ensure!(lines.next().is_none(), "there are rows before the state is filled");
    ensure!(first.contains(&format!("\"name\":\"{COLLECTION}\"")), "the guest has no {COLLECTION}: {first}");
    writeln!(out, "{first}")?;
    let pool = text(POOL_BYTES + VALUE_BYTES);
    for row in 0..rows {
        write!(out, "{{\"in\":\"{COLLECTION}\",\"key\":\"bench/{row}\",\"value\":\"")?;
        out.write_all(value(&pool, row))?;
        out.write_all(b"\"}\n")?;
    }
    writeln!(out, "{last}")?;
    Ok(out.flush()?)
}

/// Returns a text without a pattern, the same each time.
pub(super) fn text(bytes: u64) -> Vec<u8> {
    (0..bytes).map(|position| ALPHABET[(mixed(position) % ALPHABET.len() as u64) as usize]).collect()
}

fn value(pool: &[u8], row: u64) -> &[u8] {
    // Other numbers than those that the letters come from.
    let from = (mixed(!row) % POOL_BYTES) as usize;
    &pool[from..from + VALUE_BYTES as usize]
}

/// Returns the number of splitmix64 at a position.
fn mixed(position: u64) -> u64 {
    let mut mixed = position.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const EXPORTED: &str = "{\"lockstep_rows\":1,\"collections\":[{\"name\":\"values\",\"tag\":1}]}\n{\"end\":1}\n";

    #[test]
    fn rows_stand_between_the_lines_of_an_export() {
        let mut file = Vec::new();
        write(EXPORTED, 300, &mut file).unwrap();
        let file = String::from_utf8(file).unwrap();
        let lines: Vec<&str> = file.lines().collect();
        assert_eq!(lines.len(), 302);
        assert!(EXPORTED.starts_with(lines[0]) && EXPORTED.trim_end().ends_with(lines[301]));
        let mut values = BTreeSet::new();
        for (number, line) in lines[1..301].iter().enumerate() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(row["in"], "values");
            assert_eq!(row["key"], format!("bench/{number}"));
            assert_eq!(row["value"].as_str().unwrap().len() as u64, VALUE_BYTES);
            values.insert(row["value"].to_string());
        }
        assert!(values.len() > 295, "values differ: {}", values.len());
    }

    #[test]
    fn what_is_no_export_of_an_empty_state_is_refused() {
        let refused = |exported: &str| write(exported, 1, Vec::new()).unwrap_err().to_string();
        assert!(refused("{}\n").contains("fewer than two lines"));
        assert!(refused(&format!("{EXPORTED}{{}}\n")).contains("there are rows"));
        assert!(refused("{}\n{}\n").contains("no values"));
    }

    #[test]
    fn a_text_uses_all_letters_alike() {
        let text = text(64_000);
        for letter in ALPHABET {
            let count = text.iter().filter(|found| *found == letter).count();
            assert!((800..1200).contains(&count), "{count} of {}", char::from(*letter));
        }
    }

    #[test]
    fn a_state_has_at_least_its_bytes() {
        assert_eq!((rows_in(1), rows_in(ROW_BYTES), rows_in(ROW_BYTES + 1)), (1, 1, 2));
        assert_eq!(rows_in(1 << 30), 3_991_606);
    }
}
