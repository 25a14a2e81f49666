//! The apply thread's part in a change of the machine: it waits for the component, makes the
//! checkpoint before the change, and puts state and component into use together. It also makes the
//! checkpoints of marked entries. `change.rs` computes the effects of a change.
//!
//! - What happens here beside the effects is local: a checkpoint that fails changes no state.
//! - A crash at any step leaves exactly the old or the new. The log repeats what was not flushed.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::Applier;
use crate::codec::{self, Change};
use crate::faults;
use crate::guest::Component;
use crate::machine::ApplyError;
use crate::machine::change::{self, Attempt};
use crate::machine::dirty::{Dirty, FLUSH_AFTER};
use crate::machine::profile::profile_of;
use crate::machine::system::System;
use crate::store::{Checkpoint, Generation, Read, StoreError};
use crate::types::{LogId, hex};

impl Applier {
    /// Applies an entry with a change.
    pub(super) fn change(
        &mut self,
        log_id: LogId,
        entry: &codec::entry::Entry,
        change: &Change,
    ) -> Result<(), ApplyError> {
        let began = Instant::now();
        let components = match change::needs_component(&self.system, change) {
            true => Some(self.components_of(log_id, change)?),
            false => None,
        };
        let checkpoint = match &components {
            Some(_) if change.probation_ms > 0 => self.checkpoint_before(log_id)?,
            _ => None,
        };
        let base = || self.generation.clone();
        let migrate = components.as_ref().map(|(before, after)| change::migrate(before, after, base(), &|| false));
        faults::point("change-before-migrate");
        let attempt = change::effects(&self.system, log_id, entry, change, migrate)?;
        let takes_over = components.map(|(_, after)| after).filter(|_| attempt.is_made());
        faults::point("change-before-commit");
        self.put(log_id, &attempt.effects, takes_over.as_ref())?;
        // From here on the state says that the checkpoint must stay.
        self.shared.keeping.hold(self.system.profile.as_deref(), self.system.time_ms, &self.shared.checkpoints);
        drop(checkpoint);
        self.mark(entry)?;
        self.tell_of(attempt, log_id, began);
        faults::point("change-after-switch");
        Ok(())
    }

    /// Waits for the component in force and the one that a change names.
    fn components_of(&mut self, log_id: LogId, change: &Change) -> Result<(Component, Component), ApplyError> {
        let before = self.fit_component(None)?.ok_or(ApplyError::Stopped)?;
        let cluster_id = self.system.in_force().map(|(_, profile)| profile.cluster_id.clone()).unwrap_or_default();
        let profile = profile_of(change, &cluster_id);
        let after = self.shared.candidate(log_id.index, &profile).ok_or(ApplyError::Stopped)?;
        Ok((before, after))
    }

    /// Makes a checkpoint of the state before a change that may be taken back. Without it this node
    /// cannot take the change back, and nothing else is wrong.
    fn checkpoint_before(&mut self, log_id: LogId) -> Result<Option<Arc<Checkpoint>>, ApplyError> {
        self.settle()?;
        self.until_there_is_room(|| self.generation.flush())?;
        self.dirty = Dirty::nothing(FLUSH_AFTER);
        match self.until_there_is_room(|| self.checkpoint(&self.generation)) {
            Err(ApplyError::Store(error)) => {
                tracing::error!(%error, index = log_id.index, "no checkpoint stands before this change; this node cannot take it back");
                Ok(None)
            }
            made => made,
        }
    }

    /// Makes a checkpoint of a state as it is.
    pub(super) fn checkpoint(&self, generation: &Generation) -> Result<Option<Arc<Checkpoint>>, StoreError> {
        let position = |from: &dyn Read| {
            let applied = System::read(from)?.applied;
            Ok(applied.map(|applied| (applied.index, applied.leader_id.term)))
        };
        let made = self.shared.checkpoints.create(generation, &position)?;
        self.shared.counts.snapshots_made.fetch_add(1, Relaxed);
        Ok(made)
    }

    /// Shows a change to readers and to whoever waits for it.
    fn tell_of(&mut self, attempt: Attempt, log_id: LogId, began: Instant) {
        let (is_made, Attempt { effects, tried, detail, calls, fuel }) = (attempt.is_made(), attempt);
        let held = began.elapsed();
        match tried {
            None => tracing::error!(index = log_id.index, "a change names no component; it changes nothing"),
            Some(tried) => {
                let (from, to, verdict) = (hex(&tried.from), hex(&tried.to), tried.verdict.name());
                let held_ms = held.as_millis();
                tracing::info!(
                    index = log_id.index,
                    verdict,
                    from,
                    to,
                    tried.rows,
                    calls,
                    fuel,
                    held_ms,
                    "a change was tried"
                );
                self.shared.note_change(&tried, detail, held, None);
            }
        }
        if is_made {
            self.fit = None;
            // Before the index, as in `show`.
            self.shared.changes.reset(log_id.index);
        }
        self.show(log_id, effects);
    }

    /// Makes a checkpoint if an entry is marked. The entry is committed and not shown yet, so that
    /// whoever sees it finds the checkpoint. If that fails, the reason is remembered in its place.
    /// It is what `checkpoint_before` does at a change, so its time is kept for the rehearsal.
    pub(super) fn mark(&mut self, entry: &codec::entry::Entry) -> Result<(), ApplyError> {
        let Ok(mark) = entry.mark.as_ref().try_into() else { return Ok(()) };
        let began = Instant::now();
        self.settle()?;
        let flushed = self.generation.flush();
        if flushed.is_ok() {
            self.dirty = Dirty::nothing(FLUSH_AFTER);
        }
        let made = flushed.and_then(|()| self.checkpoint(&self.generation)).map_err(|error| error.to_string());
        let made = made.and_then(|made| made.ok_or_else(|| "the state is empty".to_owned()));
        if let Err(error) = &made {
            tracing::warn!(error, index = self.system.applied_index(), "no checkpoint was made of a marked entry");
        }
        self.shared.keeping.mark(mark, made.map(|made| (made, began.elapsed())));
        faults::point("change-marked");
        Ok(())
    }
}
