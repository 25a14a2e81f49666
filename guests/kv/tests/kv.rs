//! Tests each method of the default guest on the harness.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use kv::{
    AddRequest, AddResponse, GetRequest, GetResponse, Kv, StatRequest, StatResponse, WatchRequest, WatchResponse,
};
use lockstep_guest::{Code, Harness, test::Stream};

fn add(machine: &mut Harness<Kv>, key: &str, val: &str) -> u64 {
    let (key, val) = (key.to_owned(), val.to_owned());
    let reply: AddResponse = machine.command("Example/Add", &AddRequest { key, val }).unwrap();
    reply.commit_index
}

fn get(machine: &mut Harness<Kv>, key: &str) -> GetResponse {
    let request = GetRequest { key: key.to_owned(), linearizable: true };
    machine.query("Example/Get", &request).unwrap()
}

fn watch(machine: &mut Harness<Kv>, key: &str, min_index: u64, timeout_seconds: u32) -> Stream<WatchResponse> {
    let key = key.to_owned();
    let request = WatchRequest { key, min_index, timeout_seconds };
    machine.watch("Example/Watch", &request)
}

/// Returns (value, index, abandoned) of everything sent since the last call.
fn sent(machine: &mut Harness<Kv>, stream: &Stream<WatchResponse>) -> Vec<(String, u64, bool)> {
    let replies = machine.sent(stream).into_iter();
    replies.map(|reply| (reply.value, reply.current_index, reply.abandoned)).collect()
}

fn update(value: &str, index: u64) -> (String, u64, bool) {
    (value.to_owned(), index, false)
}

#[test]
fn add_answers_its_index_and_get_reads_it() {
    let mut machine = Harness::new();
    assert_eq!(add(&mut machine, "a", "1"), 1);
    assert_eq!(add(&mut machine, "b", "2"), 2);
    assert_eq!(add(&mut machine, "a", "3"), 3);
    let read = get(&mut machine, "a");
    assert_eq!((read.value.as_str(), read.read_at_index), ("3", 3));
    machine.assert_replicas_agree();
}

#[test]
fn missing_key_reads_as_empty() {
    let mut machine = Harness::new();
    add(&mut machine, "a", "1");
    let read = get(&mut machine, "nope");
    assert_eq!((read.value.as_str(), read.read_at_index), ("", 1));
}

#[test]
fn empty_key_and_empty_value_are_stored() {
    let mut machine = Harness::new();
    add(&mut machine, "", "nothing");
    add(&mut machine, "a", "");
    assert_eq!(get(&mut machine, "").value, "nothing");
    assert_eq!(get(&mut machine, "a").value, "");
}

#[test]
fn stat_hands_out_what_the_node_says() {
    let mut machine = Harness::<Kv>::new();
    machine.set_node_status(r#"{"node_id":"n1"}"#);
    let reply: StatResponse = machine.query("Example/Stat", &StatRequest {}).unwrap();
    assert_eq!(reply.stats, r#"{"node_id":"n1"}"#);
}

#[test]
fn watch_sends_the_value_now_and_on_every_change_of_its_key() {
    let mut machine = Harness::new();
    add(&mut machine, "a", "1");
    let stream = watch(&mut machine, "a", 0, 0);
    assert_eq!(sent(&mut machine, &stream), [update("1", 1)]);
    add(&mut machine, "b", "x");
    assert_eq!(sent(&mut machine, &stream), []);
    add(&mut machine, "a", "2");
    add(&mut machine, "a", "3");
    assert_eq!(sent(&mut machine, &stream), [update("2", 3), update("3", 4)]);
    assert!(machine.ended(&stream).is_none());
}

#[test]
fn watch_waits_for_min_index() {
    let mut machine = Harness::new();
    add(&mut machine, "a", "1");
    let stream = watch(&mut machine, "a", 3, 0);
    add(&mut machine, "a", "2");
    assert_eq!(sent(&mut machine, &stream), []);
    add(&mut machine, "b", "x");
    assert_eq!(sent(&mut machine, &stream), [update("2", 3)]);
    let reached = watch(&mut machine, "a", 3, 0);
    assert_eq!(sent(&mut machine, &reached), [update("2", 3)]);
}

#[test]
fn watch_repeats_the_value_after_a_quiet_time() {
    let mut machine = Harness::new();
    add(&mut machine, "a", "1");
    let short = watch(&mut machine, "a", 0, 2);
    let default = watch(&mut machine, "a", 0, 0);
    sent(&mut machine, &short);
    sent(&mut machine, &default);
    machine.advance(Duration::from_millis(1999));
    assert_eq!(sent(&mut machine, &short), []);
    machine.advance(Duration::from_millis(1));
    assert_eq!(sent(&mut machine, &short), [update("1", 1)]);
    machine.close(&short);
    machine.advance(Duration::from_secs(297));
    assert_eq!(sent(&mut machine, &default), []);
    machine.advance(Duration::from_secs(1));
    assert_eq!(sent(&mut machine, &default), [update("1", 1)]);
}

/// Entries that only carry the time have indexes of their own. No client should see those.
#[test]
fn watch_moves_its_index_with_writes_alone() {
    let mut machine = Harness::new();
    add(&mut machine, "a", "1");
    let stream = watch(&mut machine, "a", 0, 2);
    machine.advance(Duration::from_secs(6));
    assert_eq!(sent(&mut machine, &stream), vec![update("1", 1); 4]);
    assert!(machine.index() > 1, "time has passed in the log");
    let written = add(&mut machine, "a", "1");
    assert_eq!(sent(&mut machine, &stream), [update("1", written)], "also one of the same value");
    machine.advance(Duration::from_secs(2));
    assert_eq!(sent(&mut machine, &stream), [update("1", written)]);
}

#[test]
fn watch_answers_after_its_timeout_though_min_index_is_not_reached() {
    let mut machine = Harness::new();
    add(&mut machine, "a", "1");
    let stream = watch(&mut machine, "a", 1_000, 2);
    assert_eq!(sent(&mut machine, &stream), []);
    machine.advance(Duration::from_secs(2));
    let first = machine.index();
    assert_eq!(sent(&mut machine, &stream), [update("1", first)]);
    // The watch continues to wait: a change below the index sends nothing, and the next quiet time
    // does.
    add(&mut machine, "a", "2");
    assert_eq!(sent(&mut machine, &stream), []);
    machine.advance(Duration::from_secs(4));
    let repeats = sent(&mut machine, &stream);
    assert_eq!(repeats.len(), 2, "{repeats:?}");
    assert!(repeats.iter().all(|(value, index, _)| value == "2" && *index > first), "{repeats:?}");
    assert_eq!(repeats[0], repeats[1]);
}

#[test]
fn watch_says_the_index_that_it_waited_for_when_it_comes() {
    let mut machine = Harness::new();
    add(&mut machine, "a", "1");
    let stream = watch(&mut machine, "a", 4, 2);
    machine.advance(Duration::from_secs(2));
    assert_eq!(sent(&mut machine, &stream), [update("1", 2)], "the quiet time");
    add(&mut machine, "b", "x");
    assert_eq!(sent(&mut machine, &stream), []);
    add(&mut machine, "b", "y");
    assert_eq!(sent(&mut machine, &stream), [update("1", 4)]);
    machine.advance(Duration::from_secs(2));
    assert_eq!(sent(&mut machine, &stream), [update("1", 4)]);
}

#[test]
fn watch_says_abandoned_also_while_it_waits() {
    let mut machine = Harness::new();
    add(&mut machine, "a", "1");
    let stream = watch(&mut machine, "a", 9, 0);
    machine.snapshot_restore();
    assert_eq!(sent(&mut machine, &stream), [("1".to_owned(), 1, true)]);
}

#[test]
fn watch_says_when_a_snapshot_replaced_the_state() {
    let mut machine = Harness::new();
    add(&mut machine, "a", "1");
    let stream = watch(&mut machine, "a", 0, 0);
    sent(&mut machine, &stream);
    machine.snapshot_restore();
    assert_eq!(sent(&mut machine, &stream), [("1".to_owned(), 1, true)]);
    add(&mut machine, "a", "2");
    assert_eq!(sent(&mut machine, &stream), [update("2", 2)]);
}

#[test]
fn oversized_value_is_refused_and_leaves_nothing() {
    let mut machine = Harness::<Kv>::new();
    add(&mut machine, "a", "1");
    let request = AddRequest { key: "a".to_owned(), val: "x".repeat(1024 * 1024 + 1) };
    let refused = machine.command::<_, AddResponse>("Example/Add", &request).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(get(&mut machine, "a").value, "1");
    machine.assert_replicas_agree();
}

#[test]
fn undecodable_request_and_unknown_method_are_told_apart() {
    let mut machine = Harness::<Kv>::new();
    let bad = machine.command_bytes("Example/Add", &[0xff]).unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument);
    assert!(bad.message().starts_with("Example/Add: "), "{bad}");
    let unknown = machine.command_bytes("Example/Nope", &[]).unwrap_err();
    assert_eq!(unknown.code(), Code::Unimplemented);
    let query = machine.command_bytes("Example/Get", &[]).unwrap_err();
    assert_eq!(query.code(), Code::Unimplemented);
    assert!(query.message().contains("is a query"), "{query}");
}
