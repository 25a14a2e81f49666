//! Forged numbers on the peer port: no message, with any route, brings a cluster to a term or an
//! index that has no successor.

use anyhow::{Result, ensure};
use lockstep_tests::peer::peer_client::PeerClient;
use lockstep_tests::peer::{
    AppendRequest, Ballot, IdentifyRequest, LogId, Membership, Route, SnapshotHeader, SnapshotRequest,
    TransferLeaderRequest, VoteRequest, snapshot_request,
};
use lockstep_tests::{Cluster, eventually, formed};
use tonic::codegen::tokio_stream;

/// More elections than may come by themselves while this runs.
const ELECTIONS_MAX: u64 = 1_000;

async fn term(cluster: &Cluster, n: usize) -> Result<u64> {
    Ok(cluster.nodes[n].stat().await?["raft"]["term"].as_u64().unwrap_or(u64::MAX))
}

/// Sends a ballot in every way in which a member saves a vote, and returns the answers.
async fn send_all(to: &str, route: Route, ballot: Ballot, last: LogId) -> Result<Vec<Result<(), tonic::Status>>> {
    // A port for peers, which the client crate does not speak to.
    let mut client = PeerClient::connect(format!("http://{to}")).await?;
    let route = Some(route);
    let vote = |leadership_transfer| VoteRequest {
        route: route.clone(),
        vote: Some(Ballot { committed: false, ..ballot }),
        last: Some(last),
        leadership_transfer,
    };
    let append = AppendRequest {
        route: route.clone(),
        vote: Some(Ballot { committed: true, ..ballot }),
        leader_commit: Some(last),
        ..AppendRequest::default()
    };
    let transfer =
        TransferLeaderRequest { route: route.clone(), from_leader: Some(ballot), to: ballot.node, last: Some(last) };
    let header = SnapshotHeader {
        route: route.clone(),
        vote: Some(Ballot { committed: true, ..ballot }),
        last: Some(last),
        membership_log_id: Some(last),
        membership: Some(Membership::default()),
    };
    let snapshot = SnapshotRequest { part: Some(snapshot_request::Part::Header(header)) };
    let streamed = match client.append(tokio_stream::iter([append.clone()])).await {
        Ok(answers) => answers.into_inner().message().await.map(drop),
        Err(status) => Err(status),
    };
    let installed = match client.snapshot(tokio_stream::iter([snapshot])).await {
        Ok(answers) => answers.into_inner().message().await.map(drop),
        Err(status) => Err(status),
    };
    Ok(vec![
        client.vote(vote(true)).await.map(drop),
        client.vote(vote(false)).await.map(drop),
        client.pre_vote(vote(false)).await.map(drop),
        client.heartbeat(append).await.map(drop),
        client.transfer_leader(transfer).await.map(drop),
        streamed,
        installed,
    ])
}

/// One forged vote of the last term, with `leadership_transfer`, once ended a cluster for good: no
/// node could be elected after it.
#[tokio::test]
async fn a_term_that_no_election_brings_is_refused_before_it_is_saved() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let mut ids = Vec::new();
    for node in &cluster.nodes {
        let mut client = PeerClient::connect(format!("http://{}", node.raft_addr())).await?;
        ids.push(client.identify(IdentifyRequest::default()).await?.into_inner());
    }
    let now = term(&cluster, 0).await?;
    for (n, node) in cluster.nodes.iter().enumerate() {
        let (me, from) = (&ids[n], ids[(n + 1) % 3].node_id);
        let route = Route {
            cluster_id: me.cluster_id.clone(),
            incarnation: me.incarnation,
            from,
            to: me.node_id,
            ..Route::default()
        };
        let far = now + (1 << 32) + ELECTIONS_MAX;
        for (term, last_term, index) in [
            (u64::MAX, u64::MAX, u64::MAX),
            (u64::MAX - 1, 1, 1),
            (far, 1, 1),
            (1 << 63, 1, 1),
            // Not the vote, but what stands beside it.
            (now + 1, 1, u64::MAX),
            (now + 1, u64::MAX, 1),
        ] {
            let ballot = Ballot { term, node: from, committed: false };
            let last = LogId { term: last_term, leader: from, index };
            for (way, answer) in send_all(&node.raft_addr(), route.clone(), ballot, last).await?.into_iter().enumerate()
            {
                let status = answer.err();
                let code = status.as_ref().map(tonic::Status::code);
                ensure!(
                    code == Some(tonic::Code::InvalidArgument),
                    "{term} {last_term} {index}, way {way}: {status:?}"
                );
            }
        }
        node.has_logged(&["refused a peer message"]).await?;
    }
    eventually("they agree on a leader that writes", || cluster.add(0, "key", "value")).await?;
    // Elections of their own may have come between, each of which takes one term.
    for n in 0..3 {
        let term = term(&cluster, n).await?;
        ensure!(term <= now + ELECTIONS_MAX, "node {n} is in term {term}, and the cluster was in {now}");
    }
    let leader = cluster.leader().await?;
    cluster.nodes[leader].kill()?;
    let other = cluster.leader().await?;
    eventually("they elect another one", || cluster.add(other, "key", "elected")).await?;
    Ok(())
}
