//! Three planted faults, each detected from what the clients saw, and the same runs without them.

use std::time::Duration;

use anyhow::{Context, Result};
use lockstep_tests::torture::disk::Disk;
use lockstep_tests::torture::history::{Clock, Operation};
use lockstep_tests::torture::judge::Verdict;
use lockstep_tests::torture::load::{self, BRISK_OPERATIONS, Load, LoadOptions, Tokens};
use lockstep_tests::{Cluster, Options, eventually, formed_of};

/// Keys of one run.
const KEYS: std::ops::Range<u32> = 0..8;

/// Acknowledged writes before the fault.
const WRITES: u64 = 300;

/// What the clients of a cluster under load saw.
struct Seen {
    clock: Clock,
    tokens: Tokens,
    history: Vec<Operation>,
}

impl Seen {
    fn new() -> Seen {
        Seen { clock: Clock::start(), tokens: Tokens::default(), history: Vec::new() }
    }

    fn load(&self, cluster: &Cluster) -> Result<Load> {
        let options = LoadOptions { keys: KEYS, clients_per_node: 2, seed: 1, brisk_operations: BRISK_OPERATIONS };
        Load::start(cluster, &options, self.clock, &self.tokens)
    }

    /// Reads everything at every running node, and runs the checkers.
    async fn verdict(mut self, cluster: &Cluster) -> Result<Verdict> {
        self.history.extend(load::liveness(cluster, KEYS, self.clock, &self.tokens).await?);
        let ends_at = self.clock.now();
        self.history.extend(load::final_reads(cluster, KEYS, self.clock).await?);
        Ok(Verdict::of(&self.history, Some(ends_at)))
    }
}

/// Cuts the power of all nodes at once, under load.
async fn power_loss(disk: Disk, plant: &[&str]) -> Result<Verdict> {
    let mut cluster = Cluster::new()?;
    cluster.on_disk(disk);
    cluster.form(3, &Options::tortured()).await?;
    for node in &cluster.nodes {
        node.fail_at(plant)?;
    }
    let mut seen = Seen::new();
    let load = seen.load(&cluster)?;
    load.progress(WRITES).await?;
    for node in &mut cluster.nodes {
        node.kill()?;
    }
    cluster.cut_power()?;
    for node in &mut cluster.nodes {
        node.fail_at(&[])?;
        node.spawn()?;
    }
    for node in &mut cluster.nodes {
        node.wait_answers().await?;
    }
    seen.history = load.finish().await?;
    seen.verdict(&cluster).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_not_synced_is_seen_when_the_power_fails() -> Result<()> {
    let _turn = crate::ONE_AT_A_TIME.lock().await;
    let Some(disk) = Disk::mount()? else { return Ok(()) };
    let sound = power_loss(disk, &[]).await.context("with every sync")?;
    assert!(sound.passed(), "{sound}");
    let Some(disk) = Disk::mount()? else { return Ok(()) };
    let planted = power_loss(disk, &["log-skip-sync=return(error)"]).await.context("without syncs")?;
    let lost = |violation: &String| violation.contains("lost or stale") || violation.contains("fork");
    assert!(planted.chain.iter().any(lost) && !planted.wgl.is_empty(), "not seen: {planted}");
    Ok(())
}

/// Plants a fault in the followers, then kills the leader for good.
async fn leader_loss(plant: &[&str]) -> Result<Verdict> {
    let mut cluster = formed_of(3, Options::tortured()).await?;
    let leader = cluster.leader().await?;
    // A stream uses the plant from its beginning or not at all, so the followers are restarted with
    // the plant.
    for n in (0..3).filter(|n| *n != leader) {
        cluster.nodes[n].fail_at(plant)?;
        cluster.nodes[n].kill()?;
        cluster.nodes[n].start().await?;
    }
    let mut seen = Seen::new();
    let load = seen.load(&cluster)?;
    load.progress(WRITES).await?;
    assert_eq!(cluster.leader().await?, leader, "nobody else may lead before the blow");
    cluster.nodes[leader].kill()?;
    for n in (0..3).filter(|n| *n != leader) {
        cluster.nodes[n].fail_at(&[])?;
        // The nodes restart, because entries that the leader believes acknowledged are not sent
        // again on the same stream. A new stream begins with the true state.
        cluster.nodes[n].kill()?;
        cluster.nodes[n].start().await?;
    }
    load.progress(1).await?;
    seen.history = load.finish().await?;
    seen.verdict(&cluster).await
}

#[tokio::test]
async fn an_acknowledgement_before_the_quorum_is_seen_when_the_leader_is_lost() -> Result<()> {
    let _turn = crate::ONE_AT_A_TIME.lock().await;
    let sound = leader_loss(&[]).await.context("with a quorum")?;
    assert!(sound.passed(), "{sound}");
    let planted = leader_loss(&["peer-skip-append=return(error)"]).await.context("without a quorum")?;
    let lost = |violation: &String| violation.contains("lost or stale") || violation.contains("fork");
    assert!(planted.chain.iter().any(lost) && !planted.wgl.is_empty(), "not seen: {planted}");
    Ok(())
}

/// Makes one follower apply late. `plant` changes what its linearizable reads do about that.
async fn late_follower(plant: &[&str]) -> Result<Verdict> {
    let cluster = formed_of(3, Options::tortured()).await?;
    let follower = cluster.follower().await?;
    let slow = "log-before-sync=sleep(50)";
    let tasks: Vec<&str> = [slow].iter().chain(plant).copied().collect();
    cluster.nodes[follower].fail_at(&tasks)?;
    eventually("the follower is slow", || async {
        anyhow::ensure!(cluster.nodes[follower].log().contains("failpoint log-before-sync is now"));
        Ok(())
    })
    .await?;
    let mut seen = Seen::new();
    let load = seen.load(&cluster)?;
    load.progress(WRITES).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    seen.history = load.finish().await?;
    cluster.nodes[follower].fail_at(&[])?;
    seen.verdict(&cluster).await
}

#[tokio::test]
async fn a_stale_read_is_seen() -> Result<()> {
    let _turn = crate::ONE_AT_A_TIME.lock().await;
    let sound = late_follower(&[]).await.context("with a read index")?;
    assert!(sound.passed(), "{sound}");
    let planted = late_follower(&["read-skip-index=return(error)"]).await.context("without a read index")?;
    let stale = |violation: &String| violation.contains("lost or stale");
    assert!(planted.chain.iter().any(stale) && !planted.wgl.is_empty(), "not seen: {planted}");
    Ok(())
}
