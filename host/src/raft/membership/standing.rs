//! Decides whether a node belongs to the cluster: how a member tells a removed node, and how the
//! removed node finds out. Removes and stops no node; `group` decides what a removed node does.
//!
//! Raft sends nothing to a node from the moment it is removed, so the node never sees the entry
//! that removed it.
//!
//! - A member says "removed at entry i" only of a node that is neither in the member's committed
//!   configuration, which is of entry i, nor in a newer one in its log.
//! - A node believes that when i is beyond the configuration that it knows itself. Configurations
//!   are ordered by index, so the other one is newer. A later configuration that contains the node
//!   again ends the removal.
//! - A node that hears no leader asks the others. A node that forwards a command or stands for
//!   election is told at once.

use std::future::Future;
use std::time::Duration;

use futures::future::join_all;
use lockstep_proto::peer::StandingRequest;
use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, timeout};

use crate::raft::Raft;
use crate::raft::peers::link::{Lane, Links};
use crate::types::{Addresses, NodeId, StoredMembership};

/// Longest wait for Raft's core to say when it heard a leader. A busy core does not mean a silent
/// leader.
const CORE_TIMEOUT: Duration = Duration::from_millis(500);

/// Returns the index of this member's committed configuration if `id` was removed. That is: neither
/// it nor a newer configuration has the node.
pub(in crate::raft) fn removed_at(raft: &Raft, id: NodeId) -> Option<u64> {
    let metrics = raft.metrics();
    let now = metrics.borrow_watched();
    let committed = &now.committed_membership_config;
    let index = committed.log_id().as_ref()?.index;
    let known = [committed, &now.membership_config].into_iter().any(|config| holds(config, id));
    (!known).then_some(index)
}

fn holds(configuration: &StoredMembership, id: NodeId) -> bool {
    configuration.membership().get_node(&id).is_some()
}

/// Follows whether this node belongs to its cluster.
pub struct Standing {
    raft: Raft,
    links: Links,
    silence: Duration,
}

/// What a node knows of its own membership.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// The newest configuration in its own log.
    index: Option<u64>,
    /// Whether it is in that configuration, or in the committed one.
    is_member: bool,
    /// Whether this process has seen it in one.
    was_member: bool,
}

impl Place {
    /// Returns the index of a configuration without this node, if the node was removed. A joiner
    /// that reads the history before it was added is not removed.
    fn removed_at(self, told: Option<u64>) -> Option<u64> {
        match self.is_member {
            true => told.filter(|told| Some(*told) > self.index),
            false if self.was_member => told.max(self.index),
            false => told,
        }
    }
}

impl Standing {
    /// Returns a watch of this node's removal and the task that keeps it up to date. The watch
    /// holds the index of a configuration without this node. `silence`: how long no leader is heard
    /// before the others are asked.
    pub fn start(
        raft: Raft,
        links: Links,
        silence: Duration,
    ) -> (watch::Receiver<Option<u64>>, impl Future<Output = ()> + Send) {
        let (sender, removed) = watch::channel(None);
        let standing = Standing { raft, links, silence };
        (removed, standing.run(sender))
    }

    async fn run(self, removed: watch::Sender<Option<u64>>) {
        let mut metrics = self.raft.server_metrics();
        let mut told = self.links.cluster().removals();
        let mut doubts = self.links.cluster().processes().doubts();
        let mut ask = tokio::time::interval(self.silence);
        ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut place = Place::default();
        loop {
            place = self.look(place);
            let verdict = place.removed_at(*told.borrow_and_update());
            removed.send_if_modified(|known| std::mem::replace(known, verdict) != verdict);
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() { return },
                // The sender lives as long as the links.
                _ = told.changed() => {}
                // This sender lives as long as the links, too. A member that refuses this process
                // says so in its answer.
                _ = doubts.changed() => self.ask_others().await,
                _ = ask.tick() => if verdict.is_none() && self.hears_nobody().await { self.ask_others().await },
            }
        }
    }

    fn look(&self, before: Place) -> Place {
        let me = self.links.me();
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        let is_member = holds(&now.membership_config, me) || holds(&now.committed_membership_config, me);
        let index = now.membership_config.log_id().as_ref().map(|log_id| log_id.index);
        Place { index, is_member, was_member: before.was_member || is_member }
    }

    /// Returns whether no leader was heard lately. openraft touches the vote at each message of a
    /// leader.
    async fn hears_nobody(&self) -> bool {
        if self.raft.is_leader() {
            return false;
        }
        let asked = self.raft.with_raft_state(|state| state.vote_last_modified());
        match timeout(CORE_TIMEOUT, asked).await {
            Ok(Ok(heard)) => heard.is_none_or(|at| at.elapsed() > self.silence),
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// Asks all other nodes at the same time, each for as long as `silence`. Any of them may know.
    async fn ask_others(&self) {
        let me = self.links.me();
        let others: Vec<(NodeId, Addresses)> = {
            let metrics = self.raft.metrics();
            let now = metrics.borrow_watched();
            let nodes = now.membership_config.membership().nodes().filter(|(id, _)| **id != me);
            nodes.map(|(id, node)| (*id, node.clone())).collect()
        };
        let asked = others.iter().map(|(id, node)| timeout(self.silence, self.ask(*id, node)));
        for index in join_all(asked).await.into_iter().filter_map(|answer| answer.ok().flatten()) {
            self.links.cluster().told_removed(index);
        }
    }

    async fn ask(&self, id: NodeId, node: &Addresses) -> Option<u64> {
        let route = self.links.cluster().route(self.links.me(), id);
        let mut client = self.links.to(id, node, Lane::Control).client().ok()?;
        match client.standing(StandingRequest { route }).await {
            Ok(answer) => answer.into_inner().removed_at,
            Err(status) => {
                self.links.cluster().note(&status);
                tracing::debug!(peer = %node, error = status.message(), "a peer does not say whether this node belongs");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBER: Place = Place { index: Some(10), is_member: true, was_member: true };

    #[test]
    fn a_member_believes_what_is_newer_than_what_it_knows() {
        assert_eq!(MEMBER.removed_at(None), None);
        assert_eq!(MEMBER.removed_at(Some(11)), Some(11));
        assert_eq!(MEMBER.removed_at(Some(10)), None);
        assert_eq!(MEMBER.removed_at(Some(9)), None, "a peer that lags behind, or this node was added again");
    }

    #[test]
    fn who_leads_its_own_removal_knows_it_without_being_told() {
        let gone = Place { index: Some(12), is_member: false, was_member: true };
        assert_eq!(gone.removed_at(None), Some(12));
        assert_eq!(gone.removed_at(Some(11)), Some(12));
    }

    #[test]
    fn a_joiner_that_reads_the_history_before_it_is_not_removed() {
        let joiner = Place { index: Some(3), is_member: false, was_member: false };
        assert_eq!(joiner.removed_at(None), None);
        assert_eq!(joiner.removed_at(Some(5)), Some(5), "taken out again before it caught up");
    }
}
