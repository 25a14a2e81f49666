//! Serves the guest's services over gRPC. It finds the method, reads the request and the timeout,
//! hands the call to `calls/`, and answers every call with a definite status. It decodes no message
//! and decides nothing about a call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use bytes::{Buf, BufMut, Bytes};
use futures::future::BoxFuture;
use futures::stream::MapErr;
use futures::{StreamExt, TryStreamExt};
use tokio::time::{Instant, timeout};
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, ServerStreamingService, UnaryService};
use tonic::{Code, Request, Response, Status};

use super::wire::parse_timeout;
use super::{Shared, gate, status};
use crate::calls::budget::Use;
use crate::calls::{
    self, CallError, Connection, DEADLINE_DEFAULT, MESSAGE_BYTES_MAX, Replies, WATCH_REQUEST_BYTES_MAX, WatchEnd,
};
use lockstep_contract::{Contract, Kind, Method};

/// How long after the deadline [`overdue`] answers a call that did not answer itself.
const DEADLINE_GRACE: Duration = Duration::from_millis(500);

/// How long a refused call may take to send the rest of its request.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves a request that none of the host's own services took.
pub(super) async fn serve(shared: Arc<Shared>, request: http::Request<Body>) -> http::Response<Body> {
    match route(&shared, &request) {
        Ok(call) => call.serve(request).await,
        Err(status) => {
            drain(request.into_body()).await;
            into_http(status)
        }
    }
}

/// Reads the rest of the request of a refused call. Some clients take the reset of an unread
/// request for the answer.
pub(super) async fn drain(body: Body) {
    let mut frames = body.into_data_stream();
    let mut rest = MESSAGE_BYTES_MAX;
    let read = async {
        while let Some(Ok(frame)) = frames.next().await {
            rest = rest.saturating_sub(frame.len());
            if rest == 0 {
                break;
            }
        }
    };
    // A client that is slower than this gets the reset.
    let _out_of_time = timeout(DRAIN_TIMEOUT, read).await;
}

fn route(shared: &Arc<Shared>, request: &http::Request<Body>) -> Result<Call, Status> {
    let name = request.uri().path().trim_start_matches('/');
    let routes = shared.routes().ok_or_else(|| status::unrouted(&shared.parts.calls.no_component()))?;
    let method = routes.method(name).ok_or_else(|| status::unimplemented(&routes.explain_unknown(name)))?;
    let timeout = client_timeout(request.headers())?;
    let now = Instant::now();
    Ok(Call {
        shared: shared.clone(),
        method: method.clone(),
        contract: routes.clone(),
        started: now,
        deadline: calls::deadline(method.kind, timeout, now),
        reached: Arc::default(),
        caller: gate::caller_name(request.extensions()),
        connection: request.extensions().get().cloned().unwrap_or_default(),
    })
}

fn client_timeout(headers: &http::HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let timeout = value.to_str().ok().and_then(parse_timeout);
    timeout.map(Some).ok_or_else(|| status::bad_timeout(value.as_bytes()))
}

/// The replies of a watch, with a status at their end.
type GrpcReplies = MapErr<Replies, fn(WatchEnd) -> Status>;

/// One call of a guest's method over gRPC, from its headers to its reply.
#[derive(Clone)]
struct Call {
    shared: Arc<Shared>,
    method: Arc<Method>,
    /// The contract that has the method.
    contract: Arc<Contract>,
    started: Instant,
    /// Deadline of the call. None only for a watch that has none.
    deadline: Option<Instant>,
    /// Set once the whole request message was read.
    reached: Arc<AtomicBool>,
    /// Name of the client. Empty if it has shown none.
    caller: String,
    connection: Connection,
}

impl Call {
    async fn serve(self, request: http::Request<Body>) -> http::Response<Body> {
        let mut grpc = Grpc::new(RawCodec)
            .accept_compressed(CompressionEncoding::Gzip)
            .apply_max_message_size_config(Some(MESSAGE_BYTES_MAX), Some(MESSAGE_BYTES_MAX));
        let reached = self.reached.clone();
        let overdue = overdue(self.deadline.unwrap_or(self.started + DEADLINE_DEFAULT));
        let (kind, shared, started, name) =
            (self.method.kind, self.shared.clone(), self.started, self.method.name.clone());
        let served = async {
            match kind {
                Kind::Watch => of_watch(grpc.server_streaming(self, request).await),
                Kind::Command | Kind::Query => grpc.unary(self, request).await,
            }
        };
        let response = tokio::select! {
            response = served => response.map(Body::new),
            () = overdue => into_http(status::overdue(kind, reached.load(Ordering::Relaxed))),
        };
        let is_explained = reached.load(Ordering::Relaxed) || status::is_hosts(&response);
        let response = if is_explained { response } else { explain_unread(response) };
        let code = response_code(&response);
        shared.metrics.call_ended(&name, kind, code, started.elapsed());
        response
    }

    /// Returns the call without its transport.
    fn with(&self, request: Bytes) -> calls::Call {
        let (method, caller, share) = (self.method.clone(), self.caller.clone(), self.connection.share().clone());
        calls::Call { method, request, caller, deadline: self.deadline, share }
    }

    async fn unary(self, request: Bytes) -> Result<Response<Bytes>, Status> {
        let call = self.with(request);
        let calls = &self.shared.parts.calls;
        let leader = || self.shared.leader_address();
        let share = self.connection.share();
        match self.method.kind {
            Kind::Command => {
                let reply = status::command(calls.command(call).await, leader)?;
                // The command was applied. Its client must learn that, so the reply is counted
                // although there may be no room.
                Ok(reply.map(|reply| share.force(Use::Call, reply.len() as u64).tied_to(reply)))
            }
            Kind::Query => {
                let reply = status::query(calls.query(call, self.shared.node_status()).await, leader)?;
                let lease = share.lease(Use::Call, reply.get_ref().len() as u64);
                let lease = lease.map_err(|short| status::ended(&short.into()))?;
                Ok(reply.map(|reply| lease.tied_to(reply)))
            }
            Kind::Watch => unreachable!("a watch is a stream, and never served as one call"),
        }
    }

    fn watch(self, request: Bytes) -> Result<Response<GrpcReplies>, Status> {
        let known = self.contract.known_fields(&self.method, &request, WATCH_REQUEST_BYTES_MAX);
        let known = known.map_err(|_| status::watch_too_large(WATCH_REQUEST_BYTES_MAX))?;
        // The request as it arrived is larger, and is not kept.
        drop(request);
        let started = self.shared.parts.calls.watch(self.with(known.into()), &self.connection);
        if let Err(CallError::TooManyWatches(full)) = &started {
            self.shared.metrics.watch_refused(*full);
        }
        let replies = started.map_err(|error| status::ended(&error))?;
        Ok(Response::new(replies.map_err(status::watch as fn(WatchEnd) -> Status)))
    }
}

/// Completes some time after the deadline. Calls answer at their deadline themselves; this ends
/// those whose request never arrives completely. A stream that has begun no longer waits here and
/// ends itself, so the request of a watch must arrive in time although the watch has no deadline.
async fn overdue(deadline: Instant) {
    tokio::time::sleep_until(deadline + DEADLINE_GRACE).await;
}

impl UnaryService<Bytes> for Call {
    type Response = Bytes;
    type Future = BoxFuture<'static, Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        self.reached.store(true, Ordering::Relaxed);
        Box::pin(self.clone().unary(request.into_inner()))
    }
}

impl ServerStreamingService<Bytes> for Call {
    type Response = Bytes;
    type ResponseStream = GrpcReplies;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        self.reached.store(true, Ordering::Relaxed);
        let call = self.clone();
        Box::pin(async move { call.watch(request.into_inner()) })
    }
}

/// Says that the response is one of a watch, for those who count its bytes.
fn of_watch<B>(mut response: http::Response<B>) -> http::Response<B> {
    response.extensions_mut().insert(Use::Watch);
    response
}

/// Replaces tonic's status for a message that is too large. tonic uses OUT_OF_RANGE or
/// RESOURCE_EXHAUSTED and does not name the host's limit.
fn explain_unread(response: http::Response<Body>) -> http::Response<Body> {
    match response_code(&response) {
        Code::OutOfRange | Code::ResourceExhausted => into_http(status::request_too_large(MESSAGE_BYTES_MAX)),
        _ => response,
    }
}

/// Returns the code of a response that failed before its first message, and OK for all others. The
/// trailers of a stream come later.
fn response_code(response: &http::Response<Body>) -> Code {
    response.headers().get("grpc-status").map_or(Code::Ok, |value| Code::from_bytes(value.as_bytes()))
}

pub(super) fn into_http(status: Status) -> http::Response<Body> {
    status.into_http::<tonic::body::Body>().map(Body::new)
}

/// Passes messages through as raw bytes.
#[derive(Clone, Copy, Default)]
struct RawCodec;

struct RawEncoder;

struct RawDecoder;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = RawEncoder;
    type Decoder = RawDecoder;

    fn encoder(&mut self) -> RawEncoder {
        RawEncoder
    }

    fn decoder(&mut self) -> RawDecoder {
        RawDecoder
    }
}

impl Encoder for RawEncoder {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.len());
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for RawDecoder {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
