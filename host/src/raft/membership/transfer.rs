//! Hands leadership over. Elects no leader itself.
//!
//! openraft never takes a hand-over back: once asked, this leader accepts no more commands. So a
//! target must have answered a moment ago and hold nearly the whole log. When it does not take over
//! in time, the next such voter is asked. After the last one, this node ends its leadership itself
//! and stands for election again, unless it stands back.

use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::VoteRequest;
use tokio::time::sleep;

use super::{Members, MembershipError, Metrics, find_name, leader_node, matched, metrics};
use crate::raft::Raft;
use crate::raft::peers::probe;
use crate::types::{NodeId, Vote};

/// Most entries that a target may lack when it is asked. It waits for them before it stands.
const TARGET_LAG_ENTRIES: u64 = 64;

/// Number of heartbeat intervals within which a target must have acknowledged a heartbeat.
const TARGET_HEARD_INTERVALS: u32 = 2;

/// Time between two looks at a voter whose process may be gone.
const GONE_POLL: Duration = Duration::from_millis(50);

impl Members {
    /// Hands leadership to the voter with the longest log, or to the next one that takes it.
    /// Returns once another node leads.
    pub async fn transfer_leadership(&self) -> Result<(), MembershipError> {
        let _guard = self.0.one_transfer.lock().await;
        let raft = self.raft()?;
        self.hand_over(&raft, |_| true).await
    }

    /// Hands leadership to the named voter and to no other.
    pub async fn transfer_leadership_to(&self, name: &str) -> Result<(), MembershipError> {
        let _guard = self.0.one_transfer.lock().await;
        let raft = self.raft()?;
        let now = metrics(&raft);
        let membership = now.membership_config.membership();
        let target = find_name(membership, name).ok_or_else(|| MembershipError::UnknownServer(name.into()))?;
        if !membership.voter_ids().any(|voter| voter == target) {
            return Err(MembershipError::NotTransferred(format!("{name:?} is not a voter")));
        }
        if now.current_leader == Some(target) {
            return Ok(());
        }
        self.hand_over(&raft, |id| id == target).await
    }

    /// Asks the best target to take over, once, and does not wait until it has: this node's core
    /// may hang at its next vote. A leader that was asked to hand over sends no heartbeats, so
    /// another voter stands even if the target does not.
    pub async fn let_go(&self) -> Result<(), MembershipError> {
        // The holder of the lock is handing over already.
        let Ok(_guard) = self.0.one_transfer.try_lock() else { return Ok(()) };
        let raft = self.raft()?;
        let target = self.await_target(&raft, |_| true).await.ok_or_else(|| no_target(0))?;
        tracing::info!(to = format_args!("{target:016x}"), "handing leadership over");
        let stopped = |error: openraft::errors::Fatal<_>| MembershipError::Stopped(error.to_string());
        raft.trigger().transfer_leader(target).await.map_err(stopped)
    }

    async fn hand_over(&self, raft: &Raft, wanted: impl Fn(NodeId) -> bool) -> Result<(), MembershipError> {
        let me = self.0.me.node_id;
        let (mut tried, mut asked): (Vec<NodeId>, usize) = Default::default();
        loop {
            let now = metrics(raft);
            if now.current_leader != Some(me) {
                return match asked {
                    0 => Err(MembershipError::NotLeader { leader: leader_node(&now) }),
                    _ => self.await_successor(raft, self.0.timeouts.heartbeat, None).await,
                };
            }
            let usable = |id: NodeId| wanted(id) && !tried.contains(&id);
            let target = match asked {
                0 => self.await_target(raft, usable).await,
                // A leader that hands over sends no heartbeats, so older acknowledgements must be
                // enough.
                _ => self.targets(&now, Duration::MAX).into_iter().find(|&id| usable(id)),
            };
            let Some(target) = target else {
                if asked > 0 {
                    self.take_back(raft, tried[tried.len() - 1]).await;
                }
                return Err(no_target(asked));
            };
            tried.push(target);
            if self.refuses(&now, target).await {
                continue;
            }
            asked += 1;
            tracing::info!(to = format_args!("{target:016x}"), "handing leadership over");
            let stopped = |error: openraft::errors::Fatal<_>| MembershipError::Stopped(error.to_string());
            raft.trigger().transfer_leader(target).await.map_err(stopped)?;
            if self.await_successor(raft, self.0.timeouts.election_min(), Some(target)).await.is_ok() {
                return Ok(());
            }
        }
    }

    /// Makes a leader that no voter replaced useful again. openraft never takes a hand-over back:
    /// the leader stays, sends nothing and accepts no commands. So it grants `target` the vote that
    /// `target` should have asked for, as if with a log like ours. This ends the leadership. Then
    /// it stands itself, in the next term. If the target still asks, its log is checked as usual. A
    /// node that stands back leaves the lead to whoever stands next.
    async fn take_back(&self, raft: &Raft, target: NodeId) {
        let last_log_id = raft.data_metrics().borrow_watched().last_log;
        let term = metrics(raft).vote.leader_id.term + 1;
        let request = VoteRequest { vote: Vote::new(term, target), last_log_id, leadership_transfer: true };
        let stands = !self.0.raft.stands_back();
        tracing::warn!(
            term,
            stands,
            "nobody took leadership over; stepping down, and standing again unless this node stands back"
        );
        // An error of either means that the core has stopped, which the watchdog sees.
        if raft.vote(request).await.is_ok() && stands {
            let _ = raft.trigger().elect(true).await;
        }
    }

    /// Waits for the best target. Returns `None` after a whole heartbeat timeout without one, or
    /// when the processes of all other voters are gone.
    async fn await_target(&self, raft: &Raft, usable: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let heard = self.0.timeouts.heartbeat_interval() * TARGET_HEARD_INTERVALS;
        let mut changes = raft.metrics();
        let found = async {
            loop {
                let now = changes.borrow_and_update().clone();
                let target = self.targets(&now, heard).into_iter().find(|&id| usable(id));
                if target.is_some() || now.current_leader != Some(self.0.me.node_id) || changes.changed().await.is_err()
                {
                    return target;
                }
            }
        };
        tokio::select! {
            found = found => found,
            () = sleep(self.0.timeouts.heartbeat) => None,
            () = self.everybody_gone(raft) => None,
        }
    }

    /// Returns the voters that can take over, the longest log first. These are other voters that
    /// answered within `heard` and lack little of the log.
    fn targets(&self, now: &Metrics, heard: Duration) -> Vec<NodeId> {
        let last = now.last_log_index.unwrap_or(0);
        let acknowledged = |id: &NodeId| {
            let at = now.heartbeat.as_ref().and_then(|heartbeats| *heartbeats.get(id)?);
            at.is_some_and(|at| at.elapsed() <= heard)
        };
        let mut targets: Vec<(u64, NodeId)> = now
            .membership_config
            .voter_ids()
            .filter(|id| *id != self.0.me.node_id && acknowledged(id))
            .filter_map(|id| Some((matched(now, id)?, id)))
            .filter(|(index, _)| last.saturating_sub(*index) <= TARGET_LAG_ENTRIES)
            .collect();
        targets.sort_unstable_by(|a, b| b.cmp(a));
        targets.into_iter().map(|(_, id)| id).collect()
    }

    /// Waits up to `limit` for another leader. Fails sooner when the process of `target` is gone
    /// or, without a target, when those of all other voters are.
    async fn await_successor(
        &self,
        raft: &Raft,
        limit: Duration,
        target: Option<NodeId>,
    ) -> Result<(), MembershipError> {
        let me = self.0.me.node_id;
        let succeeded = |metrics: &Metrics| metrics.current_leader.is_some_and(|leader| leader != me);
        let gone = async {
            match target {
                Some(target) => self.gone(raft, |id| id == target).await,
                None => self.everybody_gone(raft).await,
            }
        };
        let failed = |reason: String| Err(MembershipError::NotTransferred(reason));
        let wait = raft.wait(Some(limit));
        tokio::select! {
            found = wait.metrics(succeeded, "another node leads") => match found {
                Ok(_) => Ok(()),
                Err(_) => failed(format!("no other node leads after {limit:?}")),
            },
            () = gone => failed("who was to take over is gone".into()),
        }
    }

    async fn everybody_gone(&self, raft: &Raft) {
        self.gone(raft, |_| true).await;
    }

    /// Completes when nothing listens any more at the peer ports of those voters, except this node.
    async fn gone(&self, raft: &Raft, which: impl Fn(NodeId) -> bool) {
        loop {
            let now = metrics(raft);
            let mut all_gone = true;
            for id in now.membership_config.voter_ids().filter(|id| *id != self.0.me.node_id && which(*id)) {
                all_gone = all_gone && self.refuses(&now, id).await;
            }
            if all_gone {
                return;
            }
            sleep(GONE_POLL).await;
        }
    }

    async fn refuses(&self, now: &Metrics, id: NodeId) -> bool {
        match now.membership_config.get_node(&id) {
            Some(node) => probe::refuses(&node.raft_addr, self.0.timeouts.probe()).await,
            None => true,
        }
    }
}

fn no_target(asked: usize) -> MembershipError {
    MembershipError::NotTransferred(match asked {
        0 => "no voter that could take over answers and has the whole log".into(),
        _ => format!(
            "{asked} voters were asked and none took over in time; this node stepped down, and stands for election again if it may"
        ),
    })
}
