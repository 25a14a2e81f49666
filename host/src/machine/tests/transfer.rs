//! Tests of snapshots from one node to another: the receiver gets exactly what was sent, or
//! nothing.

use std::sync::Arc;

use bytes::Bytes;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};

use super::super::{Change, Fate, SnapshotData, SnapshotError};
use super::guest_text::{faithful, forgetful};
use super::harness::*;
use crate::guest::{Component, Verdict};
use crate::machine::snapshot::frames::Frame;
use crate::source::Party;
use crate::types::NodeMode;

/// Makes a node with two rows, a membership, and a snapshot of them at index 3.
async fn leader(component: Component) -> TestNode {
    let mut node = TestNode::begun(component).await;
    node.apply(vec![membership(2), puts(3, &[("a", "1"), ("b", "2")])]).await;
    assert_eq!(node.machine.snapshots().take().await.unwrap(), 3);
    node
}

fn follower(component: Component) -> TestNode {
    let node = start();
    node.machine.set_component(component);
    node.machine.set_mode(NodeMode::Serving);
    node
}

async fn frames(node: &mut TestNode) -> Vec<Bytes> {
    let snapshot = node.state_machine.get_current_snapshot().await.unwrap().unwrap();
    let mut sending = node.machine.snapshots().send(&snapshot.snapshot, 2, "nodeB");
    let mut frames = Vec::new();
    while let Some(frame) = sending.frames.recv().await {
        frames.push(frame.unwrap());
    }
    frames
}

async fn receive(node: &TestNode, frames: Vec<Bytes>) -> Result<SnapshotData, SnapshotError> {
    let receiving = node.machine.snapshots().receive(Some(1), "nodeA").unwrap();
    for frame in frames {
        receiving.push(frame).await;
    }
    receiving.finish().await
}

async fn install(from: &mut TestNode, to: &mut TestNode, data: SnapshotData) {
    let meta = from.state_machine.get_current_snapshot().await.unwrap().unwrap().meta;
    to.state_machine.install_snapshot(&meta, data).await.unwrap();
    let current = to.state_machine.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(current.meta, meta, "an install leaves a checkpoint at exactly its index");
}

fn kinds(frames: &[Bytes]) -> Vec<u8> {
    frames.iter().map(|frame| frame[0]).collect()
}

#[tokio::test]
async fn snapshot_makes_the_follower_equal() {
    let (mut from, mut to) = (leader(faithful()).await, follower(faithful()));
    let frames = frames(&mut from).await;
    assert_eq!(kinds(&frames), [1, 2, 5, 6], "header, guest, system, footer");
    let data = receive(&to, frames).await.unwrap();
    assert_eq!(to.machine.applied_index(), 0, "nothing is in force before the install");
    install(&mut from, &mut to, data).await;
    assert_eq!(to.machine.applied_index(), 3);
    assert_eq!(to.machine.hash_tip(), from.machine.hash_tip());
    assert_eq!(to.get("b").await.verdict, Verdict::Reply(Bytes::from_static(b"2")));
    assert_eq!(to.state_machine.applied_state().await.unwrap(), from.state_machine.applied_state().await.unwrap());
    let next = || vec![puts(4, &[("c", "3")])];
    from.apply(next()).await;
    to.apply(next()).await;
    assert_eq!(to.machine.hash_tip(), from.machine.hash_tip());
    let mut to = start_in(to.stop().await, Arc::new(Open));
    assert_eq!(to.state_machine.applied_state().await.unwrap(), from.state_machine.applied_state().await.unwrap());
}

#[tokio::test]
async fn install_resets_watches_and_hides_the_fate_of_commands() {
    let (mut from, mut to) = (leader(faithful()).await, follower(faithful()));
    to.apply(vec![genesis(1, &faithful())]).await;
    let step = to.watch("a").await;
    let changed = to.machine.changed(step.index, step.reads);
    let mut waiter = to.machine.waiters().register(origin(9), Party::default());
    waiter.sent_under(log_id(1, 0).leader_id);
    let data = receive(&to, frames(&mut from).await).await.unwrap();
    install(&mut from, &mut to, data).await;
    assert_eq!(changed.await, Change::Reset);
    assert_eq!(waiter.fate().await, Fate::Unknown);
}

#[tokio::test]
async fn unfaithful_restore_is_refused_and_rows_are_sent_instead() {
    let (mut from, mut to) = (leader(forgetful()).await, follower(forgetful()));
    let refused = receive(&to, frames(&mut from).await).await.unwrap_err();
    assert!(refused.is_unfaithful(), "{refused}");
    from.machine.snapshots().distrust_guest(&refused.to_string());
    let rows = frames(&mut from).await;
    assert_eq!(kinds(&rows), [1, 4, 5, 6], "header, rows, system, footer");
    let data = receive(&to, rows).await.unwrap();
    install(&mut from, &mut to, data).await;
    assert_eq!(to.get("a").await.verdict, Verdict::Reply(Bytes::from_static(b"1")));
}

#[tokio::test]
async fn guest_that_failed_in_the_middle_is_followed_by_rows() {
    let (mut from, mut to) = (leader(forgetful()).await, follower(forgetful()));
    let own = frames(&mut from).await;
    from.machine.snapshots().distrust_guest("test");
    let rows = frames(&mut from).await;
    let mixed = [&own[..2], &[Frame::Restart.encode()], &rows[1..]].concat();
    let data = receive(&to, mixed).await.unwrap();
    install(&mut from, &mut to, data).await;
    assert_eq!(to.machine.hash_tip(), from.machine.hash_tip());
}

#[tokio::test]
async fn damaged_and_cut_snapshots_change_nothing_and_leave_room_for_the_next() {
    let (mut from, mut to) = (leader(faithful()).await, follower(faithful()));
    let whole = frames(&mut from).await;
    for cut in 0..whole.len() {
        let refused = receive(&to, whole[..cut].to_vec()).await.unwrap_err();
        assert!(matches!(refused, SnapshotError::Damaged(_)), "{cut}: {refused}");
    }
    let mut flipped = whole.clone();
    flipped[1] = {
        let mut frame = flipped[1].to_vec();
        frame[7] ^= 1;
        frame.into()
    };
    assert!(receive(&to, flipped).await.is_err());
    let swapped = vec![whole[0].clone(), whole[2].clone(), whole[1].clone(), whole[3].clone()];
    assert!(receive(&to, swapped).await.is_err());
    assert_eq!(to.machine.applied_index(), 0);
    let data = receive(&to, whole).await.unwrap();
    install(&mut from, &mut to, data).await;
}

#[tokio::test]
async fn one_snapshot_is_received_at_a_time() {
    let (mut from, to) = (leader(faithful()).await, follower(faithful()));
    let first = receive(&to, frames(&mut from).await).await.unwrap();
    assert!(matches!(to.machine.snapshots().receive(None, ""), Err(SnapshotError::Busy)), "one waits to be installed");
    drop(first);
    assert!(receive(&to, frames(&mut from).await).await.is_ok());
}

#[tokio::test]
async fn builder_hands_over_a_checkpoint_once_and_makes_one_only_when_forced() {
    let mut node = leader(faithful()).await;
    let mut builder = node.state_machine.try_create_snapshot_builder(false).await.unwrap();
    assert_eq!(builder.build_snapshot().await.unwrap().meta.last_log_id, Some(log_id(1, 3)));
    assert!(node.state_machine.try_create_snapshot_builder(false).await.is_none());
    node.apply(vec![puts(4, &[("c", "3")])]).await;
    assert!(node.state_machine.try_create_snapshot_builder(false).await.is_none());
    let mut forced = node.state_machine.try_create_snapshot_builder(true).await.unwrap();
    assert_eq!(forced.build_snapshot().await.unwrap().meta.last_log_id, Some(log_id(1, 4)));
}

#[tokio::test]
async fn nothing_applied_means_no_snapshot() {
    let node = start();
    assert!(matches!(node.machine.snapshots().take().await, Err(SnapshotError::Empty)));
}

/// Damages the files of one checkpoint only. A checkpoint shares its files with the state and with
/// older checkpoints, so the files are replaced, not changed.
fn break_files(directory: &std::path::Path) {
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    for file in files.filter(|path| path.extension().is_some_and(|extension| extension == "sst")) {
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[..64].iter_mut().for_each(|byte| *byte ^= 0x55);
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, bytes).unwrap();
    }
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_read_is_left_out_and_another_one_is_sent() {
    let (mut from, to) = (leader(faithful()).await, follower(faithful()));
    from.apply(vec![puts(4, &[("c", "3")])]).await;
    assert_eq!(from.machine.snapshots().take().await.unwrap(), 4);
    for expected in [3, 5] {
        let broken = from.machine.snapshots().newest().unwrap().1;
        break_files(&broken.path);
        if expected == 5 {
            from.apply(vec![puts(5, &[("d", "4")])]).await;
        }
        let snapshot = SnapshotData::Checkpoint(broken);
        let mut sending = from.machine.snapshots().send(&snapshot, 2, "nodeB");
        let mut last = None;
        while let Some(frame) = sending.frames.recv().await {
            last = Some(frame);
        }
        assert!(last.unwrap().is_err(), "it cannot be read");
        assert_eq!(from.machine.snapshots().newest().unwrap().1.index, expected);
    }
    assert!(receive(&to, frames(&mut from).await).await.is_ok());
}
