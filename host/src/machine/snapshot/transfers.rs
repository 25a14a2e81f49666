//! The snapshots in transfer: direction, peer, progress, start time. This module decides nothing.
//! The code that sends or receives updates the numbers; `Stat`, the log lines, the retention of the
//! Raft log and the timeouts of both ends read them.
//!
//! - A transfer is listed while its [`Running`] lives.
//! - Its count of steps grows with everything that brings it nearer to its end, including waiting
//!   for its turn under a rate limit. A transfer whose count does not grow has stalled, whatever
//!   its size.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::types::NodeId;

/// Time between two log lines about one transfer. A transfer that takes less time is not logged as
/// under way.
const TELL_AFTER: Duration = Duration::from_secs(5);

/// The direction of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To another node that is too far behind.
    Sending,
    /// From the leader.
    Receiving,
    /// To an operator.
    BackingUp,
}

impl Direction {
    /// Returns the name for display.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Sending => "sending",
            Direction::Receiving => "receiving",
            Direction::BackingUp => "backing-up",
        }
    }
}

/// One snapshot in transfer.
#[derive(Debug)]
pub struct Transfer {
    number: u64,
    direction: Direction,
    peer: String,
    node: Option<NodeId>,
    index: AtomicU64,
    began: Instant,
    began_ms: u64,
    bytes: AtomicU64,
    rows: AtomicU64,
    steps: AtomicU64,
    /// The number of steps that the other end reported.
    steps_there: AtomicU64,
    told: Mutex<Instant>,
}

/// The current numbers of a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferStatus {
    /// The direction.
    pub direction: Direction,
    /// The other end: a node's name, or the destination of a backup.
    pub peer: String,
    /// The other end, if it is a node.
    pub node: Option<NodeId>,
    /// Index of the last log entry in the snapshot; 0 until it is known.
    pub index: u64,
    /// Bytes sent or received so far.
    pub bytes: u64,
    /// Rows read or written so far.
    pub rows: u64,
    /// Start time, in milliseconds since 1970 by this node's clock.
    pub began_ms: u64,
    /// Time since the start.
    pub elapsed: Duration,
}

/// Makes a transfer that is not listed.
impl Default for Transfer {
    fn default() -> Self {
        Transfer::new(Direction::Sending, "", None)
    }
}

impl Transfer {
    fn new(direction: Direction, peer: &str, node: Option<NodeId>) -> Transfer {
        let began = Instant::now();
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Transfer {
            number: 0,
            direction,
            peer: peer.to_owned(),
            node,
            index: AtomicU64::new(0),
            began,
            began_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
            bytes: AtomicU64::new(0),
            rows: AtomicU64::new(0),
            steps: AtomicU64::new(0),
            steps_there: AtomicU64::new(0),
            told: Mutex::new(began),
        }
    }

    /// Sets the log index of the snapshot.
    pub fn is_of(&self, index: u64) {
        self.index.store(index, Relaxed);
        self.step();
    }

    /// Adds `bytes` bytes that were sent or received.
    pub fn moved(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
        self.step();
    }

    /// Adds `rows` rows that were read or written.
    pub fn passed(&self, rows: u64) {
        self.rows.fetch_add(rows, Relaxed);
        self.step();
    }

    /// Counts progress that no other number shows. Logs the transfer from time to time.
    pub fn step(&self) {
        self.steps.fetch_add(1, Relaxed);
        let Some(mut told) = self.told.try_lock() else { return };
        if told.elapsed() >= TELL_AFTER {
            *told = Instant::now();
            drop(told);
            self.tell("a snapshot is on its way");
        }
    }

    /// Returns the number of steps so far.
    pub fn steps(&self) -> u64 {
        self.steps.load(Relaxed)
    }

    /// Notes the number of steps that the other end reported.
    pub fn heard(&self, steps: u64) {
        self.steps_there.store(steps, Relaxed);
    }

    /// Logs one line with the transfer's progress.
    pub fn tell(&self, what: &str) {
        let status = self.status();
        tracing::info!(
            direction = status.direction.name(),
            peer = status.peer,
            index = status.index,
            bytes = status.bytes,
            rows = status.rows,
            seconds = status.elapsed.as_secs(),
            "{what}"
        );
    }

    /// Returns the current numbers; each is read separately.
    pub fn status(&self) -> TransferStatus {
        TransferStatus {
            direction: self.direction,
            peer: self.peer.clone(),
            node: self.node,
            index: self.index.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            rows: self.rows.load(Relaxed),
            began_ms: self.began_ms,
            elapsed: self.began.elapsed(),
        }
    }
}

/// The progress of one attempt to send a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendAttempt {
    /// Identifies the attempt.
    pub number: u64,
    /// The last number of steps that the receiver reported.
    pub steps: u64,
}

/// All transfers of a node. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Transfers(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    begun: u64,
    running: Vec<Arc<Transfer>>,
    /// End time and index of each ended transfer to a node, oldest first.
    ended: VecDeque<(Instant, u64)>,
}

/// Most ended transfers that are remembered.
const ENDED_MAX: usize = 64;

impl Transfers {
    /// Lists a transfer until the result is dropped.
    pub(crate) fn begin(&self, direction: Direction, peer: &str, node: Option<NodeId>) -> Running {
        let mut known = self.0.lock();
        known.begun += 1;
        let transfer = Arc::new(Transfer { number: known.begun, ..Transfer::new(direction, peer, node) });
        known.running.push(transfer.clone());
        drop(known);
        Running { transfer, all: self.clone() }
    }

    /// Returns the current transfers, oldest first.
    pub fn running(&self) -> Vec<TransferStatus> {
        self.0.lock().running.iter().map(|transfer| transfer.status()).collect()
    }

    /// Returns the progress of the newest attempt to send to `node`. It holds the attempt's number,
    /// and the steps that the receiver reported.
    pub fn progress_to(&self, node: NodeId) -> Option<SendAttempt> {
        let known = self.0.lock();
        let sending =
            |transfer: &&Arc<Transfer>| transfer.node == Some(node) && transfer.direction == Direction::Sending;
        let transfer = known.running.iter().rfind(sending)?;
        Some(SendAttempt { number: transfer.number, steps: transfer.steps_there.load(Relaxed) })
    }

    /// Returns the index after which the log must be kept. A node that is being sent a snapshot, or
    /// was sent one within `recently`, needs those entries next.
    pub fn log_needed_after(&self, recently: Duration) -> Option<u64> {
        let mut known = self.0.lock();
        known.ended.retain(|(at, _)| at.elapsed() < recently);
        let sending = known.running.iter().filter(|transfer| transfer.direction == Direction::Sending);
        let indexes =
            sending.map(|transfer| transfer.index.load(Relaxed)).chain(known.ended.iter().map(|ended| ended.1));
        indexes.min()
    }
}

/// Keeps a transfer listed. If the other end is a node, it is kept until that node has installed
/// the snapshot.
#[derive(Debug)]
pub struct Running {
    transfer: Arc<Transfer>,
    all: Transfers,
}

impl Running {
    /// Returns the transfer for other code to read; that does not keep it listed.
    pub(crate) fn shared(&self) -> Arc<Transfer> {
        self.transfer.clone()
    }
}

impl Deref for Running {
    type Target = Transfer;

    fn deref(&self) -> &Transfer {
        &self.transfer
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut known = self.all.0.lock();
        known.running.retain(|running| !Arc::ptr_eq(running, &self.transfer));
        if self.direction == Direction::Sending {
            known.ended.push_back((Instant::now(), self.index.load(Relaxed)));
            if known.ended.len() > ENDED_MAX {
                known.ended.pop_front();
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_transfer_is_listed_while_it_runs_and_its_log_is_kept_a_while_longer() {
        let transfers = Transfers::default();
        assert_eq!(transfers.log_needed_after(LONG), None);
        let first = transfers.begin(Direction::Sending, "nodeB", Some(2));
        first.is_of(70);
        let second = transfers.begin(Direction::Sending, "nodeC", Some(3));
        second.is_of(50);
        // Neither of these takes entries from this node's log afterwards.
        transfers.begin(Direction::Receiving, "nodeD", Some(4)).is_of(1);
        transfers.begin(Direction::BackingUp, "x", None).is_of(1);
        assert_eq!(transfers.log_needed_after(LONG), Some(50));
        drop(second);
        assert_eq!(transfers.running().len(), 1);
        assert_eq!(transfers.log_needed_after(LONG), Some(50), "it ended just now");
        assert_eq!(transfers.log_needed_after(Duration::ZERO), Some(70), "long ago");
        drop(first);
        assert_eq!(transfers.log_needed_after(Duration::ZERO), None);
    }

    #[test]
    fn whatever_goes_on_is_a_step() {
        let transfers = Transfers::default();
        let transfer = transfers.begin(Direction::Sending, "nodeB", Some(2));
        let events: [&dyn Fn(); 4] =
            [&|| transfer.is_of(1), &|| transfer.moved(10), &|| transfer.passed(3), &|| transfer.step()];
        for event in events {
            let before = transfer.steps();
            event();
            assert!(transfer.steps() > before);
        }
        let status = transfers.running().remove(0);
        assert_eq!((status.index, status.bytes, status.rows), (1, 10, 3));
    }

    #[test]
    fn attempts_are_told_apart_and_only_the_receiver_brings_them_forward() {
        let transfers = Transfers::default();
        assert_eq!(transfers.progress_to(2), None);
        let first = transfers.begin(Direction::Sending, "nodeB", Some(2));
        first.moved(10);
        let begun = transfers.progress_to(2).unwrap();
        assert_eq!(begun.steps, 0);
        first.heard(7);
        assert_eq!(transfers.progress_to(2), Some(SendAttempt { steps: 7, ..begun }));
        drop(first);
        let _second = transfers.begin(Direction::Sending, "nodeB", Some(2));
        assert_ne!(transfers.progress_to(2).unwrap().number, begun.number);
    }
}
