//! openraft's view of a peer: append stream, heartbeats, votes, hand-overs, snapshots, over the pooled links.
//! Enforces every timeout itself (openraft leaves that to its network), and never retries: openraft does, with our backoff.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use openraft::RPCTypes;
use openraft::alias::SnapshotOf;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{
    Backoff, NetAppend, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
    RaftNetworkFactory, stream_append_sequential,
};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::machine::{SnapshotData, Snapshots};
use crate::raft::link::{Lane, Link, Links};
use crate::raft::peer::peer_client::PeerClient;
use crate::raft::stream::{Answers, Broken, Outstanding};
use crate::raft::{Timeouts, peer, wire};
use crate::types::{Node, NodeId, TypeConfig, Vote};

type CallError = RPCError<TypeConfig>;

/// Pauses between attempts to reach a peer that cannot be reached; the last one repeats. Short, so that a restarted follower
/// is back soon.
const BACKOFF_MS: [u64; 3] = [100, 200, 400];
const BACKOFF_LAST_MS: u64 = 500;

/// Before an append stream is opened again that could not be opened, or broke.
const REDIAL_PAUSE: Duration = Duration::from_millis(25);

/// Makes a [`Peer`] for each task of openraft that talks to one.
#[derive(Clone)]
pub struct NetworkFactory {
    links: Links,
    boot: u64,
    snapshots: Snapshots,
    timeouts: Timeouts,
}

impl NetworkFactory {
    /// Dials nothing. `boot`: which process of this node it is.
    pub fn new(links: Links, boot: u64, snapshots: Snapshots, timeouts: Timeouts) -> Self {
        NetworkFactory { links, boot, snapshots, timeouts }
    }

    fn peer(&self, target: NodeId, node: &Node, appends: Appends) -> Peer {
        Peer { factory: self.clone(), target, node: node.clone(), appends, failed_at: Mutex::default() }
    }
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, node: &Node) -> Peer {
        self.peer(target, node, Appends::Streamed)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &Node) -> Peer {
        self.peer(target, node, Appends::OneByOne)
    }

    async fn new_snapshot_client(&mut self, target: NodeId, node: &Node) -> Peer {
        self.peer(target, node, Appends::Streamed)
    }
}

/// How a [`Peer`] sends appends.
#[derive(Clone, Copy, Debug)]
enum Appends {
    /// Log replication.
    Streamed,
    /// Heartbeats, one call each on the control lane.
    OneByOne,
}

/// One peer, for one task of openraft. Cheap: the channels are in the pool.
pub struct Peer {
    factory: NetworkFactory,
    target: NodeId,
    node: Node,
    appends: Appends,
    /// When the append stream last could not be opened, or broke.
    failed_at: Mutex<Option<tokio::time::Instant>>,
}

impl Peer {
    fn link(&self, lane: Lane) -> Arc<Link> {
        self.factory.links.to(self.target, &self.node, lane)
    }

    fn route(&self) -> Result<peer::Route, CallError> {
        let links = &self.factory.links;
        links.cluster().route(links.me(), self.target).ok_or_else(|| unreachable("this node is in no cluster"))
    }

    fn timeout(&self, action: RPCTypes, timeout: Duration) -> CallError {
        RPCError::Timeout(Timeout { action, id: self.factory.links.me(), target: self.target, timeout })
    }

    /// One call on the control lane, within its time.
    async fn call<A, F>(
        &self,
        action: RPCTypes,
        limit: Duration,
        call: impl FnOnce(PeerClient<Channel>) -> F,
    ) -> Result<A, CallError>
    where
        F: Future<Output = Result<tonic::Response<A>, tonic::Status>>,
    {
        let link = self.link(Lane::Control);
        let client = link.client().map_err(unreachable)?;
        match tokio::time::timeout(limit, call(client)).await {
            Ok(Ok(response)) => {
                link.heard();
                Ok(response.into_inner())
            }
            Ok(Err(status)) => {
                self.factory.links.cluster().note(&status);
                Err(broken(&link, &status))
            }
            Err(_) => {
                link.timed_out();
                Err(self.timeout(action, limit))
            }
        }
    }

    /// The append stream. It lives as long as openraft feeds it; `hard_ttl` of its option is no lifetime.
    async fn open_stream<'s, S>(
        &'s mut self,
        input: S,
    ) -> Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, CallError>>, CallError>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        // openraft's backoff begins only at the next turn of its loop; until then a refused connection would be tried without rest. A
        // stream that was open is another matter: a new leader opens a dozen, one after the other, to find what its follower has.
        let failed_at = self.failed_at.lock().take();
        if let Some(failed_at) = failed_at {
            tokio::time::sleep_until(failed_at + REDIAL_PAUSE).await;
        }
        let progress_timeout = self.factory.timeouts.append_progress();
        let link = self.link(Lane::Append);
        let mut client = link.client().map_err(unreachable)?;
        let outstanding = Outstanding::new();
        let requests = outstanding.requests(input, self.route()?, self.factory.boot);
        let responses = match tokio::time::timeout(progress_timeout, client.append(requests)).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(self.append_broke(&link, Broken::Status(status))),
            Err(_) => return Err(self.append_broke(&link, Broken::Silent)),
        };
        let explain = move |cause| self.append_broke(&link, cause);
        Ok(Box::pin(Answers { responses, outstanding, progress_timeout }.into_stream(explain)))
    }

    fn append_broke(&self, link: &Link, cause: Broken) -> CallError {
        *self.failed_at.lock() = Some(tokio::time::Instant::now());
        match cause {
            Broken::Status(status) => broken(link, &status),
            Broken::Silent => {
                link.close();
                self.timeout(RPCTypes::AppendEntries, self.factory.timeouts.append_progress())
            }
        }
    }
}

/// The peer cannot be reached, or refuses to talk: openraft pauses before it tries again.
fn unreachable(reason: impl ToString) -> CallError {
    RPCError::Unreachable(Unreachable::from_string(reason))
}

/// Closes the link and says how bad it is: refused connections and refused requests call for a pause, a broken stream does not.
fn broken(link: &Link, status: &tonic::Status) -> CallError {
    use tonic::Code;
    let text = describe(status);
    link.broke(&text);
    match status.code() {
        Code::Unavailable | Code::FailedPrecondition | Code::InvalidArgument | Code::Unimplemented => unreachable(text),
        // Its disk is full.
        Code::ResourceExhausted => unreachable(text),
        _ => RPCError::Network(NetworkError::from_string(text)),
    }
}

/// The status with what caused it; a refused connection hides in the sources.
pub(super) fn describe(status: &tonic::Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

impl NetBackoff<TypeConfig> for Peer {
    fn backoff(&self) -> Option<Backoff> {
        let pauses = BACKOFF_MS.into_iter().chain(std::iter::repeat(BACKOFF_LAST_MS));
        Some(Backoff::new(pauses.map(Duration::from_millis)))
    }
}

impl NetStreamAppend<TypeConfig> for Peer {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, CallError>>, CallError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        match self.appends {
            Appends::Streamed => Box::pin(self.open_stream(input)),
            Appends::OneByOne => stream_append_sequential(self, input, option),
        }
    }
}

impl NetAppend<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, CallError> {
        let message = wire::encode_append(self.route()?, &request);
        let call = |mut client: PeerClient<Channel>| async move { client.heartbeat(message).await };
        let response = self.call(RPCTypes::AppendEntries, option.hard_ttl(), call).await?;
        wire::decode_heartbeat_response(response).map_err(unreachable)
    }
}

impl NetVote<TypeConfig> for Peer {
    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, CallError> {
        let message = wire::encode_vote_request(self.route()?, &request);
        let call = |mut client: PeerClient<Channel>| async move { client.vote(message).await };
        let response = self.call(RPCTypes::Vote, option.hard_ttl(), call).await?;
        wire::decode_vote_response(response).map_err(unreachable)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, CallError> {
        let message = wire::encode_vote_request(self.route()?, &request);
        let call = |mut client: PeerClient<Channel>| async move { client.pre_vote(message).await };
        let response = self.call(RPCTypes::Vote, option.hard_ttl(), call).await?;
        wire::decode_vote_response(response).map_err(unreachable)
    }
}

impl NetTransferLeader<TypeConfig> for Peer {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, CallError> {
        let message = wire::encode_transfer(self.route()?, &request);
        let call = |mut client: PeerClient<Channel>| async move { client.transfer_leader(message).await };
        let response = self.call(RPCTypes::TransferLeader, option.hard_ttl(), call).await?;
        wire::decode_transfer_response(response).map_err(unreachable)
    }
}

impl NetSnapshot<TypeConfig> for Peer {
    type SnapshotData = SnapshotData;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let link = self.link(Lane::Bulk);
        let mut client = link.client().map_err(unreachable)?;
        let header = wire::encode_snapshot_header(self.route()?, &vote, &snapshot);
        let (broke, mut unreadable) = oneshot::channel();
        let frames = ReceiverStream::new(self.factory.snapshots.send(&snapshot.snapshot));
        let call = tokio::time::timeout(option.hard_ttl(), client.snapshot(snapshot_parts(header, frames, broke)));
        let answer = tokio::select! {
            answer = call => answer,
            closed = cancel => return Err(closed.into()),
        };
        // The receiver sees only a stream that ends too soon; the reason is on this side.
        if let Ok(reason) = unreadable.try_recv() {
            tracing::error!(%reason, target = format_args!("{:016x}", self.target), "cannot read the snapshot to send");
            return Err(unreachable(format!("cannot read the snapshot to send: {reason}")).into());
        }
        match answer {
            Ok(Ok(response)) => Ok(wire::decode_snapshot_response(response.into_inner()).map_err(unreachable)?),
            // Whatever went wrong, a transfer is worth a pause.
            Ok(Err(status)) => {
                link.close();
                if status.code() == tonic::Code::DataLoss {
                    self.factory.snapshots.distrust_guest(status.message());
                }
                Err(unreachable(describe(&status)).into())
            }
            Err(_) => {
                link.close();
                Err(self.timeout(RPCTypes::InstallSnapshot, option.hard_ttl()).into())
            }
        }
    }
}

/// The header, then the frames until the first that cannot be read.
fn snapshot_parts(
    header: peer::SnapshotHeader,
    frames: impl Stream<Item = Result<bytes::Bytes, String>> + Send + Unpin + 'static,
    broke: oneshot::Sender<String>,
) -> impl Stream<Item = peer::SnapshotRequest> + Send + 'static {
    use peer::snapshot_request::Part;
    let frames = stream::unfold(Some((frames, broke)), |state| async move {
        let (mut frames, broke) = state?;
        match frames.next().await? {
            Ok(frame) => Some((Part::Frame(frame), Some((frames, broke)))),
            Err(reason) => {
                // Nobody listens when the transfer is over already.
                let _ = broke.send(reason);
                None
            }
        }
    });
    stream::once(async { Part::Header(header) }).chain(frames).map(|part| peer::SnapshotRequest { part: Some(part) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[tokio::test]
    async fn a_snapshot_that_cannot_be_read_stops_and_says_why() {
        let frames = stream::iter([Ok(Bytes::from_static(b"a")), Err("disk".to_owned()), Ok(Bytes::from_static(b"b"))]);
        let (broke, reason) = oneshot::channel();
        let parts: Vec<_> = snapshot_parts(peer::SnapshotHeader::default(), frames, broke).collect().await;
        assert_eq!(parts.len(), 2, "the header and one frame");
        assert_eq!(reason.await.unwrap(), "disk");
    }

    #[test]
    fn what_refuses_calls_for_a_pause_and_what_breaks_does_not() {
        let links = Links::new(1, crate::raft::ClusterCell::new(None), crate::raft::RaftCell::default(), Duration::MAX);
        let link = links.to(2, &Node::default(), Lane::Append);
        for status in [tonic::Status::unavailable("x"), tonic::Status::failed_precondition("x")] {
            assert!(matches!(broken(&link, &status), RPCError::Unreachable(_)));
        }
        assert!(matches!(broken(&link, &tonic::Status::unknown("h2 reset")), RPCError::Network(_)));
    }
}
