//! Makes a new node a peer: who it is, whether it may join, and the component it must run. Stamps
//! no disk and compiles nothing: `node/admission.rs` does, behind [`Host`]. Adds no node to the
//! membership: `membership` does.
//!
//! - A node that is in a cluster never enters another one. Asked again by its own cluster, it
//!   agrees and changes nothing.
//! - A node that was started with a component must have the cluster's. A node without one fetches
//!   it and checks its BLAKE3.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use lockstep_proto::peer::{
    FetchComponentRequest, FetchComponentResponse, IdentifyRequest, IdentifyResponse, JoinRequest, JoinResponse, Route,
};
use tokio::time::Instant;
use tonic::Status;

use crate::codec::{Change, ENTRY_LEVEL, Genesis};
use crate::machine::{SemanticsRange, SendAttempt};
use crate::net::Remote;
use crate::raft::peers::cluster::{RouteError, check_ends, same_cluster};
use crate::raft::peers::dial::{Dialer, Expect, small_client};
use crate::raft::peers::network::describe;
use crate::raft::peers::wire;
use crate::raft::{ClusterCell, Me, Process};
use crate::types::{Addresses, COMPONENT_BYTES_MAX, Cluster, GROUP, NodeId, hex};

/// Size of the chunks in which a component is sent.
const COMPONENT_CHUNK_BYTES: usize = 256 << 10;

/// Longest time for fetching a whole component.
const FETCH_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest time for a join: fetching and compiling, on a slow machine.
const JOIN_TIMEOUT: Duration = Duration::from_secs(180);

/// Longest wait for one Identify response.
const IDENTIFY_TIMEOUT: Duration = Duration::from_secs(3);

/// Pause between attempts to reach a joiner that is not up yet.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// What this module needs from the rest of the node. `node/admission.rs` implements it.
pub trait Host: Send + Sync + 'static {
    /// Returns how many processes have opened this data directory, this one included.
    fn boot(&self) -> u64;
    /// Returns the component that is in force here, or that this node was started with.
    fn component(&self) -> Option<ComponentId>;
    /// Describes what in this build of the engine could change an outcome. Nodes compare it.
    /// `None` while the node runs no guest.
    fn build(&self) -> Option<String> {
        None
    }
    /// Returns the index of the entry that put the profile in force, and the profile as a genesis
    /// entry has it, once there is one.
    fn profile(&self) -> Option<(u64, Genesis)>;
    /// Loads the encoded component of that hash from the data directory, if it is there. Blocks on
    /// the disk.
    fn load_component(&self, hash: &[u8; 32]) -> Result<Option<Vec<u8>>, String>;
    /// Returns the progress of the snapshot that is being sent to `node`, if there is one.
    fn sending_to(&self, _node: NodeId) -> Option<SendAttempt> {
        None
    }
    /// Enters the cluster: compiles and keeps the component, and stamps the disk, durable on
    /// success. The error is a text for the operator who is adding this node. Calls never overlap.
    fn adopt(&self, offer: JoinOffer) -> BoxFuture<'static, Result<(), String>>;
    /// Makes this node ready for a change: fetches the component from the holder if it is not on
    /// the disk, compiles it under the change's limits, keeps it, and offers it to the machine.
    /// Returns facts about this build. The error is a text for the operator who makes the change.
    fn prepare(&self, change: Change, holder: Option<(Addresses, Route)>)
    -> BoxFuture<'static, Result<String, String>>;
}

/// A component, as nodes compare it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComponentId {
    /// BLAKE3 of the encoded component.
    pub hash: [u8; 32],
    /// BLAKE3 of the file it was encoded from.
    pub source_hash: [u8; 32],
}

/// What a joiner learns before it accepts Raft traffic.
#[derive(Clone, Debug)]
pub struct JoinOffer {
    /// The cluster to join.
    pub cluster: Cluster,
    /// Component hashes and profile, as the cluster recorded them.
    pub genesis: Genesis,
    /// The leader that invites.
    pub leader: Addresses,
    /// Its id.
    pub leader_id: NodeId,
    /// The encoded component, checked against its hash. `None` when this node was started with it.
    pub component: Option<Bytes>,
}

/// Why a node could not be invited.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No node answers there.
    #[error("no node answers at {address}: {reason}")]
    Unreachable {
        /// The address as dialled.
        address: String,
        /// The reason of the last attempt.
        reason: String,
    },
    /// The node answered and refused.
    #[error("the node at {address} refuses: {reason}")]
    Refused {
        /// The address as dialled.
        address: String,
        /// The reason in the node's own words.
        reason: String,
    },
}

/// Asks the node at `address` who it is. Tries again for `patience` while nobody answers.
pub async fn identify(dialer: &Dialer, address: &str, patience: Duration) -> Result<IdentifyResponse, JoinError> {
    let unreachable = |reason: String| JoinError::Unreachable { address: address.to_owned(), reason };
    let deadline = Instant::now() + patience;
    loop {
        let attempt = async {
            let dialled = dialer.connect(address, Expect::AnyNode).await?;
            let mut client = small_client(dialled.channel.clone());
            let answer = client.identify(IdentifyRequest::default()).await?.into_inner();
            dialer.check_answer(&dialled, &answer)?;
            Ok(answer)
        };
        let answer: Result<IdentifyResponse, Status> = match tokio::time::timeout(IDENTIFY_TIMEOUT, attempt).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::unavailable(format!("no answer within {IDENTIFY_TIMEOUT:?}"))),
        };
        match answer {
            Ok(answer) => return Ok(answer),
            // Another server listens there, and it will not become a peer port.
            Err(status) if status.code() == tonic::Code::Unimplemented => {
                return Err(unreachable(format!("{}; is this its grpc_addr? give its raft_addr", status.message())));
            }
            // It refuses our certificate, or its own is not that of the node that it says to be.
            Err(status) if status.code() == tonic::Code::PermissionDenied => {
                return Err(JoinError::Refused { address: address.to_owned(), reason: status.message().to_owned() });
            }
            Err(status) if status.code() == tonic::Code::InvalidArgument => {
                return Err(unreachable(status.message().to_owned()));
            }
            Err(status) if Instant::now() >= deadline => return Err(unreachable(describe(&status))),
            Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
        }
    }
}

/// Invites the node at `joiner.raft_addr`. Returns once it has stamped its disk and accepts Raft
/// traffic.
pub async fn invite(
    dialer: &Dialer,
    joiner: &Addresses,
    route: Route,
    genesis: &Genesis,
    leader: &Addresses,
) -> Result<(), JoinError> {
    let address = joiner.raft_addr.as_str();
    let unreachable = |reason: String| JoinError::Unreachable { address: address.to_owned(), reason };
    let request = JoinRequest {
        route: Some(route),
        component_hash: genesis.component_hash.clone(),
        source_hash: genesis.source_hash.clone(),
        leader: Some(wire::encode_node(leader)),
        limits_json: genesis.limits_json.clone(),
        semantics: genesis.semantics,
    };
    let channel = dialer.lazy(address, Expect::of(joiner)).map_err(|error| unreachable(error.to_string()))?;
    let mut client = small_client(channel);
    match tokio::time::timeout(JOIN_TIMEOUT, client.join(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) if is_refusal(status.code()) => {
            Err(JoinError::Refused { address: address.to_owned(), reason: status.message().to_owned() })
        }
        Ok(Err(status)) => Err(unreachable(describe(&status))),
        Err(_) => Err(unreachable(format!("it did not enter the cluster within {JOIN_TIMEOUT:?}"))),
    }
}

fn is_refusal(code: tonic::Code) -> bool {
    matches!(code, tonic::Code::FailedPrecondition | tonic::Code::PermissionDenied)
}

/// Handles joins on the joiner's side and sends components.
pub(in crate::raft) struct Joins {
    me: Me,
    cluster: ClusterCell,
    host: Arc<dyn Host>,
    /// Allows one join at a time, because two clusters may ask at once.
    busy: Arc<tokio::sync::Mutex<()>>,
}

impl Joins {
    pub(in crate::raft) fn new(me: Me, cluster: ClusterCell, host: Arc<dyn Host>) -> Self {
        Joins { me, cluster, host, busy: Arc::default() }
    }

    /// Describes this node. The caller fills in whether it leads, and what it objects to.
    pub(in crate::raft) fn identify(&self) -> IdentifyResponse {
        let cluster = self.cluster.get();
        let (component, semantics) = (self.host.component(), SemanticsRange::of_this_build());
        IdentifyResponse {
            node_id: self.me.node_id,
            node: Some(wire::encode_node(&self.me.node)),
            cluster_id: cluster.as_ref().map(|cluster| cluster.id.to_vec().into()).unwrap_or_default(),
            incarnation: cluster.map(|cluster| cluster.incarnation).unwrap_or_default(),
            boot: self.host.boot(),
            component_hash: component.map(|id| id.hash.to_vec().into()).unwrap_or_default(),
            source_hash: component.map(|id| id.source_hash.to_vec().into()).unwrap_or_default(),
            leads: false,
            build: self.host.build().unwrap_or_default(),
            nonce: self.cluster.processes().mine().nonce,
            profile_index: self.host.profile().map_or(0, |(index, _)| index),
            entry_field: ENTRY_LEVEL,
            semantics_oldest: semantics.oldest,
            semantics_newest: semantics.newest,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            objection: String::new(),
        }
    }

    pub(in crate::raft) async fn join(&self, request: JoinRequest, by: &Remote) -> Result<JoinResponse, Status> {
        let route = request.route.as_ref().ok_or_else(|| Status::invalid_argument("the message has no route"))?;
        check_ends(route, self.me.node_id)?;
        if route.group != GROUP {
            return Err(RouteError::OtherGroup { theirs: route.group }.into());
        }
        let leader = wire::decode_node(request.leader.clone().unwrap_or_default());
        self.check_inviter(route, &leader, by)?;
        let busy = self.busy.clone().lock_owned().await;
        if let Some(cluster) = self.cluster.get() {
            same_cluster(route, &cluster)?;
            return Ok(JoinResponse {});
        }
        let (cluster, genesis) = offered(&request, route)?;
        let component = match self.host.component() {
            Some(brought) if brought.hash == cluster.component_hash => None,
            brought => {
                // The same file may have been encoded by another version. The recorded component is
                // never encoded again, so it is fetched.
                if let Some(brought) = brought {
                    check_component(&brought, &genesis)?;
                }
                Some(
                    fetch_component(self.cluster.dialer(), &leader, self.reply_route(route), cluster.component_hash)
                        .await?,
                )
            }
        };
        tracing::info!(cluster = cluster.id_hex(), %leader, fetched = component.is_some(), "joining");
        let offer = JoinOffer { cluster: cluster.clone(), genesis, leader, leader_id: route.from, component };
        let host = self.host.clone();
        // Runs to its end, and no other join runs meanwhile, even if the inviting node hangs up:
        // entering a cluster is not undone.
        let adopted = tokio::spawn(async move {
            let _busy = busy;
            host.adopt(offer).await
        });
        adopted.await.map_err(|error| Status::internal(error.to_string()))?.map_err(Status::failed_precondition)?;
        if !self.cluster.set(cluster) {
            return Err(Status::failed_precondition("this node entered another cluster meanwhile"));
        }
        Ok(JoinResponse {})
    }

    /// Checks that whoever invites is the node that it says to be.
    fn check_inviter(&self, route: &Route, leader: &Addresses, by: &Remote) -> Result<(), Status> {
        let names = self.cluster.names();
        names.admit(route, by)?;
        match &by.certificate {
            Some(certificate) => names.admit_as(&leader.name, certificate),
            None => Ok(()),
        }
    }

    /// Sends the component, if this node holds it. The caller has checked the route.
    pub(in crate::raft) async fn ship(
        &self,
        request: FetchComponentRequest,
    ) -> Result<BoxStream<'static, Result<FetchComponentResponse, Status>>, Status> {
        let hash = hash_of("component_hash", &request.component_hash)?;
        let host = self.host.clone();
        let loaded = tokio::task::spawn_blocking(move || host.load_component(&hash)).await;
        let bytes = match loaded.map_err(|error| Status::internal(error.to_string()))? {
            Ok(Some(bytes)) => Bytes::from(bytes),
            Ok(None) => return Err(Status::not_found(format!("this node does not hold component {}", hex(&hash)))),
            Err(reason) => return Err(Status::internal(reason)),
        };
        let chunks = stream::unfold(bytes, |mut rest| async move {
            let chunk = rest.split_to(rest.len().min(COMPONENT_CHUNK_BYTES));
            (!chunk.is_empty()).then_some((Ok(FetchComponentResponse { chunk }), rest))
        });
        Ok(chunks.boxed())
    }

    /// Returns the route back to the inviting node, from this process. This node may not be in the
    /// cluster yet, so the cell has no route of its own.
    fn reply_route(&self, route: &Route) -> Route {
        let Process { boot, nonce } = self.cluster.processes().mine();
        let from_name = self.me.node.name.clone();
        Route { from: route.to, to: route.from, boot, nonce, from_name, ..route.clone() }
    }
}

fn offered(request: &JoinRequest, route: &Route) -> Result<(Cluster, Genesis), Status> {
    let id = route.cluster_id.as_ref().try_into().map_err(|_| Status::invalid_argument("a cluster id has 16 bytes"))?;
    let component_hash = hash_of("component_hash", &request.component_hash)?;
    let genesis = Genesis {
        cluster_id: route.cluster_id.clone(),
        component_hash: request.component_hash.clone(),
        source_hash: request.source_hash.clone(),
        semantics: request.semantics,
        limits_json: request.limits_json.clone(),
    };
    Ok((Cluster { id, incarnation: route.incarnation, component_hash }, genesis))
}

fn hash_of(field: &str, bytes: &[u8]) -> Result<[u8; 32], Status> {
    bytes.try_into().map_err(|_| Status::invalid_argument(format!("{field} has {} bytes, not 32", bytes.len())))
}

/// Checks that this node's component is the cluster's. One equal hash is enough: another encoder
/// version makes other bytes of the same source. In that case the recorded component must run, and
/// the node fetches it by its hash as it joins.
fn check_component(brought: &ComponentId, genesis: &Genesis) -> Result<(), Status> {
    if genesis.component_hash[..] == brought.hash || genesis.source_hash[..] == brought.source_hash {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "this node was started with component {} (from source {}), the cluster runs {} (from source {}); start it with the \
         same --fsm, or without one to fetch the cluster's",
        hex(&brought.hash),
        hex(&brought.source_hash),
        hex(&genesis.component_hash),
        hex(&genesis.source_hash),
    )))
}

/// Fetches and verifies a component from another node.
pub(crate) async fn fetch_component(
    dialer: &Dialer,
    holder: &Addresses,
    route: Route,
    hash: [u8; 32],
) -> Result<Bytes, Status> {
    let address = holder.raft_addr.as_str();
    let fetch = async {
        let channel = dialer.lazy(address, Expect::of(holder));
        let mut client = small_client(channel.map_err(|error| Status::invalid_argument(error.to_string()))?);
        let request = FetchComponentRequest { route: Some(route), component_hash: hash.to_vec().into() };
        let mut chunks = client.fetch_component(request).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(message) = chunks.message().await? {
            if bytes.len() + message.chunk.len() > COMPONENT_BYTES_MAX {
                return Err(Status::resource_exhausted(format!("it is larger than {COMPONENT_BYTES_MAX} bytes")));
            }
            bytes.extend_from_slice(&message.chunk);
        }
        Ok(bytes)
    };
    let failed = |reason: String| {
        Status::failed_precondition(format!("cannot fetch component {} from {address}: {reason}", hex(&hash)))
    };
    let bytes = match tokio::time::timeout(FETCH_TIMEOUT, fetch).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(status)) => return Err(failed(describe(&status))),
        Err(_) => return Err(failed(format!("not complete within {FETCH_TIMEOUT:?}"))),
    };
    let found = blake3::hash(&bytes);
    if *found.as_bytes() != hash {
        return Err(failed(format!("what came hashes to {found}")));
    }
    Ok(bytes.into())
}
