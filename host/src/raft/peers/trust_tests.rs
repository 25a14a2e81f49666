//! Tests the peer port over a real connection: which certificate may speak as which node, and how
//! large a message may be.

use tonic::transport::Channel;

use super::*;
use crate::raft::peers::bounded::SMALL_MESSAGE_BYTES_MAX;
use crate::raft::peers::dial::routed;
use crate::raft::peers::names::tests::certificate;

type Client = peer::peer_client::PeerClient<Channel>;

fn node(name: &str) -> Arc<Certificate> {
    certificate(&format!("lockstep://lockstep/node/{name}"))
}

/// Starts node 2 of a cluster in which it knows node 1 as `node1`. All its connections have shown
/// that certificate.
async fn member(shown: Option<Arc<Certificate>>) -> TestNode {
    let cell = ClusterCell::new(Some(cluster(1)));
    cell.names().set_members(Box::new(|id| (id == 1).then(|| "node1".to_owned())));
    TestNode::start_for(2, cell, TestHost::default(), shown).await
}

fn named(from: NodeId, name: &str) -> Option<peer::Route> {
    Some(peer::Route { from_name: name.into(), ..route(1, from, 2) })
}

async fn read(client: &mut Client, route: Option<peer::Route>) -> Result<(), Status> {
    client.read_index(peer::ReadIndexRequest { route }).await.map(drop)
}

#[tokio::test]
async fn a_message_in_the_name_of_another_node_is_refused_everywhere_and_reaches_nobody() {
    let server = member(Some(node("node3"))).await;
    let mut client = server.client().await;
    let route = || named(1, "node1");
    let append = peer::AppendRequest { route: route(), ..Default::default() };
    let vote = peer::VoteRequest { route: route(), ..Default::default() };
    let header = peer::SnapshotHeader { route: route(), ..Default::default() };
    let snapshot = peer::SnapshotRequest { part: Some(Part::Header(header)) };
    let forward = peer::ForwardRequest { route: route(), ..Default::default() };
    let mut forwarded = client.forward(stream::iter([forward])).await.unwrap().into_inner();
    let mut heard = client.heartbeats(stream::iter([append.clone()])).await.unwrap().into_inner();
    let transfer = peer::TransferLeaderRequest { route: route(), ..Default::default() };
    let moved = peer::Node { name: "node1".into(), ..Default::default() };
    let statuses = [
        client.heartbeat(append).await.map(drop),
        heard.message().await.map(drop),
        client.vote(vote.clone()).await.map(drop),
        client.pre_vote(vote).await.map(drop),
        client.transfer_leader(transfer).await.map(drop),
        client.canvass(peer::CanvassRequest { route: route() }).await.map(drop),
        client.snapshot(stream::iter([snapshot])).await.map(drop),
        forwarded.message().await.map(drop),
        read(&mut client, route()).await,
        client.pass_time(peer::PassTimeRequest { route: route(), until_ms: 1 }).await.map(drop),
        client.standing(peer::StandingRequest { route: route() }).await.map(drop),
        client.set_addresses(peer::SetAddressesRequest { route: route(), node: Some(moved) }).await.map(drop),
        client.fetch_state(peer::FetchStateRequest { route: route() }).await.map(drop),
        client.fetch_component(peer::FetchComponentRequest { route: route(), ..Default::default() }).await.map(drop),
        client.join(peer::JoinRequest { route: route(), ..Default::default() }).await.map(drop),
    ];
    let count = statuses.len() as u64;
    for status in statuses {
        let status = status.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        assert!(status.message().contains("node3") && status.message().contains("node1"), "{status}");
    }
    // Streams are judged once more, for the size of their messages.
    assert_eq!(server.reached.count(), 0);
    assert!(server.cluster.names().refused() >= count);
}

#[tokio::test]
async fn the_node_that_the_certificate_names_is_served() {
    let server = member(Some(node("node1"))).await;
    let mut client = server.client().await;
    read(&mut client, named(1, "node1")).await.unwrap();
    read(&mut client, named(1, "")).await.unwrap();
    let mut frames =
        client.fetch_state(peer::FetchStateRequest { route: named(1, "node1") }).await.unwrap().into_inner();
    assert_eq!(frames.message().await.unwrap().unwrap().frame, "state for 1");
    let lie = read(&mut client, named(1, "node3")).await.unwrap_err();
    assert!(lie.message().contains(r#"says that it is "node3""#), "{lie}");
    assert_eq!(server.reached.count(), 3);
}

#[tokio::test]
async fn a_node_that_is_no_member_yet_is_bound_to_the_name_that_it_has_proven() {
    let server = member(Some(node("node7"))).await;
    let mut client = server.client().await;
    read(&mut client, named(7, "node7")).await.unwrap();
    let other = read(&mut client, named(7, "node8")).await.unwrap_err();
    assert_eq!(other.code(), Code::PermissionDenied, "{other}");
    let unproven = read(&mut client, named(8, "node8")).await.unwrap_err();
    assert_eq!(unproven.code(), Code::PermissionDenied, "{unproven}");
    assert_eq!(server.reached.count(), 1);
}

#[tokio::test]
async fn nobody_stands_for_election_in_the_name_of_another_node() {
    let server = member(Some(node("node3"))).await;
    let mut client = server.client().await;
    let vote = Some(peer::Ballot { term: 9, node: 1, committed: false });
    let in_its_name = peer::VoteRequest { route: named(1, ""), vote, ..Default::default() };
    assert_eq!(client.vote(in_its_name).await.unwrap_err().code(), Code::PermissionDenied);
    let with_its_vote = peer::VoteRequest { route: named(3, "node3"), vote, ..Default::default() };
    // This node runs no Raft, so nothing is granted. `check_vote` refuses it in one that does.
    assert_eq!(client.vote(with_its_vote).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_certificate_that_names_no_node_says_nothing_here() {
    let server = member(Some(certificate("lockstep://lockstep/client/alice"))).await;
    let mut client = server.client().await;
    let status = client.identify(peer::IdentifyRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("names no node"), "{status}");
    assert_eq!(read(&mut client, named(1, "node1")).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_joiner_is_invited_by_the_node_that_the_certificate_names() {
    let cell = ClusterCell::new(None);
    let joiner = TestNode::start_for(2, cell, TestHost::default(), Some(node("node1"))).await;
    let inviting = |name: &str| Addresses { name: name.into(), ..Addresses::default() };
    for (from_name, leader) in [("node3", "node3"), ("node1", "node3")] {
        let route = named(1, from_name).unwrap();
        let error = join::invite(&Dialer::plain(), &at(&joiner.address), route, &genesis(), &inviting(leader)).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("refuses") && error.contains("does not name node"), "{error}");
    }
    assert_eq!((joiner.adopted(), joiner.cluster.get()), (0, None));
}

/// Makes an append that is larger than a small message may be.
fn large_append() -> peer::AppendRequest {
    let log_id = Some(peer::LogId { term: 1, leader: 1, index: 1 });
    let payload = Some(peer::entry::Payload::Normal(vec![7; SMALL_MESSAGE_BYTES_MAX].into()));
    peer::AppendRequest {
        route: named(1, "node1"),
        entries: vec![peer::Entry { log_id, payload }],
        ..Default::default()
    }
}

async fn append(client: &mut Client, request: Request<peer::AppendRequest>) -> Status {
    let answers = client.append(request.map(|message| stream::iter([message]))).await;
    match answers {
        Ok(answers) => answers.into_inner().message().await.unwrap_err(),
        Err(status) => status,
    }
}

#[tokio::test]
async fn a_large_message_takes_a_route_that_is_accepted() {
    let server = member(Some(node("node1"))).await;
    let mut client = server.client().await;
    let accepted = append(&mut client, routed(large_append(), &named(1, "node1").unwrap())).await;
    assert!(accepted.message().contains("runs no Raft instance"), "it was read: {accepted}");
    assert_eq!(server.intake.status().refused, 0);
    // An earlier build has the route in its messages only.
    let accepted = append(&mut client, Request::new(large_append())).await;
    assert!(accepted.message().contains("runs no Raft instance"), "it was read: {accepted}");
    let without = |route| Request::new(peer::AppendRequest { route, ..large_append() });
    let wrong = [
        (without(None), "does not begin with a route"),
        (without(Some(route(9, 1, 2))), "is for cluster"),
        (routed(large_append(), &route(9, 1, 2)), "is for cluster"),
        (routed(large_append(), &route(1, 1, 5)), "is for node"),
        (routed(large_append(), &named(3, "node3").unwrap()), "does not name node"),
        (routed(large_append(), &peer::Route { group: 7, ..named(1, "").unwrap() }), "is for group 7"),
    ];
    let count = wrong.len() as u64;
    for (request, why) in wrong {
        let status = append(&mut client, request).await;
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(status.message().contains(why) && status.message().contains("65536"), "{status}");
    }
    assert_eq!(server.intake.status().refused, count);
}

#[tokio::test]
async fn a_large_frame_of_a_snapshot_follows_a_header_with_a_route() {
    let server = member(Some(node("node1"))).await;
    for (name, is_read) in [("node1", true), ("node3", false)] {
        let header = peer::SnapshotHeader { route: named(1, name), ..Default::default() };
        let frame = Part::Frame(vec![7; 2 * SMALL_MESSAGE_BYTES_MAX].into());
        let parts = [Part::Header(header), frame].map(|part| peer::SnapshotRequest { part: Some(part) });
        let error = server.client().await.snapshot(stream::iter(parts)).await.unwrap_err();
        assert_eq!(error.message().contains("runs no Raft instance"), is_read, "{error}");
    }
}

#[tokio::test]
async fn other_calls_have_small_messages_whatever_their_route_is() {
    let server = member(None).await;
    let mut client = server.client().await;
    let copy = peer::Copy { raft_addr: "x".repeat(SMALL_MESSAGE_BYTES_MAX), ..Default::default() };
    let large = routed(peer::IdentifyRequest { copy: Some(copy), ..Default::default() }, &named(1, "node1").unwrap());
    let status = client.identify(large).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("its messages are small"), "{status}");
    client.identify(peer::IdentifyRequest::default()).await.unwrap();
}

#[tokio::test]
async fn callers_are_believed_only_with_a_certificate() {
    for (shown, is_proven) in [(None, false), (Some(node("node1")), true)] {
        let server = member(shown).await;
        let mut client = server.client().await;
        let request = peer::ForwardRequest { route: named(1, "node1"), ..Default::default() };
        let mut answers = client.forward(stream::iter([request])).await.unwrap().into_inner();
        let answer = answers.message().await.unwrap().unwrap();
        // The handler of these tests answers so.
        assert_eq!(answer.counter, u64::from(is_proven));
    }
}
