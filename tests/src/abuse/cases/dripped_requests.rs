//! Dripped requests. The attacker opens 4,000 calls that may take a day, says that each has a
//! thousand bytes, and sends them one a second. No request is large, so no limit of bytes is
//! reached, and each keeps a place of a call for a quarter of an hour.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;
use tonic::codegen::Bytes;

use super::super::case::{Case, Role, Target};
use super::super::wire::{self, Caller};

/// Connections.
const CONNECTIONS: usize = 16;
/// Calls on each.
const CALLS: usize = 250;
/// Length that each message announces.
const ANNOUNCED: usize = 1_000;
/// How long a call may take, as its client says: 24 hours.
const TIMEOUT: &str = "24H";

pub(crate) const CASE: Case = Case {
    name: "dripped-requests",
    does: "opens 4,000 calls that may take a day, and sends a byte of each a second",
    role: Role::Follower,
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

async fn attack(target: Target) -> Result<()> {
    target.together(CONNECTIONS, drip).await
}

async fn drip(target: Target, _: usize) -> Result<()> {
    let caller = Caller::connect(&target, &target.clients).await?;
    let mut open = Vec::new();
    for n in 0..CALLS {
        let path = ["/Example/Add", "/Example/Get", "/Example/Watch"][n % 3];
        let (response, mut sending) = caller.open_for(path, TIMEOUT).await?;
        sending.send_data(wire::announced(ANNOUNCED, &[]), false)?;
        target.count("dripping calls", 1);
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
