//! A storm of connections. The attacker connects and resets as fast as it can, at all three ports.
//! Each connection costs the node an accept, a place, a task and their end.

use anyhow::Result;

use super::super::case::{Case, Role, Target};
use super::super::wire;

/// Attackers at the same time.
const ATTACKERS: usize = 48;

pub(crate) const CASE: Case = Case {
    name: "connect-storm",
    does: "connects and resets as fast as it can, at all ports",
    role: Role::Leader,
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

async fn attack(target: Target) -> Result<()> {
    target.together(ATTACKERS, connect_and_reset).await
}

async fn connect_and_reset(target: Target, n: usize) -> Result<()> {
    let port = [&target.clients, &target.peers, &target.http][n % 3];
    let stream = wire::connect(port).await?;
    wire::end_with_reset(&stream)?;
    target.count("connections", 1);
    Ok(())
}
