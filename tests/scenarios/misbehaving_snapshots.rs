//! A guest whose snapshot or restore fails, writes a wrong state or never ends. Nodes that need the
//! state still get it, as rows, and the sender reports that. `lockstep backup` does not call the
//! guest at all.

use std::fs::File;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use lockstep_tests::misbehaving_pb::{Deed, What};
use lockstep_tests::{Cluster, Options, eventually, lockstep_binary};

use crate::misbehaving::{client, deed, misbehaving};
use crate::printed;

/// Limits so small that a hundred commands are no longer in the log.
const TIGHT: [&str; 4] =
    ["--snapshot_threshold=20", "--snapshot_interval=1s", "--trailing_logs=10", "--trailing_entries_min=10"];

/// Log message of the sender when the guest's snapshot has failed.
const FAILED: &str = "the guest's snapshot failed; the host sends the rows themselves instead";
/// Log message of the sender when a receiver got a different state.
const DISTRUSTED: &str = "the guest's own snapshots are not sent any more";
/// The reason in that message when the restore has written far more than it has read.
const WROTE_TOO_MUCH: &str = "bytes written by a restore for those that it has read";

/// Forms a node whose log is purged, so that a new node needs a snapshot. The guest will do the
/// given deeds in snapshots and restores.
async fn prepared(at_snapshot: What, at_restore: What) -> Result<Cluster> {
    let cluster = misbehaving(1, &TIGHT).await?;
    let mut client = client(&cluster, 0).await?;
    let choice = Deed { what: What::Choose.into(), at_snapshot: at_snapshot.into(), at_restore: at_restore.into() };
    client.r#do(choice).await?;
    for _ in 0..100 {
        client.r#do(deed(What::Count)).await?;
    }
    eventually("the log is purged", || async {
        let purged = cluster.nodes[0].status().await?["raft"]["purged_index"].as_u64();
        ensure!(purged >= Some(10), "purged up to {purged:?}");
        Ok(())
    })
    .await?;
    Ok(cluster)
}

fn back_up(cluster: &Cluster) -> Result<()> {
    let path = cluster.directory().join("some.backup");
    let out = File::create(&path)?;
    let address = cluster.nodes[0].grpc_addr();
    let done = Command::new(lockstep_binary())
        .args(["backup", &address])
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(Stdio::piped())
        .output()?;
    ensure!(done.status.success(), "{}", printed::stderr(&done));
    ensure!(path.metadata()?.len() > 1_000, "an empty backup");
    Ok(())
}

/// Lets two nodes join. The sender must have logged all texts of `says`, and neither [`FAILED`] nor
/// [`DISTRUSTED`] unless it is one of them.
async fn two_join(at_snapshot: What, at_restore: What, says: &[&str]) -> Result<()> {
    let mut cluster = prepared(at_snapshot, at_restore).await?;
    let options = cluster.nodes[0].options.clone();
    for _ in 0..2 {
        let n = cluster.push(Options { bootstrap: false, ..options.clone() })?;
        cluster.nodes[n].start().await?;
        cluster.add_voter(n).await?;
        let restored = cluster.nodes[n].status().await?["fsm"]["restore_count"].as_u64();
        ensure!(restored >= Some(1), "it came by the log");
    }
    cluster.everyone_has_one_hash().await?;
    let done = client(&cluster, 2).await?.r#do(deed(What::Count)).await?;
    ensure!(done.get_ref().value == 101, "{done:?}");
    cluster.nodes[0].has_logged(says).await.context("the sender's log")?;
    let log = cluster.nodes[0].log();
    for text in [FAILED, DISTRUSTED] {
        ensure!(log.contains(text) == says.contains(&text), "{text:?} in the sender's log:\n{log}");
    }
    back_up(&cluster)?;
    for node in &mut cluster.nodes {
        ensure!(!node.has_ended()?, "{} has ended", node.name);
    }
    Ok(())
}

async fn all(cases: &[(What, What, &[&str])]) -> Result<()> {
    for (at_snapshot, at_restore, says) in cases {
        two_join(*at_snapshot, *at_restore, says)
            .await
            .with_context(|| format!("snapshot: {at_snapshot:?}, restore: {at_restore:?}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_snapshot_that_fails_is_replaced_by_rows() -> Result<()> {
    use What::*;
    all(&[
        (TrapFirst, Count, &[FAILED]),
        (Recurse, Count, &[FAILED]),
        (Allocate, Count, &[FAILED]),
        (Refuse, Count, &[FAILED]),
        (Abort, Count, &[FAILED]),
        (Write, Count, &[FAILED]),
        (WriteGiganticChunk, Count, &[FAILED]),
        (ReplyOfNoCase, Count, &[FAILED]),
    ])
    .await
}

#[tokio::test]
async fn a_snapshot_that_never_ends_is_ended() -> Result<()> {
    all(&[(What::Loop, What::Count, &[FAILED]), (What::FloodGets, What::Count, &[FAILED])]).await
}

#[tokio::test]
async fn a_restore_that_fails_or_lies_is_found_out() -> Result<()> {
    use What::*;
    all(&[
        (Unfaithful, Count, &[DISTRUSTED]),
        (Count, ReadNothing, &[DISTRUSTED]),
        (Count, TrapFirst, &[DISTRUSTED]),
        (Count, Refuse, &[DISTRUSTED]),
        (Count, Recurse, &[DISTRUSTED]),
        (Count, WriteSnapshot, &[DISTRUSTED]),
    ])
    .await
}

#[tokio::test]
async fn a_restore_that_never_ends_is_ended() -> Result<()> {
    all(&[(What::Count, What::Loop, &[DISTRUSTED]), (What::Count, What::FloodPuts, &[DISTRUSTED, WROTE_TOO_MUCH])])
        .await
}

#[tokio::test]
async fn a_restore_may_read_past_the_end() -> Result<()> {
    all(&[(What::Count, What::Count, &[]), (What::Count, What::ReadPastTheEnd, &[])]).await
}
