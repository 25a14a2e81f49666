//! Runs the abuse at small size, and shows that it can detect harm: a planted case kills the node,
//! and must fail. Times are not judged, because they say nothing on a machine that does other work.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use lockstep_tests::abuse::{Judging, Options, json, named, rows, run};
use lockstep_tests::lockstep_binary;

/// The tests run whole clusters under attack, so only one runs at a time.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Cases that need little and that a node of any build withstands. `identify` is there for its
/// memory: a node that keeps what it is sent grows by far more than it may, on a slow machine, too.
const SMALL: [&str; 7] =
    ["foreign", "continuation", "rapid-reset", "failing-commands", "handshake-flood", "dripped-requests", "identify"];

fn small() -> Options {
    Options {
        program: lockstep_binary(),
        attacker: PathBuf::from(env!("CARGO_BIN_EXE_abuse")),
        calm: Duration::from_secs(2),
        attack: Duration::from_secs(3),
        judging: Judging::AllButTimes,
    }
}

#[test]
fn a_small_run_harms_nobody() -> Result<()> {
    let _turn = ONE_AT_A_TIME.blocking_lock();
    let cases: Vec<_> = SMALL.into_iter().map(|name| named(name).unwrap()).collect();
    let judged = run(&cases, &small(), |_| ())?;
    println!("{}", rows(&judged));
    assert!(judged.len() == SMALL.len() && judged.iter().all(|one| one.verdict.passed()), "{}", rows(&judged));
    Ok(())
}

#[test]
fn a_killed_node_is_noticed() -> Result<()> {
    let _turn = ONE_AT_A_TIME.blocking_lock();
    let judged = run(&[named("planted").unwrap()], &small(), |_| ())?;
    let wrong = judged[0].verdict.wrong.join("; ");
    assert!(wrong.contains("a process ended: node") && wrong.contains("signal: 9"), "{wrong}");
    assert!(wrong.contains("does not serve again"), "{wrong}");
    assert!(rows(&judged).contains("| planted | FAILED |"), "{}", rows(&judged));
    assert_eq!(json(&judged)[0]["passed"], false);
    let kept = judged[0].kept.as_ref().unwrap();
    assert!(kept.join("nodeA.log").is_file(), "{} has no logs", kept.display());
    Ok(std::fs::remove_dir_all(kept)?)
}
