//! Backups that are read. On eight connections the attacker makes backups of a state of 20 MiB, one
//! after the other, and takes them as fast as they come. The node reads its whole state each time,
//! and refuses those that come while one is under way.

use anyhow::Result;

use super::super::case::{Case, Promised, Role, Target};
use super::super::wire::{self, Caller};

/// Connections, each with one call at a time.
const CONNECTIONS: usize = 8;
/// The encoded request: `local`, every other time.
const REQUESTS: [&[u8]; 2] = [b"\x08\x01", b""];

pub(crate) const CASE: Case = Case {
    name: "busy-backups",
    does: "makes backups on 8 connections and reads them, one after the other",
    role: Role::Leader,
    promised: Promised::Commands,
    large_values: 80,
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

async fn attack(target: Target) -> Result<()> {
    target.together(CONNECTIONS, back_up).await
}

async fn back_up(target: Target, _: usize) -> Result<()> {
    let caller = Caller::connect(&target, &target.clients).await?;
    for request in REQUESTS.iter().cycle().take_while(|_| target.goes_on()) {
        let response = caller.begin("/lockstep.v1.Admin/Backup", wire::message(request)).await?;
        caller.read(response, |target, data| target.count("bytes of backups", data.len())).await?;
    }
    Ok(())
}
