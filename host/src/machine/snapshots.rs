//! Snapshots as the rest of the node sees them: made from the state, handed to openraft, sent, received, installed. When to make
//! one is decided elsewhere; frames and checks are in `snapshot_send.rs` and `snapshot_receive.rs`.
//!
//! - A snapshot is a checkpoint on disk, or a received one that is complete, compared, and not yet in force.
//! - One is received at a time. What was received and not installed is gone when dropped.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::alias::SnapshotMetaOf;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::pace::Pace;
use super::shared::Shared;
use super::snapshot_receive;
use super::snapshot_send::{self, Outlet, SendError};
use super::system::System;
use super::transfers::{Direction, Running, Transfer, Transfers};
use crate::guest::{CALLER_STACK_BYTES, HostFault};
use crate::store::{Batch, Checkpoint, Column, Generation, Read, State, StoreError};
use crate::types::{LogId, NodeId, NodeMode, TypeConfig};

/// Frames between a snapshot's thread and the network, each of at most a MiB.
const FRAMES_IN_FLIGHT: usize = 4;
/// Before the checkpoint of a received state is tried again that found the disk full.
const FULL_RETRY: Duration = Duration::from_secs(1);
/// Bytes of rows in one batch when a checkpoint is copied back.
const COPY_BATCH_BYTES: usize = 4 << 20;

/// What openraft knows of a snapshot.
pub(crate) type Meta = SnapshotMetaOf<TypeConfig>;

/// A snapshot, as openraft passes it around.
#[derive(Debug)]
pub enum SnapshotData {
    /// On this node's disk.
    Checkpoint(Arc<Checkpoint>),
    /// Received, complete and compared; not in force.
    Prepared(PreparedState),
    /// Of a state that nothing was applied to: openraft insists on one when it finds a purged log and no snapshot. [`super::open`]
    /// refuses such a directory, so only openraft's own tests see it. Neither sent nor installed.
    Empty,
}

/// A state that was received and waits to be installed. Dropping it removes it.
#[derive(Debug)]
pub struct PreparedState {
    pub(crate) generation: Arc<Generation>,
    applied: LogId,
    /// Listed until it is installed or gone,
    _transfer: Running,
    /// and then another may be received.
    _turn: Turn,
}

impl PreparedState {
    /// The last entry it includes; what openraft is told must be equal.
    pub fn applied(&self) -> LogId {
        self.applied
    }
}

/// Why a snapshot was not made, sent or received.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// One is received at a time.
    #[error("this node is receiving another snapshot; try again when that is installed")]
    Busy,
    /// One is backed up at a time.
    #[error("another backup of this node is under way; try again when that is done, or take it from another node")]
    BackingUp,
    /// A backup carries the component, and there is none yet.
    #[error("there is nothing to back up yet: this node does not know its cluster's component")]
    NoComponent,
    /// Nothing was applied yet, so there is nothing to take.
    #[error("there is nothing to take a snapshot of: no entry is applied")]
    Empty,
    /// A node in this mode makes none.
    #[error("no snapshot of this state: {0}")]
    Mode(String),
    /// The frames are not what a sender sends.
    #[error("the snapshot is damaged: {0}; it was not installed")]
    Damaged(String),
    /// Written by a newer version.
    #[error("the snapshot has format {found}, this version reads {supported}; run the version that the sender runs")]
    Format {
        /// Of the sender.
        found: u32,
        /// Of this node.
        supported: u32,
    },
    /// The guest's restore did not arrive at what was sent. The sender should ship rows next time: [`Snapshots::distrust_guest`].
    #[error("the guest's snapshot and restore are not inverse: {0}; the snapshot was not installed")]
    Unfaithful(String),
    /// The file that the frames come from.
    #[error("{0}")]
    Backup(String),
    /// The disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sandbox.
    #[error(transparent)]
    Host(#[from] HostFault),
    /// A thread could not be started, or ended without an answer.
    #[error("the snapshot's thread: {0}")]
    Thread(String),
}

impl SnapshotError {
    /// Whether the sender should be told to ship rows instead of the guest's own snapshot.
    pub fn is_unfaithful(&self) -> bool {
        matches!(self, SnapshotError::Unfaithful(_))
    }
}

impl From<SnapshotError> for std::io::Error {
    fn from(error: SnapshotError) -> Self {
        std::io::Error::other(error)
    }
}

/// The turn to receive, or to back up; given back when dropped.
#[derive(Debug)]
struct Turn(Arc<AtomicBool>);

impl Turn {
    fn take(of: &Arc<AtomicBool>) -> Option<Turn> {
        (!of.swap(true, Ordering::AcqRel)).then(|| Turn(of.clone()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Makes, sends and receives. Cheap to clone.
#[derive(Clone)]
pub struct Snapshots {
    shared: Arc<Shared>,
    pace: Pace,
    transfers: Transfers,
    receiving: Arc<AtomicBool>,
    backing_up: Arc<AtomicBool>,
    /// Guests' own snapshots are not sent any more by this process.
    guest_distrusted: Arc<AtomicBool>,
    /// By (index, term) of the checkpoint.
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
            guest_distrusted: Arc::default(),
            metas: Arc::default(),
            handed_over: Arc::default(),
        }
    }

    /// Makes a checkpoint of the state as it is now, while apply goes on, and says at which index it stands. Then have openraft
    /// take it: `raft.trigger().snapshot()`. Failing is not fatal; it is counted.
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

    /// Snapshots on their way.
    pub fn transfers(&self) -> &Transfers {
        &self.transfers
    }

    /// Sends a snapshot to a node as frames, in order, from a thread of its own; ends early with a text when that fails. Drop the
    /// receiver to cancel. The checkpoint stays on disk meanwhile.
    pub fn send(&self, data: &SnapshotData, to: NodeId, name: &str) -> Sending {
        let component = self.shared.component().filter(|_| !self.guest_distrusted.load(Ordering::Acquire));
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
            let sent = snapshot_send::send(&checkpoint, component.as_ref(), outlet);
            match &sent {
                Ok(()) => drop(this.shared.counts.snapshots_sent.fetch_add(1, Ordering::Relaxed)),
                Err(SendError::Store(_)) => this.set_aside(&checkpoint),
                Err(SendError::Empty | SendError::Gone) => {}
            }
            sent
        })
    }

    /// Makes a checkpoint now and sends it as the frames of a backup, like [`Snapshots::send`]. One at a time.
    pub async fn back_up(&self, peer: &str) -> Result<Sending, SnapshotError> {
        let turn = Turn::take(&self.backing_up).ok_or(SnapshotError::BackingUp)?;
        let component = self.shared.component().ok_or(SnapshotError::NoComponent)?;
        self.take().await?;
        let checkpoint = self.shared.checkpoints.newest().ok_or(SnapshotError::Empty)?;
        let transfer = self.transfers.begin(Direction::BackingUp, peer, None);
        transfer.is_of(checkpoint.index);
        Ok(self.spawn_sender(transfer, move |outlet| {
            let sent = snapshot_send::send_backup(&checkpoint, &component, outlet);
            drop(turn);
            sent
        }))
    }

    /// A checkpoint could not be read to its end: whoever asks next gets another one, older or newer.
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
            // If the receiver goes just now, the log still has it.
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

    /// From now on the host ships the rows themselves: a receiver found that the guest's restore is not the inverse of its snapshot.
    pub fn distrust_guest(&self, why: &str) {
        if !self.guest_distrusted.swap(true, Ordering::AcqRel) {
            tracing::error!(%why, "the guest's own snapshots are not sent any more; the host ships the rows themselves");
        }
    }

    /// Begins to receive, from `peer` as people know it. Nothing in force changes before openraft installs the result.
    pub fn receive(&self, from: Option<NodeId>, peer: &str) -> Result<Receiving, SnapshotError> {
        let turn = Turn::take(&self.receiving).ok_or(SnapshotError::Busy)?;
        let transfer = self.transfers.begin(Direction::Receiving, peer, from);
        let progress = transfer.shared();
        let (frames, mut incoming) = mpsc::channel(FRAMES_IN_FLIGHT);
        let (done, result) = oneshot::channel();
        let shared = self.shared.clone();
        let work = move || {
            let incoming = Box::new(move || Ok(incoming.blocking_recv()));
            let component = shared.component();
            let received = snapshot_receive::receive(&shared.state, component.as_ref(), incoming, &transfer.shared());
            let prepared = received.and_then(|(generation, system)| {
                let applied = system.applied.ok_or(SnapshotError::Empty)?;
                transfer.tell("a snapshot is received");
                Ok(PreparedState { generation, applied, _transfer: transfer, _turn: turn })
            });
            drop(shared);
            // Whoever gave up on it drops it, and with it the directory.
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

    /// Makes the checkpoint of a received state before that is put in force. While the disk is full it tries again: an error
    /// would end the node.
    pub(crate) async fn make_of_received(&self, received: &Arc<Generation>) -> Result<(), SnapshotError> {
        loop {
            let (this, generation) = (self.clone(), received.clone());
            let made = blocking(move || {
                generation.flush()?;
                this.make(&generation)
            });
            match made.await {
                Err(SnapshotError::Store(error))
                    if error.is_full() && !self.shared.stopping.load(Ordering::Acquire) =>
                {
                    self.shared.counts.disk_full.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%error, "the disk is full: a received snapshot is not put in force yet");
                    tokio::time::sleep(FULL_RETRY).await;
                }
                made => return made.map(|_| ()),
            }
        }
    }

    /// For each checkpoint on disk that can be read, oldest first: its index, and the commands that were applied at it. Blocks.
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

    /// The newest checkpoint that can be read, with what openraft wants to know of it. Blocks.
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

    /// The newest checkpoint, unless openraft was given it before. Blocks.
    pub(crate) fn not_handed_over(&self) -> Option<(Meta, Arc<Checkpoint>)> {
        let handed_over = *self.handed_over.lock();
        self.newest().filter(|(meta, _)| meta.last_log_id > handed_over)
    }

    /// openraft knows of this one now.
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

/// A blocking piece of snapshot work, off the runtime's threads.
pub(crate) async fn blocking<T: Send + 'static, E: From<SnapshotError> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(SnapshotError::Thread(error.to_string()).into()),
    }
}

/// A snapshot on its way out.
#[derive(Debug)]
pub struct Sending {
    /// In order; the last may be the reason why there are no more.
    pub frames: mpsc::Receiver<Result<Bytes, String>>,
    /// How far it is. It is listed while this, or a clone, lives.
    pub transfer: Arc<Running>,
}

/// A snapshot on its way in.
#[derive(Debug)]
pub struct Receiving {
    frames: mpsc::Sender<Bytes>,
    result: oneshot::Receiver<Result<PreparedState, SnapshotError>>,
    transfer: Arc<Transfer>,
}

impl Receiving {
    /// How far it is.
    pub fn transfer(&self) -> Arc<Transfer> {
        self.transfer.clone()
    }

    /// Takes the next frame, waiting while the restore is slower than the network. Once a frame was wrong, later ones are taken
    /// and dropped: [`Receiving::finish`] says what was wrong.
    pub async fn push(&self, frame: Bytes) {
        // The thread has ended early, and its result says why.
        let _ended = self.frames.send(frame).await;
    }

    /// All frames were pushed: completes when the state is built and equal to what was sent.
    pub async fn finish(self) -> Result<SnapshotData, SnapshotError> {
        drop(self.frames);
        match self.result.await {
            Ok(prepared) => prepared.map(SnapshotData::Prepared),
            Err(_) => Err(SnapshotError::Thread("it ended without a result; its panic is in the log".into())),
        }
    }
}
