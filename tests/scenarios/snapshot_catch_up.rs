//! A node that is too far behind gets a snapshot, through the guest's own snapshot and restore
//! functions.

use anyhow::{Result, ensure};
use lockstep_tests::pb::{SnapshotRequest, WatchRequest};
use lockstep_tests::{Cluster, Options, eventually, formed};

/// Limits so small that a follower is too far behind after a few hundred writes.
const TIGHT: [&str; 4] =
    ["--snapshot_threshold=50", "--snapshot_interval=1s", "--trailing_logs=10", "--trailing_entries_min=10"];

async fn write(cluster: &Cluster, n: usize, count: usize, value: &str) -> Result<()> {
    let mut client = cluster.nodes[n].client().await?;
    for k in 0..count {
        client.add(lockstep_tests::pb::AddRequest { key: format!("k{k}"), val: value.into() }).await?;
    }
    Ok(())
}

/// Waits until the leader's log no longer has `index`, so that only a snapshot can provide it.
async fn purged_past(cluster: &Cluster, leader: usize, index: u64) -> Result<()> {
    eventually("the log is purged", || async {
        let stat = cluster.nodes[leader].stat().await?;
        let purged = stat["raft"]["purged_index"].as_u64();
        ensure!(purged >= Some(index), "purged up to {purged:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_follower_too_far_behind_gets_a_snapshot_and_its_watchers_are_told() -> Result<()> {
    let mut cluster = formed(3, &TIGHT).await?;
    let leader = cluster.leader().await?;
    let follower = cluster.follower().await?;
    let index = cluster.add(leader, "before", "1").await?;
    cluster.nodes[follower].kill()?;
    write(&cluster, leader, 300, "v").await?;
    purged_past(&cluster, leader, index + 1).await?;
    cluster.nodes[follower].start().await?;
    let request = WatchRequest { key: "k299".into(), min_index: 0, timeout_seconds: 0 };
    let mut stream = cluster.nodes[follower].client().await?.watch(request).await?.into_inner();
    loop {
        let update = stream.message().await?.expect("the stream goes on");
        if update.value == "v" {
            break;
        }
    }
    for k in [0, 150, 299] {
        assert_eq!(cluster.get(follower, &format!("k{k}"), true).await?, "v");
    }
    let stat = cluster.nodes[follower].stat().await?;
    ensure!(stat["fsm"]["restore_count"].as_u64() >= Some(1), "it was restored: {stat}");
    // The node is still a full member: its restart needs no other node.
    cluster.nodes[follower].kill()?;
    cluster.nodes[follower].start().await?;
    cluster.everyone_reads("before", "1").await
}

#[tokio::test]
async fn a_joiner_gets_a_snapshot_when_the_log_is_gone() -> Result<()> {
    let mut cluster = formed(1, &TIGHT).await?;
    write(&cluster, 0, 300, "v").await?;
    purged_past(&cluster, 0, 5).await?;
    let n = cluster.push(Options { fsm: None, ..Options::member().with(&TIGHT) })?;
    cluster.nodes[n].start().await?;
    cluster.add_voter(n).await?;
    cluster.everyone_reads("k299", "v").await
}

#[tokio::test]
async fn a_snapshot_on_request_is_made_and_survives_a_restart() -> Result<()> {
    let mut cluster = formed(1, &[]).await?;
    write(&cluster, 0, 20, "v").await?;
    let operation = cluster.nodes[0].manager().await?.snapshot(SnapshotRequest {}).await?.into_inner();
    cluster.finish(0, operation).await?;
    let stat = cluster.nodes[0].stat().await?;
    ensure!(stat["fsm"]["snapshot_count"].as_u64() >= Some(1), "{stat}");
    cluster.nodes[0].kill()?;
    cluster.nodes[0].start().await?;
    assert_eq!(cluster.get(0, "k19", true).await?, "v");
    Ok(())
}
