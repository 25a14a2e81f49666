//! Common mistakes of new users. Each gets a clear message and the right exit code.

use std::path::Path;

use anyhow::{Result, ensure};
use lockstep_tests::{NodeProcess, Options, formed, lockstep};
use tempfile::tempdir;

/// Starts a node that must refuse to start, and returns what it prints.
async fn refusal(directory: &Path, options: Options) -> Result<String> {
    let mut node = NodeProcess::new("nodeA", directory, options)?;
    node.spawn()?;
    let status = node.wait_exit().await?;
    ensure!(!status.success(), "it started:\n{}", node.log());
    ensure!(status.code().is_some(), "it was killed: {status}");
    Ok(node.log())
}

fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "does not say {word:?}:\n{text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

#[tokio::test]
async fn no_fsm() -> Result<()> {
    let directory = tempdir()?;
    let text = refusal(directory.path(), Options { fsm: None, ..Options::bootstrap() }).await?;
    assert_says(&text, &["--fsm"]);
    Ok(())
}

#[tokio::test]
async fn a_missing_fsm_file() -> Result<()> {
    let directory = tempdir()?;
    let fsm = directory.path().join("none.wasm");
    let text = refusal(directory.path(), Options { fsm: Some(fsm.clone()), ..Options::bootstrap() }).await?;
    assert_says(&text, &["no file", "none.wasm"]);
    Ok(())
}

async fn with_fsm(bytes: &[u8]) -> Result<String> {
    let directory = tempdir()?;
    let fsm = directory.path().join("guest.wasm");
    std::fs::write(&fsm, bytes)?;
    refusal(directory.path(), Options { fsm: Some(fsm), ..Options::bootstrap() }).await
}

#[tokio::test]
async fn a_file_that_is_not_wasm() -> Result<()> {
    assert_says(&with_fsm(b"#!/bin/sh\necho hello\n").await?, &["guest.wasm", "not", "WebAssembly"]);
    Ok(())
}

#[tokio::test]
async fn an_empty_file() -> Result<()> {
    assert_says(&with_fsm(b"").await?, &["guest.wasm", "not", "WebAssembly"]);
    Ok(())
}

#[tokio::test]
async fn a_component_of_another_world() -> Result<()> {
    let component = wat::parse_str("(component)")?;
    assert_says(&with_fsm(&component).await?, &["lockstep:machine/machine"]);
    Ok(())
}

#[tokio::test]
async fn a_component_of_another_version() -> Result<()> {
    let component = wat::parse_str(r#"(component (import "lockstep:machine/store@2.0.0" (instance)))"#)?;
    assert_says(&with_fsm(&component).await?, &["lockstep:machine/store@2.0.0", "1.0.0"]);
    Ok(())
}

#[tokio::test]
async fn a_forbidden_import_is_named() -> Result<()> {
    let component = wat::parse_str(r#"(component (import "wasi:clocks/wall-clock@0.2.0" (instance)))"#)?;
    assert_says(&with_fsm(&component).await?, &["wasi:clocks/wall-clock@0.2.0", "wasm32-unknown-unknown"]);
    let module = wat::parse_str(r#"(module (import "wasi_snapshot_preview1" "fd_write" (func)))"#)?;
    assert_says(&with_fsm(&module).await?, &["wasi_snapshot_preview1", "wasm32-unknown-unknown"]);
    Ok(())
}

#[tokio::test]
async fn a_port_that_is_taken() -> Result<()> {
    let directory = tempdir()?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let flag = format!("--grpc_addr={address}");
    let output = node_output(directory.path(), &[&flag, "--raft_addr=127.0.0.1:0"])?;
    assert_says(&output, &[&address, "grpc_addr", "taken"]);
    Ok(())
}

/// Returns the output of a bootstrap start that ends by itself.
fn node_output(directory: &Path, more: &[&str]) -> Result<String> {
    let directory = directory.display().to_string();
    let fsm = lockstep_tests::kv_wasm().display().to_string();
    let mut arguments =
        vec!["node", "--raft_bootstrap", "--raft_id=nodeA", "--raft_data_dir", &directory, "--fsm", &fsm];
    arguments.extend(more);
    let output = lockstep(&arguments)?;
    ensure!(!output.status.success(), "it started");
    Ok(String::from_utf8(output.stderr)?)
}

#[tokio::test]
async fn a_non_loopback_address_without_insecure() -> Result<()> {
    let directory = tempdir()?;
    let text = node_output(directory.path(), &["--grpc_addr=192.0.2.1:40051", "--raft_addr=localhost:0"])?;
    assert_says(&text, &["192.0.2.1:40051", "--insecure"]);
    Ok(())
}

#[tokio::test]
async fn an_unspecified_address_without_an_advertised_one() -> Result<()> {
    let directory = tempdir()?;
    let text = node_output(directory.path(), &["--insecure", "--grpc_addr=0.0.0.0:0", "--raft_addr=localhost:0"])?;
    assert_says(&text, &["0.0.0.0", "--grpc_advertise_addr"]);
    Ok(())
}

#[tokio::test]
async fn a_data_directory_in_use() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let text = node_output(cluster.directory(), &["--grpc_addr=127.0.0.1:0", "--raft_addr=127.0.0.1:0"])?;
    assert_says(&text, &["nodeA", "in use"]);
    cluster.add(0, "still", "works").await?;
    Ok(())
}

#[tokio::test]
async fn a_data_directory_of_another_node() -> Result<()> {
    let mut cluster = formed(1, &[]).await?;
    cluster.nodes[0].kill()?;
    std::fs::rename(cluster.directory().join("nodeA"), cluster.directory().join("nodeB"))?;
    let directory = cluster.directory().display().to_string();
    let output = lockstep(&[
        "node",
        "--raft_id=nodeB",
        "--raft_data_dir",
        &directory,
        "--grpc_addr=127.0.0.1:0",
        "--raft_addr=127.0.0.1:0",
    ])?;
    assert!(!output.status.success());
    assert_says(&String::from_utf8(output.stderr)?, &["nodeA", "nodeB"]);
    Ok(())
}

#[tokio::test]
async fn a_data_directory_that_was_copied_in_from_another_cluster() -> Result<()> {
    let mut cluster = formed(2, &[]).await?;
    let mut foreign = formed(2, &[]).await?;
    cluster.nodes[1].kill()?;
    foreign.nodes[1].kill()?;
    let (own, other) = (cluster.directory().join("nodeB"), foreign.directory().join("nodeB"));
    std::fs::remove_dir_all(&own)?;
    std::fs::rename(other, &own)?;
    cluster.nodes[1].start().await?;
    lockstep_tests::eventually("the leader is told", || async {
        let logs = format!("{}{}", cluster.nodes[0].log(), cluster.nodes[1].log());
        ensure!(logs.contains("cluster"), "{logs}");
        let stat = cluster.nodes[1].stat().await?;
        ensure!(stat["raft"]["state"] != "Leader", "{stat}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_write_without_a_leader_is_unavailable_after_a_bounded_wait() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let leader = cluster.leader().await?;
    let survivor = (leader + 1) % 3;
    for n in (0..3).filter(|n| *n != survivor) {
        cluster.nodes[n].kill()?;
    }
    let request = lockstep_tests::pb::AddRequest { key: "k".into(), val: "v".into() };
    let answer =
        tokio::time::timeout(std::time::Duration::from_secs(30), cluster.nodes[survivor].client().await?.add(request))
            .await?;
    let status = answer.unwrap_err();
    assert!(matches!(status.code(), tonic::Code::Unavailable | tonic::Code::DeadlineExceeded), "{status:?}");
    // At the second call it is certain that there is no leader.
    let request = lockstep_tests::pb::AddRequest { key: "k".into(), val: "v".into() };
    let status = cluster.nodes[survivor].client().await?.add(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
    assert!(status.message().contains("leader"), "{status:?}");
    assert_eq!(cluster.get(survivor, "k", false).await?, "", "local reads need no leader");
    Ok(())
}
