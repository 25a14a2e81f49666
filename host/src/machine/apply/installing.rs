//! The apply thread's part in replacing the whole state: by a received snapshot, or by a rollback.
//! It makes no state; it puts one in force, with the component that it needs.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Applier;
use crate::codec::Genesis;
use crate::guest::Component;
use crate::machine::dirty::{Dirty, FLUSH_AFTER};
use crate::machine::system::System;
use crate::machine::{ApplyError, fitness, rollback};
use crate::store::Generation;

impl Applier {
    /// Installs a complete generation as the current state.
    pub(super) fn install(&mut self, generation: Arc<Generation>) -> Result<(), ApplyError> {
        let system = System::read(&*generation)?;
        self.put_in_force(generation, system, None)?;
        self.shared.counts.snapshots_installed.fetch_add(1, Relaxed);
        self.show_state();
        if let Some(log_id) = self.system.applied {
            self.shared.waiters.snapshot_installed(log_id.leader_id);
        }
        Ok(())
    }

    /// Puts another state in force, and with it the component that its profile needs: this one, or
    /// one that is ready.
    pub(super) fn put_in_force(
        &mut self,
        generation: Arc<Generation>,
        system: System,
        component: Option<Component>,
    ) -> Result<(), ApplyError> {
        let index = system.applied_index();
        // The thread that flushes must not have the old state any more when that one is replaced.
        self.let_go();
        // A flush may wait for a compaction. It comes before the switch, which holds up readers.
        self.until_there_is_room(|| generation.flush())?;
        let install = || self.shared.state.install(generation.clone(), index);
        // Most snapshots need the component that is in use, and no reader has to wait for them.
        match system.in_force().map(|(_, profile)| profile).filter(|profile| !self.is_in_use(profile)) {
            None => self.until_there_is_room(install)?,
            Some(profile) => {
                self.until_there_is_room(|| self.shared.components.switch(profile, component.clone(), install))?;
            }
        }
        self.generation = generation;
        self.system = system;
        self.shared.recent.lock().begin(self.system.hash);
        self.fit = None;
        self.shared.keeping.hold(self.system.profile.as_deref(), self.system.time_ms, &self.shared.checkpoints);
        self.dirty = Dirty::nothing(FLUSH_AFTER);
        rollback::abandon(&self.shared.checkpoints, &self.system);
        Ok(())
    }

    /// Shows readers a state that was put in force, in the same order as in `commit`.
    pub(super) fn show_state(&self) {
        self.shared.changes.reset(self.system.applied_index());
        self.shared.publish(&self.system);
    }

    fn is_in_use(&self, profile: &Genesis) -> bool {
        fitness::check(profile, self.shared.component().as_ref()).is_ok()
    }
}
