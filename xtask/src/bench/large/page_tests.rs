//! Tests of the page, of the raw results, and of what a figure reaches.

use super::*;
use crate::bench::large::results::tests::results;

/// Returns the row of the table that begins with this.
fn row_of<'a>(table: &'a str, begin: &str) -> &'a str {
    table.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("no row {begin} in:\n{table}"))
}

#[test]
fn a_figure_between_two_ends_reaches_what_both_reach() {
    for (ends, expected) in [
        ((0.2, 0.9), "goal"),
        ((0.2, 1.1), "must"),
        ((4.0, 5.0), "must"),
        ((4.0, 5.1), "not resolved"),
        ((0.0, 9.0), "not resolved"),
        ((5.1, 9.0), "no"),
        ((f64::NAN, f64::NAN), "no"),
    ] {
        assert_eq!(reached(ends, STOP_MS), expected, "{ends:?}");
    }
}

#[test]
fn every_figure_has_its_bounds_and_is_judged() {
    let table = figures(&results());
    let stop = "| longest stop of apply by a flush or a snapshot; put, 64 clients";
    assert_eq!(
        row_of(&table, &format!("{stop} at 2000")),
        format!("{stop} at 2000 calls/s |  |  | 2.00 to 4.00 ms | <= 5 | <= 1 | must |")
    );
    assert!(row_of(&table, &format!("{stop} as fast")).ends_with("| 4.00 to 9.00 ms | <= 5 | <= 1 | not resolved |"));
    assert_eq!(
        row_of(&table, "| restart behind SIGKILL"),
        "| restart behind SIGKILL until ready |  |  | 4.50 (4.00 to 5.00) s | <= 3 | <= 1 | no |"
    );
    assert!(row_of(&table, "| restart behind SIGTERM").ends_with("| 0.90 s | <= 3 | <= 1 | goal |"));
    let put = "| server CPU of a put among 10000000 keys against 10000,";
    assert_eq!(
        row_of(&table, &format!("{put} during")),
        "| server CPU of a put among 10000000 keys against 10000, during the load | 125 (100 to 150) us | 90.0 (80.0 to 100) us \
         | 1.38 (1.25 to 1.50) | <= 1.3 | <= 1.1 | no |"
    );
    assert!(row_of(&table, &format!("{put} until")).ends_with("| 2.75 (2.50 to 3.00) | <= 1.3 | <= 1.1 | no |"));
    let received = "| 2.20 (2.00 to 2.40) s | 2.00 s | 1.10 (1.00 to 1.20) | <= 2 | <= 1.2 | goal |";
    assert!(row_of(&table, "| snapshot received").ends_with(received), "{table}");
    assert!(row_of(&table, "| a new node").ends_with("| 2.75 (2.50 to 3.00) | <= 2 | <= 1.2 | no |"), "{table}");
}

#[test]
fn the_page_tells_conditions_states_and_every_run() {
    let page = page(&results());
    for expected in [
        "# Lockstep with a large state, 2026-01-31\n",
        "| commit | 0123456789ab |",
        "| etcd | not measured |",
        "| puts among many keys | 10000000 | 2.00 | 3000 |",
        "The last state was to have 1074 MB of keys and values.",
        "| put, 64 clients at 2000 calls/s | 9000 | 1.10 (1.00 to 4.00) | 12 | 2.00 to 4.00 | 3 | 0.50 to 2.50 |",
        "| SIGKILL | 4.00 | 100123 | 900 |",
        "| 2.00 | 100 | 100 | 1000 | 200 | 200 |",
        "| 2 | 2.00 | 2.40 | 6.00 | 1100 |",
        "Calls that failed in all blocks and runs: 0.",
    ] {
        assert!(page.contains(expected), "{expected} is not in:\n{page}");
    }
    let prose = page.lines().filter(|line| !line.starts_with('|'));
    assert!(prose.clone().all(|line| line.chars().count() <= 100), "{page}");
}

#[test]
fn every_row_has_the_cells_of_its_head() {
    let page = page(&results());
    let mut cells = None;
    for line in page.lines() {
        let bars = line.starts_with('|').then(|| line.matches('|').count());
        assert!(cells.is_none() || bars.is_none() || cells == bars, "{line}");
        cells = bars;
    }
}

#[test]
fn both_files_are_written_and_the_raw_results_are_json() {
    let out = tempfile::tempdir().unwrap();
    let names = write(&results(), out.path()).unwrap();
    assert_eq!(names, ["2026-01-31-0123456789ab-large.md", "2026-01-31-0123456789ab-large.json"]);
    let raw: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(out.path().join(&names[1])).unwrap()).unwrap();
    assert_eq!(raw["conditions"]["commit"], "0123456789ab");
    assert_eq!(raw["many"]["rows"], 10_000_000);
    assert_eq!(raw["blocks"][1]["size"], "many");
    assert_eq!(raw["watched"][0]["stops"]["near_flushes"]["at_most_ms"], 4.0);
    assert_eq!(raw["restarts"][0]["end"], "killed");
    assert_eq!(raw["joins"][0]["newcomer"]["bytes_seen"], 1_100_000_000);
}
