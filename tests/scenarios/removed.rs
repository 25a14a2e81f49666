//! A removed node stops serving and says so, however and whenever it learns of its removal. Its
//! process keeps running.

use anyhow::{Context, Result, ensure};
use lockstep_tests::pb::{self, AddRequest, GetRequest, RemoveServerRequest, WatchRequest};
use lockstep_tests::{Cluster, Signal, eventually, formed};

use crate::surface::health;

async fn remove(cluster: &Cluster, n: usize) -> Result<u64> {
    let leader = cluster.leader().await?;
    let request = RemoveServerRequest { id: cluster.nodes[n].name.clone(), previous_index: 0 };
    let operation = cluster.nodes[leader].manager().await?.remove_server(request).await?.into_inner();
    cluster.finish(leader, operation).await
}

/// Checks everything that a removed node must tell its clients and operators.
async fn says_that_it_is_removed(cluster: &Cluster, n: usize) -> Result<()> {
    let node = &cluster.nodes[n];
    eventually("readyz says that it was removed", || async {
        let (code, body) = node.http("/readyz").await?;
        ensure!(
            code == 503 && body.contains("mode is removed") && body.contains("removed from the cluster"),
            "{code} {body}"
        );
        Ok(())
    })
    .await?;
    assert_eq!(node.http("/livez").await?.0, 200);
    assert_eq!(node.status().await?["mode"], "removed");
    let stats = node.manager().await?.stats(pb::StatsRequest {}).await?.into_inner().stats;
    assert_eq!(stats["mode"], "removed");

    let mut client = node.client().await?;
    let add = client.add(AddRequest { key: "after".into(), val: "removal".into() }).await.unwrap_err();
    let local = client.get(GetRequest { key: "key".into(), linearizable: false }).await.unwrap_err();
    let linearizable = client.get(GetRequest { key: "key".into(), linearizable: true }).await.unwrap_err();
    let watch = WatchRequest { key: "key".into(), ..WatchRequest::default() };
    let watch = match client.watch(watch).await {
        Ok(stream) => stream.into_inner().message().await.unwrap_err(),
        Err(status) => status,
    };
    for status in [&add, &local, &linearizable, &watch] {
        assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status:?}");
        assert!(status.message().contains("removed from the cluster"), "{status:?}");
    }
    assert_eq!(add.metadata().get("lockstep-outcome").unwrap(), "not-applied");
    for (service, expected) in [("Example", "NOT_SERVING"), ("quis.RaftLeader", "NOT_SERVING"), ("", "SERVING")] {
        assert_eq!(health(node, service)?, expected, "{service:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_removed_follower_says_so_ends_its_watches_and_remembers_it() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    cluster.add(0, "key", "value").await?;
    let n = cluster.follower().await?;
    let watch = WatchRequest { key: "key".into(), ..WatchRequest::default() };
    let mut open = cluster.nodes[n].client().await?.watch(watch).await?.into_inner();
    ensure!(open.message().await?.is_some(), "the current value");
    remove(&cluster, n).await?;
    let ended = loop {
        match open.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the watch ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), tonic::Code::FailedPrecondition, "{ended:?}");
    says_that_it_is_removed(&cluster, n).await?;

    // The node remembers its removal after a restart, even when it can reach no other node.
    cluster.nodes[n].stop().await?;
    for other in (0..3).filter(|other| *other != n) {
        cluster.nodes[other].signal(Signal::SIGSTOP)?;
    }
    cluster.nodes[n].start().await?;
    says_that_it_is_removed(&cluster, n).await?;
    for other in (0..3).filter(|other| *other != n) {
        cluster.nodes[other].signal(Signal::SIGCONT)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_node_that_was_down_while_it_was_removed_is_told_when_it_comes_back() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    cluster.add(0, "key", "value").await?;
    let n = cluster.follower().await?;
    cluster.nodes[n].kill()?;
    remove(&cluster, n).await?;
    let leader = cluster.leader().await?;
    let term = cluster.nodes[leader].stat().await?["raft"]["term"].clone();
    cluster.nodes[n].start().await?;
    says_that_it_is_removed(&cluster, n).await?;
    let now = cluster.nodes[leader].stat().await?;
    assert_eq!(now["raft"]["term"], term, "it disturbed the others");

    // The same directory can be added again.
    let index = cluster_add(&cluster, leader, n).await?;
    eventually("it serves again", || async {
        let stat = cluster.nodes[n].stat().await?;
        ensure!(stat["mode"] == "serving" && stat["last_applied_index"].as_u64() >= Some(index), "{stat}");
        Ok(())
    })
    .await?;
    cluster.add(n, "key", "again").await?;
    cluster.everyone_reads("key", "again").await
}

async fn cluster_add(cluster: &Cluster, leader: usize, n: usize) -> Result<u64> {
    let (id, address) = (cluster.nodes[n].name.clone(), cluster.nodes[n].raft_addr());
    let request = pb::AddVoterRequest { id, address, previous_index: 0 };
    let operation = cluster.nodes[leader].manager().await?.add_voter(request).await?.into_inner();
    cluster.finish(leader, operation).await
}

#[tokio::test]
async fn a_node_that_was_frozen_while_it_was_removed_is_told_when_it_wakes() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    cluster.add(0, "key", "value").await?;
    let n = cluster.follower().await?;
    cluster.nodes[n].signal(Signal::SIGSTOP)?;
    let leader = (0..3).find(|other| *other != n).unwrap();
    let leader = leader_among(&cluster, leader).await?;
    let request = RemoveServerRequest { id: cluster.nodes[n].name.clone(), previous_index: 0 };
    let operation = cluster.nodes[leader].manager().await?.remove_server(request).await?.into_inner();
    cluster.finish(leader, operation).await?;
    cluster.nodes[n].signal(Signal::SIGCONT)?;
    says_that_it_is_removed(&cluster, n).await
}

/// Returns the leader that node `n` knows. A paused node cannot be called.
async fn leader_among(cluster: &Cluster, n: usize) -> Result<usize> {
    let name = cluster.nodes[n].manager().await?.leader(pb::LeaderRequest {}).await?.into_inner().server_id;
    let place = cluster.nodes.iter().position(|node| node.name == name);
    place.with_context(|| format!("{} calls {name:?} the leader", cluster.nodes[n].name))
}

#[tokio::test]
async fn a_removed_leader_hands_over_and_says_so() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    cluster.add(0, "key", "value").await?;
    let n = cluster.leader().await?;
    remove(&cluster, n).await?;
    let rest: Vec<usize> = (0..3).filter(|other| *other != n).collect();
    eventually("another one leads", || async {
        ensure!(leader_among(&cluster, rest[0]).await? != n, "still the removed one");
        cluster.add(rest[1], "key", "without it").await
    })
    .await?;
    says_that_it_is_removed(&cluster, n).await?;
    for other in rest {
        assert_eq!(cluster.get(other, "key", true).await?, "without it");
    }
    Ok(())
}

#[tokio::test]
async fn a_removed_learner_is_told_too() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    cluster.add(0, "key", "value").await?;
    let (leader, n) = (cluster.leader().await?, cluster.follower().await?);
    let request = pb::DemoteVoterRequest { id: cluster.nodes[n].name.clone(), previous_index: 0 };
    let operation = cluster.nodes[leader].manager().await?.demote_voter(request).await?.into_inner();
    cluster.finish(leader, operation).await?;
    assert_eq!(cluster.get(n, "key", true).await?, "value", "a learner serves reads");
    remove(&cluster, n).await?;
    says_that_it_is_removed(&cluster, n).await
}
