//! Owns the peer port: receives every message of `peer.proto`, checks its route, and passes it to
//! the module that handles it. Decides nothing: openraft, `canvass`, `membership`, `join`,
//! `install` and the handlers of the command path do.
//!
//! A refused route changes nothing. A node in no cluster answers Identify and Join, and refuses all
//! other requests.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream;
use futures::stream::BoxStream;
use lockstep_proto::peer;
use lockstep_proto::peer::peer_server::{Peer, PeerServer};
use lockstep_proto::peer::snapshot_request::Part;
use tonic::{Request, Response, Status, Streaming};

use super::bounded::Intake;
use super::dial::{
    CONNECTION_WINDOW_BYTES, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, PEER_ANSWER_BYTES_MAX, PEER_MESSAGE_BYTES_MAX,
    STREAM_WINDOW_BYTES,
};
use super::groups::{Door, Groups};
use super::handlers::PreparedChange;
use super::incoming::{all_heard, appended, forwarded, heard, stopped};
use super::link::HEARTBEAT_STREAMS_MAX;
use super::only_grpc::OnlyGrpc;
use super::wire;
use crate::faults;
use crate::net::{self, Http2Limits, Port, Remote, WindowLimits, Windows};
use crate::raft::membership::join::{Host, Joins};
use crate::raft::membership::{removal, standing};
use crate::raft::{ClusterCell, Me, Process, Raft};
use crate::types::{GROUP, NodeId};

/// Limits of peer connections. A peer has a handful of calls under way, and a handful of
/// connections. Who has shown no certificate may be anybody: the windows of one address hold 32
/// MiB, beside 64 KiB for each of its other connections.
const LIMITS: Http2Limits = Http2Limits {
    streams_max: 256,
    windows: WindowLimits {
        wide: Windows { stream_bytes: 1 << 20, connection_bytes: 2 << 20 },
        wide_max: 32,
        wide_per_address_max: 16,
        proven: Some(Windows { stream_bytes: STREAM_WINDOW_BYTES, connection_bytes: CONNECTION_WINDOW_BYTES }),
    },
    keepalive_interval: KEEPALIVE_INTERVAL,
    keepalive_timeout: KEEPALIVE_TIMEOUT,
};

// Heartbeat streams stay open, and leave half of a connection's calls to all others.
const _: () = assert!(2 * HEARTBEAT_STREAMS_MAX <= LIMITS.streams_max as usize);

/// What the service is built from.
pub struct Parts {
    /// This node.
    pub me: Me,
    /// Its cluster.
    pub cluster: ClusterCell,
    /// The rest of the node.
    pub host: Arc<dyn Host>,
    /// The groups that the node serves. More may come while it runs.
    pub groups: Groups,
    /// The room for messages of which a part is here.
    pub intake: Intake,
}

/// The tonic service. Cheap to clone.
#[derive(Clone)]
pub struct PeerService {
    joins: Arc<Joins>,
    door: Door,
    intake: Intake,
}

impl PeerService {
    /// Creates the service. It serves nothing yet.
    pub fn new(parts: Parts) -> Self {
        PeerService {
            door: Door::new(parts.me.node_id, parts.cluster.clone(), parts.groups),
            joins: Arc::new(Joins::new(parts.me, parts.cluster, parts.host)),
            intake: parts.intake,
        }
    }

    /// Builds a response that names the process that gives it.
    fn answer<T>(&self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        self.door.cluster.processes().sign(response.metadata_mut());
        response
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
        let service = move |remote| self.of_connection(remote);
        net::serve(port, listeners, LIMITS, service, stopped).await
    }

    /// Returns the service of one connection.
    fn of_connection(&self, remote: Remote) -> OnlyGrpc<PeerServer<PeerService>> {
        let server = PeerServer::new(self.clone())
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_ANSWER_BYTES_MAX);
        OnlyGrpc::new(server, self.door.clone(), self.intake.connection(), remote)
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

/// Returns who has sent a request.
fn sender<T>(request: &Request<T>) -> Result<Remote, Status> {
    let remote = request.extensions().get::<Remote>();
    remote.cloned().ok_or_else(|| Status::internal("a request came without the end that has sent it"))
}

type Answers<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl Peer for PeerService {
    type AppendStream = Answers<peer::AppendResponse>;
    type HeartbeatsStream = Answers<peer::AppendResponse>;

    async fn append(
        &self,
        request: Request<Streaming<peer::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        if self.door.cluster.get().is_none() {
            return Err(Status::failed_precondition("this node is in no cluster yet"));
        }
        // The stream opens before the first message, which names the group.
        let by = sender(&request)?;
        let answers = stream::once(appended(request.into_inner(), self.door.clone(), by)).flatten();
        Ok(self.answer(Box::pin(answers)))
    }

    async fn heartbeats(
        &self,
        request: Request<Streaming<peer::AppendRequest>>,
    ) -> Result<Response<Self::HeartbeatsStream>, Status> {
        // The stream opens before the first message, which names the group.
        let by = sender(&request)?;
        let answers = stream::once(all_heard(request.into_inner(), self.door.clone(), by)).flatten();
        Ok(self.answer(Box::pin(answers)))
    }

    async fn heartbeat(&self, request: Request<peer::AppendRequest>) -> Result<Response<peer::AppendResponse>, Status> {
        let by = sender(&request)?;
        let request = request.into_inner();
        let group = self.door.group(request.route.as_ref())?;
        Ok(self.answer(heard(&group, request, &by).await?))
    }

    async fn vote(&self, request: Request<peer::VoteRequest>) -> Result<Response<peer::VoteResponse>, Status> {
        let by = sender(&request)?;
        let request = request.into_inner();
        let group = self.door.group(request.route.as_ref())?;
        let (from, raft) = group.gate.candidate(request.route.as_ref(), &by).await?;
        refuse_removed(&raft, from, &request)?;
        let request = group.gate.read(wire::decode_vote_request(request))?;
        group.gate.check_vote(&raft, from, &request.vote)?;
        let response = raft.vote(request).await.map_err(stopped)?;
        Ok(self.answer(wire::encode_vote_response(&response)))
    }

    async fn pre_vote(&self, request: Request<peer::VoteRequest>) -> Result<Response<peer::VoteResponse>, Status> {
        let by = sender(&request)?;
        let request = request.into_inner();
        let group = self.door.group(request.route.as_ref())?;
        let (from, raft) = group.gate.raft(request.route.as_ref(), &by).await?;
        refuse_removed(&raft, from, &request)?;
        let request = group.gate.read(wire::decode_vote_request(request))?;
        group.gate.check_vote(&raft, from, &request.vote)?;
        let response = raft.pre_vote(request).await.map_err(stopped)?;
        Ok(self.answer(wire::encode_vote_response(&response)))
    }

    async fn transfer_leader(
        &self,
        request: Request<peer::TransferLeaderRequest>,
    ) -> Result<Response<peer::TransferLeaderResponse>, Status> {
        let by = sender(&request)?;
        let request = request.into_inner();
        let group = self.door.group(request.route.as_ref())?;
        let (from, raft) = group.gate.raft(request.route.as_ref(), &by).await?;
        faults::io("peer-transfer-refused")?;
        let request = group.gate.read(wire::decode_transfer(request))?;
        group.gate.check_vote(&raft, from, request.from_leader())?;
        if group.gate.raft.stands_back() {
            return Err(Status::failed_precondition("this node has not applied its log, so it takes no lead over"));
        }
        let response = raft.handle_transfer_leader(request).await.map_err(stopped)?;
        Ok(self.answer(wire::encode_transfer_response(&response)))
    }

    async fn canvass(&self, request: Request<peer::CanvassRequest>) -> Result<Response<peer::CanvassResponse>, Status> {
        let by = sender(&request)?;
        let group = self.door.group(request.get_ref().route.as_ref())?;
        let (_, raft) = group.gate.raft(request.get_ref().route.as_ref(), &by).await?;
        Ok(self.answer(group.canvass.answer(&raft).await))
    }

    type SnapshotStream = Answers<peer::SnapshotResponse>;

    async fn snapshot(
        &self,
        request: Request<Streaming<peer::SnapshotRequest>>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let by = sender(&request)?;
        let mut frames = request.into_inner();
        let first = frames.message().await?.and_then(|message| message.part);
        let Some(Part::Header(header)) = first else {
            return Err(Status::invalid_argument("a snapshot begins with its header"));
        };
        let group = self.door.group(header.route.as_ref())?;
        let (from, raft) = group.gate.raft(header.route.as_ref(), &by).await?;
        let answers = group.snapshots.install(raft, from, header, frames.boxed()).take_until(group.ended());
        Ok(self.answer(answers.boxed()))
    }

    type ForwardStream = Answers<peer::ForwardResponse>;

    async fn forward(
        &self,
        request: Request<Streaming<peer::ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        let by = sender(&request)?;
        let answers = forwarded(request.into_inner(), self.door.clone(), by);
        // The stream opens before the first message: its opener may have nothing to send yet.
        Ok(Response::new(Box::pin(stream::once(answers).flatten())))
    }

    async fn read_index(
        &self,
        request: Request<peer::ReadIndexRequest>,
    ) -> Result<Response<peer::ReadIndexResponse>, Status> {
        let by = sender(&request)?;
        let group = self.door.group(request.get_ref().route.as_ref())?;
        let from = group.gate.check(request.get_ref().route.as_ref(), &by).await?;
        let index = group.leader.read_index(from).await?;
        Ok(self.answer(peer::ReadIndexResponse { index }))
    }

    async fn pass_time(
        &self,
        request: Request<peer::PassTimeRequest>,
    ) -> Result<Response<peer::PassTimeResponse>, Status> {
        let by = sender(&request)?;
        let group = self.door.group(request.get_ref().route.as_ref())?;
        let from = group.gate.check(request.get_ref().route.as_ref(), &by).await?;
        let index = group.leader.pass_time(from, request.get_ref().until_ms).await?;
        Ok(self.answer(peer::PassTimeResponse { index }))
    }

    async fn identify(
        &self,
        request: Request<peer::IdentifyRequest>,
    ) -> Result<Response<peer::IdentifyResponse>, Status> {
        self.door.cluster.names().admit_any(&sender(&request)?)?;
        if let Some(copy) = &request.get_ref().copy {
            self.door.cluster.processes().news(self.door.me, copy);
        }
        let group = self.door.groups.get(GROUP);
        let raft = group.as_ref().and_then(|group| group.gate.raft.get());
        let leads = raft.is_some_and(|raft| raft.is_leader());
        let operation = Some(&request.get_ref().operation).filter(|operation| !operation.is_empty());
        let objection = match group.zip(operation) {
            Some((group, operation)) => {
                let operation = wire::decode_operation(operation);
                let operation = operation.map_err(|error| Status::invalid_argument(error.to_string()))?;
                group.changes.object(&operation).unwrap_or_default()
            }
            None => String::new(),
        };
        Ok(self.answer(peer::IdentifyResponse { leads, objection, ..self.joins.identify() }))
    }

    async fn join(&self, request: Request<peer::JoinRequest>) -> Result<Response<peer::JoinResponse>, Status> {
        let by = sender(&request)?;
        Ok(Response::new(self.joins.join(request.into_inner(), &by).await?))
    }

    type FetchComponentStream = Answers<peer::FetchComponentResponse>;

    async fn fetch_component(
        &self,
        request: Request<peer::FetchComponentRequest>,
    ) -> Result<Response<Self::FetchComponentStream>, Status> {
        let by = sender(&request)?;
        let request = request.into_inner();
        self.door.group(request.route.as_ref())?.gate.check(request.route.as_ref(), &by).await?;
        Ok(Response::new(self.joins.ship(request).await?))
    }

    async fn standing(
        &self,
        request: Request<peer::StandingRequest>,
    ) -> Result<Response<peer::StandingResponse>, Status> {
        let by = sender(&request)?;
        let group = self.door.group(request.get_ref().route.as_ref())?;
        let (from, raft) = group.gate.raft(request.get_ref().route.as_ref(), &by).await?;
        Ok(self.answer(peer::StandingResponse { removed_at: standing::removed_at(&raft, from) }))
    }

    async fn state_hash(
        &self,
        request: Request<peer::StateHashRequest>,
    ) -> Result<Response<peer::StateHashResponse>, Status> {
        let by = sender(&request)?;
        let request = request.into_inner();
        let group = self.door.group(request.route.as_ref())?;
        group.gate.check(request.route.as_ref(), &by).await?;
        group.states.compare_hash(request.index, request.hash);
        Ok(self.answer(peer::StateHashResponse { hash: group.states.hash_at(request.index) }))
    }

    async fn set_addresses(
        &self,
        request: Request<peer::SetAddressesRequest>,
    ) -> Result<Response<peer::SetAddressesResponse>, Status> {
        let by = sender(&request)?;
        let request = request.into_inner();
        let group = self.door.group(request.route.as_ref())?;
        let from = group.gate.check(request.route.as_ref(), &by).await?;
        let node = request.node.ok_or_else(|| Status::invalid_argument("the message has no node"))?;
        let process = request.route.as_ref().map(Process::of).unwrap_or_default();
        // All nodes will find the node at the address that is recorded here.
        self.door.cluster.processes().admit_elsewhere(from, process).await?;
        match group.members.set_addresses(from, wire::decode_node(node)).await {
            Ok(_) => Ok(self.answer(peer::SetAddressesResponse {})),
            Err(error) => Err(Status::failed_precondition(error.to_string())),
        }
    }

    type FetchStateStream = Answers<peer::FetchStateResponse>;

    async fn fetch_state(
        &self,
        request: Request<peer::FetchStateRequest>,
    ) -> Result<Response<Self::FetchStateStream>, Status> {
        let by = sender(&request)?;
        let group = self.door.group(request.get_ref().route.as_ref())?;
        let from = group.gate.check(request.get_ref().route.as_ref(), &by).await?;
        let frames = group.source.fetch_state(from).await?.take_until(group.ended());
        Ok(self.answer(frames.map(|frame| frame.map(|frame| peer::FetchStateResponse { frame })).boxed()))
    }

    async fn prepare_change(
        &self,
        request: Request<peer::PrepareChangeRequest>,
    ) -> Result<Response<peer::PrepareChangeResponse>, Status> {
        let by = sender(&request)?;
        let request = request.into_inner();
        let group = self.door.group(request.route.as_ref())?;
        let from = group.gate.check(request.route.as_ref(), &by).await?;
        let change = group.gate.read(wire::decode_change(&request.change))?;
        let holder = request.holder.ok_or_else(|| Status::invalid_argument("the message has no holder"))?;
        let prepared = group.changes.prepare(from, change, wire::decode_node(holder)).await;
        let PreparedChange { build, log_first } = prepared.map_err(Status::failed_precondition)?;
        Ok(self.answer(peer::PrepareChangeResponse { build, log_first }))
    }

    async fn rehearse_change(
        &self,
        request: Request<peer::RehearseChangeRequest>,
    ) -> Result<Response<peer::RehearseChangeResponse>, Status> {
        let by = sender(&request)?;
        let request = request.into_inner();
        let group = self.door.group(request.route.as_ref())?;
        group.gate.check(request.route.as_ref(), &by).await?;
        let trial = group.gate.read(wire::decode_trial(&request))?;
        let report = tokio::select! {
            report = group.changes.rehearse(trial) => report.map_err(Status::failed_precondition)?,
            () = group.ended() => return Err(Status::unavailable("this node serves the group no more")),
        };
        Ok(self.answer(peer::RehearseChangeResponse { report_json: report }))
    }

    async fn prepare_rollback(
        &self,
        request: Request<peer::PrepareRollbackRequest>,
    ) -> Result<Response<peer::PrepareRollbackResponse>, Status> {
        let by = sender(&request)?;
        let request = request.into_inner();
        let group = self.door.group(request.route.as_ref())?;
        group.gate.check(request.route.as_ref(), &by).await?;
        let trial = group.gate.read(wire::decode_rollback(&request))?;
        let report = tokio::select! {
            report = group.changes.prepare_rollback(trial) => report.map_err(Status::failed_precondition)?,
            () = group.ended() => return Err(Status::unavailable("this node serves the group no more")),
        };
        Ok(self.answer(peer::PrepareRollbackResponse { report_json: report }))
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
