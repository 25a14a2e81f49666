//! A flood of bad tokens. The attacker calls with tokens that are noise, that are signed by nobody
//! (`alg: none`), or whose signature is wrong. The node has to verify each signature, refuse the
//! call, and tell of it. It is given a key that it trusts and a policy, so that it looks at tokens.

use anyhow::Result;
use prost::Message;

use super::super::case::{Case, Role, Target};
use super::super::wire::{self, Caller};
use crate::pb::GetRequest;

/// Connections.
const CONNECTIONS: usize = 16;
/// Tokens: two that say who they are, and one that is nothing. The second has the name of the key
/// that the node trusts (`k`), and a signature of the right length.
const TOKENS: [&str; 3] = [
    "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6NDEwMjQ0NDgwMH0.",
    "eyJhbGciOiJFZERTQSIsImtpZCI6ImsifQ.eyJzdWIiOiJhbGljZSIsImV4cCI6NDEwMjQ0NDgwMH0.\
     AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "not.a.token",
];

pub(crate) const CASE: Case = Case {
    name: "bad-tokens",
    does: "calls with forged tokens as fast as it can, on 16 connections",
    role: Role::Follower,
    verifies_tokens: true,
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

async fn attack(target: Target) -> Result<()> {
    target.together(CONNECTIONS, call_with_bad_tokens).await
}

async fn call_with_bad_tokens(target: Target, _: usize) -> Result<()> {
    let caller = Caller::connect(&target, &target.clients).await?;
    let get = wire::message(&GetRequest { key: "k".into(), linearizable: true }.encode_to_vec());
    for token in TOKENS.iter().cycle().take_while(|_| target.goes_on()) {
        caller.call_as(token, "/Example/Get", get.clone()).await?;
        target.count("bad tokens", 1);
    }
    Ok(())
}
