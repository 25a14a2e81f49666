//! How far what another node sends may lie beyond what this node knows. Whatever a peer says of terms and indexes ends in a sum of
//! openraft's or ours, and a vote is for ever: one that leaves no term for the next election ends its cluster. Never does IO.
//!
//! - A term more than [`TERM_LEAP_MAX`] ahead of this node's is refused before it is saved, in requests and in answers.
//! - No term reaches [`TERM_END`] and no index [`INDEX_END`], wherever they stand in a message: behind them nothing wraps.

use crate::raft::Raft;
use crate::raft::wire::WireError;
use crate::types::Vote;

/// A leader's term may be ahead of a node's by so many elections. At one a second that is a partition of 136 years.
pub const TERM_LEAP_MAX: u64 = 1 << 32;

/// Terms end here: whatever term a node has, as many elections as [`TERM_LEAP_MAX`] can still follow.
pub const TERM_END: u64 = u64::MAX - TERM_LEAP_MAX;

/// Log indexes end here. At a million entries a second that is 292,000 years.
pub const INDEX_END: u64 = 1 << 63;

/// Whether a vote of another node may be saved here. `ours`: this node's term. A node that has none yet takes what its cluster has.
pub fn check_term(ours: u64, theirs: u64) -> Result<(), WireError> {
    let is_leap = ours > 0 && theirs.saturating_sub(ours) > TERM_LEAP_MAX;
    match is_leap || theirs >= TERM_END {
        true => Err(WireError::TermLeap { ours, theirs }),
        false => Ok(()),
    }
}

/// As [`check_term`], of the vote in a message and the node's own flushed vote. Looks at the latter only when it can matter.
pub fn check_vote_of_peer(raft: &Raft, vote: &Vote) -> Result<(), WireError> {
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
            // A joiner of a cluster that somebody drove up.
            (0, 1 << 40, true),
            (0, TERM_END, false),
            (TERM_END - 1, TERM_END, false),
            (u64::MAX, u64::MAX, false),
        ] {
            assert_eq!(check_term(ours, theirs).is_ok(), expected, "{ours} {theirs}");
        }
    }
}
