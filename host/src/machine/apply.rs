//! The apply thread. It takes committed entries in order, makes one batch of each entry, commits
//! the batch, and notifies the waiting callers. It also installs snapshots, because no other thread
//! may write the state, and says when the state is flushed. `entry.rs` computes the effects of an
//! entry.
//!
//! - Entry i is committed to the state only when log entry i is durable on this node: after a crash
//!   the state is never ahead of the log.
//! - Before readers can see entry i, a durable note says so: after a crash they see no less.
//! - A fault stops this thread for good; no later entry is acknowledged.

mod changing;
mod flushing;
mod installing;
mod replaying;
mod rolling_back;

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use openraft::EntryPayload;
use openraft::storage::ApplyResponder;
use tokio::sync::oneshot;

use super::dirty::{Dirty, FIRST_FLUSH_AFTER};
use super::entry::{self, Effects, Runner, batch_of};
use super::executor::Executor;
use super::flusher::Flusher;
use super::outcome::Outcome;
use super::rows;
use super::shared::Shared;
use super::spent::EntrySpent;
use super::system::System;
use super::{ApplyError, MachineError};
use crate::codec::{self, Genesis, NeedsNewerBuild};
use crate::faults;
use crate::guest::{Component, Failure, Verdict};
use crate::logs::Foreign;
use crate::store::{Generation, Log, StoreError};
use crate::types::{Applied, Entry, EntryData, LogId, Origin, TypeConfig};

/// Time before a write of the state is retried, after the disk was full or no file descriptor was
/// left.
const RETRY: Duration = Duration::from_millis(500);

/// Time between two looks whether the flush under way has ended, while there is nothing to apply.
const FLUSH_LOOK: Duration = Duration::from_millis(20);

/// The conditions that must hold before the state takes an entry.
pub(crate) trait LogGate: Send + Sync + 'static {
    /// Blocks until log entry `index` is durable on this node.
    fn wait_durable(&self, index: u64) -> Result<(), StoreError>;
    /// Notes that readers will see `log_id` next. The note survives a crash of the process.
    fn note_served(&self, log_id: LogId) -> Result<(), StoreError>;
    /// Returns entries of `indexes`, from its start on: some of them, and none if the log does not
    /// have the first one. Blocks.
    fn read(&self, indexes: Range<u64>) -> Result<Vec<Entry>, StoreError>;
    /// Completes when everything submitted to the log so far is durable.
    fn barrier(&self) -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + '_>>;
}

impl LogGate for Log {
    fn wait_durable(&self, index: u64) -> Result<(), StoreError> {
        self.durable().wait(index)
    }

    fn note_served(&self, log_id: LogId) -> Result<(), StoreError> {
        Log::note_served(self, log_id)
    }

    fn read(&self, indexes: Range<u64>) -> Result<Vec<Entry>, StoreError> {
        self.read_here(indexes)
    }

    fn barrier(&self) -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + '_>> {
        Box::pin(Log::barrier(self))
    }
}

/// An entry, and the responder that openraft wants called when the entry is applied.
pub(crate) type Committed = (Entry, Option<ApplyResponder<TypeConfig>>);

type Done = oneshot::Sender<Result<(), ApplyError>>;

enum Job {
    Apply(Vec<Committed>, Done),
    /// Applies what the log holds behind the state, up to this index. Nobody waits for it.
    Replay(u64),
    /// Installs a complete generation as the current state.
    Install(Arc<Generation>, Done),
    Close(Done),
}

/// Sends jobs to the apply thread. Each caller waits for its answer, so the queue holds at most one
/// job for each caller, and one replay.
#[derive(Clone)]
pub(crate) struct ApplyHandle {
    jobs: Sender<Job>,
    shared: Arc<Shared>,
}

impl ApplyHandle {
    pub(crate) fn start(
        shared: Arc<Shared>,
        gate: Arc<dyn LogGate>,
        system: System,
        executor: &Executor,
    ) -> Result<Self, MachineError> {
        let (jobs, work) = channel();
        let generation = shared.state.current();
        let applier = Applier {
            shared: shared.clone(),
            gate,
            generation,
            system,
            dirty: Dirty::nothing(FIRST_FLUSH_AFTER),
            flusher: Flusher::start(executor)?,
            fit: None,
        };
        executor
            .start("apply", move || applier.run(work))
            .map_err(|source| MachineError::Thread { name: "apply", source })?;
        Ok(ApplyHandle { jobs, shared })
    }

    /// Applies entries in order.
    pub(crate) async fn apply(&self, entries: Vec<Committed>) -> Result<(), ApplyError> {
        self.ask(|done| Job::Apply(entries, done)).await
    }

    /// Has the thread apply what the log holds behind the state, up to entry `last`. Those entries
    /// are committed. Called once, before other entries are applied; does not wait.
    pub(crate) fn replay(&self, last: u64) {
        // A thread that has ended has said why.
        let _ended = self.jobs.send(Job::Replay(last));
    }

    /// Installs a complete generation as the current state.
    pub(crate) async fn install(&self, generation: Arc<Generation>) -> Result<(), ApplyError> {
        self.ask(|done| Job::Install(generation, done)).await
    }

    /// Flushes the state and ends the thread.
    pub(crate) async fn close(&self) -> Result<(), ApplyError> {
        self.shared.stop();
        match self.ask(Job::Close).await {
            Err(ApplyError::Stopped) => Ok(()),
            done => done,
        }
    }

    async fn ask(&self, job: impl FnOnce(Done) -> Job) -> Result<(), ApplyError> {
        let (done, answer) = oneshot::channel();
        self.jobs.send(job(done)).map_err(|_| ApplyError::Stopped)?;
        answer.await.unwrap_or(Err(ApplyError::Stopped))
    }
}

struct Applier {
    shared: Arc<Shared>,
    gate: Arc<dyn LogGate>,
    generation: Arc<Generation>,
    system: System,
    /// What was committed since the last flush began.
    dirty: Dirty,
    flusher: Flusher,
    /// The component found fit for the profile in force, and its version number. Comparing again
    /// for each entry would cost more than the entry itself.
    fit: Option<(u64, Component)>,
}

impl Applier {
    fn run(mut self, work: Receiver<Job>) {
        loop {
            let (result, done) = match self.next(&work) {
                Ok(Job::Apply(entries, done)) => (self.apply_all(entries), Some(done)),
                Ok(Job::Replay(last)) => (self.replay(last), None),
                Ok(Job::Install(generation, done)) => (self.install(generation), Some(done)),
                Ok(Job::Close(done)) => {
                    let flushed = self.flush();
                    // The caller may open the state again as soon as it has the answer.
                    drop(self);
                    // The caller may have gone; the flush is done anyway.
                    let _gone = done.send(flushed);
                    return;
                }
                Err(RecvTimeoutError::Timeout) => (self.flush_if_due(), None),
                Err(RecvTimeoutError::Disconnected) => {
                    if let Err(error) = self.flush_rest() {
                        self.end(&error.to_string());
                    }
                    return;
                }
            };
            let failed = result.as_ref().err().map(ToString::to_string);
            if let Some(done) = done {
                // openraft drops its future when it shuts down.
                let _gone = done.send(result);
            }
            if let Some(why) = failed {
                self.end(&why);
                // Who asks from now on learns that the thread has ended when `work` goes, and may
                // open the state again then.
                drop(self);
                return;
            }
        }
    }

    /// Returns the next job. Times out when a flush is due, or may have ended.
    fn next(&self, work: &Receiver<Job>) -> Result<Job, RecvTimeoutError> {
        let wait = if self.flusher.is_busy() { Some(FLUSH_LOOK) } else { self.dirty.due_in() };
        match wait {
            None => work.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(wait) => work.recv_timeout(wait),
        }
    }

    /// Flushes what is not flushed, when nobody has the machine any more.
    fn flush_rest(&mut self) -> Result<(), ApplyError> {
        self.settle()?;
        if self.dirty.due_in().is_some() { self.flush() } else { Ok(()) }
    }

    /// Reports a fault as fatal. A stop while an entry waited, or before all were replayed, is not
    /// a fault.
    fn end(&mut self, why: &str) {
        if !self.shared.stopping.load(Relaxed) {
            self.shared.fatal.raise(format!("apply after index {}: {why}", self.system.applied_index()));
        } else if let Err(error) = self.flush() {
            tracing::error!(%error, "the state was not flushed at the stop; the next start replays more of the log");
        }
    }

    fn apply_all(&mut self, entries: Vec<Committed>) -> Result<(), ApplyError> {
        for (entry, responder) in entries {
            *self.shared.applying.lock() = Some(Instant::now());
            let applied = self.apply(&entry);
            *self.shared.applying.lock() = None;
            applied?;
            if let Some(responder) = responder {
                responder.send(Applied);
            }
            self.flush_if_due()?;
        }
        Ok(())
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), ApplyError> {
        let log_id = entry.log_id;
        faults::point("apply-entry");
        match &entry.payload {
            EntryPayload::Blank => self.commit(log_id, entry::empty(&self.system, log_id, self.system.clone())),
            EntryPayload::Membership(membership) => {
                self.commit(log_id, entry::membership(&self.system, log_id, membership))
            }
            EntryPayload::Normal(data) => self.normal(log_id, data),
        }
    }

    fn normal(&mut self, log_id: LogId, data: &EntryData) -> Result<(), ApplyError> {
        let entry = match codec::decode_entry(data) {
            Ok(entry) => entry,
            Err(error) => {
                // The log's checksum was right, so every replica has these bytes and does the same:
                // nothing.
                tracing::error!(index = log_id.index, %error, "a log entry cannot be decoded; it is applied as an empty one");
                self.shared.counts.undecodable.fetch_add(1, Relaxed);
                return self.commit(log_id, entry::empty(&self.system, log_id, self.system.clone()));
            }
        };
        codec::check_needs(log_id.index, &entry).or_else(|needs| self.wait_for_newer_build(&needs))?;
        if entry.hash_index != 0 {
            self.shared.compare_hash(entry.hash_index, entry.hash);
        }
        match (&entry.change, &entry.rollback) {
            (Some(change), _) => self.change(log_id, &entry, change),
            (None, Some(rollback)) => self.roll_back(log_id, &entry, rollback),
            (None, None) => self.run_commands(log_id, &entry),
        }
    }

    /// Stands still before an entry that this build does not know, until the process ends. The node
    /// says why by its mode, and goes on when a newer build starts.
    fn wait_for_newer_build(&self, needs: &NeedsNewerBuild) -> Result<(), ApplyError> {
        self.shared.set_outdated(needs.to_string());
        while !self.shared.stopping.load(Relaxed) {
            std::thread::sleep(RETRY);
        }
        Err(ApplyError::Stopped)
    }

    /// Runs the commands of an entry.
    fn run_commands(&mut self, log_id: LogId, entry: &codec::entry::Entry) -> Result<(), ApplyError> {
        let component = match !entry.commands.is_empty() || entry.genesis.is_some() {
            true => self.fit_component(entry.genesis.as_ref())?,
            false => None,
        };
        let runner =
            component.as_ref().map(|component| Runner { instances: component, limits: component.engine().limits() });
        let began = Instant::now();
        let mut effects = entry::normal(&self.system, log_id, entry, runner, self.generation.clone())?;
        let (run, took) = (effects.system.counters.commands - self.system.counters.commands, began.elapsed());
        if run > 0 {
            let elapsed_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            self.shared.counts.commands_run.fetch_add(run, Relaxed);
            self.shared.counts.commands_run_us.fetch_add(elapsed_us, Relaxed);
        }
        let report = entry.rows.as_ref().map(|rows| rows::report(log_id.index, &effects.system, rows, &effects.writes));
        if report.is_some() {
            // Whoever waits for the entry finds the report.
            *self.shared.rows_here.lock() = report;
        }
        self.put(log_id, &effects, None)?;
        // Whoever proposed the entry finds it when the entry is answered.
        let commands = std::mem::take(&mut effects.spent);
        self.shared.spent.note(log_id.index, EntrySpent { commands, took });
        self.mark(entry)?;
        self.show(log_id, effects);
        Ok(())
    }

    /// Returns the component of the profile in force, or else of `proposed`; `None` when there is
    /// neither.
    fn fit_component(&mut self, proposed: Option<&Genesis>) -> Result<Option<Component>, ApplyError> {
        let version = self.shared.components.version();
        if let Some((_, component)) = self.fit.as_ref().filter(|fit| fit.0 == version) {
            return Ok(Some(component.clone()));
        }
        let recorded = self.system.in_force().map(|(_, profile)| profile);
        let Some(profile) = recorded.or(proposed) else { return Ok(None) };
        let component = self.shared.fit_component(profile).ok_or(ApplyError::Stopped)?;
        // A waiting component may have been put into use meanwhile. The next entry compares again.
        self.fit = recorded.map(|_| (version, component.clone()));
        Ok(Some(component))
    }

    fn commit(&mut self, log_id: LogId, effects: Effects) -> Result<(), ApplyError> {
        self.put(log_id, &effects, None)?;
        self.show(log_id, effects);
        Ok(())
    }

    /// Shows the committed effects of an entry to readers, and answers its commands.
    fn show(&self, log_id: LogId, effects: Effects) {
        // First wake the readers that depend on these keys, then publish the index: a caller that
        // waited for an index then finds that all changes up to it are reported.
        self.shared.changes.committed(log_id.index, effects.writes.into_keys().collect());
        self.shared.publish(&self.system);
        self.answer(log_id, effects.outcomes);
    }

    /// Commits the effects of an entry to the state. A component that takes over is put into use
    /// with them.
    fn put(&mut self, log_id: LogId, effects: &Effects, takes_over: Option<&Component>) -> Result<(), ApplyError> {
        let batch = batch_of(effects);
        self.gate.wait_durable(log_id.index)?;
        self.gate.note_served(log_id)?;
        match takes_over.zip(effects.system.in_force()) {
            None => self.until_there_is_room(|| self.generation.commit(&batch))?,
            Some((component, (_, profile))) => self.until_there_is_room(|| {
                self.shared.components.switch(profile, Some(component.clone()), || {
                    self.generation.commit(&batch)?;
                    faults::point("change-after-commit");
                    Ok(())
                })
            })?,
        }
        self.dirty.note(batch.bytes());
        self.system = effects.system.clone();
        if faults::is_set("apply-diverge") {
            self.system.hash.hash ^= 1;
        }
        self.shared.recent.lock().push(self.system.hash);
        self.shared.counts.entries.fetch_add(1, Relaxed);
        Ok(())
    }

    fn answer(&self, log_id: LogId, outcomes: Vec<(Option<Origin>, Verdict)>) {
        let (index, term) = (log_id.index, log_id.leader_id.term);
        let mut awaited = Vec::new();
        for (position, (origin, verdict)) in (0u32..).zip(outcomes) {
            if let Verdict::Failed(failure) = &verdict {
                self.note_failure(index, position, failure);
            }
            if let Some(origin) = origin.filter(|origin| self.shared.waiters.is_awaited(origin)) {
                awaited.push((origin, Outcome { index, position, term, time_ms: self.system.time_ms, verdict }));
            }
        }
        self.shared.waiters.entry_applied(log_id.leader_id, awaited);
    }

    /// Counts a failed command and logs some of them. A client can cause any number of failures,
    /// and every client waits for this thread, so the number of log lines is limited.
    fn note_failure(&self, index: u64, position: u32, failure: &Failure) {
        self.shared.counts.failures.add(failure.reason);
        if let Some(left_out) = self.shared.command_failures.due() {
            let detail = Foreign(&failure.detail);
            tracing::warn!(index, position, left_out, reason = ?failure.reason, %detail, "a command failed");
        }
    }

    /// Retries `write` while the disk is full or no file descriptor is left. A committed entry has
    /// to be applied, and reads go on meanwhile.
    fn until_there_is_room<T>(&self, write: impl Fn() -> Result<T, StoreError>) -> Result<T, ApplyError> {
        loop {
            match write() {
                Err(error) if error.is_passing() && self.shared.stopping.load(Relaxed) => {
                    return Err(ApplyError::Stopped);
                }
                Err(error) if error.is_passing() => {
                    self.shared.note_shortage(&error, "the state is not written yet");
                    std::thread::sleep(RETRY);
                }
                written => return Ok(written?),
            }
        }
    }
}

impl Drop for Applier {
    fn drop(&mut self) {
        // The caller of `close` may open the state again, so nothing else may stand beside it.
        self.shared.end_shadow();
    }
}
