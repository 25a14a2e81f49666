//! Checks the file of a state machine before anything is started or written for it. It compiles
//! nothing and runs nothing.

use std::path::Path;

use super::report::Failure;
use crate::config::guests_hint;
use crate::guest::Component;
use lockstep_contract::Contract;

/// Refuses a file that no node would take, as far as names and sections show. `flag` begins the
/// message.
pub(crate) fn check(flag: &str, path: &Path) -> anyhow::Result<()> {
    let refuse = |problem: String| Failure::usage(format!("{flag}{} is no state machine: {problem}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| {
        Failure::usage(format!("{flag}cannot read {}: {error}", path.display())).hint(guests_hint())
    })?;
    let checked = Component::check(&bytes).map_err(|error| refuse(error.to_string()).hint(guests_hint()))?;
    Contract::new(checked.descriptor.as_deref(), checked.has_watcher).map_err(|error| refuse(error.to_string()))?;
    Ok(())
}
