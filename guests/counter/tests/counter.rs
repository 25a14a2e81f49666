//! Tests the hello world on the harness, and that it stays short.

#![allow(clippy::unwrap_used)]

use counter::{AddRequest, AddResponse, GetRequest, GetResponse, Number};
use lockstep_guest::{Code, Harness};

const ADD: &str = "counter.v1.Counter/Add";
const GET: &str = "counter.v1.Counter/Get";

fn add(machine: &mut Harness<Number>, amount: u64) -> u64 {
    let reply: AddResponse = machine.command(ADD, &AddRequest { amount }).unwrap();
    reply.sum
}

fn get(machine: &mut Harness<Number>) -> u64 {
    let reply: GetResponse = machine.query(GET, &GetRequest {}).unwrap();
    reply.sum
}

#[test]
fn every_node_counts_alike() {
    let mut machine = Harness::<Number>::new();
    assert_eq!(get(&mut machine), 0);
    assert_eq!(add(&mut machine, 2), 2);
    machine.snapshot_restore();
    assert_eq!(add(&mut machine, 3), 5);
    assert_eq!(get(&mut machine), 5);
    machine.assert_replicas_agree();
}

#[test]
fn sum_past_the_largest_number_is_refused_and_changes_nothing() {
    let mut machine = Harness::<Number>::new();
    add(&mut machine, u64::MAX);
    let refused = machine.command::<_, AddResponse>(ADD, &AddRequest { amount: 1 }).unwrap_err();
    assert_eq!(refused.code(), Code::Internal);
    assert_eq!(get(&mut machine), u64::MAX);
}

/// Limits the length of the example.
#[test]
fn it_is_fifteen_lines_of_rust() {
    let code = |text: &str| text.lines().filter(|line| !line.is_empty() && !line.starts_with("//")).count();
    let lines = code(include_str!("../src/lib.rs")) + code(include_str!("../build.rs"));
    assert!(lines <= 15, "{lines} lines");
}
