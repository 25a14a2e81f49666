//! Guests other than the key-value one, on three real nodes: the hello world, the words of
//! raft-grpc-example, and the vote counter in C.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use lockstep_tests::{Cluster, Options, formed_of, lockstep, lockstep_binary};
use serde_json::{Value, json};

use crate::printed;

/// Returns the path of a golden component, which is kept for ever.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

async fn cluster_of(fsm: PathBuf) -> Result<Cluster> {
    formed_of(3, Options { fsm: Some(fsm), ..Options::member() }).await
}

/// Calls node `n` with `lockstep call`, as a user does.
fn call(cluster: &Cluster, n: usize, method: &str, request: Value) -> Result<Value> {
    let output = lockstep(&["call", &cluster.nodes[n].grpc_addr(), method, &request.to_string()])?;
    ensure!(output.status.success(), "{method}: {}", printed::stderr(&output));
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn refusal(cluster: &Cluster, n: usize, method: &str, request: Value) -> Result<String> {
    let output = lockstep(&["call", &cluster.nodes[n].grpc_addr(), method, &request.to_string()])?;
    ensure!(!output.status.success(), "{method} was not refused");
    Ok(String::from_utf8(output.stderr)?)
}

#[tokio::test]
async fn the_hello_world_counts_on_every_node() -> Result<()> {
    let cluster = cluster_of(golden("counter.wasm")).await?;
    for n in 0..3 {
        let reply = call(&cluster, n, "counter.v1.Counter/Add", json!({"amount": 2}))?;
        assert_eq!(reply["sum"], (2 * (n + 1)).to_string());
    }
    for n in 0..3 {
        assert_eq!(call(&cluster, n, "counter.v1.Counter/Get", json!({}))?["sum"], "6");
    }
    Ok(())
}

#[tokio::test]
async fn words_are_those_of_raft_grpc_example() -> Result<()> {
    let cluster = cluster_of(golden("words.wasm")).await?;
    for (n, word) in ["dog", "horse", "cat", "bee"].into_iter().enumerate() {
        let reply = call(&cluster, n % 3, "Example/AddWord", json!({"word": word}))?;
        let index: u64 = reply["commitIndex"].as_str().context("an index")?.parse()?;
        let read = call(&cluster, (n + 1) % 3, "Example/GetWords", json!({}))?;
        let read_at: u64 = read["readAtIndex"].as_str().context("an index")?.parse()?;
        assert!(read_at >= index, "{read_at} is before {index}");
    }
    for n in 0..3 {
        let read = call(&cluster, n, "Example/GetWords", json!({}))?;
        assert_eq!(read["bestWords"], json!(["horse", "bee", "cat"]));
    }
    let refused = refusal(&cluster, 0, "Example/AddWord", json!({"word": "x", "groupId": "g"}))?;
    assert!(refused.contains("NOT_FOUND"), "{refused}");
    Ok(())
}

fn runs(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Returns the guest in C.
/// It is built now if clang and its linker are installed. Otherwise it is the golden component.
fn tally(directory: &Path) -> Result<PathBuf> {
    if !(runs("clang") && runs("wasm-ld")) {
        eprintln!("notice: no clang or no wasm-ld here; the C guest is not built, its golden component is used");
        return Ok(golden("tally.wasm"));
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guests/tally/build.sh");
    let built = directory.join("tally.wasm");
    let output = Command::new(script).arg(&built).env("LOCKSTEP", lockstep_binary()).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "build.sh: {}", printed::stderr(&output));
    Ok(built)
}

#[tokio::test]
async fn a_guest_in_c_is_a_guest_like_any_other() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut cluster = cluster_of(tally(directory.path())?).await?;
    for n in 0..3 {
        let reply = call(&cluster, n, "tally.v1.Tally/Vote", json!({"name": "ann"}))?;
        assert_eq!(reply["votes"], (n + 1).to_string());
    }
    let refused = refusal(&cluster, 1, "tally.v1.Tally/Vote", json!({}))?;
    assert!(refused.contains("INVALID_ARGUMENT") && refused.contains("name is empty"), "{refused}");
    for n in 0..3 {
        cluster.nodes[n].kill()?;
    }
    for n in 0..3 {
        cluster.nodes[n].start().await?;
    }
    lockstep_tests::eventually("all nodes answer again", || async {
        for n in 0..3 {
            let count = call(&cluster, n, "tally.v1.Tally/Count", json!({"name": "ann"}))?;
            ensure!(count["votes"] == "3", "{count}");
        }
        Ok(())
    })
    .await
}
