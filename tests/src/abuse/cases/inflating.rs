//! Inflating messages. The attacker sends 256 kB that gzip turns into 256 MiB. The node refuses
//! messages above 4 MiB, but it may find that out only after it has inflated the message, on the
//! threads that serve everybody.

use anyhow::Result;
use tonic::codegen::Bytes;

use super::super::case::{Case, Role, Target};
use super::super::wire::{self, Caller};

/// Connections, each with one call at a time.
const CONNECTIONS: usize = 32;
/// Bytes of a message once it is inflated.
const INFLATED: usize = 256 << 20;

pub(crate) const CASE: Case = Case {
    name: "inflating",
    does: "sends gzip bombs of 256 MiB in commands, on 32 connections",
    role: Role::Follower,
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

async fn attack(target: Target) -> Result<()> {
    let bomb = wire::gzipped(&vec![0; INFLATED])?;
    target.together(CONNECTIONS, move |target, _| inflate(target, bomb.clone())).await
}

async fn inflate(target: Target, bomb: Bytes) -> Result<()> {
    let caller = Caller::connect(&target, &target.clients).await?;
    while target.goes_on() {
        caller.call("/Example/Add", bomb.clone()).await?;
        target.count("gzip bombs", 1);
    }
    Ok(())
}
