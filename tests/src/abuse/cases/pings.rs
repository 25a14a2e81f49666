//! A flood of PING. The attacker sends PING on 16 connections and reads nothing. Each costs it 17
//! bytes, and the node has to answer each one. The answers pile up because nobody takes them, and
//! the threads that read them serve everybody else as well.

use anyhow::Result;

use super::super::case::{Case, Promised, Role, Target};
use super::super::wire::{self, PING, frame};

/// Connections. They made a leader's clients five to seven times slower.
const CONNECTIONS: usize = 16;
/// Frames of one write.
const AT_ONCE: usize = 1_000;

pub(crate) const CASE: Case = Case {
    name: "pings",
    does: "sends PING on 16 connections and reads nothing",
    role: Role::Leader,
    promised: Promised::Everything,
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

pub(crate) const AT_PEERS: Case = CASE.at_peers("pings-peers", "does what pings does, at the peer port");
pub(crate) const AT_HTTP: Case = CASE.at_http("pings-http", "does what pings does, at the http port");

async fn attack(target: Target) -> Result<()> {
    target.together(CONNECTIONS, ping).await
}

async fn ping(target: Target, _: usize) -> Result<()> {
    let mut connection = wire::connect_http2(target.port()).await?;
    let pings = frame(PING, 0, 0, b"lockstep").repeat(AT_ONCE);
    wire::write_again_and_again(&target, &mut connection.io, &pings, "pings", AT_ONCE).await
}
