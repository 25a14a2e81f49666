//! Members are added and removed under load, leaders crash during a change, and nodes move to other
//! addresses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lockstep_tests::pb::{self, AddRequest};
use lockstep_tests::{Cluster, NodeProcess, Options, eventually, formed};
use tokio::task::JoinHandle;

/// Writes increasing numbers to its own key, through a node that stays. Returns the last
/// acknowledged number.
async fn writer(cluster: &Cluster, n: usize, stop: Arc<AtomicBool>) -> Result<JoinHandle<(String, u64)>> {
    let mut client = cluster.nodes[0].client().await?;
    let key = format!("writer{n}");
    Ok(tokio::spawn(async move {
        let mut acknowledged = 0;
        let mut next = 1;
        while !stop.load(Ordering::Relaxed) {
            let request = AddRequest { key: key.clone(), val: next.to_string() };
            if client.add(request).await.is_ok() {
                acknowledged = next;
            }
            next += 1;
        }
        (key, acknowledged)
    }))
}

async fn remove(cluster: &Cluster, n: usize) -> Result<u64> {
    let leader = leader_by(cluster, 0).await?;
    let request = pb::RemoveServerRequest { id: cluster.nodes[n].name.clone(), previous_index: 0 };
    let operation = cluster.nodes[leader].manager().await?.remove_server(request).await?.into_inner();
    cluster.finish(leader, operation).await
}

/// Returns the leader that node `n` knows. Other nodes may be removed or paused.
async fn leader_by(cluster: &Cluster, n: usize) -> Result<usize> {
    eventually("a leader is known", || async {
        let name = cluster.nodes[n].manager().await?.leader(pb::LeaderRequest {}).await?.into_inner().server_id;
        cluster.nodes.iter().position(|node| node.name == name).context("no leader")
    })
    .await
}

async fn servers(cluster: &Cluster, n: usize) -> Result<Vec<(String, String)>> {
    let configuration = cluster.nodes[n].manager().await?.get_configuration(pb::GetConfigurationRequest {}).await?;
    Ok(configuration.into_inner().servers.into_iter().map(|server| (server.id, server.suffrage)).collect())
}

#[tokio::test]
async fn it_grows_to_five_and_shrinks_to_one_under_load() -> Result<()> {
    let mut cluster = formed(1, &[]).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for n in 0..4 {
        writers.push(writer(&cluster, n, stop.clone()).await?);
    }
    for _ in 1..5 {
        let n = cluster.push(Options::member())?;
        cluster.nodes[n].start().await?;
        cluster.add_voter(n).await?;
    }
    let voters = |names: &[&str]| names.iter().map(|name| (name.to_string(), "Voter".to_string())).collect::<Vec<_>>();
    assert_eq!(servers(&cluster, 0).await?, voters(&["nodeA", "nodeB", "nodeC", "nodeD", "nodeE"]));

    // Leadership moves between the changes, so that a removed node may be the leader, and the
    // leader that makes a change may be new.
    for n in (1..5).rev() {
        let leader = leader_by(&cluster, 0).await?;
        let (id, address) = (cluster.nodes[n].name.clone(), cluster.nodes[n].raft_addr());
        let request = pb::LeadershipTransferToServerRequest { id, address };
        let operation =
            cluster.nodes[leader].manager().await?.leadership_transfer_to_server(request).await?.into_inner();
        cluster.finish(leader, operation).await?;
        remove(&cluster, n).await?;
        eventually("the others have another leader", || async {
            ensure!(leader_by(&cluster, 0).await? != n, "still the removed one");
            Ok(())
        })
        .await?;
    }
    stop.store(true, Ordering::Relaxed);
    assert_eq!(servers(&cluster, 0).await?, voters(&["nodeA"]));
    for writer in writers {
        let (key, acknowledged) = writer.await?;
        ensure!(acknowledged > 10, "{key}: {acknowledged} writes only");
        let found: u64 = cluster.get(0, &key, true).await?.parse()?;
        assert!(found >= acknowledged, "{key}: {found}, and {acknowledged} was acknowledged");
    }
    Ok(())
}

/// The leader crashes before or after the entry that changes the voters.
///
/// The next leader has a uniform configuration, never a joint one, and the change can be requested
/// again.
#[tokio::test]
async fn a_leader_that_crashes_while_it_changes_voters_leaves_nothing_half_way() -> Result<()> {
    for point in ["membership-before-voters", "membership-after-voters"] {
        let mut cluster = formed(3, &[]).await?;
        for n in 0..3 {
            cluster.nodes[n].stop().await?;
            cluster.nodes[n].options = Options::member().with_failpoints();
        }
        for n in 0..3 {
            cluster.nodes[n].start().await?;
        }
        let newcomer = cluster.push(Options::member())?;
        cluster.nodes[newcomer].start().await?;
        let leader = leader_by(&cluster, 0).await?;
        cluster.nodes[leader].fail_at(&[&format!("{point}=return(crash)")])?;
        let (id, address) = (cluster.nodes[newcomer].name.clone(), cluster.nodes[newcomer].raft_addr());
        let request = pb::AddVoterRequest { id, address, previous_index: 0 };
        let mut manager = cluster.nodes[leader].manager().await?;
        let operation = manager.add_voter(request.clone()).await?.into_inner();
        manager.r#await(operation).await.unwrap_err();
        cluster.nodes[leader].wait_exit().await?;
        cluster.nodes[leader].fail_at(&[])?;

        let next = eventually("another one leads", || async {
            let asked = (0..3).find(|n| *n != leader).context("nobody")?;
            let next = leader_by(&cluster, asked).await?;
            ensure!(next != leader, "the dead one");
            cluster.add(next, "key", point).await.map(|_| next)
        })
        .await?;
        let operation = cluster.nodes[next].manager().await?.add_voter(request).await?.into_inner();
        cluster.finish(next, operation).await?;
        let seen = servers(&cluster, next).await?;
        assert!(seen.len() == 4 && seen.iter().all(|(_, suffrage)| suffrage == "Voter"), "{seen:?}");
        cluster.nodes[leader].start().await?;
        eventually("all four serve", || cluster.everyone_reads("key", point)).await?;
    }
    Ok(())
}

/// A voter that answers once and is never reachable again must not cost a cluster of one node its
/// quorum.
#[tokio::test]
async fn a_voter_added_at_a_wrong_address_is_rolled_back_and_the_quorum_kept() -> Result<()> {
    let mut cluster = formed(1, &["--catch_up_timeout=2s"]).await?;
    // The node advertises an address where nothing listens.
    let (_reserved, nobody) = lockstep_tests::nobody()?;
    let n = cluster.push(Options::member().with(&[format!("--raft_advertise_addr={nobody}").as_str()]))?;
    cluster.nodes[n].start().await?;
    let error = cluster.add_voter(n).await.unwrap_err().to_string();
    assert!(error.contains("did not catch up") && error.contains("taken out again"), "{error}");
    assert_eq!(servers(&cluster, 0).await?, [("nodeA".to_string(), "Voter".to_string())]);
    cluster.add(0, "still", "works").await?;

    let request = pb::AddVoterRequest { id: "nodeB".into(), address: nobody, previous_index: 0 };
    let operation = cluster.nodes[0].manager().await?.add_voter(request).await?.into_inner();
    let error = cluster.finish(0, operation).await.unwrap_err().to_string();
    assert!(error.contains("no node answers"), "{error}");
    cluster.add(0, "still", "works, too").await?;
    Ok(())
}

/// The leader itself returns at another address: the address is recorded, its peers find it, and it
/// leads again.
#[tokio::test]
async fn a_leader_that_moved_is_recorded_and_leads_from_its_new_address() -> Result<()> {
    for size in [1, 3] {
        let mut cluster = formed(size, &[]).await?;
        cluster.add(0, "key", "before").await?;
        let moved = cluster.leader().await?;
        cluster.nodes[moved].stop().await?;
        let name = cluster.nodes[moved].name.clone();
        let directory = cluster.directory().to_path_buf();
        cluster.nodes[moved] = NodeProcess::new(&name, &directory, Options::member())?;
        cluster.nodes[moved].start().await?;
        let address = cluster.nodes[moved].raft_addr();
        eventually("every node knows the new address", || async {
            for node in &cluster.nodes {
                let stat = node.stat().await?;
                let known =
                    stat["nodes"].as_array().is_some_and(|nodes| nodes.iter().any(|node| node["addr"] == *address));
                ensure!(known, "{stat}");
            }
            Ok(())
        })
        .await?;
        if size > 1 {
            cluster.hand_over(moved).await?;
        }
        assert_eq!(cluster.leader().await?, moved);
        for n in 0..size {
            cluster.add(n, "key", "from its new address").await?;
        }
        tokio::time::timeout(Duration::from_secs(60), cluster.everyone_reads("key", "from its new address")).await??;
    }
    Ok(())
}

/// With one of three voters dead, removing a live one is refused, because nothing could be
/// committed afterwards. The dead one can be removed.
#[tokio::test]
async fn a_change_that_would_leave_no_quorum_is_refused_and_changes_nothing() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let leader = cluster.leader().await?;
    let (dead, alive) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.nodes[dead].kill()?;
    let before = servers(&cluster, leader).await?;
    let refused = |id: String, demote: bool| {
        let cluster = &cluster;
        async move {
            let mut manager = cluster.nodes[leader].manager().await?;
            let operation = match demote {
                true => manager.demote_voter(pb::DemoteVoterRequest { id, previous_index: 0 }).await?,
                false => manager.remove_server(pb::RemoveServerRequest { id, previous_index: 0 }).await?,
            };
            let error = cluster.finish(leader, operation.into_inner()).await.err().context("it was changed")?;
            Ok::<_, anyhow::Error>(format!("{error:#}"))
        }
    };
    for (victim, demote) in [(alive, false), (alive, true), (leader, false), (leader, true)] {
        let said = refused(cluster.nodes[victim].name.clone(), demote).await?;
        let expected = format!("would leave 2 voters, of which 1 answer; it takes 2 to commit anything. Silent: {}", {
            &cluster.nodes[dead].name
        });
        ensure!(said.contains(&expected), "{said}");
        ensure!(servers(&cluster, leader).await? == before, "refused, and the configuration is another one");
    }
    cluster.add(alive, "still", "served").await?;
    remove(&cluster, dead).await?;
    cluster.add(alive, "with", "two").await?;
    Ok(())
}
