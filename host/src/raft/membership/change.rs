//! Makes one change of the configuration, from its turn until its entry is applied. Does not decide
//! who joins or leaves; `membership` does.
//!
//! A change of one voter is one entry: the old and the new majorities share a node, so no
//! intermediate configuration is needed. A log can still hold the joint configuration that other
//! kinds of change need. A leader that finds one finishes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::ClientWriteResponse;
use openraft::{ChangeMembers, EntryPayload, Precondition};

use super::error::refusal;
use super::{Changes, Members, MembershipError, Metrics, configuration_index, find_name, leader_node, metrics};
use crate::raft::Raft;
use crate::types::{CommittedLeaderId, Membership, NodeId, TypeConfig};

/// Longest time for one configuration entry, from proposal to applied.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest wait for another change. A change that adds a voter takes as long as its snapshot.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause before a joint configuration that could not be finished is tried again.
const FINISH_PAUSE: Duration = Duration::from_secs(1);

type Moment = openraft::alias::InstantOf<TypeConfig>;

type WriteError = RaftError<TypeConfig, ClientWriteError<TypeConfig>>;

impl Members {
    /// Waits for its turn and finishes a joint configuration that was left behind. Checks that this
    /// node leads and that `previous_index` holds.
    pub(super) async fn begin(&self, previous_index: u64) -> Result<Change<'_>, MembershipError> {
        let turn = tokio::time::timeout(TURN_TIMEOUT, self.0.one_change.lock()).await;
        let guard = turn.map_err(|_| MembershipError::Busy(TURN_TIMEOUT))?;
        let raft = self.raft()?;
        let settled = self.settle(&raft).await?;
        let found = configuration_index(&settled);
        if previous_index != 0 && found > previous_index {
            return Err(MembershipError::ConfigurationChanged { expected: previous_index, found });
        }
        let known = AtomicU64::new(found);
        let mut change = Change { members: self, raft, start: settled, known, _guard: guard };
        if is_joint(&change.start) {
            tracing::warn!("finishing a joint configuration that was left behind");
            // A node that loses its vote stays as a learner: the log does not say whether it was to
            // be removed.
            change.apply(ChangeMembers::AddVoterIds(BTreeSet::new()), true).await?;
            change.start = self.settle(&change.raft).await?;
            change.made(configuration_index(&change.start));
        }
        Ok(change)
    }

    /// Finishes the joint configurations that crashes left behind. It does so while this node
    /// leads, whichever leader left them. Runs beside everything else; ends with Raft.
    pub async fn finish_changes(&self) {
        let Some(raft) = self.0.raft.get() else { return };
        let mut changes = raft.server_metrics();
        loop {
            let now = metrics(&raft);
            if now.current_leader == Some(self.0.me.node_id) && is_joint(&now) {
                // A change that is under way holds the turn. When it ends, there is nothing left to
                // finish.
                if let Err(error) = self.begin(0).await.map(drop) {
                    tracing::warn!(%error, "a joint configuration is not finished yet");
                    tokio::time::sleep(FINISH_PAUSE).await;
                }
                continue;
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Returns the metrics once there is a leader, or after the time that an election may take.
    /// Scripts call this right after they have started a cluster.
    async fn leader_known(&self, raft: &Raft) -> Metrics {
        let known = |metrics: &Metrics| metrics.current_leader.is_some();
        match raft.wait(Some(self.0.timeouts.election)).metrics(known, "somebody leads").await {
            Ok(metrics) => metrics,
            Err(_) => metrics(raft),
        }
    }

    /// Waits until this node, as leader, has a settled configuration. The configuration in force
    /// and an entry of its own term are then committed.
    async fn settle(&self, raft: &Raft) -> Result<Metrics, MembershipError> {
        let me = self.0.me.node_id;
        let now = self.leader_known(raft).await;
        if now.current_leader != Some(me) {
            return Err(MembershipError::NotLeader { leader: leader_node(&now) });
        }
        let settled = |metrics: &Metrics| {
            let own_term = metrics.local_committed.is_some_and(|id| id.leader_id.term == metrics.current_term);
            let committed = metrics.membership_config.log_id() == metrics.committed_membership_config.log_id();
            metrics.current_leader != Some(me) || (own_term && committed)
        };
        let metrics =
            raft.wait(Some(CHANGE_TIMEOUT)).metrics(settled, "the configuration in force is committed").await.map_err(
                |_| {
                    MembershipError::Refused(
                        "the configuration in force is not committed: more than half of its voters must answer. Start them again; \
                         when they are lost for good, see `lockstep recover --help`"
                            .into(),
                    )
                },
            )?;
        match metrics.current_leader == Some(me) {
            true => Ok(metrics),
            false => Err(MembershipError::NotLeader { leader: leader_node(&metrics) }),
        }
    }
}

/// One change under way. No other change starts until it is dropped.
pub(super) struct Change<'a> {
    members: &'a Members,
    pub(super) raft: Arc<Raft>,
    start: Metrics,
    /// The index of the configuration that this change began with, or last made itself.
    known: AtomicU64,
    _guard: tokio::sync::MutexGuard<'a, ()>,
}

impl Change<'_> {
    pub(super) fn membership(&self) -> &Membership {
        self.start.membership_config.membership()
    }

    pub(super) fn index(&self) -> u64 {
        configuration_index(&self.start)
    }

    pub(super) fn is_voter(&self, id: NodeId) -> bool {
        self.membership().voter_ids().any(|voter| voter == id)
    }

    pub(super) fn by_name(&self, name: &str) -> Result<NodeId, MembershipError> {
        find_name(self.membership(), name).ok_or_else(|| MembershipError::UnknownServer(name.into()))
    }

    /// Makes `voter` a voter, or takes its vote, in one entry. `retain`: a node that loses its vote
    /// stays as a learner. Returns the index of the configuration once it is applied here.
    pub(super) async fn set_voter(&self, voter: NodeId, votes: bool, retain: bool) -> Result<u64, MembershipError> {
        crate::faults::point_beside("membership-caught-up").await;
        let now = self.look_again().await?;
        let before = now.membership_config.membership();
        let mut voters: BTreeSet<NodeId> = before.voter_ids().collect();
        match votes {
            true => voters.insert(voter),
            false => voters.remove(&voter),
        };
        if voters.is_empty() {
            return Err(MembershipError::LastVoter);
        }
        let stays = |id: NodeId| votes || retain || id != voter;
        let nodes = before.nodes().filter(|(id, _)| stays(**id)).map(|(id, node)| (*id, node.clone()));
        let after = Membership::new(vec![voters], nodes.collect::<BTreeMap<_, _>>())
            .map_err(|error| MembershipError::Refused(error.to_string()))?;
        self.quorum_answers(&after).await?;
        crate::faults::point("membership-before-voters");
        let conditions = [unchanged(&now), still_leads(&now)];
        let change = self.raft.append_membership(after, EntryPayload::Blank, conditions);
        let index = self.made(bounded(change).await?);
        crate::faults::point("membership-after-voters");
        Ok(index)
    }

    /// Looks at the configuration again. The metrics of [`Members::begin`] may be minutes old, and
    /// this node may have lost and regained the lead meanwhile. It must then commit an entry of its
    /// new term before it may change voters by a single entry, and another leader may have changed
    /// the configuration.
    async fn look_again(&self) -> Result<Metrics, MembershipError> {
        let now = self.members.settle(&self.raft).await?;
        let (expected, found) = (self.known.load(Relaxed), configuration_index(&now));
        match found > expected {
            false => Ok(now),
            true => Err(MembershipError::Refused(format!(
                "this node lost the lead and found it again while it changed the members, and the configuration of entry {found} was made \
                 meanwhile; look at it and ask again"
            ))),
        }
    }

    fn made(&self, index: u64) -> u64 {
        self.known.store(index, Relaxed);
        index
    }

    /// Refuses a change after which nothing could be committed, not even the change itself: a
    /// configuration is in force from its entry on, committed or not. Earlier answers prove
    /// nothing: a node may have died since.
    async fn quorum_answers(&self, after: &Membership) -> Result<(), MembershipError> {
        let asked = Moment::now();
        // An error means that the core has stopped. The calls below find this, too.
        drop(self.raft.trigger().heartbeat().await);
        let answers = |now: &Metrics| now.current_leader != Some(now.id) || silent(now, after, asked).has_quorum();
        let heartbeat = self.members.0.timeouts.heartbeat;
        let waited = self.raft.wait(Some(heartbeat)).metrics(answers, "a majority of the new voters answers").await;
        match waited {
            Ok(_) => Ok(()),
            Err(_) => Err(silent(&metrics(&self.raft), after, asked).refusal(after)),
        }
    }

    /// Proposes changes and waits until the final configuration is applied here. `retain` keeps a
    /// node that loses its vote as a learner.
    pub(super) async fn apply(&self, changes: Changes, retain: bool) -> Result<u64, MembershipError> {
        let now = metrics(&self.raft);
        let changed = bounded(self.raft.change_membership_if(changes, retain, [unchanged(&now)])).await;
        changed.map(|index| self.made(index))
    }
}

/// The voters of a configuration, as their leader hears them.
#[derive(Debug, PartialEq, Eq)]
struct Voters {
    all: usize,
    silent: Vec<NodeId>,
}

impl Voters {
    fn quorum(&self) -> usize {
        self.all / 2 + 1
    }

    fn has_quorum(&self) -> bool {
        self.all - self.silent.len() >= self.quorum()
    }

    fn refusal(&self, after: &Membership) -> MembershipError {
        let name = |id: &NodeId| after.get_node(id).map_or_else(|| format!("{id:016x}"), |node| node.name.clone());
        MembershipError::NoQuorumAfter {
            voters: self.all,
            quorum: self.quorum(),
            heard: self.all - self.silent.len(),
            silent: self.silent.iter().map(name).collect(),
        }
    }
}

/// Finds the voters of `after` that acknowledged nothing that was sent since `asked`. The leader is
/// this node and is never silent.
fn silent(now: &Metrics, after: &Membership, asked: Moment) -> Voters {
    let heard = |id: &NodeId| {
        let sent = now.heartbeat.as_ref().and_then(|acknowledged| *acknowledged.get(id)?);
        *id == now.id || sent.is_some_and(|sent| *sent >= asked)
    };
    let voters: BTreeSet<NodeId> = after.voter_ids().collect();
    Voters { all: voters.len(), silent: voters.into_iter().filter(|id| !heard(id)).collect() }
}

/// Refuses the change if another leader has changed the configuration since `now`. No other change
/// on this node can: it would need the lock.
fn unchanged(now: &Metrics) -> Precondition<TypeConfig> {
    Precondition::LastMembershipLogId { last_membership_log_id: *now.membership_config.log_id() }
}

/// Refuses the change if this node has lost the lead since `now`, even if it leads again. An entry
/// of the term in `now` is committed; an entry of a later term may not be.
fn still_leads(now: &Metrics) -> Precondition<TypeConfig> {
    let committed_leader_id = CommittedLeaderId { term: now.current_term, node_id: now.id };
    Precondition::CommittedLeaderId { committed_leader_id }
}

async fn bounded(
    change: impl Future<Output = Result<ClientWriteResponse<TypeConfig>, WriteError>>,
) -> Result<u64, MembershipError> {
    match tokio::time::timeout(CHANGE_TIMEOUT, change).await {
        Ok(Ok(response)) => Ok(response.log_id.index),
        Ok(Err(error)) => Err(refusal(error)),
        Err(_) => {
            Err(MembershipError::Unknown(format!("not committed within {CHANGE_TIMEOUT:?}; is a majority alive?")))
        }
    }
}

fn is_joint(metrics: &Metrics) -> bool {
    metrics.membership_config.membership().get_joint_config().len() > 1
}
