//! Adapts the machine to openraft: passes entries to the apply thread, or to `starting.rs` while
//! openraft starts, and snapshots to `snapshots.rs`. Decides nothing about either, except the order
//! of the steps of an install.

use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use openraft::alias::SnapshotOf;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};

use super::apply::{ApplyHandle, Committed, LogGate};
use super::snapshot::error::SnapshotError;
use super::snapshot::{Meta, SnapshotData, Snapshots, blocking};
use super::starting::Starting;
use super::system::System;
use crate::faults;
use crate::store::Checkpoint;
use crate::types::{LogId, StoredMembership, TypeConfig};

/// Most entries that are passed to the apply thread at once.
const ENTRIES_MAX: usize = 256;
/// Most bytes of entries that are passed to the apply thread at once; they are held in memory.
const BYTES_MAX: usize = 4 << 20;

type Snapshot = SnapshotOf<TypeConfig, SnapshotData>;

/// The state machine that openraft calls. A handle: clones are the same machine.
#[derive(Clone)]
pub struct StateMachine {
    apply: ApplyHandle,
    gate: Arc<dyn LogGate>,
    snapshots: Snapshots,
    starting: Starting,
}

impl StateMachine {
    pub(crate) fn new(apply: ApplyHandle, gate: Arc<dyn LogGate>, snapshots: Snapshots) -> StateMachine {
        StateMachine { apply, gate, snapshots, starting: Starting::default() }
    }

    /// Lets openraft start without waiting for what the state lacks. What it applies until
    /// [`StateMachine::go_on`] is put off.
    pub(crate) fn put_off(&self) {
        self.starting.begin();
    }

    /// Has the apply thread apply what was put off, and waits for none of it. Returns the index of
    /// the last such entry. Must come before openraft runs, whose entries follow these.
    pub(crate) fn go_on(&self) -> Option<u64> {
        let last = self.starting.end()?.index;
        self.apply.replay(last);
        Some(last)
    }
}

fn payload_bytes(committed: &Committed) -> usize {
    match &committed.0.payload {
        EntryPayload::Normal(data) => data.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let system = System::read(&*self.snapshots.state().current())?;
        Ok(self.starting.over(system.applied, (*system.membership).clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let (mut batch, mut bytes): (Vec<Committed>, usize) = (Vec::new(), 0);
        while let Some(entry) = entries.next().await {
            let entry = entry?;
            if self.starting.puts_off(&entry.0) {
                continue;
            }
            bytes += payload_bytes(&entry);
            batch.push(entry);
            if batch.len() == ENTRIES_MAX || bytes >= BYTES_MAX {
                bytes = 0;
                self.apply.apply(std::mem::take(&mut batch)).await?;
            }
        }
        if !batch.is_empty() {
            self.apply.apply(batch).await?;
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        let snapshots = self.snapshots.clone();
        let ready = blocking::<_, SnapshotError>(move || Ok(snapshots.not_handed_over())).await;
        let ready = ready.unwrap_or_else(|error| {
            tracing::error!(%error, "snapshots were not looked at");
            None
        });
        (force || ready.is_some()).then(|| Builder { snapshots: self.snapshots.clone(), ready })
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { snapshots: self.snapshots.clone(), ready: None }
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: SnapshotData) -> Result<(), io::Error> {
        // Runs outside the runtime's threads, because a test may make it wait.
        blocking(|| faults::io("snapshot-install")).await?;
        let snapshots = self.snapshots.clone();
        let (generation, applied, turn) = match snapshot {
            SnapshotData::Prepared(prepared) => (prepared.generation.clone(), Some(prepared.applied()), Some(prepared)),
            SnapshotData::Checkpoint(checkpoint) => {
                let copy = move || {
                    let copy = snapshots.copy_back(&checkpoint)?;
                    let applied = System::read(&*copy)?.applied;
                    Ok((copy, applied, None))
                };
                blocking::<_, SnapshotError>(copy).await?
            }
            SnapshotData::Empty => return Err(io::Error::other("a snapshot of nothing cannot be installed")),
        };
        if applied != meta.last_log_id {
            return Err(io::Error::other(format!("a snapshot of {:?} came as one of {:?}", applied, meta.last_log_id)));
        }
        // Writes that were submitted to the log before this must not reach the disk after it.
        self.gate.barrier().await?;
        self.snapshots.make_patiently(&generation, "a received snapshot is not put in force yet").await?;
        self.apply.install(generation).await?;
        self.snapshots.handed_over(meta);
        drop(turn);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let snapshots = self.snapshots.clone();
        let newest = blocking::<_, SnapshotError>(move || Ok(snapshots.newest())).await?;
        Ok(newest.map(|(meta, checkpoint)| Snapshot { meta, snapshot: SnapshotData::Checkpoint(checkpoint) }))
    }
}

/// Returns an existing checkpoint to openraft, or makes one when there is none to return.
pub struct Builder {
    snapshots: Snapshots,
    ready: Option<(Meta, Arc<Checkpoint>)>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let (meta, checkpoint) = match self.ready.take() {
            Some(ready) => ready,
            None => {
                let snapshots = self.snapshots.clone();
                let current = snapshots.state().current();
                let checkpoint = match snapshots.make_patiently(&current, "a snapshot is not made yet").await {
                    Err(SnapshotError::Empty) => {
                        return Ok(Snapshot { meta: Meta::default(), snapshot: SnapshotData::Empty });
                    }
                    made => made?,
                };
                blocking::<_, SnapshotError>(move || Ok((snapshots.meta(&checkpoint)?, checkpoint))).await?
            }
        };
        self.snapshots.handed_over(&meta);
        Ok(Snapshot { meta, snapshot: SnapshotData::Checkpoint(checkpoint) })
    }
}
