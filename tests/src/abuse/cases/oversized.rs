//! Oversized messages and lying lengths. The attacker announces 4 GiB, 16 MiB or one byte too much,
//! and sends eight megabytes either way. A node that reserves what was announced, or that reads
//! what it will refuse, pays for it.

use anyhow::Result;
use tonic::codegen::Bytes;

use super::super::case::{Case, Role, Target};
use super::super::wire::{self, Caller};

/// Connections.
const CONNECTIONS: usize = 8;
/// Calls at the same time on each.
const CALLS: usize = 8;
/// What a message claims to be.
const LENGTHS: [usize; 4] = [u32::MAX as usize, 16 << 20, (4 << 20) + 1, 8 << 20];
/// What is sent.
const SENT: usize = 8 << 20;

pub(crate) const CASE: Case = Case {
    name: "oversized",
    does: "sends messages of 8 MiB whose lengths lie, on 8 connections",
    role: Role::Leader,
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

async fn attack(target: Target) -> Result<()> {
    let bodies = LENGTHS.map(|length| wire::announced(length, &[0; SENT]));
    target.together(CONNECTIONS * CALLS, move |target, n| lie(target, n, bodies[n % LENGTHS.len()].clone())).await
}

async fn lie(target: Target, n: usize, body: Bytes) -> Result<()> {
    let port = if n % 8 == 7 { &target.peers } else { &target.clients };
    let path = if n % 8 == 7 { "/lockstep.peer.v1.Peer/Identify" } else { "/Example/Add" };
    let caller = Caller::connect(&target, port).await?;
    for _ in 0..CALLS {
        target.count("oversized messages", 1);
        caller.call(path, body.clone()).await?;
    }
    Ok(())
}
