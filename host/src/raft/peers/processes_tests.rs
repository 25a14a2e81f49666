//! Tests which of two processes of one identity takes part, by the numbers alone. `service_tests`
//! covers the check of a real peer port.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::reserved::Reserved;
use tonic::Code;

const NODE: NodeId = 7;
const MINE: Process = process(1, 1000);

const fn process(boot: u64, nonce: u64) -> Process {
    Process { boot, nonce }
}

fn signed(by: Process) -> MetadataMap {
    let mut headers = MetadataMap::new();
    Processes::new(by, Dialer::plain()).sign(&mut headers);
    headers
}

/// Without an address to check, every process of a later start takes the place.
#[tokio::test]
async fn the_directory_started_again_takes_its_place_at_once() {
    let processes = Processes::new(MINE, Dialer::plain());
    for start in 1..50 {
        processes.admit_elsewhere(NODE, process(start, start * 10)).await.unwrap();
        processes.admit(NODE, process(start, start * 10)).await.unwrap();
    }
    assert_eq!(processes.refused(), 0);
}

#[tokio::test]
async fn a_start_that_is_not_later_is_one_of_a_copy() {
    let processes = Processes::new(MINE, Dialer::plain());
    processes.admit_elsewhere(NODE, process(3, 30)).await.unwrap();
    for copy in [process(3, 31), process(2, 20), process(1, 10)] {
        let status = processes.admit(NODE, copy).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains("takes part as process 000000000000001e of start 3"), "{}", status.message());
        assert!(processes.admit_now(NODE, copy).is_err());
    }
    processes.admit(NODE, process(3, 30)).await.unwrap();
    assert_eq!(processes.refused(), 1, "what is of an earlier start may have been under way when its process died");
}

#[tokio::test]
async fn a_build_without_nonces_is_neither_refused_nor_remembered() {
    let processes = Processes::new(MINE, Dialer::plain());
    processes.admit_elsewhere(NODE, process(3, 30)).await.unwrap();
    processes.admit(NODE, process(0, 0)).await.unwrap();
    processes.admit_elsewhere(NODE, process(0, 0)).await.unwrap();
    processes.answered(NODE, &MetadataMap::new()).unwrap();
    processes.admit(NODE, process(3, 30)).await.unwrap();
    assert_eq!(signed(process(0, 0)).len(), 0);
}

#[tokio::test]
async fn an_address_that_is_silent_keeps_the_place_of_who_was_heard_just_now() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let processes = Processes::new(MINE, Dialer::plain());
    processes.admit_elsewhere(NODE, process(3, 30)).await.unwrap();
    processes.set_addresses(Box::new(move |_| Some(address.clone())));
    let status = processes.admit(NODE, process(4, 40)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    processes.0.known.lock().get_mut(&NODE).unwrap().heard -= ALIVE_FOR;
    processes.admit(NODE, process(4, 40)).await.unwrap();
    // The earlier process was paused, and wakes up.
    assert_eq!(processes.admit(NODE, process(3, 30)).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn an_address_that_refuses_keeps_nobodys_place() {
    let (_reserved, address) = Reserved::address();
    let processes = Processes::new(MINE, Dialer::plain());
    processes.set_addresses(Box::new(move |_| Some(address.to_string())));
    processes.admit_elsewhere(NODE, process(3, 30)).await.unwrap();
    processes.admit(NODE, process(4, 40)).await.unwrap();
}

#[tokio::test]
async fn who_answers_at_the_recorded_address_is_the_node_but_for_a_copy() {
    let processes = Processes::new(MINE, Dialer::plain());
    processes.answered(NODE, &signed(process(3, 30))).unwrap();
    processes.answered(NODE, &signed(process(4, 40))).unwrap();
    let status = processes.answered(NODE, &signed(process(4, 41))).unwrap_err();
    assert!(status.message().contains("copy of its data directory"), "{}", status.message());
    assert!(processes.answered(NODE, &signed(process(3, 30))).is_err(), "late, or a directory that was put back");
    processes.answered(NODE, &signed(process(4, 40))).unwrap();
}

#[tokio::test]
async fn a_refusal_is_understood_by_the_process_that_it_names() {
    let member = Processes::new(MINE, Dialer::plain());
    member.set_addresses(Box::new(|_| Some("a:1".into())));
    member.0.known.lock().insert(NODE, Known { settled: true, ..Known::new(process(3, 30)) });
    let status = member.admit(NODE, process(3, 31)).await.unwrap_err();
    for (mine, expected) in [(process(3, 31), true), (process(3, 30), false), (process(4, 31), false)] {
        let told = Processes::new(mine, Dialer::plain());
        told.note(&status);
        let original = Original { process: process(3, 30), raft_addr: "a:1".into() };
        assert_eq!(*told.original().borrow(), expected.then_some(original));
    }
}

#[test]
fn news_of_an_original_are_asked_about_and_those_of_a_copy_counted_once() {
    let copy = |boot, nonce, takes_part| peer::Copy { node: NODE, boot, nonce, takes_part, ..peer::Copy::default() };
    let processes = Processes::new(process(3, 30), Dialer::plain());
    processes.news(NODE, &copy(3, 30, true));
    processes.news(NODE + 1, &copy(9, 90, true));
    assert_eq!(*processes.doubts().borrow(), 0);
    for _ in 0..2 {
        processes.news(NODE, &copy(9, 90, false));
    }
    assert_eq!(processes.refused(), 1);
    for _ in 0..2 {
        processes.news(NODE, &copy(3, 31, true));
    }
    assert_eq!(*processes.doubts().borrow(), 1, "nobody makes it ask without rest");
    assert_eq!(*processes.original().borrow(), None, "nobody is believed but who is asked");
}

#[test]
fn copies_without_end_fill_no_memory() {
    let mut known = Known::new(process(1, 1));
    for nonce in 0..1_000 {
        assert!(known.remember(nonce));
        assert!(!known.remember(nonce));
    }
    assert_eq!(known.refused.len(), REFUSED_MAX);
}

#[tokio::test]
async fn strangers_without_end_fill_no_memory_and_push_out_no_member() {
    let processes = Processes::new(MINE, Dialer::plain());
    processes.set_addresses(Box::new(|node| (node == NODE).then(|| "127.0.0.1:1".to_owned())));
    for stranger in 0..1_000 {
        processes.admit_now(NODE + 1 + stranger, process(1, stranger + 1)).unwrap();
        processes.admit_to_vote(NODE + 2_001 + stranger, process(1, stranger + 1)).await.unwrap();
        processes.admit_elsewhere(NODE + 4_001 + stranger, process(1, stranger + 1)).await.unwrap();
    }
    assert_eq!(processes.0.known.lock().len(), NODES_BEFORE_CLEANUP);
    processes.admit_elsewhere(NODE, process(3, 30)).await.unwrap();
    assert!(processes.admit(NODE, process(2, 20)).await.is_err(), "a member is remembered all the same");
}
