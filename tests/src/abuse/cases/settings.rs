//! A flood of SETTINGS. The attacker changes its settings all the time on 16 connections and reads
//! nothing. The node has to apply and acknowledge each change, and a new window size changes every
//! open stream.

use anyhow::Result;

use super::super::case::{Case, Promised, Role, Target};
use super::super::wire::{self, INITIAL_WINDOW_SIZE, SETTINGS, frame};

/// Connections.
const CONNECTIONS: usize = 16;
/// Frames of one write.
const AT_ONCE: usize = 1_000;

pub(crate) const CASE: Case = Case {
    name: "settings",
    does: "changes its settings all the time on 16 connections and reads nothing",
    role: Role::Leader,
    promised: Promised::Everything,
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

pub(crate) const AT_PEERS: Case = CASE.at_peers("settings-peers", "does what settings does, at the peer port");
pub(crate) const AT_HTTP: Case = CASE.at_http("settings-http", "does what settings does, at the http port");

async fn attack(target: Target) -> Result<()> {
    target.together(CONNECTIONS, change_settings).await
}

async fn change_settings(target: Target, _: usize) -> Result<()> {
    let mut connection = wire::connect_http2(target.port()).await?;
    let window = |bytes: u32| [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &bytes.to_be_bytes()].concat();
    let both = [frame(SETTINGS, 0, 0, &window(1)), frame(SETTINGS, 0, 0, &window(1 << 20))].concat();
    let flood = both.repeat(AT_ONCE / 2);
    wire::write_again_and_again(&target, &mut connection.io, &flood, "settings", AT_ONCE).await
}
