//! Tests of the page in Markdown and of the printed lines.

use super::*;
use crate::bench::figures::tests::{load, results};

/// Returns the row of the table that begins with this.
fn row_of<'a>(table: &'a str, begin: &str) -> &'a str {
    table.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("no row {begin} in:\n{table}"))
}

#[test]
fn a_row_has_medians_ratios_and_targets() {
    let table = figures(&results(true));
    assert_eq!(
        row_of(&table, "| put, 64 clients | calls/s "),
        "| put, 64 clients | calls/s | 250 (200 to 300) | 100 | 2.50 (2.00 to 3.00) | >= 1.7 | >= 2.2 | goal |"
    );
    assert_eq!(
        row_of(&table, "| put, 64 clients | server CPU "),
        "| put, 64 clients | server CPU a call, us | 75.0 (50.0 to 100) | 200 | 0.38 (0.25 to 0.50) \
         | <= 0.4 | <= 0.25 | must |"
    );
    assert!(row_of(&table, "| put, 64 clients | bytes written").ends_with("| 1.00 | <= 0.45 | <= 0.35 | no |"));
    // It has no target.
    assert!(row_of(&table, "| put, 64 clients | p50").ends_with("| 1.00 |  |  |  |"), "{table}");
}

#[test]
fn every_row_has_all_cells() {
    for results in [results(true), results(false)] {
        let table = figures(&results);
        let cells = |line: &str| line.matches('|').count();
        assert!(table.lines().count() > 5 && table.lines().all(|line| cells(line) == 9), "{table}");
    }
}

#[test]
fn alone_it_has_no_ratio_and_reaches_nothing() {
    let table = figures(&results(false));
    let row = row_of(&table, "| put, 64 clients | calls/s ");
    assert_eq!(row, "| put, 64 clients | calls/s | 250 (200 to 300) |  |  | >= 1.7 | >= 2.2 |  |");
    let page = page(&results(false), &[]);
    assert!(page.starts_with("# Lockstep alone, 2026-01-31\n"), "{page}");
    assert!(page.contains("| etcd | not measured |"), "{page}");
}

#[test]
fn the_page_tells_conditions_durability_noise_and_plots() {
    let mut results = results(true);
    results.syncs[1].1 = Syncs::Counted { calls: 100, syncs: vec![100, 50, 49] };
    results.blocks[0].calibration.echo_us.p50 = 500.0;
    let page = page(&results, &[("a.svg".into(), "Latency".into())]);
    for expected in [
        "# Lockstep beside etcd, 2026-01-31\n",
        "| commit | 0123456789ab |",
        "| disk | /dev/vda, write cache: write back |",
        "| lockstep | 100 | 101, 100, 103 | 3.04 | yes |",
        "| etcd | 100 | 100, 50, 49 | 1.99 | NO |",
        "Before 1 of 4 blocks",
        "put, 64 clients: the leader applied 60 entries, with 1 flushes.\nApply never stood still",
        "![Latency](a.svg)",
    ] {
        assert!(page.contains(expected), "{expected} is not in:\n{page}");
    }
    let prose = page.lines().filter(|line| !line.starts_with('|') && !line.starts_with('!'));
    assert!(prose.clone().all(|line| line.chars().count() <= 100), "{page}");
}

#[test]
fn what_was_not_counted_says_why() {
    let mut results = results(true);
    results.syncs[0].1 = Syncs::NotCounted("strace is not here".into());
    assert!(page(&results, &[]).contains("| lockstep | | | | not counted: strace is not here |"));
    assert!(syncs_line(System::Lockstep, &results.syncs[0].1).ends_with("not counted: strace is not here"));
    assert!(syncs_line(System::Etcd, &results.syncs[1].1).contains("357 syncs for 100 puts"));
}

#[test]
fn memory_is_shown_behind_the_largest_load_of_puts() {
    let mut results = results(true);
    results.loads.push(load("put", 256));
    results.loads.push(load("get", 1000));
    assert!(!is_shown(&results, &load("put", 64), Quantity::Resident));
    assert!(is_shown(&results, &load("put", 256), Quantity::Resident));
    assert!(!is_shown(&results, &load("get", 1000), Quantity::Resident));
    assert!(!is_shown(&results, &load("get", 1000), Quantity::BytesWritten));
}

#[test]
fn targets_look_in_the_direction_of_their_figure() {
    let more = Target::of(&load("get", 64), Quantity::CallsPerSecond).map(|target| target.reached_by(1.6));
    let less = Target::of(&load("get", 64), Quantity::Cpu).map(|target| target.reached_by(1.6));
    assert_eq!((more, less), (Some("must"), Some("no")));
    assert!(Target::of(&load("get", 65), Quantity::Cpu).is_none());
}

#[test]
fn a_failed_call_is_told_at_once() {
    let mut results = results(true);
    assert!(!line(&results.blocks[0]).contains("FAILED"));
    results.blocks[0].report.errors = [("UNAVAILABLE: gone".to_owned(), 3)].into();
    assert!(line(&results.blocks[0]).ends_with(", 3 FAILED"));
}
