//! Tests the peer port over TLS: dialling, and who is believed to be whom.

use super::*;
use crate::tls::made::Made;
use crate::tls::{Audience, Connector, Mode, Server, ServerSettings};

/// Makes the accepting end of a node's port.
fn server(made: &Made, raft_id: &str, mode: Mode) -> Server {
    let audience = Audience::Peers { raft_id: raft_id.to_owned() };
    Server::open(ServerSettings { mode, files: made.node(raft_id), audience }).unwrap()
}

/// Makes what a node with that name dials with.
fn dialler(made: &Made, raft_id: &str, mode: Mode) -> Dialer {
    cell_of(server(made, raft_id, mode).connector(raft_id), raft_id).dialer().clone()
}

fn cell_of(connector: Connector, name: &str) -> ClusterCell {
    let cell = ClusterCell::of_node(Some(cluster(1)), Process::default(), connector, name);
    cell.names().set_members(Box::new(|id| (id < 5).then(|| format!("node{id}"))));
    cell
}

/// Starts node 2, whose certificate names `raft_id`.
async fn start(made: &Made, raft_id: &str, mode: Mode) -> TestNode {
    let server = server(made, raft_id, mode);
    let cell = cell_of(server.connector(raft_id), "node2");
    TestNode::start_at(Port::new("raft", 64).encrypted_by(server), 2, cell, TestHost::default(), None).await
}

async fn read(dialer: &Dialer, node: &TestNode, expect: Expect, from: NodeId) -> Result<u64, Status> {
    let mut client = dial::client(dialer.lazy(&node.address, expect).unwrap());
    Ok(client.read_index(peer::ReadIndexRequest { route: Some(route(1, from, 2)) }).await?.into_inner().index)
}

fn expect(name: &str) -> Expect {
    Expect::named(name)
}

#[tokio::test]
async fn a_peer_is_who_its_certificate_says() {
    let made = Made::new();
    let node = start(&made, "node2", Mode::Require).await;
    let dialer = dialler(&made, "node1", Mode::Require);
    assert_eq!(read(&dialer, &node, expect("node2"), 1).await.unwrap(), 10);
    let other = read(&dialer, &node, expect("node2"), 3).await.unwrap_err();
    assert_eq!(other.code(), Code::PermissionDenied, "{other}");
    assert!(other.message().contains("lockstep://prod/node/node1"), "{other}");
    assert_eq!(node.reached.count(), 1);
    let found = join::identify(&dialer, &node.address, Duration::ZERO).await.unwrap();
    assert_eq!(found.node_id, 2);
}

#[tokio::test]
async fn a_connection_to_another_node_than_the_expected_one_is_not_used() {
    let made = Made::new();
    let node = start(&made, "node2", Mode::Require).await;
    let dialer = dialler(&made, "node1", Mode::Require);
    let error = read(&dialer, &node, expect("node3"), 1).await.unwrap_err();
    let words = crate::raft::peers::network::describe(&error);
    assert!(words.contains(r#"does not name node "node3""#), "{words}");
    assert_eq!(node.reached.count(), 0);
}

#[tokio::test]
async fn who_answers_in_the_name_of_another_node_is_not_believed() {
    let made = Made::new();
    // It says that it is node2.
    let node = start(&made, "node9", Mode::Require).await;
    let dialer = dialler(&made, "node1", Mode::Require);
    let error = join::identify(&dialer, &node.address, Duration::ZERO).await.unwrap_err().to_string();
    assert!(error.contains("node9") && error.contains(r#"does not name node "node2""#), "{error}");
}

#[tokio::test]
async fn a_node_that_is_being_moved_to_tls_speaks_with_those_that_are_not() {
    let made = Made::new();
    let prefers = dialler(&made, "node1", Mode::Prefer);
    let plain = start(&made, "node2", Mode::Off).await;
    assert_eq!(read(&prefers, &plain, expect("node2"), 1).await.unwrap(), 10);
    let node = start(&made, "node2", Mode::Prefer).await;
    assert_eq!(read(&Dialer::plain(), &node, expect("node2"), 1).await.unwrap(), 10);
    // With a certificate, it counts.
    assert_eq!(read(&prefers, &node, expect("node2"), 1).await.unwrap(), 10);
    assert_eq!(read(&prefers, &node, expect("node2"), 3).await.unwrap_err().code(), Code::PermissionDenied);
    let strict = start(&made, "node2", Mode::Require).await;
    assert_eq!(read(&prefers, &strict, expect("node2"), 1).await.unwrap(), 10);
    assert!(read(&Dialer::plain(), &strict, expect("node2"), 1).await.is_err());
    assert_eq!(strict.reached.count(), 1);
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused_and_not_replaced_by_plain_text() {
    let (made, foreign) = (Made::new(), Made::new());
    let node = start(&made, "node2", Mode::Prefer).await;
    let dialer = dialler(&foreign, "node1", Mode::Prefer);
    let error = read(&dialer, &node, expect("node2"), 1).await.unwrap_err();
    let words = crate::raft::peers::network::describe(&error);
    assert!(words.contains("CA"), "{words}");
    assert_eq!(node.reached.count(), 0);
}
