//! Tests of snapshots into a running openraft: one after the other, and by rows where the guest's
//! own restore is wrong.
//!
//! A second snapshot that arrives while the first is still being installed may make openraft's core
//! panic (its issue 2116). The gate in front of openraft refuses the second one.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use lockstep_proto::peer::{SnapshotRequest, snapshot_request, snapshot_response};
use openraft::alias::SnapshotOf;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::AppendEntriesRequest;
use tokio::sync::watch;

use super::super::apply::LogGate;
use super::super::{Machine, SnapshotData};
use super::guest_text::{faithful, forgetful};
use super::harness::*;
use crate::guest::Component;
use crate::raft::peers::install::{Frames, Installer, SnapshotHandler};
use crate::raft::peers::link::{Channels, Links};
use crate::raft::peers::wire;
use crate::raft::{Archive, ArchiveParts, ClusterCell, GroupCell, LogTime, NetworkFactory, Raft, RaftCell, Timeouts};
use crate::store::StoreError;
use crate::types::{Cluster, Entry, GROUP, LogId, NodeMode, TypeConfig, Vote};

const PATIENCE: Duration = Duration::from_secs(60);
/// The leader, which is the test itself.
const LEADER: u64 = 1;
const FOLLOWER: u64 = 2;

type Snapshot = SnapshotOf<TypeConfig, SnapshotData>;

/// Holds an install at its barrier.
struct Held {
    open: watch::Sender<bool>,
    reached: watch::Sender<bool>,
}

impl LogGate for Held {
    fn wait_durable(&self, _: u64) -> Result<(), StoreError> {
        Ok(())
    }

    fn note_served(&self, _: LogId) -> Result<(), StoreError> {
        Ok(())
    }

    fn read(&self, _: std::ops::Range<u64>) -> Result<Vec<Entry>, StoreError> {
        Ok(Vec::new())
    }

    fn barrier(&self) -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + '_>> {
        Box::pin(async {
            self.reached.send_replace(true);
            self.open.subscribe().wait_for(|open| *open).await.unwrap();
            Ok(())
        })
    }
}

struct Follower {
    raft: Arc<Raft>,
    machine: Machine,
    gate: Arc<Held>,
    rest: (super::super::Options, (crate::store::DataDir, tempfile::TempDir)),
}

fn vote() -> Vote {
    Vote::new_committed(1, LEADER)
}

/// Makes entries. Entry 0 is the membership, entry 1 the genesis.
fn entries(component: &Component, first: u64, last: u64) -> Vec<Entry> {
    let entry = |index| match index {
        0 => membership(0),
        1 => genesis(1, component),
        index => puts(index, &[("a", "1")]),
    };
    (first..=last).map(entry).collect()
}

/// Makes a node with the leader's state and a checkpoint at each of `indexes`.
async fn leader(component: &Component, indexes: &[u64]) -> (TestNode, Vec<Snapshot>) {
    let mut node = start();
    node.machine.set_component(component.clone());
    node.machine.set_mode(NodeMode::Serving);
    let (mut next, mut snapshots) = (0, Vec::new());
    for index in indexes {
        node.apply(entries(component, next, *index)).await;
        next = index + 1;
        assert_eq!(node.machine.snapshots().take().await.unwrap(), *index);
        let (meta, checkpoint) = node.machine.snapshots().newest().unwrap();
        snapshots.push(Snapshot { meta, snapshot: SnapshotData::Checkpoint(checkpoint) });
    }
    (node, snapshots)
}

/// Makes a node that has entries 0 to 20 and has applied up to 5. Its installs wait at the gate.
async fn follower(component: &Component) -> Follower {
    let gate = Arc::new(Held { open: watch::Sender::new(false), reached: watch::Sender::new(false) });
    let TestNode { machine, state_machine, options, directory } = start_in(tempfile::tempdir().unwrap(), gate.clone());
    machine.set_component(component.clone());
    machine.set_mode(NodeMode::Serving);
    let links = Links::new(
        FOLLOWER,
        GroupCell::new(ClusterCell::new(None), GROUP),
        RaftCell::default(),
        Channels::default(),
        Duration::from_secs(1),
    );
    let network = NetworkFactory::new(links, 1, machine.snapshots().clone(), Timeouts::default(), LogTime::default());
    let config = Arc::new(Timeouts::default().config("test").unwrap());
    let raft = Raft::new(FOLLOWER, config, network, options.log.clone(), state_machine).await.unwrap();
    let follower = Follower { raft: Arc::new(raft), machine, gate, rest: (options, directory) };
    assert!(append(&follower, entries(component, 0, 20), 5).await);
    tokio::time::timeout(PATIENCE, follower.machine.wait_applied(5)).await.unwrap();
    follower
}

/// Appends entries, and returns whether openraft's core answered.
async fn append(follower: &Follower, entries: Vec<Entry>, commit: u64) -> bool {
    let leader_commit = Some(log_id(1, commit));
    let request = AppendEntriesRequest { vote: vote(), prev_log_id: None, entries, leader_commit };
    tokio::time::timeout(PATIENCE, follower.raft.append_entries(request)).await.unwrap().is_ok()
}

async fn reached(gate: &Held) {
    let mut reached = gate.reached.subscribe();
    tokio::time::timeout(PATIENCE, reached.wait_for(|reached| *reached)).await.unwrap().unwrap();
}

fn is_running(raft: &Raft) -> bool {
    raft.metrics().borrow_watched().running_state.is_ok()
}

/// Returns the messages that the leader would send.
async fn messages(leader: &TestNode, snapshot: &Snapshot) -> Frames {
    let mut sending = leader.machine.snapshots().send(&snapshot.snapshot, FOLLOWER, "nodeB");
    let mut frames: Vec<Bytes> = Vec::new();
    while let Some(frame) = sending.frames.recv().await {
        frames.push(frame.unwrap());
    }
    let part = |frame| Ok(SnapshotRequest { part: Some(snapshot_request::Part::Frame(frame)) });
    stream::iter(frames.into_iter().map(part)).boxed()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_refuses_a_second_snapshot_until_the_first_is_applied() {
    let (leader, snapshots) = leader(&faithful(), &[10, 15]).await;
    let follower = follower(&faithful()).await;
    let installer = Installer::new(follower.machine.clone(), None);
    let install = async |snapshot: &Snapshot| {
        let header = wire::encode_snapshot_header(Default::default(), &vote(), snapshot);
        installer.install(follower.raft.clone(), LEADER, header, messages(&leader, snapshot).await)
    };
    let mut answers = install(&snapshots[0]).await;
    let first = tokio::spawn(async move {
        while let Some(answer) = answers.next().await {
            if let Some(snapshot_response::Part::Vote(_)) = answer.unwrap().part {
                return;
            }
        }
        panic!("no vote")
    });
    reached(&follower.gate).await;
    let refused = install(&snapshots[1]).await.next().await.unwrap().unwrap_err();
    assert!(refused.message().contains("installing another snapshot"), "{refused}");
    assert!(is_running(&follower.raft));
    follower.gate.open.send_replace(true);
    tokio::time::timeout(PATIENCE, first).await.unwrap().unwrap();
    assert!(is_running(&follower.raft));
    assert_eq!((follower.machine.applied_index(), follower.machine.status().restore_count), (10, 1));
}

/// The status code between peers for a restore that did not produce what was sent.
const DATA_LOSS: i32 = 15;

#[tokio::test(flavor = "multi_thread")]
async fn an_unfaithful_restore_changes_nothing_and_the_rows_are_installed_instead() {
    let component = forgetful();
    let (leader, snapshots) = leader(&component, &[10]).await;
    let follower = follower(&component).await;
    follower.gate.open.send_replace(true);
    let installer = Installer::new(follower.machine.clone(), None);
    let answer = async || {
        let header = wire::encode_snapshot_header(Default::default(), &vote(), &snapshots[0]);
        let frames = messages(&leader, &snapshots[0]).await;
        let answers = installer.install(follower.raft.clone(), LEADER, header, frames);
        answers.collect::<Vec<_>>().await.pop().unwrap()
    };
    let refused = answer().await.unwrap_err();
    assert_eq!(refused.code() as i32, DATA_LOSS, "{refused}");
    assert_eq!((follower.machine.applied_index(), follower.machine.status().restore_count), (5, 0));
    // The sender does this when it gets that code.
    leader.machine.snapshots().distrust_guest(refused.message());
    assert!(matches!(answer().await.unwrap().part, Some(snapshot_response::Part::Vote(_))));
    assert_eq!((follower.machine.applied_index(), follower.machine.status().restore_count), (10, 1));
}

fn archive(follower: &Follower, above: &std::path::Path) -> Archive {
    let cluster = Cluster { id: [1; 16], incarnation: 0, component_hash: [2; 32] };
    let options = &follower.rest.0;
    let parts = ArchiveParts {
        directory: above.join("archive"),
        above: above.to_owned(),
        group: GROUP,
        cell: GroupCell::new(ClusterCell::new(Some(cluster)), GROUP),
        applied: follower.machine.applied(),
        replays_to: 0,
        log: options.log.clone(),
        space: options.space.clone(),
    };
    Archive::start(parts).unwrap()
}

/// Regression test: an install removed entries from the log that were applied and not archived yet.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_applied_is_archived_before_a_snapshot_replaces_it() {
    let (leader, snapshots) = leader(&faithful(), &[10]).await;
    let follower = follower(&faithful()).await;
    follower.gate.open.send_replace(true);
    let place = tempfile::tempdir().unwrap();
    // The archive cannot be written at first: a file stands where its directory belongs.
    std::fs::write(place.path().join("archive"), "in the way").unwrap();
    let archive = archive(&follower, place.path());
    while archive.status().failures == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let installer = Installer::new(follower.machine.clone(), Some(archive.clone()));
    let header = wire::encode_snapshot_header(Default::default(), &vote(), &snapshots[0]);
    let answers = installer.install(follower.raft.clone(), LEADER, header, messages(&leader, &snapshots[0]).await);
    let answers = tokio::spawn(answers.collect::<Vec<_>>());
    tokio::time::sleep(Duration::from_millis(500)).await;
    std::fs::remove_file(place.path().join("archive")).unwrap();
    let last = tokio::time::timeout(PATIENCE, answers).await.unwrap().unwrap().pop().unwrap();
    assert!(matches!(last.unwrap().part, Some(snapshot_response::Part::Vote(_))));
    assert_eq!(follower.machine.applied_index(), 10);
    let names: Vec<String> = std::fs::read_dir(place.path().join("archive"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.contains(&format!("{:020}-{:020}.segment", 0, 5)), "{names:?}");
    tokio::task::spawn_blocking(move || archive.end()).await.unwrap();
}
