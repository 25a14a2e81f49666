//! The record of instructions: its text, what valgrind says, and what a count beside its record
//! means. It runs nothing and reads no file.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

/// Instructions of each piece, for one time of it.
pub(super) type Counts = BTreeMap<String, u64>;

/// By how many percent a count may differ from its record. Other versions of the C library and of
/// the kernel, and the moments at which threads meet, make a few.
const PERCENT_MAX: u64 = 15;

/// What stands on top of the record.
const HEAD: &str = "\
# The instructions of the hot pieces of a node, for one time of each, on x86_64 Linux.
# `cargo xtask instructions --record` writes this file: it runs each piece of
# host/benches/instructions.rs under valgrind for N and for 3 N times, and takes half of the
# difference, divided by N. `cargo xtask test` fails when a piece takes 15 % more.
";

/// What a comparison has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// What must not stay.
    pub(super) failures: Vec<String>,
    /// What should be recorded.
    pub(super) advice: Vec<String>,
}

/// Reads a record.
pub(super) fn read(text: &str) -> Result<Counts> {
    let mut counts = Counts::new();
    for (number, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let count = line.split_once(' ').and_then(|(name, count)| Some((name.to_owned(), count.parse().ok()?)));
        let (name, count) = count.with_context(|| format!("line {}: '{line}' is no name and a count", number + 1))?;
        ensure!(counts.insert(name, count).is_none(), "line {}: '{line}' is of a piece that stands above", number + 1);
    }
    Ok(counts)
}

/// Writes a record.
pub(super) fn write(counts: &Counts) -> String {
    let lines: String = counts.iter().map(|(name, count)| format!("{name} {count}\n")).collect();
    format!("{HEAD}{lines}")
}

/// Compares counts with their record. A piece on one side alone is a failure.
pub(super) fn compare(recorded: &Counts, counted: &Counts) -> Verdict {
    let mut verdict = Verdict::default();
    for (name, now) in counted {
        let Some(before) = recorded.get(name) else {
            let advice = format!("if the piece is new, run `cargo xtask instructions --record {name}`");
            verdict.failures.push(format!("{name}: {} now, and no record; {advice}", grouped(*now)));
            continue;
        };
        let figures = || format!("{name}: {} recorded, {} now", grouped(*before), grouped(*now));
        let (now, before) = (u128::from(*now), u128::from(*before));
        if now * 100 > before * u128::from(100 + PERCENT_MAX) {
            let advice = format!("run `cargo xtask instructions --record {name}`, and say why in the commit");
            verdict.failures.push(format!("{}, over {PERCENT_MAX} % more; if that is meant, {advice}", figures()));
        } else if now * 100 < before * u128::from(100 - PERCENT_MAX) {
            let advice = format!("record it: `cargo xtask instructions --record {name}`");
            verdict.advice.push(format!("{}, over {PERCENT_MAX} % less; {advice}", figures()));
        }
    }
    for name in recorded.keys().filter(|name| !counted.contains_key(*name)) {
        let advice = "if the piece is gone, run `cargo xtask instructions --record`";
        verdict.failures.push(format!("{name}: a record, and no such piece; {advice}"));
    }
    verdict
}

/// Returns the instructions that cachegrind has counted, from what it says at its end.
pub(super) fn instructions_in(said: &str) -> Option<u64> {
    let count = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "I", "refs:", count] = words[..] else { return None };
        count.replace(',', "").parse().ok()
    };
    said.lines().find_map(count)
}

/// Returns the instructions of one time, of what `times` and three times as many took. So the start
/// and the end of the program do not count.
pub(super) fn a_time(once: u64, thrice: u64, times: u64) -> Result<u64> {
    let more = thrice.checked_sub(once).filter(|more| *more > 0);
    let more = more.with_context(|| format!("{thrice} instructions for three times as much as {once} took"))?;
    Ok(more / (2 * times))
}

/// Returns a number with a comma behind each thousand.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn counts(of: &[(&str, u64)]) -> Counts {
        of.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn a_record_is_read_as_it_was_written_in_the_order_of_names() {
        let record = counts(&[("query", 20_000), ("apply-1", 90_000)]);
        let text = write(&record);
        assert!(text.starts_with(HEAD) && text.ends_with("\napply-1 90000\nquery 20000\n"), "{text}");
        assert_eq!(read(&text).unwrap(), record);
        assert_eq!(read(HEAD).unwrap(), Counts::new());
    }

    #[test]
    fn a_damaged_record_is_refused_by_its_line() {
        for (text, problem) in [
            ("# head\nquery", "line 2: 'query' is no name and a count"),
            ("query many", "line 1: 'query many' is no name and a count"),
            ("query 1\nquery 2", "line 2: 'query 2' is of a piece that stands above"),
        ] {
            assert_eq!(read(text).unwrap_err().to_string(), problem);
        }
    }

    #[test]
    fn a_count_may_differ_by_fifteen_percent() {
        let record = counts(&[("query", 20_000)]);
        let verdict = |now: u64| compare(&record, &counts(&[("query", now)]));
        for now in [17_000, 20_000, 23_000] {
            assert_eq!(verdict(now), Verdict::default(), "{now}");
        }
        let above = verdict(23_001);
        assert!(above.advice.is_empty(), "{above:?}");
        let [failure] = &above.failures[..] else { panic!("{above:?}") };
        assert!(failure.starts_with("query: 20,000 recorded, 23,001 now, over 15 % more"), "{failure}");
        assert!(failure.contains("--record query`, and say why in the commit"), "{failure}");
        let below = verdict(16_999);
        assert!(below.failures.is_empty(), "{below:?}");
        let [advice] = &below.advice[..] else { panic!("{below:?}") };
        assert!(advice.contains("over 15 % less; record it"), "{advice}");
    }

    #[test]
    fn what_one_side_lacks_is_a_failure() {
        let verdict = compare(&counts(&[("old", 7)]), &counts(&[("new", 9)]));
        assert!(verdict.advice.is_empty(), "{verdict:?}");
        let [new, old] = &verdict.failures[..] else { panic!("{verdict:?}") };
        assert!(new.starts_with("new: 9 now, and no record"), "{new}");
        assert!(old.starts_with("old: a record, and no such piece"), "{old}");
    }

    #[test]
    fn the_end_of_cachegrind_is_read() {
        let said = "==8== Command: instructions query 2000\n\
                    --8-- warning: L3 cache found, using its data for the LL simulation.\n\
                    ==8== \n\
                    ==8== I   refs:      1,126,637\n";
        assert_eq!(instructions_in(said), Some(1_126_637));
        assert_eq!(instructions_in("==8== I refs: 12\n"), Some(12));
        assert_eq!(instructions_in("valgrind: the program is not there\n"), None);
    }

    #[test]
    fn start_and_end_do_not_count() {
        let run = |times: u64| 5_000_000 + 700 * times;
        assert_eq!(a_time(run(40), run(120), 40).unwrap(), 700);
        assert!(a_time(9, 9, 1).is_err() && a_time(9, 8, 1).is_err());
    }

    #[test]
    fn numbers_have_commas() {
        let cases = [(0, "0"), (999, "999"), (1000, "1,000"), (12_345_678, "12,345,678")];
        for (number, shown) in cases {
            assert_eq!(grouped(number), shown);
        }
    }
}
