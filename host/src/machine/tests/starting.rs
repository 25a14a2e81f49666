//! Tests of a start over a log that holds more than the state: openraft waits for nothing, and the
//! apply thread applies what is missing beside it, in order, until the node stops.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::raft::AppendEntriesRequest;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use tempfile::TempDir;

use super::super::apply::LogGate;
use super::super::open;
use super::guest_text::faithful;
use super::harness::*;
use crate::codec;
use crate::guest::Verdict;
use crate::raft::peers::link::{Channels, Links};
use crate::raft::{ClusterCell, GroupCell, LogTime, NetworkFactory, Raft, RaftCell, Timeouts};
use crate::store::StoreError;
use crate::types::{Entry, GROUP, LogId, NodeMode, Vote};

const PATIENCE: Duration = Duration::from_secs(60);
/// The node of the test, which is no voter of [`membership`].
const LEARNER: u64 = 2;

/// A log that holds these entries, and gives one of them at a time.
struct Kept(Vec<Entry>);

impl LogGate for Kept {
    fn wait_durable(&self, _: u64) -> Result<(), StoreError> {
        Ok(())
    }

    fn note_served(&self, _: LogId) -> Result<(), StoreError> {
        Ok(())
    }

    fn read(&self, indexes: Range<u64>) -> Result<Vec<Entry>, StoreError> {
        Ok(self.0.iter().filter(|entry| indexes.contains(&entry.log_id.index)).take(1).cloned().collect())
    }

    fn barrier(&self) -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + '_>> {
        Box::pin(async { Ok(()) })
    }
}

/// Starts a node in that directory, whose log holds these entries. openraft has applied them again,
/// as it does while it starts.
async fn starting(place: TempDir, entries: Vec<Entry>) -> TestNode {
    let mut node = start_in(place, Arc::new(Kept(entries.clone())));
    node.machine.set_component(faithful());
    node.machine.set_mode(NodeMode::Serving);
    node.state_machine.put_off();
    node.apply(entries).await;
    node
}

/// Makes an entry of a build after this one.
fn newer(index: u64) -> Entry {
    normal(1, index, &codec::entry::Entry { needs: codec::ENTRY_LEVEL + 1, ..commands(&[("a", "new")]) })
}

fn stands_before_2(mode: &NodeMode) -> bool {
    matches!(mode, NodeMode::Unfit(why) if why.contains("entry 2 needs a build"))
}

#[tokio::test]
async fn openraft_takes_for_applied_what_is_applied_ahead_of_all_later_entries() {
    let entries =
        vec![membership(0), genesis(1, &faithful()), puts(2, &[("a", "1")]), membership(3), puts(4, &[("a", "2")])];
    let mut node = starting(tempfile::tempdir().unwrap(), entries).await;
    let (applied, members) = node.state_machine.applied_state().await.unwrap();
    assert_eq!((applied, *members.log_id()), (Some(log_id(1, 4)), Some(log_id(1, 3))));
    assert!(node.machine.applied().borrow().log_id.is_none(), "nothing is applied yet");
    assert_eq!(node.state_machine.go_on(), Some(4));
    node.apply(vec![puts(5, &[("b", "3")])]).await;
    assert_eq!((node.machine.applied_index(), node.machine.status().commands_applied), (5, 3));
    assert_eq!(node.get("a").await.verdict, Verdict::Reply(Bytes::from_static(b"2")));
    assert_eq!(node.state_machine.applied_state().await.unwrap().0, Some(log_id(1, 5)));
}

#[tokio::test]
async fn a_start_that_lacks_nothing_puts_nothing_off() {
    let mut node = TestNode::begun(faithful()).await;
    node.state_machine.put_off();
    assert_eq!(node.state_machine.applied_state().await.unwrap().0, Some(log_id(1, 1)));
    assert_eq!(node.state_machine.go_on(), None);
    node.apply(vec![puts(2, &[("a", "1")])]).await;
    assert_eq!(node.machine.applied_index(), 2);
}

#[tokio::test]
async fn a_stop_ends_what_was_put_off_and_the_next_start_goes_on() {
    let entries = vec![membership(0), genesis(1, &faithful()), newer(2), puts(3, &[("a", "2")])];
    let node = starting(tempfile::tempdir().unwrap(), entries).await;
    assert_eq!(node.state_machine.go_on(), Some(3));
    tokio::time::timeout(PATIENCE, node.machine.watch_mode().wait_for(stands_before_2)).await.unwrap().unwrap();
    assert_eq!(node.machine.applied_index(), 1);
    node.machine.close().await.unwrap();
    assert!(!node.options.fatal.is_raised(), "a stop is no fault");
    // A newer build knows the entry.
    let node = starting(node.stop().await, vec![puts(2, &[("a", "1")]), puts(3, &[("a", "2")])]).await;
    assert_eq!(node.machine.applied_index(), 1);
    assert_eq!(node.state_machine.go_on(), Some(3));
    tokio::time::timeout(PATIENCE, node.machine.wait_applied(3)).await.unwrap();
    assert_eq!(node.get("a").await.verdict, Verdict::Reply(Bytes::from_static(b"2")));
}

#[tokio::test]
async fn a_log_that_lacks_what_was_put_off_ends_the_node() {
    let mut node = start_in(tempfile::tempdir().unwrap(), Arc::new(Kept(Vec::new())));
    node.state_machine.put_off();
    node.apply(vec![membership(0), membership(1)]).await;
    assert_eq!(node.state_machine.go_on(), Some(1));
    let why = tokio::time::timeout(PATIENCE, node.options.fatal.raised()).await.unwrap();
    assert!(why.contains("log entries 0 to 1 are to be applied"), "{why}");
}

/// Regression test: openraft's start waited for an entry that this build does not know, and the
/// node served no port that could have said so.
#[tokio::test(flavor = "multi_thread")]
async fn openraft_starts_and_takes_entries_over_a_log_that_this_build_cannot_apply() {
    let TestNode { machine: unused, options, directory: _directory, .. } = start();
    unused.close().await.unwrap();
    let (vote, mut log) = (Vote::new_committed(1, 1), options.log.clone());
    log.save_vote(&vote).await.unwrap();
    log.blocking_append(vec![membership(0), genesis(1, &faithful()), newer(2)]).await.unwrap();
    log.save_committed(Some(log_id(1, 2))).await.unwrap();
    let (machine, state_machine) = open(options.clone()).unwrap();
    machine.set_component(faithful());
    let cell = GroupCell::new(ClusterCell::new(None), GROUP);
    let links = Links::new(LEARNER, cell, RaftCell::default(), Channels::default(), Duration::from_secs(1));
    let network = NetworkFactory::new(links, 1, machine.snapshots().clone(), Timeouts::default(), LogTime::default());
    let config = Arc::new(Timeouts::default().config("test").unwrap());
    state_machine.put_off();
    let building = Raft::build(LEARNER, config, network, log.clone(), state_machine.clone());
    let raft = tokio::time::timeout(PATIENCE, building).await.expect("it waits for nothing").unwrap();
    assert_eq!(state_machine.go_on(), Some(2));
    raft.run();
    tokio::time::timeout(PATIENCE, machine.watch_mode().wait_for(stands_before_2)).await.unwrap().unwrap();
    let entries = vec![puts(3, &[("a", "2")])];
    let request = AppendEntriesRequest { vote, prev_log_id: Some(log_id(1, 2)), entries, leader_commit: None };
    tokio::time::timeout(PATIENCE, raft.append_entries(request)).await.unwrap().unwrap();
    assert_eq!((log.stats().last_index, machine.applied_index()), (Some(3), 1));
    tokio::time::timeout(PATIENCE, raft.shutdown()).await.unwrap().unwrap();
    machine.close().await.unwrap();
}
