//! Finds out which node is right when the states of two nodes differ: asks every voter for its hash
//! at that entry. Quarantines no node: `group` acts on the finding.
//!
//! - The state of a majority of the voters is right. A node with another state is in the minority,
//!   whoever leads.
//! - Without a majority nobody knows which state is right. Each node that finds this out stops
//!   serving.
//! - A voter abstains if it does not answer or no longer knows its hash at that entry. While
//!   abstaining voters could decide, all voters are asked again.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use lockstep_proto::peer::StateHashRequest;
use openraft::async_runtime::WatchReceiver;
use tokio::time::{sleep, timeout};

use super::peers::link::{Lane, Links};
use crate::machine::{Doubt, Machine};
use crate::raft::Raft;
use crate::types::{Addresses, NodeId};

/// Longest wait for one voter's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause before all voters are asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Number of rounds after which an undecided doubt is given up. The next entry raises another one.
const ROUNDS_MAX: u32 = 20;

/// Asks the voters when there is a doubt.
#[derive(Clone)]
pub struct Inquiry {
    raft: Raft,
    links: Links,
    machine: Machine,
}

/// The reason why a node must no longer serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// The entry after which the node's state was found to differ.
    pub index: u64,
    /// A text for operators.
    pub reason: String,
}

/// The result of the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    /// A majority has this node's state.
    Majority,
    /// A majority has the state with this hash instead.
    Minority(u64),
    /// No state has a majority, and none can get one.
    Split,
    /// The voters that abstained could decide.
    Open,
}

/// Judges the answers. `ours` counts only if this node votes; `others` are the other voters'
/// answers.
fn judge(ours: u64, votes: bool, others: &[Option<u64>]) -> Finding {
    let quorum = (others.len() + usize::from(votes)) / 2 + 1;
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for hash in others.iter().flatten().chain(votes.then_some(&ours)) {
        *counts.entry(*hash).or_default() += 1;
    }
    let abstained = others.iter().filter(|answer| answer.is_none()).count();
    match counts.iter().max_by_key(|(_, count)| **count) {
        Some((hash, count)) if *count >= quorum => match *hash == ours {
            true => Finding::Majority,
            false => Finding::Minority(*hash),
        },
        most if most.map_or(0, |(_, count)| *count) + abstained < quorum => Finding::Split,
        _ => Finding::Open,
    }
}

impl Inquiry {
    /// Creates an inquiry. It asks nobody yet.
    pub fn new(raft: Raft, links: Links, machine: Machine) -> Inquiry {
        Inquiry { raft, links, machine }
    }

    /// Returns the index and the reason for operators when this node must no longer serve.
    /// Otherwise runs as long as the machine.
    pub async fn run(self) -> Divergence {
        let mut doubts = self.machine.doubts();
        loop {
            let doubt = *doubts.borrow_and_update();
            if let Some(doubt) = doubt
                && let Some(reason) = self.decide(doubt).await
            {
                return Divergence { index: doubt.index, reason };
            }
            if doubts.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn decide(&self, doubt: Doubt) -> Option<String> {
        let Doubt { index, ours, theirs } = doubt;
        tracing::error!(
            index,
            ours = format!("{ours:016x}"),
            theirs = format!("{theirs:016x}"),
            "the state of this node and of another one differ; asking every voter"
        );
        for _ in 0..ROUNDS_MAX {
            let (votes, others) = self.voters();
            let answers = join_all(others.iter().map(|(id, node)| self.ask(*id, node, doubt))).await;
            match judge(ours, votes, &answers) {
                Finding::Majority => {
                    tracing::error!(index, "a majority of the voters has the state that this node has");
                    return None;
                }
                Finding::Minority(hash) => {
                    return Some(format!(
                        "after entry {index} the hash of this node's state is {ours:016x}, and a majority of the voters has {hash:016x}: \
                         this node has another state than the cluster, and serves nothing any more. Its directory is the evidence: keep a \
                         copy. Then `lockstep admin <its grpc_addr> resync` makes it anew from another node"
                    ));
                }
                Finding::Split => {
                    return Some(format!(
                        "after entry {index} no majority of the voters has the same state (here its hash is {ours:016x}): nobody knows \
                         which one is right, and this node serves nothing any more. Keep copies of the directories of all nodes; then \
                         restore a backup"
                    ));
                }
                Finding::Open => sleep(ASK_AGAIN).await,
            }
        }
        tracing::error!(index, "too few voters said what state they have; nothing is decided");
        None
    }

    /// Returns whether this node votes, and the other voters.
    fn voters(&self) -> (bool, Vec<(NodeId, Addresses)>) {
        let me = self.links.me();
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        let membership = now.membership_config.membership();
        let voters: Vec<NodeId> = membership.voter_ids().collect();
        let node = |id: &NodeId| membership.get_node(id).map(|node| (*id, node.clone()));
        (voters.contains(&me), voters.iter().filter(|id| **id != me).filter_map(node).collect())
    }

    async fn ask(&self, id: NodeId, node: &Addresses, doubt: Doubt) -> Option<u64> {
        let route = self.links.cluster().route(self.links.me(), id);
        let mut client = self.links.to(id, node, Lane::Control).client().ok()?;
        let asked = client.state_hash(StateHashRequest { route, index: doubt.index, hash: doubt.ours });
        match timeout(ANSWER_TIMEOUT, asked).await {
            Ok(Ok(answer)) => {
                self.links.cluster().processes().answered(id, answer.metadata()).ok()?;
                answer.into_inner().hash
            }
            Ok(Err(status)) => {
                self.links.cluster().note(&status);
                tracing::warn!(peer = %node, error = status.message(), "a voter does not say what state it has");
                None
            }
            Err(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_of_all_voters_decides() {
        let rows: &[(u64, bool, &[Option<u64>], Finding)] = &[
            (1, true, &[Some(1), Some(2)], Finding::Majority),
            (2, true, &[Some(1), Some(1)], Finding::Minority(1)),
            (2, true, &[Some(1), None], Finding::Open),
            (2, true, &[Some(1), Some(3)], Finding::Split),
            (2, true, &[None, None], Finding::Open),
            (2, true, &[Some(1)], Finding::Split),
            (2, true, &[Some(1), Some(1), None, None], Finding::Open),
            (2, true, &[Some(1), Some(1), Some(1), None], Finding::Minority(1)),
            (2, true, &[Some(2), Some(1), Some(1), Some(2)], Finding::Majority),
            // A learner has no vote.
            (2, false, &[Some(1), Some(1), None], Finding::Minority(1)),
            (2, false, &[Some(1), Some(2), None], Finding::Open),
            (1, true, &[], Finding::Majority),
        ];
        for (ours, votes, others, finding) in rows {
            assert_eq!(judge(*ours, *votes, others), *finding, "{ours} {votes} {others:?}");
        }
    }
}
