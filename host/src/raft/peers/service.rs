//! Owns the peer port: receives every message of `peer.proto`, checks its route, and passes it to
//! the module that handles it. Decides nothing: openraft, `canvass`, `membership`, `join`,
//! `install` and the handlers of the command path do.
//!
//! A refused route changes nothing. A node in no cluster answers Identify and Join, and refuses all
//! other requests.

use std::io;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use lockstep_proto::peer;
use lockstep_proto::peer::peer_server::{Peer, PeerServer};
use lockstep_proto::peer::snapshot_request::Part;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use parking_lot::Mutex;
use tonic::{Request, Response, Status, Streaming};

use super::dial::{
    CONNECTION_WINDOW_BYTES, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, PEER_MESSAGE_BYTES_MAX, STREAM_WINDOW_BYTES,
};
use super::gate::{Gate, Refuses};
use super::install::SnapshotHandler;
use super::only_grpc::OnlyGrpc;
use super::wire;
use crate::faults;
use crate::machine::Machine;
use crate::net::{self, Http2Limits, Port};
use crate::raft::liveness::presence;
use crate::raft::liveness::presence::Presence;
use crate::raft::membership::Members;
use crate::raft::membership::join::{Host, Joins};
use crate::raft::membership::{removal, standing};
use crate::raft::time::log_time::wall_ms;
use crate::raft::{Canvass, ClusterCell, LogTime, Me, Process, Raft, RaftCell, planted};
use crate::types::{NodeId, TypeConfig};

/// Limits of peer connections. A peer has a handful of calls under way.
const LIMITS: Http2Limits = Http2Limits {
    streams_max: 256,
    stream_window_bytes: STREAM_WINDOW_BYTES,
    connection_window_bytes: CONNECTION_WINDOW_BYTES,
    keepalive_interval: KEEPALIVE_INTERVAL,
    keepalive_timeout: KEEPALIVE_TIMEOUT,
};

/// Handles the commands that other nodes took for this leader.
pub trait ForwardHandler: Send + Sync + 'static {
    /// Answers requests, whose routes are checked, in any order. The answers end after the requests
    /// have ended and all of them are answered.
    fn forward(
        &self,
        from: NodeId,
        requests: BoxStream<'static, Result<peer::ForwardRequest, Status>>,
    ) -> BoxStream<'static, Result<peer::ForwardResponse, Status>>;
}

/// Handles the other requests to the leader, besides commands. FAILED_PRECONDITION when this node
/// does not lead.
pub trait LeaderHandler: Send + Sync + 'static {
    /// Returns the index that a linearizable read must wait for.
    fn read_index(&self, from: NodeId) -> BoxFuture<'static, Result<u64, Status>>;
    /// Returns the index at which log time is `until_ms`, or as near as it can be.
    fn pass_time(&self, from: NodeId, until_ms: u64) -> BoxFuture<'static, Result<u64, Status>>;
}

/// The rolling state hash of this node. [`Machine`] implements it.
pub trait StateHashes: Send + Sync + 'static {
    /// Returns this node's hash after entry `index`, if it is known.
    fn hash_at(&self, index: u64) -> Option<u64>;
    /// Compares another node's hash with ours. A difference raises a doubt here, too.
    fn compare_hash(&self, index: u64, theirs: u64);
}

impl StateHashes for Machine {
    fn hash_at(&self, index: u64) -> Option<u64> {
        Machine::hash_at(self, index)
    }

    fn compare_hash(&self, index: u64, theirs: u64) {
        Machine::compare_hash(self, index, theirs);
    }
}

/// The modules to which the service passes messages.
pub struct Parts {
    /// This node.
    pub me: Me,
    /// Its cluster.
    pub cluster: ClusterCell,
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
    /// The rest of the node.
    pub host: Arc<dyn Host>,
    /// `install::Installer`.
    pub snapshots: Arc<dyn SnapshotHandler>,
    /// Receives the leaders' statements of log time.
    pub log_time: LogTime,
    /// `forwarded::Forwarded`.
    pub forward: Arc<dyn ForwardHandler>,
    /// The same object, for reads.
    pub leader: Arc<dyn LeaderHandler>,
}

/// The tonic service. Cheap to clone.
#[derive(Clone)]
pub struct PeerService {
    gate: Gate,
    canvass: Canvass,
    joins: Arc<Joins>,
    members: Members,
    states: Arc<dyn StateHashes>,
    snapshots: Arc<dyn SnapshotHandler>,
    log_time: LogTime,
    forward: Arc<dyn ForwardHandler>,
    leader: Arc<dyn LeaderHandler>,
}

impl PeerService {
    /// Creates the service. It serves nothing yet.
    pub fn new(parts: Parts) -> Self {
        PeerService {
            joins: Arc::new(Joins::new(parts.me.clone(), parts.cluster.clone(), parts.host)),
            gate: Gate {
                me: parts.me.node_id,
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
        }
    }

    /// Serves the peer port until `stopped` completes. The calls under way may then end, in limited
    /// time.
    ///
    /// # Errors
    /// A listener cannot be handed to the runtime.
    pub async fn serve(
        self,
        port: &Port,
        listeners: Vec<TcpListener>,
        stopped: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let server = PeerServer::new(self)
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX);
        let server = OnlyGrpc(server);
        net::serve(port, listeners, LIMITS, move || server.clone(), stopped).await
    }
}

/// Refuses a removed voter that does not know of its removal and stands for election. It cannot
/// win: the entry that removed it is committed, and it does not have that entry. So it gets a
/// refusal that names the removal. A voter whose log reaches further may be a member again:
/// openraft answers it.
fn refuse_removed(raft: &Raft, from: NodeId, request: &peer::VoteRequest) -> Result<(), Status> {
    let last = request.last.as_ref().map(|last| last.index);
    match standing::removed_at(raft, from) {
        Some(index) if last < Some(index) => Err(removal::refusal(from, index)),
        _ => Ok(()),
    }
}

/// Converts an error of openraft. openraft answers an error only when its core has stopped.
fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("Raft has stopped: {error}"))
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Peer for PeerService {
    type AppendStream = Answers<peer::AppendResponse>;

    async fn append(
        &self,
        request: Request<Streaming<peer::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let raft =
            self.gate.raft.get().filter(|_| self.gate.cluster.get().is_some()).ok_or_else(|| {
                Status::failed_precondition("this node is in no cluster yet, or runs no Raft instance")
            })?;
        let (requests, refusal) =
            accepted(request.into_inner(), self.gate.clone(), raft.clone(), self.canvass.presence().clone());
        if faults::is_set("peer-skip-append") {
            return Ok(self.gate.answer(Box::pin(planted::answers(requests).map(Ok))));
        }
        let answers = raft
            .stream_append(requests)
            .map(|answer| answer.map(|answer| wire::encode_stream_result(&answer)).map_err(stopped));
        // The accepted requests are answered first; then comes the error that ended the stream.
        let last = stream::once(async move { refusal.lock().take() }).filter_map(|refusal| async { refusal.map(Err) });
        Ok(self.gate.answer(Box::pin(answers.chain(last))))
    }

    async fn heartbeat(&self, request: Request<peer::AppendRequest>) -> Result<Response<peer::AppendResponse>, Status> {
        let request = request.into_inner();
        let (from, raft) = self.gate.raft(request.route.as_ref()).await?;
        if !request.entries.is_empty() {
            return Err(Status::invalid_argument("a heartbeat carries no entries"));
        }
        let telling = wire::telling_of(&request);
        let request = self.gate.read(wire::decode_append(request))?;
        self.gate.read(wire::check_append(from, &request))?;
        self.gate.check_vote(&raft, from, &request.vote)?;
        let prev = request.prev_log_id;
        let response = raft.append_entries(request).await.map_err(stopped)?;
        if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
            self.log_time.told(telling);
        }
        let answer = wire::encode_heartbeat_response(response, prev);
        Ok(self.gate.answer(peer::AppendResponse { clock_ms: wall_ms(), ..answer }))
    }

    async fn vote(&self, request: Request<peer::VoteRequest>) -> Result<Response<peer::VoteResponse>, Status> {
        let request = request.into_inner();
        let (from, raft) = self.gate.candidate(request.route.as_ref()).await?;
        refuse_removed(&raft, from, &request)?;
        let request = self.gate.read(wire::decode_vote_request(request))?;
        self.gate.check_vote(&raft, from, &request.vote)?;
        let response = raft.vote(request).await.map_err(stopped)?;
        Ok(self.gate.answer(wire::encode_vote_response(&response)))
    }

    async fn pre_vote(&self, request: Request<peer::VoteRequest>) -> Result<Response<peer::VoteResponse>, Status> {
        let request = request.into_inner();
        let (from, raft) = self.gate.raft(request.route.as_ref()).await?;
        refuse_removed(&raft, from, &request)?;
        let request = self.gate.read(wire::decode_vote_request(request))?;
        self.gate.check_vote(&raft, from, &request.vote)?;
        let response = raft.pre_vote(request).await.map_err(stopped)?;
        Ok(self.gate.answer(wire::encode_vote_response(&response)))
    }

    async fn transfer_leader(
        &self,
        request: Request<peer::TransferLeaderRequest>,
    ) -> Result<Response<peer::TransferLeaderResponse>, Status> {
        let request = request.into_inner();
        let (from, raft) = self.gate.raft(request.route.as_ref()).await?;
        faults::io("peer-transfer-refused")?;
        let request = self.gate.read(wire::decode_transfer(request))?;
        self.gate.check_vote(&raft, from, request.from_leader())?;
        let response = raft.handle_transfer_leader(request).await.map_err(stopped)?;
        Ok(self.gate.answer(wire::encode_transfer_response(&response)))
    }

    async fn canvass(&self, request: Request<peer::CanvassRequest>) -> Result<Response<peer::CanvassResponse>, Status> {
        let (_, raft) = self.gate.raft(request.get_ref().route.as_ref()).await?;
        Ok(self.gate.answer(self.canvass.answer(&raft).await))
    }

    type SnapshotStream = Answers<peer::SnapshotResponse>;

    async fn snapshot(
        &self,
        request: Request<Streaming<peer::SnapshotRequest>>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let mut frames = request.into_inner();
        let first = frames.message().await?.and_then(|message| message.part);
        let Some(Part::Header(header)) = first else {
            return Err(Status::invalid_argument("a snapshot begins with its header"));
        };
        let (from, raft) = self.gate.raft(header.route.as_ref()).await?;
        Ok(self.gate.answer(self.snapshots.install(raft, from, header, frames.boxed())))
    }

    type ForwardStream = Answers<peer::ForwardResponse>;

    async fn forward(
        &self,
        request: Request<Streaming<peer::ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        let answers = forwarded(request.into_inner(), self.gate.clone(), self.forward.clone());
        // The stream opens before the first message: its opener may have nothing to send yet.
        Ok(Response::new(Box::pin(stream::once(answers).flatten())))
    }

    async fn read_index(
        &self,
        request: Request<peer::ReadIndexRequest>,
    ) -> Result<Response<peer::ReadIndexResponse>, Status> {
        let from = self.gate.check(request.get_ref().route.as_ref()).await?;
        let index = self.leader.read_index(from).await?;
        Ok(self.gate.answer(peer::ReadIndexResponse { index }))
    }

    async fn pass_time(
        &self,
        request: Request<peer::PassTimeRequest>,
    ) -> Result<Response<peer::PassTimeResponse>, Status> {
        let from = self.gate.check(request.get_ref().route.as_ref()).await?;
        let index = self.leader.pass_time(from, request.get_ref().until_ms).await?;
        Ok(self.gate.answer(peer::PassTimeResponse { index }))
    }

    async fn identify(
        &self,
        request: Request<peer::IdentifyRequest>,
    ) -> Result<Response<peer::IdentifyResponse>, Status> {
        if let Some(copy) = &request.get_ref().copy {
            self.gate.cluster.processes().news(self.gate.me, copy);
        }
        let leads = self.gate.raft.get().is_some_and(|raft| raft.is_leader());
        Ok(self.gate.answer(peer::IdentifyResponse { leads, ..self.joins.identify() }))
    }

    async fn join(&self, request: Request<peer::JoinRequest>) -> Result<Response<peer::JoinResponse>, Status> {
        Ok(Response::new(self.joins.join(request.into_inner()).await?))
    }

    type FetchComponentStream = Answers<peer::FetchComponentResponse>;

    async fn fetch_component(
        &self,
        request: Request<peer::FetchComponentRequest>,
    ) -> Result<Response<Self::FetchComponentStream>, Status> {
        let request = request.into_inner();
        self.gate.check(request.route.as_ref()).await?;
        Ok(Response::new(self.joins.ship(request).await?))
    }

    async fn standing(
        &self,
        request: Request<peer::StandingRequest>,
    ) -> Result<Response<peer::StandingResponse>, Status> {
        let (from, raft) = self.gate.raft(request.get_ref().route.as_ref()).await?;
        Ok(self.gate.answer(peer::StandingResponse { removed_at: standing::removed_at(&raft, from) }))
    }

    async fn state_hash(
        &self,
        request: Request<peer::StateHashRequest>,
    ) -> Result<Response<peer::StateHashResponse>, Status> {
        let request = request.into_inner();
        self.gate.check(request.route.as_ref()).await?;
        self.states.compare_hash(request.index, request.hash);
        Ok(self.gate.answer(peer::StateHashResponse { hash: self.states.hash_at(request.index) }))
    }

    async fn set_addresses(
        &self,
        request: Request<peer::SetAddressesRequest>,
    ) -> Result<Response<peer::SetAddressesResponse>, Status> {
        let request = request.into_inner();
        let from = self.gate.check(request.route.as_ref()).await?;
        let node = request.node.ok_or_else(|| Status::invalid_argument("the message has no node"))?;
        let process = request.route.as_ref().map(Process::of).unwrap_or_default();
        // All nodes will find the node at the address that is recorded here.
        self.gate.cluster.processes().admit_elsewhere(from, process).await?;
        match self.members.set_addresses(from, wire::decode_node(node)).await {
            Ok(_) => Ok(self.gate.answer(peer::SetAddressesResponse {})),
            Err(error) => Err(Status::failed_precondition(error.to_string())),
        }
    }
}

/// Waits for the first message, which names the sender, and passes the stream to the handler.
async fn forwarded(
    mut requests: Streaming<peer::ForwardRequest>,
    gate: Gate,
    handler: Arc<dyn ForwardHandler>,
) -> BoxStream<'static, Result<peer::ForwardResponse, Status>> {
    let first = match requests.message().await {
        Ok(Some(first)) => gate.check(first.route.as_ref()).await.map(|from| (from, first)),
        Ok(None) => return stream::empty().boxed(),
        Err(status) => Err(status),
    };
    let (from, first) = match first {
        Ok(first) => first,
        Err(status) => return stream::once(async { Err(status) }).boxed(),
    };
    let rest = requests.map(move |request| {
        let request = request?;
        match gate.check_again(request.route.as_ref())? {
            sender if sender == from => Ok(request),
            _ => Err(Status::failed_precondition("one stream, one sender")),
        }
    });
    handler.forward(from, stream::once(async { Ok(first) }).chain(rest).boxed())
}

type Refusal = Arc<Mutex<Option<Status>>>;

/// Returns the requests up to the first one that is refused. The second value is the place where
/// the reason for the refusal will be. The sender is present from its first request until the
/// stream ends.
fn accepted(
    requests: Streaming<peer::AppendRequest>,
    gate: Gate,
    raft: Arc<Raft>,
    presence: Presence,
) -> (impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + 'static, Refusal) {
    let refusal = Refusal::default();
    let begun = Accepted { requests, gate, raft, presence, open: None, refusal: refusal.clone() };
    let accepted = stream::unfold(begun, |mut accepted| async move {
        match accepted.next().await {
            Ok(request) => request.map(|request| (request, accepted)),
            Err(status) => {
                *accepted.refusal.lock() = Some(status);
                None
            }
        }
    });
    (accepted, refusal)
}

/// One append stream, read.
struct Accepted {
    requests: Streaming<peer::AppendRequest>,
    gate: Gate,
    raft: Arc<Raft>,
    presence: Presence,
    open: Option<presence::Stream>,
    refusal: Refusal,
}

impl Accepted {
    async fn next(&mut self) -> Result<Option<AppendEntriesRequest<TypeConfig>>, Status> {
        let Some(message) = self.requests.message().await? else { return Ok(None) };
        faults::io("peer-append-refused")?;
        let from = self.gate.check(message.route.as_ref()).await?;
        if self.open.is_none() {
            self.open = Some(self.presence.opened(from, message.boot));
        }
        let request = self.gate.read(wire::decode_append(message))?;
        self.gate.read(wire::check_append(from, &request))?;
        self.gate.check_vote(&self.raft, from, &request.vote)?;
        self.gate.check_room(&request)?;
        Ok(Some(request))
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
