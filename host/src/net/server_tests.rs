//! Clients that write their frames by hand: what a server does with floods, with silence, and with
//! a connection that nobody needs.

#![allow(clippy::unwrap_used)]

use std::net::TcpListener as StdListener;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::frames::{ACK, END_STREAM, HEADERS, PING, SETTINGS};
use super::port::PortLimits;
use super::{Http2Limits, Port, WindowLimits, Windows, serve};

const END_HEADERS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const NO_ERROR: u8 = 0;
const ENHANCE_YOUR_CALM: u8 = 11;

/// The setting with the window of a call.
const INITIAL_WINDOW_SIZE: u8 = 4;

/// `GET /` by `http`, of the static table, and an authority `x`.
const CALL: &[u8] = &[0x82, 0x84, 0x86, 0x41, 1, b'x'];
/// Longest time that a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

fn limits() -> Http2Limits {
    Http2Limits {
        streams_max: 16,
        windows: WindowLimits {
            wide: Windows { stream_bytes: 1 << 20, connection_bytes: 1 << 20 },
            wide_max: 1,
            wide_per_address_max: 1,
            proven: None,
        },
        // Only one test is about it.
        keepalive_interval: PATIENCE,
        keepalive_timeout: PATIENCE,
    }
}

/// Serves a page. Returns the port, and a connection to it.
async fn connected(idle_timeout: Option<Duration>, limits: Http2Limits) -> (Port, Client) {
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let port = Port::limited("test", PortLimits { idle_timeout, ..PortLimits::new(9) });
    let router = Router::new().route("/", get(|| async { "here" }));
    let serving = port.clone();
    tokio::spawn(async move {
        serve(&serving, vec![listener], limits, move |_| router.clone(), std::future::pending()).await
    });
    let mut client = Client(TcpStream::connect(address).await.unwrap());
    client.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    client.send(SETTINGS, 0, 0, &[]).await;
    (port, client)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

struct Client(TcpStream);

#[derive(Debug)]
struct Heard {
    kind: u8,
    flags: u8,
    payload: Vec<u8>,
}

impl Client {
    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        // A server may have closed it meanwhile, and what it said can be read all the same.
        let _closed = self.0.write_all(&frame(kind, flags, stream, payload)).await;
    }

    /// Returns the next frame; `None` at the end.
    async fn next(&mut self) -> Option<Heard> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        Some(Heard { kind, flags, payload })
    }

    /// Returns the next frame of that kind. Answers PINGs on the way.
    async fn next_of(&mut self, kind: u8) -> Option<Heard> {
        loop {
            let heard = self.next().await?;
            if heard.kind == kind {
                return Some(heard);
            }
            if heard.kind == PING && heard.flags & ACK == 0 {
                self.send(PING, ACK, 0, &heard.payload).await;
            }
        }
    }

    /// Returns the code and the words of the end of the connection.
    async fn goaway(&mut self) -> (u8, String) {
        let heard =
            tokio::time::timeout(PATIENCE, self.next_of(GOAWAY)).await.unwrap().expect("it ends without a word");
        (heard.payload[7], String::from_utf8_lossy(&heard.payload[8..]).into_owned())
    }

    /// Returns the header block of a reply, which begins with its status.
    async fn status(&mut self) -> Vec<u8> {
        tokio::time::timeout(PATIENCE, self.next_of(HEADERS)).await.unwrap().expect("no reply").payload
    }
}

#[tokio::test]
async fn continuations_without_end_are_ended() {
    let (_port, mut client) = connected(None, limits()).await;
    // In one piece, so that the server has read all of it when it closes the connection.
    let flood = [frame(HEADERS, END_STREAM, 1, CALL), frame(CONTINUATION, 0, 1, &[]).repeat(20)].concat();
    client.0.write_all(&flood).await.unwrap();
    let (code, words) = client.goaway().await;
    assert_eq!((code, &*words), (ENHANCE_YOUR_CALM, "too_many_continuations"));
}

/// Returns the block of a call with one field of 4,000 bytes, that many times. Each costs a byte.
fn bomb(times: usize) -> Vec<u8> {
    // With an index, the name `n`, and a value whose length takes three bytes.
    let field = [&[0x40, 1, b'n', 0x7f, 0xa1, 0x1e][..], &[b'v'; 4_000]].concat();
    // It is the newest one of the table, whose number is 62.
    [CALL, &field, &vec![0x80 | 62; times - 1]].concat()
}

#[tokio::test]
async fn a_header_list_beyond_the_limit_is_refused_and_a_bomb_ends_its_connection() {
    let (_port, mut client) = connected(None, limits()).await;
    client.send(HEADERS, END_STREAM | END_HEADERS, 1, &bomb(2)).await;
    assert_eq!(client.status().await[0], 0x88, "200: it is within the limit");
    client.send(HEADERS, END_STREAM | END_HEADERS, 3, &bomb(6)).await;
    assert_ne!(client.status().await[0], 0x88, "431, which is not in the static table");
    client.send(HEADERS, END_STREAM | END_HEADERS, 5, CALL).await;
    assert_eq!(client.status().await[0], 0x88, "the connection goes on");
    client.send(HEADERS, END_STREAM | END_HEADERS, 7, &bomb(12_000)).await;
    let (code, words) = client.goaway().await;
    assert_eq!((code, &*words), (ENHANCE_YOUR_CALM, "header_list_way_too_large"));
}

/// Returns the window that a connection's settings give to a call.
async fn call_window(client: &mut Client) -> u32 {
    let settings = tokio::time::timeout(PATIENCE, client.next_of(SETTINGS)).await.unwrap().expect("no settings");
    let sizes = settings.payload.chunks_exact(6).filter(|setting| setting[..2] == [0, INITIAL_WINDOW_SIZE]);
    sizes.map(|setting| u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]])).next_back().unwrap()
}

#[tokio::test]
async fn further_connections_of_an_address_may_send_less_before_it_is_read() {
    let (port, mut first) = connected(None, limits()).await;
    assert_eq!(call_window(&mut first).await, 1 << 20);
    assert_eq!(port.status().wide, 1);
    let mut second = Client(TcpStream::connect(first.0.peer_addr().unwrap()).await.unwrap());
    second.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    second.send(SETTINGS, 0, 0, &[]).await;
    assert_eq!(call_window(&mut second).await, 32 << 10);
    second.send(HEADERS, END_STREAM | END_HEADERS, 1, CALL).await;
    assert_eq!(second.status().await[0], 0x88, "and is served");
}

#[tokio::test]
async fn one_that_answers_no_ping_is_closed() {
    let often = Duration::from_millis(50);
    let limits = Http2Limits { keepalive_interval: often, keepalive_timeout: often, ..limits() };
    let (port, mut client) = connected(None, limits).await;
    let ended = async {
        while let Some(heard) = client.next().await {
            if heard.kind == SETTINGS && heard.flags & ACK == 0 {
                client.send(SETTINGS, ACK, 0, &[]).await;
            }
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
    let gone = async {
        while port.status().open > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
}

#[tokio::test]
async fn one_without_a_call_for_long_is_closed_gracefully() {
    let timeout = Duration::from_secs(2);
    let (port, mut client) = connected(Some(timeout), limits()).await;
    let called = Instant::now();
    client.send(HEADERS, END_STREAM | END_HEADERS, 1, CALL).await;
    assert_eq!(client.status().await[0], 0x88);
    assert_eq!(client.goaway().await.0, NO_ERROR);
    assert!(called.elapsed() >= timeout, "{:?}", called.elapsed());
    while client.next_of(GOAWAY).await.is_some() {}
    assert_eq!(port.status().idle_closed, 1);
}
