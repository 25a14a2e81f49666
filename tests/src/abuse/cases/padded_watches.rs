//! Watches with large requests. The attacker opens as many watches as the node allows. Each request
//! has 3.9 MiB in an unknown field and is 4 kB on the wire. A node that keeps the request of each
//! watch, padding included, keeps gigabytes.

use anyhow::Result;
use prost::Message;
use tonic::codegen::Bytes;

use super::super::case::{Case, Promised, Role, Target};
use super::super::wire::{self, Caller};
use crate::pb::WatchRequest;

/// Connections.
const CONNECTIONS: usize = 5;
/// Watches on each.
const WATCHES: usize = 900;
/// Bytes of the unknown field. The whole request stays below the limit of 4 MiB.
const PADDING: usize = 3_900 << 10;

pub(crate) const CASE: Case = Case {
    name: "padded-watches",
    does: "opens 4,500 watches whose requests are 3.9 MiB, and 4 kB on the wire",
    role: Role::Leader,
    promised: Promised::Commands,
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

async fn attack(target: Target) -> Result<()> {
    let watch = WatchRequest { key: "nobody writes this".into(), timeout_seconds: 3_600, ..WatchRequest::default() };
    let request = wire::gzipped(&wire::padded(watch.encode_to_vec(), PADDING))?;
    target.together(CONNECTIONS, move |target, _| watch_much(target, request.clone())).await
}

async fn watch_much(target: Target, request: Bytes) -> Result<()> {
    let caller = Caller::connect(&target, &target.clients).await?;
    let mut open = Vec::new();
    for _ in 0..WATCHES {
        open.push(caller.begin("/Example/Watch", request.clone()).await?);
        target.count("padded watches", 1);
    }
    // Their answers are taken, and the watches go on.
    let mut bodies = Vec::new();
    for response in open {
        bodies.push(caller.beginning(response).await?);
    }
    target.end().await
}
