//! Serves the guest's services. Requests and replies are bytes; the route of a method says whether
//! it is a command, a query or a watch. This module checks limits and deadlines, decodes no
//! message, and answers every call with a definite status.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use bytes::{Buf, BufMut, Bytes};
use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, ServerStreamingService, UnaryService};
use tonic::{Code, Request, Response, Status};

use super::commands::CommandCall;
use super::wire::{DEADLINE_DEFAULT, parse_timeout};
use super::{Shared, status, watch};
use crate::machine::QueryCall;
use lockstep_contract::{Consistency, Kind, Method};

/// Most bytes of one request or reply message, decompressed. Stock clients have the same limit.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Longest deadline. A deadline further away is shortened to this.
const DEADLINE_MAX: Duration = Duration::from_secs(24 * 3600);

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
    let routes = shared.routes.load_full().ok_or_else(|| shared.no_component())?;
    let method = routes.method(name).ok_or_else(|| status::unimplemented(&routes.explain_unknown(name)))?;
    let timeout = client_timeout(request.headers())?;
    let now = Instant::now();
    Ok(Call {
        shared: shared.clone(),
        method: method.clone(),
        started: now,
        deadline: match (timeout, method.kind) {
            (Some(timeout), _) => Some(now + timeout.min(DEADLINE_MAX)),
            (None, Kind::Watch) => None,
            (None, Kind::Command | Kind::Query) => Some(now + DEADLINE_DEFAULT),
        },
        reached: Arc::default(),
        connection: request.extensions().get().cloned().unwrap_or_default(),
    })
}

fn client_timeout(headers: &http::HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let timeout = value.to_str().ok().and_then(parse_timeout);
    timeout.map(Some).ok_or_else(|| status::bad_timeout(value.as_bytes()))
}

/// One call of a guest's method, from its headers to its reply.
#[derive(Clone)]
struct Call {
    shared: Arc<Shared>,
    method: Arc<Method>,
    started: Instant,
    /// Deadline of the call. None only for a watch that has none.
    deadline: Option<Instant>,
    /// Set once the whole request message was read.
    reached: Arc<AtomicBool>,
    connection: watch::places::Connection,
}

impl Call {
    async fn serve(self, request: http::Request<Body>) -> http::Response<Body> {
        let mut grpc = Grpc::new(RawCodec)
            .accept_compressed(CompressionEncoding::Gzip)
            .apply_max_message_size_config(Some(MESSAGE_BYTES_MAX), Some(MESSAGE_BYTES_MAX));
        let reached = self.reached.clone();
        let overdue = overdue(self.deadline);
        let (kind, shared, started, name) =
            (self.method.kind, self.shared.clone(), self.started, self.method.name.clone());
        let served = async {
            match kind {
                Kind::Watch => grpc.server_streaming(self, request).await,
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

    async fn unary(self, request: Bytes) -> Result<Response<Bytes>, Status> {
        match self.method.kind {
            Kind::Query => self.query(request).await,
            Kind::Command => self.command(request).await,
            Kind::Watch => unreachable!("a watch is a stream, and never served as one call"),
        }
    }

    async fn command(self, request: Bytes) -> Result<Response<Bytes>, Status> {
        self.shared.ready(self.unary_deadline()).await.map_err(status::not_proposed)?;
        let call = CommandCall {
            method: self.method.name.to_string(),
            request,
            caller: String::new(),
            deadline: self.unary_deadline(),
        };
        let leader = || self.shared.leader_address();
        match self.shared.parts.commands.run(call).await {
            Ok(outcome) => status::outcome(outcome, leader()),
            Err(error) => Err(status::with_leader(status::command(&error), leader())),
        }
    }

    async fn query(self, request: Bytes) -> Result<Response<Bytes>, Status> {
        let deadline = self.unary_deadline();
        self.shared.ready(deadline).await?;
        if self.method.consistency(&request) == Consistency::Linearizable {
            self.shared.read_barrier(deadline).await?;
        }
        let call = QueryCall {
            method: self.method.name.to_string(),
            request,
            caller: String::new(),
            deadline: deadline.into_std(),
            status: self.shared.node_status(),
        };
        let answered = timeout_at(deadline, self.shared.parts.machine.query(call)).await;
        let answer = answered.map_err(|_| status::query_deadline())?.map_err(|error| status::query(&error))?;
        status::verdict(answer.verdict, answer.index, self.shared.leader_address())
    }

    fn unary_deadline(&self) -> Instant {
        self.deadline.unwrap_or(self.started + DEADLINE_DEFAULT)
    }
}

/// Completes some time after the deadline. Calls answer at their deadline themselves; this ends
/// those whose request never arrives completely. A stream that has begun no longer waits here and
/// ends itself.
async fn overdue(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline + DEADLINE_GRACE).await,
        None => std::future::pending().await,
    }
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
    type ResponseStream = watch::Replies;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        self.reached.store(true, Ordering::Relaxed);
        let call = self.clone();
        Box::pin(async move {
            watch::start(call.shared, &call.connection, call.method, request.into_inner(), call.deadline)
                .map(Response::new)
        })
    }
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

fn into_http(status: Status) -> http::Response<Body> {
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
