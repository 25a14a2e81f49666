//! Checks of the sender: messages of another cluster, for another node, or of another time change
//! nothing.

use anyhow::Result;
use lockstep_tests::pb::{AddVoterRequest, RemoveServerRequest};
use lockstep_tests::peer::peer_client::PeerClient;
use lockstep_tests::peer::{AppendRequest, Ballot, IdentifyRequest, LogId, Route, TransferLeaderRequest, VoteRequest};
use lockstep_tests::{Cluster, Options, Signal, eventually, formed};
use tonic::transport::Channel;

/// Connects to the port for peers, which the client crate does not speak to.
async fn peer(cluster: &Cluster, n: usize) -> Result<PeerClient<Channel>> {
    Ok(PeerClient::connect(format!("http://{}", cluster.nodes[n].raft_addr())).await?)
}

async fn term(cluster: &Cluster, n: usize) -> Result<u64> {
    Ok(cluster.nodes[n].stat().await?["raft"]["term"].as_u64().unwrap())
}

#[tokio::test]
async fn a_message_with_a_wrong_route_is_refused_and_the_term_stays() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    let n = cluster.follower().await?;
    let other = (0..3).find(|other| *other != n).unwrap();
    let mut client = peer(&cluster, n).await?;
    let me = client.identify(IdentifyRequest::default()).await?.into_inner();
    let from = peer(&cluster, other).await?.identify(IdentifyRequest::default()).await?.into_inner().node_id;
    let right =
        Route { cluster_id: me.cluster_id, incarnation: me.incarnation, from, to: me.node_id, ..Route::default() };
    let wrong = [
        ("cluster", Route { cluster_id: vec![7; 16].into(), ..right.clone() }),
        ("incarnation", Route { incarnation: right.incarnation + 1, ..right.clone() }),
        ("group", Route { group: 3, ..right.clone() }),
        ("for node", Route { to: right.to ^ 1, ..right.clone() }),
        ("as its sender", Route { from: right.to, ..right.clone() }),
    ];
    let before = (term(&cluster, n).await?, cluster.leader().await?);
    let vote = Ballot { term: before.0 + 1000, node: from, committed: false };
    let last = LogId { term: before.0 + 1000, leader: from, index: 1 << 40 };
    for (what, route) in wrong {
        let route = Some(route);
        let request =
            VoteRequest { route: route.clone(), vote: Some(vote), last: Some(last), leadership_transfer: true };
        let append = AppendRequest {
            route: route.clone(),
            vote: Some(Ballot { committed: true, ..vote }),
            ..AppendRequest::default()
        };
        let transfer = TransferLeaderRequest { route, from_leader: Some(vote), to: me.node_id, last: None };
        let stream = match client.append(tonic::codegen::tokio_stream::iter([append.clone()])).await {
            Ok(answers) => answers.into_inner().message().await.map(drop),
            Err(status) => Err(status),
        };
        let answers = [
            client.vote(request.clone()).await.map(drop),
            client.pre_vote(request).await.map(drop),
            client.heartbeat(append).await.map(drop),
            client.transfer_leader(transfer).await.map(drop),
            stream,
        ];
        for answer in answers {
            let status = answer.unwrap_err();
            assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{what}: {status:?}");
            assert!(status.message().contains(what), "{what}: {}", status.message());
        }
    }
    cluster.add(n, "key", "value").await?;
    assert_eq!((term(&cluster, n).await?, cluster.leader().await?), before);
    Ok(())
}

/// The original case: a node loses its disk, returns under its name, is removed, and is added
/// again.
#[tokio::test]
async fn a_wiped_disk_does_not_count_until_it_is_removed_and_added_again() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let leader = cluster.leader().await?;
    let (wiped, other) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.add(leader, "key", "value").await?;
    cluster.nodes[wiped].kill()?;
    let name = cluster.nodes[wiped].name.clone();
    std::fs::remove_dir_all(cluster.directory().join(&name))?;
    cluster.nodes[wiped].options.bootstrap = false;
    cluster.nodes[wiped].start().await?;

    // Two of three nodes have the data. When one of them is paused, the empty node must not make a
    // majority.
    cluster.nodes[other].signal(Signal::SIGSTOP)?;
    let request = lockstep_tests::pb::AddRequest { key: "lost".into(), val: "never".into() };
    let mut request = tonic::Request::new(request);
    request.set_timeout(std::time::Duration::from_secs(5));
    let answer = cluster.nodes[leader].client().await?.add(request).await;
    assert!(answer.is_err(), "acknowledged by an empty disk");
    cluster.nodes[other].signal(Signal::SIGCONT)?;
    cluster.nodes[wiped].kill()?;
    let leader = cluster.leader().await?;
    cluster.nodes[wiped].start().await?;

    let request = AddVoterRequest { id: name.clone(), address: cluster.nodes[wiped].raft_addr(), previous_index: 0 };
    let mut manager = cluster.nodes[leader].manager().await?;
    let operation = manager.add_voter(request.clone()).await?.into_inner();
    let error = cluster.finish(leader, operation).await.unwrap_err().to_string();
    assert!(error.contains("remove it first"), "{error}");

    let operation = manager.remove_server(RemoveServerRequest { id: name, previous_index: 0 }).await?.into_inner();
    cluster.finish(leader, operation).await?;
    let operation = manager.add_voter(request).await?.into_inner();
    cluster.finish(leader, operation).await?;
    eventually("the wiped node serves again", || cluster.everyone_reads("key", "value")).await?;
    cluster.nodes[other].kill()?;
    let leader = cluster.leader().await?;
    cluster.add(leader, "key", "without the other").await?;
    Ok(())
}

#[tokio::test]
async fn an_address_where_another_node_answers_is_no_member() -> Result<()> {
    let mut cluster = formed(1, &[]).await?;
    let n = cluster.push(Options::member())?;
    cluster.nodes[n].start().await?;
    // The name is right, but the address is the leader's own.
    let request = AddVoterRequest { id: "nodeB".into(), address: cluster.nodes[0].raft_addr(), previous_index: 0 };
    let operation = cluster.nodes[0].manager().await?.add_voter(request).await?.into_inner();
    let error = cluster.finish(0, operation).await.unwrap_err().to_string();
    assert!(error.contains("nodeA") && error.contains("nodeB"), "{error}");
    cluster.add(0, "still", "works").await?;
    Ok(())
}
