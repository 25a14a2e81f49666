//! Commands that fail. The attacker sends commands that trap, panic or are refused by the guest, as
//! fast as it can. A failed command runs a second time, alone and in a fresh instance, on every
//! node, and each wants to be told of in the log.

use anyhow::Result;
use prost::Message;
use tonic::codegen::Bytes;

use super::super::case::{Case, Guest, Role, Target};
use super::super::wire::{self, Caller};
use crate::misbehaving_pb::{Deed, What};

/// Connections.
const CONNECTIONS: usize = 8;
/// Commands at the same time on each.
const COMMANDS: usize = 8;
/// What the commands do.
const DEEDS: [What; 4] = [What::Abort, What::TrapLast, What::Refuse, What::RefuseNotUtf8];

pub(crate) const CASE: Case = Case {
    name: "failing-commands",
    does: "sends commands that trap, panic or are refused, 64 at a time",
    role: Role::Leader,
    guest: Guest::Misbehaving,
    reaches_all: true,
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

async fn attack(target: Target) -> Result<()> {
    target.together(CONNECTIONS, fail_again_and_again).await
}

async fn fail_again_and_again(target: Target, _: usize) -> Result<()> {
    let caller = Caller::connect(&target, &target.clients).await?;
    let each = |n: usize| {
        let (caller, target) = (caller.clone(), target.clone());
        let deed = deed(DEEDS[n % DEEDS.len()]);
        async move {
            while target.goes_on() {
                caller.call("/misbehaving.Misbehaving/Do", deed.clone()).await?;
                target.count("failing commands", 1);
            }
            anyhow::Ok(())
        }
    };
    wire::all((0..COMMANDS).map(each)).await
}

fn deed(what: What) -> Bytes {
    wire::message(&Deed { what: what.into(), ..Deed::default() }.encode_to_vec())
}
