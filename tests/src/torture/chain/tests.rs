//! Constructed histories: good ones pass both checkers. Both find the violation in a bad one, or
//! only ours does where porcupine does not check.

use super::super::history::{Kind, Operation, Outcome, Record, Stamp};
use super::super::judge::Verdict;

/// Makes version `version` of a key, written with the token of the same number.
fn record(version: u64) -> Record {
    Record { token: version, stamp: Stamp { index: 10 * version, position: 0 }, version }
}

fn previous(version: u64) -> Option<Record> {
    (version > 1).then(|| record(version - 1))
}

fn operation(client: u32, from: u64, to: u64, kind: Kind, outcome: Outcome) -> Operation {
    Operation { client, node: client, key: 0, kind, invoked: from, returned: to, outcome }
}

fn put(client: u32, from: u64, to: u64, version: u64) -> Operation {
    operation(client, from, to, Kind::Put(version), Outcome::Wrote(record(version), previous(version)))
}

fn maybe(client: u32, from: u64, to: u64, token: u64) -> Operation {
    operation(client, from, to, Kind::Put(token), Outcome::Maybe)
}

fn get(client: u32, from: u64, to: u64, version: u64) -> Operation {
    operation(client, from, to, Kind::Get, Outcome::Read((version > 0).then(|| record(version))))
}

fn local(client: u32, from: u64, to: u64, version: u64) -> Operation {
    Operation { kind: Kind::GetLocal, ..get(client, from, to, version) }
}

const END: u64 = 1_000;

fn judged(history: &[Operation]) -> Verdict {
    Verdict::of(history, Some(END))
}

fn passes(history: &[Operation]) {
    let verdict = judged(history);
    assert!(verdict.passed(), "{verdict}");
}

/// Checks that both checkers find a violation, and that ours uses these words.
fn caught(history: &[Operation], words: &str) {
    let verdict = judged(history);
    assert!(verdict.chain.iter().any(|violation| violation.contains(words)), "{words} is not in: {verdict}");
    assert!(!verdict.wgl.is_empty(), "porcupine objects to nothing; ours says {verdict}");
}

/// Checks that our checker finds a violation. Porcupine does not check local reads, places and
/// promises.
fn caught_by_ours(history: &[Operation], words: &str) {
    let verdict = judged(history);
    assert!(verdict.chain.iter().any(|violation| violation.contains(words)), "{words} is not in: {verdict}");
}

#[test]
fn good_histories_pass() {
    passes(&[]);
    passes(&[
        get(0, 1, 2, 0),
        put(0, 3, 9, 1),
        get(1, 4, 5, 0),
        get(1, 6, 8, 1),
        put(1, 10, 20, 2),
        get(2, END, END + 1, 2),
    ]);
    // Of two concurrent writes either can come last.
    passes(&[put(0, 1, 9, 2), put(1, 1, 9, 1), get(2, END, END + 1, 2)]);
    // A local read may be old.
    passes(&[put(0, 1, 2, 1), put(0, 3, 4, 2), local(1, 5, 6, 1), local(1, 7, 8, 2), get(2, END, END + 1, 2)]);
}

#[test]
fn writes_of_unknown_outcome_may_happen_late_or_never() {
    passes(&[put(0, 1, 2, 1), maybe(1, 3, 4, 2), get(2, END, END + 1, 1)]);
    passes(&[put(0, 1, 2, 1), maybe(1, 3, 4, 2), get(2, 5, 6, 1), get(2, END, END + 1, 2)]);
    // The third write followed one that no other operation saw.
    passes(&[put(0, 1, 2, 1), maybe(1, 3, 4, 2), put(0, 5, 6, 3), get(2, END, END + 1, 3)]);
}

#[test]
fn a_lost_write_is_caught() {
    caught(&[put(0, 1, 2, 1), put(0, 3, 4, 2), get(1, END, END + 1, 1)], "lost or stale");
    caught(&[put(0, 1, 2, 1), get(1, END, END + 1, 0)], "lost or stale");
}

#[test]
fn a_lost_write_that_another_one_replaced_is_a_fork() {
    let again = Record { token: 3, stamp: Stamp { index: 30, position: 0 }, version: 2 };
    let forked = operation(0, 5, 6, Kind::Put(3), Outcome::Wrote(again, Some(record(1))));
    let read = operation(1, END, END + 1, Kind::Get, Outcome::Read(Some(again)));
    caught(&[put(0, 1, 2, 1), put(0, 3, 4, 2), forked, read], "fork");
}

#[test]
fn a_stale_read_is_caught() {
    caught(&[put(0, 1, 2, 1), put(0, 3, 4, 2), get(1, 5, 6, 1), get(1, END, END + 1, 2)], "lost or stale");
    // The read is stale compared with another read, while the write is still running.
    caught(
        &[put(0, 1, 2, 1), put(0, 3, 30, 2), get(1, 5, 6, 2), get(2, 7, 8, 1), get(1, END, END + 1, 2)],
        "lost or stale",
    );
}

#[test]
fn reordered_writes_are_caught() {
    caught(&[put(0, 1, 2, 2), put(0, 3, 4, 1), get(1, END, END + 1, 2)], "reordered");
}

#[test]
fn a_write_that_happened_twice_is_caught() {
    let twice = Record { token: 1, stamp: Stamp { index: 20, position: 0 }, version: 2 };
    let read = operation(1, END, END + 1, Kind::Get, Outcome::Read(Some(twice)));
    let third = Record { token: 9, stamp: Stamp { index: 30, position: 0 }, version: 3 };
    let follows = operation(2, 5, 6, Kind::Put(9), Outcome::Wrote(third, Some(twice)));
    caught_by_ours(&[put(0, 1, 2, 1), follows, read], "one write stands in two places");
}

#[test]
fn a_refused_write_that_is_seen_is_caught() {
    let refused = operation(0, 3, 4, Kind::Put(2), Outcome::Refused);
    caught(&[put(0, 1, 2, 1), refused, get(1, END, END + 1, 2)], "refused as not applied, and applied");
}

#[test]
fn a_value_from_nowhere_or_from_the_future_is_caught() {
    caught(&[put(0, 1, 2, 1), get(1, END, END + 1, 7)], "a value that nobody wrote");
    caught(&[get(1, 1, 2, 1), put(0, 3, 4, 1), get(1, END, END + 1, 1)], "seen before it was written");
}

#[test]
fn a_write_between_two_others_that_nobody_sent_is_caught() {
    let third = Record { token: 3, stamp: Stamp { index: 30, position: 0 }, version: 3 };
    let read = operation(1, END, END + 1, Kind::Get, Outcome::Read(Some(third)));
    caught_by_ours(&[put(0, 1, 2, 1), operation(0, 5, 6, Kind::Put(3), Outcome::Maybe), read], "were seen by nobody");
}

#[test]
fn two_writes_in_one_place_are_caught() {
    let other_key = Operation { key: 1, ..put(0, 3, 4, 1) };
    let other_token = Operation { kind: Kind::Put(5), ..other_key };
    let place = Record { token: 5, ..record(1) };
    let other = Operation { outcome: Outcome::Wrote(place, None), ..other_token };
    let read = operation(2, END, END + 1, Kind::Get, Outcome::Read(Some(place)));
    let history = [put(0, 1, 2, 1), other, get(2, END, END + 1, 1), Operation { key: 1, ..read }];
    caught_by_ours(&history, "two writes in one place");
}

#[test]
fn a_node_whose_local_reads_go_back_is_caught() {
    let history = [put(0, 1, 2, 1), put(0, 3, 4, 2), local(1, 5, 6, 2), local(1, 7, 8, 1), get(2, END, END + 1, 2)];
    caught_by_ours(&history, "a node went back");
}

#[test]
fn a_key_that_was_not_read_at_the_end_is_no_proof() {
    caught_by_ours(&[put(0, 1, 2, 1), get(1, 3, 4, 1)], "not read at the end");
}

#[test]
fn a_search_that_is_not_done_has_failed() {
    // Fifty concurrent writes in an unknown order and one read that fits none: the search cannot
    // finish in so short a time.
    let mut history: Vec<Operation> = Vec::new();
    for token in 1..=50 {
        history.push(operation(token as u32, 1, 500, Kind::Put(token), Outcome::Maybe));
        let seen = Record { token, stamp: Stamp { index: token, position: 0 }, version: token };
        history.push(operation(100 + token as u32, 400, 500, Kind::Get, Outcome::Read(Some(seen))));
    }
    history.push(operation(99, 600, 601, Kind::Get, Outcome::Read(None)));
    let violations = super::super::wgl::check_within(&history, std::time::Duration::from_millis(50));
    assert_eq!(violations.len(), 1, "{violations:?}");
}
