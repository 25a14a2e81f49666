//! The apply thread's part in a start: it applies what the log holds behind the state. That may
//! take long, or wait for a component or for a newer build, so the node serves its ports meanwhile.
//! `starting.rs` says which entries these are.

use std::sync::atomic::Ordering::Relaxed;

use super::Applier;
use crate::machine::ApplyError;
use crate::store::StoreError;

impl Applier {
    /// Applies the entries behind the state, up to entry `last`. They are committed, so the log
    /// keeps them until a snapshot holds them. Ends with [`ApplyError::Stopped`] when the node
    /// stops before that: the jobs behind this one must not be done then.
    pub(super) fn replay(&mut self, last: u64) -> Result<(), ApplyError> {
        loop {
            let next = self.system.applied.map_or(0, |applied| applied.index + 1);
            if next > last {
                return Ok(());
            }
            let entries = self.gate.read(next..last + 1)?;
            if entries.is_empty() {
                let what = format!("log entries {next} to {last} are to be applied, and the log does not have them");
                return Err(StoreError::Misuse(what).into());
            }
            for entry in entries {
                if self.shared.stopping.load(Relaxed) {
                    return Err(ApplyError::Stopped);
                }
                self.apply_all(vec![(entry, None)])?;
            }
        }
    }
}
