//! A state machine driven by its caller, for tools that test a guest. It has a state in a
//! directory, and applies entries one after the other. It has no Raft, no log and no threads of its
//! own. As on a node, `entry` computes an entry and `snapshot` handles snapshots; this file decides
//! none of that.
//!
//! - The first entry is a genesis entry, as in every cluster.
//! - Guests run on the caller's thread, whose stack must have `CALLER_STACK_BYTES`.
//! - The state is flushed when a node would flush it, so that rows which come and go leave no more
//!   behind than on a node. Nothing needs to survive a crash.

mod error;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep_proto::entry::Entry;
use openraft::vote::RaftLeaderId;

use super::again::Again;
use super::change::{self, Attempt};
use super::digest::Digester;
use super::dirty::{Dirty, FLUSH_AFTER};
use super::entry::{self, Effects, Instances, Runner, batch_of};
use super::fitness::genesis_of;
use super::metered::{Metered, Reuse};
use super::overlay::Transaction;
use super::profile::change_to;
use super::query::Kept;
use super::snapshot::error::SnapshotError;
use super::snapshot::loopback;
use super::snapshot::transfers::Transfer;
use super::system::System;
use super::tried::ChangeReport;
use crate::codec::Command;
use crate::guest::{
    Call, Cause, Component, Context, HostFault, Limits, QueryInstance, Rows, StatusSource, Step, Stepped, Verdict,
};
use crate::store::{Checkpoints, Column, DataDir, Read, State, View};
use crate::types::{CommittedLeaderId, GROUP, LogId};
pub use error::ReplicaError;

/// The term of all entries.
const TERM: u64 = 1;

/// Most steps that a watch may run at once, one after the other. This bounds a stream without end.
const STEPS_AT_ONCE_MAX: u32 = 1000;

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
        let limits = limits_of(&component);
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
        let metered = Metered::new(&self.component, reuse, entry.commands.len());
        let verdicts = self.run_entry(entry, &metered)?;
        Ok(AppliedEntry { index: self.system.applied_index(), verdicts, fuel: metered.fuel() })
    }

    fn run_entry(&mut self, entry: &Entry, instances: &dyn Instances) -> Result<Vec<Verdict>, ReplicaError> {
        let runner = Runner { instances, limits: &self.limits };
        let effects = entry::normal(&self.system, self.next_log_id(), entry, Some(runner), self.state.current())?;
        self.commit(&effects)?;
        Ok(effects.outcomes.into_iter().map(|(_, verdict)| verdict).collect())
    }

    /// Tries to change to another component, by the next entry. If the change is made, the replica
    /// runs that component from then on.
    pub fn change(&mut self, component: Component) -> Result<ChangeReport, ReplicaError> {
        let began = Instant::now();
        let (index, profile) = self.system.in_force().expect("the first entry was a genesis entry");
        let cluster_id = profile.cluster_id.as_ref().try_into().unwrap_or_default();
        let change = change_to(&genesis_of(cluster_id, &component, component.hash()), index, 0);
        let entry = Entry { change: Some(change.clone()), ..Entry::default() };
        let migrate = change::migrate(&self.component, &component, self.state.current(), &|| false);
        let attempt = change::effects(&self.system, self.next_log_id(), &entry, &change, Some(migrate))?;
        self.commit(&attempt.effects)?;
        let is_made = attempt.is_made();
        let Attempt { tried, detail, .. } = attempt;
        if is_made {
            self.limits = limits_of(&component);
            self.component = component;
            self.kept = Kept::default();
        }
        let tried = tried.expect("the change names a component");
        Ok(ChangeReport::new(&tried, detail, began.elapsed()))
    }

    fn next_log_id(&self) -> LogId {
        LogId { leader_id: CommittedLeaderId::new(TERM, 1), index: self.system.applied_index() + 1 }
    }

    fn commit(&mut self, effects: &Effects) -> Result<(), ReplicaError> {
        let (generation, batch) = (self.state.current(), batch_of(effects));
        generation.commit(&batch)?;
        self.system = effects.system.clone();
        self.dirty.note(batch.bytes());
        if self.dirty.is_due() {
            generation.flush()?;
            self.dirty = Dirty::nothing(FLUSH_AFTER);
        }
        Ok(())
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
        let state = self.state.clone();
        let (generation, system) =
            loopback::pass(&checkpoint.open()?, &self.component, &|| state.create(), Arc::new(|| false))?;
        self.state.install(generation, system.applied_index())?;
        self.system = system;
        Ok(())
    }
}

/// Returns the limits of a replica's guest. The caller decides how many commands share an entry.
fn limits_of(component: &Component) -> Limits {
    let own = component.engine().limits().clone();
    Limits { fuel_per_entry: u64::MAX, reply_bytes_per_entry_max: u64::MAX, ..own }
}
