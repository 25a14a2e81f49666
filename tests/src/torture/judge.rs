//! Runs both checkers over one history. A history passes when neither finds a violation.

use super::history::Operation;
use super::{chain, wgl};

/// Violations that each checker found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Violations of the version chain.
    pub chain: Vec<chain::Violation>,
    /// Violations that porcupine found.
    pub wgl: Vec<chain::Violation>,
}

impl Verdict {
    /// Checks a history. `ends_at` is the time at which the final reads began, if the run came that
    /// far.
    pub fn of(history: &[Operation], ends_at: Option<u64>) -> Verdict {
        Verdict { chain: chain::check(history, ends_at), wgl: wgl::check(history) }
    }

    /// Tells whether neither checker found a violation.
    pub fn passed(&self) -> bool {
        self.chain.is_empty() && self.wgl.is_empty()
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.passed() {
            return write!(out, "no violation");
        }
        for violation in self.chain.iter().chain(&self.wgl) {
            writeln!(out, "violation: {violation}")?;
        }
        Ok(())
    }
}
