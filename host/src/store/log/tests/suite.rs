//! openraft's own conformance suite, with the log under test and a state machine in memory.

use std::io;

use futures::{Stream, TryStreamExt};
use openraft::entry::RaftPayload;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{OptionalSend, RaftSnapshotBuilder, StorageError, alias};
use tempfile::TempDir;

use super::super::Log;
use super::{Busy, open, open_disk};
use crate::types::{Applied, LogId, StoredMembership, TypeConfig};

type Meta = alias::SnapshotMetaOf<TypeConfig>;
type Snapshot = alias::SnapshotOf<TypeConfig, ()>;

/// A state machine that remembers only positions.
#[derive(Clone, Default)]
struct Memory {
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshot: Option<Meta>,
}

impl RaftSnapshotBuilder<TypeConfig> for Memory {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let meta = self.snapshot.clone().expect("set when the builder was made");
        Ok(Snapshot { meta, snapshot: () })
    }
}

impl RaftStateMachine<TypeConfig> for Memory {
    type SnapshotData = ();
    type SnapshotBuilder = Memory;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            self.applied = Some(entry.log_id);
            if let Some(membership) = entry.payload.get_membership() {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
            if let Some(responder) = responder {
                responder.send(Applied);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Memory {
        self.snapshot = Some(Meta { last_log_id: self.applied, last_membership: self.membership.clone() });
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &Meta, (): ()) -> io::Result<()> {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.snapshot = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.snapshot.clone().map(|meta| Snapshot { meta, snapshot: () }))
    }
}

struct Builder;

impl StoreBuilder<TypeConfig, Log, Memory, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, Log, Memory), StorageError<TypeConfig>> {
        let root = tempfile::tempdir().expect("a temporary directory");
        let log = open(&root).expect("a new log opens");
        Ok((root, log, Memory::default()))
    }
}

#[tokio::test]
async fn openrafts_own_suite_passes() {
    Suite::test_all(Builder).await.unwrap();
}

/// Builds logs of group 7 on disks that group 0 is writing to.
struct Beside;

impl StoreBuilder<TypeConfig, Log, Memory, (Busy, TempDir)> for Beside {
    async fn build(&self) -> Result<((Busy, TempDir), Log, Memory), StorageError<TypeConfig>> {
        let root = tempfile::tempdir().expect("a temporary directory");
        let disk = open_disk(&root).expect("a new disk opens");
        let busy = Busy::start(disk.log(0).expect("a new log opens"));
        Ok(((busy, root), disk.log(7).expect("a new log opens"), Memory::default()))
    }
}

#[tokio::test]
async fn openrafts_own_suite_passes_beside_another_group() {
    Suite::test_all(Beside).await.unwrap();
}
