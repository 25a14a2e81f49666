//! Limits how far the terms and indexes in a peer's messages may lie ahead of what this node knows.
//! Sums in openraft and here use these numbers, and a saved vote stays for ever: a vote that leaves
//! no term for the next election ends its cluster. Never does IO.
//!
//! - A term that is more than [`TERM_LEAP_MAX`] ahead of this node's term is refused before it is
//!   saved, in requests and in responses.
//! - No term reaches [`TERM_END`] and no index reaches [`INDEX_END`], wherever they stand in a
//!   message. Sums of smaller numbers do not overflow.

use crate::raft::Raft;
use crate::types::Vote;

/// Most elections by which a leader's term may be ahead of a node's term. At one election a second,
/// this many take 136 years.
pub const TERM_LEAP_MAX: u64 = 1 << 32;

/// All terms are below this one. At least [`TERM_LEAP_MAX`] elections can still follow any term
/// that a node has.
pub const TERM_END: u64 = u64::MAX - TERM_LEAP_MAX;

/// All log indexes are below this one. At a million entries a second, reaching it takes 292,000
/// years.
pub const INDEX_END: u64 = 1 << 63;

/// A vote to which no election can lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the message is of term {theirs}, and this node of term {ours}: no election is more than {TERM_LEAP_MAX} terms ahead, and none is of \
     term {TERM_END} or later. It is forged, or its sender's vote was"
)]
pub struct TermLeap {
    /// This node's term.
    pub ours: u64,
    /// The message's term.
    pub theirs: u64,
}

/// Checks whether this node may save another node's vote. `ours` is this node's term. A node that
/// has no term yet accepts the term that its cluster has.
pub fn check_term(ours: u64, theirs: u64) -> Result<(), TermLeap> {
    let is_leap = ours > 0 && theirs.saturating_sub(ours) > TERM_LEAP_MAX;
    match is_leap || theirs >= TERM_END {
        true => Err(TermLeap { ours, theirs }),
        false => Ok(()),
    }
}

/// Applies [`check_term`] to the vote in a message and this node's own flushed vote. Reads the own
/// vote only when it can matter.
pub fn check_vote_of_peer(raft: &Raft, vote: &Vote) -> Result<(), TermLeap> {
    let theirs = vote.leader_id.term;
    match theirs <= TERM_LEAP_MAX {
        true => Ok(()),
        false => check_term(own_term(raft), theirs),
    }
}

fn own_term(raft: &Raft) -> u64 {
    use openraft::async_runtime::WatchReceiver;
    raft.server_metrics().borrow_watched().vote.leader_id.term
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_may_be_ahead_by_what_elections_can_bring() {
        for (ours, theirs, expected) in [
            (1, 1 + TERM_LEAP_MAX, true),
            (1, 2 + TERM_LEAP_MAX, false),
            (5, 3, true),
            (7, u64::MAX, false),
            // A joiner of a cluster whose term somebody has driven up.
            (0, 1 << 40, true),
            (0, TERM_END, false),
            (TERM_END - 1, TERM_END, false),
            (u64::MAX, u64::MAX, false),
        ] {
            assert_eq!(check_term(ours, theirs).is_ok(), expected, "{ours} {theirs}");
        }
    }
}
