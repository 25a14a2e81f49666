//! Tests the peer port over a real connection, without a Raft instance: which messages are
//! accepted, which are refused, and that a refusal changes nothing.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tonic::Code;

use super::*;
use crate::codec::{Change, Genesis};
use crate::net::Port;
use crate::raft::membership::Members;
use crate::raft::membership::join;
use crate::raft::membership::join::{ComponentId, JoinOffer};
use crate::raft::peers::dial;
use crate::raft::peers::dial::{Dialer, Expect};
use crate::raft::peers::groups::{GroupParts, Groups};
use crate::raft::peers::link::{Channels, Links};
use crate::raft::{Canvass, GroupCell, LogTime, Presence, RaftCell, Timeouts};
use crate::tls::Certificate;
use crate::types::{Addresses, Cluster, hex};

#[path = "fakes_tests.rs"]
mod fakes;

use fakes::{NoStates, Reached};

const COMPONENT: &[u8] = b"pretend that this is wasm";

/// A node as far as this folder needs it.
#[derive(Default)]
struct TestHost {
    component: Option<ComponentId>,
    holds: Option<Vec<u8>>,
    adopted: Mutex<Vec<JoinOffer>>,
}

/// Shared, because `adopt` must outlive the call.
#[derive(Clone, Default)]
struct Shared(Arc<TestHost>);

impl Host for Shared {
    fn boot(&self) -> u64 {
        4
    }
    fn component(&self) -> Option<ComponentId> {
        self.0.component
    }
    fn profile(&self) -> Option<(u64, Genesis)> {
        None
    }
    fn load_component(&self, hash: &[u8; 32]) -> Result<Option<Vec<u8>>, String> {
        Ok(self.0.holds.clone().filter(|bytes| blake3::hash(bytes).as_bytes() == hash))
    }
    fn adopt(&self, offer: JoinOffer) -> BoxFuture<'static, Result<(), String>> {
        self.0.adopted.lock().push(offer);
        Box::pin(async { Ok(()) })
    }
    fn prepare(&self, _: Change, _: Option<(Addresses, peer::Route)>) -> BoxFuture<'static, Result<String, String>> {
        Box::pin(async { Err("not under test".into()) })
    }
}

struct TestNode {
    address: String,
    cluster: ClusterCell,
    host: Shared,
    reached: Reached,
    intake: Intake,
}

impl TestNode {
    async fn start(id: NodeId, cluster: Option<Cluster>, host: TestHost) -> TestNode {
        TestNode::start_cell(id, ClusterCell::new(cluster), host).await
    }

    async fn start_cell(id: NodeId, cluster: ClusterCell, host: TestHost) -> TestNode {
        TestNode::start_for(id, cluster, host, None).await
    }

    /// Starts a node all of whose connections have shown that certificate.
    async fn start_for(id: NodeId, cluster: ClusterCell, host: TestHost, shown: Option<Arc<Certificate>>) -> TestNode {
        TestNode::start_at(Port::new("raft", 64), id, cluster, host, shown).await
    }

    async fn start_at(
        port: Port,
        id: NodeId,
        cluster: ClusterCell,
        host: TestHost,
        shown: Option<Arc<Certificate>>,
    ) -> TestNode {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let node = Addresses { name: format!("node{id}"), raft_addr: address.clone(), grpc_addr: String::new() };
        let me = Me { node_id: id, node };
        let raft = RaftCell::default();
        let (host, reached) = (Shared(Arc::new(host)), Reached::default());
        let group = GroupCell::new(cluster.clone(), GROUP);
        let links = Links::new(id, group.clone(), raft.clone(), Channels::default(), Duration::from_secs(1));
        let canvass = Canvass::new(raft.clone(), links.clone(), Presence::default(), Timeouts::default());
        let members = Members::new(
            me.clone(),
            links,
            raft.clone(),
            Arc::new(host.clone()),
            Timeouts::default(),
            Duration::from_secs(60),
        );
        let groups = Groups::default();
        groups.serve(GroupParts {
            me: id,
            cluster: group,
            raft,
            canvass,
            members,
            refuses_entries: Arc::new(|_| None),
            states: Arc::new(NoStates),
            snapshots: Arc::new(reached.clone()),
            log_time: LogTime::default(),
            forward: Arc::new(reached.clone()),
            leader: Arc::new(reached.clone()),
            source: Arc::new(reached.clone()),
            changes: Arc::new(reached.clone()),
        });
        let rest = Arc::new(host.clone());
        let service =
            PeerService::new(Parts { me, cluster: cluster.clone(), host: rest, groups, intake: Intake::default() });
        let intake = service.intake.clone();
        let of_connection = move |remote: Remote| {
            let certificate = shown.clone().or(remote.certificate);
            service.of_connection(Remote { certificate, ..remote })
        };
        tokio::spawn(
            async move { net::serve(&port, vec![listener], LIMITS, of_connection, std::future::pending()).await },
        );
        TestNode { address, cluster, host, reached, intake }
    }

    async fn client(&self) -> peer::peer_client::PeerClient<tonic::transport::Channel> {
        dial::client(Dialer::plain().lazy(&self.address, Expect::AnyNode).unwrap())
    }

    fn adopted(&self) -> usize {
        self.host.0.adopted.lock().len()
    }
}

fn component_hash() -> [u8; 32] {
    *blake3::hash(COMPONENT).as_bytes()
}

fn cluster(id: u8) -> Cluster {
    Cluster { id: [id; 16], incarnation: 1, component_hash: component_hash() }
}

fn route(id: u8, from: NodeId, to: NodeId) -> peer::Route {
    GroupCell::new(ClusterCell::new(Some(cluster(id))), GROUP).route(from, to).unwrap()
}

fn genesis() -> Genesis {
    Genesis {
        cluster_id: Bytes::from(vec![1; 16]),
        component_hash: component_hash().to_vec().into(),
        source_hash: vec![8; 32].into(),
        semantics: 1,
        limits_json: "{}".into(),
    }
}

/// A node of which only the address is known.
fn at(address: &str) -> Addresses {
    Addresses { raft_addr: address.to_owned(), ..Addresses::default() }
}

fn holder() -> TestHost {
    TestHost { holds: Some(COMPONENT.to_vec()), ..TestHost::default() }
}

#[tokio::test]
async fn a_wrong_route_is_refused_everywhere_and_reaches_nobody() {
    let node = TestNode::start(2, Some(cluster(1)), TestHost::default()).await;
    let mut client = node.client().await;
    for wrong in [Some(route(9, 1, 2)), Some(route(1, 1, 3)), None] {
        let append = peer::AppendRequest { route: wrong.clone(), ..Default::default() };
        let vote = peer::VoteRequest { route: wrong.clone(), ..Default::default() };
        let header = peer::SnapshotHeader { route: wrong.clone(), ..Default::default() };
        let snapshot = peer::SnapshotRequest { part: Some(Part::Header(header)) };
        let forward = peer::ForwardRequest { route: wrong.clone(), ..Default::default() };
        let mut forwarded = client.forward(stream::iter([forward])).await.unwrap().into_inner();
        let mut appended = client.append(stream::iter([append.clone()])).await.unwrap().into_inner();
        let mut heard = client.heartbeats(stream::iter([append.clone()])).await.unwrap().into_inner();
        let statuses = [
            client.heartbeat(append).await.map(drop),
            heard.message().await.map(drop),
            client.vote(vote.clone()).await.map(drop),
            client.pre_vote(vote).await.map(drop),
            client
                .transfer_leader(peer::TransferLeaderRequest { route: wrong.clone(), ..Default::default() })
                .await
                .map(drop),
            appended.message().await.map(drop),
            client.snapshot(stream::iter([snapshot])).await.map(drop),
            forwarded.message().await.map(drop),
            client.read_index(peer::ReadIndexRequest { route: wrong.clone() }).await.map(drop),
            client.pass_time(peer::PassTimeRequest { route: wrong.clone(), until_ms: 1 }).await.map(drop),
            client
                .fetch_component(peer::FetchComponentRequest { route: wrong.clone(), ..Default::default() })
                .await
                .map(drop),
            client.standing(peer::StandingRequest { route: wrong.clone() }).await.map(drop),
            client.set_addresses(peer::SetAddressesRequest { route: wrong.clone(), node: None }).await.map(drop),
            client.fetch_state(peer::FetchStateRequest { route: wrong.clone() }).await.map(drop),
        ];
        for status in statuses {
            assert_eq!(status.unwrap_err().code(), Code::FailedPrecondition);
        }
    }
    assert_eq!(node.reached.count(), 0);
}

#[tokio::test]
async fn a_node_in_no_cluster_says_who_it_is_and_refuses_raft_traffic() {
    let node = TestNode::start(2, None, TestHost::default()).await;
    let found = join::identify(&Dialer::plain(), &node.address, Duration::ZERO).await.unwrap();
    assert_eq!((found.node_id, found.boot, found.cluster_id.len()), (2, 4, 0));
    assert_eq!(found.node.unwrap().name, "node2");
    let vote = peer::VoteRequest { route: Some(route(1, 1, 2)), ..Default::default() };
    let refused = node.client().await.vote(vote).await.unwrap_err();
    assert!(refused.message().contains("in no cluster yet"), "{refused}");
}

#[tokio::test]
async fn the_right_route_reaches_the_handlers() {
    let node = TestNode::start(2, Some(cluster(1)), TestHost::default()).await;
    let mut client = node.client().await;
    let read = client.read_index(peer::ReadIndexRequest { route: Some(route(1, 7, 2)) }).await.unwrap();
    assert_eq!(read.into_inner().index, 70);
    let passed = client.pass_time(peer::PassTimeRequest { route: Some(route(1, 7, 2)), until_ms: 3 }).await.unwrap();
    assert_eq!(passed.into_inner().index, 73);
    // The answers are open before the first command is sent.
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut answers = client.forward(stream).await.unwrap().into_inner();
    for term in [5, 6] {
        let request = peer::ForwardRequest { route: Some(route(1, 7, 2)), leader_term: term, ..Default::default() };
        sender.send(request).await.unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap().leader_term, term);
    }
    let stranger = peer::ForwardRequest { route: Some(route(1, 8, 2)), ..Default::default() };
    sender.send(stranger).await.unwrap();
    assert!(answers.message().await.unwrap_err().message().contains("one sender"));
}

#[tokio::test]
async fn a_joiner_fetches_the_component_and_enters_once() {
    let leader = TestNode::start(1, Some(cluster(1)), holder()).await;
    let joiner = TestNode::start(2, None, TestHost::default()).await;
    let inviting = Addresses { name: "node1".into(), raft_addr: leader.address.clone(), grpc_addr: String::new() };
    join::invite(&Dialer::plain(), &at(&joiner.address), route(1, 1, 2), &genesis(), &inviting).await.unwrap();
    assert_eq!(joiner.cluster.get(), Some(cluster(1)));
    {
        let adopted = joiner.host.0.adopted.lock();
        assert_eq!(adopted[0].component.as_deref(), Some(COMPONENT));
        assert_eq!(adopted[0].genesis, genesis());
    }
    join::invite(&Dialer::plain(), &at(&joiner.address), route(1, 1, 2), &genesis(), &inviting).await.unwrap();
    assert_eq!(joiner.adopted(), 1, "asked again it changes nothing");
    let error = join::invite(&Dialer::plain(), &at(&joiner.address), route(3, 1, 2), &genesis(), &inviting)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains(&hex(&[1; 16])) && error.contains(&hex(&[3; 16])), "{error}");
    assert_eq!(joiner.cluster.get(), Some(cluster(1)));
}

#[tokio::test]
async fn a_joiner_that_brought_the_component_fetches_nothing() {
    let brought = ComponentId { hash: component_hash(), source_hash: [9; 32] };
    let joiner = TestNode::start(2, None, TestHost { component: Some(brought), ..TestHost::default() }).await;
    let nowhere = Addresses { raft_addr: "127.0.0.1:1".into(), ..Addresses::default() };
    join::invite(&Dialer::plain(), &at(&joiner.address), route(1, 1, 2), &genesis(), &nowhere).await.unwrap();
    assert!(joiner.host.0.adopted.lock()[0].component.is_none());
}

#[tokio::test]
async fn a_joiner_that_encoded_the_same_source_otherwise_fetches_what_is_recorded() {
    let leader = TestNode::start(1, Some(cluster(1)), holder()).await;
    let brought = ComponentId { hash: [7; 32], source_hash: [8; 32] };
    let joiner = TestNode::start(2, None, TestHost { component: Some(brought), ..TestHost::default() }).await;
    let inviting = Addresses { name: "node1".into(), raft_addr: leader.address.clone(), grpc_addr: String::new() };
    join::invite(&Dialer::plain(), &at(&joiner.address), route(1, 1, 2), &genesis(), &inviting).await.unwrap();
    assert_eq!(joiner.host.0.adopted.lock()[0].component.as_deref(), Some(COMPONENT));
}

#[tokio::test]
async fn a_joiner_with_another_component_refuses_and_names_both() {
    let brought = ComponentId { hash: [5; 32], source_hash: [6; 32] };
    let joiner = TestNode::start(2, None, TestHost { component: Some(brought), ..TestHost::default() }).await;
    let error = join::invite(&Dialer::plain(), &at(&joiner.address), route(1, 1, 2), &genesis(), &Addresses::default())
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&hex(&[5; 32])) && text.contains(&hex(&component_hash())), "{text}");
    assert_eq!((joiner.adopted(), joiner.cluster.get()), (0, None));
}

#[tokio::test]
async fn a_component_that_is_not_what_was_recorded_is_refused() {
    let leader = TestNode::start(1, Some(cluster(1)), holder()).await;
    let reply = route(1, 2, 1);
    let fetched =
        join::fetch_component(&Dialer::plain(), &at(&leader.address), reply.clone(), component_hash()).await.unwrap();
    assert_eq!(fetched, COMPONENT);
    let error = join::fetch_component(&Dialer::plain(), &at(&leader.address), reply, [0; 32]).await.unwrap_err();
    assert!(error.message().contains("does not hold component 0000"), "{error}");
}

#[tokio::test]
async fn localhost_is_tried_at_every_address() {
    // The server listens on one family only; the name resolves to both on most machines.
    let node = TestNode::start(2, None, TestHost::default()).await;
    let port = node.address.rsplit_once(':').unwrap().1;
    let found = join::identify(&Dialer::plain(), &format!("localhost:{port}"), Duration::ZERO).await.unwrap();
    assert_eq!(found.node_id, 2);
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_named() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = join::identify(&Dialer::plain(), &address, Duration::ZERO).await.unwrap_err().to_string();
    assert!(error.contains(&address), "{error}");
}

/// The boot number that [`Shared`] returns.
const BOOT: u64 = 4;

fn process(boot: u64, nonce: u64) -> Process {
    Process { boot, nonce }
}

/// Creates a member that finds node 2 at the peer port of a real process of node 2.
async fn member_and(there: Process) -> (TestNode, crate::raft::Processes) {
    let node = TestNode::start_cell(2, ClusterCell::of_process(Some(cluster(1)), there), TestHost::default()).await;
    let member = crate::raft::Processes::new(process(1, 1000), Dialer::plain());
    let address = node.address.clone();
    member.set_addresses(Box::new(move |_| Some(address.clone())));
    (node, member)
}

#[tokio::test]
async fn a_later_start_is_refused_while_the_one_before_answers() {
    let (node, member) = member_and(process(BOOT, 40)).await;
    member.admit_elsewhere(2, process(BOOT, 40)).await.unwrap();
    let status = member.admit(2, process(BOOT + 2, 60)).await.unwrap_err();
    assert!(status.message().contains("takes part as process 0000000000000028 of start 4"), "{}", status.message());
    assert_eq!(member.admit_now(2, process(BOOT + 2, 60)).unwrap_err().code(), Code::FailedPrecondition);
    member.admit_now(2, process(BOOT, 40)).unwrap();
    assert_eq!(member.refused(), 1);
    drop(node);
}

#[tokio::test]
async fn a_later_start_that_answers_at_the_address_is_admitted_at_once() {
    let (_node, member) = member_and(process(BOOT, 40)).await;
    member.admit_elsewhere(2, process(BOOT - 1, 30)).await.unwrap_err();
    let (_node, member) = member_and(process(BOOT, 40)).await;
    member
        .answered(2, &{
            let mut headers = tonic::metadata::MetadataMap::new();
            crate::raft::Processes::new(process(BOOT - 1, 30), Dialer::plain()).sign(&mut headers);
            headers
        })
        .unwrap();
    member.admit(2, process(BOOT, 40)).await.unwrap();
    assert_eq!(member.refused(), 0);
}

/// A copy speaks before its original does, to a member that has just started.
#[tokio::test]
async fn who_speaks_first_from_elsewhere_yields_to_who_answers_at_the_address() {
    let (_node, member) = member_and(process(BOOT, 40)).await;
    member.admit(2, process(BOOT, 41)).await.unwrap();
    while member.refused() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(member.admit(2, process(BOOT, 41)).await.is_err());
    member.admit(2, process(BOOT, 40)).await.unwrap();
}

#[tokio::test]
async fn nobody_votes_for_a_process_whose_place_was_not_looked_at() {
    let (_node, member) = member_and(process(BOOT, 40)).await;
    member.admit(2, process(BOOT, 41)).await.unwrap();
    assert!(member.admit_to_vote(2, process(BOOT, 41)).await.is_err());
    member.admit_to_vote(2, process(BOOT, 40)).await.unwrap();
}

#[tokio::test]
async fn a_message_of_a_copy_gets_no_further_than_the_gate() {
    let me = ClusterCell::of_process(Some(cluster(1)), process(1, 1000));
    let node = TestNode::start_cell(2, me, TestHost::default()).await;
    let sender = |boot, nonce| GroupCell::new(ClusterCell::of_process(Some(cluster(1)), process(boot, nonce)), GROUP);
    let mut client = node.client().await;
    for (cell, reaches) in [(sender(3, 30), 1), (sender(3, 31), 1), (sender(2, 20), 1), (sender(4, 40), 2)] {
        let request = peer::ReadIndexRequest { route: cell.route(5, 2) };
        let answer = client.read_index(request).await;
        assert_eq!(node.reached.count(), reaches);
        if let Err(status) = answer {
            cell.note(&status);
            assert!(cell.processes().original().borrow().is_some(), "{status:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_says_which_process_gives_it_and_news_arrive() {
    let (node, member) = member_and(process(BOOT, 40)).await;
    let answer = node.client().await.identify(peer::IdentifyRequest::default()).await.unwrap();
    assert_eq!(answer.get_ref().nonce, 40);
    member.answered(2, answer.metadata()).unwrap();
    let copy = peer::Copy { node: 2, boot: BOOT, nonce: 41, takes_part: true, raft_addr: "x:1".into() };
    node.client().await.identify(peer::IdentifyRequest { copy: Some(copy), ..Default::default() }).await.unwrap();
    assert_eq!(*node.cluster.processes().doubts().borrow(), 1);
}

#[path = "change_tests.rs"]
mod changes;

#[path = "trust_tests.rs"]
mod trust;

#[path = "encrypted_tests.rs"]
mod encrypted;
