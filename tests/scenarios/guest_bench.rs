//! `lockstep guest bench` measures realistic calls: commands that differ each time, and a state
//! like that of a node.

use std::path::Path;

use anyhow::{Result, ensure};
use lockstep_tests::{chain_wasm, kv_wasm, lockstep, medley_wasm};
use tempfile::tempdir;

use crate::printed;

fn bench(wasm: &Path, script: &str) -> Result<String> {
    let place = tempdir()?;
    let file = place.path().join("calls.jsonl");
    std::fs::write(&file, script)?;
    let (wasm, file) = (wasm.display().to_string(), file.display().to_string());
    let output = lockstep(&["guest", "bench", &wasm, "--script", &file])?;
    let text = printed::all(&output);
    ensure!(output.status.success(), "{text}");
    Ok(text)
}

#[test]
fn a_script_that_is_repeated_as_it_stands_is_named() -> Result<()> {
    let same = r#"{"method": "Example/Add", "request": {"key": "a", "val": "1"}}"#;
    let new = r#"{"method": "Example/Add", "request": {"key": "{{n}}", "val": "{{uuid}}"}}"#;
    let told = bench(&kv_wasm(), &format!("{new}\n{same}\n{new}\n"))?;
    ensure!(
        told.contains("warning: the script was run through up to") && told.contains("line 2 had the same"),
        "{told}"
    );
    let told = bench(&kv_wasm(), new)?;
    ensure!(!told.contains("warning") && told.contains("100.0%"), "{told}");
    Ok(())
}

/// The chain answers a write of an existing key with the record before it, so `version` shows
/// whether the key is new.
#[test]
fn a_number_makes_each_pass_another_command() -> Result<()> {
    let put = |key: &str| format!(r#"{{"method": "chain.Chain/Put", "request": {{"key": "{key}", "value": "v"}}}}"#);
    let place = tempdir()?;
    let file = place.path().join("calls.jsonl");
    let first = put("a{{n}}").replace("}}}", r#"}}, "reply": {"written": {"version": 1}}}"#);
    std::fs::write(&file, first)?;
    let (wasm, file) = (chain_wasm().display().to_string(), file.display().to_string());
    let output = lockstep(&["guest", "test", &wasm, "--script", &file])?;
    ensure!(output.status.success(), "{}", printed::stderr(&output));
    // A script must fit the guest in every pass.
    let flawed = r#"{"method": "medley.Medley/Act", "request": {"seed": "{{n}}000000000000000000"}}"#;
    std::fs::write(&file, flawed)?;
    let output = lockstep(&["guest", "bench", &medley_wasm().display().to_string(), "--script", &file])?;
    let told = printed::stderr(&output);
    ensure!(output.status.code() == Some(2) && told.contains("line 1, in pass 19: "), "{told}");
    Ok(())
}
