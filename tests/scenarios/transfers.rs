//! Snapshot transfers: either end is killed, the link is slow, the install is slow, or the log
//! grows meanwhile.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use anyhow::{Context, Result, ensure};
use lockstep_tests::pb::{AddNonvoterRequest, AddRequest};
use lockstep_tests::{Cluster, NodeProcess, Options, eventually, formed, lockstep_binary, noise};
use serde_json::Value;

/// Limits so small that a follower is too far behind after a few hundred writes, and a rate so low
/// that a few MiB take seconds.
const TIGHT_AND_SLOW: [&str; 5] = [
    "--snapshot_threshold=50",
    "--snapshot_interval=500ms",
    "--trailing_logs=10",
    "--trailing_entries_min=10",
    "--snapshot_rate_limit=512KiB",
];

/// Writes `count` values of 16 KiB each.
async fn write_large(cluster: &Cluster, n: usize, count: u64) -> Result<()> {
    let mut client = cluster.nodes[n].client().await?;
    for k in 0..count {
        client.add(AddRequest { key: format!("large{k}"), val: noise(k, 16 << 10) }).await?;
    }
    Ok(())
}

async fn status(node: &NodeProcess) -> Result<Value> {
    Ok(serde_json::from_str(&node.http("/status").await?.1)?)
}

/// Waits until the node is in the middle of a transfer and returns the snapshot's index.
async fn in_the_middle(node: &NodeProcess, direction: &str) -> Result<u64> {
    eventually("a snapshot is on its way", || async {
        let status = status(node).await?;
        let transfers = status["transfers"].as_array().context("no transfers")?;
        let found = transfers.iter().find(|transfer| transfer["direction"] == direction);
        let found = found.with_context(|| format!("none is {direction}: {status}"))?;
        ensure!(found["bytes"].as_u64() > Some(0) && found["index"].as_u64() > Some(0), "not begun: {found}");
        found["index"].as_u64().context("no index")
    })
    .await
}

async fn purged_past(cluster: &Cluster, leader: usize, index: u64) -> Result<()> {
    eventually("the log is purged", || async {
        let purged = status(&cluster.nodes[leader]).await?["raft"]["purged_index"].as_u64();
        ensure!(purged >= Some(index), "purged up to {purged:?}");
        Ok(())
    })
    .await
}

/// Returns the number of states on the node's disk.
fn generations(node: &NodeProcess) -> Result<usize> {
    let root = node.data_dir.join(&node.name).join("state/0");
    let names = std::fs::read_dir(root)?.map(|entry| entry.unwrap().file_name());
    Ok(names.filter(|name| name != "CURRENT").count())
}

async fn caught_up(cluster: &Cluster, n: usize) -> Result<()> {
    eventually("it has what the leader has", || async {
        let stat = status(&cluster.nodes[n]).await?;
        ensure!(stat["fsm"]["restore_count"].as_u64() >= Some(1) && stat["mode"] == "serving", "{stat}");
        ensure!(stat["transfers"].as_array().is_some_and(Vec::is_empty), "{stat}");
        Ok(())
    })
    .await?;
    eventually("the state before it is gone", || async {
        let states = generations(&cluster.nodes[n])?;
        ensure!(states == 1, "{states} states");
        Ok(())
    })
    .await?;
    cluster.everyone_reads("large0", &noise(0, 16 << 10)).await
}

#[tokio::test]
async fn a_receiver_that_dies_in_the_middle_leaves_nothing_and_begins_anew() -> Result<()> {
    let mut cluster = formed(1, &TIGHT_AND_SLOW).await?;
    write_large(&cluster, 0, 400).await?;
    purged_past(&cluster, 0, 5).await?;
    let joiner = cluster.push(Options { fsm: None, ..Options::member() })?;
    cluster.nodes[joiner].start().await?;
    let request = AddNonvoterRequest {
        id: cluster.nodes[joiner].name.clone(),
        address: cluster.nodes[joiner].raft_addr(),
        previous_index: 0,
    };
    let operation = cluster.nodes[0].manager().await?.add_nonvoter(request).await?.into_inner();
    cluster.finish(0, operation).await?;
    for _ in 0..2 {
        in_the_middle(&cluster.nodes[joiner], "receiving").await?;
        cluster.nodes[joiner].kill()?;
        cluster.nodes[joiner].start().await?;
        // The active state, and perhaps one of the next attempt. A third one would be left over
        // from the attempt that was killed.
        ensure!(generations(&cluster.nodes[joiner])? <= 2, "leftovers");
    }
    caught_up(&cluster, joiner).await?;
    cluster.nodes[joiner].has_logged(&["a snapshot is received"]).await
}

#[tokio::test]
async fn a_sender_that_dies_in_the_middle_is_replaced_and_the_next_begins_anew() -> Result<()> {
    let mut cluster = formed(3, &TIGHT_AND_SLOW).await?;
    let (leader, follower) = (cluster.leader().await?, cluster.follower().await?);
    let other = (0..3).find(|n| *n != leader && *n != follower).context("three nodes")?;
    cluster.nodes[follower].kill()?;
    write_large(&cluster, leader, 400).await?;
    for n in [leader, other] {
        purged_past(&cluster, n, 100).await?;
    }
    cluster.nodes[follower].start().await?;
    in_the_middle(&cluster.nodes[leader], "sending").await?;
    in_the_middle(&cluster.nodes[follower], "receiving").await?;
    cluster.nodes[leader].kill()?;
    in_the_middle(&cluster.nodes[other], "sending").await?;
    caught_up(&cluster, follower).await?;
    cluster.nodes[leader].start().await?;
    cluster.add(follower, "after", "1").await?;
    cluster.everyone_reads("after", "1").await
}

/// A running writer.
struct Writing {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    writer: tokio::task::JoinHandle<Result<()>>,
}

/// Writes as fast as one client can, until it is told to stop.
async fn keep_writing(cluster: &Cluster, n: usize) -> Result<Writing> {
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut client = cluster.nodes[n].client().await?;
    let (stopping, count) = (stop.clone(), written.clone());
    let writer = tokio::spawn(async move {
        while !stopping.load(Relaxed) {
            let k = count.load(Relaxed);
            client.add(AddRequest { key: format!("k{}", k % 100), val: k.to_string() }).await?;
            count.fetch_add(1, Relaxed);
        }
        Ok(())
    });
    Ok(Writing { stop, written, writer })
}

#[tokio::test]
async fn a_joiner_that_needs_longer_than_the_trailing_logs_last_still_joins() -> Result<()> {
    let mut cluster = formed(1, &TIGHT_AND_SLOW).await?;
    write_large(&cluster, 0, 400).await?;
    purged_past(&cluster, 0, 100).await?;
    let Writing { stop, written, writer } = keep_writing(&cluster, 0).await?;
    let joiner = cluster.push(Options { fsm: None, ..Options::member().with(&TIGHT_AND_SLOW) })?;
    cluster.nodes[joiner].start().await?;
    let before = written.load(Relaxed);
    let (added, index) = tokio::join!(cluster.add_voter(joiner), in_the_middle(&cluster.nodes[joiner], "receiving"));
    added?;
    let index = index?;
    let during = written.load(Relaxed) - before;
    ensure!(during > 200, "only {during} commands came meanwhile, that is no test");
    stop.store(true, Relaxed);
    writer.await??;
    // One snapshot was enough, because the log after it was kept.
    let metrics = cluster.nodes[0].http("/metrics").await?.1;
    ensure!(metrics.contains("lockstep_snapshots_sent_total 1\n"), "{metrics}");
    caught_up(&cluster, joiner).await?;
    // The entries that were kept for the new node are purged some time later.
    ensure!(status(&cluster.nodes[0]).await?["raft"]["purged_index"].as_u64() <= Some(index), "it was needed");
    Ok(())
}

#[tokio::test]
async fn a_terminal_shows_how_far_a_transfer_is_while_admin_waits() -> Result<()> {
    let mut cluster = formed(1, &TIGHT_AND_SLOW).await?;
    write_large(&cluster, 0, 600).await?;
    purged_past(&cluster, 0, 5).await?;
    let joiner = cluster.push(Options { fsm: None, ..Options::member() })?;
    cluster.nodes[joiner].start().await?;
    let (name, address) = (cluster.nodes[joiner].name.clone(), cluster.nodes[joiner].raft_addr());
    let (lockstep, leader) = (lockstep_binary(), cluster.nodes[0].grpc_addr());
    let command = format!("{} admin {leader} add_voter {name} {address}", lockstep.display());
    let shown =
        tokio::process::Command::new("script").args(["-qec", &command, "/dev/null"]).stdin(Stdio::null()).output();
    let Ok(shown) = shown.await else {
        eprintln!("skipped: there is no `script` here to play a terminal");
        return Ok(());
    };
    let text = String::from_utf8(shown.stdout)?;
    ensure!(shown.status.success() && text.contains(&format!("sending a snapshot to {name}: ")), "{text}");
    cluster.nodes[0].has_logged(&["a snapshot is on its way"]).await.context("the log says it, too")
}

/// openraft issue 2116: fast writes, a small threshold, a slow install, and a second snapshot soon
/// after, from another leader.
#[tokio::test]
async fn a_second_snapshot_during_a_slow_install_harms_nobody() -> Result<()> {
    let mut cluster = Cluster::new()?;
    let slow = |options: Options| options.with(&TIGHT_AND_SLOW[..4]).with_failpoints();
    let first = cluster.push(slow(Options::bootstrap()))?;
    cluster.nodes[first].start().await?;
    for _ in 0..2 {
        let n = cluster.push(slow(Options::member()))?;
        cluster.nodes[n].start().await?;
        cluster.add_voter(n).await?;
    }
    let (leader, follower) = (cluster.leader().await?, cluster.follower().await?);
    let other = (0..3).find(|n| *n != leader && *n != follower).context("three nodes")?;
    cluster.nodes[follower].kill()?;
    // With fewer than 50 commands after the last snapshot no further one is made.
    write_large(&cluster, leader, 150).await?;
    for n in [leader, other] {
        purged_past(&cluster, n, 50).await?;
    }
    cluster.nodes[follower].fail_at(&["snapshot-install=1*sleep(6000)"])?;
    cluster.nodes[follower].start().await?;
    eventually("the install has begun", || async {
        let log = cluster.nodes[follower].log();
        ensure!(log.contains("a snapshot is received"), "{log}");
        Ok(())
    })
    .await?;
    // Its leader is killed. The next leader, whose log grows meanwhile, has a snapshot of its own.
    cluster.nodes[leader].kill()?;
    eventually("a new leader", || async { cluster.add(other, "new", "leader").await }).await?;
    write_large(&cluster, other, 200).await?;
    caught_up(&cluster, follower).await?;
    ensure!(cluster.nodes[follower].running(), "{}", cluster.nodes[follower].log());
    cluster.add(follower, "after", "1").await?;
    cluster.everyone_reads("after", "1").await
}

#[tokio::test]
async fn a_node_whose_raft_core_has_stopped_ends_with_the_reason() -> Result<()> {
    let mut cluster = Cluster::new()?;
    for options in [Options::bootstrap(), Options::member(), Options::member()] {
        let n = cluster.push(options.with_failpoints())?;
        cluster.nodes[n].start().await?;
        if n > 0 {
            cluster.add_voter(n).await?;
        }
    }
    let (leader, follower) = (cluster.leader().await?, cluster.follower().await?);
    cluster.nodes[follower].fail_now(&["raft-core=panic"]).await?;
    cluster.add(leader, "key", "value").await?;
    let status = cluster.nodes[follower].wait_exit().await?;
    let log = cluster.nodes[follower].log();
    ensure!(status.code() == Some(1) && log.contains("fatal: this node stops reason=Raft's core"), "{status}: {log}");
    cluster.nodes[follower].fail_at(&[])?;
    cluster.nodes[follower].start().await?;
    cluster.everyone_reads("key", "value").await
}

#[tokio::test]
async fn a_node_that_lost_its_snapshots_makes_one_at_its_start() -> Result<()> {
    let mut cluster = formed(1, &TIGHT_AND_SLOW[..4]).await?;
    write_large(&cluster, 0, 100).await?;
    purged_past(&cluster, 0, 20).await?;
    cluster.nodes[0].stop().await?;
    let snapshots = cluster.nodes[0].data_dir.join(&cluster.nodes[0].name).join("snapshots");
    std::fs::remove_dir_all(&snapshots)?;
    cluster.nodes[0].start().await?;
    ensure!(made(&snapshots)? >= 1, "a purged log needs a snapshot before it");
    cluster.everyone_reads("large99", &noise(99, 16 << 10)).await?;
    // That snapshot can be sent to another node.
    let joiner = cluster.push(Options { fsm: None, ..Options::member() })?;
    cluster.nodes[joiner].start().await?;
    cluster.add_voter(joiner).await?;
    caught_up(&cluster, joiner).await
}

#[tokio::test]
async fn a_log_past_its_quota_is_an_alarm_and_is_shortened() -> Result<()> {
    let cluster = formed(1, &["--log_quota=256KiB", "--snapshot_interval=1h"]).await?;
    write_large(&cluster, 0, 100).await?;
    // Far fewer commands and entries are kept than without the quota.
    purged_past(&cluster, 0, 50).await?;
    eventually("the log is within its quota again", || async {
        let metrics = cluster.nodes[0].http("/metrics").await?.1;
        ensure!(metrics.contains("lockstep_raft_log_over_quota 0\n"), "{metrics}");
        let bytes = status(&cluster.nodes[0]).await?["raft"]["log_bytes"].as_u64();
        ensure!(bytes.is_some_and(|bytes| bytes <= 256 << 10), "{bytes:?}");
        Ok(())
    })
    .await?;
    cluster.nodes[0].has_logged(&["larger than its quota"]).await?;
    cluster.everyone_reads("large99", &noise(99, 16 << 10)).await
}

fn made(snapshots: &Path) -> Result<usize> {
    Ok(std::fs::read_dir(snapshots.join("0"))?.count())
}
