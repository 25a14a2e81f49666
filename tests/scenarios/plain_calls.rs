//! A unary call of the guest takes a short way through a node if its headers and its message are
//! plain. A client must not be able to tell. A call with `grpc-encoding: gzip` takes the other way
//! even if its message is not compressed, so the same bytes can be sent on both.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use lockstep_tests::formed;
use lockstep_tests::pb::{AddRequest, AddResponse, GetRequest, GetResponse};
use prost::Message;
use tokio::net::TcpStream;
use tonic::codegen::{Bytes, http};

/// One byte more than a message may have.
const TOO_LARGE: usize = (4 << 20) + 1;

/// What a client sees of a call. Of headers and trailers, what does not depend on the moment. An
/// empty body may say its length or not.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    code: u16,
    headers: BTreeMap<String, String>,
    message: Vec<u8>,
    trailers: BTreeMap<String, String>,
}

impl Seen {
    /// Returns the gRPC code.
    fn status(&self) -> Result<u32> {
        let status = self.headers.get("grpc-status").or(self.trailers.get("grpc-status"));
        Ok(status.with_context(|| format!("no status in {self:?}"))?.parse()?)
    }
}

fn texts(headers: &http::HeaderMap) -> BTreeMap<String, String> {
    let text = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        let is_of_the_moment = name == "lockstep-index";
        let value =
            if is_of_the_moment { "an index".to_owned() } else { String::from_utf8_lossy(value.as_bytes()).into() };
        (name.to_string(), value)
    };
    headers.iter().filter(|(name, _)| *name != "content-length").map(text).collect()
}

/// Calls a method with these headers and this body.
async fn call(address: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Seen> {
    let (mut client, connection) = h2::client::handshake(TcpStream::connect(address).await?).await?;
    let connection = tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://{address}{path}")).header("content-type", "application/grpc");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (response, mut sent) = client.send_request(request.body(())?, false)?;
    sent.send_data(Bytes::copy_from_slice(body), true)?;
    let (head, mut body) = response.await?.into_parts();
    let mut message = Vec::new();
    while let Some(data) = body.data().await {
        message.extend_from_slice(&data?);
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    connection.abort();
    Ok(Seen { code: head.status.as_u16(), headers: texts(&head.headers), message, trailers: texts(&trailers) })
}

/// Returns what is seen of a read, without the index in its reply.
fn at_no_index(mut seen: Seen) -> Result<Seen> {
    if let Some(reply) = seen.message.get(5..) {
        seen.message = GetResponse::decode(reply)?.value.into_bytes();
    }
    Ok(seen)
}

/// Returns a message with a prefix that says what it is told to.
fn framed(flag: u8, length: usize, bytes: &[u8]) -> Vec<u8> {
    [&[flag][..], &(length as u32).to_be_bytes(), bytes].concat()
}

fn message(message: &impl Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    framed(0, bytes.len(), &bytes)
}

fn add(val: &str) -> Vec<u8> {
    message(&AddRequest { key: "a".into(), val: val.into() })
}

const BARE: &[(&str, &str)] = &[];
const IDENTITY: &[(&str, &str)] = &[("grpc-encoding", "identity")];
const UNKNOWN: &[(&str, &str)] = &[("grpc-encoding", "brotli")];
const BAD_TIMEOUT: &[(&str, &str)] = &[("grpc-timeout", "5s")];
const SHORT: &[(&str, &str)] = &[("te", "trailers")];
const OTHER: &[(&str, &str)] = &[("te", "trailers"), ("grpc-encoding", "gzip")];

#[tokio::test]
async fn both_ways_answer_alike() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let address = cluster.nodes[0].grpc_addr();
    let get = |key: &str| message(&GetRequest { key: key.into(), linearizable: true });
    let cases = [
        ("a query", "/Example/Get", get("a")),
        ("an empty message", "/Example/Get", framed(0, 0, b"")),
        ("no command", "/Example/Get", framed(0, 2, b"\xff\xff")),
        ("two messages", "/Example/Get", [get("a"), get("b")].concat()),
        ("a message and a part of another", "/Example/Add", [add("half"), vec![0]].concat()),
        ("no message", "/Example/Add", Vec::new()),
        ("a short message", "/Example/Add", framed(0, 100, b"short")),
        ("a message above the limit", "/Example/Add", framed(0, TOO_LARGE, b"x")),
        ("a flag that nobody knows", "/Example/Add", framed(2, 1, b"x")),
        ("no such method", "/Example/Nope", add("x")),
    ];
    for (name, path, body) in cases {
        let short = at_no_index(call(&address, path, SHORT, &body).await?)?;
        let other = at_no_index(call(&address, path, OTHER, &body).await?)?;
        ensure!(short == other, "{name}: {short:?} and {other:?}");
    }
    let large = call(&address, "/Example/Add", SHORT, &framed(0, TOO_LARGE, b"x")).await?;
    ensure!(large.status()? == 8 && large.headers["lockstep-outcome"] == "not-applied", "{large:?}");
    Ok(())
}

#[tokio::test]
async fn a_plain_call_needs_no_more_than_its_content_type() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let address = cluster.nodes[0].grpc_addr();
    for (val, headers) in [("bare", BARE), ("with te", SHORT), ("identity", IDENTITY)] {
        let added = call(&address, "/Example/Add", headers, &add(val)).await?;
        ensure!(added.status()? == 0 && added.headers.contains_key("lockstep-leader"), "{val}: {added:?}");
        ensure!(AddResponse::decode(&added.message[5..])?.commit_index > 0, "{val}: {added:?}");
        let request = message(&GetRequest { key: "a".into(), linearizable: false });
        let got = call(&address, "/Example/Get", headers, &request).await?;
        ensure!(GetResponse::decode(&got.message[5..])?.value == val, "{val}: {got:?}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_not_plain_is_refused_and_not_run() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let address = cluster.nodes[0].grpc_addr();
    let compressed = framed(1, 5, b"zzzzz");
    let cases = [
        ("compressed without an encoding", SHORT, compressed, 13, "compressed-flag"),
        ("an unknown encoding", UNKNOWN, add("x"), 12, "brotli"),
        ("a bad timeout", BAD_TIMEOUT, add("x"), 3, "grpc-timeout"),
    ];
    for (name, headers, body, code, words) in cases {
        let seen = call(&address, "/Example/Add", headers, &body).await?;
        let text = seen.headers.get("grpc-message").map_or("", String::as_str);
        ensure!(seen.status()? == code && text.contains(words), "{name}: {seen:?}");
    }
    ensure!(cluster.get(0, "a", true).await?.is_empty(), "nothing of it was run");
    Ok(())
}
