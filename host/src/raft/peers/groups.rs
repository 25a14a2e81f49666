//! The groups that a process serves to its peers, and the modules of each that take messages. It
//! finds the group that a message names, and refuses a message for none. It handles no message.

use std::collections::HashMap;
use std::sync::Arc;

use lockstep_proto::peer;
use parking_lot::RwLock;
use prost::Message;
use tokio::sync::watch;
use tonic::Status;
use tonic::codegen::http::HeaderMap;
use tonic::metadata::MetadataMap;

use super::cluster::RouteError;
use super::dial::ROUTE;
use super::gate::{Gate, Refuses};
use super::handlers::{ChangeHandler, ForwardHandler, LeaderHandler, StateHashes, StateSource};
use super::install::SnapshotHandler;
use crate::logs::Sparse;
use crate::net::Remote;
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
    /// Hands the group's state to a member in quarantine.
    pub source: Arc<dyn StateSource>,
    /// Prepares and tries out changes of what the cluster runs.
    pub changes: Arc<dyn ChangeHandler>,
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
    pub(super) source: Arc<dyn StateSource>,
    pub(super) changes: Arc<dyn ChangeHandler>,
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
            source: parts.source,
            changes: parts.changes,
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

    /// Returns whether a call may have large messages, by the route in its metadata. The error says
    /// why not. `None`: there is no route.
    pub(super) fn admit_metadata(&self, headers: &HeaderMap, by: &Remote) -> Option<Result<(), String>> {
        let given = headers.contains_key(ROUTE).then(|| MetadataMap::from_headers(headers.clone()))?;
        let bytes = given.get_bin(ROUTE).and_then(|value| value.to_bytes().ok());
        let route = bytes.and_then(|bytes| peer::Route::decode(bytes).ok());
        Some(match route {
            Some(route) => self.admit_route(&route, by),
            None => Err(format!("the {ROUTE} of its metadata cannot be read")),
        })
    }

    /// Does the same by the first bytes of the call's first message, which is all that there is
    /// from an earlier build.
    pub(super) fn admit_first(&self, message: &[u8], depth: usize, by: &Remote) -> Result<(), String> {
        let field = (0..depth).try_fold(message, |bytes, _| first_field(bytes));
        match field.map(peer::Route::decode) {
            Some(Ok(route)) => self.admit_route(&route, by),
            Some(Err(_)) | None => {
                Err(format!("there is no {ROUTE} in its metadata, and its first message does not begin with a route"))
            }
        }
    }

    fn admit_route(&self, route: &peer::Route, by: &Remote) -> Result<(), String> {
        self.cluster.check(Some(route), self.me).map_err(|error| error.to_string())?;
        self.cluster.names().admit(route, by).map_err(|status| status.message().to_owned())?;
        match self.groups.get(route.group) {
            Some(_) => Ok(()),
            None => Err(RouteError::OtherGroup { theirs: route.group }.to_string()),
        }
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

/// Returns the bytes of a message's first field, if that is field 1 and has bytes or a message.
pub(super) fn first_field(message: &[u8]) -> Option<&[u8]> {
    const FIELD_1: u8 = 1 << 3 | 2;
    let mut rest = message.strip_prefix(&[FIELD_1])?;
    let bytes = prost::decode_length_delimiter(&mut rest).ok()?;
    rest.get(..bytes)
}
