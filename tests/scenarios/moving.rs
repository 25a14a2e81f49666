//! A node that starts at other addresses is recorded and heard, also when the leader that it last
//! knew leads no more.

use anyhow::{Context, Result, ensure};
use lockstep_tests::{Cluster, NodeProcess, Options, eventually, formed};

/// Puts a node on the same directory at addresses of its own.
async fn moved(cluster: &mut Cluster, n: usize) -> Result<()> {
    let (name, directory) = (cluster.nodes[n].name.clone(), cluster.nodes[n].data_dir.clone());
    cluster.nodes[n] = NodeProcess::new(&name, &directory, Options::member())?;
    cluster.nodes[n].start().await
}

async fn is_back(cluster: &Cluster, n: usize) -> Result<()> {
    eventually("the node is ready at its new addresses", || async {
        let (code, said) = cluster.nodes[n].http("/readyz").await?;
        ensure!(code == 200, "{code}: {said}\n{}", cluster.nodes[n].log());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_killed_leader_is_back_at_other_addresses() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let leader = cluster.leader().await?;
    cluster.nodes[leader].kill()?;
    moved(&mut cluster, leader).await?;
    is_back(&cluster, leader).await?;
    cluster.add(leader, "key", "value").await?;
    cluster.everyone_reads("key", "value").await
}

#[tokio::test]
async fn a_follower_that_missed_a_change_of_leader_is_back_at_other_addresses() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let (leader, follower) = (cluster.leader().await?, cluster.follower().await?);
    let other = (0..3).find(|n| *n != leader && *n != follower).expect("three nodes");
    cluster.nodes[follower].kill()?;
    cluster.hand_over(other).await?;
    moved(&mut cluster, follower).await?;
    is_back(&cluster, follower).await
}

#[tokio::test]
async fn a_node_that_goes_back_to_its_old_addresses_is_heard_there() -> Result<()> {
    went_back(false).await
}

#[tokio::test]
async fn a_node_that_goes_back_is_heard_also_by_a_leader_that_it_never_knew() -> Result<()> {
    went_back(true).await
}

/// A node runs at other addresses until the leader has recorded them, and then at its old ones,
/// which its own membership still names.
async fn went_back(another_leads: bool) -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let (leader, follower) = (cluster.leader().await?, cluster.follower().await?);
    cluster.nodes[follower].kill()?;
    let (name, directory) = (cluster.nodes[follower].name.clone(), cluster.nodes[follower].data_dir.clone());
    let mut away = NodeProcess::new(&name, &directory, Options::member())?;
    away.start().await?;
    let address = away.raft_addr();
    eventually("the leader has recorded the new addresses", || async {
        let status = cluster.nodes[leader].status().await?;
        let mut nodes = status["nodes"].as_array().context("no members")?.iter();
        ensure!(nodes.any(|node| node["addr"] == address.as_str()), "{status}");
        Ok(())
    })
    .await?;
    away.kill()?;
    if another_leads {
        let other = (0..3).find(|n| *n != leader && *n != follower).expect("three nodes");
        cluster.hand_over(other).await?;
    }
    cluster.nodes[follower].start().await?;
    is_back(&cluster, follower).await
}
