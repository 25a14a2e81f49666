//! Tests of flushes beside apply: entries are applied while one is under way, and what needs the
//! state on disk waits for it.

use std::future::Future;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use futures::stream;
use openraft::storage::RaftStateMachine;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::super::dirty::{BESIDE_FLUSH_ENTRIES_MAX, FLUSH_ENTRIES};
use super::super::{Executor, flusher};
use super::harness::*;
use crate::codec::entry;
use crate::guest::CALLER_STACK_BYTES;
use crate::store::{Batch, Column, STATE_MEMTABLE_BYTES};

const PATIENCE: Duration = Duration::from_secs(60);
/// Time for what must not happen.
const A_WHILE: Duration = Duration::from_millis(200);

/// Returns an executor whose flushing thread begins to work once the test opens the gate.
fn held() -> (Executor, Sender<()>) {
    let (gate, opened) = channel();
    let opened = Mutex::new(Some(opened));
    let executor = Executor::new(move |name, work| {
        let opened = if name == flusher::NAME { opened.lock().take() } else { None };
        let work = move || {
            if let Some(opened) = opened {
                // A test that fails drops the gate.
                let _opened_or_dropped = opened.recv();
            }
            work();
        };
        std::thread::Builder::new().stack_size(CALLER_STACK_BYTES).spawn(work).map(drop)
    });
    (executor, gate)
}

/// Starts a node that has applied so many entries that a flush is under way. It goes on once the
/// test opens the gate.
async fn under_way() -> (TestNode, Sender<()>) {
    let (executor, gate) = held();
    let mut node = start_on(tempfile::tempdir().unwrap(), Arc::new(Open), executor);
    node.apply((1..=FLUSH_ENTRIES).map(membership).collect()).await;
    (node, gate)
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap()
}

/// Opens the gate once the work has begun to wait for it, and returns what the work returns.
async fn ends_at<T>(gate: Sender<()>, work: JoinHandle<T>) -> T {
    tokio::time::sleep(A_WHILE).await;
    assert!(!work.is_finished(), "it did not wait for the flush");
    gate.send(()).unwrap();
    in_time(work).await.unwrap()
}

#[tokio::test]
async fn entries_are_applied_while_the_state_is_flushed_and_the_next_flush_has_them() {
    let (mut node, gate) = under_way().await;
    let last = 2 * FLUSH_ENTRIES;
    node.apply((FLUSH_ENTRIES + 1..=last).map(membership).collect()).await;
    assert_eq!((node.machine.applied_index(), node.machine.status().flushes), (last, 0));
    gate.send(()).unwrap();
    in_time(async {
        while node.machine.status().flushes < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn apply_waits_when_very_many_entries_are_not_flushed() {
    let (mut node, gate) = under_way().await;
    // On a slow machine the flush may have begun before the last of the first entries.
    let (most, last) = (FLUSH_ENTRIES + BESIDE_FLUSH_ENTRIES_MAX, 2 * BESIDE_FLUSH_ENTRIES_MAX);
    let machine = node.machine.clone();
    let applying = tokio::spawn(async move {
        node.apply((FLUSH_ENTRIES + 1..=last).map(membership).collect()).await;
        node
    });
    in_time(machine.wait_applied(BESIDE_FLUSH_ENTRIES_MAX)).await;
    tokio::time::sleep(A_WHILE).await;
    assert!(machine.applied_index() <= most);
    let _node = ends_at(gate, applying).await;
    assert_eq!(machine.applied_index(), last);
}

#[tokio::test]
async fn a_close_waits_for_the_flush_and_leaves_everything_on_disk() {
    let (mut node, gate) = under_way().await;
    let last = FLUSH_ENTRIES + 1;
    node.apply(vec![membership(last)]).await;
    let machine = node.machine.clone();
    let closing = tokio::spawn(async move { machine.close().await });
    ends_at(gate, closing).await.unwrap();
    assert_eq!(node.machine.status().flushes, 2);
    let node = start_in(node.stop().await, Arc::new(Open));
    assert_eq!(node.machine.applied_index(), last);
}

#[tokio::test]
async fn apply_waits_when_its_memtables_are_nearly_full_and_the_flush_is_not_over() {
    let (mut node, gate) = under_way().await;
    // As much as many large entries would have.
    let mut batch = Batch::new();
    batch.put(Column::Data, b"large", &vec![7; STATE_MEMTABLE_BYTES / 16 * 13]);
    let current = node.options.state.current();
    current.commit(&batch).unwrap();
    assert!(current.is_nearly_full());
    let (machine, last) = (node.machine.clone(), FLUSH_ENTRIES + 1);
    let applying = tokio::spawn(async move {
        node.apply(vec![membership(last)]).await;
        node
    });
    let _node = ends_at(gate, applying).await;
    assert!(machine.applied_index() == last && !current.is_nearly_full());
}

#[tokio::test]
async fn an_install_waits_for_the_flush_of_the_state_that_it_replaces() {
    let (node, gate) = under_way().await;
    let snapshots = node.machine.snapshots();
    assert_eq!(snapshots.take().await.unwrap(), FLUSH_ENTRIES);
    let copy = snapshots.copy_back(&node.options.checkpoints.newest().unwrap()).unwrap();
    let (machine, old) = (node.machine.clone(), Arc::downgrade(&node.options.state.current()));
    let installing = tokio::spawn(async move { machine.apply.install(copy).await });
    ends_at(gate, installing).await.unwrap();
    assert!(old.upgrade().is_none(), "the flushing thread has it still");
    assert_eq!(node.machine.applied_index(), FLUSH_ENTRIES);
}

#[tokio::test]
async fn the_checkpoint_of_a_marked_entry_waits_for_the_flush() {
    let (mut node, gate) = under_way().await;
    let (machine, last) = (node.machine.clone(), FLUSH_ENTRIES + 1);
    let entry = normal(1, last, &entry::Entry { mark: vec![5; 16].into(), ..Default::default() });
    let applying = tokio::spawn(async move {
        node.apply(vec![entry]).await;
        node
    });
    let node = ends_at(gate, applying).await;
    assert_eq!((machine.applied_index(), machine.status().flushes), (last, 1));
    assert_eq!(node.options.checkpoints.newest().unwrap().index, last);
}

#[tokio::test]
async fn a_flush_that_fails_ends_the_node_also_when_nothing_is_applied_any_more() {
    let mut node = start();
    let place = node.directory.1.path();
    // RocksDB goes on with the files that it has open. A flush finds no place.
    std::fs::rename(place.join("state"), place.join("gone")).unwrap();
    node.apply(vec![membership(1)]).await;
    let reason = in_time(node.options.fatal.raised()).await;
    assert!(reason.contains("apply after index 1"), "{reason}");
    let entries = stream::iter([Ok((membership(2), None))]);
    assert!(node.state_machine.apply(entries).await.is_err());
}
