//! A node is killed at each step of a rollback, leader or follower. All nodes end with the old
//! version over equal states, and no lock is lost. Who dies before the entry of the rollback, while
//! the commands run once more, leaves the new one, and the rollback has to be asked for again.

use anyhow::{Result, ensure};
use lockstep_tests::torture::points::BEFORE_ROLLBACK;
use lockstep_tests::{Cluster, Options, eventually};

use crate::locks::{acquire, agreed, formed, holds, rollback, upgrade};
use crate::printed;

/// The steps of a rollback on each node behind its entry, in order.
const STEPS: [&str; 3] = ["apply-entry", "rollback-before-install", "rollback-after-install"];

/// Forms a cluster with a change that may be taken back.
async fn changed() -> Result<Cluster> {
    let cluster = formed(3, 1, Options::member().with_failpoints()).await?;
    acquire(&cluster, 0, "before").await?;
    let changed = upgrade(&cluster, 0, 2, &["--no_rehearsal"]).await?;
    ensure!(changed.status.success(), "{}", printed::all(&changed));
    acquire(&cluster, 0, "between").await?;
    cluster.everyone_has_one_hash().await?;
    Ok(cluster)
}

async fn revive(cluster: &mut Cluster, victim: usize) -> Result<()> {
    cluster.nodes[victim].wait_exit().await?;
    cluster.nodes[victim].fail_at(&[])?;
    cluster.nodes[victim].start().await
}

async fn is_whole(cluster: &Cluster, victim: usize) -> Result<()> {
    acquire(cluster, victim, "after").await?;
    for n in 0..3 {
        for name in ["before", "between", "after"] {
            eventually("the lock is there", || async { holds(cluster, n, name).await }).await?;
        }
    }
    cluster.everyone_has_one_hash().await
}

/// Kills node `victim` at a step, starts it again, and checks that the cluster is whole.
async fn dies_at(cluster: &mut Cluster, victim: usize, step: &str) -> Result<()> {
    cluster.nodes[victim].fail_now(&[&format!("{step}=return(crash)")]).await?;
    let leader = cluster.leader().await?;
    // Whether its caller learns the end depends on who dies.
    let ended = rollback(cluster, leader, &[]).await?;
    let said = printed::all(&ended);
    ensure!(victim == leader || ended.status.success(), "{step}: a follower's death is no matter: {said}");
    revive(cluster, victim).await?;
    let is_new = agreed(cluster).await?;
    // The entry was on its way to a majority when the victim applied it.
    ensure!(!is_new, "{step}: {said}");
    is_whole(cluster, victim).await
}

/// Kills node `victim` before the entry, starts it again, and checks that the new version is still
/// everywhere. Then the change is taken back.
async fn dies_before(cluster: &mut Cluster, victim: usize, step: &str) -> Result<()> {
    cluster.nodes[victim].fail_now(&[&format!("{step}=return(crash)")]).await?;
    let leader = cluster.leader().await?;
    let ended = rollback(cluster, leader, &[]).await?;
    let said = printed::all(&ended);
    ensure!(!ended.status.success(), "{step}: no entry was proposed: {said}");
    revive(cluster, victim).await?;
    ensure!(agreed(cluster).await?, "{step}: {said}");
    eventually("the change is taken back", || async {
        let back = rollback(cluster, cluster.leader().await?, &[]).await?;
        ensure!(back.status.success(), "{}", printed::all(&back));
        Ok(())
    })
    .await?;
    ensure!(!agreed(cluster).await?, "{step}: not all nodes have the old version");
    is_whole(cluster, victim).await
}

async fn each_step(leads: bool) -> Result<()> {
    for step in STEPS.into_iter().chain(BEFORE_ROLLBACK) {
        let mut cluster = changed().await?;
        let victim = if leads { cluster.leader().await? } else { cluster.follower().await? };
        match BEFORE_ROLLBACK.contains(&step) {
            true => dies_before(&mut cluster, victim, step).await?,
            false => dies_at(&mut cluster, victim, step).await?,
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_leader_killed_at_any_step_leaves_the_old_version_everywhere() -> Result<()> {
    each_step(true).await
}

#[tokio::test]
async fn a_follower_killed_at_any_step_comes_back_with_the_old_version() -> Result<()> {
    each_step(false).await
}
