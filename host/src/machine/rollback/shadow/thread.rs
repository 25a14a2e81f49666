//! The thread that makes a shadow, and keeps it level with the applied entries until it is taken or
//! not wanted any more. It decides nothing, and writes to scratch states alone.
//!
//! - It runs applied entries alone, so it is never ahead of the state in use.
//! - It runs exactly the commands that were run. What an entry had no fuel for stands in a later
//!   one, and only the component that ran it knows that. So a second history runs the same entries
//!   with the change; it also knows what clients were told.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{End, Shadow, ShadowError, Taken};
use crate::codec::Genesis;
use crate::faults;
use crate::guest::{CALLER_STACK_BYTES, Component, Verdict};
use crate::logs::Sparse;
use crate::machine::apply::LogGate;
use crate::machine::profile::Profile;
use crate::machine::replay::history::{Content, History};
use crate::machine::shared::Shared;
use crate::store::{Checkpoint, Level};
use crate::threads;
use crate::types::{Entry, LogId};

/// How long a shadow is kept that nobody asks for. It keeps the files of the checkpoint's time.
const KEPT: Duration = Duration::from_secs(120);
/// Pause before a shadow that is level looks for another entry.
const LEVEL_PAUSE: Duration = Duration::from_millis(10);
/// Longest pause before another look whether there is room.
const ROOM_PAUSE: Duration = Duration::from_millis(500);
/// Entries that are read at once.
const ENTRIES_AT_ONCE: u64 = 64;

/// What a shadow is made for.
pub(crate) struct Plan {
    /// The profile of the change.
    pub(crate) profile: Arc<Profile>,
    /// Whether apply waits for it. It then does not give way, and waits while it has no room.
    pub(crate) is_urgent: bool,
}

impl Shadow {
    /// Returns the shadow that a plan asks for. Ends any other one, unless apply has taken that one
    /// and this plan can wait.
    pub(crate) fn find_or_start(
        shared: &Arc<Shared>,
        gate: &Arc<dyn LogGate>,
        plan: Plan,
    ) -> Result<Arc<Shadow>, ShadowError> {
        let mut slot = shared.shadow.lock();
        if let Some(shadow) = slot.as_ref().filter(|shadow| shadow.fits(&plan)) {
            shadow.status.lock().asked = Instant::now();
            return Ok(shadow.clone());
        }
        if !plan.is_urgent && slot.as_ref().is_some_and(|shadow| shadow.status.lock().is_taken) {
            return Err(ShadowError::Short("a rollback has begun on this node".to_owned()));
        }
        if let Some(other) = slot.take() {
            other.end();
        }
        // Checked with the slot locked: `end_shadow` comes after that.
        if shared.stopping.load(Ordering::Acquire) {
            return Err(ShadowError::Ended);
        }
        let checkpoint = shared.keeping.before_change(&plan.profile, &shared.checkpoints).ok_or_else(|| {
            ShadowError::Lacks(format!(
                "it has no checkpoint from before the change at entry {}: it joined after that, or was sent a snapshot",
                plan.profile.index
            ))
        })?;
        let shadow = Arc::new(Shadow::new(plan.profile.index, checkpoint.index));
        let is_urgent = plan.is_urgent;
        let work = Work { shadow: shadow.clone(), shared: shared.clone(), gate: gate.clone(), plan, checkpoint };
        let started = std::thread::Builder::new().name("rollback".into()).stack_size(CALLER_STACK_BYTES);
        started
            .spawn(move || {
                if !is_urgent {
                    threads::give_way();
                }
                work.run();
            })
            .map_err(|error| ShadowError::Short(format!("no thread for the rollback: {error}")))?;
        *slot = Some(shadow.clone());
        Ok(shadow)
    }

    fn fits(&self, plan: &Plan) -> bool {
        self.change_index == plan.profile.index && self.status.lock().end.is_none()
    }
}

impl Shared {
    /// Ends the shadow, if there is one, and waits until it has let go of its state.
    pub(crate) fn end_shadow(&self) {
        if let Some(shadow) = self.shadow.lock().take() {
            shadow.end();
        }
    }
}

/// What the thread works with.
struct Work {
    shadow: Arc<Shadow>,
    shared: Arc<Shared>,
    gate: Arc<dyn LogGate>,
    plan: Plan,
    checkpoint: Arc<Checkpoint>,
}

/// Ends the shadow even if its thread panics: others wait for its end.
struct Telling(Arc<Shadow>);

impl Drop for Telling {
    fn drop(&mut self) {
        let mut status = self.0.status.lock();
        status.end.get_or_insert(End::Failed(ShadowError::Short(
            "running the commands once more ended with a panic, which is in this node's log".into(),
        )));
        self.0.changed.notify_all();
    }
}

impl Work {
    fn run(self) {
        let telling = Telling(self.shadow.clone());
        // The histories are gone when the end is told, so that their directories are, too.
        let ended = match self.follow() {
            Ok(taken) => End::Taken(Box::new(taken)),
            Err(error) => {
                if !matches!(error, ShadowError::Ended) {
                    tracing::warn!(%error, change = self.plan.profile.index, "a rollback cannot be made ready");
                }
                End::Failed(error)
            }
        };
        drop(self);
        telling.0.status.lock().end = Some(ended);
    }

    /// Runs the entries until the shadow is taken.
    fn follow(&self) -> Result<Taken, ShadowError> {
        let (profile, state, checkpoint) = (&self.plan.profile, &self.shared.state, &self.checkpoint);
        let component = self.component(&profile.before.1)?;
        let mut told = History::begin(state, checkpoint, component.clone())?;
        let mut history = History::begin(state, checkpoint, component)?.without_limits_of_entries();
        loop {
            self.check()?;
            let next = history.system().applied_index() + 1;
            let applied = self.shared.progress.applied();
            if next > applied {
                if self.wait() {
                    break;
                }
                continue;
            }
            self.wait_for_room()?;
            let entries = self.gate.read(next..(applied + 1).min(next + ENTRIES_AT_ONCE))?;
            if entries.is_empty() {
                return Err(ShadowError::Lacks(format!("its log no longer has entry {next}")));
            }
            for entry in entries {
                self.check()?;
                self.run_entry(&mut history, &mut told, &entry)?;
            }
        }
        let status = self.shadow.status.lock();
        let (commands, different) = (status.answered.commands, status.answered.different);
        drop(status);
        let (generation, system) = history.into_state();
        Ok(Taken { generation, system, commands, different })
    }

    /// Waits for a component. Others fetch it meanwhile.
    fn component(&self, profile: &Genesis) -> Result<Component, ShadowError> {
        let found = self.shared.components.wait_for(profile, || self.check().is_ok());
        found.ok_or_else(|| self.check().err().unwrap_or(ShadowError::Ended))
    }

    /// Runs an entry as it was run, and then without the change. The first says which commands were
    /// run, and what their callers were told.
    fn run_entry(&self, history: &mut History, told: &mut History, entry: &Entry) -> Result<(), ShadowError> {
        faults::point("shadow-running");
        let (log_id, content) = (entry.log_id, Content::of(entry));
        let answered = self.tell(told, log_id, &content)?;
        let content = content.having_run(&answered);
        let verdicts = history.apply(log_id, &content)?;
        let hash = history.system().hash;
        let mut status = self.shadow.status.lock();
        status.at = log_id.index;
        status.recent.push(hash);
        if let Content::Commands(entry) = &content {
            status.answered.compare(log_id.index, &entry.commands, &answered, &verdicts);
        }
        Ok(())
    }

    /// Runs an entry as it was run, with the change.
    fn tell(&self, told: &mut History, log_id: LogId, content: &Content) -> Result<Vec<Verdict>, ShadowError> {
        let profile = &self.plan.profile;
        match content {
            Content::Change(entry) if log_id.index == profile.index => {
                let after = self.component(&profile.genesis)?;
                let changed = told.change(log_id, entry, Some(after), &|| self.check().is_err());
                if changed.is_err() {
                    // It may be that it was cancelled, and then this says why.
                    self.check()?;
                }
                changed?;
                Ok(Vec::new())
            }
            content => Ok(told.apply(log_id, content)?),
        }
    }

    /// Waits for another entry. Returns whether the shadow is to be taken as it is.
    fn wait(&self) -> bool {
        let mut status = self.shadow.status.lock();
        if !status.is_taken {
            self.shadow.changed.wait_for(&mut status, LEVEL_PAUSE);
        }
        // Apply stands still once it is taken; but it may have gone on just before.
        status.is_taken && status.at == self.shared.progress.applied()
    }

    /// Waits while there is no room for scratch files, if apply waits for the shadow. What it has
    /// run stays of use meanwhile.
    fn wait_for_room(&self) -> Result<(), ShadowError> {
        let told = Sparse::default();
        while self.holds_apply()
            && let Some(why) = self.shared.space.refuses_scratch(0)?
        {
            self.check()?;
            if told.due().is_some() {
                tracing::warn!(why, "a rollback waits for room");
            }
            let mut status = self.shadow.status.lock();
            self.shadow.changed.wait_for(&mut status, ROOM_PAUSE);
        }
        Ok(())
    }

    fn holds_apply(&self) -> bool {
        self.plan.is_urgent || self.shadow.status.lock().is_taken
    }

    fn check(&self) -> Result<(), ShadowError> {
        if self.shared.stopping.load(Ordering::Acquire) {
            return Err(ShadowError::Ended);
        }
        let status = self.shadow.status.lock();
        let is_wanted = status.is_taken || self.plan.is_urgent;
        if status.is_cancelled || (!is_wanted && status.asked.elapsed() > KEPT) {
            return Err(ShadowError::Ended);
        }
        drop(status);
        let is_short = !is_wanted && self.shared.space.status().level != Level::Ample;
        match is_short.then(|| self.shared.space.refuses_commands()) {
            Some(why) => {
                Err(ShadowError::Short(format!("there is no room to take a change back: {}", why.unwrap_or_default())))
            }
            None => Ok(()),
        }
    }
}
