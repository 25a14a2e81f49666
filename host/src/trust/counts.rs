//! Figures of this room for operators.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::caller::{Caller, PROOFS};
use super::refusal::Reason;

/// What was counted since the process began.
#[derive(Debug, Default)]
pub(super) struct Counts {
    refused: [AtomicU64; Reason::ALL.len()],
    /// Calls that were let in, by proof.
    admitted: [AtomicU64; PROOFS.len()],
    pub(super) reloads: [AtomicU64; 2],
    pub(super) reloads_refused: [AtomicU64; 2],
    /// Whether the file holds something that was refused.
    pub(super) is_refused: [AtomicBool; 2],
}

/// The counted figures, as they are now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustFigures {
    /// Refused calls by reason.
    pub refused: Vec<(&'static str, u64)>,
    /// Calls that were let in, by what proves who makes them.
    pub admitted: Vec<(&'static str, u64)>,
    /// New files that were taken, by file.
    pub reloads: Vec<(&'static str, u64)>,
    /// New files that were refused, by file.
    pub reloads_refused: Vec<(&'static str, u64)>,
    /// Whether the file of the policy holds something that was refused, and an older one is in
    /// force.
    pub policy_refused: bool,
    /// The same of the keys of tokens.
    pub keys_refused: bool,
    /// Lines that did not get into the audit file.
    pub audit_dropped: u64,
    /// Tokens that are remembered as checked.
    pub tokens_remembered: u64,
}

/// The watched files, in the order of the counts.
pub(super) const FILES: [&str; 2] = ["policy", "keys"];

impl Counts {
    pub(super) fn refused(&self, reason: Reason) {
        self.refused[reason as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn admitted(&self, caller: &Caller) {
        self.admitted[caller.proof_number()].fetch_add(1, Relaxed);
    }

    pub(super) fn figures(&self, audit_dropped: u64, tokens_remembered: u64) -> TrustFigures {
        let by_file =
            |counts: &[AtomicU64; 2]| FILES.into_iter().zip(counts.iter().map(|count| count.load(Relaxed))).collect();
        TrustFigures {
            refused: Reason::ALL.map(|reason| (reason.name(), self.refused[reason as usize].load(Relaxed))).into(),
            admitted: PROOFS.into_iter().zip(self.admitted.iter().map(|count| count.load(Relaxed))).collect(),
            reloads: by_file(&self.reloads),
            reloads_refused: by_file(&self.reloads_refused),
            policy_refused: self.is_refused[0].load(Relaxed),
            keys_refused: self.is_refused[1].load(Relaxed),
            audit_dropped,
            tokens_remembered,
        }
    }
}
