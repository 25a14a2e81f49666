//! Tests of backups: one machine's backup becomes the first state of another cluster, with the same
//! rows.

use std::io::Cursor;

use bytes::Bytes;
use openraft::storage::RaftStateMachine;

use super::super::SnapshotError;
use super::super::backup::{BackupError, BackupReader, BackupWriter, Founded, Founder, found};
use super::guest_text::{faithful, forgetful};
use super::harness::*;
use crate::guest::{Component, Verdict};
use crate::types::{Addresses, NodeMode};

const CLUSTER: [u8; 16] = [9; 16];

pub(super) async fn node(component: Component) -> TestNode {
    let mut node = TestNode::begun(component).await;
    node.apply(vec![membership(2), puts(3, &[("a", "1"), ("b", "2")])]).await;
    node
}

pub(super) async fn backup(node: &TestNode) -> Vec<u8> {
    let mut sending = node.machine.snapshots().back_up("test").await.unwrap();
    assert!(matches!(node.machine.snapshots().back_up("test").await, Err(SnapshotError::BackingUp)));
    let mut writer = BackupWriter::new(Vec::new()).unwrap();
    while let Some(frame) = sending.frames.recv().await {
        writer.push(&frame.unwrap()).unwrap();
    }
    let (summary, file) = writer.finish().unwrap();
    assert_eq!(summary.index, 3);
    assert_eq!(BackupReader::new(file.as_slice()).unwrap().verify().unwrap(), summary);
    file
}

pub(super) fn founder() -> Founder {
    Founder { node_id: 7, node: Addresses { name: "new".into(), ..Addresses::default() }, cluster_id: CLUSTER }
}

fn found_in(node: &TestNode, file: Vec<u8>) -> Result<Founded, BackupError> {
    found(&node.options.state, &node.options.checkpoints, Cursor::new(file), &founder())
}

/// It works even when the guest's own snapshot and restore are faulty.
#[tokio::test]
async fn a_backup_holds_rows_and_component_and_begins_a_cluster_of_one() {
    for component in [faithful(), forgetful()] {
        let old = node(component.clone()).await;
        let file = backup(&old).await;
        let new = start();
        let founded = found_in(&new, file).unwrap();
        assert_eq!((founded.applied, founded.component.as_slice()), (log_id(1, 3), &component.encoded()[..]));
        assert_eq!(founded.genesis.cluster_id, CLUSTER.as_slice());
        let mut new = start_in(new.stop().await, std::sync::Arc::new(Open));
        new.machine.set_component(component);
        new.machine.set_mode(NodeMode::Serving);
        assert_eq!(new.machine.genesis().unwrap(), founded.genesis);
        assert_eq!(new.get("b").await.verdict, Verdict::Reply(Bytes::from_static(b"2")));
        let (applied, membership) = new.state_machine.applied_state().await.unwrap();
        assert_eq!(applied, Some(log_id(1, 3)));
        assert_eq!(
            membership.membership().nodes().map(|(id, node)| (*id, node.name.as_str())).collect::<Vec<_>>(),
            [(7, "new")]
        );
        assert_eq!(membership.voter_ids().collect::<Vec<_>>(), [7]);
        let snapshot = new.state_machine.get_current_snapshot().await.unwrap().unwrap();
        assert_eq!((snapshot.meta.last_log_id, &snapshot.meta.last_membership), (applied, &membership));
        // Log time, counters and indexes continue.
        assert_eq!(new.machine.applied().borrow().time_ms, 2000);
        assert_eq!(new.machine.status().commands_applied, 2);
        new.apply(vec![puts(4, &[("c", "3")])]).await;
    }
}

#[tokio::test]
async fn nothing_is_backed_up_before_there_is_something() {
    let node = start();
    assert!(matches!(node.machine.snapshots().back_up("test").await, Err(SnapshotError::NoComponent)));
    node.machine.set_component(faithful());
    assert!(matches!(node.machine.snapshots().back_up("test").await, Err(SnapshotError::Empty)));
}

#[tokio::test]
async fn a_cut_or_damaged_backup_puts_nothing_in_force() {
    let file = backup(&node(faithful()).await).await;
    let new = start();
    for length in [0, 10, 30, file.len() / 2, file.len() - 1] {
        found_in(&new, file[..length].to_vec()).unwrap_err();
        assert_eq!(new.state_rows(), 0, "{length}");
    }
    for at in (0..file.len()).step_by(97) {
        let mut damaged = file.clone();
        damaged[at] ^= 1;
        assert!(found_in(&new, damaged).is_err(), "{at}");
    }
    assert!(found_in(&new, file).is_ok());
}
