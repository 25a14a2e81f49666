//! Decides when a snapshot is made and how much log stays behind it. openraft's own policy and
//! purge are off: they count entries, and an operator's flags count commands. Makes no checkpoint
//! itself (`machine` does) and purges no log (`store/log` does).
//!
//! - A checkpoint is considered every interval, spread over one to two times it, and made when
//!   enough has happened since the last one.
//! - A checkpoint is made at once when a change of the machine was taken back.
//! - The log keeps `trailing_commands` behind the newest checkpoint, and never fewer than
//!   `trailing_entries_min` entries. Older checkpoints keep no log.
//! - The log that a node needs after the snapshot being sent to it stays, also for a while after
//!   the transfer. So does the log after a change of the machine that may be taken back.
//! - A log larger than its quota raises an alarm: a checkpoint is made at once, and only the log
//!   that the two rules around this one demand is kept.
//! - A value that the cluster has set by an entry holds in place of this node's flag, from the
//!   moment at which the entry is applied here.
//! - Nothing is purged that an archive of the log has not got, if there is one.
//! - Nothing is purged that the newest checkpoint does not hold. A checkpoint is durable, and so is
//!   the state that it was made of.

mod samples;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::sleep;

use super::Raft;
use super::archive::{Archive, ArchiveStatus};
use crate::machine::{Machine, Operation};
use crate::store::Log;
use samples::{Sample, Samples};

/// Longest wait for openraft to take a finished checkpoint, which it does by asking for its name. A
/// core that takes longer has other problems.
const TAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause between two notes of how many commands had been applied at which index, while entries are
/// applied. A coarser note only keeps more of the log. A short burst of commands must not fall
/// between two notes.
const SAMPLE_PAUSE: Duration = Duration::from_millis(10);

/// How long the log that a snapshot's receiver needs next stays after the transfer has ended,
/// successfully or not. The receiver then follows the log, or is sent another snapshot.
const RECENTLY: Duration = Duration::from_secs(60);

/// Time between two looks at the quota and at the log that stayed for a transfer.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Time after which a log that stays above its quota is reported again.
const ALARM_AGAIN: Duration = Duration::from_secs(60);

/// Time between two attempts to shorten the log by a snapshot.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// The operator's settings.
#[derive(Clone, Copy, Debug)]
pub struct RetentionLimits {
    /// How often a checkpoint is considered.
    pub interval: Duration,
    /// Commands since the last checkpoint that make another one worthwhile.
    pub threshold_commands: u64,
    /// Log bytes since the last checkpoint that make another one worthwhile; 0: never.
    pub threshold_bytes: u64,
    /// Commands that stay in the log behind the newest checkpoint.
    pub trailing_commands: u64,
    /// Entries that stay in any case: a batch of commands is one entry, and a follower's lag is
    /// counted in entries.
    pub trailing_entries_min: u64,
    /// Bytes of log above which the alarm is on; 0: never.
    pub log_bytes_max: u64,
}

impl RetentionLimits {
    /// Returns the value of a key of [`Operation`]; `None` if it is not about retention.
    pub fn value(&self, key: &str) -> Option<u64> {
        Some(match key {
            "snapshot_interval_ms" => u64::try_from(self.interval.as_millis()).unwrap_or(u64::MAX),
            "snapshot_threshold_commands" => self.threshold_commands,
            "snapshot_threshold_bytes" => self.threshold_bytes,
            "trailing_commands" => self.trailing_commands,
            "trailing_entries_min" => self.trailing_entries_min,
            "log_quota_bytes" => self.log_bytes_max,
            _ => return None,
        })
    }

    /// Says how values that the cluster sets would contradict these flags. `None` if they would
    /// not, or if the ones in force, `now`, do so already.
    pub fn contradiction(&self, now: &Operation, then: &Operation) -> Option<String> {
        let is_wrong =
            |limits: &RetentionLimits| limits.log_bytes_max != 0 && limits.threshold_bytes > limits.log_bytes_max;
        let after = self.under(then);
        if !is_wrong(&after) || is_wrong(&self.under(now)) {
            return None;
        }
        let by = |key: &str, flag: &str| if then.number(key).is_some() { String::new() } else { format!(" by {flag}") };
        Some(format!(
            "snapshot_threshold_bytes is {} there{}, above log_quota_bytes, which is {}{}: every snapshot would come with the alarm of a log \
             above its quota. Set both",
            after.threshold_bytes,
            by("snapshot_threshold_bytes", "--snapshot_threshold_bytes"),
            after.log_bytes_max,
            by("log_quota_bytes", "--log_quota"),
        ))
    }

    /// Returns these settings, with those in their place that the cluster has set.
    pub fn under(&self, operation: &Operation) -> RetentionLimits {
        let number = |key: &str, own: u64| operation.number(key).unwrap_or(own);
        RetentionLimits {
            interval: operation.number("snapshot_interval_ms").map_or(self.interval, Duration::from_millis),
            threshold_commands: number("snapshot_threshold_commands", self.threshold_commands),
            threshold_bytes: number("snapshot_threshold_bytes", self.threshold_bytes),
            trailing_commands: number("trailing_commands", self.trailing_commands),
            trailing_entries_min: number("trailing_entries_min", self.trailing_entries_min),
            log_bytes_max: number("log_quota_bytes", self.log_bytes_max),
        }
    }
}

/// Size of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionStatus {
    /// Approximate bytes of the entries in the log.
    pub log_bytes: u64,
    /// Whether that is above the quota.
    pub over_quota: bool,
    /// Figures of the archive of the log; those of an empty one if there is none.
    pub archive: ArchiveStatus,
}

/// Makes snapshots and purges the log. Cheap to clone.
#[derive(Clone)]
pub struct Retention(Arc<Inner>);

struct Inner {
    raft: Raft,
    machine: Machine,
    log: Log,
    /// Those of this node's flags.
    own: RetentionLimits,
    archive: Option<Archive>,
    samples: Mutex<Samples>,
    over_quota: AtomicBool,
    /// Allows one snapshot at a time: two would purge by each other's numbers.
    taking: tokio::sync::Mutex<()>,
}

impl Retention {
    /// Creates the retention of one group. With an archive, nothing is purged that it has not got.
    pub fn new(raft: Raft, machine: Machine, log: Log, own: RetentionLimits, archive: Option<Archive>) -> Retention {
        let samples = Mutex::new(Samples::new(&log.stats()));
        let (over_quota, taking) = Default::default();
        Retention(Arc::new(Inner { raft, machine, log, own, archive, samples, over_quota, taking }))
    }

    /// Makes a snapshot of the state as it is now and purges the log that it makes superfluous.
    /// Returns the snapshot's last index, or why there is none.
    pub async fn take_now(&self) -> Result<u64, String> {
        let inner = &self.0;
        let _turn = inner.taking.lock().await;
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

    /// Returns the settings of this node's flags, whatever the cluster has set.
    pub fn own(&self) -> &RetentionLimits {
        &self.0.own
    }

    fn limits(&self) -> RetentionLimits {
        self.0.own.under(&self.0.machine.operation())
    }

    /// Returns the size of the log.
    pub fn status(&self) -> RetentionStatus {
        let archive = self.0.archive.as_ref().map(Archive::status).unwrap_or_default();
        RetentionStatus { log_bytes: self.log_bytes(), over_quota: self.0.over_quota.load(Relaxed), archive }
    }

    /// Runs until dropped.
    pub async fn run(self) {
        self.remember().await;
        tokio::join!(self.keep_notes(), self.make_in_time(), self.watch_the_log(), self.follow_rollbacks());
    }

    /// Makes a snapshot at once when a change was taken back: openraft's newest one belongs to the
    /// history before.
    async fn follow_rollbacks(&self) {
        let mut rolled_back = self.0.machine.watch_rolled_back();
        while rolled_back.changed().await.is_ok() {
            self.take_or_say_why_not().await;
        }
        // The machine lives as long as the node, and so does this task.
        std::future::pending().await
    }

    async fn make_in_time(&self) {
        let mut operation = self.0.machine.watch_operation();
        loop {
            let interval = self.0.own.under(&operation.borrow_and_update()).interval;
            let is_over = tokio::select! {
                () = sleep(interval.mul_f64(1.0 + spread())) => true,
                () = changed_interval(&mut operation, &self.0.own, interval) => false,
            };
            if is_over && self.is_worth_it() {
                self.take_or_say_why_not().await;
            }
        }
    }

    async fn take_or_say_why_not(&self) {
        if let Err(reason) = self.take_now().await {
            tracing::warn!(reason, "no snapshot was made; the log keeps growing until one is");
        }
    }

    /// Raises the alarm, and purges the log that a transfer had kept. Purges without the `taking`
    /// lock, even by a checkpoint that `take_now` has just made and not passed to openraft. That is
    /// safe: openraft purges nothing that its snapshot does not cover, and never goes back.
    async fn watch_the_log(&self) {
        let (mut told, mut tried): (Option<Instant>, Option<Instant>) = (None, None);
        loop {
            sleep(LOOK_PAUSE).await;
            let (bytes, max) = (self.log_bytes(), self.limits().log_bytes_max);
            let over = max != 0 && bytes > max;
            self.0.over_quota.store(over, Relaxed);
            if over && told.is_none_or(|at| at.elapsed() >= ALARM_AGAIN) {
                told = Some(Instant::now());
                tracing::warn!(bytes, quota = max, "the log is larger than its quota");
            }
            // If most of the log lies behind the newest snapshot already, another one would not
            // help.
            let helps = over && self.bytes_since_snapshot() > max / 2;
            if helps && tried.is_none_or(|at| at.elapsed() >= TRY_AGAIN) {
                tried = Some(Instant::now());
                self.take_or_say_why_not().await;
            }
            self.0.machine.let_go_of_checkpoints();
            let snapshot = self.0.machine.status().last_snapshot_index;
            if let Err(reason) = self.purge(snapshot).await {
                tracing::warn!(reason, "the log is not purged");
            }
        }
    }

    /// Reads how many commands had been applied at the checkpoints on disk. They are of earlier
    /// runs.
    async fn remember(&self) {
        let snapshots = self.0.machine.snapshots().clone();
        match tokio::task::spawn_blocking(move || snapshots.commands_at_checkpoints()).await {
            Ok(found) => {
                let mut samples = self.0.samples.lock();
                for (index, commands) in found {
                    let bytes = samples.bytes_at(index);
                    samples.note(Sample { index, commands, bytes });
                }
            }
            Err(error) => tracing::warn!(%error, "the snapshots on disk were not read; the log is kept longer"),
        }
    }

    /// Takes notes while entries are applied, for ever.
    async fn keep_notes(&self) {
        let mut applied = self.0.machine.applied();
        loop {
            let index = applied.borrow_and_update().log_id.map_or(0, |id| id.index);
            // Read after the index: a count that is an entry too high keeps an entry more.
            let commands = self.0.machine.commands_applied();
            let bytes = self.0.log.stats().written_bytes;
            self.0.samples.lock().note(Sample { index, commands, bytes });
            sleep(SAMPLE_PAUSE).await;
            if applied.changed().await.is_err() {
                // The machine lives as long as the node, and so does this task.
                return std::future::pending().await;
            }
        }
    }

    fn is_worth_it(&self) -> bool {
        let (status, limits) = (self.0.machine.status(), self.limits());
        let before = self.0.samples.lock().commands_at(status.last_snapshot_index);
        let commands = status.commands_applied.saturating_sub(before);
        let moved = status.applied.is_some_and(|applied| applied.index > status.last_snapshot_index);
        let large = limits.threshold_bytes != 0 && self.bytes_since_snapshot() >= limits.threshold_bytes;
        moved && (commands >= limits.threshold_commands || large)
    }

    /// Returns the bytes of log written since the newest snapshot.
    fn bytes_since_snapshot(&self) -> u64 {
        let index = self.0.machine.status().last_snapshot_index;
        self.0.log.stats().written_bytes.saturating_sub(self.0.samples.lock().bytes_at(index))
    }

    fn log_bytes(&self) -> u64 {
        let stats = self.0.log.stats();
        stats.first_index.map_or(0, |first| self.0.samples.lock().bytes_from(first, stats.written_bytes))
    }

    /// Purges the log that a snapshot at `snapshot_index` makes superfluous and no node needs.
    async fn purge(&self, snapshot_index: u64) -> Result<(), String> {
        let stats = self.0.log.stats();
        let upto = match self.0.over_quota.load(Relaxed) {
            true => Some(snapshot_index),
            false => self.0.samples.lock().superfluous(snapshot_index, &self.limits()),
        };
        let by_transfers = self.0.machine.snapshots().transfers().log_needed_after(RECENTLY);
        let needed = by_transfers.into_iter().chain(self.0.machine.log_needed_after()).min();
        let upto = upto.map(|upto| upto.min(needed.unwrap_or(upto)));
        let superfluous = upto.filter(|upto| stats.first_index.is_some_and(|first| first <= *upto));
        let upto = superfluous.and_then(|upto| match &self.0.archive {
            Some(archive) => archive.lets_purge(upto),
            None => Some(upto),
        });
        match upto {
            Some(upto) if stats.first_index.is_some_and(|first| first <= upto) => {
                self.0.raft.trigger().purge_log(upto).await.map_err(|error| error.to_string())
            }
            _ => Ok(()),
        }
    }
}

/// Waits until another interval is in force. What else changes does not begin the wait anew.
async fn changed_interval(operation: &mut watch::Receiver<Arc<Operation>>, own: &RetentionLimits, interval: Duration) {
    loop {
        if operation.changed().await.is_err() {
            // The machine lives as long as the node, and so does this task.
            return std::future::pending().await;
        }
        if own.under(&operation.borrow_and_update()).interval != interval {
            return;
        }
    }
}

/// Returns a random number from 0 to 1. With it, the nodes of a cluster do not make their snapshots
/// at the same time. Not on the apply path.
fn spread() -> f64 {
    match getrandom::u32() {
        Ok(number) => f64::from(number) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::OperationKey;

    const OWN: RetentionLimits = RetentionLimits {
        interval: Duration::from_secs(120),
        threshold_commands: 1,
        threshold_bytes: 2,
        trailing_commands: 3,
        trailing_entries_min: 4,
        log_bytes_max: 5,
    };

    #[test]
    fn values_that_contradict_a_flag_are_named_once() {
        let set = |key: &str, value: &str| {
            let settings = [(key.to_owned(), value.to_owned())].into();
            Operation { settings, ..Operation::default() }
        };
        let none = Operation::default();
        let words = OWN.contradiction(&none, &set("log_quota_bytes", "1")).expect("the flag has 2 bytes");
        assert!(
            words.starts_with("snapshot_threshold_bytes is 2 there by --snapshot_threshold_bytes, above"),
            "{words}"
        );
        let words = OWN.contradiction(&none, &set("snapshot_threshold_bytes", "6")).expect("the flag has 5 bytes");
        assert!(words.contains("above log_quota_bytes, which is 5 by --log_quota: "), "{words}");
        assert_eq!(OWN.contradiction(&none, &set("log_quota_bytes", "2")), None);
        assert_eq!(OWN.contradiction(&none, &set("log_quota_bytes", "0")), None, "there is no quota");
        let already = set("log_quota_bytes", "1");
        assert_eq!(OWN.contradiction(&already, &already), None, "it must not stop other values");
    }

    #[test]
    fn what_the_cluster_has_set_holds_in_place_of_the_flag() {
        let flags: Vec<&str> =
            OperationKey::all().iter().filter(|key| key.flag.is_some()).map(|key| key.name).collect();
        for set in &flags {
            let settings = [((*set).to_owned(), "77".to_owned())].into();
            let under = OWN.under(&Operation { settings, ..Operation::default() });
            for key in &flags {
                let wanted = if key == set { Some(77) } else { OWN.value(key) };
                assert_eq!(under.value(key), wanted, "{key} while {set} is set");
            }
        }
        assert_eq!((flags.len(), OWN.value("state_bytes_max")), (6, None));
    }
}
