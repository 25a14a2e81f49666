//! Tests what each method promises, in an ordinary `cargo test`: without wasm, ports or waiting.
//! With LOCKSTEP_COMPONENT=<file.wasm> the same tests run the built component, in a node's sandbox.

use lockstep_guest::{Code, Harness};

use ::{{crate}}::*;

const ADD: &str = "{{crate}}.{{Service}}/Add";
const GET: &str = "{{crate}}.{{Service}}/Get";

fn add(name: &str, amount: u64) -> AddRequest {
    AddRequest {
        name: name.to_owned(),
        amount,
    }
}

#[test]
fn counts_add_up_and_survive_a_snapshot() {
    let mut machine = Harness::<{{Service}}State>::new();
    for (amount, expected) in [(2, 2), (3, 5)] {
        let reply: AddReply = machine
            .command(ADD, &add("apples", amount))
            .expect("a reply");
        assert_eq!(reply.count, expected);
    }
    machine.snapshot_restore();
    let request = GetRequest {
        name: "apples".to_owned(),
    };
    let reply: GetReply = machine.query(GET, &request).expect("a reply");
    assert_eq!(reply.count, 5);
    machine.assert_replicas_agree();
}

#[test]
fn a_count_without_a_name_is_refused() {
    let mut machine = Harness::<{{Service}}State>::new();
    let refused = machine
        .command::<_, AddReply>(ADD, &add("", 1))
        .expect_err("a refusal");
    assert_eq!(refused.code(), Code::InvalidArgument);
}
