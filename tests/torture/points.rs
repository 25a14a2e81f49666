//! Checks that the failpoints of the host are those that the torture knows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use lockstep_tests::torture::points::{BEFORE_CHANGE, BEFORE_ROLLBACK, CHANGE, CRASHES, ERRORS, OTHERS, ROLLBACK};

/// Returns the host's failpoints, each with how often the host uses it.
/// They are the names in `faults::point("…")`, `faults::io("…")` and the like.
fn in_the_host() -> Result<BTreeMap<String, usize>> {
    let mut found = BTreeMap::new();
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/src")];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let inside: std::io::Result<Vec<PathBuf>> = path.read_dir()?.map(|entry| Ok(entry?.path())).collect();
            open.extend(inside?);
        } else {
            let text = std::fs::read_to_string(&path)?;
            for call in text.split("faults::").skip(1) {
                let named = ["point(\"", "point_beside(\"", "io(\"", "is_set(\""]
                    .iter()
                    .find_map(|start| call.strip_prefix(start));
                if let Some(name) = named.and_then(|rest| rest.split('"').next()) {
                    *found.entry(name.to_owned()).or_default() += 1;
                }
            }
        }
    }
    Ok(found)
}

#[test]
fn every_point_of_the_host_is_struck_or_known_to_be_something_else() -> Result<()> {
    let host = in_the_host()?;
    assert!(!host.is_empty(), "the host has failpoints");
    let steps = || BEFORE_CHANGE.into_iter().chain(CHANGE).chain(BEFORE_ROLLBACK).chain(ROLLBACK);
    for (name, count) in &host {
        assert_eq!(*count, 1, "{name} stands once in the code");
        let known = CRASHES.iter().chain(ERRORS).any(|point| point.name == name)
            || steps().any(|step| step == name)
            || OTHERS.iter().any(|(other, _)| other == name);
        assert!(known, "{name} is neither a crash point of the torture nor listed beside them");
    }
    for name in CRASHES.iter().chain(ERRORS).map(|point| point.name).chain(steps()) {
        assert!(host.contains_key(name), "the host has no point {name}");
    }
    Ok(())
}
