//! The interface for snapshots: they are made from the state, handed to openraft, sent, received
//! and installed. This module does not decide when to make a snapshot. Frames and their checks are
//! in `snapshot/send.rs` and `snapshot/receive.rs`.
//!
//! - A snapshot is a checkpoint on disk, or a received state that is complete, compared and not yet
//!   installed.
//! - One snapshot is received at a time. A received snapshot that is dropped before its install is
//!   removed.

mod author;
pub(crate) mod error;
pub(crate) mod frames;
pub(crate) mod loopback;
pub(crate) mod receive;
pub(crate) mod send;
pub(crate) mod transfers;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::alias::SnapshotMetaOf;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::pace::Pace;
use super::shared::Shared;
use super::system::System;
use crate::codec::Genesis;
use crate::guest::CALLER_STACK_BYTES;
use crate::store::{Batch, Checkpoint, Column, Generation, Read, State, StoreError};
use crate::types::{LogId, NodeId, NodeMode, TypeConfig};
use error::SnapshotError;
use send::{Outlet, SendError};
use transfers::{Direction, Running, Transfer, Transfers};

/// Frames that may wait between a snapshot's thread and the network. A frame has at most 1 MiB.
const FRAMES_IN_FLIGHT: usize = 4;
/// Time before a checkpoint is retried, after the disk was full or no file descriptor was left.
const RETRY: Duration = Duration::from_secs(1);
/// Bytes of rows in one batch when a checkpoint is copied back.
const COPY_BATCH_BYTES: usize = 4 << 20;

/// openraft's metadata of a snapshot.
pub(crate) type Meta = SnapshotMetaOf<TypeConfig>;

/// A snapshot, as openraft passes it around.
#[derive(Debug)]
pub enum SnapshotData {
    /// On this node's disk.
    Checkpoint(Arc<Checkpoint>),
    /// Received, complete and compared, but not yet installed.
    Prepared(PreparedState),
    /// A snapshot of a state to which nothing was applied. It is neither sent nor installed.
    /// openraft requires one when it finds a purged log and no snapshot. [`super::open`] refuses
    /// such a directory, so only openraft's own tests see it.
    Empty,
}

/// A received state that waits for its install. Dropping it removes it.
#[derive(Debug)]
pub struct PreparedState {
    pub(crate) generation: Arc<Generation>,
    applied: LogId,
    /// Keeps the transfer listed until the state is installed or dropped.
    _transfer: Running,
    /// Keeps other snapshots from being received until this one is installed or dropped.
    _turn: Turn,
}

impl PreparedState {
    /// Returns the last entry that the state includes. It must equal what openraft is told.
    pub fn applied(&self) -> LogId {
        self.applied
    }
}

/// The exclusive right to receive, to back up or to rehearse. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Turn(Arc<AtomicBool>);

impl Turn {
    pub(crate) fn take(of: &Arc<AtomicBool>) -> Option<Turn> {
        (!of.swap(true, Ordering::AcqRel)).then(|| Turn(of.clone()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Makes, sends and receives snapshots. Cheap to clone.
#[derive(Clone)]
pub struct Snapshots {
    shared: Arc<Shared>,
    pace: Pace,
    transfers: Transfers,
    receiving: Arc<AtomicBool>,
    backing_up: Arc<AtomicBool>,
    /// The version of the component in use when this process stopped sending its own snapshots; 0
    /// while it sends them.
    distrusted: Arc<AtomicU64>,
    /// Nodes that lack the component which wrote the last snapshot that they were sent. The next
    /// one consists of the rows.
    lack_guest: Arc<Mutex<BTreeSet<NodeId>>>,
    /// Metadata by (index, term) of the checkpoint.
    metas: Arc<Mutex<BTreeMap<(u64, u64), Meta>>>,
    handed_over: Arc<Mutex<Option<LogId>>>,
}

impl Snapshots {
    pub(crate) fn new(shared: Arc<Shared>, pace: Pace) -> Snapshots {
        Snapshots {
            transfers: shared.transfers.clone(),
            shared,
            pace,
            backing_up: Arc::default(),
            receiving: Arc::default(),
            distrusted: Arc::default(),
            lack_guest: Arc::default(),
            metas: Arc::default(),
            handed_over: Arc::default(),
        }
    }

    /// Makes a checkpoint of the current state while apply goes on, and returns its index. The
    /// caller should then make openraft use it: `raft.trigger().snapshot()`. A failure is counted
    /// and is not fatal.
    pub async fn take(&self) -> Result<u64, SnapshotError> {
        match &*self.shared.mode.borrow() {
            NodeMode::Quarantined(why) | NodeMode::Unfit(why) => return Err(SnapshotError::Mode(why.clone())),
            NodeMode::Serving | NodeMode::CatchingUp(_) | NodeMode::Removed(_) | NodeMode::Disputed(_) => {}
        }
        let this = self.clone();
        let made = blocking(move || this.make(&this.shared.state.current())).await;
        if made.is_err() {
            self.shared.counts.snapshots_failed.fetch_add(1, Ordering::Relaxed);
        }
        made.map(|checkpoint| checkpoint.index)
    }

    /// Returns the transfers in progress.
    pub fn transfers(&self) -> &Transfers {
        &self.transfers
    }

    /// Sends a snapshot to a node as frames, in order, from a thread of its own. If that fails, the
    /// last item is an error text. Dropping the receiver cancels the transfer. The checkpoint stays
    /// on disk meanwhile.
    pub fn send(&self, data: &SnapshotData, to: NodeId, name: &str) -> Sending {
        let SnapshotData::Checkpoint(checkpoint) = data else {
            let (out, frames) = mpsc::channel(1);
            out.try_send(Err("only a snapshot that is on disk can be sent".into())).expect("the channel is empty");
            let transfer = self.transfers.begin(Direction::Sending, name, Some(to));
            return Sending { frames, transfer: Arc::new(transfer) };
        };
        let transfer = self.transfers.begin(Direction::Sending, name, Some(to));
        transfer.is_of(checkpoint.index);
        let (checkpoint, this) = (checkpoint.clone(), self.clone());
        self.spawn_sender(transfer, move |outlet| {
            let sent = send::send(&checkpoint, |system| this.author(system, to), outlet);
            match &sent {
                Ok(()) => drop(this.shared.counts.snapshots_sent.fetch_add(1, Ordering::Relaxed)),
                Err(SendError::Store(error)) if !error.lacks_descriptor() => this.set_aside(&checkpoint),
                Err(SendError::Store(_) | SendError::Empty | SendError::Gone) => {}
            }
            sent
        })
    }

    /// Makes a checkpoint now and sends it as the frames of a backup, as [`Snapshots::send`] does.
    /// One backup is made at a time.
    pub async fn back_up(&self, peer: &str) -> Result<Sending, SnapshotError> {
        let turn = Turn::take(&self.backing_up).ok_or(SnapshotError::BackingUp)?;
        self.shared.component().ok_or(SnapshotError::NoComponent)?;
        self.take().await?;
        let checkpoint = self.shared.checkpoints.newest().ok_or(SnapshotError::Empty)?;
        let (this, of) = (self.clone(), checkpoint.clone());
        let component = blocking(move || this.component_of(&of)).await?;
        let transfer = self.transfers.begin(Direction::BackingUp, peer, None);
        transfer.is_of(checkpoint.index);
        Ok(self.spawn_sender(transfer, move |outlet| {
            let sent = send::send_backup(&checkpoint, &component, outlet);
            drop(turn);
            sent
        }))
    }

    /// Discards a checkpoint that could not be read to its end. Later requests get an older or
    /// newer one.
    fn set_aside(&self, broken: &Arc<Checkpoint>) {
        if self.shared.checkpoints.list().len() < 2
            && let Err(error) = self.make(&self.shared.state.current())
        {
            tracing::error!(%error, "no snapshot can take the place of one that cannot be read");
        }
        if self.shared.checkpoints.discard(broken) {
            tracing::error!(
                index = broken.index,
                "a snapshot on disk cannot be read; it is left out, and another one is used"
            );
        }
    }

    fn spawn_sender(
        &self,
        transfer: Running,
        send: impl FnOnce(&Arc<Outlet>) -> Result<(), SendError> + Send + 'static,
    ) -> Sending {
        let (out, frames) = mpsc::channel(FRAMES_IN_FLIGHT);
        let (failed, transfer) = (out.clone(), Arc::new(transfer));
        let outlet = Arc::new(Outlet { out, transfer: transfer.clone(), pace: self.pace.clone() });
        let work = move || match send(&outlet) {
            Ok(()) => outlet.transfer.tell("a snapshot is sent"),
            Err(SendError::Gone) => outlet.transfer.tell("a snapshot's receiver has gone"),
            // The receiver may go just now; the error is in the log anyway.
            Err(error) => {
                tracing::error!(%error, "a snapshot was not sent");
                drop(outlet.out.blocking_send(Err(error.to_string())));
            }
        };
        if let Err(error) =
            std::thread::Builder::new().name("snapshot-send".into()).stack_size(CALLER_STACK_BYTES).spawn(work)
        {
            failed.try_send(Err(format!("no thread to send the snapshot: {error}"))).expect("the channel is empty");
        }
        Sending { frames, transfer }
    }

    /// Begins to receive a snapshot. `peer` is the sender's name for people. The state in use does
    /// not change before openraft installs the result.
    pub fn receive(&self, from: Option<NodeId>, peer: &str) -> Result<Receiving, SnapshotError> {
        let turn = Turn::take(&self.receiving).ok_or(SnapshotError::Busy)?;
        let transfer = self.transfers.begin(Direction::Receiving, peer, from);
        let progress = transfer.shared();
        let (frames, mut incoming) = mpsc::channel(FRAMES_IN_FLIGHT);
        let (done, result) = oneshot::channel();
        let this = self.clone();
        let work = move || {
            let incoming = Box::new(move || Ok(incoming.blocking_recv()));
            let progress = transfer.shared();
            let find = |hash, profile: Option<&Genesis>| this.restorer(hash, profile, &progress);
            let received = receive::receive(&this.shared.state, &find, incoming, &progress);
            let prepared = received.and_then(|(generation, system)| {
                let applied = system.applied.ok_or(SnapshotError::Empty)?;
                transfer.tell("a snapshot is received");
                Ok(PreparedState { generation, applied, _transfer: transfer, _turn: turn })
            });
            drop(this);
            // If the caller gave up, the result is dropped here, and its directory with it.
            drop(done.send(prepared));
        };
        std::thread::Builder::new()
            .name("snapshot-receive".into())
            .stack_size(CALLER_STACK_BYTES)
            .spawn(work)
            .map_err(|error| SnapshotError::Thread(error.to_string()))?;
        Ok(Receiving { frames, result, transfer: progress })
    }

    /// Makes a checkpoint of `generation`. Blocks.
    pub(crate) fn make(&self, generation: &Generation) -> Result<Arc<Checkpoint>, SnapshotError> {
        let meta = RefCell::new(None);
        let checkpoint = self.shared.checkpoints.create(generation, &|from| {
            let system = System::read(from)?;
            let position = system.applied.map(|applied| (applied.index, applied.leader_id.term));
            *meta.borrow_mut() = Some(meta_of(&system));
            Ok(position)
        })?;
        let checkpoint = checkpoint.ok_or(SnapshotError::Empty)?;
        if let Some(meta) = meta.into_inner() {
            self.metas.lock().insert((checkpoint.index, checkpoint.term), meta);
        }
        self.shared.counts.snapshots_made.fetch_add(1, Ordering::Relaxed);
        Ok(checkpoint)
    }

    /// Makes a checkpoint that openraft waits for. An example is that of a received state before
    /// its install. While the disk is full or no file descriptor is left, it retries, because an
    /// error would end the node. `what` says what is delayed.
    pub(crate) async fn make_patiently(
        &self,
        of: &Arc<Generation>,
        what: &'static str,
    ) -> Result<Arc<Checkpoint>, SnapshotError> {
        loop {
            let (this, generation) = (self.clone(), of.clone());
            let made = blocking(move || {
                generation.flush()?;
                this.make(&generation)
            });
            match made.await {
                Err(SnapshotError::Store(error))
                    if error.is_passing() && !self.shared.stopping.load(Ordering::Acquire) =>
                {
                    self.shared.note_shortage(&error, what);
                    tokio::time::sleep(RETRY).await;
                }
                made => return made,
            }
        }
    }

    /// Returns index and number of applied commands of each readable checkpoint. Oldest first.
    /// Blocks.
    pub fn commands_at_checkpoints(&self) -> Vec<(u64, u64)> {
        let commands = |checkpoint: &Arc<Checkpoint>| -> Result<u64, StoreError> {
            Ok(System::read(&*checkpoint.open()?)?.counters.commands)
        };
        let mut found = Vec::new();
        for checkpoint in self.shared.checkpoints.list() {
            match commands(&checkpoint) {
                Ok(commands) => found.push((checkpoint.index, commands)),
                Err(error) => tracing::warn!(%error, index = checkpoint.index, "a snapshot on disk cannot be read"),
            }
        }
        found
    }

    /// Returns the newest readable checkpoint, with its metadata for openraft. Blocks.
    pub(crate) fn newest(&self) -> Option<(Meta, Arc<Checkpoint>)> {
        let list = self.shared.checkpoints.list();
        self.metas.lock().retain(|position, _| list.iter().any(|kept| (kept.index, kept.term) == *position));
        list.into_iter().rev().find_map(|checkpoint| match self.meta(&checkpoint) {
            Ok(meta) => Some((meta, checkpoint)),
            Err(error) => {
                tracing::error!(%error, index = checkpoint.index, "a snapshot on disk cannot be read; the one before it is used");
                None
            }
        })
    }

    /// Returns the newest checkpoint, unless openraft was given it before. Blocks.
    pub(crate) fn not_handed_over(&self) -> Option<(Meta, Arc<Checkpoint>)> {
        let handed_over = *self.handed_over.lock();
        self.newest().filter(|(meta, _)| meta.last_log_id > handed_over)
    }

    /// Notes that openraft was given the snapshot of `meta`.
    pub(crate) fn handed_over(&self, meta: &Meta) {
        let mut handed_over = self.handed_over.lock();
        *handed_over = (*handed_over).max(meta.last_log_id);
    }

    /// Copies a checkpoint into a new generation. Blocks.
    pub(crate) fn copy_back(&self, checkpoint: &Arc<Checkpoint>) -> Result<Arc<Generation>, StoreError> {
        let from = checkpoint.open()?;
        let to = Arc::new(self.shared.state.create()?);
        for column in [Column::Data, Column::System] {
            let (mut batch, mut committed) = (Batch::new(), Ok(()));
            from.scan(column, &[], None, false, &mut |key, value| {
                batch.put(column, key, value);
                if batch.bytes() >= COPY_BATCH_BYTES {
                    committed = to.commit(&std::mem::take(&mut batch));
                }
                if committed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            committed?;
            to.commit(&batch)?;
        }
        Ok(to)
    }

    pub(crate) fn state(&self) -> &State {
        &self.shared.state
    }

    pub(crate) fn meta(&self, checkpoint: &Arc<Checkpoint>) -> Result<Meta, StoreError> {
        let position = (checkpoint.index, checkpoint.term);
        if let Some(meta) = self.metas.lock().get(&position) {
            return Ok(meta.clone());
        }
        let meta = meta_of(&System::read(&*checkpoint.open()?)?);
        self.metas.lock().insert(position, meta.clone());
        Ok(meta)
    }
}

fn meta_of(system: &System) -> Meta {
    Meta { last_log_id: system.applied, last_membership: (*system.membership).clone() }
}

/// Runs blocking snapshot work outside the runtime's threads.
pub(crate) async fn blocking<T: Send + 'static, E: From<SnapshotError> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(SnapshotError::Thread(error.to_string()).into()),
    }
}

/// A snapshot that is being sent.
#[derive(Debug)]
pub struct Sending {
    /// The frames in order. The last item may be the reason why there are no more.
    pub frames: mpsc::Receiver<Result<Bytes, String>>,
    /// The transfer's progress. It is listed while this value or a clone of it lives.
    pub transfer: Arc<Running>,
}

/// A snapshot that is being received.
#[derive(Debug)]
pub struct Receiving {
    frames: mpsc::Sender<Bytes>,
    result: oneshot::Receiver<Result<PreparedState, SnapshotError>>,
    transfer: Arc<Transfer>,
}

impl Receiving {
    /// Returns the transfer's progress.
    pub fn transfer(&self) -> Arc<Transfer> {
        self.transfer.clone()
    }

    /// Passes on the next frame. Waits while the restore is slower than the network. After a wrong
    /// frame, later frames are taken and dropped, and [`Receiving::finish`] returns the error.
    pub async fn push(&self, frame: Bytes) {
        // If this fails, the thread has ended early, and its result says why.
        let _ended = self.frames.send(frame).await;
    }

    /// Ends the frames, and waits until the state is built and equals what was sent.
    pub async fn finish(self) -> Result<SnapshotData, SnapshotError> {
        drop(self.frames);
        match self.result.await {
            Ok(prepared) => prepared.map(SnapshotData::Prepared),
            Err(_) => Err(SnapshotError::Thread("it ended without a result; its panic is in the log".into())),
        }
    }
}
