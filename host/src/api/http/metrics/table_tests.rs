//! Tests of the table: the page in `docs/` is made of it, and names and help keep their form.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::*;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");

fn page() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         A node serves these at `/metrics` of its `--http_addr`, as OpenMetrics text for Prometheus. Every\n\
         name begins with `lockstep_`, and the name of a counter ends with `_total`. A test compares this\n\
         page with the table that serves them.\n\n\
         | name | kind | labels | meaning |\n|---|---|---|---|\n",
    );
    for row in ROWS {
        let (kind, ending) = match row.kind {
            MetricType::Counter => ("counter", "_total"),
            MetricType::Histogram => ("histogram", ""),
            _ => ("gauge", ""),
        };
        writeln!(text, "| `lockstep_{}{ending}` | {kind} | {} | {} |", row.name, row.labels, row.help).unwrap();
    }
    text
}

/// With `LOCKSTEP_WRITE_PAGES=1` it writes the page instead of comparing it.
#[test]
fn the_page_is_the_table() {
    if std::env::var_os("LOCKSTEP_WRITE_PAGES").is_some() {
        std::fs::write(PAGE, page()).unwrap();
    }
    let found = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert_eq!(found, page(), "LOCKSTEP_WRITE_PAGES=1 cargo xtask test --lib the_page_is_the_table writes it anew");
}

#[test]
fn names_are_unique_and_help_is_one_line() {
    let names: BTreeSet<_> = ROWS.iter().map(|row| row.name).collect();
    assert_eq!(names.len(), ROWS.len());
    for row in ROWS {
        assert!(row.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{}", row.name);
        assert!(!row.help.is_empty() && !row.help.contains(['\n', '|']) && !row.help.ends_with('.'), "{}", row.name);
    }
}
