//! Backups that nobody reads. The attacker starts backups of a state of 20 MiB on 32 connections
//! and reads nothing. A backup holds a snapshot of the store, a thread, and a place of which there
//! is one.

use anyhow::Result;
use tokio::io::AsyncWriteExt;

use super::super::case::{Case, Promised, Role, Target};
use super::super::wire::{self, call};

/// Connections.
const CONNECTIONS: usize = 32;
/// Calls on each.
const CALLS: u32 = 4;
/// The encoded request: `local`, every other time.
const REQUESTS: [&[u8]; 2] = [b"\x08\x01", b""];

pub(crate) const CASE: Case = Case {
    name: "sleeping-backups",
    does: "starts backups on 32 connections and reads nothing",
    role: Role::Leader,
    promised: Promised::Commands,
    large_values: 80,
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

async fn attack(target: Target) -> Result<()> {
    target.together(CONNECTIONS, start_and_sleep).await
}

async fn start_and_sleep(target: Target, _: usize) -> Result<()> {
    let io = wire::connect_with_small_buffer(&target.clients).await?;
    let mut connection = wire::speak_http2(io, &[]).await?;
    for n in 0..CALLS {
        let request = REQUESTS[n as usize % REQUESTS.len()];
        connection.io.write_all(&call(2 * n + 1, "/lockstep.v1.Admin/Backup", request)).await?;
        target.count("sleeping backups", 1);
    }
    target.end().await
}
