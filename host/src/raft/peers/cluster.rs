//! Holds this node's cluster, which others claim its place, and what all parts need to talk to
//! peers ([`ClusterCell`]), and for each group what members said of this node's removal
//! ([`GroupCell`]). Checks every peer message first. Never does IO: `processes` makes the checks
//! that must ask another node.
//!
//! - A message is refused and changes nothing if it comes from another cluster, another incarnation
//!   or another group, or is meant for another node.
//! - A node joins one cluster in its life; [`ClusterCell::set`] refuses a second one.

use std::sync::Arc;

use lockstep_proto::peer::Route;
use tokio::sync::watch;

use super::bounds::INDEX_END;
use super::dial::Dialer;
use super::names::Names;
use crate::raft::membership::removal;
use crate::raft::{Process, Processes};
use crate::tls::Connector;
use crate::types::{Cluster, GroupId, NodeId, hex};

/// The node's cluster, shared by all code that talks to peers. Set on bootstrap, on join, or from
/// the disk at start.
#[derive(Clone, Debug)]
pub struct ClusterCell(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cluster: watch::Sender<Option<Cluster>>,
    /// The latest member of another cluster that took this node for one of its own.
    claim: watch::Sender<Option<Claim>>,
    /// The reason why this node runs but serves nobody: another node has its identity or its
    /// address.
    dispute: watch::Sender<Option<String>>,
    processes: Processes,
    names: Names,
    dialer: Dialer,
}

/// A claim of another cluster on this node. One of its members has sent a message here, to an
/// address from its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The other cluster, in hex.
    pub cluster: String,
    /// The member for which it takes this node.
    pub as_node: NodeId,
    /// The sender.
    pub from: NodeId,
}

/// Why a peer message was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The message has no route, so it is not one of ours.
    #[error("the message has no route")]
    Missing,
    /// Raft traffic came before a Join.
    #[error(
        "this node ({me:016x}) is in no cluster yet; the message is for cluster {theirs}. Was it a member there, and has lost its directory? Then remove \
         it from that cluster, and add it again"
    )]
    InNoCluster {
        /// This node.
        me: NodeId,
        /// The sender's cluster, in hex.
        theirs: String,
    },
    /// Two clusters share an address.
    #[error("the message is for cluster {theirs}, this node is in cluster {ours}")]
    OtherCluster {
        /// The sender's cluster, in hex.
        theirs: String,
        /// This node's cluster, in hex.
        ours: String,
    },
    /// One side was recovered from a lost majority and the other was not.
    #[error(
        "the message is of incarnation {theirs} of cluster {cluster}, this node of incarnation {ours}; the older one was left behind by a recovery"
    )]
    OtherIncarnation {
        /// The cluster, in hex.
        cluster: String,
        /// The sender's incarnation.
        theirs: u32,
        /// This node's incarnation.
        ours: u32,
    },
    /// This node holds no such group.
    #[error("the message is for group {theirs}, which this node does not serve")]
    OtherGroup {
        /// The sender's group.
        theirs: GroupId,
    },
    /// An address has changed hands, or a disk was wiped.
    #[error("the message is for node {theirs:016x}, this is node {me:016x}")]
    OtherNode {
        /// The node that the sender meant.
        theirs: NodeId,
        /// This node.
        me: NodeId,
    },
    /// A node dialled itself.
    #[error("the message names this node ({0:016x}) as its sender")]
    Myself(NodeId),
}

impl From<RouteError> for tonic::Status {
    fn from(error: RouteError) -> Self {
        tonic::Status::failed_precondition(error.to_string())
    }
}

impl ClusterCell {
    /// Creates a cell from the identity on disk. Nothing tells its process apart from another one.
    pub fn new(cluster: Option<Cluster>) -> Self {
        ClusterCell::of_process(cluster, Process::default())
    }

    /// Creates a cell from the identity on disk, for this process. Its node has no certificate.
    pub fn of_process(cluster: Option<Cluster>, process: Process) -> Self {
        ClusterCell::of_node(cluster, process, Connector::plain(), "")
    }

    /// Creates a cell from the identity on disk, for this process of the node with that name.
    /// `connector` has the node's certificate.
    pub fn of_node(cluster: Option<Cluster>, process: Process, connector: Connector, name: &str) -> Self {
        let names = Names::new(connector.clone(), name);
        let dialer = Dialer::new(connector, names.clone());
        ClusterCell(Arc::new(Inner {
            cluster: watch::channel(cluster).0,
            claim: watch::channel(None).0,
            dispute: watch::channel(None).0,
            processes: Processes::new(process, dialer.clone()),
            names,
            dialer,
        }))
    }

    /// Returns the record of which process of each member takes part.
    pub fn processes(&self) -> &Processes {
        &self.0.processes
    }

    /// Returns who each node is by name.
    pub fn names(&self) -> &Names {
        &self.0.names
    }

    /// Returns what dials peers.
    pub fn dialer(&self) -> &Dialer {
        &self.0.dialer
    }

    /// Returns the cluster, if this node is in one.
    pub fn get(&self) -> Option<Cluster> {
        self.0.cluster.borrow().clone()
    }

    /// Enters a cluster. Returns false and changes nothing if this node is in another one already.
    /// The caller has stamped the disk.
    pub fn set(&self, cluster: Cluster) -> bool {
        let mut accepted = true;
        self.0.cluster.send_if_modified(|slot| match slot {
            None => {
                *slot = Some(cluster.clone());
                // A node that founded no cluster because it belongs to another one has now joined
                // that one.
                self.0.dispute.send_replace(None);
                true
            }
            Some(current) => {
                accepted = current.id == cluster.id && current.incarnation == cluster.incarnation;
                false
            }
        });
        accepted
    }

    /// Follows the members of other clusters that take this node for one of theirs.
    pub fn claims(&self) -> watch::Receiver<Option<Claim>> {
        self.0.claim.subscribe()
    }

    /// Sets the reason why this node serves nobody. The first reason stays.
    pub fn begin_dispute(&self, why: String) {
        self.0.dispute.send_if_modified(|slot| {
            let is_first = slot.is_none();
            if is_first {
                *slot = Some(why);
            }
            is_first
        });
    }

    /// Follows the reason that [`ClusterCell::begin_dispute`] set.
    pub fn disputes(&self) -> watch::Receiver<Option<String>> {
        self.0.dispute.subscribe()
    }

    /// Waits until this node is in a cluster.
    pub async fn joined(&self) -> Cluster {
        let mut receiver = self.0.cluster.subscribe();
        let cluster = receiver.wait_for(Option::is_some).await.expect("the sender lives as long as self");
        cluster.clone().expect("waited for Some")
    }

    /// Checks whether a message is for this node and returns its sender, whichever group it is for.
    /// Must be called before any state changes.
    pub fn check(&self, route: Option<&Route>, me: NodeId) -> Result<NodeId, RouteError> {
        let route = route.ok_or(RouteError::Missing)?;
        {
            let slot = self.0.cluster.borrow();
            let Some(cluster) = slot.as_ref() else {
                self.claimed(route);
                return Err(RouteError::InNoCluster { me, theirs: hex(&route.cluster_id) });
            };
            same_cluster(route, cluster).inspect_err(|error| {
                if matches!(error, RouteError::OtherCluster { .. }) {
                    self.claimed(route);
                }
            })?;
        }
        check_ends(route, me)?;
        Ok(route.from)
    }

    fn claimed(&self, route: &Route) {
        let claim = Claim { cluster: hex(&route.cluster_id), as_node: route.to, from: route.from };
        self.0.claim.send_if_modified(|known| {
            let is_news = known.as_ref() != Some(&claim);
            if is_news {
                *known = Some(claim);
            }
            is_news
        });
    }
}

/// The part of one group in this node's cluster. Clones share it.
#[derive(Clone, Debug)]
pub struct GroupCell {
    cluster: ClusterCell,
    group: GroupId,
    /// The greatest index of a configuration of which a member said that this node is not in it.
    removed_at: watch::Sender<Option<u64>>,
}

impl GroupCell {
    /// Creates the cell of a group. Nobody has said yet that this node was removed from it.
    pub fn new(cluster: ClusterCell, group: GroupId) -> GroupCell {
        GroupCell { cluster, group, removed_at: watch::channel(None).0 }
    }

    /// Returns the group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// Returns the cell of the whole node.
    pub fn node(&self) -> &ClusterCell {
        &self.cluster
    }

    /// Returns the cluster, if this node is in one.
    pub fn get(&self) -> Option<Cluster> {
        self.cluster.get()
    }

    /// Returns the record of which process of each member takes part.
    pub fn processes(&self) -> &Processes {
        self.cluster.processes()
    }

    /// Returns what dials peers.
    pub fn dialer(&self) -> &Dialer {
        self.cluster.dialer()
    }

    /// Notes that a member said: this node is not in the committed configuration of entry `index`.
    /// `standing` decides whether that counts.
    pub fn told_removed(&self, index: u64) {
        if index >= INDEX_END {
            return;
        }
        self.removed_at.send_if_modified(|told| {
            let is_news = *told < Some(index);
            if is_news {
                *told = Some(index);
            }
            is_news
        });
    }

    /// Notes what a refusal says of this node's removal and of processes.
    pub fn note(&self, refusal: &tonic::Status) {
        if let Some(index) = removal::told(refusal) {
            self.told_removed(index);
        }
        self.processes().note(refusal);
    }

    /// Follows what members said of this node's removal.
    pub fn removals(&self) -> watch::Receiver<Option<u64>> {
        self.removed_at.subscribe()
    }

    /// Returns the route for a message of this group from `from` to `to`. `None` while this node is
    /// in no cluster.
    pub fn route(&self, from: NodeId, to: NodeId) -> Option<Route> {
        let slot = self.cluster.0.cluster.borrow();
        slot.as_ref().map(|cluster| Route {
            cluster_id: cluster.id.to_vec().into(),
            incarnation: cluster.incarnation,
            group: self.group,
            from,
            to,
            nonce: self.processes().mine().nonce,
            boot: self.processes().mine().boot,
            from_name: self.cluster.names().mine().to_owned(),
        })
    }

    /// Checks like [`ClusterCell::check`], and whether the message is for this group.
    pub fn check(&self, route: Option<&Route>, me: NodeId) -> Result<NodeId, RouteError> {
        let from = self.cluster.check(route, me)?;
        match route.map_or(self.group, |route| route.group) {
            group if group == self.group => Ok(from),
            theirs => Err(RouteError::OtherGroup { theirs }),
        }
    }
}

/// Checks receiver and sender. A Join needs this part too, and it comes before there is a cluster.
pub(crate) fn check_ends(route: &Route, me: NodeId) -> Result<(), RouteError> {
    if route.to != me {
        Err(RouteError::OtherNode { theirs: route.to, me })
    } else if route.from == me {
        Err(RouteError::Myself(me))
    } else {
        Ok(())
    }
}

/// Checks whether the route names our cluster, in our incarnation.
pub(crate) fn same_cluster(route: &Route, cluster: &Cluster) -> Result<(), RouteError> {
    if route.cluster_id[..] != cluster.id {
        Err(RouteError::OtherCluster { theirs: hex(&route.cluster_id), ours: cluster.id_hex() })
    } else if route.incarnation != cluster.incarnation {
        Err(RouteError::OtherIncarnation {
            cluster: cluster.id_hex(),
            theirs: route.incarnation,
            ours: cluster.incarnation,
        })
    } else {
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn group_of(cluster: Option<Cluster>) -> GroupCell {
        GroupCell::new(ClusterCell::new(cluster), 0)
    }

    fn cluster(id: u8, incarnation: u32) -> Cluster {
        Cluster { id: [id; 16], incarnation, component_hash: [9; 32] }
    }

    #[test]
    fn a_message_of_the_own_cluster_passes_and_names_its_sender() {
        let cell = group_of(Some(cluster(1, 0)));
        let route = cell.route(5, 6).unwrap();
        assert_eq!(cell.check(Some(&route), 6), Ok(5));
    }

    #[test]
    fn every_other_message_is_refused_with_both_sides_named() {
        let cell = group_of(Some(cluster(1, 0)));
        let route = cell.route(5, 6).unwrap();
        let refused = |route: &Route| cell.check(Some(route), 6).unwrap_err().to_string();
        assert_eq!(cell.check(None, 6), Err(RouteError::Missing));
        let text = refused(&Route { cluster_id: vec![2; 16].into(), ..route.clone() });
        assert!(text.contains(&"02".repeat(16)) && text.contains(&"01".repeat(16)), "{text}");
        assert!(refused(&Route { incarnation: 3, ..route.clone() }).contains("incarnation 3"));
        assert!(refused(&Route { group: 4, ..route.clone() }).contains("group 4"));
        assert!(refused(&Route { to: 7, ..route.clone() }).contains("node 0000000000000007"));
        assert!(refused(&Route { from: 6, ..route.clone() }).contains("as its sender"));
        // A cluster id of another length is another cluster, not a panic.
        assert!(refused(&Route { cluster_id: vec![1; 3].into(), ..route }).contains("010101"));
    }

    #[test]
    fn a_node_in_no_cluster_refuses_raft_traffic() {
        let route = group_of(Some(cluster(1, 0))).route(5, 6).unwrap();
        let error = ClusterCell::new(None).check(Some(&route), 6).unwrap_err();
        assert!(matches!(error, RouteError::InNoCluster { .. }));
        assert_eq!(tonic::Status::from(error).code(), tonic::Code::FailedPrecondition);
    }

    #[test]
    fn a_node_enters_one_cluster_only() {
        let cell = ClusterCell::new(None);
        assert!(cell.set(cluster(1, 0)));
        assert!(cell.set(cluster(1, 0)), "again is no change");
        assert!(!cell.set(cluster(2, 0)));
        assert_eq!(cell.get(), Some(cluster(1, 0)));
    }
}
