//! Tests the table from the end of a call to its status, row by row.

use super::*;
use crate::calls::Full;
use crate::machine::not_run;
use std::time::Duration;

fn text<'a>(status: &'a Status, key: &str) -> &'a str {
    status.metadata().get(key).map_or("", |value| value.to_str().unwrap())
}

fn leader() -> Option<String> {
    Some("localhost:40051".into())
}

#[test]
fn a_command_without_an_outcome_says_whether_it_may_have_run() {
    use CallError as E;
    let waited = Duration::from_secs(3);
    let too_large = NotProposed::TooLarge { bytes: 9, limit_bytes: 8 };
    let rows = [
        (E::NoLeader { waited }, Code::Unavailable, "not-applied"),
        (NotProposed::Stopping.into(), Code::Unavailable, "not-applied"),
        (E::OutOfService("hashes differ".into()), Code::FailedPrecondition, "not-applied"),
        (NotProposed::Removed { index: 9 }.into(), Code::FailedPrecondition, "not-applied"),
        (NotProposed::CallerUnproven.into(), Code::FailedPrecondition, "not-applied"),
        (NotProposed::Overloaded("queue".into()).into(), Code::ResourceExhausted, "not-applied"),
        (too_large.into(), Code::ResourceExhausted, "not-applied"),
        (NotProposed::Expired.into(), Code::DeadlineExceeded, "not-applied"),
        (E::DeadlineAfter { term: 4 }, Code::DeadlineExceeded, "unknown"),
        (E::Unknown, Code::Unknown, "unknown"),
    ];
    for (error, code, fate) in rows {
        let status = command(Err(error.clone()), leader).unwrap_err();
        assert_eq!((status.code(), text(&status, OUTCOME)), (code, fate), "{error:?}");
        assert_eq!((text(&status, ORIGIN), text(&status, LEADER)), ("host", "localhost:40051"));
        assert!(code != Code::Unavailable || fate == "not-applied", "UNAVAILABLE is retried blindly");
    }
    let catching_up = E::Query(QueryError::NotReady("replaying".into()));
    let status = command(Err(catching_up), leader).unwrap_err();
    assert_eq!((status.code(), text(&status, OUTCOME)), (Code::Unavailable, "not-applied"));
    assert_eq!((text(&status, ORIGIN), text(&status, LEADER)), ("host", ""));
}

#[test]
fn a_read_only_cluster_is_told_from_an_unfit_node() {
    let refused = CallError::ReadOnly("the cluster is in read-only mode".into());
    let status = command(Err(refused), leader).unwrap_err();
    assert_eq!((status.code(), text(&status, OUTCOME)), (Code::FailedPrecondition, "not-applied"));
    assert_eq!((text(&status, ORIGIN), text(&status, REASON)), ("host", "read-only"));
}

#[test]
fn the_texts_of_a_command_that_was_not_proposed() {
    let rows = [
        (NotProposed::Overloaded("full".into()), "full; the command was not proposed"),
        (NotProposed::TooLarge { bytes: 9, limit_bytes: 8 }, "the request has 9 bytes, the limit is 8"),
        (NotProposed::Stopping, "this node is stopping; the command was not proposed"),
        (NotProposed::Expired, "the deadline passed before the command was proposed; it was not applied"),
    ];
    for (reason, text) in rows {
        assert_eq!(command(Err(reason.into()), leader).unwrap_err().message(), text);
    }
}

#[test]
fn a_failed_guest_call_names_its_reason() {
    let rows = [
        (Reason::Trap, Code::Internal, "trap"),
        (Reason::Fuel, Code::ResourceExhausted, "fuel"),
        (Reason::Memory, Code::ResourceExhausted, "memory"),
        (Reason::Stack, Code::ResourceExhausted, "stack"),
        (Reason::StoreBudget, Code::ResourceExhausted, "store-budget"),
        (Reason::LimitExceeded, Code::ResourceExhausted, "limit"),
        (Reason::MalformedReply, Code::Internal, "malformed-reply"),
        (Reason::OversizedReply, Code::ResourceExhausted, "oversized-reply"),
        (Reason::Forbidden, Code::Internal, "forbidden"),
        (Reason::Aborted, Code::Internal, "aborted"),
        (Reason::Deadline, Code::DeadlineExceeded, "deadline"),
        (Reason::Stream, Code::Internal, "stream"),
        (Reason::NotRun, Code::ResourceExhausted, "not-run"),
    ];
    for (reason, code, name) in rows {
        let failure = Failure { reason, detail: String::new() };
        let status = outcome(outcome_of(Verdict::Failed(failure)), None).unwrap_err();
        assert_eq!((status.code(), text(&status, REASON)), (code, name));
        let fate = if reason == Reason::NotRun { "not-applied" } else { "applied" };
        assert_eq!((text(&status, OUTCOME), text(&status, INDEX)), (fate, "7"));
    }
}

#[test]
fn queries_and_reads_have_codes_of_their_own() {
    let rows: [(CallError, Code); 10] = [
        (QueryError::NotReady("catching up".into()).into(), Code::Unavailable),
        (QueryError::Removed("the cluster removed it".into()).into(), Code::FailedPrecondition),
        (QueryError::Busy.into(), Code::ResourceExhausted),
        (QueryError::Fault("disk".into()).into(), Code::Internal),
        (ReadError::NoLeader("none".into()).into(), Code::Unavailable),
        (ReadError::Overloaded.into(), Code::ResourceExhausted),
        (ReadError::Stopping.into(), Code::Unavailable),
        (ReadError::Deadline.into(), Code::DeadlineExceeded),
        (CallError::ReadBehind { index: 7 }, Code::DeadlineExceeded),
        (CallError::QueryDeadline, Code::DeadlineExceeded),
    ];
    for (error, code) in rows {
        let status = query(Err(error.clone()), leader).unwrap_err();
        assert_eq!((status.code(), text(&status, ORIGIN)), (code, "host"), "{error:?}");
        assert_eq!((text(&status, OUTCOME), text(&status, LEADER)), ("", ""), "a query has no fate");
    }
}

#[test]
fn watches_end_with_a_code_of_their_own() {
    let rows = [
        (CallError::WatchDeadline, Code::DeadlineExceeded),
        (CallError::WatchStopping, Code::Unavailable),
        (CallError::WatchBroken, Code::Internal),
        (CallError::TooManyWatches(Full::Node), Code::ResourceExhausted),
    ];
    for (error, code) in rows {
        let status = watch(WatchEnd::Host(error));
        assert_eq!((status.code(), text(&status, ORIGIN), text(&status, OUTCOME)), (code, "host", ""));
    }
    let failure = Failure { reason: Reason::Trap, detail: String::new() };
    let status = watch(WatchEnd::Failed { failure, index: 7 });
    assert_eq!((status.code(), text(&status, INDEX)), (Code::Internal, "7"));
}

#[test]
fn an_operation_tells_its_end_in_words() {
    assert_eq!(operation(Ok(7)), Done { index: 7, error: String::new() });
    let lost = operation(Err(CallError::NotLeader(None)));
    assert_eq!(lost, Done { index: 0, error: "node is not the leader, and knows of none at the moment".into() });
    let refusal = crate::guest::Status { code: 5, message: "no such key".into(), details: Vec::new() };
    let refused = applied_log(Ok(outcome_of(Verdict::Refused(refusal))));
    assert_eq!(refused, Done { index: 7, error: "NotFound: no such key".into() });
}

#[test]
fn an_operators_call_has_no_metadata() {
    let rows = [
        (CallError::NotLeader(None), Code::FailedPrecondition, "node is not the leader"),
        (CallError::LogTime(RoundError::NotLeader), Code::FailedPrecondition, "log time was not moved"),
        (CallError::LogTime(RoundError::NoQuorum), Code::Unknown, "log time may be moved yet"),
        (CallError::LogTime(RoundError::Failed("why".into())), Code::Unavailable, "why"),
    ];
    for (error, code, words) in rows {
        let status = unmarked(&error);
        assert!(status.code() == code && status.message().contains(words), "{status:?}");
        assert!(status.metadata().is_empty());
    }
}

#[test]
fn a_refusal_of_the_guest_arrives_as_it_is() {
    let refusal = crate::guest::Status { code: 5, message: "no such key".into(), details: vec![1, 2] };
    let status = outcome(outcome_of(Verdict::Refused(refusal)), Some("localhost:40051".into())).unwrap_err();
    assert_eq!((status.code(), status.message(), status.details()), (Code::NotFound, "no such key", &[1u8, 2][..]));
    assert_eq!((text(&status, ORIGIN), text(&status, OUTCOME)), ("guest", "applied"));
    assert_eq!((text(&status, INDEX), text(&status, LEADER)), ("7", "localhost:40051"));
    for code in [0, 17, u32::MAX] {
        let refusal = crate::guest::Status { code, message: String::new(), details: Vec::new() };
        assert_ne!(refused(refusal).code(), Code::Ok, "a refusal never looks like success");
    }
}

#[test]
fn a_command_that_found_no_fuel_was_not_applied() {
    let status = outcome(outcome_of(not_run()), None).unwrap_err();
    assert_eq!((status.code(), text(&status, OUTCOME)), (Code::ResourceExhausted, "not-applied"));
    assert_eq!((text(&status, ORIGIN), text(&status, INDEX)), ("host", "7"));
}

#[test]
fn a_command_that_came_to_no_log_has_no_index() {
    let status = outcome(Outcome { index: 0, ..outcome_of(not_run()) }, None).unwrap_err();
    assert_eq!((status.code(), text(&status, OUTCOME)), (Code::ResourceExhausted, "not-applied"));
    assert!(!status.metadata().contains_key(INDEX));
}

#[test]
fn a_method_that_is_gone_is_named_with_index_and_component() {
    let refusal = crate::guest::Status { code: 12, message: "what is it?".into(), details: Vec::new() };
    let outcome = outcome_of(Verdict::Refused(refusal));
    let status = gone("S/Put", "c0ffee", Some(&outcome));
    assert_eq!(
        (status.code(), text(&status, ORIGIN), text(&status, OUTCOME)),
        (Code::Unimplemented, "host", "applied")
    );
    assert_eq!(text(&status, INDEX), outcome.index.to_string());
    assert!(status.message().contains("component c0ffee now, which has no command S/Put"), "{status}");
    let status = gone("S/Get", "c0ffee", None);
    assert_eq!((status.code(), text(&status, INDEX), text(&status, OUTCOME)), (Code::Unimplemented, "", ""));
}

#[test]
fn a_reply_carries_index_and_leader() {
    let reply = Verdict::Reply(Bytes::from_static(b"ok"));
    let response = outcome(outcome_of(reply), Some("localhost:40051".into())).unwrap();
    assert_eq!(response.metadata().get(INDEX).unwrap(), "7");
    assert_eq!(response.metadata().get(LEADER).unwrap(), "localhost:40051");
    assert_eq!(response.into_inner(), "ok");
}

#[test]
fn long_messages_are_cut_at_a_character() {
    let kept = |text: &str| host(Code::Internal, text).message().len();
    assert_eq!(kept(&"a".repeat(2_000)), STATUS_TEXT_BYTES_MAX);
    assert_eq!(kept(&"ä".repeat(2_000)), STATUS_TEXT_BYTES_MAX);
    assert_eq!(kept(&"€".repeat(2_000)), STATUS_TEXT_BYTES_MAX / 3 * 3);
    assert_eq!(kept("äö%"), 5);
}

fn outcome_of(verdict: Verdict) -> Outcome {
    Outcome { index: 7, position: 0, term: 2, time_ms: 0, verdict }
}
