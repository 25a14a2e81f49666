//! How a call ends without a word of the guest, and what that says about its command. The texts are
//! those that a client gets, whatever its protocol. A refusal or a failure of the guest is no error
//! here: it is the value that the call returns.

use std::time::Duration;

use super::budget::Short;
use super::watch::places::Full;
use crate::machine::{Outcome, QueryError, is_not_run};
use crate::raft::path::read::RoundError;
use crate::raft::{NotProposed, ReadError};
use crate::types::Addresses;

/// The command did not run and never will.
pub const NOT_APPLIED: &str = "not-applied";
/// The command may have run, or may still run.
pub const UNKNOWN: &str = "unknown";
/// The command has its place in the log. Its guest refused it or failed, which undid its writes,
/// and all nodes recorded that.
pub const APPLIED: &str = "applied";

/// Why a call ended without a word of the guest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The command was certainly not proposed, and an attempt at another leader would not mend it.
    #[error(transparent)]
    NotProposed(#[from] NotProposed),
    /// No leader took the command for as long as an election may take.
    #[error("no leader took the command within {waited:?}; it was not proposed")]
    NoLeader {
        /// How long the command was offered.
        waited: Duration,
    },
    /// This node must not take commands. The text says why, and what to do about it.
    #[error("{0}")]
    OutOfService(String),
    /// The cluster is in read-only mode, and the method is one of those that it covers.
    #[error("{0}")]
    ReadOnly(String),
    /// The deadline passed after the command was sent to the leader. It may have run, or may still
    /// run.
    #[error("the deadline passed after the command was sent to the leader of term {term}; it may be applied")]
    DeadlineAfter {
        /// The term of the attempt.
        term: u64,
    },
    /// A snapshot replaced the log entries that would have shown whether the command ran.
    #[error("a snapshot replaced the state before the fate of the command was known; it may have been applied")]
    Unknown,
    /// This node does not have its cluster's component. The text says why, and what to do about it.
    #[error("{0}")]
    NoComponent(String),
    /// This node may not show its state, or did not run the guest over it.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// A linearizable read did not learn the index to wait for.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A linearizable read did not reach the index that it had to wait for.
    #[error("this node did not apply index {index} before the deadline")]
    ReadBehind {
        /// That index.
        index: u64,
    },
    /// The query still waits or runs at its deadline.
    #[error("the query was not answered before the deadline")]
    QueryDeadline,
    /// The watch is open at its deadline. The client set that deadline.
    #[error("the watch's deadline has passed")]
    WatchDeadline,
    /// As many watches are open as there may be.
    #[error("{0}")]
    TooManyWatches(Full),
    /// Clients make this node hold as much as they may.
    #[error(transparent)]
    NoMemory(#[from] Short),
    /// There was no memory for the next step of a watch.
    #[error(
        "this node had no memory for the next step of the watch for {waited:?}, because other clients do not take their replies \
         (--client_memory); watch again, or on another node"
    )]
    WatchStarved {
        /// How long it waited.
        waited: Duration,
    },
    /// The replies of one step of a watch never fit.
    #[error(
        "the replies of one step of the watch have {bytes} bytes, and {most} bytes are left for them of what one connection may make          this node hold (a quarter of --client_memory); watch less at a time, or give the node more"
    )]
    WatchStepTooLarge {
        /// Bytes of the replies.
        bytes: u64,
        /// Most bytes that there can be for them.
        most: u64,
    },
    /// The watch is open while the node stops.
    #[error("this node is stopping; watch again on another one")]
    WatchStopping,
    /// The task of the watch ended without a result.
    #[error("this node failed in the watch; what happened is in its log. Watch again")]
    WatchBroken,
    /// The call is for the leader, and this node does not lead.
    #[error("node is not the leader{}", whoever_leads(.0.as_ref()))]
    NotLeader(Option<Addresses>),
    /// This node lost leadership during a barrier.
    #[error("leadership was lost while waiting; entries before the barrier may not have been applied")]
    LeadershipLost,
    /// This node did not reach the index of a barrier.
    #[error("index {index} was not applied within {waited:?}")]
    BarrierBehind {
        /// That index.
        index: u64,
        /// How long the barrier waited.
        waited: Duration,
    },
    /// Log time was not moved, or it is not certain that it was.
    #[error("{}", log_time_text(.0))]
    LogTime(RoundError),
}

impl CallError {
    /// Returns what the end says about a command: [`NOT_APPLIED`] or [`UNKNOWN`].
    pub fn fate(&self) -> &'static str {
        match self {
            CallError::DeadlineAfter { .. } | CallError::Unknown | CallError::LogTime(RoundError::NoQuorum) => UNKNOWN,
            CallError::NotProposed(_)
            | CallError::NoLeader { .. }
            | CallError::OutOfService(_)
            | CallError::ReadOnly(_)
            | CallError::NoComponent(_)
            | CallError::Query(_)
            | CallError::Read(_)
            | CallError::ReadBehind { .. }
            | CallError::QueryDeadline
            | CallError::WatchDeadline
            | CallError::TooManyWatches(_)
            | CallError::NoMemory(_)
            | CallError::WatchStarved { .. }
            | CallError::WatchStepTooLarge { .. }
            | CallError::WatchStopping
            | CallError::WatchBroken
            | CallError::NotLeader(_)
            | CallError::LeadershipLost
            | CallError::BarrierBehind { .. }
            | CallError::LogTime(RoundError::NotLeader | RoundError::Failed(_)) => NOT_APPLIED,
        }
    }
}

/// Returns what an outcome without a reply says about its command: [`APPLIED`], or [`NOT_APPLIED`]
/// when its entry had no fuel or no room left for it.
pub fn fate_of(outcome: &Outcome) -> &'static str {
    if is_not_run(&outcome.verdict) { NOT_APPLIED } else { APPLIED }
}

fn whoever_leads(leader: Option<&Addresses>) -> String {
    match leader {
        Some(node) => format!("; the leader is {} at {} (admin: {})", node.name, node.raft_addr, node.grpc_addr),
        None => ", and knows of none at the moment".into(),
    }
}

fn log_time_text(error: &RoundError) -> String {
    match error {
        RoundError::NotLeader => "this node leads no more; log time was not moved".into(),
        RoundError::NoQuorum => format!("{error}; log time may be moved yet"),
        RoundError::Failed(why) => why.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::Verdict;
    use crate::machine::not_run;
    use bytes::Bytes;

    #[test]
    fn only_what_was_sent_to_a_leader_may_have_run() {
        let unknown =
            [CallError::DeadlineAfter { term: 4 }, CallError::Unknown, CallError::LogTime(RoundError::NoQuorum)];
        let certain = [
            CallError::NotProposed(NotProposed::Expired),
            CallError::NoLeader { waited: Duration::from_secs(1) },
            CallError::OutOfService("hashes differ".into()),
            CallError::ReadOnly("the cluster is read-only".into()),
            CallError::Query(QueryError::NotReady("replaying".into())),
        ];
        assert!(unknown.iter().all(|error| error.fate() == UNKNOWN));
        assert!(certain.iter().all(|error| error.fate() == NOT_APPLIED));
    }

    #[test]
    fn an_outcome_was_applied_unless_the_guest_was_not_called() {
        let outcome = |verdict| Outcome { index: 7, position: 0, term: 2, time_ms: 0, verdict };
        assert_eq!(fate_of(&outcome(Verdict::Reply(Bytes::new()))), APPLIED);
        assert_eq!(fate_of(&outcome(not_run())), NOT_APPLIED);
    }

    #[test]
    fn whoever_asks_another_node_learns_where_the_leader_is() {
        let leader = Addresses { name: "b".into(), raft_addr: "b:1".into(), grpc_addr: "b:2".into() };
        let text = |leader| CallError::NotLeader(leader).to_string();
        assert_eq!(text(Some(leader)), "node is not the leader; the leader is b at b:1 (admin: b:2)");
        assert_eq!(text(None), "node is not the leader, and knows of none at the moment");
    }
}
