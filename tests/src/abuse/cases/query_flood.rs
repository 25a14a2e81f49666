//! A flood of queries. On 64 connections the attacker asks queries that compute until all their
//! fuel is gone, four at a time on each. They take every query thread, and whatever else shares the
//! processors or a queue with them.

use anyhow::Result;
use prost::Message;

use super::super::case::{Case, Guest, Promised, Role, Target};
use super::super::wire::{self, Caller};
use crate::misbehaving_pb::{Deed, What};

/// Connections.
const CONNECTIONS: usize = 64;
/// Queries at the same time on each.
const QUERIES: usize = 4;

pub(crate) const CASE: Case = Case {
    name: "query-flood",
    does: "asks queries that use all their fuel, on 64 connections",
    role: Role::Leader,
    promised: Promised::Commands,
    guest: Guest::Misbehaving,
    attack: |target| Box::pin(attack(target)),
    ..Case::PLAIN
};

async fn attack(target: Target) -> Result<()> {
    target.together(CONNECTIONS, ask_for_long).await
}

async fn ask_for_long(target: Target, _: usize) -> Result<()> {
    let caller = Caller::connect(&target, &target.clients).await?;
    let query = wire::message(&Deed { what: What::Loop.into(), ..Deed::default() }.encode_to_vec());
    let each = |_| {
        let (caller, target, query) = (caller.clone(), target.clone(), query.clone());
        async move {
            while target.goes_on() {
                target.count("queries", 1);
                caller.call("/misbehaving.Misbehaving/Ask", query.clone()).await?;
            }
            anyhow::Ok(())
        }
    };
    wire::all((0..QUERIES).map(each)).await
}
