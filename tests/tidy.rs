//! Checks the style of the sources: what each file begins with, how long it is, and which directory
//! may name which library.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

/// Most lines of a source file. A longer file usually has a second responsibility.
const LINES_MAX: usize = 500;

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Returns every Rust file of the project: path from the checkout, and text.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> =
        ["host", "guest-sdk", "guests", "tests", "xtask"].iter().map(|room| checkout().join(room)).collect();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(checkout()).unwrap().display().to_string();
            found.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(found.len() > 50, "the project has more files than {}", found.len());
    found
}

fn assert_none(what: &str, offenders: Vec<String>) {
    assert!(offenders.is_empty(), "{what}:\n  {}", offenders.join("\n  "));
}

#[test]
fn every_file_says_what_it_owns() {
    let silent = sources().into_iter().filter(|(_, text)| !text.starts_with("//! ")).map(|(name, _)| name).collect();
    assert_none("the first line of a file is `//! ` and what it owns", silent);
}

#[test]
fn files_stay_readable() {
    let long =
        sources().into_iter().filter(|(_, text)| text.lines().count() > LINES_MAX).map(|(name, _)| name).collect();
    assert_none(&format!("files past {LINES_MAX} lines"), long);
}

#[test]
fn nothing_is_left_open() {
    let marks =
        ["todo!(", "unimplemented!(", "dbg!(", concat!("FIX", "ME"), concat!("TO", "DO"), concat!("#[ig", "nore]")];
    let left = sources()
        .into_iter()
        .filter(|(name, _)| name != "tests/tidy.rs")
        .filter(|(_, text)| marks.iter().any(|mark| text.contains(mark)))
        .map(|(name, _)| name)
        .collect();
    assert_none("left open in the code", left);
}

/// `println!` and similar macros panic when their output cannot be written. In a node they would
/// end the task that prints.
#[test]
fn nothing_is_printed_in_a_way_that_panics() {
    let printing = sources()
        .into_iter()
        .filter(|(name, _)| name.starts_with("host/src/") && !name.contains("test"))
        .filter(|(_, text)| code_lines(text).any(|line| line.contains("print!(") || line.contains("println!(")))
        .map(|(name, _)| name)
        .collect();
    assert_none("prints with a macro; cli/report.rs has print_line and print_notice", printing);
}

#[test]
fn each_foreign_library_has_one_home() {
    let homes = [
        ("wasmtime::", &["host/src/guest/"][..]),
        ("rocksdb::", &["host/src/store/"][..]),
        ("tonic::", &["host/src/api/", "host/src/raft/", "host/src/cli/", "host/src/codec.rs"][..]),
        ("clap::", &["host/src/cli/"][..]),
        ("bincode::", &["host/src/codec.rs"][..]),
    ];
    for (library, rooms) in homes {
        let strays = sources()
            .into_iter()
            .filter(|(name, _)| name.starts_with("host/src/") && !rooms.iter().any(|room| name.starts_with(room)))
            .filter(|(_, text)| code_lines(text).any(|line| line.contains(library)))
            .map(|(name, _)| name)
            .collect();
        assert_none(&format!("{library} outside of {rooms:?}"), strays);
    }
}

#[test]
fn nothing_points_up() {
    let above: [(&str, &[&str]); 5] = [
        ("host/src/store/", &["net", "guest", "machine", "raft", "api", "cli", "node", "config"]),
        ("host/src/net/", &["store", "guest", "machine", "raft", "api", "cli", "node", "config"]),
        ("host/src/guest/", &["net", "store", "machine", "raft", "api", "cli", "node", "config"]),
        ("host/src/machine/", &["net", "raft", "api", "cli", "node", "config"]),
        ("host/src/raft/", &["api", "cli", "node", "config"]),
    ];
    for (room, forbidden) in above {
        let uses = |text: &str| {
            let named = |name: &&str| code_lines(text).any(|line| line.contains(&format!("crate::{name}::")));
            forbidden.iter().find(|name| named(name)).copied()
        };
        let pointing = sources()
            .into_iter()
            .filter(|(name, _)| name.starts_with(room) && !name.contains("test"))
            .filter_map(|(name, text)| uses(&text).map(|up| format!("{name} uses {up}")))
            .collect();
        assert_none("a room that knows what is above it", pointing);
    }
}

fn code_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}
