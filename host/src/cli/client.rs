//! Connects to a node and makes calls whose messages are known only by their descriptor. It knows
//! no method by name.

use std::io::ErrorKind;
use std::io::Write;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use prost::Message;
use prost_reflect::{DynamicMessage, MethodDescriptor};
use tokio::time::Instant;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};

use super::report::Failure;
use crate::config::Address;

/// How long to retry when a node refuses connections. The node may just be starting.
pub(crate) const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
const CONNECT_PAUSE: Duration = Duration::from_millis(50);
/// Longest time for one attempt to reach an address that does not answer at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes that are read as one message. Lockstep's own servers send far less.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What a call sends in addition to its request.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallOptions {
    /// Sent as `grpc-timeout`.
    pub(crate) timeout: Option<Duration>,
    /// Sent unchanged.
    pub(crate) metadata: MetadataMap,
}

/// The replies of a stream. [`next`] reads them.
#[derive(Debug)]
pub(crate) struct Replies {
    stream: Streaming<Bytes>,
    deadline: Option<Instant>,
}

/// Connects to the gRPC port of a node. While the node refuses connections, it retries for
/// `patience`, with a notice on stderr.
pub(crate) async fn connect(addr: &str, patience: Duration) -> anyhow::Result<Channel> {
    connect_with(addr, patience, |notice| drop(writeln!(std::io::stderr(), "{notice}"))).await
}

/// Connects like [`connect`], but without a notice, to a node that is known to be starting.
pub(crate) async fn connect_quietly(addr: &str, patience: Duration) -> anyhow::Result<Channel> {
    connect_with(addr, patience, |_| ()).await
}

async fn connect_with(addr: &str, patience: Duration, notice: impl Fn(&str)) -> anyhow::Result<Channel> {
    let endpoint = endpoint(addr)?;
    let deadline = Instant::now() + patience;
    let mut noticed = false;
    loop {
        let error = match endpoint.connect().await {
            Ok(channel) => return Ok(channel),
            Err(error) => error,
        };
        let refused = is_refused(&error);
        if !refused || Instant::now() >= deadline {
            let hint = if refused {
                "is the node running, and is this its --grpc_addr?"
            } else {
                "check the address; it is the --grpc_addr of a node"
            };
            let failure = Failure::new(format!("cannot connect to {addr}: {}", innermost(&error)));
            return Err(failure.hint(hint).into());
        }
        if !noticed {
            let patience = humantime::format_duration(patience);
            notice(&format!("nothing listens at {addr} yet; trying for {patience}"));
            noticed = true;
        }
        tokio::time::sleep(CONNECT_PAUSE).await;
    }
}

fn endpoint(addr: &str) -> anyhow::Result<Endpoint> {
    let plain = addr.strip_prefix("http://").unwrap_or(addr);
    let mut address =
        Address::parse("the address", plain).map_err(|refused| Failure::usage(refused.problem).hint(refused.hint))?;
    if address.host.is_empty() {
        address.host = "localhost".into();
    }
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Failure::usage(format!("{addr:?} is no address: {error}")))?;
    Ok(endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true))
}

fn is_refused(error: &tonic::transport::Error) -> bool {
    causes(error).any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|io| io.kind() == ErrorKind::ConnectionRefused)
    })
}

/// Returns the text of the innermost cause. It says what happened; the outer ones say only that
/// something failed.
fn innermost(error: &tonic::transport::Error) -> String {
    let last = causes(error).last();
    last.map_or_else(|| error.to_string(), |cause| cause.to_string())
}

fn causes<'a>(error: &'a tonic::transport::Error) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |cause| cause.source())
}

/// Calls a method with one reply.
pub(crate) async fn unary(
    channel: &Channel,
    method: &MethodDescriptor,
    request: &DynamicMessage,
    options: &CallOptions,
) -> Result<DynamicMessage, Status> {
    let reply = unary_bytes(channel, method, request, options).await?;
    decode(method, reply.into_inner())
}

/// Calls like [`unary`], but returns the raw reply and the server's metadata.
pub(crate) async fn unary_bytes(
    channel: &Channel,
    method: &MethodDescriptor,
    request: &DynamicMessage,
    options: &CallOptions,
) -> Result<Response<Bytes>, Status> {
    let mut grpc = ready(channel).await?;
    let reply = grpc.unary(request_of(request, options), path(method), RawCodec).await;
    reply.map_err(|status| say_timeout(status, options))
}

/// Calls a method with a stream of replies. [`next`] reads them.
pub(crate) async fn server_streaming(
    channel: &Channel,
    method: &MethodDescriptor,
    request: &DynamicMessage,
    options: &CallOptions,
) -> Result<Replies, Status> {
    let deadline = options.timeout.map(|timeout| Instant::now() + timeout);
    let mut grpc = ready(channel).await?;
    let reply = grpc
        .server_streaming(request_of(request, options), path(method), RawCodec)
        .await
        .map_err(|status| say_stream_timeout(status, options))?;
    Ok(Replies { stream: reply.into_inner(), deadline })
}

/// Returns the next reply of a stream, or `None` at its end. The timeout of a call covers its whole
/// stream.
pub(crate) async fn next(replies: &mut Replies, options: &CallOptions) -> Result<Option<Bytes>, Status> {
    let reply = match replies.deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, replies.stream.message())
            .await
            .unwrap_or_else(|_| Err(Status::cancelled("timeout"))),
        None => replies.stream.message().await,
    };
    let is_over = replies.deadline.is_some_and(|deadline| Instant::now() >= deadline);
    reply.map_err(|status| if is_over { say_stream_timeout(status, options) } else { status })
}

/// Decodes the bytes of a reply as a message.
pub(crate) fn decode(method: &MethodDescriptor, reply: Bytes) -> Result<DynamicMessage, Status> {
    DynamicMessage::decode(method.output(), reply)
        .map_err(|error| Status::internal(format!("the reply is no {}: {error}", method.output().full_name())))
}

/// Turns the end of a call at its timeout into DEADLINE_EXCEEDED. tonic's channel ends such a call
/// as CANCELLED, which would mean that the caller wanted it to end.
fn say_timeout(status: Status, options: &CallOptions) -> Status {
    match options.timeout {
        Some(timeout) if status.code() == Code::Cancelled => {
            let timeout = humantime::format_duration(timeout);
            Status::deadline_exceeded(format!("no answer within {timeout}; a command may still have taken effect"))
        }
        _ => status,
    }
}

/// Returns the status of a stream that its timeout ended. Nothing is in doubt then: the replies
/// that came before are complete.
fn say_stream_timeout(status: Status, options: &CallOptions) -> Status {
    match (options.timeout, status.code()) {
        (Some(timeout), Code::Cancelled | Code::DeadlineExceeded) => {
            let timeout = humantime::format_duration(timeout);
            Status::deadline_exceeded(format!("the stream was ended after {timeout}, as --timeout asks"))
        }
        _ => status,
    }
}

async fn ready(channel: &Channel) -> Result<Grpc<Channel>, Status> {
    let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    grpc.ready()
        .await
        .map_err(|error| Status::unavailable(format!("the connection is gone: {}", innermost(&error))))?;
    Ok(grpc)
}

fn request_of(message: &DynamicMessage, options: &CallOptions) -> Request<Bytes> {
    let mut request = Request::new(Bytes::from(message.encode_to_vec()));
    *request.metadata_mut() = options.metadata.clone();
    if let Some(timeout) = options.timeout {
        request.set_timeout(timeout);
    }
    request
}

fn path(method: &MethodDescriptor) -> PathAndQuery {
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    PathAndQuery::try_from(path).expect("protobuf names are letters, digits, dots and underscores")
}

/// Passes bytes through. Messages are encoded and decoded by their descriptors.
#[derive(Clone, Copy, Debug)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = RawCodec;
    type Decoder = RawCodec;

    fn encoder(&mut self) -> RawCodec {
        RawCodec
    }

    fn decoder(&mut self) -> RawCodec {
        RawCodec
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(src.copy_to_bytes(src.remaining())))
    }
}
