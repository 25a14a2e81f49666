//! Tests of what an operator sets on a running machine: the read-only mode, and other limits for
//! the component that runs already.

use std::sync::Arc;

use bytes::Bytes;

use super::super::{Change, ChangeVerdict, change_to, genesis_of};
use super::guest_text::faithful;
use super::harness::*;
use super::rehearsal::refusing;
use crate::codec::entry;
use crate::guest::{Component, Engine, Limits, Verdict};
use crate::types::Entry;

fn read_only(index: u64, on: bool) -> Entry {
    let mode = entry::ReadOnly { on, methods: vec!["Test/*".into()], by: "ann".into() };
    normal(1, index, &entry::Entry { time_ms: 3000, read_only: Some(mode), ..Default::default() })
}

/// Returns the same component under other limits.
fn wider(component: &Component) -> Component {
    let limits = Limits { memory_bytes_max: 96 << 20, ..Limits::default() };
    Component::load(&Engine::new(&limits).unwrap(), component.encoded()).unwrap()
}

fn change(index: u64, component: &Component) -> Entry {
    let change = change_to(&genesis_of([7; 16], component, [8; 32]), 1, 0);
    normal(1, index, &entry::Entry { time_ms: 3000, change: Some(change), ..Default::default() })
}

fn value(verdict: Verdict) -> Option<Bytes> {
    match verdict {
        Verdict::Reply(reply) => Some(reply),
        Verdict::Refused(_) | Verdict::Failed(_) => None,
    }
}

#[tokio::test]
async fn a_read_only_machine_answers_queries_and_keeps_the_mode_over_a_restart() {
    let mut node = TestNode::begun(faithful()).await;
    node.apply(vec![puts(2, &[("a", "1")]), read_only(3, true), puts(4, &[("a", "2")])]).await;
    assert_eq!(value(node.get("a").await.verdict), Some(Bytes::from_static(b"1")));
    let status = node.machine.status();
    assert_eq!((status.commands_applied, status.commands_failed), (1, 0));
    assert_eq!(status.read_only.map(|mode| (mode.index, mode.by)), Some((3, "ann".to_owned())));
    assert!(node.machine.refuses_method("Test/Put").is_some_and(|words| words.contains("since entry 3")));
    assert_eq!(node.machine.refuses_method("Other/Put"), None);
    let mut node = start_in(node.stop().await, Arc::new(Open));
    assert!(node.machine.refuses_method("Test/Put").is_some());
    node.machine.set_component(faithful());
    node.apply(vec![read_only(5, false), puts(6, &[("a", "3")])]).await;
    assert_eq!((node.machine.refuses_method("Test/Put"), node.machine.status().read_only), (None, None));
    assert_eq!(node.machine.status().commands_applied, 2);
}

fn trailing(index: u64, expected_index: u64, value: &str) -> Entry {
    let setting = entry::Setting { key: "trailing_commands".into(), value: value.into() };
    let operation = entry::Operation { expected_index, settings: vec![setting], by: "ann".into() };
    normal(1, index, &entry::Entry { time_ms: 3000, operation: Some(operation), ..Default::default() })
}

/// The setter of values was told that they were not set when other values followed at once.
#[tokio::test]
async fn it_is_known_which_entries_set_their_values_although_others_followed() {
    let mut node = TestNode::begun(faithful()).await;
    node.apply(vec![trailing(2, 0, "5"), trailing(3, 0, "6"), trailing(4, 2, "7")]).await;
    assert_eq!(node.machine.operation().number("trailing_commands"), Some(7));
    let set = [2, 3, 4].map(|index| node.machine.operation_was_set_by(index));
    assert_eq!(set, [true, false, true], "the second was made from values that were not in force any more");
}

#[tokio::test]
async fn other_limits_for_the_same_component_take_over_and_migrate_nothing() {
    let (old, new) = (refusing(), wider(&refusing()));
    assert_eq!((old.hash(), old.has_migrator()), (new.hash(), true));
    let mut node = TestNode::begun(old).await;
    node.apply(vec![puts(2, &[("a", "1")])]).await;
    node.get("a").await;
    let step = node.watch("a").await;
    let changed = node.machine.changed(step.index, step.reads);
    node.machine.offer_component(new);
    node.apply(vec![change(3, &wider(&refusing()))]).await;
    let report = node.machine.last_change().unwrap();
    assert_eq!((report.verdict, report.rows, report.from), (ChangeVerdict::Changed, 0, report.to));
    assert_eq!(changed.await, Change::Reset);
    let limits = node.machine.component().unwrap().engine().limits().clone();
    assert_eq!((limits.memory_bytes_max, node.machine.check_fitness()), (96 << 20, Ok(())));
    assert_eq!(value(node.get("a").await.verdict), Some(Bytes::from_static(b"1")));
    node.apply(vec![puts(4, &[("a", "2")])]).await;
    assert_eq!(value(node.get("a").await.verdict), Some(Bytes::from_static(b"2")));
}
