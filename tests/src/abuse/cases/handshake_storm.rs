//! A storm of handshakes. The attacker connects, speaks HTTP/2 until the node has answered, and
//! resets. That costs the node the state of a whole connection each time, and the attacker 33
//! bytes.

use anyhow::Result;
use tokio::io::AsyncReadExt;

use super::super::case::{Case, Role, Target};
use super::super::wire;

/// Attackers at the same time.
const ATTACKERS: usize = 32;
/// Bytes of the head of a frame: the node's SETTINGS come first.
const HEAD_BYTES: usize = 9;

pub(crate) const CASE: Case = Case {
    name: "handshake-storm",
    does: "connects, finishes the handshake of HTTP/2 and resets, as fast as it can",
    role: Role::Follower,
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

async fn attack(target: Target) -> Result<()> {
    target.together(ATTACKERS, shake_hands_and_reset).await
}

async fn shake_hands_and_reset(target: Target, n: usize) -> Result<()> {
    let port = [&target.clients, &target.peers, &target.http][n % 3];
    let mut connection = wire::connect_http2(port).await?;
    wire::end_with_reset(&connection.io)?;
    connection.io.read_exact(&mut [0; HEAD_BYTES]).await?;
    target.count("handshakes", 1);
    Ok(())
}
