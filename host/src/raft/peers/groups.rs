//! The groups that a process serves to its peers, and the modules of each that take messages. It
//! finds the group that a message names, and refuses a message for none. It handles no message.

use std::collections::HashMap;
use std::sync::Arc;

use lockstep_proto::peer;
use parking_lot::RwLock;
use tokio::sync::watch;
use tonic::Status;

use super::cluster::RouteError;
use super::gate::{Gate, Refuses};
use super::handlers::{ForwardHandler, LeaderHandler, StateHashes};
use super::install::SnapshotHandler;
use crate::logs::Sparse;
use crate::raft::membership::Members;
use crate::raft::{Canvass, ClusterCell, GroupCell, LogTime, RaftCell};
use crate::types::{GroupId, NodeId};

/// The modules of one group to which the peer port passes messages.
pub struct GroupParts {
    /// This node's id.
    pub me: NodeId,
    /// The group and its cluster.
    pub cluster: GroupCell,
    /// Its Raft instance.
    pub raft: RaftCell,
    /// Answers whether the leader is gone.
    pub canvass: Canvass,
    /// Membership, for nodes that have moved.
    pub members: Members,
    /// Why this node can take no commands from its leader now: its disk is full.
    pub refuses_entries: Refuses,
    /// The rolling hash, for nodes that have a doubt.
    pub states: Arc<dyn StateHashes>,
    /// Takes in snapshots.
    pub snapshots: Arc<dyn SnapshotHandler>,
    /// Receives the leaders' statements of log time.
    pub log_time: LogTime,
    /// Answers the commands that others took.
    pub forward: Arc<dyn ForwardHandler>,
    /// Answers reads and questions of log time.
    pub leader: Arc<dyn LeaderHandler>,
}

/// One group, as the peer port serves it.
pub(super) struct Served {
    pub(super) gate: Gate,
    pub(super) canvass: Canvass,
    pub(super) members: Members,
    pub(super) states: Arc<dyn StateHashes>,
    pub(super) snapshots: Arc<dyn SnapshotHandler>,
    pub(super) log_time: LogTime,
    pub(super) forward: Arc<dyn ForwardHandler>,
    pub(super) leader: Arc<dyn LeaderHandler>,
    /// Set when the process serves the group no more.
    dropped: watch::Sender<bool>,
}

impl Served {
    /// Completes when the process serves the group no more. Streams that peers keep open end then.
    pub(super) fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut dropped = self.dropped.subscribe();
        async move {
            // An error means that nobody has the group any more.
            drop(dropped.wait_for(|dropped| *dropped).await);
        }
    }
}

/// The groups of a process. Clones share them.
#[derive(Clone, Default)]
pub struct Groups(Arc<RwLock<HashMap<GroupId, Arc<Served>>>>);

impl Groups {
    /// Serves a group from now on.
    pub fn serve(&self, parts: GroupParts) {
        let group = parts.cluster.group();
        let served = Served {
            gate: Gate {
                me: parts.me,
                cluster: parts.cluster,
                raft: parts.raft,
                refuses_entries: parts.refuses_entries,
                refusals: Arc::default(),
            },
            canvass: parts.canvass,
            members: parts.members,
            states: parts.states,
            snapshots: parts.snapshots,
            log_time: parts.log_time,
            forward: parts.forward,
            leader: parts.leader,
            dropped: watch::channel(false).0,
        };
        self.0.write().insert(group, Arc::new(served));
    }

    /// Serves a group no more. Its streams end.
    pub fn drop_group(&self, group: GroupId) {
        if let Some(group) = self.0.write().remove(&group) {
            group.dropped.send_replace(true);
        }
    }

    /// Returns the group, if this process serves it.
    pub(super) fn get(&self, group: GroupId) -> Option<Arc<Served>> {
        self.0.read().get(&group).cloned()
    }
}

/// What every message of the peer port comes through first. Cheap to clone.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) me: NodeId,
    pub(super) cluster: ClusterCell,
    pub(super) groups: Groups,
    /// Limits the log lines about messages for no group of this node.
    refusals: Arc<Sparse>,
}

impl Door {
    pub(super) fn new(me: NodeId, cluster: ClusterCell, groups: Groups) -> Door {
        Door { me, cluster, groups, refusals: Arc::default() }
    }

    /// Returns the group that a message is for. The group's gate checks whether the message may
    /// come.
    pub(super) fn group(&self, route: Option<&peer::Route>) -> Result<Arc<Served>, Status> {
        let group = route.and_then(|route| self.groups.get(route.group));
        group.ok_or_else(|| self.refuse(route))
    }

    /// Returns why a message for no group of this node is refused. What is wrong with its cluster
    /// comes first.
    fn refuse(&self, route: Option<&peer::Route>) -> Status {
        let unknown = || RouteError::OtherGroup { theirs: route.map_or(0, |route| route.group) };
        let error = self.cluster.check(route, self.me).err().unwrap_or_else(unknown);
        if let Some(left_out) = self.refusals.due() {
            tracing::warn!(%error, left_out, "refused a peer message");
        }
        error.into()
    }
}
