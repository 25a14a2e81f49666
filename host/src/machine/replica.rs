//! A state machine driven by its caller, for tools that test a guest. It has a state in a
//! directory, and applies entries one after the other. It has no Raft, no log and no threads of its
//! own. As on a node, `entry` computes an entry, and `snapshot/send` and `snapshot/receive` handle
//! snapshots; this file decides none of that.
//!
//! - The first entry is a genesis entry, as in every cluster.
//! - Guests run on the caller's thread, whose stack must have [`CALLER_STACK_BYTES`].
//! - The state is flushed when a node would flush it, so that rows which come and go leave no more
//!   behind than on a node. Nothing needs to survive a crash.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lockstep_proto::entry::Entry;
use openraft::vote::RaftLeaderId;
use tokio::sync::mpsc;

use super::again::Again;
use super::apply::batch_of;
use super::digest::Digester;
use super::dirty::{Dirty, FLUSH_AFTER};
use super::entry::{self, Instance, Instances, Runner};
use super::fitness::genesis_of;
use super::overlay::Transaction;
use super::pace::Pace;
use super::query::Kept;
use super::snapshot::error::SnapshotError;
use super::snapshot::frames::Frame;
use super::snapshot::receive;
use super::snapshot::send;
use super::snapshot::send::Outlet;
use super::snapshot::transfers::{Direction, Transfer, Transfers};
use super::system::System;
use crate::codec::Command;
use crate::guest::{
    self, ApplyInstance, CALLER_STACK_BYTES, Call, Cause, Component, Context, HostFault, Limits, QueryInstance, Rows,
    SnapshotSink, StatusSource, Step, Stepped, Verdict,
};
use crate::store::{Checkpoints, Column, DataDir, Read, State, StoreError, View};
use crate::types::{CommittedLeaderId, GROUP, LogId};

/// The term of all entries.
const TERM: u64 = 1;
/// Frames that may wait between the two ends of a snapshot. A frame has at most 1 MiB.
const FRAMES_IN_FLIGHT: usize = 4;

/// Most steps that a watch may run at once, one after the other. This bounds a stream without end.
const STEPS_AT_ONCE_MAX: u32 = 1000;

/// How long an instance is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// Used while all goes well, as on a node: from command to command of an entry, and from query
    /// to query.
    Shared,
    /// Used for one call. No other call sees what the call leaves in memory.
    Never,
}

/// An applied entry.
#[derive(Clone, Debug)]
pub struct AppliedEntry {
    /// Its index.
    pub index: u64,
    /// How each command ended.
    pub verdicts: Vec<Verdict>,
    /// The fuel that each command used, including a first run that was undone and repeated.
    pub fuel: Vec<u64>,
}

/// Values that are equal on two replicas that did the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaDigest {
    /// The last applied index.
    pub index: u64,
    /// The rolling hash of everything that was applied.
    pub hash: u64,
    /// Number of the guest's rows.
    pub rows: u64,
    /// BLAKE3 hash of the guest's rows.
    pub digest: [u8; 32],
}

/// Why a replica cannot go on. A guest cannot cause these errors in a command or a query.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// The disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sandbox failed.
    #[error(transparent)]
    Host(#[from] HostFault),
    /// The guest did not write its snapshot.
    #[error("the guest's snapshot did not end well: {0}")]
    Snapshot(String),
    /// The restored state differs from the state before, or nothing was restored.
    #[error(transparent)]
    Restore(#[from] SnapshotError),
    /// A thread could not be started.
    #[error("start the thread that sends a snapshot: {0}")]
    Thread(#[source] std::io::Error),
}

impl ReplicaError {
    /// Returns whether the guest's snapshot or restore function caused the error.
    pub fn is_of_the_guest(&self) -> bool {
        match self {
            ReplicaError::Snapshot(_) => true,
            ReplicaError::Restore(error) => error.is_unfaithful(),
            ReplicaError::Store(_) | ReplicaError::Host(_) | ReplicaError::Thread(_) => false,
        }
    }
}

/// A state machine driven by its caller. See the file's head.
pub struct Replica {
    // Declared before `directory`, so that it is closed before the directory's lock is released.
    state: State,
    checkpoints: Checkpoints,
    system: System,
    component: Component,
    limits: Limits,
    /// The instance of the last query that used [`Reuse::Shared`].
    kept: Kept,
    dirty: Dirty,
    directory: DataDir,
}

impl Replica {
    /// Opens or creates the state at `place`. A new state gets its genesis entry applied.
    pub fn open(place: &Path, component: Component) -> Result<Replica, ReplicaError> {
        let directory = DataDir::open(place)?;
        let state = State::open(&directory, GROUP)?;
        let checkpoints = Checkpoints::open(&directory, GROUP)?;
        let system = System::read(&*state.current())?;
        // Here the caller decides how many commands share an entry.
        let own = component.engine().limits().clone();
        let limits = Limits { fuel_per_entry: u64::MAX, reply_bytes_per_entry_max: u64::MAX, ..own };
        let (kept, dirty) = (Kept::default(), Dirty::nothing(FLUSH_AFTER));
        let mut replica = Replica { state, checkpoints, system, component, limits, kept, dirty, directory };
        if replica.system.genesis.is_none() {
            let genesis = genesis_of([0; 16], &replica.component, replica.component.hash());
            replica.apply_entry(&Entry { genesis: Some(genesis), ..Entry::default() }, Reuse::Shared)?;
        }
        Ok(replica)
    }

    /// Applies the next entry.
    pub fn apply(&mut self, time_ms: u64, commands: Vec<Command>, reuse: Reuse) -> Result<AppliedEntry, ReplicaError> {
        self.apply_entry(&Entry { time_ms, commands, ..Entry::default() }, reuse)
    }

    /// Does what [`apply`](Self::apply) does, with other instances than the guest's. Returns how
    /// each command ended.
    pub fn apply_by(
        &mut self,
        instances: &dyn Instances,
        time_ms: u64,
        commands: Vec<Command>,
    ) -> Result<Vec<Verdict>, ReplicaError> {
        self.run_entry(&Entry { time_ms, commands, ..Entry::default() }, instances)
    }

    fn apply_entry(&mut self, entry: &Entry, reuse: Reuse) -> Result<AppliedEntry, ReplicaError> {
        let fuel = Rc::new(RefCell::new(vec![0; entry.commands.len()]));
        let metered = Metered { component: self.component.clone(), reuse, fuel: fuel.clone() };
        let verdicts = self.run_entry(entry, &metered)?;
        Ok(AppliedEntry { index: self.system.applied_index(), verdicts, fuel: fuel.take() })
    }

    fn run_entry(&mut self, entry: &Entry, instances: &dyn Instances) -> Result<Vec<Verdict>, ReplicaError> {
        let index = self.system.applied_index() + 1;
        let log_id = LogId { leader_id: CommittedLeaderId::new(TERM, 1), index };
        let runner = Runner { instances, limits: &self.limits };
        let generation = self.state.current();
        let effects = entry::normal(&self.system, log_id, entry, Some(runner), generation.clone())?;
        let batch = batch_of(&effects);
        generation.commit(&batch)?;
        self.system = effects.system;
        self.dirty.note(batch.bytes());
        if self.dirty.is_due() {
            generation.flush()?;
            self.dirty = Dirty::nothing(FLUSH_AFTER);
        }
        Ok(effects.outcomes.into_iter().map(|(_, verdict)| verdict).collect())
    }

    /// Answers a query from the current state.
    pub fn query(&mut self, method: &str, request: &[u8], caller: &str, reuse: Reuse) -> Result<Verdict, ReplicaError> {
        let status: StatusSource = Arc::new(|| "{}".to_owned());
        self.read(reuse, |replica, instance| {
            instance.query(replica.read_call(method, request, caller), replica.view(), status.clone()).0
        })
    }

    /// Returns what a watch sends at once: the replies of its first step, and of the steps after it
    /// that run again without a change. Steps after a pause, or after [`STEPS_AT_ONCE_MAX`] steps,
    /// are left out.
    pub fn watch(&mut self, method: &str, request: &[u8], caller: &str, reuse: Reuse) -> Result<Stepped, ReplicaError> {
        let (mut cause, mut memo, mut replies, mut again) = (Cause::Start, Bytes::new(), Vec::new(), Again::default());
        for steps in 1.. {
            let stepped = self.read(reuse, |replica, instance| {
                instance.watch(replica.read_call(method, request, caller), cause, &memo, replica.view()).0
            })?;
            let mut step = match stepped {
                Stepped::Step(step) => step,
                ended => return Ok(ended),
            };
            let pause = again.after(&step, self.system.applied_index());
            replies.append(&mut step.replies);
            if pause != Some(Duration::ZERO) || steps == STEPS_AT_ONCE_MAX {
                return Ok(Stepped::Step(Step { replies, ..step }));
            }
            (cause, memo) = (Cause::Wake, step.memo);
        }
        unreachable!("the last step returns")
    }

    fn read<T>(
        &mut self,
        reuse: Reuse,
        mut call: impl FnMut(&Self, &mut QueryInstance) -> Result<T, HostFault>,
    ) -> Result<T, ReplicaError> {
        let mut kept = match reuse {
            Reuse::Shared => std::mem::take(&mut self.kept),
            Reuse::Never => Kept::default(),
        };
        let answer = kept.serve(&self.component, None, |instance| call(self, instance))?;
        if reuse == Reuse::Shared {
            self.kept = kept;
        }
        answer.ok_or_else(|| HostFault("all instances for queries are in use".into()).into())
    }

    /// Returns a view of the state. The sandbox refuses writes in a query; the view could not be
    /// written either.
    fn view(&self) -> Box<dyn Rows> {
        Box::new(Transaction::<View>::new(self.state.current().view()))
    }

    fn read_call<'a>(&self, method: &'a str, request: &'a [u8], caller: &'a str) -> Call<'a> {
        Call { context: self.context(), method, request, caller, fuel: self.limits.fuel_per_query }
    }

    fn context(&self) -> Context {
        Context { index: self.system.applied_index(), position: 0, time_ms: self.system.time_ms }
    }

    /// Returns the replica's index, hash and digest. Reads every row.
    pub fn standing(&self) -> Result<ReplicaDigest, ReplicaError> {
        let mut digester = Digester::new();
        digester.scan(&*self.state.current(), Column::Data, &Transfer::default())?;
        let data = digester.finish();
        let (index, hash) = (self.system.applied_index(), self.system.hash.hash);
        Ok(ReplicaDigest { index, hash, rows: data.rows, digest: data.digest })
    }

    /// Stops and starts again, as a node does.
    pub fn reopen(self) -> Result<Replica, ReplicaError> {
        self.state.current().flush()?;
        let Replica { state, checkpoints, component, directory, .. } = self;
        let place = directory.root().to_owned();
        drop((state, checkpoints, directory));
        Replica::open(&place, component)
    }

    /// Lets the guest write a snapshot, and continues from what the guest restores from it. The two
    /// functions must be inverse.
    pub fn snapshot_restore(&mut self) -> Result<(), ReplicaError> {
        let position = |read: &dyn Read| {
            let applied = System::read(read)?.applied;
            Ok(applied.map(|log_id| (log_id.index, log_id.leader_id.term)))
        };
        let checkpoint = self.checkpoints.create(&self.state.current(), &position)?.ok_or(SnapshotError::Empty)?;
        let (out, mut frames) = mpsc::channel(FRAMES_IN_FLIGHT);
        let transfer = Arc::new(Transfers::default().begin(Direction::Sending, "the same replica", None));
        let outlet = Arc::new(Outlet { out, transfer, pace: Pace::default() });
        let component = self.component.clone();
        let sender = std::thread::Builder::new()
            .name("snapshot-send".into())
            .stack_size(CALLER_STACK_BYTES)
            .spawn(move || send::send(&checkpoint, Some(&component), &outlet))
            .map_err(ReplicaError::Thread)?;
        let fell_back = Arc::new(AtomicBool::new(false));
        let noted = fell_back.clone();
        let incoming = Box::new(move || {
            let frame = frames.blocking_recv().transpose().map_err(SnapshotError::Damaged)?;
            if frame.as_ref().is_some_and(|frame| Frame::decode(frame) == Ok(Frame::Restart)) {
                noted.store(true, Ordering::Release);
            }
            Ok(frame)
        });
        let received = receive::receive(&self.state, Some(&self.component), incoming, &Arc::default());
        let sent = sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // A node would send the rows instead, so that a faulty guest cannot prevent snapshots. Here
        // the guest is under test.
        if fell_back.load(Ordering::Acquire) {
            return Err(ReplicaError::Snapshot(self.snapshot_problem()?));
        }
        let (generation, system) = received?;
        if let Err(send::SendError::Store(error)) = sent {
            return Err(error.into());
        }
        self.state.install(generation, system.applied_index())?;
        self.system = system;
        Ok(())
    }

    /// Makes the snapshot again to find the reason of the failure, which the sender only logs.
    fn snapshot_problem(&self) -> Result<String, ReplicaError> {
        let place = guest::snapshot_slot(&self.component)
            .ok_or_else(|| HostFault("all places for snapshots are taken".into()))?;
        Ok(match guest::snapshot(&self.component, &place, self.context(), self.view(), Box::new(Nowhere))? {
            Verdict::Reply(_) => "it failed once and then did not".to_owned(),
            Verdict::Refused(status) => status.message,
            Verdict::Failed(failure) => format!("{:?}: {}", failure.reason, failure.detail),
        })
    }
}

/// A sink for a snapshot that nobody reads.
struct Nowhere;

impl SnapshotSink for Nowhere {
    fn write(&mut self, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

/// Makes instances that record the fuel of each command, by its place in the entry.
struct Metered {
    component: Component,
    reuse: Reuse,
    fuel: Rc<RefCell<Vec<u64>>>,
}

impl Instances for Metered {
    fn fresh(&self) -> Result<Box<dyn Instance>, HostFault> {
        Ok(Box::new(MeteredInstance {
            instance: ApplyInstance::new(&self.component)?,
            component: self.component.clone(),
            reuse: self.reuse,
            fuel: self.fuel.clone(),
        }))
    }
}

struct MeteredInstance {
    instance: ApplyInstance,
    component: Component,
    reuse: Reuse,
    fuel: Rc<RefCell<Vec<u64>>>,
}

impl Instance for MeteredInstance {
    fn served(&self) -> u32 {
        match self.reuse {
            Reuse::Shared => self.instance.served(),
            Reuse::Never => 0,
        }
    }

    fn apply(&mut self, call: Call<'_>, store: Box<dyn Rows>) -> (Result<Verdict, HostFault>, Box<dyn Rows>) {
        if self.reuse == Reuse::Never && self.instance.served() > 0 {
            match ApplyInstance::new(&self.component) {
                Ok(instance) => self.instance = instance,
                Err(fault) => return (Err(fault), store),
            }
        }
        let (verdict, store) = self.instance.apply(call, store);
        self.fuel.borrow_mut()[call.context.position as usize] += self.instance.fuel_used();
        (verdict, store)
    }

    fn fuel_used(&self) -> u64 {
        self.instance.fuel_used()
    }

    fn fuel_of_start(&self) -> u64 {
        self.instance.fuel_of_start()
    }
}
