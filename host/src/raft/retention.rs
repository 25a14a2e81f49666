//! When a snapshot is made and how much log stays behind it. openraft's own policy and purge are off: theirs count entries, an
//! operator's flags count commands. Makes nothing itself: `machine` makes checkpoints, `store/log` purges.
//!
//! - A checkpoint is considered every interval, spread over one to two times it, and made when enough happened since the last.
//! - The log keeps `trailing_commands` behind the newest checkpoint, and never fewer than `trailing_entries_min` entries.
//! - Nothing is purged that the newest checkpoint does not hold.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::sleep;

use super::Raft;
use crate::machine::Machine;
use crate::store::Log;

/// Log bytes since the last checkpoint that are enough by themselves.
const LOG_BYTES_ENOUGH: u64 = 256 << 20;

/// openraft takes a checkpoint that is ready by asking for its name; a core that takes longer has other troubles.
const TAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two notes of how many commands had been applied at which index, while entries are applied. A coarser note only keeps
/// more of the log; a short burst of commands must not fall between two.
const SAMPLE_PAUSE: Duration = Duration::from_millis(10);

/// Notes kept: when full, every second one is dropped, so that they always reach back far enough.
const SAMPLES_MAX: usize = 4_096;

/// What an operator sets.
#[derive(Clone, Copy, Debug)]
pub struct RetentionLimits {
    /// How often a checkpoint is considered.
    pub interval: Duration,
    /// Commands since the last one that make another worth it.
    pub threshold_commands: u64,
    /// Commands that stay in the log behind the newest checkpoint.
    pub trailing_commands: u64,
    /// Entries that stay in any case: a batch of commands is one entry, and a follower is behind by entries.
    pub trailing_entries_min: u64,
}

/// At `index`, `commands` had been applied since the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sample {
    index: u64,
    commands: u64,
}

/// Makes snapshots and purges the log. Cheap to clone.
#[derive(Clone)]
pub struct Retention(Arc<Inner>);

struct Inner {
    raft: Raft,
    machine: Machine,
    log: Log,
    limits: RetentionLimits,
    samples: Mutex<Samples>,
}

impl Retention {
    /// For one group.
    pub fn new(raft: Raft, machine: Machine, log: Log, limits: RetentionLimits) -> Retention {
        let samples = Mutex::new(Samples::default());
        Retention(Arc::new(Inner { raft, machine, log, limits, samples }))
    }

    /// Makes a snapshot of the state as it is now and purges what it makes superfluous. Its last index, or why there is none.
    pub async fn take_now(&self) -> Result<u64, String> {
        let inner = &self.0;
        if inner.machine.applied_index() == 0 {
            return Err("nothing has been applied yet, so there is nothing to make a snapshot of".into());
        }
        let index = inner.machine.snapshots().take().await.map_err(|error| error.to_string())?;
        inner.raft.trigger().snapshot().await.map_err(|error| error.to_string())?;
        let held = |metrics: &openraft::RaftMetrics<crate::types::TypeConfig>| {
            metrics.snapshot.as_ref().is_some_and(|snapshot| snapshot.index >= index)
        };
        let taken = inner.raft.wait(Some(TAKE_TIMEOUT));
        taken.metrics(held, "Raft holds the snapshot").await.map_err(|error| error.to_string())?;
        self.purge(index).await?;
        Ok(index)
    }

    /// Runs until dropped.
    pub async fn run(self) {
        self.remember().await;
        loop {
            let pause = self.0.limits.interval.mul_f64(1.0 + spread());
            tokio::select! {
                () = sleep(pause) => {}
                () = self.keep_notes() => {}
            }
            if self.is_worth_it()
                && let Err(reason) = self.take_now().await
            {
                tracing::warn!(reason, "no snapshot was made; the log keeps growing until one is");
            }
        }
    }

    /// What the checkpoints of earlier runs tell about how many commands had been applied where.
    async fn remember(&self) {
        let snapshots = self.0.machine.snapshots().clone();
        match tokio::task::spawn_blocking(move || snapshots.commands_at_checkpoints()).await {
            Ok(found) => {
                let mut samples = self.0.samples.lock();
                found.into_iter().for_each(|(index, commands)| samples.note(Sample { index, commands }));
            }
            Err(error) => tracing::warn!(%error, "the snapshots on disk were not read; the log is kept longer"),
        }
    }

    /// Notes while entries are applied, for ever.
    async fn keep_notes(&self) {
        let mut applied = self.0.machine.applied();
        loop {
            let index = applied.borrow_and_update().log_id.map_or(0, |id| id.index);
            // Read after the index: a count that is an entry too high keeps an entry more.
            let commands = self.0.machine.commands_applied();
            self.0.samples.lock().note(Sample { index, commands });
            sleep(SAMPLE_PAUSE).await;
            if applied.changed().await.is_err() {
                // The machine lives as long as the node, and so does this.
                return std::future::pending().await;
            }
        }
    }

    fn is_worth_it(&self) -> bool {
        let status = self.0.machine.status();
        let samples = self.0.samples.lock();
        let since = status.commands_applied.saturating_sub(samples.commands_at(status.last_snapshot_index));
        let bytes = self.0.log.stats().written_bytes.saturating_sub(samples.bytes_at_snapshot);
        let moved = status.applied.is_some_and(|applied| applied.index > status.last_snapshot_index);
        moved && (since >= self.0.limits.threshold_commands || bytes >= LOG_BYTES_ENOUGH)
    }

    async fn purge(&self, snapshot_index: u64) -> Result<(), String> {
        let upto = {
            let mut samples = self.0.samples.lock();
            samples.bytes_at_snapshot = self.0.log.stats().written_bytes;
            samples.purgeable(snapshot_index, &self.0.limits)
        };
        match upto {
            Some(upto) => self.0.raft.trigger().purge_log(upto).await.map_err(|error| error.to_string()),
            None => Ok(()),
        }
    }
}

/// A number from 0 to 1, so that the nodes of a cluster do not make their snapshots at one moment. Not on the apply path.
fn spread() -> f64 {
    match getrandom::u32() {
        Ok(number) => f64::from(number) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

/// Notes of (index, commands), growing in both.
#[derive(Debug, Default)]
struct Samples {
    notes: VecDeque<Sample>,
    bytes_at_snapshot: u64,
}

impl Samples {
    fn note(&mut self, sample: Sample) {
        if self.notes.back().is_none_or(|last| last.index < sample.index) {
            self.notes.push_back(sample);
        }
        if self.notes.len() > SAMPLES_MAX {
            let mut keep = false;
            self.notes.retain(|_| {
                keep = !keep;
                keep
            });
        }
    }

    /// Commands that had certainly been applied at `index`.
    fn commands_at(&self, index: u64) -> u64 {
        self.notes.iter().rev().find(|note| note.index <= index).map_or(0, |note| note.commands)
    }

    /// The last entry that may go: `trailing_commands` lie between it and the snapshot, and enough entries, too.
    fn purgeable(&self, snapshot_index: u64, limits: &RetentionLimits) -> Option<u64> {
        let by_entries = snapshot_index.checked_sub(limits.trailing_entries_min)?;
        let commands = self.commands_at(snapshot_index).checked_sub(limits.trailing_commands)?;
        let by_commands = self.notes.iter().rev().find(|note| note.commands <= commands)?.index;
        Some(by_entries.min(by_commands)).filter(|upto| *upto > 0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn limits(trailing_commands: u64, trailing_entries_min: u64) -> RetentionLimits {
        RetentionLimits {
            interval: Duration::from_secs(1),
            threshold_commands: 1,
            trailing_commands,
            trailing_entries_min,
        }
    }

    fn samples(notes: &[(u64, u64)]) -> Samples {
        let mut samples = Samples::default();
        for (index, commands) in notes {
            samples.note(Sample { index: *index, commands: *commands });
        }
        samples
    }

    #[test]
    fn the_log_keeps_trailing_commands_behind_the_snapshot() {
        let samples = samples(&[(10, 100), (20, 200), (30, 300), (40, 400)]);
        assert_eq!(samples.purgeable(40, &limits(150, 0)), Some(20));
        assert_eq!(samples.purgeable(40, &limits(100, 0)), Some(30));
        assert_eq!(samples.purgeable(40, &limits(0, 0)), Some(40));
    }

    #[test]
    fn the_log_keeps_a_least_number_of_entries() {
        let samples = samples(&[(10, 100), (20, 200), (30, 300), (40, 400)]);
        assert_eq!(samples.purgeable(40, &limits(0, 25)), Some(15));
        assert_eq!(samples.purgeable(40, &limits(0, 40)), None);
        assert_eq!(samples.purgeable(40, &limits(0, 10_240)), None);
    }

    #[test]
    fn nothing_goes_that_is_not_known_to_be_superfluous() {
        assert_eq!(samples(&[]).purgeable(1_000, &limits(0, 0)), None);
        assert_eq!(samples(&[(500, 500)]).purgeable(1_000, &limits(10_240, 0)), None);
        // A snapshot between two notes counts what the earlier one had.
        assert_eq!(samples(&[(10, 100), (20, 200)]).purgeable(15, &limits(50, 0)), None);
    }

    #[test]
    fn notes_stay_bounded_and_reach_back() {
        let mut samples = Samples::default();
        for n in 1..100_000 {
            samples.note(Sample { index: n, commands: n });
        }
        assert!(samples.notes.len() <= SAMPLES_MAX);
        assert_eq!(samples.notes.front().unwrap().index, 1);
    }
}
