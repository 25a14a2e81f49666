//! Owns the membership and its changes: adds, demotes and removes nodes, hands leadership over,
//! records new addresses. Runs on the leader; on other nodes it only names the leader. Never waits
//! without a limit.
//!
//! - Changes are made one at a time, each of one node. A joint configuration that was left behind
//!   is finished first (`change`).
//! - A node enters as a learner and becomes a voter only once it has caught up, so a dead joiner
//!   never counts in a quorum.
//! - A name belongs to one disk: a known name with another node id must be removed first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_proto::peer::IdentifyResponse;
use openraft::async_runtime::WatchReceiver;
use openraft::{ChangeMembers, RaftMetrics};

use super::peers::link::{HEARTBEAT_STREAMS_MAX, Links};
use super::peers::wire;
use crate::codec::{Genesis, JOINER_LEVEL_MIN};
use crate::limit::Limit;
use crate::raft::{Me, Process, Raft, RaftCell, Timeouts};
use crate::types::{Addresses, LogId, Membership, NodeId, TypeConfig, hex};
use join::{Host, JoinError};

mod announce;
pub mod builds;
mod change;
mod error;
pub mod join;
mod nearer;
pub(in crate::raft) mod removal;
pub mod standing;
mod transfer;

use change::Change;
pub use error::MembershipError;
use nearer::Nearer;

/// Most entries by which a learner may be behind the leader's log when it becomes a voter.
const CAUGHT_UP_ENTRIES: u64 = 1_024;

/// Time between two checks for the genesis of a cluster that was just bootstrapped.
const GENESIS_POLL: Duration = Duration::from_millis(10);

/// Time between two looks at the progress of a learner.
const CATCH_UP_LOOK: Duration = Duration::from_secs(1);

/// Time for which a joiner that does not answer yet is tried.
const JOINER_PATIENCE: Duration = Duration::from_secs(10);

type Metrics = RaftMetrics<TypeConfig>;
type Changes = ChangeMembers<NodeId, Addresses>;

/// A member, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The node id, minted with its data directory.
    pub id: NodeId,
    /// Name and addresses.
    pub node: Addresses,
    /// Whether it votes, in any of the sets of a joint configuration.
    pub voter: bool,
    /// Whether the answering node takes it for the leader.
    pub leader: bool,
}

/// The configuration in force, committed or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// Log index of the entry that set it; 0 while there is none.
    pub index: u64,
    /// The members, ordered by name.
    pub servers: Vec<Server>,
}

/// The role that a server is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suffrage {
    Voter,
    Nonvoter,
}

/// Handle for the membership. Cheap to clone; clones share the lock that serialises changes.
#[derive(Clone)]
pub struct Members(Arc<Inner>);

struct Inner {
    me: Me,
    links: Links,
    raft: RaftCell,
    host: Arc<dyn Host>,
    timeouts: Timeouts,
    catch_up: Duration,
    one_change: tokio::sync::Mutex<()>,
    /// Separate from `one_change`: a node that stops hands over at once, whatever change is under
    /// way. That change then fails at its next entry, because this node no longer leads.
    one_transfer: tokio::sync::Mutex<()>,
}

impl Members {
    /// Creates the handle. A new voter is removed again when it has made no progress for
    /// `catch_up`, by entries or by a snapshot on its way.
    pub fn new(
        me: Me,
        links: Links,
        raft: RaftCell,
        host: Arc<dyn Host>,
        timeouts: Timeouts,
        catch_up: Duration,
    ) -> Self {
        let (one_change, one_transfer) = Default::default();
        Members(Arc::new(Inner { me, links, raft, host, timeouts, catch_up, one_change, one_transfer }))
    }

    /// Returns the configuration as this node knows it. Every node answers.
    pub fn configuration(&self) -> Result<Configuration, MembershipError> {
        let metrics = metrics(&*self.raft()?);
        let voters: BTreeSet<NodeId> = metrics.membership_config.voter_ids().collect();
        let mut servers: Vec<Server> = metrics
            .membership_config
            .nodes()
            .map(|(&id, node)| Server {
                id,
                node: node.clone(),
                voter: voters.contains(&id),
                leader: metrics.current_leader == Some(id),
            })
            .collect();
        servers.sort_by(|a, b| (&a.node.name, a.id).cmp(&(&b.node.name, b.id)));
        Ok(Configuration { index: configuration_index(&metrics), servers })
    }

    /// Returns how many times a second process of a member's identity was noticed.
    pub fn copies_refused(&self) -> u64 {
        self.0.links.cluster().processes().refused()
    }

    /// Returns how many peers' messages and answers were refused for their certificate.
    pub fn certificates_refused(&self) -> u64 {
        self.0.links.cluster().node().names().refused()
    }

    /// Returns how near the limit of heartbeat streams is, on the channel that has most.
    pub fn heartbeat_limit(&self) -> Limit {
        Limit::new("heartbeat_streams", self.0.links.heartbeat_streams(), HEARTBEAT_STREAMS_MAX)
    }

    /// Adds the node at `raft_addr` as a voter, or makes a learner a voter. The node must be named
    /// `name`. Returns the index of the configuration once it is applied here. `previous_index` 0:
    /// no precondition.
    pub async fn add_voter(&self, name: &str, raft_addr: &str, previous_index: u64) -> Result<u64, MembershipError> {
        self.add(name, raft_addr, previous_index, Suffrage::Voter).await
    }

    /// Adds the node at `raft_addr` as a learner: it follows the log and serves reads, and does not
    /// vote. A voter stays a voter.
    pub async fn add_learner(&self, name: &str, raft_addr: &str, previous_index: u64) -> Result<u64, MembershipError> {
        self.add(name, raft_addr, previous_index, Suffrage::Nonvoter).await
    }

    /// Takes the vote from a server and keeps it as a learner.
    pub async fn demote(&self, name: &str, previous_index: u64) -> Result<u64, MembershipError> {
        let change = self.begin(previous_index).await?;
        let id = change.by_name(name)?;
        if !change.is_voter(id) {
            return Ok(change.index());
        }
        let index = change.set_voter(id, false, true).await?;
        // A node without a vote must not lead, and openraft lets a demoted leader go on.
        if id == self.0.me.node_id
            && let Err(error) = self.transfer_leadership().await
        {
            tracing::warn!(%error, "demoted, and still the leader; transfer leadership by hand");
        }
        Ok(index)
    }

    /// Removes a server, voter or not. Its process goes on and serves nothing (`standing`). A
    /// leader that removes itself hands over.
    pub async fn remove(&self, name: &str, previous_index: u64) -> Result<u64, MembershipError> {
        let change = self.begin(previous_index).await?;
        let id = change.by_name(name)?;
        if !change.is_voter(id) {
            return change.apply(ChangeMembers::RemoveNodes([id].into()), false).await;
        }
        // A leader that removes itself goes on until this is committed; then openraft hands
        // leadership over. It will not hear from its successor, so nothing here could wait for one.
        change.set_voter(id, false, false).await
    }

    /// Records the addresses that a member reports for itself. Its name cannot change.
    pub async fn set_addresses(&self, id: NodeId, node: Addresses) -> Result<u64, MembershipError> {
        let change = self.begin(0).await?;
        let known =
            change.membership().get_node(&id).ok_or_else(|| MembershipError::UnknownServer(node.name.clone()))?;
        if known.name != node.name {
            return Err(MembershipError::OtherName {
                address: node.raft_addr,
                found: node.name,
                asked: known.name.clone(),
            });
        }
        if *known == node {
            return Ok(change.index());
        }
        tracing::info!(member = %node, "a member has new addresses");
        change.apply(ChangeMembers::SetNodes([(id, node)].into()), true).await
    }

    async fn add(&self, name: &str, address: &str, previous: u64, wanted: Suffrage) -> Result<u64, MembershipError> {
        // Checked before the joiner is asked, which may take long and must not block other changes.
        // Checked again when it is this change's turn.
        let index = self.begin(previous).await?.index();
        if address == self.0.me.node.raft_addr && name == self.0.me.node.name {
            return Ok(index);
        }
        let found = join::identify(self.0.links.cluster().dialer(), address, JOINER_PATIENCE).await?;
        let change = self.begin(previous).await?;
        let node = check_joiner(name, address, &found, change.membership())?;
        check_build(name, &found)?;
        self.check_process(address, &found, change.membership()).await?;
        self.let_in(address, &found, &node).await?;
        let id = found.node_id;
        let known = change.membership().get_node(&id).cloned();
        let newcomer = known.is_none();
        let mut index = change.index();
        if newcomer {
            index = change.apply(ChangeMembers::AddNodes([(id, node.clone())].into()), true).await?;
            tracing::info!(member = %node, index, "added a learner");
        } else if known.as_ref() != Some(&node) {
            index = change.apply(ChangeMembers::SetNodes([(id, node.clone())].into()), true).await?;
        }
        if wanted == Suffrage::Nonvoter || change.is_voter(id) {
            return Ok(index);
        }
        if let Err(error) = self.caught_up(&change.raft, id, &node, index).await {
            if newcomer {
                roll_back(&change, id, &node).await;
            }
            return Err(error);
        }
        tracing::info!(member = %node, "a learner has caught up and gets its vote");
        let index = change.set_voter(id, true, true).await?;
        tracing::info!(member = %node, index, "added a voter");
        Ok(index)
    }

    /// Checks a known member's process: a member that answers at another address has moved there,
    /// or was copied.
    async fn check_process(
        &self,
        address: &str,
        found: &IdentifyResponse,
        membership: &Membership,
    ) -> Result<(), MembershipError> {
        if membership.get_node(&found.node_id).is_none() {
            return Ok(());
        }
        let process = Process { boot: found.boot, nonce: found.nonce };
        let admitted = self.0.links.cluster().processes().admit_elsewhere(found.node_id, process).await;
        let refused =
            |status: tonic::Status| JoinError::Refused { address: address.into(), reason: status.message().into() };
        Ok(admitted.map_err(refused)?)
    }

    /// Makes the joiner a node of this cluster, if it is not one already.
    async fn let_in(&self, address: &str, found: &IdentifyResponse, node: &Addresses) -> Result<(), MembershipError> {
        let inner = &self.0;
        let stopped = || MembershipError::Stopped("this node is in no cluster".into());
        let ours = inner.links.cluster().get().ok_or_else(stopped)?;
        if found.cluster_id[..] == ours.id && found.incarnation == ours.incarnation {
            return Ok(());
        }
        if found.cluster_id[..] == ours.id {
            return Err(MembershipError::LeftBehind {
                name: node.name.clone(),
                theirs: found.incarnation,
                ours: ours.incarnation,
            });
        }
        if !found.cluster_id.is_empty() {
            return Err(MembershipError::OtherCluster {
                name: node.name.clone(),
                theirs: hex(&found.cluster_id),
                ours: ours.id_hex(),
            });
        }
        let profile = self.profile().await?;
        let route = inner.links.cluster().route(inner.me.node_id, found.node_id).ok_or_else(stopped)?;
        let joiner = Addresses { raft_addr: address.to_owned(), ..node.clone() };
        let dialer = inner.links.cluster().dialer();
        Ok(join::invite(dialer, &joiner, route, &profile, &inner.me.node).await?)
    }

    /// Waits as long as the learner makes progress: a large state takes time.
    async fn caught_up(&self, raft: &Raft, id: NodeId, node: &Addresses, since: u64) -> Result<(), MembershipError> {
        let limit = self.0.catch_up;
        let me = self.0.me.node_id;
        let decided = |metrics: &Metrics| metrics.current_leader != Some(me) || is_close(metrics, id, since);
        let (mut nearer, mut moved) = (Nearer::default(), Instant::now());
        loop {
            match raft.wait(Some(limit.min(CATCH_UP_LOOK))).metrics(decided, "a learner catches up").await {
                Ok(metrics) if metrics.current_leader == Some(me) => return Ok(()),
                Ok(metrics) => return Err(MembershipError::NotLeader { leader: leader_node(&metrics) }),
                Err(_) => {}
            }
            let now = metrics(raft);
            if nearer.came(matched(&now, id), self.0.host.sending_to(id)) {
                moved = Instant::now();
            }
            if moved.elapsed() >= limit {
                let reason = match matched(&now, id) {
                    Some(index) => format!("it has {index} of {} entries", now.last_log_index.unwrap_or(0)),
                    None => "it has acknowledged nothing".into(),
                };
                return Err(MembershipError::NotCaughtUp { name: node.name.clone(), limit, reason });
            }
        }
    }

    fn raft(&self) -> Result<Arc<Raft>, MembershipError> {
        self.0.raft.get().ok_or_else(|| MembershipError::Stopped("no instance".into()))
    }

    /// Returns the profile in force. The first leader proposes one as soon as it leads.
    async fn profile(&self) -> Result<Genesis, MembershipError> {
        let deadline = tokio::time::Instant::now() + self.0.timeouts.election;
        loop {
            match self.0.host.profile() {
                Some((_, profile)) => return Ok(profile),
                None if tokio::time::Instant::now() > deadline => return Err(MembershipError::NoGenesis),
                None => tokio::time::sleep(GENESIS_POLL).await,
            }
        }
    }
}

async fn roll_back(change: &Change<'_>, id: NodeId, node: &Addresses) {
    match change.apply(ChangeMembers::RemoveNodes([id].into()), false).await {
        Ok(index) => tracing::warn!(member = %node, index, "took a learner out that did not catch up"),
        Err(error) => {
            tracing::error!(member = %node, %error, "cannot take a learner out that did not catch up; remove it by hand")
        }
    }
}

/// Checks that the node that answered is the intended one. Returns the node to record in the
/// configuration.
fn check_joiner(
    name: &str,
    address: &str,
    found: &IdentifyResponse,
    membership: &Membership,
) -> Result<Addresses, MembershipError> {
    let node = wire::decode_node(found.node.clone().unwrap_or_default());
    if node.name != name {
        return Err(MembershipError::OtherName { address: address.into(), found: node.name, asked: name.into() });
    }
    match find_name(membership, name) {
        Some(known) if known != found.node_id => {
            Err(MembershipError::OtherDisk { name: name.into(), known, found: found.node_id })
        }
        _ => Ok(node),
    }
}

/// Refuses a node whose build passes over entries that this one applies: its state would become
/// another one.
fn check_build(name: &str, found: &IdentifyResponse) -> Result<(), MembershipError> {
    match found.entry_field < JOINER_LEVEL_MIN {
        true => Err(MembershipError::OlderBuild { name: name.into() }),
        false => Ok(()),
    }
}

fn find_name(membership: &Membership, name: &str) -> Option<NodeId> {
    membership.nodes().find(|(_, node)| node.name == name).map(|(&id, _)| id)
}

/// Cloned at once: a borrow that is held would stop the core.
fn metrics(raft: &Raft) -> Metrics {
    raft.metrics().borrow_watched().clone()
}

fn configuration_index(metrics: &Metrics) -> u64 {
    metrics.membership_config.log_id().as_ref().map_or(0, |id: &LogId| id.index)
}

fn leader_node(metrics: &Metrics) -> Option<Addresses> {
    metrics.current_leader.and_then(|id| metrics.membership_config.get_node(&id).cloned())
}

fn matched(metrics: &Metrics, id: NodeId) -> Option<u64> {
    let replication: &BTreeMap<NodeId, Option<LogId>> = metrics.replication.as_ref()?;
    replication.get(&id)?.as_ref().map(|id| id.index)
}

fn is_close(metrics: &Metrics, id: NodeId, since: u64) -> bool {
    let last = metrics.last_log_index.unwrap_or(0);
    matched(metrics, id).is_some_and(|index| index >= since && last - index.min(last) <= CAUGHT_UP_ENTRIES)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn node(name: &str) -> Addresses {
        Addresses { name: name.into(), raft_addr: format!("{name}:1"), grpc_addr: format!("{name}:2") }
    }

    fn membership() -> Membership {
        Membership::new(vec![[1].into()], BTreeMap::from([(1, node("nodeA")), (2, node("nodeB"))])).unwrap()
    }

    fn found(id: NodeId, name: &str) -> IdentifyResponse {
        IdentifyResponse { node_id: id, node: Some(wire::encode_node(&node(name))), ..Default::default() }
    }

    #[test]
    fn a_newcomer_and_a_known_node_pass() {
        assert_eq!(check_joiner("nodeC", "x:1", &found(3, "nodeC"), &membership()).unwrap(), node("nodeC"));
        assert_eq!(check_joiner("nodeB", "x:1", &found(2, "nodeB"), &membership()).unwrap(), node("nodeB"));
    }

    #[test]
    fn a_node_of_another_name_is_refused_with_both_names() {
        let error = check_joiner("nodeC", "x:1", &found(3, "nodeD"), &membership()).unwrap_err().to_string();
        assert_eq!(error, r#"the node at x:1 is "nodeD", not "nodeC""#);
    }

    #[test]
    fn a_known_name_on_another_disk_must_be_removed_first() {
        let error = check_joiner("nodeB", "x:1", &found(9, "nodeB"), &membership()).unwrap_err();
        assert!(matches!(error, MembershipError::OtherDisk { known: 2, found: 9, .. }));
        assert!(error.to_string().contains("remove it first"));
    }

    #[test]
    fn a_node_whose_build_passes_over_entries_is_refused() {
        let of_build = |entry_field| IdentifyResponse { entry_field, ..found(3, "nodeC") };
        assert!(check_build("nodeC", &of_build(JOINER_LEVEL_MIN)).is_ok());
        let error = check_build("nodeC", &of_build(JOINER_LEVEL_MIN - 1)).unwrap_err().to_string();
        assert!(error.contains(r#"the build of Lockstep of "nodeC""#), "{error}");
    }

    #[test]
    fn a_follower_names_its_leader() {
        let error = MembershipError::NotLeader { leader: Some(node("nodeA")) };
        assert_eq!(error.to_string(), "node is not the leader; the leader is nodeA at nodeA:2");
        let error = MembershipError::NotLeader { leader: None };
        assert!(error.to_string().starts_with("node is not the leader; no leader is known"));
    }
}
