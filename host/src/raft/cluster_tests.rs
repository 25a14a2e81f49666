//! Tests whole clusters in one process: real disks, real connections, real Raft, and no guest
//! (entries are blank).
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use lockstep_proto::peer;
use lockstep_proto::peer::Route;
use openraft::EntryPayload;
use openraft::async_runtime::WatchReceiver;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tonic::Status;

use super::membership::join::{ComponentId, Host, JoinOffer};
use super::peers::groups::{GroupParts, Groups};
use super::peers::handlers::{
    ChangeHandler, ForwardHandler, Forwarder, LeaderHandler, PreparedChange, StateFrames, StateSource, Trial,
};
use super::peers::install::Installer;
use super::peers::link::{Channels, Links};
use super::peers::service::Parts;
use crate::codec::{Change, Genesis};
use crate::machine::{self, Executor, Machine, QueryPool, RollbackTrial};
use crate::net::Port;
use crate::raft::membership::MembershipError;
use crate::raft::{
    Canvass, ClusterCell, GroupCell, Intake, LogTime, Me, Members, NetworkFactory, PeerService, Presence, Raft,
    RaftCell, Timeouts,
};
use crate::store::{Checkpoints, DataDir, Log, LogDisk, Space, State};
use crate::types::{Addresses, Cluster, Fatal, GROUP, Membership, NodeId};

const COMPONENT: &[u8] = b"pretend that this is wasm";

/// Longest wait in a test. It is long because the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

struct TestHost;

impl Host for TestHost {
    fn boot(&self) -> u64 {
        1
    }
    fn component(&self) -> Option<ComponentId> {
        None
    }
    fn profile(&self) -> Option<(u64, Genesis)> {
        let component_hash = blake3::hash(COMPONENT).as_bytes().to_vec().into();
        Some((1, Genesis { component_hash, ..Genesis::default() }))
    }
    fn load_component(&self, _hash: &[u8; 32]) -> Result<Option<Vec<u8>>, String> {
        Ok(Some(COMPONENT.to_vec()))
    }
    fn adopt(&self, _offer: JoinOffer) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
    fn prepare(&self, _: Change, _: Option<(Addresses, Route)>) -> BoxFuture<'static, Result<String, String>> {
        Box::pin(async { Err("not under test".into()) })
    }
}

/// Serves no commands: the command path is not under test here.
struct Nobody;

impl ForwardHandler for Nobody {
    fn forward(
        &self,
        _from: Forwarder,
        _requests: BoxStream<'static, Result<peer::ForwardRequest, Status>>,
    ) -> BoxStream<'static, Result<peer::ForwardResponse, Status>> {
        futures::stream::empty().boxed()
    }
}

impl LeaderHandler for Nobody {
    fn read_index(&self, _from: NodeId) -> BoxFuture<'static, Result<u64, Status>> {
        Box::pin(async { Err(Status::failed_precondition("not under test")) })
    }
    fn pass_time(&self, _from: NodeId, _until_ms: u64) -> BoxFuture<'static, Result<u64, Status>> {
        Box::pin(async { Err(Status::failed_precondition("not under test")) })
    }
}

impl ChangeHandler for Nobody {
    fn object(&self, _: &crate::codec::entry::Operation) -> Option<String> {
        None
    }
    fn prepare(&self, _: NodeId, _: Change, _: Addresses) -> BoxFuture<'static, Result<PreparedChange, String>> {
        Box::pin(async { Err("not under test".into()) })
    }
    fn rehearse(&self, _: Trial) -> BoxFuture<'static, Result<String, String>> {
        Box::pin(async { Err("not under test".into()) })
    }
    fn prepare_rollback(&self, _: RollbackTrial) -> BoxFuture<'static, Result<String, String>> {
        Box::pin(async { Err("not under test".into()) })
    }
}

impl StateSource for Nobody {
    fn fetch_state(&self, _from: NodeId) -> BoxFuture<'static, Result<StateFrames, Status>> {
        Box::pin(async { Err(Status::failed_precondition("not under test")) })
    }
}

struct TestNode {
    me: Me,
    cluster: GroupCell,
    raft: RaftCell,
    members: Members,
    machine: Machine,
    log: Log,
    catch_up: Duration,
    stop: Option<oneshot::Sender<()>>,
    /// Kept open so that the lock and the directory go last.
    _place: (DataDir, TempDir),
}

impl TestNode {
    /// Starts a node with a running Raft instance that is in no cluster yet.
    async fn start(id: NodeId, name: &str) -> TestNode {
        Self::start_with(id, name, Duration::from_secs(30), true).await
    }

    async fn start_with(id: NodeId, name: &str, catch_up: Duration, with_raft: bool) -> TestNode {
        let place = tempfile::tempdir().unwrap();
        let directory = DataDir::open(place.path()).unwrap();
        let fatal = Fatal::default();
        let log = LogDisk::open(&directory, fatal.clone()).unwrap().log(GROUP).unwrap();
        let (machine, state_machine) = machine::open(machine::Options {
            state: State::open(&directory, GROUP).unwrap(),
            checkpoints: Checkpoints::open(&directory, GROUP).unwrap(),
            log: log.clone(),
            space: Space::open(&directory, 0).unwrap(),
            fatal,
            snapshot_pace: Default::default(),
            queries: QueryPool::start(1, 1).unwrap(),
            executor: Executor::default(),
            restores_snapshot: true,
        })
        .unwrap();
        let (cluster, raft) = (GroupCell::new(ClusterCell::new(None), GROUP), RaftCell::default());
        let me = Me { node_id: id, node: Addresses { name: name.into(), ..Addresses::default() } };
        let links = links(&me, &cluster, &raft);
        if with_raft {
            let network = NetworkFactory::new(links, 1, machine.snapshots().clone(), timeouts(), LogTime::default());
            let config = Arc::new(timeouts().config("test").unwrap());
            raft.set(Raft::new(id, config, network, log.clone(), state_machine).await.unwrap());
        }
        let members = members(&me, &cluster, &raft, catch_up);
        let mut node =
            TestNode { me, cluster, raft, members, machine, log, catch_up, stop: None, _place: (directory, place) };
        node.listen().await;
        node
    }

    /// Serves at a new address, and no longer at the one before.
    async fn listen(&mut self) {
        drop(self.stop.take());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        self.me.node.grpc_addr = format!("client-of-{address}");
        self.me.node.raft_addr = address;
        self.members = members(&self.me, &self.cluster, &self.raft, self.catch_up);
        let groups = Groups::default();
        groups.serve(GroupParts {
            me: self.me.node_id,
            cluster: self.cluster.clone(),
            raft: self.raft.clone(),
            canvass: self.canvass(),
            members: self.members.clone(),
            refuses_entries: Arc::new(|_| None),
            states: Arc::new(self.machine.clone()),
            snapshots: Arc::new(Installer::new(self.machine.clone(), None)),
            log_time: LogTime::default(),
            forward: Arc::new(Nobody),
            leader: Arc::new(Nobody),
            source: Arc::new(Nobody),
            changes: Arc::new(Nobody),
        });
        let (me, cluster) = (self.me.clone(), self.cluster.node().clone());
        let (host, intake) = (Arc::new(TestHost), Intake::default());
        let service = PeerService::new(Parts { me, cluster, host, groups, intake });
        let (stop, stopped) = oneshot::channel::<()>();
        self.stop = Some(stop);
        tokio::spawn(async move {
            service.serve(&Port::new("raft", 64), vec![listener], async { drop(stopped.await) }).await
        });
    }

    fn canvass(&self) -> Canvass {
        let links = links(&self.me, &self.cluster, &self.raft);
        Canvass::new(self.raft.clone(), links, Presence::default(), timeouts())
    }

    /// Starts the first node of a cluster and waits until it leads.
    async fn bootstrapped(id: NodeId, name: &str, catch_up: Duration) -> TestNode {
        let node = Self::start_with(id, name, catch_up, true).await;
        let component_hash = *blake3::hash(COMPONENT).as_bytes();
        assert!(node.cluster.node().set(Cluster { id: [1; 16], incarnation: 0, component_hash }));
        node.raft().initialize(BTreeMap::from([(id, node.me.node.clone())])).await.unwrap();
        node.wait_leader(id).await;
        node
    }

    fn raft(&self) -> Arc<Raft> {
        self.raft.get().unwrap()
    }

    async fn wait_leader(&self, leader: NodeId) {
        let leads = |metrics: &openraft::RaftMetrics<_>| metrics.current_leader == Some(leader);
        self.raft().wait(Some(PATIENCE)).metrics(leads, "the leader").await.unwrap();
    }

    async fn write(&self, entries: usize) -> u64 {
        let mut index = 0;
        for _ in 0..entries {
            index = self.raft().write_blank().await.unwrap().log_id.index;
        }
        index
    }

    async fn applied(&self, index: u64) {
        tokio::time::timeout(PATIENCE, self.machine.wait_applied(index)).await.unwrap();
    }

    async fn add_voter(&self, other: &TestNode) -> u64 {
        self.members.add_voter(&other.me.node.name, &other.me.node.raft_addr, 0).await.unwrap()
    }

    fn voters(&self) -> Vec<(String, bool)> {
        let configuration = self.members.configuration().unwrap();
        configuration.servers.into_iter().map(|server| (server.node.name, server.voter)).collect()
    }

    async fn stop(self) {
        self.raft().shutdown().await.unwrap();
        self.machine.close().await.unwrap();
        self.log.close();
    }
}

fn timeouts() -> Timeouts {
    Timeouts { heartbeat: Duration::from_secs(2), election: Duration::from_secs(10) }
}

fn members(me: &Me, cluster: &GroupCell, raft: &RaftCell, catch_up: Duration) -> Members {
    let links = links(me, cluster, raft);
    Members::new(me.clone(), links, raft.clone(), Arc::new(TestHost), timeouts(), catch_up)
}

fn links(me: &Me, cluster: &GroupCell, raft: &RaftCell) -> Links {
    Links::new(me.node_id, cluster.clone(), raft.clone(), Channels::default(), Duration::from_secs(1))
}

fn set(members: &[(&str, bool)]) -> Vec<(String, bool)> {
    members.iter().map(|(name, voter)| ((*name).to_owned(), *voter)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_forms_hands_leadership_over_and_shrinks() {
    let a = TestNode::bootstrapped(1, "nodeA", PATIENCE).await;
    let (b, c) = (TestNode::start(2, "nodeB").await, TestNode::start(3, "nodeC").await);
    a.write(20).await;

    let index = a.add_voter(&b).await;
    assert_eq!(a.members.configuration().unwrap().index, index);
    let stale = a.members.add_voter("nodeC", &c.me.node.raft_addr, index - 1).await.unwrap_err();
    assert!(matches!(stale, MembershipError::ConfigurationChanged { found, .. } if found == index));
    a.add_voter(&c).await;
    assert_eq!(a.add_voter(&c).await, a.members.configuration().unwrap().index, "again is no change");
    let last = a.write(20).await;
    for node in [&a, &b, &c] {
        node.applied(last).await;
        assert_eq!(node.voters(), set(&[("nodeA", true), ("nodeB", true), ("nodeC", true)]));
    }

    let refused = b.members.remove("nodeC", 0).await.unwrap_err().to_string();
    assert!(refused.starts_with("node is not the leader; the leader is nodeA at client-of-"), "{refused}");
    let stranger = a.members.add_voter("nodeX", &b.me.node.raft_addr, 0).await.unwrap_err();
    assert!(matches!(stranger, MembershipError::OtherName { .. }));

    a.members.transfer_leadership_to("nodeB").await.unwrap();
    b.wait_leader(2).await;
    b.members.demote("nodeC", 0).await.unwrap();
    assert_eq!(b.voters(), set(&[("nodeA", true), ("nodeB", true), ("nodeC", false)]));
    b.members.remove("nodeC", 0).await.unwrap();
    assert_eq!(b.voters(), set(&[("nodeA", true), ("nodeB", true)]));
    b.members.transfer_leadership().await.unwrap();
    a.wait_leader(1).await;
    for node in [a, b, c] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_behind_the_purged_log_gets_a_snapshot() {
    let a = TestNode::bootstrapped(1, "nodeA", PATIENCE).await;
    a.applied(a.write(50).await).await;
    let taken = a.machine.snapshots().take().await.unwrap();
    a.raft().trigger().snapshot().await.unwrap();
    let wait = a.raft().wait(Some(PATIENCE));
    wait.metrics(|metrics| metrics.snapshot.is_some_and(|id| id.index == taken), "a snapshot").await.unwrap();
    a.raft().trigger().purge_log(taken).await.unwrap();
    wait.metrics(|metrics| metrics.purged.is_some_and(|id| id.index == taken), "a purge").await.unwrap();

    let b = TestNode::start(2, "nodeB").await;
    a.members.add_learner("nodeB", &b.me.node.raft_addr, 0).await.unwrap();
    b.applied(a.write(3).await).await;
    assert!(b.raft().metrics().borrow_watched().purged.is_some(), "its log begins behind the snapshot");
    b.applied(a.add_voter(&b).await).await;
    assert_eq!(b.machine.hash_tip(), a.machine.hash_tip());
    for node in [a, b] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_that_does_not_catch_up_is_taken_out_again() {
    let a = TestNode::bootstrapped(1, "nodeA", Duration::from_millis(500)).await;
    let deaf = TestNode::start_with(2, "nodeB", PATIENCE, false).await;
    let error = a.members.add_voter("nodeB", &deaf.me.node.raft_addr, 0).await.unwrap_err();
    assert!(matches!(error, MembershipError::NotCaughtUp { .. }), "{error}");
    assert_eq!(a.voters(), set(&[("nodeA", true)]));
    a.write(1).await;
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_moved_is_recorded_and_reached_at_its_new_address() {
    let a = TestNode::bootstrapped(1, "nodeA", PATIENCE).await;
    let mut b = TestNode::start(2, "nodeB").await;
    a.add_voter(&b).await;
    b.applied(a.write(1).await).await;

    let before = b.me.node.raft_addr.clone();
    b.listen().await;
    assert_ne!(b.me.node.raft_addr, before);
    tokio::time::timeout(PATIENCE, b.members.announce_addresses()).await.unwrap();
    let servers = a.members.configuration().unwrap().servers;
    assert_eq!(servers[1].node, b.me.node);
    b.applied(a.write(3).await).await;
    for node in [a, b] {
        node.stop().await;
    }
}

/// openraft's own way to change several voters leaves this configuration behind when its leader is
/// lost between the two entries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joint_configuration_that_was_left_behind_is_finished_by_the_next_leader() {
    let a = TestNode::bootstrapped(1, "nodeA", PATIENCE).await;
    let (b, c) = (TestNode::start(2, "nodeB").await, TestNode::start(3, "nodeC").await);
    a.add_voter(&b).await;
    a.add_voter(&c).await;
    let now = a.raft().metrics().borrow_watched().membership_config.clone();
    let nodes: BTreeMap<NodeId, Addresses> = now.membership().nodes().map(|(id, node)| (*id, node.clone())).collect();
    let joint = Membership::new(vec![[1, 2, 3].into(), [1, 2].into()], nodes).unwrap();
    a.raft().append_membership(joint, EntryPayload::Blank, []).await.unwrap();
    a.members.transfer_leadership_to("nodeB").await.unwrap();
    let duty = b.members.clone();
    tokio::spawn(async move { duty.finish_changes().await });
    let uniform =
        |metrics: &openraft::RaftMetrics<_>| metrics.membership_config.membership().get_joint_config().len() == 1;
    for node in [&a, &b, &c] {
        node.raft().wait(Some(PATIENCE)).metrics(uniform, "a uniform configuration").await.unwrap();
        assert_eq!(node.voters(), set(&[("nodeA", true), ("nodeB", true), ("nodeC", false)]));
    }
    for node in [a, b, c] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_that_nobody_takes_is_taken_back() {
    let a = TestNode::bootstrapped(1, "nodeA", PATIENCE).await;
    let (b, c) = (TestNode::start(2, "nodeB").await, TestNode::start(3, "nodeC").await);
    a.add_voter(&b).await;
    a.add_voter(&c).await;
    let rafts = [b.raft(), c.raft()];
    for (node, raft) in [&b, &c].into_iter().zip(&rafts) {
        node.applied(a.write(1).await).await;
        // These nodes never stand by themselves, and from now on they answer nothing. A moment ago
        // they answered.
        raft.runtime_config().elect(false);
        node.raft.clear();
    }
    let error = a.members.transfer_leadership().await.unwrap_err().to_string();
    assert!(error.contains("2 voters were asked"), "{error}");
    for (node, raft) in [&b, &c].into_iter().zip(&rafts) {
        node.raft.set((**raft).clone());
    }
    let written = async {
        while a.raft().write_blank().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, written).await.expect("the old leader leads again and takes commands");
    for node in [a, b, c] {
        node.stop().await;
    }
}

/// A node whose build is too old for an entry applies nothing. As the leader it would keep the
/// whole cluster from taking commands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stands_back_takes_no_lead_and_still_votes() {
    let a = TestNode::bootstrapped(1, "nodeA", PATIENCE).await;
    let (b, c) = (TestNode::start(2, "nodeB").await, TestNode::start(3, "nodeC").await);
    a.add_voter(&b).await;
    a.add_voter(&c).await;
    let written = a.write(1).await;
    for node in [&b, &c] {
        node.applied(written).await;
    }
    b.raft.stand_back();
    let error = a.members.transfer_leadership_to("nodeB").await.unwrap_err().to_string();
    assert!(error.contains("1 voters were asked and none took over"), "{error}");
    let led_by_another = |metrics: &openraft::RaftMetrics<_>| metrics.current_leader.is_some_and(|leader| leader != 2);
    b.raft().wait(Some(PATIENCE)).metrics(led_by_another, "a leader").await.unwrap();
    // Without the first node, the third needs the vote of the second one.
    a.stop().await;
    c.wait_leader(3).await;
    assert!(!b.raft().is_leader());
    for node in [b, c] {
        node.stop().await;
    }
}
