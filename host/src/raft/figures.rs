//! The numbers of Raft for operators, with hashicorp's names, and what Raft's core alone knows. It
//! decides nothing.

use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use tokio::time::timeout;

use crate::raft::{Raft, RaftCell};
use crate::types::{LogId, TypeConfig};

/// How long to wait for a number that only Raft's core knows, before an older number is shown.
const CORE_TIMEOUT: Duration = Duration::from_millis(500);

/// The numbers of Raft, with hashicorp's names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaftStatus {
    /// `Follower`, `Candidate`, `Leader` or `Shutdown`.
    pub state: &'static str,
    /// Current term.
    pub term: u64,
    /// Last index in the log. 0 stands for none, as in all indexes of this type.
    pub last_log_index: u64,
    /// Last index known to be committed.
    pub commit_index: u64,
    /// Last index that Raft knows to be applied.
    pub applied_index: u64,
    /// Last index of the newest snapshot.
    pub snapshot_index: u64,
    /// Term of the last index of the newest snapshot.
    pub snapshot_term: u64,
    /// Last index purged from the log.
    pub purged_index: u64,
}

impl RaftStatus {
    /// Reads the numbers of the Raft instance. One that does not run, or is `stopping`, is in the
    /// state `Shutdown`.
    pub fn of(raft: &RaftCell, stopping: bool) -> RaftStatus {
        let Some(raft) = raft.get() else {
            return RaftStatus { state: "Shutdown", ..RaftStatus::default() };
        };
        let metrics = raft.metrics().borrow_watched().clone();
        let index = |log_id: &Option<LogId>| log_id.as_ref().map_or(0, |log_id| log_id.index);
        RaftStatus {
            state: if stopping || metrics.running_state.is_err() { "Shutdown" } else { state_name(metrics.state) },
            term: metrics.current_term,
            last_log_index: metrics.last_log_index.unwrap_or(0),
            commit_index: index(&metrics.local_committed).max(index(&metrics.cluster_committed)),
            applied_index: index(&metrics.last_applied),
            snapshot_index: index(&metrics.snapshot),
            snapshot_term: metrics.snapshot.map_or(0, |log_id| log_id.leader_id.term),
            purged_index: index(&metrics.purged),
        }
    }
}

/// Returns hashicorp's name of a state. hashicorp has no learner state: a nonvoter is a follower.
fn state_name(state: ServerState) -> &'static str {
    match state {
        ServerState::Learner | ServerState::Follower => "Follower",
        ServerState::Candidate => "Candidate",
        ServerState::Leader => "Leader",
        ServerState::Shutdown => "Shutdown",
    }
}

/// When this node last heard from a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    /// Not since this process started.
    Never,
    /// That long ago. Zero on the leader.
    Ago(Duration),
}

impl std::fmt::Display for Contact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Contact::Never => f.write_str("never"),
            Contact::Ago(Duration::ZERO) => f.write_str("0"),
            Contact::Ago(ago) => write!(f, "{ago:?}"),
        }
    }
}

/// Returns when a follower last heard from a leader. openraft updates the time of the vote at each
/// message from a leader. Returns `Never` when the core does not answer.
pub async fn follower_contact(raft: &Raft) -> Contact {
    let asked = raft.with_raft_state(|state| state.vote_last_modified());
    match timeout(CORE_TIMEOUT, asked).await {
        Ok(Ok(Some(at))) => Contact::Ago(openraft::Instant::elapsed(&at)),
        Ok(Ok(None) | Err(_)) | Err(_) => Contact::Never,
    }
}

/// A moment as openraft dates it.
pub type Moment = openraft::alias::InstantOf<TypeConfig>;

/// Returns whether a leader has been heard after `since`. openraft dates a vote also when it loads
/// it from the disk, and when a candidate or a refusal brings it: then it is not committed.
pub async fn has_heard_leader(raft: &Raft, since: Moment) -> bool {
    let asked = raft.with_raft_state(move |state| {
        state.vote_ref().committed && state.vote_last_modified().is_some_and(|at| at > since)
    });
    matches!(timeout(CORE_TIMEOUT, asked).await, Ok(Ok(true)))
}

/// Returns the contact of a leader: now, unless its voters have been silent for longer than
/// `silence_max`.
pub fn leader_contact(raft: &Raft, silence_max: Duration) -> Contact {
    let metrics = raft.metrics().borrow_watched().clone();
    if metrics.membership_config.voter_ids().count() < 2 {
        return Contact::Ago(Duration::ZERO);
    }
    match metrics.last_quorum_acked.map(|at| openraft::Instant::elapsed(&*at)) {
        Some(ago) if ago > silence_max => Contact::Ago(ago),
        Some(_) => Contact::Ago(Duration::ZERO),
        None => Contact::Never,
    }
}

/// Returns the term of the last entry in the log. 0 if there is none, or when the core does not
/// answer.
pub async fn last_log_term(raft: &Raft) -> u64 {
    let asked = raft.with_raft_state(|state| state.log_ids.last().map(|log_id| log_id.committed_leader_id().term));
    match timeout(CORE_TIMEOUT, asked).await {
        Ok(Ok(term)) => term.unwrap_or(0),
        Ok(Err(_)) | Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_raft_is_shut_down() {
        assert_eq!(RaftStatus::of(&RaftCell::default(), false).state, "Shutdown");
    }
}
