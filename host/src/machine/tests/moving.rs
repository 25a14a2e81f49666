//! Tests of states that move: rows that an operator brings in, and a backup whose state another
//! component takes over.

use std::io::Cursor;
use std::sync::Arc;

use bytes::Bytes;

use super::super::backup::{Founded, Successor, Unfounded};
use super::super::rehearsal::report::MigrationKind;
use super::super::{Change, ChangeVerdict, RehearsalReport, RowsRefusal};
use super::backup::{backup, founder, node};
use super::guest_text::{counting, faithful, forgetful};
use super::harness::*;
use super::rehearsal::{adding, refusing};
use crate::codec::entry;
use crate::guest::{CALLER_STACK_BYTES, Component, Verdict};
use crate::types::{Entry, NodeMode};

fn read_only(index: u64, on: bool) -> Entry {
    let mode = entry::ReadOnly { on, methods: Vec::new(), by: String::new() };
    normal(1, index, &entry::Entry { time_ms: 3000, read_only: Some(mode), ..Default::default() })
}

fn rows(index: u64, component: &Component, clear: u32, put: &[(&str, &str)]) -> Entry {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let put = put.iter().map(|(key, value)| entry::Row { key: bytes(key), value: bytes(value) }).collect();
    let expected_component = component.hash().to_vec().into();
    let rows = entry::Rows { expected_component, clear, clear_from: Bytes::new(), put };
    normal(1, index, &entry::Entry { time_ms: 3000, rows: Some(rows), ..Default::default() })
}

async fn value(node: &TestNode, key: &str) -> Verdict {
    node.get(key).await.verdict
}

fn reply(text: &'static str) -> Verdict {
    Verdict::Reply(Bytes::from_static(text.as_bytes()))
}

#[tokio::test]
async fn rows_are_brought_in_while_no_command_runs_and_watches_see_them() {
    let mut node = TestNode::begun(faithful()).await;
    node.apply(vec![puts(2, &[("a", "1"), ("b", "2")]), rows(3, &faithful(), 9, &[("a", "3")])]).await;
    assert_eq!(node.machine.last_rows().unwrap().refused, Some(RowsRefusal::TakesCommands));
    assert_eq!(value(&node, "a").await, reply("1"));
    let step = node.watch("a").await;
    let changed = node.machine.changed(step.index, step.reads);
    node.apply(vec![read_only(4, true), rows(5, &counting(), 9, &[("a", "3")])]).await;
    assert_eq!(node.machine.last_rows().unwrap().refused, Some(RowsRefusal::OtherComponent));
    node.apply(vec![rows(6, &faithful(), 1, &[("c", "4")])]).await;
    let report = node.machine.last_rows().unwrap();
    assert_eq!((report.index, report.refused, report.removed, report.written), (6, None, 1, 1));
    assert_eq!(report.last_removed.as_deref(), Some(&b"a"[..]));
    assert_ne!(changed.await, Change::Reset, "only what was read has changed");
    assert_eq!((value(&node, "b").await, value(&node, "c").await), (reply("2"), reply("4")));
    assert!(node.machine.has_rows().unwrap());
    node.apply(vec![rows(7, &faithful(), 9, &[])]).await;
    assert!(!node.machine.has_rows().unwrap());
}

/// Has `component` take over a backup of a node that ran `faithful`. `None`: it has no result.
async fn succeeded(component: &Component) -> (TestNode, RehearsalReport, Option<Founded>) {
    let file = backup(&node(faithful()).await).await;
    let new = start();
    let (state, checkpoints) = (new.options.state.clone(), new.options.checkpoints.clone());
    let component = component.clone();
    let work = move || {
        let mut read = Unfounded::read(&state, Cursor::new(file)).unwrap();
        assert_eq!(read.component(), &faithful().encoded()[..]);
        let successor =
            Successor { component: &component, source_hash: [8; 32], rehearses_in: Some(&state), tell: &|_| {} };
        let report = read.succeed(&successor).unwrap();
        let has_result = report.migration.has_result();
        (report, has_result.then(|| read.found(&state, &checkpoints, &founder()).unwrap()))
    };
    let running = std::thread::Builder::new().stack_size(CALLER_STACK_BYTES).spawn(work).unwrap();
    let (report, founded) = running.join().unwrap();
    (new, report, founded)
}

#[tokio::test]
async fn another_component_takes_a_backup_over_and_the_node_runs_it() {
    let (new, report, founded) = succeeded(&adding()).await;
    let founded = founded.unwrap();
    let migration = &report.migration;
    assert_eq!((migration.kind, migration.calls), (MigrationKind::Migrated, 1));
    assert_eq!((migration.rows_before, migration.rows_after, migration.rows_written), (2, 3, 1));
    assert_ne!(migration.digest_before, migration.digest_after);
    assert_eq!(report.snapshot.and_then(|snapshot| snapshot.problem), None);
    assert_eq!(founded.profile.component_hash, adding().hash().to_vec());
    assert_eq!(founded.component, adding().encoded().to_vec());
    let mut new = start_in(new.stop().await, Arc::new(Open));
    new.machine.set_component(adding());
    new.machine.set_mode(NodeMode::Serving);
    assert!(new.machine.check_fitness().is_ok());
    assert_eq!((value(&new, "a").await, value(&new, "z").await), (reply("1"), reply("migrated")));
    let change = new.machine.last_change().unwrap();
    assert_eq!((change.index, change.verdict, change.rows), (3, ChangeVerdict::Changed, 1));
    assert_eq!((change.from, change.to), (faithful().hash(), adding().hash()));
    let (index, profile) = new.machine.profile().unwrap();
    assert_eq!((index, profile.cluster_id, profile.source_hash), (3, vec![9; 16].into(), vec![8; 32].into()));
    new.apply(vec![puts(4, &[("c", "3")])]).await;
    assert_eq!(value(&new, "c").await, reply("3"));
}

#[tokio::test]
async fn a_component_that_refuses_or_restores_wrongly_is_told_of() {
    let (new, report, founded) = succeeded(&refusing()).await;
    assert_eq!((report.migration.kind, founded.is_none()), (MigrationKind::Refused, true));
    assert_eq!(new.state_rows(), 0, "nothing is in force");
    let (_, report, _) = succeeded(&forgetful()).await;
    assert_eq!(report.migration.kind, MigrationKind::Kept);
    assert!(report.snapshot.is_some_and(|snapshot| snapshot.problem.is_some()));
}
