//! A copy of a node's data directory that is started beside its original. The copy is refused, both
//! nodes report it, and no acknowledged write is lost. The same directory started again is not a
//! copy, however its process ended.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lockstep_tests::{Cluster, Load, NodeProcess, Options, eventually, formed};

/// Copies the directory of a stopped node and makes a node for the copy, at addresses of its own.
fn copy_of(cluster: &Cluster, n: usize, place: &Path, more: &[&str]) -> Result<NodeProcess> {
    let node = &cluster.nodes[n];
    let copied = Command::new("cp").arg("-a").arg(node.data_dir.join(&node.name)).arg(place).status()?;
    ensure!(copied.success(), "cp failed");
    NodeProcess::new(&node.name, place, Options::member().with(more))
}

async fn is_disputed(node: &NodeProcess, log_says: &str) -> Result<()> {
    eventually("the copy says that it is one", || async {
        let (code, body) = node.http("/readyz").await?;
        let says = code == 503 && body.contains("mode is disputed") && body.contains("takes part as another process");
        ensure!(says && node.log().contains(log_says), "{code} {body}");
        Ok(())
    })
    .await
}

async fn original_says_so(node: &NodeProcess) -> Result<()> {
    eventually("the original says that it has a copy", || async {
        ensure!(node.log().contains("runs on a copy of this node's data directory"), "not yet");
        let (code, body) = node.http("/readyz").await?;
        ensure!(code == 200, "{body}");
        Ok(())
    })
    .await
}

/// The case of the issue: the leader adopted the copy's addresses and counted what the copy
/// acknowledged as the original's. When one more node was lost, sixty acknowledged writes were lost
/// with it.
async fn nothing_is_lost_beside_a_copy(of_leader: bool) -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let n = if of_leader { cluster.leader().await? } else { cluster.follower().await? };
    cluster.add(n, "before", "the copy").await?;
    cluster.nodes[n].stop().await?;
    let place = tempfile::tempdir()?;
    let mut copy = copy_of(&cluster, n, place.path(), &[])?;
    cluster.nodes[n].start().await?;
    eventually("the original is back", || cluster.everyone_reads("before", "the copy")).await?;
    if of_leader {
        cluster.hand_over(n).await?;
    }
    copy.start().await?;
    is_disputed(&copy, "takes no part").await?;
    original_says_so(&cluster.nodes[n]).await?;

    for write in 0..60 {
        let (key, value) = (format!("key{write}"), write.to_string());
        eventually("a write", || cluster.add(write % 3, &key, &value)).await?;
    }
    let known = cluster.nodes[n].status().await?["nodes"].clone();
    let own = cluster.nodes[n].raft_addr();
    let is_there = known.as_array().context("no members")?.iter().any(|node| node["addr"] == own.as_str());
    ensure!(is_there, "the copy's address is recorded: {known}");
    // One more node fails. If the copy's acknowledgements counted, writes would now be lost.
    let other = (0..3).find(|other| *other != n).context("three nodes")?;
    cluster.nodes[other].kill()?;
    for write in 0..60 {
        // The node that was killed may have led.
        let key = format!("key{write}");
        let value = eventually("a read", || cluster.get(n, &key, true)).await?;
        ensure!(value == write.to_string(), "write {write} is lost");
    }
    Ok(())
}

#[tokio::test]
async fn nothing_is_lost_beside_a_copy_of_a_follower() -> Result<()> {
    nothing_is_lost_beside_a_copy(false).await
}

#[tokio::test]
async fn nothing_is_lost_beside_a_copy_of_the_leader() -> Result<()> {
    nothing_is_lost_beside_a_copy(true).await
}

/// A copy that cannot see its original. It advertises the original's address, as a restored machine
/// of the same name does. The members refuse it: at its first start because of the number of
/// starts, and later because the original still answers.
#[tokio::test]
async fn a_copy_under_the_original_address_is_refused_by_the_members() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let n = cluster.follower().await?;
    cluster.nodes[n].stop().await?;
    let place = tempfile::tempdir()?;
    let advertised = format!("--raft_advertise_addr={}", cluster.nodes[n].raft_addr());
    let mut copy = copy_of(&cluster, n, place.path(), &[&advertised])?;
    cluster.nodes[n].start().await?;
    eventually("the original is back", || cluster.add(n, "key", "value")).await?;
    for start in 0..3 {
        copy.start().await?;
        is_disputed(&copy, "A COPY").await?;
        let value = start.to_string();
        eventually("the original writes", || cluster.add(n, "key", &value)).await?;
        copy.stop().await?;
    }
    eventually("the others read it", || cluster.everyone_reads("key", "2")).await?;
    eventually("the original is ready", || async {
        let (code, body) = cluster.nodes[n].http("/readyz").await?;
        ensure!(code == 200, "{body}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_directory_started_again_at_once_is_never_taken_for_a_copy() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let load = Load::start(&cluster, 2)?;
    for round in 0..12 {
        let n = if round % 2 == 0 { cluster.leader().await? } else { round % 3 };
        load.touch(&[n]);
        cluster.nodes[n].kill()?;
        cluster.nodes[n].start().await?;
        eventually("it serves again", || async {
            let (code, body) = cluster.nodes[n].http("/readyz").await?;
            ensure!(code == 200, "{body}");
            Ok(())
        })
        .await?;
    }
    load.touch(&[]);
    load.finish(&cluster).await?;
    for node in &cluster.nodes {
        let log = node.log();
        ensure!(!log.contains("a second process") && !log.contains("A COPY"), "{}: {}", node.name, node.last_words());
    }
    Ok(())
}
