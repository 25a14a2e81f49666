//! Big replies. The attacker sends 128 commands at a time that the guest answers with 4 MiB each.
//! They come into one log entry, so that every node holds all answers at the same moment, although
//! only one of the nodes has a client that waits for them.

use anyhow::Result;
use prost::Message;

use super::super::case::{Case, Guest, Role, Target};
use super::super::wire::{self, Caller};
use crate::misbehaving_pb::{Deed, What};

/// Connections.
const CONNECTIONS: usize = 8;
/// Commands at the same time on each.
const COMMANDS: usize = 16;

pub(crate) const CASE: Case = Case {
    name: "big-replies",
    does: "sends commands with answers of 4 MiB, 128 at a time",
    role: Role::Leader,
    guest: Guest::Misbehaving,
    reaches_all: true,
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

async fn attack(target: Target) -> Result<()> {
    target.together(CONNECTIONS, ask_for_much).await
}

async fn ask_for_much(target: Target, _: usize) -> Result<()> {
    let caller = Caller::connect(&target, &target.clients).await?;
    let command = wire::message(&Deed { what: What::ReplyLarge.into(), ..Deed::default() }.encode_to_vec());
    let each = |_| {
        let (caller, target, command) = (caller.clone(), target.clone(), command.clone());
        async move {
            while target.goes_on() {
                target.count("commands with big replies", 1);
                caller.call("/misbehaving.Misbehaving/Do", command.clone()).await?;
            }
            anyhow::Ok(())
        }
    };
    wire::all((0..COMMANDS).map(each)).await
}
