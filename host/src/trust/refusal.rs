//! Why a call is refused, in words for whoever made it.

use std::sync::Arc;
use std::time::Duration;

use super::policy::ANONYMOUS;
use super::roles::Right;
use super::state::METHOD_BYTES_MAX;

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

    pub(super) fn denied(name: &str, method: &str, right: Right) -> Refusal {
        let (method, roles) = (short(method), right.roles());
        let text = format!("{name} may not call {method}: that needs the role {roles}, and nothing grants it");
        Refusal { reason: Reason::Denied, text, retry_after: None }
    }

    pub(super) fn too_many(name: Option<&Arc<str>>, method: &str, per_second: u32, wait: Duration) -> Refusal {
        let (name, method) = (name.map_or(ANONYMOUS, |name| name), short(method));
        // A wait of 0 would be an invitation to call at once.
        let wait = Duration::from_millis(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).saturating_add(1));
        let shown = humantime::format_duration(wait);
        let text = format!(
            "{name} has used its quota of {per_second} calls a second for {method}; there is room again in {shown}"
        );
        Refusal { reason: Reason::Quota, text, retry_after: Some(wait) }
    }
}

/// Cuts what a stranger may have made up.
fn short(method: &str) -> &str {
    &method[..method.floor_char_boundary(METHOD_BYTES_MAX)]
}
