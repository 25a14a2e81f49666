//! Watches that are read and woken all the time. The attacker opens 960 watches of one key, nearly
//! as many as one client may have, and changes the value as fast as the node takes it. It reads
//! every answer, so each change costs the node a step of every watch and a reply of each.

use anyhow::Result;
use prost::Message;

use super::super::case::{Case, Promised, Role, Target};
use super::super::wire::{self, Caller};
use crate::noise;
use crate::pb::{AddRequest, WatchRequest};

/// Connections that watch.
const CONNECTIONS: usize = 16;
/// Watches on each.
const WATCHES: usize = 60;
/// The key that is watched.
const KEY: &str = "busy";
/// Size of its value.
const VALUE_BYTES: usize = 1 << 10;

pub(crate) const CASE: Case = Case {
    name: "busy-watches",
    does: "reads 960 watches of a value that it changes as fast as it can",
    role: Role::Leader,
    promised: Promised::Commands,
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

async fn attack(target: Target) -> Result<()> {
    // The first attacker changes the value, the others watch it.
    let work = |target, n| async move { if n == 0 { change_value(target).await } else { watch(target).await } };
    target.together(1 + CONNECTIONS, work).await
}

async fn watch(target: Target) -> Result<()> {
    let caller = Caller::connect(&target, &target.clients).await?;
    let watch = WatchRequest { key: KEY.into(), timeout_seconds: 3_600, ..WatchRequest::default() };
    let request = wire::message(&watch.encode_to_vec());
    let each = |_| {
        let (caller, request) = (caller.clone(), request.clone());
        async move {
            let response = caller.begin("/Example/Watch", request).await?;
            caller.read(response, |target, _| target.count("pieces of watches", 1)).await
        }
    };
    wire::all((0..WATCHES).map(each)).await
}

async fn change_value(target: Target) -> Result<()> {
    let caller = Caller::connect(&target, &target.clients).await?;
    let change = |seed| AddRequest { key: KEY.into(), val: noise(seed, VALUE_BYTES) }.encode_to_vec();
    let changes = [1, 2].map(|seed| wire::message(&change(seed)));
    for change in changes.iter().cycle().take_while(|_| target.goes_on()) {
        caller.call("/Example/Add", change.clone()).await?;
        target.count("changes", 1);
    }
    Ok(())
}
