//! Both judges over one history. A history passes when neither objects.

use super::history::Operation;
use super::{chain, wgl};

/// What each judge objects to.
#[derive(Debug, Default)]
pub struct Verdict {
    /// The version chain.
    pub chain: Vec<chain::Violation>,
    /// porcupine.
    pub wgl: Vec<chain::Violation>,
}

impl Verdict {
    /// Of a history whose final reads began at `ends_at`, if it came to that.
    pub fn of(history: &[Operation], ends_at: Option<u64>) -> Verdict {
        Verdict { chain: chain::check(history, ends_at), wgl: wgl::check(history) }
    }

    /// Neither objects.
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
