//! Tests of a change of the component: who waits for it, what readers see, what a restart, a
//! snapshot and a backup carry across it, and which checkpoints stay.

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::storage::RaftStateMachine;

use super::super::backup::{BackupWriter, Founder, found};
use super::super::{Change, ChangeVerdict, Replica, Reuse, SnapshotData, change_to, genesis_of};
use super::guest_text::{counting, faithful};
use super::harness::*;
use crate::codec::{self, Genesis};
use crate::guest::{Component, SEMANTICS, Verdict};
use crate::types::{Addresses, Entry, NodeMode};

/// Makes the entry of a change to `component`.
fn change(index: u64, expected_index: u64, component: &Component, probation_ms: u64) -> Entry {
    let change = change_to(&genesis_of([7; 16], component, [9; 32]), expected_index, probation_ms);
    normal(1, index, &codec::entry::Entry { time_ms: 3000, change: Some(change), ..Default::default() })
}

/// Makes a node with one row, at index 2. It runs `faithful` and is ready for `counting`.
async fn node() -> TestNode {
    let mut node = TestNode::begun(faithful()).await;
    node.apply(vec![puts(2, &[("a", "1")])]).await;
    node.machine.offer_component(counting());
    node
}

async fn is_counting(node: &TestNode) -> bool {
    // The other one finds no row.
    matches!(node.get("x").await.verdict, Verdict::Reply(reply) if reply.len() == 1)
}

fn clock(index: u64, time_ms: u64) -> Entry {
    normal(1, index, &codec::entry::Entry { time_ms, ..Default::default() })
}

#[tokio::test]
async fn a_change_switches_component_and_state_for_every_reader() {
    let mut node = node().await;
    let step = node.watch("a").await;
    let changed = node.machine.changed(step.index, step.reads);
    let version = node.machine.component_version();
    assert!(!is_counting(&node).await);
    node.apply(vec![change(3, 1, &counting(), 0)]).await;
    assert!(is_counting(&node).await, "an instance of the old component is not used again");
    assert_eq!(changed.await, Change::Reset);
    assert!(node.machine.component_version() > version);
    let (index, profile) = node.machine.profile().unwrap();
    assert_eq!((index, profile.component_hash.as_ref()), (3, &counting().hash()[..]));
    let report = node.machine.last_change().unwrap();
    assert_eq!((report.index, report.from, report.to), (3, faithful().hash(), counting().hash()));
    assert_eq!((report.verdict, report.rows), (ChangeVerdict::Changed, 0));
    assert_eq!(node.machine.status().changes[0], ("changed", 1));
    assert!(node.machine.check_fitness().is_ok());
    node.apply(vec![puts(4, &[("b", "2")])]).await;
    assert_eq!(node.machine.status().commands_applied, 2);
}

#[tokio::test]
async fn an_outdated_change_waits_for_nothing_and_changes_nothing() {
    let mut node = TestNode::begun(faithful()).await;
    node.apply(vec![change(2, 7, &counting(), 50)]).await;
    assert_eq!(node.machine.last_change().unwrap().verdict, ChangeVerdict::Outdated);
    assert_eq!(node.machine.profile().unwrap().0, 1);
    assert!(node.options.checkpoints.list().is_empty());
    assert!(!is_counting(&node).await);
}

#[tokio::test]
async fn apply_waits_for_the_component_and_says_which() {
    let mut node = TestNode::begun(faithful()).await;
    let (machine, mut wanted) = (node.machine.clone(), node.machine.watch_wanted());
    assert_eq!(*wanted.borrow_and_update(), None);
    let applying = tokio::spawn(async move {
        node.apply(vec![change(2, 1, &counting(), 0)]).await;
        node
    });
    let profile = wanted.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert_eq!(profile.component_hash.as_ref(), &counting().hash()[..]);
    let lacks = || machine.lacks_wanted(&profile, "nobody has it".into());
    lacks();
    assert_eq!((machine.applied_index(), machine.mode()), (1, NodeMode::Serving), "reads go on");
    let catching_up = NodeMode::CatchingUp("it replays".into());
    machine.set_mode(catching_up.clone());
    lacks();
    assert_eq!(machine.mode(), NodeMode::Unfit("nobody has it".into()), "it does not hang");
    machine.offer_component(counting());
    let node = applying.await.unwrap();
    lacks();
    assert_eq!(node.machine.mode(), catching_up);
    node.machine.set_mode(NodeMode::Serving);
    assert_eq!(*node.machine.watch_wanted().borrow(), None);
    assert!(is_counting(&node).await);
}

fn names_entry_2(mode: &NodeMode) -> bool {
    matches!(mode, NodeMode::Unfit(why) if why.contains("cannot apply entry 2") && why.contains("has semantics"))
}

/// A raise is such a change, for a member that runs an earlier build again. As the leader that
/// member would keep the cluster from taking commands.
#[tokio::test]
async fn a_change_that_this_build_does_not_run_stops_apply_for_good() {
    let node = TestNode::begun(faithful()).await;
    let (mut mode, outdated) = (node.machine.watch_mode(), node.machine.watch_outdated());
    let newer = Genesis { semantics: SEMANTICS + 1, ..genesis_of([7; 16], &faithful(), [9; 32]) };
    let raise = codec::entry::Entry { time_ms: 3000, change: Some(change_to(&newer, 1, 0)), ..Default::default() };
    let entries = futures::stream::iter([Ok((normal(1, 2, &raise), None))]);
    let mut state_machine = node.state_machine.clone();
    let applying = tokio::spawn(async move { state_machine.apply(entries).await });
    mode.wait_for(names_entry_2).await.unwrap();
    assert!(*outdated.borrow(), "others are told, so that it does not lead");
    let mut waits_for = node.machine.watch_wanted();
    let wanted = waits_for.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    node.machine.cannot_run_wanted(&wanted, "in other words".into());
    node.machine.offer_component(counting());
    assert!(names_entry_2(&node.machine.mode()), "no component helps it: {}", node.machine.mode());
    assert_eq!(node.machine.applied_index(), 1);
    node.machine.close().await.unwrap();
    assert!(applying.await.unwrap().is_err());
}

#[tokio::test]
async fn a_node_that_stops_while_it_waits_starts_with_the_old_component() {
    let node = TestNode::begun(faithful()).await;
    let (machine, mut wanted) = (node.machine.clone(), node.machine.watch_wanted());
    let entries = futures::stream::iter([Ok((change(2, 1, &counting(), 0), None))]);
    let mut state_machine = node.state_machine.clone();
    let applying = tokio::spawn(async move { state_machine.apply(entries).await });
    wanted.wait_for(Option::is_some).await.unwrap();
    machine.close().await.unwrap();
    assert!(applying.await.unwrap().is_err());
    drop(machine);
    let node = start_in(node.stop().await, Arc::new(Open));
    assert_eq!((node.machine.applied_index(), node.machine.profile().unwrap().0), (1, 1));
}

#[tokio::test]
async fn a_restart_keeps_the_profile_and_wants_its_component() {
    let mut node = node().await;
    node.apply(vec![change(3, 1, &counting(), 0)]).await;
    let (profile, hash) = (node.machine.profile(), node.machine.hash_tip());
    let node = start_in(node.stop().await, Arc::new(Open));
    assert_eq!((node.machine.profile(), node.machine.hash_tip()), (profile.clone(), hash));
    let report = node.machine.last_change().unwrap();
    assert_eq!((report.verdict, report.held), (ChangeVerdict::Changed, Duration::ZERO));
    assert_eq!(*node.machine.watch_wanted().borrow(), profile.map(|(_, profile)| profile));
    node.machine.offer_component(faithful());
    assert!(node.machine.component().is_none(), "it is not the one in force");
    node.machine.offer_component(counting());
    node.machine.set_mode(NodeMode::Serving);
    assert!(is_counting(&node).await);
    assert_eq!(*node.machine.watch_wanted().borrow(), None);
}

/// Makes the snapshot of `from` and installs it in `to`.
async fn transfer(from: &mut TestNode, to: &mut TestNode) {
    let snapshot = from.state_machine.get_current_snapshot().await.unwrap().unwrap();
    let mut sending = from.machine.snapshots().send(&snapshot.snapshot, 2, "nodeB");
    let receiving = to.machine.snapshots().receive(Some(1), "nodeA").unwrap();
    while let Some(frame) = sending.frames.recv().await {
        receiving.push(frame.unwrap()).await;
    }
    let data: SnapshotData = receiving.finish().await.unwrap();
    to.state_machine.install_snapshot(&snapshot.meta, data).await.unwrap();
}

#[tokio::test]
async fn a_snapshot_carries_a_node_across_a_change() {
    let mut from = node().await;
    from.apply(vec![change(3, 1, &counting(), 0)]).await;
    from.machine.snapshots().take().await.unwrap();
    let mut to = TestNode::begun(faithful()).await;
    // As the duty of a node does.
    let (machine, mut wanted) = (to.machine.clone(), to.machine.watch_wanted());
    let supply = tokio::spawn(async move {
        wanted.wait_for(Option::is_some).await.unwrap();
        machine.offer_component(counting());
    });
    transfer(&mut from, &mut to).await;
    supply.await.unwrap();
    assert_eq!(to.machine.hash_tip(), from.machine.hash_tip());
    assert!(is_counting(&to).await);
    for node in [&mut from, &mut to] {
        node.apply(vec![puts(4, &[("b", "2")])]).await;
    }
    assert_eq!(to.machine.hash_tip(), from.machine.hash_tip());
}

#[tokio::test]
async fn rows_of_a_changed_machine_wait_for_its_component_without_being_shown() {
    let mut from = node().await;
    from.apply(vec![change(3, 1, &counting(), 0)]).await;
    from.machine.snapshots().take().await.unwrap();
    from.machine.snapshots().send_rows_next(2);
    let mut to = TestNode::begun(faithful()).await;
    transfer(&mut from, &mut to).await;
    assert!(to.machine.component().is_none(), "the old component does not see the new state");
    assert!(to.machine.watch_wanted().borrow().is_some());
    to.machine.offer_component(counting());
    assert!(is_counting(&to).await);
}

#[tokio::test]
async fn the_checkpoint_before_a_change_stays_until_its_probation_ends() {
    let mut node = node().await;
    node.apply(vec![change(3, 1, &counting(), 1000)]).await;
    let indexes =
        |node: &TestNode| -> Vec<u64> { node.options.checkpoints.list().iter().map(|one| one.index).collect() };
    assert_eq!((indexes(&node), node.machine.log_needed_after()), (vec![2], Some(2)));
    let mut node = start_in(node.stop().await, Arc::new(Open));
    node.machine.offer_component(counting());
    node.machine.set_mode(NodeMode::Serving);
    for index in 4..9 {
        node.apply(vec![puts(index, &[("b", "2")])]).await;
        node.machine.snapshots().take().await.unwrap();
        node.machine.let_go_of_checkpoints();
    }
    assert_eq!((indexes(&node), node.machine.log_needed_after()), (vec![2, 6, 7, 8], Some(2)));
    node.apply(vec![clock(9, 4000)]).await;
    node.machine.let_go_of_checkpoints();
    assert_eq!(node.machine.log_needed_after(), None);
    node.machine.snapshots().take().await.unwrap();
    assert_eq!(indexes(&node), [7, 8, 9]);
}

#[tokio::test]
async fn a_mark_leaves_a_checkpoint_of_exactly_its_entry() {
    let mut node = node().await;
    let marked = |index, mark: u8| {
        let entry = codec::entry::Entry { mark: vec![mark; 16].into(), ..commands(&[("b", "2")]) };
        normal(1, index, &entry)
    };
    node.apply(vec![marked(3, 1), puts(4, &[("c", "3")]), marked(5, 2), marked(6, 3)]).await;
    assert!(node.machine.marked(&[1; 16]).is_err(), "two are kept");
    for (mark, index) in [(2, 5), (3, 6)] {
        assert_eq!(node.machine.marked(&[mark; 16]).unwrap().0.index, index);
    }
    let mut other = TestNode::begun(faithful()).await;
    let unmarked = || normal(1, 3, &commands(&[("b", "2")]));
    other.apply(vec![puts(2, &[("a", "1")]), unmarked()]).await;
    assert_eq!(other.machine.hash_at(3), node.machine.hash_at(3), "a mark is no part of the state");
}

#[tokio::test]
async fn a_backup_of_a_changed_machine_begins_a_cluster_that_runs_the_new_component() {
    let mut old = node().await;
    old.apply(vec![change(3, 1, &counting(), 1000)]).await;
    let mut sending = old.machine.snapshots().back_up("test").await.unwrap();
    let mut writer = BackupWriter::new(Vec::new()).unwrap();
    while let Some(frame) = sending.frames.recv().await {
        writer.push(&frame.unwrap()).unwrap();
    }
    let file = writer.finish().unwrap().1;
    let new = start();
    let founder = Founder { node_id: 7, node: Addresses::default(), cluster_id: [9; 16] };
    let founded = found(&new.options.state, &new.options.checkpoints, Cursor::new(file), &founder).unwrap();
    assert_eq!(founded.component.as_slice(), &counting().encoded()[..]);
    assert_eq!(founded.profile.component_hash.as_ref(), &counting().hash()[..]);
    assert_eq!(founded.genesis.component_hash.as_ref(), &faithful().hash()[..]);
    let new = start_in(new.stop().await, Arc::new(Open));
    assert_eq!(new.machine.profile(), Some((3, founded.profile.clone())));
    assert_eq!(founded.profile.cluster_id.as_ref(), &[9; 16]);
    assert_eq!(new.machine.log_needed_after(), None, "nothing of before can be taken back");
}

#[test]
fn a_replica_changes_as_a_node_does() {
    let place = tempfile::tempdir().unwrap();
    let mut replica = Replica::open(place.path(), faithful()).unwrap();
    let report = replica.change(counting()).unwrap();
    assert_eq!((report.index, report.verdict), (2, ChangeVerdict::Changed));
    let verdict = replica.query("Test/Get", b"x", "", Reuse::Shared).unwrap();
    assert_eq!(verdict, Verdict::Reply(Bytes::from_static(&[1])));
    let report = replica.change(faithful()).unwrap();
    assert_eq!((report.index, report.from), (3, counting().hash()));
}
