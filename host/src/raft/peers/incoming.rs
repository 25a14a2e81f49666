//! Reads the streams that peers send: appends, heartbeats and forwarded commands. The first message
//! names the group; every message is checked before it is passed on. It answers nothing itself.

use std::sync::Arc;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use lockstep_proto::peer;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use parking_lot::Mutex;
use tonic::{Status, Streaming};

use super::gate::Gate;
use super::groups::{Door, Served};
use super::handlers::Forwarder;
use super::wire;
use crate::faults;
use crate::net::Remote;
use crate::raft::liveness::presence::{self, Presence};
use crate::raft::time::log_time::wall_ms;
use crate::raft::{Raft, planted};
use crate::types::TypeConfig;

type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// Converts an error of openraft. openraft answers an error only when its core has stopped.
pub(super) fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("Raft has stopped: {error}"))
}

fn refused<T: Send + 'static>(status: Status) -> Answers<T> {
    stream::once(async { Err(status) }).boxed()
}

/// Waits for the first message of a stream, which names the group, and has `serve` answer the
/// stream. An error of `serve` is the only answer then. A stream without a message has no answer.
async fn answered<M, T, S>(mut requests: Streaming<M>, serve: impl FnOnce(M, Streaming<M>) -> S) -> Answers<T>
where
    T: Send + 'static,
    S: Future<Output = Result<Answers<T>, Status>>,
{
    match requests.message().await {
        Ok(Some(first)) => serve(first, requests).await.unwrap_or_else(refused),
        Ok(None) => stream::empty().boxed(),
        Err(status) => refused(status),
    }
}

/// Passes a stream of commands, whose first message names the sender, to the group's handler.
pub(super) async fn forwarded(
    requests: Streaming<peer::ForwardRequest>,
    door: Door,
    by: Remote,
) -> Answers<peer::ForwardResponse> {
    let serve = |first: peer::ForwardRequest, rest: Streaming<peer::ForwardRequest>| async move {
        let group = door.group(first.route.as_ref())?;
        let from = group.gate.check(first.route.as_ref(), &by).await?;
        let gate = group.gate.clone();
        let sender = Forwarder { node: from, is_proven: by.certificate.is_some() };
        let rest = rest.map(move |request| {
            let request = request?;
            match gate.check_again(request.route.as_ref(), &by)? {
                sender if sender == from => Ok(request),
                _ => Err(Status::failed_precondition("one stream, one sender")),
            }
        });
        // The handler reads the requests in a task of its own.
        let requests = stream::once(async { Ok(first) }).chain(rest).take_until(group.ended()).boxed();
        Ok(group.forward.forward(sender, requests).take_until(group.ended()).boxed())
    };
    answered(requests, serve).await
}

/// Has the group's Raft answer a stream of appends.
pub(super) async fn appended(
    requests: Streaming<peer::AppendRequest>,
    door: Door,
    by: Remote,
) -> Answers<peer::AppendResponse> {
    let serve = |first: peer::AppendRequest, requests: Streaming<peer::AppendRequest>| async move {
        let group = door.group(first.route.as_ref())?;
        let raft = group.gate.running()?;
        let refusal = Refusal::default();
        let accepted = accepted(Accepted {
            first: Some(first),
            requests,
            by,
            gate: group.gate.clone(),
            raft: raft.clone(),
            presence: group.canvass.presence().clone(),
            open: None,
            refusal: refusal.clone(),
        })
        .take_until(group.ended());
        if faults::is_set("peer-skip-append") {
            return Ok(planted::answers(accepted).map(Ok).boxed());
        }
        let answers = raft
            .stream_append(accepted)
            .map(|answer| answer.map(|answer| wire::encode_stream_result(&answer)).map_err(stopped));
        // The accepted requests are answered first; then comes the error that ended the stream.
        let last = stream::once(async move { refusal.lock().take() }).filter_map(|refusal| async { refusal.map(Err) });
        Ok(answers.chain(last).take_until(group.ended()).boxed())
    };
    answered(requests, serve).await
}

/// Has the group's Raft answer heartbeats one after the other, up to the first one that is refused.
pub(super) async fn all_heard(
    requests: Streaming<peer::AppendRequest>,
    door: Door,
    by: Remote,
) -> Answers<peer::AppendResponse> {
    let serve = |first: peer::AppendRequest, rest: Streaming<peer::AppendRequest>| async move {
        let group = door.group(first.route.as_ref())?;
        let ended = group.ended();
        let requests = stream::once(async { Ok(first) }).chain(rest).boxed();
        let answers = stream::unfold(Some((requests, group, by)), |open| async move {
            let (mut requests, group, by) = open?;
            let answer = match requests.next().await? {
                Ok(request) => heard(&group, request, &by).await,
                Err(status) => Err(status),
            };
            let goes_on = answer.is_ok();
            Some((answer, goes_on.then_some((requests, group, by))))
        });
        Ok(answers.take_until(ended).boxed())
    };
    answered(requests, serve).await
}

/// Has the group's Raft answer a heartbeat.
pub(super) async fn heard(
    group: &Served,
    request: peer::AppendRequest,
    by: &Remote,
) -> Result<peer::AppendResponse, Status> {
    let (from, raft) = group.gate.raft(request.route.as_ref(), by).await?;
    if !request.entries.is_empty() {
        return Err(Status::invalid_argument("a heartbeat carries no entries"));
    }
    let telling = wire::telling_of(&request);
    let request = group.gate.read(wire::decode_append(request))?;
    group.gate.read(wire::check_append(from, &request))?;
    group.gate.check_vote(&raft, from, &request.vote)?;
    let prev = request.prev_log_id;
    let response = raft.append_entries(request).await.map_err(stopped)?;
    if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
        group.log_time.told(telling);
    }
    let answer = wire::encode_heartbeat_response(response, prev);
    Ok(peer::AppendResponse { clock_ms: wall_ms(), ..answer })
}

/// Where the reason is put for which the rest of a stream is refused.
type Refusal = Arc<Mutex<Option<Status>>>;

/// Returns the requests up to the first one that is refused. The sender is present from its first
/// request until the stream ends.
fn accepted(begun: Accepted) -> impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + 'static {
    stream::unfold(begun, |mut accepted| async move {
        match accepted.next().await {
            Ok(request) => request.map(|request| (request, accepted)),
            Err(status) => {
                *accepted.refusal.lock() = Some(status);
                None
            }
        }
    })
}

/// One append stream, read.
struct Accepted {
    first: Option<peer::AppendRequest>,
    requests: Streaming<peer::AppendRequest>,
    by: Remote,
    gate: Gate,
    raft: Arc<Raft>,
    presence: Presence,
    open: Option<presence::Stream>,
    refusal: Refusal,
}

impl Accepted {
    async fn next(&mut self) -> Result<Option<AppendEntriesRequest<TypeConfig>>, Status> {
        let message = match self.first.take() {
            Some(first) => first,
            None => match self.requests.message().await? {
                Some(message) => message,
                None => return Ok(None),
            },
        };
        faults::io("peer-append-refused")?;
        let from = self.gate.check(message.route.as_ref(), &self.by).await?;
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
