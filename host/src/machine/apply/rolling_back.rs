//! The apply thread's part in a rollback: it waits for the shadow, makes a checkpoint of its state,
//! and puts that in force together with the old component. `rollback.rs` computes the effects, and
//! keeps the shadow.
//!
//! - The checkpoint comes first. A crash behind it starts from it or repeats the entry: both end in
//!   the new history. A crash before it repeats the entry.
//! - A node that cannot make the shadow applies nothing more. Its state is that of a history which
//!   the cluster took back.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::{Applier, RETRY};
use crate::codec::{self, Rollback};
use crate::faults;
use crate::guest::Component;
use crate::machine::ApplyError;
use crate::machine::entry::batch_of;
use crate::machine::profile::Profile;
use crate::machine::replay::history::HistoryError;
use crate::machine::rollback::shadow::thread::Plan;
use crate::machine::rollback::shadow::{Shadow, ShadowError, Taken};
use crate::machine::rollback::{effects, outdated, takes_back};
use crate::machine::system::System;
use crate::machine::tried::{RanAgain, Tried};
use crate::store::Checkpoint;
use crate::types::{LogId, hex};

/// Pause between two looks whether the shadow is complete.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// Pause between two log lines about how far the shadow is.
const TELL_PAUSE: Duration = Duration::from_secs(5);

impl Applier {
    /// Applies an entry with a rollback.
    pub(super) fn roll_back(
        &mut self,
        log_id: LogId,
        entry: &codec::entry::Entry,
        rollback: &Rollback,
    ) -> Result<(), ApplyError> {
        let began = Instant::now();
        let Some(changed) = takes_back(&self.system, entry, rollback) else {
            let (effects, tried) = outdated(&self.system, log_id, entry);
            self.commit(log_id, effects)?;
            self.tell_of_rollback(&tried, String::new(), began, None);
            return Ok(());
        };
        let taken = self.take_shadow(&changed, log_id)?;
        // It was there for the shadow, unless too many others were offered since.
        let component = self.shared.candidate(log_id.index, &changed.before.1).ok_or(ApplyError::Stopped)?;
        let (effects, tried) = effects(&taken.system, &changed, log_id, entry);
        self.gate.wait_durable(log_id.index)?;
        self.gate.note_served(log_id)?;
        self.until_there_is_room(|| {
            taken.generation.commit(&batch_of(&effects))?;
            taken.generation.flush()
        })?;
        let checkpoint = self.until_there_is_room(|| self.checkpoint(&taken.generation))?;
        let checkpoint = checkpoint.expect("a state that applied an entry has a position");
        faults::point("rollback-before-install");
        self.take_over(&checkpoint, effects.system, component)?;
        let words = match taken.different {
            0 => format!("{} commands ran once more, and all were answered as their callers were told", taken.commands),
            different => format!(
                "{} commands ran once more, and {different} of them were answered differently than their callers were told",
                taken.commands
            ),
        };
        let ran_again = RanAgain { commands: taken.commands, different: taken.different };
        self.tell_of_rollback(&tried, words, began, Some(ran_again));
        self.show_state();
        self.answer(log_id, effects.outcomes);
        self.shared.rolled_back.send_replace(log_id.index);
        Ok(())
    }

    /// Puts the state of a checkpoint in force, and ends what belongs to the history before.
    fn take_over(
        &mut self,
        checkpoint: &Arc<Checkpoint>,
        system: System,
        component: Component,
    ) -> Result<(), ApplyError> {
        let generation = Arc::new(self.until_there_is_room(|| self.shared.state.generation_of(checkpoint))?);
        self.put_in_force(generation, system, Some(component))?;
        faults::point("rollback-after-install");
        self.shared.keeping.forget_marks();
        self.shared.end_shadow();
        self.shared.counts.entries.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Returns the shadow's state as of the entry before this one. Waits for it, and has it made if
    /// there is none.
    fn take_shadow(&mut self, changed: &Arc<Profile>, log_id: LogId) -> Result<Taken, ApplyError> {
        let mut is_first = true;
        loop {
            match self.try_to_take(changed, log_id) {
                Ok(taken) => return Ok(taken),
                Err(_) if self.shared.stopping.load(Relaxed) => return Err(ApplyError::Stopped),
                Err(ShadowError::Lacks(why)) => return Err(self.left_behind(&why, log_id)),
                // One that was made before may have failed for a reason that has passed.
                Err(error) if is_first => tracing::warn!(%error, "the commands since the change are run once more"),
                Err(ShadowError::History(HistoryError::Store(error))) if error.is_passing() => {
                    self.shared.note_shortage(&error, "a rollback waits");
                }
                // A restart would find the same damage.
                Err(ShadowError::History(HistoryError::Store(error))) if error.is_damage() => {
                    return Err(self.left_behind(&error.to_string(), log_id));
                }
                Err(ShadowError::History(HistoryError::Store(error))) => return Err(error.into()),
                Err(ShadowError::History(HistoryError::Host(fault))) => return Err(fault.into()),
                Err(error @ (ShadowError::Short(_) | ShadowError::Ended)) => {
                    tracing::warn!(%error, "a rollback waits");
                }
            }
            is_first = false;
            std::thread::sleep(RETRY);
        }
    }

    fn try_to_take(&self, changed: &Arc<Profile>, log_id: LogId) -> Result<Taken, ShadowError> {
        let plan = Plan { profile: changed.clone(), is_urgent: true };
        let shadow = Shadow::find_or_start(&self.shared, &self.gate, plan)?;
        let mut told = Instant::now();
        shadow.take(LOOK_PAUSE, |at| {
            if told.elapsed() >= TELL_PAUSE {
                told = Instant::now();
                let until = log_id.index - 1;
                tracing::info!(at, until, "a rollback waits for the commands since the change to run once more");
            }
            !self.shared.stopping.load(Relaxed)
        })
    }

    /// Says that this node cannot follow, and waits for the node to stop.
    fn left_behind(&self, why: &str, log_id: LogId) -> ApplyError {
        let words = format!(
            "the cluster took a change back at entry {}, and this node cannot follow: {why}. It needs the state of another node: \
             `lockstep admin <addr> resync`",
            log_id.index
        );
        tracing::error!("{words}");
        self.shared.left_behind.send_replace(Some(words));
        while !self.shared.stopping.load(Relaxed) {
            std::thread::sleep(LOOK_PAUSE);
        }
        ApplyError::Stopped
    }

    fn tell_of_rollback(&self, tried: &Tried, words: String, began: Instant, ran_again: Option<RanAgain>) {
        let (from, to, verdict) = (hex(&tried.from), hex(&tried.to), tried.verdict.name());
        let (index, held) = (tried.index, began.elapsed());
        let held_ms = held.as_millis();
        tracing::info!(index, verdict, from, to, held_ms, words, "a rollback was tried");
        self.shared.note_change(tried, words, held, ran_again);
    }
}
