//! Why a peer's message cannot be used. It reads no message.

use super::bounds::{INDEX_END, TERM_END, TermLeap};
use crate::types::{LogId, NodeId};

/// A peer sent a message that has no meaning in this version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A required field is missing.
    #[error("the message has no {0}")]
    Missing(&'static str),
    /// A field does not hold what it must.
    #[error("the message's {0} cannot be read")]
    Unreadable(&'static str),
    /// Voter sets and nodes contradict each other.
    #[error("impossible membership: {0}")]
    Membership(String),
    /// The vote in the message is not its sender's own.
    #[error("the message is from node {from:016x} and carries the vote of node {of:016x}")]
    OthersVote {
        /// The sender.
        from: NodeId,
        /// The node that the vote is for.
        of: NodeId,
    },
    /// Entries that no leader's log can hold.
    #[error("entry {found} does not follow {before}")]
    Gap {
        /// The log id before it in the message.
        before: String,
        /// The entry's log id.
        found: String,
    },
    /// A vote to which no election can lead.
    #[error(transparent)]
    TermLeap(#[from] TermLeap),
    /// A log id that no log holds.
    #[error("{what} is {found}, which is forged: no cluster reaches term {TERM_END} or index {INDEX_END}")]
    BeyondEnd {
        /// The field.
        what: &'static str,
        /// The value as received.
        found: String,
    },
    /// More was acknowledged than was sent.
    #[error("the answer says that {found:?} is flushed, and the request ended at {sent:?}")]
    BeyondRequest {
        /// The value as received.
        found: Option<LogId>,
        /// The end of the request.
        sent: Option<LogId>,
    },
    /// A log id is later than the message's vote. A leader's log and its commit index are of its
    /// own term or earlier.
    #[error("{what} is {found}, which is later than the vote {vote} of the message")]
    BeyondVote {
        /// The field.
        what: &'static str,
        /// The value as received.
        found: String,
        /// The sender's vote.
        vote: String,
    },
}

impl From<WireError> for tonic::Status {
    fn from(error: WireError) -> Self {
        tonic::Status::invalid_argument(error.to_string())
    }
}
