//! Knows when each peer last accepted this node as leader, for the linearizable reads of one group.
//! It counts by this node's own times of sending. Sends nothing, and reads no log.
//!
//! - An answer counts as of the time at which its request was sent, so a late answer proves nothing
//!   about a time after that.
//! - Only answers of one term count together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::types::NodeId;

/// The acknowledgements of one group's peers. Clones share them.
#[derive(Clone, Default)]
pub struct Acks(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// The last term in which a peer accepted this node, and when the request was sent.
    of: Mutex<BTreeMap<NodeId, (u64, Instant)>>,
    news: Notify,
}

impl Acks {
    /// Notes that a peer accepted this node as the leader of `term`, in its answer to a request
    /// that was sent at `sent`. An answer that is older than what is known changes nothing.
    pub fn accepted(&self, by: NodeId, term: u64, sent: Instant) {
        let mut of = self.0.of.lock();
        let last = of.entry(by).or_insert((term, sent));
        *last = (*last).max((term, sent));
        drop(of);
        self.0.news.notify_waiters();
    }

    /// Waits until a quorum of every config has accepted `me` as the leader of `term`, in answers
    /// to requests sent at `since` or later. Never completes if `me` no longer leads in that term:
    /// the caller limits the time.
    pub async fn quorum(&self, me: NodeId, term: u64, since: Instant, configs: &[BTreeSet<NodeId>]) {
        loop {
            // Begun before the look, so that it misses nothing.
            let news = self.0.news.notified();
            if self.has_quorum(me, term, since, configs) {
                return;
            }
            news.await;
        }
    }

    fn has_quorum(&self, me: NodeId, term: u64, since: Instant, configs: &[BTreeSet<NodeId>]) -> bool {
        let mut of = self.0.of.lock();
        // A read that knows a later membership may wait for the answer of a new member.
        of.retain(|node, (_, sent)| *sent >= since || configs.iter().any(|voters| voters.contains(node)));
        let accepts = |node: &NodeId| {
            *node == me || of.get(node).is_some_and(|(of_term, sent)| *of_term == term && *sent >= since)
        };
        let agrees = |voters: &BTreeSet<NodeId>| voters.iter().filter(|node| accepts(node)).count() > voters.len() / 2;
        !configs.is_empty() && configs.iter().all(agrees)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;

    const ME: NodeId = 1;
    const TERM: u64 = 7;

    fn voters(nodes: impl IntoIterator<Item = NodeId>) -> BTreeSet<NodeId> {
        nodes.into_iter().collect()
    }

    /// Returns a time, and the moments before and after it.
    fn times() -> (Instant, Instant, Instant) {
        let before = Instant::now();
        let moment = Duration::from_millis(1);
        (before, before + moment, before + 2 * moment)
    }

    fn has_quorum(acks: &Acks, since: Instant, configs: &[BTreeSet<NodeId>]) -> bool {
        acks.quorum(ME, TERM, since, configs).now_or_never().is_some()
    }

    /// openraft credits a late answer with the time of a request that was sent after it. A read
    /// that began in between was confirmed by an answer from before it.
    #[test]
    fn a_late_answer_to_an_earlier_request_confirms_no_read() {
        let (acks, configs, (before, since, after)) = (Acks::default(), [voters(1..=3)], times());
        let mut read = Box::pin(acks.quorum(ME, TERM, since, &configs));
        assert!(read.as_mut().now_or_never().is_none());
        acks.accepted(2, TERM, before);
        acks.accepted(3, TERM, before);
        assert!(read.as_mut().now_or_never().is_none(), "both were sent before the read began");
        acks.accepted(3, TERM, after);
        assert!(read.now_or_never().is_some());
    }

    #[test]
    fn an_answer_that_came_before_the_wait_counts_by_the_time_of_its_request() {
        let (acks, configs, (before, since, after)) = (Acks::default(), [voters(1..=3)], times());
        acks.accepted(2, TERM, after);
        acks.accepted(2, TERM, before);
        assert!(has_quorum(&acks, since, &configs), "the earlier one takes nothing away");
    }

    #[test]
    fn each_config_of_a_joint_one_needs_its_own_quorum() {
        let (acks, (_, since, _)) = (Acks::default(), times());
        let configs = [voters(1..=3), voters(3..=5)];
        acks.accepted(2, TERM, since);
        acks.accepted(4, TERM, since);
        assert!(!has_quorum(&acks, since, &configs), "one of three in the second");
        acks.accepted(5, TERM, since);
        assert!(has_quorum(&acks, since, &configs), "a leader may be in one of them only");
    }

    #[test]
    fn half_of_the_voters_are_no_quorum_and_a_learner_is_no_voter() {
        let (acks, configs, (_, since, _)) = (Acks::default(), [voters(1..=4)], times());
        acks.accepted(2, TERM, since);
        acks.accepted(9, TERM, since);
        assert!(!has_quorum(&acks, since, &configs));
        acks.accepted(3, TERM, since);
        assert!(has_quorum(&acks, since, &configs));
    }

    #[test]
    fn answers_of_another_term_do_not_count() {
        let (acks, configs, (_, since, after)) = (Acks::default(), [voters(1..=3)], times());
        for term in [TERM - 1, TERM + 1] {
            acks.accepted(2, term, after);
            assert!(!has_quorum(&acks, since, &configs), "term {term}");
        }
    }

    #[test]
    fn the_only_voter_needs_nobody_and_no_config_has_no_quorum() {
        let (acks, (_, since, _)) = (Acks::default(), times());
        assert!(has_quorum(&acks, since, &[voters([ME])]));
        assert!(!has_quorum(&acks, since, &[]));
    }

    #[test]
    fn members_that_left_are_forgotten() {
        let (acks, configs, (before, since, _)) = (Acks::default(), [voters(1..=3)], times());
        for node in 2..=9 {
            acks.accepted(node, TERM, before);
        }
        assert!(!has_quorum(&acks, since, &configs));
        assert_eq!(acks.0.of.lock().keys().copied().collect::<Vec<_>>(), [2, 3]);
    }
}
