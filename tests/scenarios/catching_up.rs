//! A leader that lost the leadership and got it back while a new voter caught up. Until an entry of
//! its new term is committed, it must not change the voters by a single entry: a majority of the
//! old voters and one of the new voters may then have no node in common.

use anyhow::{Context, Result, ensure};
use lockstep_tests::pb::{AddVoterRequest, LeadershipTransferToServerRequest};
use lockstep_tests::{Cluster, Options, eventually, formed_of};

async fn raft(cluster: &Cluster, n: usize) -> Result<serde_json::Value> {
    Ok(cluster.nodes[n].status().await?["raft"].take())
}

async fn hand_over(cluster: &Cluster, from: usize, to: usize) -> Result<()> {
    let (id, address) = (cluster.nodes[to].name.clone(), cluster.nodes[to].raft_addr());
    let request = LeadershipTransferToServerRequest { id, address };
    let operation = cluster.nodes[from].manager().await?.leadership_transfer_to_server(request).await?.into_inner();
    cluster.finish(from, operation).await?;
    eventually("the other one leads", || async {
        ensure!(raft(cluster, to).await?["state"] == "Leader", "not yet");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn voters_are_changed_only_behind_an_entry_of_the_leaders_own_term() -> Result<()> {
    let mut cluster = formed_of(3, Options::member().with_failpoints()).await?;
    let (leader, other) = (cluster.leader().await?, cluster.follower().await?);
    let third = 3 - leader - other;
    let newcomer = cluster.push(Options::member())?;
    cluster.nodes[newcomer].start().await?;
    cluster.nodes[leader].fail_now(&["membership-caught-up=pause"]).await?;
    let (id, address) = (cluster.nodes[newcomer].name.clone(), cluster.nodes[newcomer].raft_addr());
    let request = AddVoterRequest { id, address, previous_index: 0 };
    let operation = cluster.nodes[leader].manager().await?.add_voter(request).await?.into_inner();
    eventually("the newcomer has caught up", || async {
        let (log, name) = (cluster.nodes[leader].log(), &cluster.nodes[newcomer].name);
        let is_it = |line: &str| line.contains("has caught up and gets its vote") && line.contains(name.as_str());
        ensure!(log.lines().any(is_it), "not yet");
        Ok(())
    })
    .await?;

    // The leadership moves away and back, and no voter accepts an entry of the new term.
    hand_over(&cluster, leader, other).await?;
    for n in [other, third] {
        cluster.nodes[n].fail_now(&["peer-append-refused=return(error)"]).await?;
    }
    hand_over(&cluster, other, leader).await?;
    let then = raft(&cluster, leader).await?;
    ensure!(then["commit_index"].as_u64() < then["last_log_index"].as_u64(), "its new term is committed: {then}");
    cluster.nodes[leader].fail_now(&[]).await?;
    for _ in 0..50 {
        let now = raft(&cluster, leader).await?;
        ensure!(now["state"] == "Leader", "it lost the lead: {now}");
        let index = "latest_configuration_index";
        ensure!(now[index] == then[index], "the voters were changed in a term without a committed entry: {now}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    for n in [other, third] {
        cluster.nodes[n].fail_now(&[]).await?;
    }
    cluster.finish(leader, operation).await?;
    let nodes = cluster.nodes[newcomer].status().await?["nodes"].take();
    let voters = nodes.as_array().context("no nodes")?.iter().filter(|node| node["suffrage"] == "Voter").count();
    ensure!(voters == 4, "{nodes}");
    cluster.everyone_has_one_hash().await
}
