//! Serves the guest's services over gRPC: its watches, and every unary call that `face` leaves. It
//! finds the method, reads the request and the timeout, hands the call to `calls/`, and answers
//! every call with a definite status. It decodes no message and decides nothing about a call.

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
use crate::guest::StatusSource;
use lockstep_contract::{Contract, Kind, Method};

/// How long after the deadline [`overdue`] answers a call that did not answer itself.
const DEADLINE_GRACE: Duration = Duration::from_millis(500);

/// How long a refused call may take to send the rest of its request.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves a request that none of the host's own services took.
pub(super) async fn serve(shared: Arc<Shared>, request: http::Request<Body>) -> http::Response<Body> {
    if is_unknown(&shared, &request) {
        // A component that is still to be applied may have the method. `route` looks once more.
        let _not_ready = shared.parts.calls.ready(Instant::now() + DEADLINE_DEFAULT).await;
    }
    match route(&shared, &request) {
        Ok(call) => call.serve(request).await,
        Err(status) => {
            drain(request.into_body()).await;
            into_http(status)
        }
    }
}

/// Serves a request whose method was found before its body was read. Its caller was admitted to
/// that method, so a component that came meanwhile changes nothing. Nor does its deadline start
/// anew.
pub(super) async fn serve_found(
    shared: Arc<Shared>,
    (method, contract): (Arc<Method>, Arc<Contract>),
    started: Instant,
    deadline: Instant,
    request: http::Request<Body>,
) -> http::Response<Body> {
    Call::new(shared, (method, contract), (started, Some(deadline)), request.extensions()).serve(request).await
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

/// Returns whether the component in use does not have the method of a request.
fn is_unknown(shared: &Shared, request: &http::Request<Body>) -> bool {
    shared.routes().is_some_and(|routes| routes.method(method_name(request)).is_none())
}

fn method_name(request: &http::Request<Body>) -> &str {
    request.uri().path().trim_start_matches('/')
}

fn route(shared: &Arc<Shared>, request: &http::Request<Body>) -> Result<Call, Status> {
    let name = method_name(request);
    // This comes first, so that the routes are those of a node that serves, if it does.
    let not_serving = shared.parts.calls.not_serving();
    let routes = shared.routes().ok_or_else(|| status::unrouted(&shared.parts.calls.no_component()))?;
    let method = routes.method(name).ok_or_else(|| match not_serving {
        Some(error) => status::unrouted(&error),
        None => status::unimplemented(&shared.explain_unknown(&routes, name)),
    })?;
    let timeout = client_timeout(request.headers())?;
    let now = Instant::now();
    let times = (now, calls::deadline(method.kind, timeout, now));
    Ok(Call::new(shared.clone(), (method.clone(), routes.clone()), times, request.extensions()))
}

pub(super) fn client_timeout(headers: &http::HeaderMap) -> Result<Option<Duration>, Status> {
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
    /// `times` are when the call started, and its deadline. `extensions` have its caller and its
    /// connection.
    fn new(
        shared: Arc<Shared>,
        (method, contract): (Arc<Method>, Arc<Contract>),
        times: (Instant, Option<Instant>),
        extensions: &http::Extensions,
    ) -> Call {
        let (started, deadline) = times;
        let caller = gate::caller_name(extensions);
        let connection = extensions.get().cloned().unwrap_or_default();
        Call { shared, method, contract, started, deadline, reached: Arc::default(), caller, connection }
    }

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
        let response = if reached.load(Ordering::Relaxed) { response } else { explain_unread(response) };
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
        let share = self.connection.share();
        let reply = run(&self.shared, self.with(request), || self.shared.node_status()).await?;
        let bytes = reply.get_ref().len() as u64;
        let lease = match self.method.kind {
            // The command was applied. Its client must learn that, so the reply is counted although
            // there may be no room.
            Kind::Command => share.force(Use::Call, bytes),
            Kind::Query | Kind::Watch => share.lease(Use::Call, bytes).map_err(|short| status::ended(&short.into()))?,
        };
        Ok(reply.map(|reply| lease.tied_to(reply)))
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

/// Runs a command or a query. Returns the guest's reply, or the status that says why there is none.
/// `of_node` returns what answers the guest's `node.status`.
pub(super) async fn run(
    shared: &Shared,
    call: calls::Call,
    of_node: impl FnOnce() -> StatusSource,
) -> Result<Response<Bytes>, Status> {
    let method = call.method.clone();
    let leader = || shared.leader_address();
    match method.kind {
        Kind::Command => {
            let result = shared.parts.calls.command(call).await;
            if let Ok(outcome) = &result
                && let Some(component) = shared.component_without(&method, &outcome.verdict, outcome.index)
            {
                return Err(status::gone(&method.name, &component, Some(outcome)));
            }
            status::command(result, leader)
        }
        Kind::Query => {
            let result = shared.parts.calls.query(call, of_node()).await;
            if let Ok(answer) = &result
                && let Some(component) = shared.component_without(&method, &answer.verdict, answer.index)
            {
                return Err(status::gone(&method.name, &component, None));
            }
            status::query(result, leader)
        }
        Kind::Watch => unreachable!("a watch is a stream, and never served as one call"),
    }
}

/// Completes some time after the deadline. Calls answer at their deadline themselves; this ends
/// those whose request never arrives completely. A stream that has begun no longer waits here and
/// ends itself, so the request of a watch must arrive in time although the watch has no deadline.
pub(super) async fn overdue(deadline: Instant) {
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
/// RESOURCE_EXHAUSTED and does not name the host's limit. What the host says itself stays.
pub(super) fn explain_unread(response: http::Response<Body>) -> http::Response<Body> {
    match response_code(&response) {
        _ if status::is_hosts(&response) => response,
        Code::OutOfRange | Code::ResourceExhausted => into_http(status::request_too_large(MESSAGE_BYTES_MAX)),
        _ => response,
    }
}

/// Returns the code of a response that failed before its first message, and OK for all others. The
/// trailers of a stream come later.
pub(super) fn response_code(response: &http::Response<Body>) -> Code {
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
