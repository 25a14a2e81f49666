//! Nodes that were sent a snapshot, of the new version's state or of the one behind a rollback. One
//! that lacks the state from before the change is left out, leaves service, and is made anew.

use anyhow::{Result, ensure};
use lockstep_tests::{Cluster, Options, eventually, lockstep};

use crate::locks::{acquire, agreed, formed, holds, rollback, upgrade};
use crate::printed;

/// Limits so small that the log of the first locks is soon purged, and a joiner is sent a snapshot.
const TIGHT: [&str; 4] =
    ["--snapshot_threshold=50", "--snapshot_interval=1s", "--trailing_logs=10", "--trailing_entries_min=10"];

/// Takes locks until the leader's log has lost its first entries.
async fn purge(cluster: &Cluster, name: &str) -> Result<()> {
    let leader = cluster.leader().await?;
    let purged = || async {
        let purged = cluster.nodes[leader].status().await?["raft"]["purged_index"].as_u64();
        anyhow::Ok(purged.unwrap_or(0))
    };
    let (before, mut number) = (purged().await?, 0);
    while purged().await? <= before {
        acquire(cluster, leader, &format!("{name}{number}")).await?;
        number += 1;
        ensure!(number < 10_000, "the log is not purged");
    }
    Ok(())
}

/// Takes locks until the leader's newest snapshot is of the state behind the change.
async fn snapshot_of_the_new_version(cluster: &Cluster) -> Result<()> {
    let leader = cluster.leader().await?;
    let is_there = || async {
        let status = cluster.nodes[leader].status().await?;
        let (snapshot, change) = (&status["raft"]["last_snapshot_index"], &status["fsm"]["probation"]["change_index"]);
        anyhow::Ok(snapshot.as_u64() > change.as_u64())
    };
    let mut number = 0;
    while !is_there().await? {
        acquire(cluster, leader, &format!("behind{number}")).await?;
        number += 1;
        ensure!(number < 10_000, "there is no snapshot behind the change");
    }
    Ok(())
}

/// Adds a node that fetches its guest, and waits until it has the lock.
async fn join(cluster: &mut Cluster, name: &str) -> Result<usize> {
    let joiner = cluster.push(Options { fsm: None, ..Options::member().with(&TIGHT) })?;
    cluster.nodes[joiner].start().await?;
    cluster.add_voter(joiner).await?;
    eventually("it follows", || async { holds(cluster, joiner, name).await }).await?;
    let restored = cluster.nodes[joiner].status().await?["fsm"]["restore_count"].as_u64();
    ensure!(restored >= Some(1), "it was sent no snapshot: {restored:?}");
    Ok(joiner)
}

#[tokio::test]
async fn a_joiner_without_the_state_from_before_is_left_out_and_made_anew() -> Result<()> {
    let mut cluster = formed(3, 1, Options::member().with(&TIGHT)).await?;
    purge(&cluster, "before").await?;
    let changed = upgrade(&cluster, 0, 2, &[]).await?;
    ensure!(changed.status.success(), "{}", printed::all(&changed));
    acquire(&cluster, 0, "between").await?;
    snapshot_of_the_new_version(&cluster).await?;
    let joiner = join(&mut cluster, "between").await?;
    let (addr, name) = (cluster.nodes[joiner].grpc_addr(), cluster.nodes[joiner].name.clone());
    let probation = cluster.nodes[joiner].status().await?["fsm"]["probation"].take();
    ensure!(probation["has_checkpoint"] == false, "{probation}");
    let stopped = rollback(&cluster, 0, &[]).await?;
    let said = printed::all(&stopped);
    ensure!(stopped.status.code() == Some(1) && said.contains(&name), "{said}");
    ensure!(agreed(&cluster).await?, "the new version goes on");
    let back = rollback(&cluster, 0, &["--without", &name]).await?;
    ensure!(back.status.success(), "{}", printed::all(&back));
    eventually("it leaves service", || async {
        let mode = cluster.nodes[joiner].status().await?["mode"].take();
        ensure!(mode == "quarantined", "{mode}");
        Ok(())
    })
    .await?;
    let made = lockstep(&["admin", &addr, "resync", &cluster.nodes[0].grpc_addr()])?;
    ensure!(made.status.success(), "{}", printed::all(&made));
    eventually("it serves again", || async { holds(&cluster, joiner, "between").await }).await?;
    ensure!(!agreed(&cluster).await?, "all run the old version");
    Ok(())
}

#[tokio::test]
async fn a_joiner_behind_a_rollback_gets_a_snapshot_of_the_old_version() -> Result<()> {
    let mut cluster = formed(3, 1, Options::member().with(&TIGHT)).await?;
    purge(&cluster, "before").await?;
    ensure!(upgrade(&cluster, 0, 2, &[]).await?.status.success());
    acquire(&cluster, 0, "between").await?;
    let back = rollback(&cluster, 0, &[]).await?;
    ensure!(back.status.success(), "{}", printed::all(&back));
    purge(&cluster, "behind").await?;
    let joiner = join(&mut cluster, "between").await?;
    ensure!(!agreed(&cluster).await?, "all run the old version");
    // The next change is made over a state of which one node has seen neither side.
    let changed = upgrade(&cluster, 0, 2, &[]).await?;
    ensure!(changed.status.success() && agreed(&cluster).await?, "{}", printed::all(&changed));
    holds(&cluster, joiner, "before0").await
}
