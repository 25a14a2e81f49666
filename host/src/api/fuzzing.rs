//! What the readers of clients' messages promise, for the fuzz targets: how the bytes arrive
//! changes nothing, and what is left out of a request means nothing to a guest. Opens no socket.

use std::convert::Infallible;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream;
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::BodyExt;
use lockstep_contract::{Contract, Kind, find_bool};
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
    ServiceDescriptorProto,
};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::bodies::{self, Bodies};
use super::dynamic;
use super::message::{self, Read};
use crate::calls::budget::{Budget, Share};
use crate::calls::{self, Connection};

/// Bytes that a node of this size keeps for its clients. A connection may have a quarter.
const CLIENTS_BYTES: u64 = 32 << 20;
/// Most messages that a body is made of.
const MESSAGES_MAX: usize = 64;
/// The longest `grpc-timeout`: eight digits, of hours.
const TIMEOUT_MAX: Duration = Duration::from_secs(99_999_999 * 3600);

/// Reads what a client sends with a call. The first byte says which part of it.
pub fn message(bytes: &[u8]) {
    match bytes {
        [0, pieces, sent @ ..] => framed(&Bytes::copy_from_slice(sent), *pieces),
        [1, reply @ ..] => written(reply),
        [2, pieces, sent @ ..] => {
            let sent = Bytes::copy_from_slice(sent);
            let (whole, cut) = (inflated(&sent, usize::MAX), inflated(&sent, size_of(*pieces)));
            // How many bytes are held when there is no more room depends on how they arrive.
            let is_short = [&whole, &cut].iter().any(|(_, _, code)| *code == Some(Code::ResourceExhausted));
            assert!(is_short || whole == cut, "{whole:?}, and in pieces {cut:?}");
        }
        [3, pieces, parts @ ..] => compressed(parts, *pieces),
        [4, bytes_max, request @ ..] => known(request, usize::from(*bytes_max)),
        [5, timeout @ ..] => {
            deadline(timeout);
        }
        _ => {}
    }
}

fn size_of(pieces: u8) -> usize {
    1 + 3 * usize::from(pieces)
}

fn body(sent: &Bytes, size: usize) -> Body {
    let sent = sent.clone();
    let pieces = (0..sent.len()).step_by(size).map(move |at| {
        let end = sent.len().min(at.saturating_add(size));
        Ok::<_, Infallible>(sent.slice(at..end))
    });
    Body::from_stream(stream::iter(pieces))
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime without sockets").block_on(work)
}

/// One plain message is read whole. Of everything else no byte is lost.
fn framed(sent: &Bytes, pieces: u8) {
    let plain = sent.strip_prefix(&[0_u8]).and_then(|rest| rest.split_first_chunk::<4>());
    let plain = plain.filter(|(length, message)| u32::from_be_bytes(**length) as usize == message.len());
    for size in [usize::MAX, size_of(pieces)] {
        run(async {
            let counted = bodies::unary(body(sent, size), &HeaderMap::new(), &Share::default());
            let (mut incoming, _held) = counted.map_err(|(_, status)| status).expect("there is room");
            match message::read(&mut incoming).await {
                Read::Whole(message) => assert_eq!(plain.map(|(_, plain)| plain), Some(&message[..])),
                Read::Odd(first) => {
                    assert!(plain.is_none(), "in pieces of {size} a plain message is odd");
                    let all = message::resumed(first, incoming).collect().await;
                    assert!(all.expect("a body in memory is read").to_bytes() == *sent, "bytes are lost");
                }
                Read::Failed(status) => panic!("a body in memory is not read: {status}"),
            }
        });
    }
}

/// What is written as a reply is read as a message.
fn written(reply: &[u8]) {
    let (sent, trailers) = message::written(reply);
    assert_eq!((sent.len(), trailers.len()), (message::bytes_of(reply), 1));
    run(async {
        let counted = bodies::unary(body(&sent, usize::MAX), &HeaderMap::new(), &Share::default());
        let (mut incoming, _held) = counted.map_err(|(_, status)| status).expect("there is room");
        match message::read(&mut incoming).await {
            Read::Whole(message) => assert_eq!(message, reply),
            other => panic!("a reply is read as {other:?}"),
        }
    });
}

/// What comes out of a body: how many bytes, their hash, and with what it ends.
type Inflated = (usize, blake3::Hash, Option<Code>);

/// Reads a body of compressed messages, and gives back all that it held.
fn inflated(sent: &Bytes, size: usize) -> Inflated {
    let budget = Budget::new(CLIENTS_BYTES);
    let connection = Connection::new(budget.share(), IpAddr::from(Ipv4Addr::LOCALHOST));
    let request = Request::builder().uri("/app.S/Get").header("grpc-encoding", "gzip").extension(connection);
    let request = request.body(body(sent, size)).expect("a request of a client");
    let inflated = run(async {
        let received = Bodies::new().received(request);
        let (request, _held) = received.map_err(|(_, status)| status).expect("there is room for a call");
        let (mut body, mut bytes, mut hasher) = (request.into_body(), 0, blake3::Hasher::new());
        while let Some(frame) = body.frame().await {
            match frame.map(|frame| frame.into_data().unwrap_or_default()) {
                Ok(data) => {
                    bytes += data.len();
                    hasher.update(&data);
                }
                Err(error) => return (bytes, hasher.finalize(), Some(Status::from_error(error.into()).code())),
            }
        }
        (bytes, hasher.finalize(), None)
    });
    assert_eq!(budget.figures().by_calls, 0, "bytes of a call that has ended are held");
    inflated
}

/// Messages come out as they were before they were compressed. Each is a flag, two bytes of length
/// and its bytes.
fn compressed(mut parts: &[u8], pieces: u8) {
    let framed = |flag: u8, bytes: &[u8]| [&[flag][..], &(bytes.len() as u32).to_be_bytes(), bytes].concat();
    let (mut sent, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..MESSAGES_MAX {
        let Some((&[flag, high, low], rest)) = parts.split_first_chunk::<3>() else { break };
        let (bytes, behind) = rest.split_at(rest.len().min(u16::from_be_bytes([high, low]).into()));
        parts = behind;
        plain.extend(framed(0, bytes));
        sent.extend(if flag & 1 == 0 { framed(0, bytes) } else { framed(1, &gzip(bytes)) });
    }
    let expected = (plain.len(), blake3::hash(&plain), None);
    assert_eq!(inflated(&sent.into(), size_of(pieces)), expected, "other messages come out");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes everything")
}

/// The message that a guest with [`CONTRACT`] reads.
#[derive(Clone, PartialEq, prost::Message)]
struct Outer {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, boxed, tag = "2")]
    inner: Option<Box<Outer>>,
    #[prost(int32, repeated, tag = "3")]
    numbers: Vec<i32>,
    #[prost(bool, tag = "4")]
    fresh: bool,
}

/// The field of [`Outer`] that could decide how fresh a query is.
const FRESH: u32 = 4;

static CONTRACT: LazyLock<Contract> = LazyLock::new(|| {
    let field = |name: &str, number, of: Type, label: Label| FieldDescriptorProto {
        name: Some(name.into()),
        number: Some(number),
        r#type: Some(of as i32),
        type_name: (of == Type::Message).then(|| ".app.Outer".into()),
        label: Some(label as i32),
        ..FieldDescriptorProto::default()
    };
    let message = DescriptorProto {
        name: Some("Outer".into()),
        field: vec![
            field("name", 1, Type::String, Label::Optional),
            field("inner", 2, Type::Message, Label::Optional),
            field("numbers", 3, Type::Int32, Label::Repeated),
            field("fresh", 4, Type::Bool, Label::Optional),
        ],
        ..DescriptorProto::default()
    };
    let method = MethodDescriptorProto {
        name: Some("Get".into()),
        input_type: Some(".app.Outer".into()),
        output_type: Some(".app.Outer".into()),
        ..MethodDescriptorProto::default()
    };
    let service =
        ServiceDescriptorProto { name: Some("S".into()), method: vec![method], ..ServiceDescriptorProto::default() };
    let file = FileDescriptorProto {
        name: Some("app.proto".into()),
        package: Some("app".into()),
        syntax: Some("proto3".into()),
        message_type: vec![message],
        service: vec![service],
        ..FileDescriptorProto::default()
    };
    let set = FileDescriptorSet { file: vec![file] }.encode_to_vec();
    Contract::new(Some(&set), true).expect("a contract of one method")
});

/// A guest reads the same from the fields that are left. They are no more than they may be, and
/// nothing of them is left out the next time.
fn known(request: &[u8], bytes_max: usize) {
    let method = CONTRACT.method("app.S/Get").expect("the contract has it");
    let once = CONTRACT.known_fields(method, request, usize::MAX).expect("there is room for all");
    assert!(once.len() <= request.len());
    assert_eq!(CONTRACT.known_fields(method, &once, once.len()).as_ref(), Ok(&once));
    let bounded = CONTRACT.known_fields(method, request, bytes_max).ok();
    assert_eq!(bounded.as_ref(), Some(&once).filter(|once| once.len() <= bytes_max));
    let fresh = find_bool(request, FRESH);
    if let Ok(whole) = Outer::decode(request) {
        assert_eq!(fresh, whole.fresh);
        assert_eq!(Outer::decode(&*once).ok(), Some(whole));
    }
}

/// A timeout that is taken has a deadline.
fn deadline(value: &[u8]) -> Option<()> {
    let mut headers = HeaderMap::new();
    headers.insert("grpc-timeout", HeaderValue::from_bytes(value).ok()?);
    let timeout = dynamic::client_timeout(&headers).ok()?;
    assert!(timeout? <= TIMEOUT_MAX);
    let now = Instant::now();
    for kind in [Kind::Command, Kind::Query, Kind::Watch] {
        assert!(calls::deadline(kind, timeout, now).is_some_and(|deadline| deadline >= now));
    }
    Some(())
}
