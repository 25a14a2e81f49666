//! Checks the style of the project: what each file says first, how long files and lines get, and
//! which room may name which library.
#![allow(clippy::unwrap_used)]

#[path = "tidy/uses.rs"]
mod uses;

use std::path::{Path, PathBuf};
use std::process::Command;

/// Most lines of a source file. A longer file owns more than one thing.
const LINES_MAX: usize = 500;

/// Most columns of a line of Markdown or of a comment.
const COLUMNS_MAX: usize = 100;

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Returns every Rust file of the project: path from the checkout, and text.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> =
        ["client", "contract", "corpus", "fuzz", "host", "guest-sdk", "guests", "processes", "proto", "tests", "xtask"]
            .iter()
            .map(|room| checkout().join(room))
            .collect();
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

/// Returns every Markdown file that git knows: path from the checkout, and text.
fn pages() -> Vec<(String, String)> {
    let arguments = ["-c", "safe.directory=*", "ls-files", "-z", "--", "*.md"];
    let listed = Command::new("git").args(arguments).current_dir(checkout()).output().unwrap();
    assert!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).unwrap();
    let text = |name: &str| (name.to_owned(), std::fs::read_to_string(checkout().join(name)).unwrap());
    let found: Vec<_> = names.split_terminator('\0').map(text).collect();
    assert!(found.len() > 5, "the project has more pages than {}", found.len());
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
fn pages_have_short_lines() {
    let mut wide = Vec::new();
    for (name, text) in pages() {
        let mut is_code = false;
        for (number, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                is_code = !is_code;
            } else if !is_code && is_wide(line) && !line.starts_with('|') && can_be_broken(line) {
                wide.push(format!("{name}:{}", number + 1));
            }
        }
    }
    assert_none(&format!("lines of pages past {COLUMNS_MAX} columns"), wide);
}

#[test]
fn comments_have_short_lines() {
    let mut wide = Vec::new();
    for (name, text) in sources() {
        let mut is_drawing = false;
        for (number, line) in text.lines().enumerate() {
            let Some(comment) = line.trim_start().strip_prefix("//") else {
                is_drawing = false;
                continue;
            };
            if comment.trim_start_matches(['/', '!', ' ']).starts_with("```") {
                is_drawing = !is_drawing;
            } else if !is_drawing && is_wide(line) && !line.contains("://") {
                wide.push(format!("{name}:{}", number + 1));
            }
        }
    }
    assert_none(&format!("lines of comments past {COLUMNS_MAX} columns"), wide);
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

/// `println!` and the like panic when nobody reads what they print. In a node that would end the
/// task that prints.
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
        ("lockstep_client::", &["host/src/cli/"][..]),
        ("hyper::", &["host/src/net/"][..]),
        ("hyper_util::", &["host/src/net/"][..]),
        ("axum::", &["host/src/api/", "host/src/cli/reflection.rs", "host/src/net/server"][..]),
        (
            "openraft::",
            &[
                "host/src/raft/",
                "host/src/store/",
                "host/src/machine/",
                "host/src/group/",
                "host/src/node/",
                "host/src/types.rs",
                "host/src/cli/logging.rs",
            ][..],
        ),
        ("prometheus_client::", &["host/src/api/http/metrics"][..]),
        ("rcgen::", &["host/src/cli/tls/", "host/src/tls/made.rs", "host/src/trust/tokens_tests.rs"][..]),
        ("x509_parser::", &["host/src/tls/", "host/src/cli/tls/"][..]),
        ("bincode::", &["host/src/codec.rs"][..]),
        ("jsonwebtoken::", &["host/src/trust/"][..]),
        ("toml::", &["host/src/trust/", "host/src/cli/tls/"][..]),
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

/// Cargo only warns when no crate of the lock file is replaced any more.
#[test]
fn openraft_has_the_histograms_of_the_checkout() {
    let lock = std::fs::read_to_string(checkout().join("Cargo.lock")).unwrap();
    let entry = lock.split("[[package]]").find(|entry| entry.contains("name = \"base2histogram\"")).unwrap();
    assert!(!entry.contains("source = "), "{entry}");
}

#[test]
fn nothing_points_up() {
    let above: [(&str, &[&str]); 8] = [
        (
            "host/src/trust/",
            &["net", "store", "guest", "machine", "raft", "calls", "group", "api", "cli", "node", "config"],
        ),
        ("host/src/store/", &["net", "guest", "machine", "raft", "calls", "group", "api", "cli", "node", "config"]),
        ("host/src/net/", &["store", "guest", "machine", "raft", "calls", "group", "api", "cli", "node", "config"]),
        ("host/src/guest/", &["net", "store", "machine", "raft", "calls", "group", "api", "cli", "node", "config"]),
        ("host/src/machine/", &["net", "raft", "calls", "group", "api", "cli", "node", "config"]),
        ("host/src/raft/", &["calls", "group", "api", "cli", "node", "config"]),
        ("host/src/calls/", &["net", "store", "group", "api", "cli", "node", "config"]),
        ("host/src/group/", &["net", "api", "cli", "node", "config"]),
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

/// A call means the same whatever protocol brings it.
#[test]
fn calls_know_no_transport() {
    let transports = ["tonic", "axum", "http::", "hyper", "lockstep_proto"];
    let calls: Vec<_> = sources().into_iter().filter(|(name, _)| name.starts_with("host/src/calls/")).collect();
    assert!(calls.len() > 5, "the room has more files than {}", calls.len());
    let named = |text: &str| {
        transports.iter().find(|transport| code_lines(text).any(|line| line.contains(**transport))).copied()
    };
    let knowing =
        calls.iter().filter_map(|(name, text)| named(text).map(|transport| format!("{name} names {transport}")));
    assert_none("a call that knows a transport", knowing.collect());
}

/// A status is made of a call's end in one table, so that every service says the same.
#[test]
fn one_file_turns_the_end_of_a_call_into_a_status() {
    let ends = ["NotProposed::", "QueryError::", "ReadError::", "RoundError::"];
    let strays = sources()
        .into_iter()
        .filter(|(name, _)| name.starts_with("host/src/api/") && !name.starts_with("host/src/api/status"))
        .filter(|(_, text)| ends.iter().any(|end| code_lines(text).any(|line| line.contains(end))))
        .map(|(name, _)| name)
        .collect();
    assert_none("api/status.rs has the words for the end of a call", strays);
}

/// A circle makes its files one file: nobody can read, test or replace one without the others.
#[test]
fn modules_use_each_other_in_no_circle() {
    let inner = |name: &str| name.strip_prefix("host/src/").map(str::to_owned);
    let files: Vec<(String, String)> = sources()
        .into_iter()
        .filter(|(name, _)| !name.contains("test") && !name.contains("/template/") && !name.ends_with("/main.rs"))
        .filter_map(|(name, text)| Some((inner(&name)?, text)))
        .collect();
    let circles = uses::Uses::read(&files).circles();
    assert_none("modules that use each other in a circle", circles.iter().map(|circle| circle.join(" ")).collect());
}

fn is_wide(line: &str) -> bool {
    line.chars().count() > COLUMNS_MAX
}

/// Whether a line has a space at which it could end in time. A long link has none.
fn can_be_broken(line: &str) -> bool {
    line.chars().take(COLUMNS_MAX).any(|character| character == ' ')
}

fn code_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}
