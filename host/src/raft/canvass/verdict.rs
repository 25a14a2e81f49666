//! From what the voters say of themselves to who stands, and when. Pure: no clock, no network.

use std::collections::BTreeSet;

use crate::types::{LogId, NodeId, Vote};

/// What one voter says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opinion {
    /// Who.
    pub node: NodeId,
    /// Its vote, flushed.
    pub vote: Vote,
    /// Its last log id.
    pub last: Option<LogId>,
    /// It leads nobody, the leader of its vote streams nothing to it, and it has just found that leader's process gone.
    pub leaderless: bool,
}

/// What a round of questions comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This node has no part in it: it hears the leader, or has no vote.
    Wait,
    /// No quorum agrees: the ordinary timer decides.
    NoQuorum,
    /// A quorum holds the same leader's vote and finds that leader gone: replace it, lease or not, when `rank` others had their turn.
    TakeOver(u32),
    /// A quorum has no leader, some of it since a restart: stand, asking first, when `rank` others had their turn.
    Stand(u32),
}

/// Who leads under this vote, if that is another node than `me`.
pub fn leader_of(vote: &Vote, me: NodeId) -> Option<NodeId> {
    Some(vote.leader_id.node_id).filter(|leader| vote.committed && *leader != me)
}

/// `configs`: the voters, two sets while the configuration is joint. `starting`: this process has heard no leader yet.
pub fn verdict(me: &Opinion, others: &[Opinion], configs: &[BTreeSet<NodeId>], starting: bool) -> Verdict {
    let votes = |node: NodeId| configs.iter().any(|config| config.contains(&node));
    if !me.leaderless || !votes(me.node) {
        return Verdict::Wait;
    }
    let all = std::iter::once(me).chain(others.iter().filter(|other| other.leaderless && votes(other.node)));
    let same: Vec<&Opinion> = all.clone().filter(|opinion| opinion.vote == me.vote).collect();
    if let Some(leader) = leader_of(&me.vote, me.node)
        && is_quorum(&same, configs)
    {
        // The leader itself, started again, agrees that it does not lead; it is not among those that can replace it.
        return Verdict::TakeOver(rank(me, same.into_iter().filter(|opinion| opinion.node != leader)));
    }
    let all: Vec<&Opinion> = all.collect();
    match starting && is_quorum(&all, configs) {
        true => Verdict::Stand(rank(me, all.into_iter())),
        false => Verdict::NoQuorum,
    }
}

fn is_quorum(agreeing: &[&Opinion], configs: &[BTreeSet<NodeId>]) -> bool {
    let agrees = |node: &&NodeId| agreeing.iter().any(|opinion| opinion.node == **node);
    let majority = |config: &BTreeSet<NodeId>| config.iter().filter(agrees).count() > config.len() / 2;
    !configs.is_empty() && configs.iter().all(majority)
}

/// 0 for the one with the greatest log, which the others can all vote for; the rest follow in the order of their ids.
fn rank<'a>(me: &Opinion, candidates: impl Iterator<Item = &'a Opinion> + Clone) -> u32 {
    let best = candidates.clone().max_by_key(|opinion| (opinion.last, opinion.node)).map_or(me.node, |best| best.node);
    match best == me.node {
        true => 0,
        false => 1 + candidates.filter(|other| other.node != best && other.node < me.node).count() as u32,
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
