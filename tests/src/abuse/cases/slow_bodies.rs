//! Slow bodies. The attacker opens 640 calls, sends three of the four megabytes that it announced,
//! and then a byte a second. The node has to keep what has arrived: it can neither run the call nor
//! refuse it. Half of the calls are commands, the others are watches, which have no deadline.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;
use tonic::codegen::Bytes;

use super::super::case::{Case, Role, Target};
use super::super::wire::{self, Caller};

/// Connections.
const CONNECTIONS: usize = 16;
/// Calls on each.
const CALLS: usize = 40;
/// Length that each message announces.
const ANNOUNCED: usize = 4_000_000;
/// Bytes that come at once.
const AT_ONCE: usize = 3 << 20;

pub(crate) const CASE: Case = Case {
    name: "slow-bodies",
    does: "opens 640 calls, sends 3 MiB of each, and then a byte a second",
    role: Role::Follower,
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

async fn attack(target: Target) -> Result<()> {
    target.together(CONNECTIONS, send_slowly).await
}

async fn send_slowly(target: Target, _: usize) -> Result<()> {
    let caller = Caller::connect(&target, &target.clients).await?;
    let beginning: Bytes = wire::announced(ANNOUNCED, &[0; AT_ONCE]);
    let mut open = Vec::new();
    for n in 0..CALLS {
        let (response, mut sending) = caller.open(["/Example/Add", "/Example/Watch"][n % 2]).await?;
        sending.send_data(beginning.clone(), false)?;
        target.count("slow calls", 1);
        open.push((response, sending));
    }
    while target.goes_on() && !open.is_empty() {
        sleep(Duration::from_secs(1)).await;
        // A call that the node has ended takes no more.
        open.retain_mut(|(_, sending)| sending.send_data(Bytes::from_static(&[0]), false).is_ok());
    }
    // All calls were ended: come again.
    Ok(())
}
