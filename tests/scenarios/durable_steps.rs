//! Durable steps that fail or crash on a leader: no acknowledged write is lost, the node says why
//! it ended, and a restart repairs it. A full disk for the state or a checkpoint ends no node.

use anyhow::{Result, ensure};
use lockstep_tests::{Cluster, Options, eventually};

const FLAGS: [&str; 4] =
    ["--snapshot_threshold=20", "--snapshot_interval=1s", "--trailing_logs=5", "--trailing_entries_min=5"];

async fn formed() -> Result<Cluster> {
    let mut cluster = Cluster::new()?;
    let first = cluster.push(Options::bootstrap().with_failpoints().with(&FLAGS))?;
    cluster.nodes[first].start().await?;
    for _ in 1..3 {
        let n = cluster.push(Options::member().with_failpoints().with(&FLAGS))?;
        cluster.nodes[n].start().await?;
        cluster.add_voter(n).await?;
    }
    cluster.add(0, "first", "1").await?;
    Ok(cluster)
}

/// Writes through the other nodes until node `n` has ended.
/// Returns the acknowledged keys and whether the node exited with success.
async fn write_until_it_ends(cluster: &mut Cluster, n: usize) -> Result<(Vec<String>, bool)> {
    let mut acknowledged = Vec::new();
    for count in 0.. {
        if cluster.nodes[n].has_ended()? {
            break;
        }
        let key = format!("k{count}");
        if cluster.add((n + 1 + count % 2) % 3, &key, "v").await.is_ok() {
            acknowledged.push(key);
        }
    }
    let status = cluster.nodes[n].wait_exit().await?;
    Ok((acknowledged, status.success()))
}

async fn everything_is_there(cluster: &Cluster, keys: &[String]) -> Result<()> {
    for n in 0..3 {
        for key in keys {
            let value = eventually("a read", || cluster.get(n, key, true)).await?;
            assert_eq!(value, "v", "{key} at {n}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_crash_or_an_error_around_each_durable_step_loses_nothing() -> Result<()> {
    let mut cluster = formed().await?;
    // All errors have the same effect after they end the process, so a few of them are enough.
    let errors = [
        ("log-before-sync", "return(error)", "the log could not be written"),
        ("synced-before-write", "return(full)", "the log could not be written"),
        ("purge-before-sync", "return(error)", "the log could not be written"),
        ("state-before-flush", "return(error)", "apply after index"),
    ];
    let crashes =
        ["log-before-sync", "log-after-sync", "synced-before-write", "synced-after-write", "purge-after-sync"];
    let crashes = crashes.into_iter().chain(["state-before-flush", "state-after-flush", "checkpoint-before-publish"]);
    let crashes = crashes.map(|name| (name, "return(crash)", "failpoint"));
    for (name, task, words) in errors.into_iter().chain(crashes) {
        let leader = cluster.leader().await?;
        cluster.nodes[leader].fail_at(&[&format!("{name}={task}")])?;
        let (acknowledged, success) = write_until_it_ends(&mut cluster, leader).await?;
        assert!(!success, "{name}: a node that cannot go on says so by its exit code");
        let log = cluster.nodes[leader].log();
        assert!(log.contains(words), "{name}: {log}");
        cluster.nodes[leader].fail_at(&[])?;
        cluster.nodes[leader].start().await?;
        everything_is_there(&cluster, &acknowledged).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_vote_that_cannot_be_saved_is_not_given() -> Result<()> {
    let mut cluster = formed().await?;
    let leader = cluster.leader().await?;
    let follower = cluster.follower().await?;
    // Set before the follower can vote: it takes over at once when the leader's process is gone.
    cluster.nodes[follower].fail_now(&["vote-before-sync=return(error)"]).await?;
    cluster.nodes[leader].kill()?;
    let status = cluster.nodes[follower].wait_exit().await?;
    assert!(!status.success());
    assert!(cluster.nodes[follower].log().contains("the log could not be written"));
    cluster.nodes[follower].fail_at(&[])?;
    for n in [follower, leader] {
        cluster.nodes[n].start().await?;
    }
    eventually("the cluster serves", || cluster.everyone_reads("first", "1")).await
}

#[tokio::test]
async fn a_full_disk_in_state_or_checkpoint_ends_nobody() -> Result<()> {
    let cluster = formed().await?;
    let leader = cluster.leader().await?;
    cluster.nodes[leader].fail_at(&["state-before-flush=return(full)", "checkpoint-before-make=return(full)"])?;
    let mut count = 0u32;
    let purged = cluster.nodes[leader].stat().await?["raft"]["purged_index"].clone();
    eventually("both were tried", || {
        count += 1;
        let (cluster, count) = (&cluster, count);
        async move {
            cluster.add(leader, &format!("k{count}"), "v").await?;
            let metrics = cluster.nodes[leader].http("/metrics").await?.1;
            let number = |name: &str| {
                let line = metrics.lines().find(|line| line.starts_with(name));
                line.and_then(|line| line.split(' ').nth(1)?.parse::<u64>().ok()).unwrap_or(0)
            };
            ensure!(number("lockstep_state_disk_full_total ") > 0, "no flush was tried");
            ensure!(number("lockstep_snapshots_failed_total ") > 0, "no checkpoint was tried");
            Ok(())
        }
    })
    .await?;
    let stat = cluster.nodes[leader].stat().await?;
    assert_eq!(stat["raft"]["purged_index"], purged, "without a checkpoint nothing is purged");
    assert_eq!(cluster.leader().await?, leader);
    cluster.nodes[leader].fail_at(&[])?;
    eventually("the log is purged again", || async {
        let stat = cluster.nodes[leader].stat().await?;
        ensure!(stat["raft"]["purged_index"].as_u64() > purged.as_u64(), "{}", stat["raft"]);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_state_that_cannot_be_read_ends_that_node_only() -> Result<()> {
    let mut cluster = formed().await?;
    let follower = cluster.follower().await?;
    cluster.nodes[follower].fail_at(&["view-read=return(error)"])?;
    // The running node reads its failpoints within milliseconds. From then on it serves nothing
    // that may be wrong.
    eventually("a read fails", || async {
        ensure!(cluster.get(follower, "first", false).await.is_err());
        Ok(())
    })
    .await?;
    assert!(!cluster.nodes[follower].wait_exit().await?.success());
    let log = cluster.nodes[follower].log();
    assert!(log.contains("the state could not be read"), "{log}");
    let leader = cluster.leader().await?;
    cluster.add(leader, "k", "v").await?;
    cluster.nodes[follower].fail_at(&[])?;
    cluster.nodes[follower].start().await?;
    eventually("the node has all of it", || cluster.everyone_reads("k", "v")).await
}
