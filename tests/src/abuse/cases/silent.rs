//! Silent sockets. The attacker opens connections to all three ports and says nothing. Each takes a
//! descriptor and a place of the port, and costs the attacker nothing. The node may have 1,024
//! descriptors, as a shell gives it by default.

use anyhow::Result;

use super::super::case::{Case, Role, Target};
use super::super::wire;

/// Connections to each port. Three times this is far more than the node's descriptors.
const EACH: usize = 1_000;

pub(crate) const CASE: Case = Case {
    name: "silent",
    does: "opens 3,000 connections and says nothing; the node has 1,024 descriptors",
    role: Role::Leader,
    descriptors: Some(1_024),
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

async fn attack(target: Target) -> Result<()> {
    target.together(3 * EACH, stay_silent).await
}

/// Connects, and waits until the node closes. Then it comes again.
async fn stay_silent(target: Target, n: usize) -> Result<()> {
    let port = [&target.clients, &target.peers, &target.http][n % 3];
    let stream = wire::connect(port).await?;
    target.count("silent connections", 1);
    wire::keep(stream).await
}
