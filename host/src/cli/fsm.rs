//! The file of a state machine, looked at before anything is started or written for it. Compiles nothing and runs nothing.

use std::path::Path;

use super::report::Failure;
use crate::api::routes::Routes;
use crate::guest::Component;

/// What gives a reader of ours a file that is one.
pub(crate) const BUILD_HINT: &str = "`cargo xtask guests` builds the crates under guests/, among them build/kv.wasm";

/// Refuses what no node would take, as far as names and sections tell. `flag` begins the message.
pub(crate) fn check(flag: &str, path: &Path) -> anyhow::Result<()> {
    let refuse = |problem: String| Failure::usage(format!("{flag}{} is no state machine: {problem}", path.display()));
    let bytes = std::fs::read(path)
        .map_err(|error| Failure::usage(format!("{flag}cannot read {}: {error}", path.display())).hint(BUILD_HINT))?;
    let checked = Component::check(&bytes).map_err(|error| refuse(error.to_string()).hint(BUILD_HINT))?;
    Routes::new(checked.descriptor.as_deref(), checked.has_watcher).map_err(|error| refuse(error.to_string()))?;
    Ok(())
}
