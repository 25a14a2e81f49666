//! Watchers that never read. The attacker opens 2,000 watches of a value of 256 KiB and reads
//! nothing, while the value changes four times a second. What the node has computed for them waits
//! in the node.

use std::time::Duration;

use anyhow::Result;
use prost::Message;
use tokio::io::AsyncWriteExt;
use tokio::time::sleep;
use tonic::codegen::Bytes;

use super::super::case::{Case, LARGE_BYTES, Promised, Role, Target, large_key};
use super::super::wire::{self, Caller, call};
use crate::noise;
use crate::pb::{AddRequest, WatchRequest};

/// Connections.
const CONNECTIONS: usize = 20;
/// Watches on each.
const WATCHES: u32 = 100;
/// Time between two changes of the value.
const CHANGE_PAUSE: Duration = Duration::from_millis(250);

pub(crate) const CASE: Case = Case {
    name: "sleeping-watchers",
    does: "opens 2,000 watches of a changing value of 256 KiB and reads nothing",
    role: Role::Leader,
    promised: Promised::Commands,
    large_values: 1,
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

async fn attack(target: Target) -> Result<()> {
    // The first attacker changes the value, the others watch it.
    let value = AddRequest { key: large_key(0), val: noise(7, LARGE_BYTES) }.encode_to_vec();
    let change = wire::message(&value);
    let work = move |target, n| {
        let change = change.clone();
        async move { if n == 0 { change_value(target, change).await } else { watch(target).await } }
    };
    target.together(1 + CONNECTIONS, work).await
}

async fn watch(target: Target) -> Result<()> {
    let io = wire::connect_with_small_buffer(&target.clients).await?;
    let mut connection = wire::speak_http2(io, &[]).await?;
    let request = WatchRequest { key: large_key(0), ..WatchRequest::default() }.encode_to_vec();
    for n in 0..WATCHES {
        connection.io.write_all(&call(2 * n + 1, "/Example/Watch", &request)).await?;
        target.count("sleeping watchers", 1);
    }
    target.end().await
}

async fn change_value(target: Target, change: Bytes) -> Result<()> {
    let caller = Caller::connect(&target, &target.clients).await?;
    while target.goes_on() {
        caller.call("/Example/Add", change.clone()).await?;
        target.count("changes", 1);
        sleep(CHANGE_PAUSE).await;
    }
    Ok(())
}
