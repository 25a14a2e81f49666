//! The part of `lockstep guest check` that compares a guest with an older one: what differs between
//! their contracts, and whether old clients survive the new guest. The crate `contract` decides
//! both.

use std::path::Path;

use lockstep_contract::{Contract, Difference, differences};
use serde_json::{Value, json};

use super::read;
use crate::cli::report::{Failure, print_line};
use crate::guest::Anatomy;

/// An older guest.
pub(super) struct Old {
    file: String,
    contract: Contract,
}

impl Old {
    /// Reads the guest at `path` without running anything of it. Whether a node of this version
    /// would still take it does not matter: its clients are out there.
    pub(super) fn read(path: &Path) -> anyhow::Result<Old> {
        let file = path.display().to_string();
        let refused = |error: &dyn std::fmt::Display| Failure::new(format!("--against {file}: {error}"));
        let anatomy = Anatomy::of(&read(path)?).map_err(|error| refused(&error))?;
        let contract = Contract::new(anatomy.descriptor.as_deref(), true).map_err(|error| refused(&error))?;
        Ok(Old { file, contract })
    }

    /// Compares its contract with `new`.
    pub(super) fn compare(self, new: &Contract) -> Comparison {
        Comparison { differences: differences(&self.contract, new), old: self.file }
    }
}

/// The result of a comparison.
pub(super) struct Comparison {
    old: String,
    differences: Vec<Difference>,
}

impl Comparison {
    /// Returns how many of the differences break old clients.
    pub(super) fn breaking(&self) -> usize {
        self.differences.iter().filter(|difference| difference.breaks).count()
    }

    /// Prints the differences, those first that break old clients.
    pub(super) fn print(&self) -> anyhow::Result<()> {
        if self.differences.is_empty() {
            return print_line(format!("  contract   that of {}", self.old));
        }
        print_line(format!("differences from {}", self.old))?;
        self.differences.iter().try_for_each(|difference| {
            let mark = if difference.breaks { "BREAKS" } else { "fine" };
            print_line(format!("  {mark:<9}  {difference}"))
        })
    }

    /// Returns the comparison as JSON.
    pub(super) fn json(&self) -> Value {
        let one = |difference: &Difference| json!({ "subject": difference.subject, "what": difference.words, "breaks": difference.breaks });
        json!({ "file": self.old, "differences": self.differences.iter().map(one).collect::<Vec<_>>() })
    }

    /// Fails if old clients break and that is not allowed.
    pub(super) fn verdict(&self, allowed: bool) -> anyhow::Result<()> {
        match self.breaking() {
            0 => Ok(()),
            _ if allowed => Ok(()),
            count => {
                let differences =
                    if count == 1 { "1 difference breaks".into() } else { format!("{count} differences break") };
                let text = format!("{differences} clients that were made for {}", self.old);
                Err(Failure::new(text)
                    .hint("keep what they use, or say --allow_breaking if no such client is left")
                    .into())
            }
        }
    }
}
