//! Half-open connections. The attacker begins to speak and stops in the middle: half a preface, a
//! preface without SETTINGS, half the head of a request, or a shutdown of its sending side. The
//! node knows neither whether more will come nor when it may give up. It may have 1,024
//! descriptors.

use anyhow::Result;
use tokio::io::AsyncWriteExt;

use super::super::case::{Case, Role, Target};
use super::super::wire::{self, PREFACE, SETTINGS, frame};

/// Connections at the same time.
const CONNECTIONS: usize = 2_400;

pub(crate) const CASE: Case = Case {
    name: "half-open",
    does: "opens 2,400 connections that stop within the first words; the node has 1,024 descriptors",
    role: Role::Follower,
    descriptors: Some(1_024),
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

async fn attack(target: Target) -> Result<()> {
    target.together(CONNECTIONS, stop_in_the_middle).await
}

async fn stop_in_the_middle(target: Target, n: usize) -> Result<()> {
    let port = [&target.clients, &target.peers, &target.http][n % 3];
    let mut stream = wire::connect(port).await?;
    match n / 3 % 4 {
        0 => stream.write_all(&PREFACE[..7]).await?,
        1 => stream.write_all(PREFACE).await?,
        2 => stream.write_all(b"GET /livez HTTP/1.1\r\nHost: no").await?,
        // A whole beginning, and then no more from this side.
        _ => {
            stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await?;
            stream.shutdown().await?;
        }
    }
    target.count("half-open connections", 1);
    wire::keep(stream).await
}
