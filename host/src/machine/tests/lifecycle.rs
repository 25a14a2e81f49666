//! Tests of one node: entries, outcomes, reads, watches, restarts, and faults that must stop it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, stream};
use openraft::EntryPayload;
use openraft::storage::RaftStateMachine;
use parking_lot::{Condvar, Mutex};

use super::super::apply::LogGate;
use super::super::system::System;
use super::super::{Change, Fate, MachineError, Options, QueryError, Watched, open};
use super::guest_text::{faithful, forgetful};
use super::harness::*;
use crate::codec;
use crate::guest::{Reason, Stepped, Verdict};
use crate::source::Party;
use crate::store::{Batch, Column, State, StoreError};
use crate::types::{Entry, EntryData, GROUP, LogId, NodeMode};

fn reply(text: &'static str) -> Verdict {
    Verdict::Reply(Bytes::from_static(text.as_bytes()))
}

#[tokio::test]
async fn command_reaches_its_waiter_and_every_reader_after_it() {
    let mut node = TestNode::begun(faithful()).await;
    let mut waiter = node.machine.waiters().register(origin(0), Party::default());
    waiter.sent_under(log_id(1, 0).leader_id);
    node.apply(vec![puts(2, &[("a", "1")])]).await;
    let Fate::Outcome(outcome) = waiter.fate().await else { panic!("an outcome") };
    assert_eq!((outcome.index, outcome.position, outcome.time_ms), (2, 0, 2000));
    assert_eq!(outcome.verdict, reply("1"));
    node.machine.wait_applied(2).await;
    let answer = node.get("a").await;
    assert_eq!((answer.index, answer.verdict), (2, reply("1")));
}

/// A watch that woke for an index or a time reports that cause only when none of its reads has
/// changed up to the state that it sees.
#[tokio::test]
async fn changes_are_told_before_the_index_that_they_came_with() {
    let mut node = TestNode::begun(faithful()).await;
    for index in 2..300 {
        let Watched { index: since, reads, .. } = node.watch("a").await;
        let mut changed = node.machine.changed(since, reads);
        let machine = node.machine.clone();
        let told = tokio::task::spawn_blocking(move || {
            // This is close to the moment at which the index becomes visible.
            while machine.applied_index() < index {
                std::hint::spin_loop();
            }
            (&mut changed).now_or_never()
        });
        node.apply(vec![puts(index, &[("a", "1")])]).await;
        assert_eq!(told.await.unwrap(), Some(Change::Touched), "entry {index}");
    }
}

#[tokio::test]
async fn trapped_command_is_an_outcome_and_changes_nothing() {
    let mut node = TestNode::begun(faithful()).await;
    let mut waiter = node.machine.waiters().register(origin(1), Party::default());
    node.apply(vec![puts(2, &[("a", "1"), ("a", ""), ("b", "2")])]).await;
    let Fate::Outcome(outcome) = waiter.fate().await else { panic!("an outcome") };
    assert!(matches!(&outcome.verdict, Verdict::Failed(failure) if failure.reason == Reason::Trap));
    assert_eq!(node.get("a").await.verdict, reply("1"));
    assert_eq!(node.get("b").await.verdict, reply("2"));
    let status = node.machine.status();
    assert_eq!((status.commands_applied, status.commands_failed), (3, 1));
}

#[tokio::test]
async fn restart_keeps_state_membership_time_and_hash() {
    let mut node = TestNode::begun(faithful()).await;
    node.apply(vec![puts(2, &[("a", "1")]), membership(3)]).await;
    let (hash, applied) = (node.machine.hash_tip(), node.state_machine.applied_state().await.unwrap());
    let mut node = start_in(node.stop().await, Arc::new(Open));
    assert_eq!(node.machine.hash_tip(), hash);
    assert_eq!(node.state_machine.applied_state().await.unwrap(), applied);
    assert_eq!(node.machine.applied().borrow().time_ms, 2000);
    assert!(*node.machine.genesis_applied().borrow());
    node.machine.set_component(faithful());
    node.machine.set_mode(NodeMode::Serving);
    assert_eq!(node.get("a").await.verdict, reply("1"));
}

#[tokio::test]
async fn replicas_that_apply_the_same_have_the_same_hash() {
    let (mut one, mut two) = (TestNode::begun(faithful()).await, TestNode::begun(faithful()).await);
    let entries = || vec![puts(2, &[("a", "1"), ("a", ""), ("b", "2")]), membership(3)];
    one.apply(entries()).await;
    for entry in entries() {
        two.apply(vec![entry]).await;
    }
    assert_eq!(one.machine.hash_tip(), two.machine.hash_tip());
    two.apply(vec![puts(4, &[("c", "3")])]).await;
    assert_ne!(one.machine.hash_tip(), two.machine.hash_tip());
}

#[tokio::test]
async fn proposers_other_hash_is_counted() {
    let mut node = TestNode::begun(faithful()).await;
    let (hash_index, hash) = node.machine.hash_tip();
    let entry = |hash| crate::codec::entry::Entry { hash_index, hash, ..Default::default() };
    node.apply(vec![normal(1, 2, &entry(hash))]).await;
    assert_eq!(node.machine.status().hash_mismatches, 0);
    node.apply(vec![normal(1, 3, &entry(hash ^ 1))]).await;
    assert_eq!(node.machine.status().hash_mismatches, 1);
}

#[tokio::test]
async fn undecodable_entry_is_applied_as_an_empty_one() {
    let mut node = TestNode::begun(faithful()).await;
    let payload = EntryPayload::Normal(EntryData(Bytes::from_static(b"\xff\xff")));
    node.apply(vec![Entry { log_id: log_id(1, 2), payload }, puts(3, &[("a", "1")])]).await;
    assert_eq!(node.machine.status().entries_undecodable, 1);
    assert_eq!(node.get("a").await.verdict, reply("1"));
}

/// A build that passed over the entry would compute another state than the newer ones.
#[tokio::test]
async fn an_entry_that_needs_a_newer_build_stops_apply_for_good() {
    let mut node = TestNode::begun(faithful()).await;
    let mut mode = node.machine.watch_mode();
    let outdated = node.machine.watch_outdated();
    assert!(!*outdated.borrow());
    let machine = node.machine.clone();
    let newer = codec::entry::Entry { needs: codec::ENTRY_LEVEL + 1, ..commands(&[("a", "1")]) };
    let entries = vec![normal(1, 2, &newer), puts(3, &[("a", "2")])];
    let applying = tokio::spawn(async move {
        let entries = stream::iter(entries.into_iter().map(|entry| Ok((entry, None))));
        node.state_machine.apply(entries).await
    });
    mode.wait_for(|mode| matches!(mode, NodeMode::Unfit(why) if why.contains("entry 2 needs"))).await.unwrap();
    assert!(*outdated.borrow(), "others are told, so that it does not lead");
    machine.offer_component(faithful());
    assert!(matches!(machine.mode(), NodeMode::Unfit(_)), "no component helps it");
    assert_eq!(machine.applied_index(), 1);
    machine.close().await.unwrap();
    assert!(applying.await.unwrap().is_err());
    assert_eq!(machine.applied_index(), 1);
}

/// So would a build that took over a state, or a snapshot, without all of its records.
#[tokio::test]
async fn a_record_of_a_newer_build_is_not_passed_over() {
    let node = TestNode::begun(faithful()).await;
    let generation = node.options.state.current();
    System::read(&*generation).unwrap();
    let mut batch = Batch::new();
    batch.put(Column::System, b"quota", b"\x01");
    generation.commit(&batch).unwrap();
    let refused = System::read(&*generation).unwrap_err().to_string();
    assert!(refused.contains("record `quota`") && refused.contains("start that build"), "{refused}");
}

#[tokio::test]
async fn watch_wakes_when_its_key_changes_and_not_before() {
    let mut node = TestNode::begun(faithful()).await;
    let step = node.watch("a").await;
    let Stepped::Step(said) = &step.stepped else { panic!("a step") };
    assert_eq!(said.replies, [Bytes::new()]);
    let mut changed = Box::pin(node.machine.changed(step.index, step.reads));
    node.apply(vec![puts(2, &[("b", "1")])]).await;
    assert!(futures::poll!(&mut changed).is_pending());
    node.apply(vec![puts(3, &[("a", "2")])]).await;
    assert_eq!(changed.await, Change::Touched);
}

#[tokio::test]
async fn node_with_another_component_waits_and_says_so() {
    let mut node = start();
    node.machine.set_component(forgetful());
    node.machine.set_mode(NodeMode::Serving);
    let mut mode = node.machine.watch_mode();
    let machine = node.machine.clone();
    let applying = tokio::spawn(async move {
        node.apply(vec![genesis(1, &faithful()), puts(2, &[("a", "1")])]).await;
        node
    });
    mode.wait_for(|mode| matches!(mode, NodeMode::Unfit(_))).await.unwrap();
    assert_eq!(machine.applied_index(), 0);
    machine.set_component(faithful());
    let node = applying.await.unwrap();
    assert_eq!(machine.mode(), NodeMode::Serving);
    assert_eq!(node.get("a").await.verdict, reply("1"));
}

/// In a deadlock, each would hold a lock that the other one needs, and the node would never answer
/// again.
#[tokio::test]
async fn a_status_and_a_component_that_fits_do_not_wait_for_each_other() {
    let node = TestNode::begun(faithful()).await;
    let (asked, genesis) = (node.machine.clone(), node.machine.genesis().unwrap());
    let (done, ended) = std::sync::mpsc::channel();
    let (machine, told) = (node.machine.clone(), done.clone());
    // The threads are not joined, so that a failing test ends.
    std::thread::spawn(move || {
        (0..20_000).for_each(|_| drop(machine.shared.fit_component(&genesis)));
        told.send(()).unwrap();
    });
    std::thread::spawn(move || {
        (0..20_000).for_each(|_| drop(asked.status()));
        done.send(()).unwrap();
    });
    for _ in 0..2 {
        ended.recv_timeout(Duration::from_secs(60)).expect("they wait for each other");
    }
}

#[tokio::test]
async fn node_that_is_not_serving_answers_no_query() {
    let node = TestNode::begun(faithful()).await;
    node.machine.set_mode(NodeMode::CatchingUp("replaying".into()));
    let call = super::super::QueryCall {
        method: "Test/Get".into(),
        request: Bytes::new(),
        caller: String::new(),
        party: Party::default(),
        deadline: std::time::Instant::now(),
        status: Arc::new(String::new),
    };
    assert_eq!(node.machine.query(call).await, Err(QueryError::NotReady("replaying".into())));
}

/// A log whose fsync the test holds back.
#[derive(Default)]
struct Held(Mutex<u64>, Condvar);

impl LogGate for Held {
    fn wait_durable(&self, index: u64) -> Result<(), StoreError> {
        self.1.wait_while(&mut self.0.lock(), |durable| *durable < index);
        Ok(())
    }

    fn note_served(&self, _: LogId) -> Result<(), StoreError> {
        Ok(())
    }

    fn read(&self, _: std::ops::Range<u64>) -> Result<Vec<Entry>, StoreError> {
        Ok(Vec::new())
    }

    fn barrier(&self) -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + '_>> {
        Box::pin(async { Ok(()) })
    }
}

#[tokio::test]
async fn entry_is_applied_only_once_the_log_holds_it() {
    let gate = Arc::new(Held::default());
    let mut node = start_in(tempfile::tempdir().unwrap(), gate.clone());
    let machine = node.machine.clone();
    let applying = tokio::spawn(async move { node.apply(vec![membership(1), membership(2)]).await });
    *gate.0.lock() = 1;
    gate.1.notify_all();
    machine.wait_applied(1).await;
    assert_eq!(machine.applied_index(), 1);
    *gate.0.lock() = 2;
    gate.1.notify_all();
    machine.wait_applied(2).await;
    applying.await.unwrap();
}

#[tokio::test]
async fn state_ahead_of_its_log_is_refused() {
    let mut node = start();
    node.apply(vec![membership(5)]).await;
    node.machine.close().await.unwrap();
    let refused = open(node.options.clone()).err().unwrap();
    assert!(matches!(refused, MachineError::StateAhead { applied: 5, last: None }), "{refused}");
}

/// hashicorp/raft has this flag for state machines that keep their state themselves, as ours does.
#[tokio::test]
async fn a_snapshot_that_nobody_wants_restored_is_left_out_where_the_log_can_do_without_it() {
    use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
    for is_purged in [false, true] {
        let mut ahead = start();
        ahead.apply((0..=4).map(membership).collect()).await;
        ahead.machine.snapshots().take().await.unwrap();
        let behind = start();
        let checkpoint = ahead.options.checkpoints.newest().unwrap();
        let place = behind.options.checkpoints.newest();
        assert!(place.is_none());
        let mut log = behind.options.log.clone();
        log.blocking_append((0..=4).map(membership)).await.unwrap();
        if is_purged {
            log.purge(log_id(1, 2)).await.unwrap();
        }
        let options = Options {
            checkpoints: ahead.options.checkpoints.clone(),
            restores_snapshot: false,
            ..behind.options.clone()
        };
        let opened = open(options.clone());
        if is_purged {
            let refused = opened.err().unwrap();
            assert!(
                matches!(refused, MachineError::RestoreUnwanted { applied: None, first: 3, snapshot: 4 }),
                "{refused}"
            );
            assert_eq!(
                options.checkpoints.newest().unwrap().index,
                checkpoint.index,
                "it is still there to be restored"
            );
        } else {
            opened.unwrap();
            assert!(options.checkpoints.newest().is_none());
        }
    }
}

#[tokio::test]
async fn log_that_begins_after_its_state_is_refused() {
    use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
    let node = start();
    let mut log = node.options.log.clone();
    log.blocking_append((0..=4).map(membership)).await.unwrap();
    log.purge(log_id(1, 2)).await.unwrap();
    let refused = open(node.options.clone()).err().unwrap();
    assert!(matches!(refused, MachineError::StateBehind { applied: None, first: 3 }), "{refused}");
}

#[tokio::test]
async fn failing_disk_ends_the_node_and_acknowledges_nothing() {
    struct Broken;
    impl LogGate for Broken {
        fn wait_durable(&self, _: u64) -> Result<(), StoreError> {
            Err(StoreError::Poisoned("fsync failed".into()))
        }

        fn note_served(&self, _: LogId) -> Result<(), StoreError> {
            Ok(())
        }
        fn read(&self, _: std::ops::Range<u64>) -> Result<Vec<Entry>, StoreError> {
            Ok(Vec::new())
        }

        fn barrier(&self) -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + '_>> {
            Box::pin(async { Ok(()) })
        }
    }
    let mut node = start_in(tempfile::tempdir().unwrap(), Arc::new(Broken));
    let entries = || futures::stream::iter([Ok((membership(1), None))]);
    assert!(node.state_machine.apply(entries()).await.is_err());
    assert!(node.options.fatal.raised().await.contains("fsync failed"));
    assert!(node.state_machine.apply(entries()).await.is_err());
    assert_eq!(node.machine.applied_index(), 0);
}

#[tokio::test]
async fn crash_before_a_flush_loses_only_what_the_log_still_has() {
    let mut node = TestNode::begun(faithful()).await;
    node.apply(vec![puts(2, &[("a", "1")])]).await;
    node.options.state.current().flush().unwrap();
    node.apply(vec![puts(3, &[("a", "2")])]).await;
    // A copy of the disk at this moment is what a crash would leave.
    let crashed = tempfile::tempdir().unwrap();
    copy(node.directory.1.path(), crashed.path());
    let directory = crate::store::DataDir::open(crashed.path()).unwrap();
    let state = State::open(&directory, GROUP).unwrap();
    let system = super::super::system::System::read(&*state.current()).unwrap();
    assert_eq!(system.applied_index(), 2);
    assert_eq!(system.hash.index, 2);
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
