//! Connects to a node, or to a cluster, and makes calls whose messages are known only by their
//! descriptor. It knows no method by name. How a call reaches a node, and when it is sent again,
//! is up to `lockstep-client`.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use lockstep_client::{ConnectError, Options, Unanswered, Unreached, unanswered};
use prost::Message;
use prost_reflect::{DynamicMessage, MethodDescriptor};
use tokio::time::Instant;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status, Streaming};

use super::credentials::{Credentials, advice};
use super::report::{Failure, print_notice};
use crate::config::Address;

pub(crate) use lockstep_client::Client;

/// How long to retry when a node refuses connections. The node may just be starting.
pub(crate) const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Longest time for one attempt to reach an address that does not answer at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes that are read as one message. Lockstep's own servers send far less.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

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

/// Connects to the gRPC port of a node. All calls go to this node alone, each of them once. While
/// the node refuses connections, it retries for `patience`, with a notice on stderr.
pub(crate) async fn connect(addr: &str, credentials: &Credentials, patience: Duration) -> anyhow::Result<Client> {
    reach(Options { patience, ..Options::one_node() }, credentials, &[addr], print_waiting(patience)).await
}

/// Connects like [`connect`]. Each call is given up after `call_timeout`, of which the node hears
/// nothing.
pub(crate) async fn connect_for_load(
    addr: &str,
    credentials: &Credentials,
    patience: Duration,
    call_timeout: Duration,
) -> anyhow::Result<Client> {
    let options = Options { patience, call_timeout, ..Options::one_node() };
    reach(options, credentials, &[addr], print_waiting(patience)).await
}

/// Connects like [`connect`], but without a notice, to a node that is known to be starting.
pub(crate) async fn connect_quietly(
    addr: &str,
    credentials: &Credentials,
    patience: Duration,
) -> anyhow::Result<Client> {
    reach(Options { patience, ..Options::one_node() }, credentials, &[addr], |_| ()).await
}

/// Connects like [`connect`] to one address. To several, separated by commas, it connects as a
/// client of their cluster: a call is sent again, to another node, when no node has run it.
pub(crate) async fn connect_to_any(
    addrs: &str,
    credentials: &Credentials,
    patience: Duration,
) -> anyhow::Result<Client> {
    let addrs: Vec<&str> = addrs.split(',').collect();
    if let [addr] = addrs[..] {
        return connect(addr, credentials, patience).await;
    }
    // The node says which request is too large.
    let options = Options { patience, request_bytes_max: usize::MAX, ..Options::default() };
    reach(options, credentials, &addrs, print_waiting(patience)).await
}

fn print_waiting(patience: Duration) -> impl FnOnce(&[&str]) {
    move |silent| {
        let patience = humantime::format_duration(patience);
        print_notice(format_args!("nothing listens at {} yet; trying for {patience}", silent.join(", ")));
    }
}

async fn reach(
    options: Options,
    credentials: &Credentials,
    typed: &[&str],
    waiting: impl FnOnce(&[&str]),
) -> anyhow::Result<Client> {
    let addresses = check(typed, credentials)?;
    let options = credentials.add_to(Options { connect_timeout: CONNECT_TIMEOUT, ..options })?;
    match options.connect_with_notice(&addresses.join(","), waiting).await {
        Ok(client) => Ok(client),
        Err(ConnectError::Unreachable(nodes)) => Err(unreachable(typed, &nodes, credentials).into()),
        Err(ConnectError::Address(refused)) => Err(Failure::usage(refused.to_string()).into()),
    }
}

/// Reads addresses as a person types them, and returns the first mistake.
pub(crate) fn check(typed: &[&str], credentials: &Credentials) -> Result<Vec<String>, Failure> {
    typed.iter().map(|addr| address(addr, credentials)).collect()
}

/// Reads an address as a person types it. A port alone is one of this machine.
fn address(typed: &str, credentials: &Credentials) -> Result<String, Failure> {
    let plain = match (typed.strip_prefix("http://"), typed.strip_prefix("https://")) {
        (Some(_), _) if credentials.are_encrypted() => {
            let failure =
                Failure::usage(format!("{typed} asks for a connection without TLS, and --tls_ca for one with it"));
            return Err(failure.hint("write the address without http://, or leave --tls_ca out"));
        }
        (_, Some(_)) if !credentials.are_encrypted() => {
            let failure = Failure::usage(format!("{typed} asks for TLS"));
            return Err(
                failure.hint("name the file of the authorities that sign the nodes' certificates: --tls_ca ca.pem")
            );
        }
        (plain, encrypted) => plain.or(encrypted).unwrap_or(typed),
    };
    let mut address =
        Address::parse("the address", plain).map_err(|refused| Failure::usage(refused.problem).hint(refused.hint))?;
    if address.host.is_empty() {
        address.host = "localhost".into();
    }
    Ok(address.to_string())
}

fn unreachable(typed: &[&str], nodes: &[Unreached], credentials: &Credentials) -> Failure {
    let of_tls = nodes.iter().find_map(|node| advice(&node.to_string(), credentials.have_identity()));
    let hint = match nodes.iter().all(Unreached::is_refused) {
        true => "is the node running, and is this its --grpc_addr?",
        false => "check the address; it is the --grpc_addr of a node",
    };
    let failure = match (typed, nodes) {
        ([addr], [node]) => Failure::new(format!("cannot connect to {addr}: {}", node.reason())),
        _ => nodes.iter().fold(Failure::new("cannot connect to any of these nodes"), |failure, node| {
            failure.note(format!("{}: {}", node.address(), node.reason()))
        }),
    };
    failure.hint(of_tls.unwrap_or(hint))
}

/// Calls a method with one reply.
pub(crate) async fn unary(
    server: &Client,
    method: &MethodDescriptor,
    request: &DynamicMessage,
    options: &CallOptions,
) -> Result<DynamicMessage, Status> {
    let reply = unary_bytes(server, method, request, options).await?;
    decode(method, reply.into_inner())
}

/// Calls like [`unary`], but returns the raw reply and the server's metadata.
pub(crate) async fn unary_bytes(
    server: &Client,
    method: &MethodDescriptor,
    request: &DynamicMessage,
    options: &CallOptions,
) -> Result<Response<Bytes>, Status> {
    let mut grpc = grpc(server);
    grpc.ready().await?;
    let reply = grpc.unary(request_of(request, options), path(method), RawCodec).await;
    reply.map_err(|status| say_timeout(status, options))
}

/// Calls a method with a stream of replies. [`next`] reads them.
pub(crate) async fn server_streaming(
    server: &Client,
    method: &MethodDescriptor,
    request: &DynamicMessage,
    options: &CallOptions,
) -> Result<Replies, Status> {
    let deadline = options.timeout.map(|timeout| Instant::now() + timeout);
    let mut grpc = grpc(server);
    grpc.ready().await?;
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

/// Says how long a call without an answer was waited for, as --timeout asks.
fn say_timeout(status: Status, options: &CallOptions) -> Status {
    match options.timeout {
        Some(timeout) if unanswered(&status) == Some(Unanswered::Late) => {
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

fn grpc(server: &Client) -> Grpc<Client> {
    Grpc::new(server.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
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
pub(crate) struct RawCodec;

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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::reserved::Reserved;

    async fn refused(addrs: &str) -> String {
        let error = connect_to_any(addrs, &Credentials::default(), Duration::ZERO).await.unwrap_err();
        format!("{:?}", error.downcast_ref::<Failure>().unwrap())
    }

    #[tokio::test]
    async fn one_closed_address_and_several_are_named_as_they_were_typed() {
        let ((_one, one), (_other, other)) = (Reserved::address(), Reserved::address());
        let text = refused(&one.to_string()).await;
        assert!(text.contains(&format!("cannot connect to {one}: ")), "{text}");
        let text = refused(&format!("{one},{other}")).await;
        assert!(text.contains(&format!("{one}: ")) && text.contains(&format!("{other}: ")), "{text}");
        assert!(text.contains("is this its --grpc_addr?"), "{text}");
    }

    #[tokio::test]
    async fn a_malformed_address_in_a_list_is_refused_as_one_alone_is() {
        for addrs in ["localhost", "localhost:1,localhost", "localhost:1,"] {
            assert!(refused(addrs).await.contains("give host:port"), "{addrs}");
        }
        let (plain, encrypted) =
            (Credentials::default(), Credentials::of_files("ca.pem".as_ref(), "a.pem".as_ref(), "a.key".as_ref()));
        assert_eq!(address(":40051", &plain).unwrap(), "localhost:40051");
        assert_eq!(address("http://[::1]:5", &plain).unwrap(), "[::1]:5");
        assert_eq!(address("https://[::1]:5", &encrypted).unwrap(), "[::1]:5");
        assert!(format!("{:?}", address("https://a:5", &plain)).contains("--tls_ca"));
        assert!(format!("{:?}", address("http://a:5", &encrypted)).contains("leave --tls_ca out"));
    }
}
