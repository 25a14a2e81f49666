//! Sends heartbeats to one peer, one after the other: on a stream that stays open, or as a call
//! each when the peer's build has no such stream, or its channel has no place for one more. Never
//! has two of them under way, sets no time limit and does not know what they say.
//!
//! - A heartbeat that fails, or whose answer nobody waits for any more, takes the stream with it.
//!   An answer that comes without a heartbeat ends it, too. So an answer never belongs to another
//!   heartbeat than the one that was sent last.
//! - A stream ends with its channel: when the connection is given up, or the peer has moved.
//! - Each answer comes with the headers of its stream, which say which process answers.

use std::sync::Arc;

use futures::{FutureExt, StreamExt, stream};
use lockstep_proto::peer;
use lockstep_proto::peer::peer_client::PeerClient;
use openraft::RPCTypes;
use openraft::network::{NetAppend, RPCOption};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};

use super::{CallError, Dialled, Peer, unreachable, wire};
use crate::types::TypeConfig;

/// How the next heartbeat goes.
pub(super) enum Beats {
    /// On the stream that the one before went on.
    Streamed(Box<Open>),
    /// As a call of its own, on the channel that has these places. A peer that is started with a
    /// newer build breaks the connection, and a stream is tried on the next one.
    OneByOne(Arc<Semaphore>),
}

impl Beats {
    /// Returns whether this is about that channel, and not about one before it.
    fn is_on(&self, channel: &Dialled) -> bool {
        let streams = match self {
            Beats::Streamed(open) => open.place.semaphore(),
            Beats::OneByOne(streams) => streams,
        };
        Arc::ptr_eq(streams, &channel.streams)
    }
}

/// An open stream.
pub(super) struct Open {
    requests: mpsc::Sender<peer::AppendRequest>,
    answers: Streaming<peer::AppendResponse>,
    headers: MetadataMap,
    /// Its place among the streams of its channel.
    place: OwnedSemaphorePermit,
}

/// An answer, and how the next heartbeat goes. `None` if a stream is tried again.
type Answered = Response<(peer::AppendResponse, Option<Beats>)>;

impl Open {
    /// Sends a heartbeat. `None` when the peer has ended the stream.
    async fn beat(&mut self, message: peer::AppendRequest) -> Result<Option<peer::AppendResponse>, Status> {
        match self.answers.next().now_or_never() {
            None => {}
            Some(None) => return Ok(None),
            Some(Some(Err(status))) => return Err(status),
            // It would be taken for the answer to this one.
            Some(Some(Ok(_))) => return Err(Status::internal("the peer answered a heartbeat that was not sent")),
        }
        // When nobody takes the heartbeat any more, the answer says why.
        let _ended = self.requests.send(message).await;
        self.answers.message().await
    }

    fn answered(self: Box<Self>, answer: peer::AppendResponse) -> Answered {
        let headers = self.headers.clone();
        let mut response = Response::new((answer, Some(Beats::Streamed(self))));
        *response.metadata_mut() = headers;
        response
    }
}

/// Sends a heartbeat on that channel and returns its answer.
async fn beat(before: Option<Beats>, channel: Dialled, message: peer::AppendRequest) -> Result<Answered, Status> {
    match before.filter(|before| before.is_on(&channel)) {
        Some(beats @ Beats::OneByOne(_)) => call(channel.client, message, Some(beats)).await,
        Some(Beats::Streamed(mut open)) => match open.beat(message.clone()).await? {
            Some(answer) => Ok(open.answered(answer)),
            // The peer has stopped the group, for instance, and may have started it again.
            None => {
                drop(open);
                begin(channel, message).await
            }
        },
        None => begin(channel, message).await,
    }
}

/// Opens a stream with its first heartbeat, if the channel has a place for it.
async fn begin(channel: Dialled, message: peer::AppendRequest) -> Result<Answered, Status> {
    let Dialled { mut client, streams } = channel;
    let Ok(place) = streams.clone().try_acquire_owned() else { return call(client, message, None).await };
    let (requests, following) = mpsc::channel(1);
    let all = stream::iter([message.clone()]).chain(ReceiverStream::new(following));
    let response = match client.heartbeats(all).await {
        Err(status) if status.code() == Code::Unimplemented => {
            return call(client, message, Some(Beats::OneByOne(streams))).await;
        }
        opened => opened?,
    };
    let headers = response.metadata().clone();
    let mut open = Box::new(Open { requests, answers: response.into_inner(), headers, place });
    match open.answers.message().await? {
        Some(answer) => Ok(open.answered(answer)),
        None => Err(Status::unavailable("the peer ended the stream of heartbeats without an answer")),
    }
}

/// Sends a heartbeat as a call of its own. `next` says how the next one goes.
async fn call(
    mut client: PeerClient<Channel>,
    message: peer::AppendRequest,
    next: Option<Beats>,
) -> Result<Answered, Status> {
    Ok(client.heartbeat(message).await?.map(|answer| (answer, next)))
}

impl NetAppend<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, CallError> {
        let sent = Instant::now();
        let log_time = &self.factory.log_time;
        let message = wire::with_telling(wire::encode_append(self.route()?, &request), log_time.telling());
        let before = self.beats.lock().take();
        let call = |channel: Dialled| beat(before, channel, message);
        let (response, beats) = self.call(RPCTypes::AppendEntries, option.hard_ttl(), call).await?;
        log_time.heard(self.target, response.clock_ms);
        let response = wire::decode_heartbeat_response(response).map_err(unreachable)?;
        match &response {
            AppendEntriesResponse::HigherVote(vote) => self.check_vote(vote)?,
            AppendEntriesResponse::PartialSuccess(flushed) => {
                wire::check_flushed(*flushed, request.prev_log_id).map_err(unreachable)?;
            }
            AppendEntriesResponse::Success | AppendEntriesResponse::Conflict => {}
        }
        if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
            self.factory.acks.accepted(self.target, request.vote.leader_id.term, sent);
        }
        *self.beats.lock() = beats;
        Ok(response)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http_body_util::StreamBody;
    use prost::Message;
    use tonic::codec::Codec;
    use tonic_prost::ProstCodec;

    use super::*;
    use crate::net::Frame;
    use crate::raft::peers::dial::{self, Dialer, Expect};

    type Arrives = Result<Frame<Bytes>, Infallible>;

    /// Returns an open stream, and the peer's ends of it.
    fn opened() -> (mpsc::Receiver<peer::AppendRequest>, mpsc::Sender<Arrives>, Open) {
        let (requests, sent) = mpsc::channel(1);
        let (answering, body) = mpsc::channel(4);
        let decoder = ProstCodec::<peer::AppendRequest, peer::AppendResponse>::default().decoder();
        let answers = Streaming::new_request(decoder, StreamBody::new(ReceiverStream::new(body)), None, None);
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        (sent, answering, Open { requests, answers, headers: MetadataMap::new(), place })
    }

    fn answer() -> Arrives {
        let answer = peer::AppendResponse { clock_ms: 1, ..Default::default() }.encode_to_vec();
        let prefix = [&[0][..], &(answer.len() as u32).to_be_bytes()].concat();
        Ok(Frame::data([prefix, answer].concat().into()))
    }

    /// A heartbeat that a peer answered twice made the next one look answered before it was sent.
    #[tokio::test]
    async fn an_answer_to_no_heartbeat_ends_the_stream() {
        let (mut sent, answering, mut open) = opened();
        let answered = async {
            sent.recv().await.unwrap();
            answering.send(answer()).await.unwrap();
        };
        let (first, ()) = tokio::join!(open.beat(peer::AppendRequest::default()), answered);
        assert_eq!(first.unwrap().unwrap().clock_ms, 1);
        answering.send(answer()).await.unwrap();
        let status = open.beat(peer::AppendRequest::default()).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal, "{status}");
        assert!(sent.try_recv().is_err(), "the second heartbeat was not sent");
    }

    #[tokio::test]
    async fn a_stream_that_the_peer_has_ended_takes_no_heartbeat() {
        let (mut sent, answering, mut open) = opened();
        drop(answering);
        assert!(open.beat(peer::AppendRequest::default()).await.unwrap().is_none());
        assert!(sent.try_recv().is_err());
    }

    /// A connection that is given up because it is silent must not stay in use by its stream, nor
    /// one to the address that a peer has left.
    #[tokio::test]
    async fn a_stream_goes_on_only_on_its_own_channel() {
        let (mut sent, _answering, open) = opened();
        let client = dial::client(Dialer::plain().lazy("127.0.0.1:1", Expect::AnyNode).unwrap());
        let its_own = Dialled { client: client.clone(), streams: open.place.semaphore().clone() };
        let next = Dialled { client, streams: Arc::new(Semaphore::new(1)) };
        let beats = Beats::Streamed(Box::new(open));
        assert!(beats.is_on(&its_own) && !beats.is_on(&next));
        assert_eq!(its_own.streams.available_permits(), 0);
        beat(Some(beats), next, peer::AppendRequest::default()).await.map(drop).unwrap_err();
        assert!(sent.recv().await.is_none(), "nothing was sent on it, and it has ended");
        assert_eq!(its_own.streams.available_permits(), 1, "its place is free");
    }
}
