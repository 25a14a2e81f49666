//! Decides from the voters' opinions who stands for election, and when. Pure: no clock, no network.

use std::collections::BTreeSet;

use crate::types::{LogId, NodeId, Vote};

/// What one voter says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opinion {
    /// The voter.
    pub node: NodeId,
    /// Its vote, flushed.
    pub vote: Vote,
    /// Its last log id.
    pub last: Option<LogId>,
    /// It does not lead, the leader of its vote has no stream to it, and its probe has just found
    /// that leader's process gone.
    pub leaderless: bool,
}

/// The result of a round of questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// This node takes no part: it hears the leader, or has no vote.
    Wait,
    /// No quorum agrees: the ordinary timer decides.
    NoQuorum,
    /// A quorum holds the same leader's vote and finds that leader gone. Replace it, even if its
    /// lease still holds, after `rank` other voters have had their turn.
    TakeOver(u32),
    /// A quorum has no leader, and some of its voters have just restarted. Stand with a pre-vote
    /// after `rank` other voters have had their turn.
    Stand(u32),
}

/// Returns the leader under this vote, if it is another node than `me`.
pub fn leader_of(vote: &Vote, me: NodeId) -> Option<NodeId> {
    Some(vote.leader_id.node_id).filter(|leader| vote.committed && *leader != me)
}

/// Decides what this node does. `configs` holds the voters: one set, or two while the configuration
/// is joint. `starting` means that this process has heard no leader yet.
pub fn verdict(me: &Opinion, others: &[Opinion], configs: &[BTreeSet<NodeId>], starting: bool) -> Decision {
    let votes = |node: NodeId| configs.iter().any(|config| config.contains(&node));
    if !me.leaderless || !votes(me.node) {
        return Decision::Wait;
    }
    let all = std::iter::once(me).chain(others.iter().filter(|other| other.leaderless && votes(other.node)));
    let same: Vec<&Opinion> = all.clone().filter(|opinion| opinion.vote == me.vote).collect();
    if let Some(leader) = leader_of(&me.vote, me.node)
        && is_quorum(&same, configs)
    {
        // The leader itself may have restarted and agree that it does not lead. It is not among the
        // candidates to replace it.
        return Decision::TakeOver(rank(me, same.into_iter().filter(|opinion| opinion.node != leader)));
    }
    let all: Vec<&Opinion> = all.collect();
    match starting && is_quorum(&all, configs) {
        true => Decision::Stand(rank(me, all.into_iter())),
        false => Decision::NoQuorum,
    }
}

fn is_quorum(agreeing: &[&Opinion], configs: &[BTreeSet<NodeId>]) -> bool {
    let agrees = |node: &&NodeId| agreeing.iter().any(|opinion| opinion.node == **node);
    let majority = |config: &BTreeSet<NodeId>| config.iter().filter(agrees).count() > config.len() / 2;
    !configs.is_empty() && configs.iter().all(majority)
}

/// Returns this node's place in the order of turns. Place 0 has the voter with the greatest log,
/// for which all others can vote. The rest follow in the order of their ids.
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
