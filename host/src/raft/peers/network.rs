//! Implements openraft's view of a peer over the pooled links: append stream, heartbeats, votes,
//! hand-overs, snapshots. Enforces every timeout itself (openraft leaves that to its network).
//! Never retries: openraft does, with our backoff.

mod beats;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use lockstep_proto::peer;
use lockstep_proto::peer::peer_client::PeerClient;
use openraft::RPCTypes;
use openraft::alias::SnapshotOf;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption, RaftNetworkFactory,
    stream_append_sequential,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout_at;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;

use super::acks::Acks;
use super::dial::routed;
use super::install;
use super::install::{OtherEnd, STALLED_AFTER};
use super::link::{Dialled, Lane, Link, Links};
use super::stream::{Answers, Broken, Outstanding};
use super::{bounds, wire};
use crate::machine::{Sending, SnapshotData, Snapshots, Transfer};
use crate::raft::{LogTime, Timeouts};
use crate::types::{Addresses, NodeId, TypeConfig, Vote};
use beats::Beats;

type CallError = RPCError<TypeConfig>;

/// Pauses between the first attempts to reach a peer that cannot be reached; [`BACKOFF_LAST_MS`]
/// follows. They are short, so that a restarted follower is back soon.
const BACKOFF_MS: [u64; 3] = [100, 200, 400];
/// Pause between all later attempts.
const BACKOFF_LAST_MS: u64 = 500;

/// Pause before an append stream that could not be opened, or broke, is opened again.
const REDIAL_PAUSE: Duration = Duration::from_millis(25);

/// Makes a [`Peer`] for each task of openraft that talks to one.
#[derive(Clone)]
pub struct NetworkFactory {
    links: Links,
    boot: u64,
    snapshots: Snapshots,
    timeouts: Timeouts,
    log_time: LogTime,
    acks: Acks,
}

impl NetworkFactory {
    /// Creates a factory without dialling. `boot` is the number of this node's process.
    pub fn new(links: Links, boot: u64, snapshots: Snapshots, timeouts: Timeouts, log_time: LogTime) -> Self {
        NetworkFactory { links, boot, snapshots, timeouts, log_time, acks: Acks::default() }
    }

    /// Returns what the peers of all its clients have acknowledged.
    pub fn acks(&self) -> Acks {
        self.acks.clone()
    }

    fn peer(&self, target: NodeId, node: &Addresses, appends: Appends) -> Peer {
        let (failed_at, beats) = Default::default();
        Peer { factory: self.clone(), target, node: node.clone(), appends, failed_at, beats }
    }
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, node: &Addresses) -> Peer {
        self.peer(target, node, Appends::Streamed)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &Addresses) -> Peer {
        self.peer(target, node, Appends::OneByOne)
    }

    async fn new_snapshot_client(&mut self, target: NodeId, node: &Addresses) -> Peer {
        self.peer(target, node, Appends::Streamed)
    }
}

/// How a [`Peer`] sends appends.
#[derive(Clone, Copy, Debug)]
enum Appends {
    /// Log replication.
    Streamed,
    /// Heartbeats, on the control lane.
    OneByOne,
}

/// One peer, for one task of openraft. Cheap: the channels are in the pool.
pub struct Peer {
    factory: NetworkFactory,
    target: NodeId,
    node: Addresses,
    appends: Appends,
    /// The last time at which the append stream broke or could not be opened.
    failed_at: Mutex<Option<tokio::time::Instant>>,
    /// How the next heartbeat goes; `None` before the first one and after a failure.
    beats: Mutex<Option<Beats>>,
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

    /// Makes one call on the control lane, within its time limit.
    async fn call<A, F>(
        &self,
        action: RPCTypes,
        limit: Duration,
        call: impl FnOnce(Dialled) -> F,
    ) -> Result<A, CallError>
    where
        F: Future<Output = Result<tonic::Response<A>, tonic::Status>>,
    {
        let link = self.link(Lane::Control);
        let channel = link.dialled().map_err(unreachable)?;
        match tokio::time::timeout(limit, call(channel)).await {
            Ok(Ok(response)) => {
                link.heard();
                self.check_process(response.metadata()).map_err(|status| broken(&link, &status))?;
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

    /// Checks which process answered. The answer of a copy of the peer does not count.
    fn check_process(&self, headers: &MetadataMap) -> Result<(), tonic::Status> {
        self.factory.links.cluster().processes().answered(self.target, headers)
    }

    /// Checks a vote in a response. It is saved here if it is greater than this node's.
    fn check_vote(&self, vote: &Vote) -> Result<(), CallError> {
        match self.factory.links.raft() {
            Some(raft) => bounds::check_vote_of_peer(&raft, vote).map_err(unreachable),
            None => Ok(()),
        }
    }

    /// Opens the append stream. It stays open as long as openraft feeds it; `hard_ttl` of the
    /// option does not limit it.
    async fn open_stream<'s, S>(
        &'s mut self,
        input: S,
    ) -> Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, CallError>>, CallError>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        // openraft's backoff begins only at the next turn of its loop. Until then a refused
        // connection would be tried without a pause. A stream that was open needs no pause: a new
        // leader opens a dozen, one after the other, to find what its follower has.
        let failed_at = self.failed_at.lock().take();
        if let Some(failed_at) = failed_at {
            tokio::time::sleep_until(failed_at + REDIAL_PAUSE).await;
        }
        let progress_timeout = self.factory.timeouts.append_progress();
        let link = self.link(Lane::Append);
        let mut client = link.client().map_err(unreachable)?;
        let outstanding = Outstanding::new();
        let route = self.route()?;
        let requests = routed(outstanding.requests(input, route.clone(), self.factory.boot), &route);
        let responses = match tokio::time::timeout(progress_timeout, client.append(requests)).await {
            Ok(Ok(response)) => match self.check_process(response.metadata()) {
                Ok(()) => response.into_inner(),
                Err(status) => return Err(self.append_broke(&link, Broken::Status(status))),
            },
            Ok(Err(status)) => return Err(self.append_broke(&link, Broken::Status(status))),
            Err(_) => return Err(self.append_broke(&link, Broken::Silent)),
        };
        let (acks, target) = (self.factory.acks.clone(), self.target);
        let explain = move |cause| self.append_broke(&link, cause);
        let answers = Answers { responses, outstanding, progress_timeout, acks, target };
        Ok(Box::pin(answers.into_stream(explain)))
    }

    fn append_broke(&self, link: &Link, cause: Broken) -> CallError {
        *self.failed_at.lock() = Some(tokio::time::Instant::now());
        match cause {
            Broken::Status(status) => {
                self.factory.links.cluster().note(&status);
                broken(link, &status)
            }
            Broken::Silent => {
                link.close();
                self.timeout(RPCTypes::AppendEntries, self.factory.timeouts.append_progress())
            }
        }
    }
}

/// Returns the error for a peer that cannot be reached or refuses to talk. openraft pauses before
/// it tries again.
fn unreachable(reason: impl ToString) -> CallError {
    RPCError::Unreachable(Unreachable::from_string(reason))
}

/// Closes the link and classifies the failure: refused connections and refused requests need a
/// pause, a broken stream does not.
fn broken(link: &Link, status: &tonic::Status) -> CallError {
    use tonic::Code;
    let text = describe(status);
    link.broke(&text);
    match status.code() {
        Code::Unavailable | Code::FailedPrecondition | Code::InvalidArgument | Code::Unimplemented => unreachable(text),
        // Its disk is full.
        Code::ResourceExhausted => unreachable(text),
        // Our certificate is not that of this node.
        Code::PermissionDenied => unreachable(text),
        _ => RPCError::Network(NetworkError::from_string(text)),
    }
}

/// Formats a status with its causes. Only the sources name a refused connection.
pub(in crate::raft) fn describe(status: &tonic::Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let cause = error.to_string();
        // The text of some errors already ends with their cause.
        if !text.ends_with(&cause) {
            text.push_str(&format!(": {cause}"));
        }
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

impl NetVote<TypeConfig> for Peer {
    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, CallError> {
        let message = wire::encode_vote_request(self.route()?, &request);
        let call = |mut channel: Dialled| async move { channel.client.vote(message).await };
        let response = self.call(RPCTypes::Vote, option.hard_ttl(), call).await?;
        let response = wire::decode_vote_response(response).map_err(unreachable)?;
        self.check_vote(&response.vote)?;
        Ok(response)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, CallError> {
        let message = wire::encode_vote_request(self.route()?, &request);
        let call = |mut channel: Dialled| async move { channel.client.pre_vote(message).await };
        let response = self.call(RPCTypes::Vote, option.hard_ttl(), call).await?;
        let response = wire::decode_vote_response(response).map_err(unreachable)?;
        self.check_vote(&response.vote)?;
        Ok(response)
    }
}

impl NetTransferLeader<TypeConfig> for Peer {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, CallError> {
        let message = wire::encode_transfer(self.route()?, &request);
        let call = |mut channel: Dialled| async move { channel.client.transfer_leader(message).await };
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
        // Its time limit would apply to the whole transfer.
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let link = self.link(Lane::Bulk);
        let client = link.client().map_err(unreachable)?;
        let route = self.route()?;
        let header = wire::encode_snapshot_header(route.clone(), &vote, &snapshot);
        let (broke, mut unreadable) = oneshot::channel();
        let sending = self.factory.snapshots.send(&snapshot.snapshot, self.target, &self.node.name);
        // Listed until the receiver has installed it, long after the last frame was sent.
        let transfer = sending.transfer.clone();
        let answer = tokio::select! {
            answer = self.send_snapshot(client, routed(snapshot_parts(header, sending, broke), &route), &transfer) => answer,
            closed = cancel => return Err(closed.into()),
        };
        // The receiver sees only a stream that ends too soon; the reason is on this side.
        if let Ok(reason) = unreadable.try_recv() {
            tracing::error!(%reason, to = format_args!("{:016x}", self.target), "cannot read the snapshot to send");
            return Err(unreachable(format!("cannot read the snapshot to send: {reason}")).into());
        }
        match answer {
            Ok(vote) => {
                self.check_vote(&vote)?;
                Ok(SnapshotResponse::new(vote))
            }
            // Whatever the error was, the transfer begins anew after a pause.
            Err(status) => {
                link.close();
                self.factory.links.cluster().note(&status);
                tracing::warn!(peer = %self.node, error = status.message(), "a snapshot was not installed; it is tried again");
                match status.code() {
                    tonic::Code::DataLoss => self.factory.snapshots.distrust_guest(status.message()),
                    tonic::Code::NotFound => self.factory.snapshots.send_rows_next(self.target),
                    _ => {}
                }
                Err(unreachable(describe(&status)).into())
            }
        }
    }
}

impl Peer {
    /// Sends the parts and follows the receiver until it sends its vote, as long as its steps grow.
    async fn send_snapshot(
        &self,
        mut client: PeerClient<Channel>,
        parts: tonic::Request<impl Stream<Item = peer::SnapshotRequest> + Send + 'static>,
        transfer: &Transfer,
    ) -> Result<Vote, tonic::Status> {
        use peer::snapshot_response::Part;
        let mut receiver = OtherEnd::new();
        let stalled = |_| {
            tonic::Status::deadline_exceeded(format!("the receiver of the snapshot did nothing for {STALLED_AFTER:?}"))
        };
        let answers = timeout_at(receiver.stalled_at(), client.snapshot(parts)).await.map_err(stalled)??;
        self.check_process(answers.metadata())?;
        let mut answers = answers.into_inner();
        loop {
            let answer = timeout_at(receiver.stalled_at(), answers.message()).await.map_err(stalled)??;
            match answer.map(|answer| answer.part) {
                Some(Some(Part::Steps(steps))) => {
                    receiver.told(steps);
                    transfer.heard(steps);
                }
                Some(Some(Part::Vote(vote))) => return Ok(wire::decode_vote(Some(vote))?),
                Some(None) => return Err(tonic::Status::invalid_argument("an answer to a snapshot without a part")),
                None => return Err(tonic::Status::unavailable("the receiver ended the transfer without an answer")),
            }
        }
    }
}

/// Builds the message stream: the header, then the frames until the first one that cannot be read.
/// While no frame is ready, it sends the sender's steps.
fn snapshot_parts(
    header: peer::SnapshotHeader,
    sending: Sending,
    broke: oneshot::Sender<String>,
) -> impl Stream<Item = peer::SnapshotRequest> + Send + 'static {
    use peer::snapshot_request::Part;
    let parts = stream::unfold(Some((sending, install::ticks(), broke)), |state| async move {
        let (mut sending, mut ticks, broke) = state?;
        tokio::select! {
            biased;
            frame = sending.frames.recv() => match frame? {
                Ok(frame) => Some((Part::Frame(frame), Some((sending, ticks, broke)))),
                Err(reason) => {
                    // The receiver is gone when the transfer is over already.
                    let _ = broke.send(reason);
                    None
                }
            },
            _ = ticks.tick() => {
                let steps = sending.transfer.steps();
                Some((Part::Steps(steps), Some((sending, ticks, broke))))
            }
        }
    });
    stream::once(async { Part::Header(header) }).chain(parts).map(|part| peer::SnapshotRequest { part: Some(part) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::machine::{Direction, Transfers};
    use crate::raft::peers::link::Channels;
    use crate::raft::{ClusterCell, GroupCell, RaftCell};
    use bytes::Bytes;

    #[tokio::test]
    async fn a_snapshot_that_cannot_be_read_stops_and_says_why() {
        let (out, frames) = tokio::sync::mpsc::channel(3);
        for frame in [Ok(Bytes::from_static(b"a")), Err("disk".to_owned()), Ok(Bytes::from_static(b"b"))] {
            out.try_send(frame).unwrap();
        }
        let sending = Sending { frames, transfer: Arc::new(Transfers::default().begin(Direction::Sending, "", None)) };
        let (broke, reason) = oneshot::channel();
        let parts: Vec<_> = snapshot_parts(peer::SnapshotHeader::default(), sending, broke).collect().await;
        let is_frame = |part: &peer::SnapshotRequest| matches!(part.part, Some(peer::snapshot_request::Part::Frame(_)));
        assert_eq!(parts.iter().filter(|part| is_frame(part)).count(), 1);
        assert_eq!(reason.await.unwrap(), "disk");
    }

    #[tokio::test]
    async fn a_sender_without_a_frame_tells_its_steps() {
        use peer::snapshot_request::Part;
        let (_out, frames) = tokio::sync::mpsc::channel(1);
        let sending = Sending { frames, transfer: Arc::new(Transfers::default().begin(Direction::Sending, "", None)) };
        let transfer = sending.transfer.clone();
        let (broke, _reason) = oneshot::channel();
        let mut parts = Box::pin(snapshot_parts(peer::SnapshotHeader::default(), sending, broke));
        assert!(matches!(parts.next().await.unwrap().part, Some(Part::Header(_))));
        for _ in 0..2 {
            transfer.step();
            let Some(Part::Steps(steps)) = parts.next().await.unwrap().part else { panic!("steps") };
            assert_eq!(steps, transfer.steps());
        }
    }

    #[test]
    fn what_refuses_calls_for_a_pause_and_what_breaks_does_not() {
        let links = Links::new(
            1,
            GroupCell::new(ClusterCell::new(None), 0),
            RaftCell::default(),
            Channels::default(),
            Duration::MAX,
        );
        let link = links.to(2, &Addresses::default(), Lane::Append);
        use tonic::Status;
        for status in [Status::unavailable("x"), Status::failed_precondition("x"), Status::permission_denied("x")] {
            assert!(matches!(broken(&link, &status), RPCError::Unreachable(_)));
        }
        assert!(matches!(broken(&link, &tonic::Status::unknown("h2 reset")), RPCError::Network(_)));
    }
}
