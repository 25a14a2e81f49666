//! A leader that lost the leadership and got it back while a new voter caught up. Until an entry of
//! its new term is committed, it must not change the voters by a single entry: a majority of the
//! old voters and one of the new voters may then have no node in common.

use anyhow::{Context, Result, anyhow, ensure};
use lockstep_tests::pb::{AddVoterRequest, Future, LeadershipTransferToServerRequest};
use lockstep_tests::{Cluster, Options, eventually, formed_of};
use serde_json::Value;

/// Clusters that this is tried with: an election that nobody asked for spoils one, and is no fault.
const ATTEMPTS: usize = 3;

async fn raft(cluster: &Cluster, n: usize) -> Result<Value> {
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

/// A node that leads again, in a term of which nothing is committed, with a change of the voters
/// that it began before.
struct Returned {
    leader: usize,
    others: [usize; 2],
    change: Future,
    /// Its Raft as it is then.
    then: Value,
}

async fn lead_goes_and_comes_back(cluster: &Cluster, newcomer: usize) -> Result<Returned> {
    let (leader, other) = (cluster.leader().await?, cluster.follower().await?);
    let others = [other, 3 - leader - other];
    cluster.nodes[leader].fail_now(&["membership-caught-up=pause"]).await?;
    let (id, address) = (cluster.nodes[newcomer].name.clone(), cluster.nodes[newcomer].raft_addr());
    let request = AddVoterRequest { id, address, previous_index: 0 };
    let change = cluster.nodes[leader].manager().await?.add_voter(request).await?.into_inner();
    eventually("the newcomer has caught up", || async {
        let (log, name) = (cluster.nodes[leader].log(), &cluster.nodes[newcomer].name);
        let is_it = |line: &str| line.contains("has caught up and gets its vote") && line.contains(name.as_str());
        ensure!(log.lines().any(is_it), "not yet");
        Ok(())
    })
    .await?;

    // The leadership moves away and back, and no voter accepts an entry of the new term.
    hand_over(cluster, leader, other).await?;
    for n in others {
        cluster.nodes[n].fail_now(&["peer-append-refused=return(error)"]).await?;
    }
    hand_over(cluster, other, leader).await?;
    let then = raft(cluster, leader).await?;
    Ok(Returned { leader, others, change, then })
}

/// Lets the change go on, watches that it does not, and says whether the node led all the time.
async fn voters_stay(cluster: &Cluster, returned: &Returned) -> Result<bool> {
    let Returned { leader, then, .. } = returned;
    let leads = |now: &Value| now["state"] == "Leader" && now["term"] == then["term"];
    if !leads(then) {
        return Ok(false);
    }
    ensure!(then["commit_index"].as_u64() < then["last_log_index"].as_u64(), "its new term is committed: {then}");
    // This ends the pause: a point that has no task any more is passed.
    cluster.nodes[*leader].fail_now(&["membership-caught-up=off"]).await?;
    // As many looks as take a second or more, of a change that needs some milliseconds.
    for _ in 0..50 {
        let now = raft(cluster, *leader).await?;
        if !leads(&now) {
            return Ok(false);
        }
        let index = "latest_configuration_index";
        ensure!(now[index] == then[index], "the voters were changed in a term without a committed entry: {now}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    Ok(true)
}

#[tokio::test]
async fn voters_are_changed_only_behind_an_entry_of_the_leaders_own_term() -> Result<()> {
    let mut spoilt = anyhow!("nothing was tried");
    for _ in 0..ATTEMPTS {
        let mut cluster = formed_of(3, Options::member().with_failpoints()).await?;
        let newcomer = cluster.push(Options::member())?;
        cluster.nodes[newcomer].start().await?;
        let returned = match lead_goes_and_comes_back(&cluster, newcomer).await {
            Ok(returned) => returned,
            Err(error) => {
                spoilt = error;
                continue;
            }
        };
        if !voters_stay(&cluster, &returned).await? {
            spoilt = anyhow!("it lost the lead once more");
            continue;
        }
        for n in returned.others {
            cluster.nodes[n].fail_now(&[]).await?;
        }
        if let Err(error) = cluster.finish(returned.leader, returned.change).await {
            spoilt = error;
            continue;
        }
        eventually("the newcomer votes", || async {
            let nodes = cluster.nodes[newcomer].status().await?["nodes"].take();
            let voters = nodes.as_array().context("no nodes")?.iter().filter(|node| node["suffrage"] == "Voter");
            ensure!(voters.count() == 4, "{nodes}");
            Ok(())
        })
        .await?;
        return cluster.everyone_has_one_hash().await;
    }
    Err(spoilt.context(format!("each of {ATTEMPTS} attempts")))
}
