//! Explains to operators why the membership was not changed. Changes nothing.

use std::time::Duration;

use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};

use super::join::JoinError;
use crate::types::{Addresses, NodeId, TypeConfig};

/// Why a change was not made. The texts are for operators.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// A follower was asked.
    #[error("{}", not_leader(leader))]
    NotLeader {
        /// The leader, when known.
        leader: Option<Addresses>,
    },
    /// No Raft instance runs here, or it has stopped.
    #[error("Raft is not running on this node: {0}")]
    Stopped(String),
    /// Another change took too long.
    #[error(
        "another change of the members is under way and was not over after {0:?}; a voter that is being added takes as long as its \
         snapshot: see `transfers` in the status, and try again"
    )]
    Busy(Duration),
    /// The joiner cannot be reached, or refuses.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The node at the address is not the one that the operator means.
    #[error("the node at {address} is {found:?}, not {asked:?}")]
    OtherName {
        /// The address as given.
        address: String,
        /// The node's own name.
        found: String,
        /// The name as given.
        asked: String,
    },
    /// The joiner belongs to another cluster.
    #[error(
        "{name:?} is in cluster {theirs}, this is cluster {ours}; a node joins one cluster in its life (start it with an empty data directory)"
    )]
    OtherCluster {
        /// The joiner.
        name: String,
        /// Its cluster, in hex.
        theirs: String,
        /// This cluster, in hex.
        ours: String,
    },
    /// The joiner's data is from before a recovery.
    #[error(
        "{name:?} holds data of incarnation {theirs} of this cluster, which is in incarnation {ours} since a recovery from a lost \
         majority; that data was left behind: start the node with an empty data directory, then add it"
    )]
    LeftBehind {
        /// The joiner.
        name: String,
        /// Its incarnation.
        theirs: u32,
        /// This cluster's incarnation.
        ours: u32,
    },
    /// The joiner's build does not apply all entries that the leader may write.
    #[error(
        "the build of Lockstep of {name:?} does not know all entries that the log of this cluster may have; start it with the build of \
         the leader"
    )]
    OlderBuild {
        /// The joiner.
        name: String,
    },
    /// A known name has another disk.
    #[error(
        "{name:?} is in the configuration with another data directory (node {known:016x}, now {found:016x}); remove it first, then add it"
    )]
    OtherDisk {
        /// The name.
        name: String,
        /// The node id in the configuration.
        known: NodeId,
        /// The node id at the address.
        found: NodeId,
    },
    /// No server has this name.
    #[error("there is no server {0:?} in the configuration")]
    UnknownServer(String),
    /// `previous_index` no longer holds.
    #[error(
        "previous_index {expected}: the configuration changed after that index, it is now of index {found}; look at it again and give a newer applied_index"
    )]
    ConfigurationChanged {
        /// The precondition.
        expected: u64,
        /// The index in force.
        found: u64,
    },
    /// The cluster has no genesis yet, so there is nothing to compare a joiner with.
    #[error("the cluster has not recorded its component yet; try again in a moment")]
    NoGenesis,
    /// A learner did not catch up and was removed again.
    #[error("{name:?} did not catch up within {limit:?} and was taken out again; {reason}")]
    NotCaughtUp {
        /// The learner.
        name: String,
        /// The time that it had.
        limit: Duration,
        /// How far it came.
        reason: String,
    },
    /// A cluster needs a voter.
    #[error("this would leave the cluster without a voter")]
    LastVoter,
    /// Too few of the voters that the change would leave answer.
    #[error(
        "the change would leave {voters} voters, of which {heard} answer; it takes {quorum} to commit anything. Silent: {}. Start them \
         again or remove them first; when a majority is lost for good, see `lockstep recover --help`",
        silent.join(", ")
    )]
    NoQuorumAfter {
        /// Number of voters after the change.
        voters: usize,
        /// A majority of those.
        quorum: usize,
        /// Number of the voters after the change that answered within a heartbeat timeout.
        heard: usize,
        /// The other voters, by name.
        silent: Vec<String>,
    },
    /// No voter can take leadership over.
    #[error("leadership was not transferred: {0}")]
    NotTransferred(String),
    /// openraft refuses.
    #[error("Raft refuses: {0}")]
    Refused(String),
    /// The change may still happen.
    #[error("the outcome is unknown: {0}; look at the configuration before trying again")]
    Unknown(String),
}

fn not_leader(leader: &Option<Addresses>) -> String {
    match leader {
        Some(node) => format!("node is not the leader; the leader is {} at {}", node.name, node.grpc_addr),
        None => "node is not the leader; no leader is known at the moment".into(),
    }
}

/// Converts openraft's refusals into our errors.
pub(super) fn refusal(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> MembershipError {
    match error {
        RaftError::Fatal(error) => MembershipError::Stopped(error.to_string()),
        RaftError::APIError(ClientWriteError::ForwardToLeader(leader)) => {
            MembershipError::NotLeader { leader: leader.leader_node }
        }
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => {
            MembershipError::Unknown("this node lost leadership while it changed the configuration".into())
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(ChangeMembershipError::EmptyMembership(_))) => {
            MembershipError::LastVoter
        }
        RaftError::APIError(error) => MembershipError::Refused(error.to_string()),
    }
}
