//! Header bombs. Half of the attackers send calls with sixty large headers each. The others send
//! HPACK bombs: one header of 4 kB goes into the table of the connection, and thousands of single
//! bytes then name it, so that 16 kB on the wire are 60 MB of headers.

use anyhow::Result;
use tokio::io::AsyncWriteExt;

use super::super::case::{Case, Role, Target};
use super::super::wire::{self, END_STREAM, call_headers, header_frames, indexed_header};

/// Connections.
const CONNECTIONS: usize = 16;
/// Calls on one connection, each of which stays open as long as the node likes.
const CALLS: u32 = 500;
/// Size of the header that goes into the table. The table has 4,096 bytes.
const HEADER_BYTES: usize = 3_900;
/// How often the bomb names it.
const NAMED: usize = 15_000;
/// HPACK: the newest header of the table.
const NEWEST: u8 = 0x80 | 62;

pub(crate) const CASE: Case = Case {
    name: "header-bombs",
    does: "sends many large headers, and HPACK bombs of 60 MB, on 16 connections",
    role: Role::Leader,
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

pub(crate) const AT_PEERS: Case = CASE.at_peers("header-bombs-peers", "does what header-bombs does, at the peer port");
pub(crate) const AT_HTTP: Case = CASE.at_http("header-bombs-http", "does what header-bombs does, at the http port");

async fn attack(target: Target) -> Result<()> {
    target.together(CONNECTIONS, bomb).await
}

async fn bomb(target: Target, n: usize) -> Result<()> {
    let (path, _) = target.small_call();
    let is_bomb = n.is_multiple_of(2);
    let block = if is_bomb { hpack_bomb(path) } else { large_headers(path) };
    let (mut answers, mut requests) = wire::connect_http2(target.port()).await?.io.into_split();
    let reading = tokio::spawn(async move { wire::read_all(&mut answers).await });
    let mut sent = Ok(());
    for stream in (0..CALLS).map(|n| 2 * n + 1) {
        sent = requests.write_all(&header_frames(stream, &block, END_STREAM)).await;
        if sent.is_err() {
            break;
        }
        target.count(if is_bomb { "HPACK bombs" } else { "calls with large headers" }, 1);
    }
    reading.abort();
    Ok(sent?)
}

fn hpack_bomb(path: &str) -> Vec<u8> {
    [call_headers(path), indexed_header("x", &[b'a'; HEADER_BYTES]), vec![NEWEST; NAMED]].concat()
}

fn large_headers(path: &str) -> Vec<u8> {
    let large = |n: usize| indexed_header(&format!("x-{n}"), &[b'a'; 1_000]);
    [call_headers(path)].into_iter().chain((0..60).map(large)).flatten().collect()
}
