//! Replies that nobody takes. The attacker asks 4,000 times for a value of 256 KiB and says, as
//! HTTP/2 allows, that it has no room for the answers. All of them wait in the node.

use anyhow::Result;
use prost::Message;
use tokio::io::AsyncWriteExt;

use super::super::case::{Case, Role, Target, large_key};
use super::super::wire::{self, INITIAL_WINDOW_SIZE, call};
use crate::pb::GetRequest;

/// Connections.
const CONNECTIONS: usize = 20;
/// Calls on each.
const CALLS: u32 = 200;

pub(crate) const CASE: Case = Case {
    name: "untaken-replies",
    does: "asks 4,000 times for 256 KiB and has no window for the answers",
    role: Role::Leader,
    large_values: 1,
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

async fn attack(target: Target) -> Result<()> {
    target.together(CONNECTIONS, ask_and_take_nothing).await
}

async fn ask_and_take_nothing(target: Target, _: usize) -> Result<()> {
    let io = wire::connect(&target.clients).await?;
    let mut connection = wire::speak_http2(io, &[(INITIAL_WINDOW_SIZE, 0)]).await?;
    let request = GetRequest { key: large_key(0), linearizable: false }.encode_to_vec();
    for n in 0..CALLS {
        connection.io.write_all(&call(2 * n + 1, "/Example/Get", &request)).await?;
        target.count("untaken replies", 1);
    }
    wire::read_all(&mut connection.io).await
}
