//! A node is killed at each step of a change of the guest, leader or follower. All nodes end with
//! the old version or all with the new one, over equal states, and no lock is lost. Who dies before
//! the entry of the change leaves the old one, and the change is made when it is asked for again.

use anyhow::{Result, ensure};
use lockstep_tests::torture::points::{BEFORE_CHANGE, CHANGE, PROPOSE};
use lockstep_tests::{Cluster, Options, eventually};

use crate::locks::{acquire, agreed, counted, formed, upgrade};
use crate::printed;

/// Locks that were taken in each test.
const LOCKS: u64 = 2;

async fn three() -> Result<Cluster> {
    let cluster = formed(3, 1, Options::member().with_failpoints()).await?;
    acquire(&cluster, 0, "lock").await?;
    Ok(cluster)
}

/// Starts a node again that has died at a step.
async fn revive(cluster: &mut Cluster, victim: usize) -> Result<()> {
    cluster.nodes[victim].wait_exit().await?;
    cluster.nodes[victim].fail_at(&[])?;
    cluster.nodes[victim].start().await
}

/// Checks that every node has the locks of this test, in the rows of a new version.
async fn is_whole(cluster: &Cluster, victim: usize, step: &str) -> Result<()> {
    acquire(cluster, victim, "after").await?;
    for n in 0..3 {
        eventually("both locks are there", || async {
            let counted = counted(cluster, n).await?;
            ensure!(counted == Some((LOCKS, 0)), "{step}: node {n} counts {counted:?}");
            Ok(())
        })
        .await?;
    }
    cluster.everyone_has_one_hash().await
}

/// Asks for the change until it is made: a member that has just started may not be reached yet.
async fn is_changed(cluster: &Cluster, version: u32) -> Result<()> {
    eventually("the change is made", || async {
        let changed = upgrade(cluster, cluster.leader().await?, version, &[]).await?;
        ensure!(changed.status.success(), "{}", printed::all(&changed));
        Ok(())
    })
    .await?;
    ensure!(agreed(cluster).await?, "not all nodes have changed to version {version}");
    Ok(())
}

/// Kills node `victim` at a step behind the entry, starts it again, and checks that the cluster is
/// whole.
async fn dies_at(cluster: &mut Cluster, victim: usize, step: &str) -> Result<()> {
    cluster.nodes[victim].fail_now(&[&format!("{step}=return(crash)")]).await?;
    let leader = cluster.leader().await?;
    // Whether its caller learns the end depends on who dies.
    let ended = upgrade(cluster, leader, 2, &["--no_rehearsal"]).await?;
    let said = printed::all(&ended);
    ensure!(victim == leader || ended.status.success(), "{step}: a follower's death is no matter: {said}");
    revive(cluster, victim).await?;
    let is_new = agreed(cluster).await?;
    // The entry was on its way to a majority when the victim applied it.
    ensure!(is_new, "{step}: {said}");
    is_whole(cluster, victim, step).await
}

/// Kills node `victim` at a step before the entry, starts it again, and checks that all is as it
/// was. Then the change is made.
async fn dies_before(cluster: &mut Cluster, victim: usize, step: &str) -> Result<()> {
    cluster.nodes[victim].fail_now(&[&format!("{step}=return(crash)")]).await?;
    let leader = cluster.leader().await?;
    let ended = upgrade(cluster, leader, 2, &[]).await?;
    let said = printed::all(&ended);
    ensure!(!ended.status.success(), "{step}: no entry was proposed: {said}");
    revive(cluster, victim).await?;
    ensure!(!agreed(cluster).await?, "{step}: {said}");
    is_changed(cluster, 2).await?;
    is_whole(cluster, victim, step).await
}

async fn each_step(leads: bool) -> Result<()> {
    for step in CHANGE {
        let mut cluster = three().await?;
        let victim = if leads { cluster.leader().await? } else { cluster.follower().await? };
        dies_at(&mut cluster, victim, step).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_leader_killed_at_any_step_leaves_one_version_everywhere() -> Result<()> {
    each_step(true).await
}

#[tokio::test]
async fn a_follower_killed_at_any_step_comes_back_with_the_new_version() -> Result<()> {
    each_step(false).await
}

#[tokio::test]
async fn a_leader_killed_before_the_entry_leaves_the_old_version_everywhere() -> Result<()> {
    for step in BEFORE_CHANGE {
        let mut cluster = three().await?;
        let victim = cluster.leader().await?;
        dies_before(&mut cluster, victim, step).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_follower_killed_before_the_entry_leaves_the_old_version_everywhere() -> Result<()> {
    for step in BEFORE_CHANGE.into_iter().filter(|step| *step != PROPOSE) {
        let mut cluster = three().await?;
        let victim = cluster.follower().await?;
        dies_before(&mut cluster, victim, step).await?;
    }
    Ok(())
}

/// Nobody can say whether the others had the entry when the leader died. They have all or nothing
/// of it.
#[tokio::test]
async fn a_leader_killed_while_it_stores_the_change_leaves_the_old_version_or_the_new() -> Result<()> {
    for step in ["log-before-sync", "log-after-sync"] {
        let mut cluster = three().await?;
        let victim = cluster.leader().await?;
        cluster.nodes[victim].fail_now(&[&format!("{step}=return(crash)")]).await?;
        let ended = upgrade(&cluster, victim, 2, &["--no_rehearsal"]).await?;
        revive(&mut cluster, victim).await?;
        let is_new = agreed(&cluster).await?;
        ensure!(is_new || !ended.status.success(), "{step}: {}", printed::all(&ended));
        println!("{step}: {}", if is_new { "the new version" } else { "the old version" });
        is_changed(&cluster, if is_new { 3 } else { 2 }).await?;
        is_whole(&cluster, victim, step).await?;
    }
    Ok(())
}
