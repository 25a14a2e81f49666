//! Reads the streams that peers send: appends and forwarded commands. The first message names the
//! group; every message is checked before it is passed on. It answers nothing itself.

use std::sync::Arc;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use lockstep_proto::peer;
use openraft::raft::AppendEntriesRequest;
use parking_lot::Mutex;
use tonic::{Status, Streaming};

use super::gate::Gate;
use super::groups::{Door, Served};
use super::handlers::Forwarder;
use super::wire;
use crate::faults;
use crate::net::Remote;
use crate::raft::liveness::presence::{self, Presence};
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

/// Returns the first message of a stream, or what answers a stream that has none.
async fn first<M, T: Send + 'static>(requests: &mut Streaming<M>) -> Result<M, Answers<T>> {
    match requests.message().await {
        Ok(Some(first)) => Ok(first),
        Ok(None) => Err(stream::empty().boxed()),
        Err(status) => Err(refused(status)),
    }
}

/// Waits for the first message, which names the sender, and passes the stream to the group's
/// handler.
pub(super) async fn forwarded(
    mut requests: Streaming<peer::ForwardRequest>,
    door: Door,
    by: Remote,
) -> Answers<peer::ForwardResponse> {
    let first = match first(&mut requests).await {
        Ok(first) => first,
        Err(ended) => return ended,
    };
    let checked = async {
        let group = door.group(first.route.as_ref())?;
        let from = group.gate.check(first.route.as_ref(), &by).await?;
        Ok((group, from))
    };
    let (group, from): (Arc<Served>, _) = match checked.await {
        Ok(checked) => checked,
        Err(status) => return refused(status),
    };
    let gate = group.gate.clone();
    let sender = Forwarder { node: from, is_proven: by.certificate.is_some() };
    let rest = requests.map(move |request| {
        let request = request?;
        match gate.check_again(request.route.as_ref(), &by)? {
            sender if sender == from => Ok(request),
            _ => Err(Status::failed_precondition("one stream, one sender")),
        }
    });
    // The handler reads the requests in a task of its own.
    let requests = stream::once(async { Ok(first) }).chain(rest).take_until(group.ended()).boxed();
    group.forward.forward(sender, requests).take_until(group.ended()).boxed()
}

/// Waits for the first message, which names the group, and has its Raft answer the stream.
pub(super) async fn appended(
    mut requests: Streaming<peer::AppendRequest>,
    door: Door,
    by: Remote,
) -> Answers<peer::AppendResponse> {
    let first = match first(&mut requests).await {
        Ok(first) => first,
        Err(ended) => return ended,
    };
    let running = door.group(first.route.as_ref()).and_then(|group| Ok((group.gate.running()?, group)));
    let (raft, group) = match running {
        Ok(running) => running,
        Err(status) => return refused(status),
    };
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
        return planted::answers(accepted).map(Ok).boxed();
    }
    let answers = raft
        .stream_append(accepted)
        .map(|answer| answer.map(|answer| wire::encode_stream_result(&answer)).map_err(stopped));
    // The accepted requests are answered first; then comes the error that ended the stream.
    let last = stream::once(async move { refusal.lock().take() }).filter_map(|refusal| async { refusal.map(Err) });
    answers.chain(last).take_until(group.ended()).boxed()
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
