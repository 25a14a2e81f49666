//! Why a call is refused, in words for whoever made it.

use std::time::Duration;

/// The kind of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The call does not prove who makes it.
    Unauthenticated,
    /// The subject may not make it.
    Denied,
    /// The subject makes it too often.
    Quota,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 3] = [Reason::Unauthenticated, Reason::Denied, Reason::Quota];

    /// Returns its name for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Unauthenticated => "unauthenticated",
            Reason::Denied => "denied",
            Reason::Quota => "quota",
        }
    }
}

/// A refused call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its kind.
    pub reason: Reason,
    /// What is wrong, and what to do.
    pub text: String,
    /// When the same call may be made again.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    pub(super) fn unauthenticated(text: impl Into<String>) -> Refusal {
        Refusal { reason: Reason::Unauthenticated, text: text.into(), retry_after: None }
    }
}
