//! Tests of the instance that a query thread keeps between queries, and of when it drops it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::overlay::Transaction;
use super::super::query::Kept;
use super::guest_text::counting;
use super::harness::start;
use crate::guest::{Call, Component, Context, Limits, Reason, Verdict};
use crate::store::View;

/// Returns the guest's answer to a request, from the instance in `kept`.
fn ask(kept: &mut Kept, component: &Component, deadline: Option<Instant>, request: &str) -> Verdict {
    let node = start();
    let served = kept.serve(component, deadline, |instance| {
        let call = Call {
            context: Context::default(),
            method: "Test/Get",
            request: request.as_bytes(),
            caller: "",
            fuel: Limits::default().fuel_per_query,
        };
        let view = Transaction::<View>::new(node.options.state.current().view());
        instance.query(call, Box::new(view), Arc::new(|| "{}".into())).0
    });
    served.unwrap().expect("the pool has an instance")
}

fn count(verdict: &Verdict) -> u8 {
    match verdict {
        Verdict::Reply(reply) => reply[0],
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_instance_serves_query_after_query() {
    let (mut kept, component) = (Kept::default(), counting());
    let counts: Vec<u8> = (0..3).map(|_| count(&ask(&mut kept, &component, None, "x"))).collect();
    assert_eq!(counts, [1, 2, 3]);
    let other = counting();
    assert_eq!(count(&ask(&mut kept, &other, None, "x")), 1, "another component has an instance of its own");
    assert_eq!(count(&ask(&mut kept, &component, None, "x")), 1, "and takes the place of the one before");
}

#[test]
fn a_query_that_fails_beside_others_runs_again_alone() {
    let (mut kept, component) = (Kept::default(), counting());
    ask(&mut kept, &component, None, "x");
    assert_eq!(count(&ask(&mut kept, &component, None, "alone")), 1, "the failure was its neighbour's");
    assert_eq!(count(&ask(&mut kept, &component, None, "x")), 2, "the fresh instance is kept");
    let passed = Instant::now() - Duration::from_millis(1);
    let Verdict::Failed(failure) = ask(&mut kept, &component, Some(passed), "alone") else {
        panic!("it has no time to run again")
    };
    assert_eq!(failure.reason, Reason::Trap);
    assert_eq!(count(&ask(&mut kept, &component, None, "x")), 1, "what failed serves nobody");
}

#[test]
fn a_refusal_is_an_answer_and_its_instance_is_kept() {
    let (mut kept, component) = (Kept::default(), counting());
    assert_eq!(count(&ask(&mut kept, &component, None, "x")), 1);
    for _ in 0..2 {
        let Verdict::Refused(status) = ask(&mut kept, &component, None, "refuse") else { panic!("it is refused") };
        assert_eq!(status.code, 5);
    }
    assert_eq!(count(&ask(&mut kept, &component, None, "x")), 4, "one instance ran each of them once");
}

#[test]
fn an_instance_that_grew_is_not_kept() {
    let (mut kept, component) = (Kept::default(), counting());
    assert_eq!(count(&ask(&mut kept, &component, None, "grow")), 1);
    assert_eq!(count(&ask(&mut kept, &component, None, "x")), 1);
}
