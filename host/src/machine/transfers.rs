//! Snapshots on their way, in numbers: what goes to whom, how far it is, since when. Decides nothing. Whoever sends or receives counts
//! here; `Stat`, the log, the log's retention and the timeouts of both ends look.
//!
//! - A transfer is listed while its [`Running`] lives.
//! - Its count of steps grows with everything that brings it nearer to its end, waiting for its turn under a rate limit included. A
//!   transfer whose count stands still has stalled, however large it is.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::types::NodeId;

/// A transfer that takes longer than this is in the log, and again after every further one.
const TELL_AFTER: Duration = Duration::from_secs(5);

/// Which way.
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
    /// As people read it.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Sending => "sending",
            Direction::Receiving => "receiving",
            Direction::BackingUp => "backing-up",
        }
    }
}

/// One snapshot on its way.
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
    /// Of the other end, as it tells.
    steps_there: AtomicU64,
    told: Mutex<Instant>,
}

/// A transfer as of now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferStatus {
    /// Which way.
    pub direction: Direction,
    /// The other end: a node's name, or where a backup goes.
    pub peer: String,
    /// The other end, when it is a node.
    pub node: Option<NodeId>,
    /// The last log index that the snapshot holds; 0 until that is known.
    pub index: u64,
    /// Bytes on the wire so far.
    pub bytes: u64,
    /// Rows read or written so far.
    pub rows: u64,
    /// When it began, milliseconds since 1970 by this node's clock.
    pub began_ms: u64,
    /// How long it has been going on.
    pub elapsed: Duration,
}

/// One that is listed nowhere.
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

    /// Of which log index the snapshot is.
    pub fn is_of(&self, index: u64) {
        self.index.store(index, Relaxed);
        self.step();
    }

    /// So many bytes more went over the wire.
    pub fn moved(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
        self.step();
    }

    /// So many rows more were read or written.
    pub fn passed(&self, rows: u64) {
        self.rows.fetch_add(rows, Relaxed);
        self.step();
    }

    /// Something went on that no other number shows.
    pub fn step(&self) {
        self.steps.fetch_add(1, Relaxed);
        let Some(mut told) = self.told.try_lock() else { return };
        if told.elapsed() >= TELL_AFTER {
            *told = Instant::now();
            drop(told);
            self.tell("a snapshot is on its way");
        }
    }

    /// How often anything went on.
    pub fn steps(&self) -> u64 {
        self.steps.load(Relaxed)
    }

    /// The other end told its count of steps.
    pub fn heard(&self, steps: u64) {
        self.steps_there.store(steps, Relaxed);
    }

    /// One line in the log with where it stands.
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

    /// As of now; each number is read by itself.
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

/// How far one attempt to send a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Tells attempts apart.
    pub number: u64,
    /// The receiver's steps, as far as it told them.
    pub steps: u64,
}

/// All of a node. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Transfers(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    begun: u64,
    running: Vec<Arc<Transfer>>,
    /// When one to a node ended, and its index; oldest first.
    ended: VecDeque<(Instant, u64)>,
}

/// Ended transfers that are remembered, at most.
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

    /// Those on their way now, oldest first.
    pub fn running(&self) -> Vec<TransferStatus> {
        self.0.lock().running.iter().map(|transfer| transfer.status()).collect()
    }

    /// Of what is being sent to `node`: which attempt it is, and the steps that the receiver has told.
    pub fn progress_to(&self, node: NodeId) -> Option<Attempt> {
        let known = self.0.lock();
        let sending =
            |transfer: &&Arc<Transfer>| transfer.node == Some(node) && transfer.direction == Direction::Sending;
        let transfer = known.running.iter().rfind(sending)?;
        Some(Attempt { number: transfer.number, steps: transfer.steps_there.load(Relaxed) })
    }

    /// The index after which the log must stay: what a node that is being sent a snapshot, or was within `recently`, needs next.
    pub fn log_needed_after(&self, recently: Duration) -> Option<u64> {
        let mut known = self.0.lock();
        known.ended.retain(|(at, _)| at.elapsed() < recently);
        let sending = known.running.iter().filter(|transfer| transfer.direction == Direction::Sending);
        let indexes =
            sending.map(|transfer| transfer.index.load(Relaxed)).chain(known.ended.iter().map(|ended| ended.1));
        indexes.min()
    }
}

/// Keeps a transfer listed: until the other end has all of it in force, when that is a node.
#[derive(Debug)]
pub struct Running {
    transfer: Arc<Transfer>,
    all: Transfers,
}

impl Running {
    /// To look at from elsewhere; does not keep it listed.
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
        // Neither takes entries from this node's log afterwards.
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
        assert_eq!(transfers.progress_to(2), Some(Attempt { steps: 7, ..begun }));
        drop(first);
        let _second = transfers.begin(Direction::Sending, "nodeB", Some(2));
        assert_ne!(transfers.progress_to(2).unwrap().number, begun.number);
    }
}
