//! The quotas of the machine that bound commands: how large the state may be, and how many commands
//! the leader takes in a second. It counts what they admit and refuse. `operation` has the values.
//!
//! - Only the node that proposes a command asks, before it is in the log. What is committed runs.
//! - A command that goes into no entry gives back what it took of a rate.
//! - Entries of the host itself are never refused, so an operator can always change the values.
//! - RocksDB counts removed rows until it rewrites its files, and rewrites them as rows are
//!   written. While commands are refused none are, so `tidying` has them rewritten.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Machine;

/// Time for which a measure of the state stands. Measuring costs more than a command.
const SIZE_STANDS: Duration = Duration::from_millis(100);

/// The key of the quota that bounds watches.
pub const WATCHES_QUOTA: &str = "watches_per_node_max";
/// The key of the quota on the size of the state.
pub const STATE_QUOTA: &str = "state_bytes_max";
/// The key of the quota on the rate of commands.
const RATE_QUOTA: &str = "commands_per_second_max";

/// What the quotas have counted on one node.
#[derive(Debug, Default)]
pub(crate) struct Quota {
    size: Mutex<Option<(Instant, u64)>>,
    bucket: Arc<Bucket>,
    admitted: AtomicU64,
    refused_by_state: AtomicU64,
    refused_by_rate: AtomicU64,
}

/// Counts since the process began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuotaStatus {
    /// Commands that this node took as the leader.
    pub admitted: u64,
    /// Commands that it refused, by the key of the quota.
    pub refused: Vec<(&'static str, u64)>,
}

impl Quota {
    /// Has the next command measure the state anew.
    pub(super) fn forget_size(&self) {
        *self.size.lock() = None;
    }

    pub(crate) fn status(&self) -> QuotaStatus {
        let refused = [(STATE_QUOTA, &self.refused_by_state), (RATE_QUOTA, &self.refused_by_rate)];
        QuotaStatus {
            admitted: self.admitted.load(Relaxed),
            refused: refused.map(|(key, count)| (key, count.load(Relaxed))).into(),
        }
    }
}

/// What is left of a second's commands. A node that has taken none for a second may take as many at
/// once.
#[derive(Debug, Default)]
pub(crate) struct Bucket(Mutex<Left>);

#[derive(Debug, Default)]
struct Left {
    commands: f64,
    at: Option<Instant>,
}

impl Bucket {
    /// Takes one command, if there is one left.
    pub(crate) fn take(self: &Arc<Bucket>, per_second: u64, now: Instant) -> Option<Admitted> {
        let mut left = self.0.lock();
        let full = per_second as f64;
        let seconds = left.at.map_or(1.0, |at| now.saturating_duration_since(at).as_secs_f64());
        left.at = Some(now);
        left.commands = (left.commands + seconds * full).min(full);
        if left.commands < 1.0 {
            return None;
        }
        left.commands -= 1.0;
        Some(Admitted(Some(self.clone())))
    }
}

/// What a command has taken of the quotas. Dropping it gives that back.
#[derive(Debug, Default)]
#[must_use]
pub struct Admitted(Option<Arc<Bucket>>);

impl Admitted {
    /// Notes that the command goes into an entry, so nothing is given back.
    pub fn spend(mut self) {
        self.0 = None;
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some(bucket) = self.0.take() {
            bucket.0.lock().commands += 1.0;
        }
    }
}

impl Machine {
    /// Takes a command of this method from the quotas. An error says which one is against it.
    /// Counts either.
    pub fn admit(&self, method: &str) -> Result<Admitted, String> {
        let (quota, operation) = (&self.shared.quota, self.operation());
        if let Some(max) = operation.number(STATE_QUOTA) {
            let bytes = self.state_bytes();
            if bytes > max && !operation.frees_room(method) {
                quota.refused_by_state.fetch_add(1, Relaxed);
                self.tidy();
                return Err(over_state(bytes, max));
            }
        }
        let admitted = match operation.number(RATE_QUOTA) {
            Some(max) => quota.bucket.take(max, Instant::now()).ok_or_else(|| {
                quota.refused_by_rate.fetch_add(1, Relaxed);
                over_rate(max)
            })?,
            None => Admitted::default(),
        };
        quota.admitted.fetch_add(1, Relaxed);
        Ok(admitted)
    }

    /// Returns the approximate size of the state on this node, as it was a moment ago.
    pub fn state_bytes(&self) -> u64 {
        let mut size = self.shared.quota.size.lock();
        match *size {
            Some((at, bytes)) if at.elapsed() < SIZE_STANDS => bytes,
            _ => {
                let bytes = self.shared.state.current().approximate_bytes();
                *size = Some((Instant::now(), bytes));
                bytes
            }
        }
    }
}

fn over_rate(max: u64) -> String {
    format!(
        "the leader takes {max} commands a second ({RATE_QUOTA} in the cluster's profile), and as many came; it was not run, \
         send it again"
    )
}

fn over_state(bytes: u64, max: u64) -> String {
    format!(
        "the state has {bytes} bytes, its quota is {max} ({STATE_QUOTA} in the cluster's profile). Queries and watches go on. An operator \
         makes room by `lockstep admin <addr> profile set {STATE_QUOTA}=<more>`, or lets commands through that remove rows, by \
         methods_over_quota=<patterns>"
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn as_many_commands_as_a_second_may_have_are_taken() {
        let (bucket, began) = (Arc::new(Bucket::default()), Instant::now());
        let taken = |after_ms: u64, tries: usize| {
            let now = began + Duration::from_millis(after_ms);
            (0..tries).filter(|_| bucket.take(10, now).map(Admitted::spend).is_some()).count()
        };
        assert_eq!(taken(0, 50), 10);
        assert_eq!(taken(550, 50), 5);
        assert_eq!(taken(60_000, 50), 10, "what was not used is not saved up");
        assert_eq!(taken(60_000, 1), 0);
    }

    #[test]
    fn what_goes_into_no_entry_is_given_back() {
        let (bucket, now) = (Arc::new(Bucket::default()), Instant::now());
        let mut held: Vec<Admitted> = (0..10).filter_map(|_| bucket.take(10, now)).collect();
        assert_eq!(held.len(), 10);
        assert!(bucket.take(10, now).is_none());
        held.pop();
        bucket.take(10, now).unwrap().spend();
        assert!(bucket.take(10, now).is_none());
    }

    #[test]
    fn whoever_is_refused_learns_how_to_make_room() {
        let words = over_state(9, 7);
        for part in ["9 bytes", "quota is 7", "profile set state_bytes_max=<more>", "methods_over_quota", "Queries"] {
            assert!(words.contains(part), "{part} is not in {words}");
        }
    }
}
