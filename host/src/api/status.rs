//! The one table from the outcomes of a call to what the client is told: gRPC code, message, and
//! the metadata that programs read. It decides nothing itself.
//!
//! - UNAVAILABLE means that a command was certainly not proposed. Client libraries and meshes
//!   resend it by themselves.
//! - `lockstep-outcome` is on every failed call that was or could have been a command:
//!   `not-applied`, `unknown`, or `applied` (the guest refused it or failed; its writes were
//!   undone, and all nodes recorded that).
//! - `lockstep-origin` tells the guest's refusals from the host's.
//! - `lockstep-index` and `lockstep-leader` are initial metadata of a reply, and trailers of an
//!   error.
//! - [`super::trailers`] limits the bytes of all this that a client gets. `lockstep-cut` names what
//!   was left out.

use bytes::Bytes;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Response, Status};

use super::commands::CommandError;
use super::watch::places::{Full, WATCHES_MAX, WATCHES_PER_CONNECTION_MAX};
use crate::guest::{Failure, Limits, Reason, Verdict};
use crate::machine::{Outcome, QueryError, is_not_run};
use crate::raft::ReadError;
use crate::types::{Addresses, NodeMode};
use lockstep_contract::Kind;

/// Log index of the entry that held the command, or of the state that a query saw.
pub const INDEX: &str = "lockstep-index";
/// The leader's client address, when one is known.
pub const LEADER: &str = "lockstep-leader";
/// Whether a command without a reply took effect.
pub const OUTCOME: &str = "lockstep-outcome";
/// Who refused the call: `guest` or `host`.
pub const ORIGIN: &str = "lockstep-origin";
/// Which of the enumerated reasons ended the guest's call.
pub const REASON: &str = "lockstep-reason";

/// Most bytes of a status message. `trailers` limits the size of the whole status as it is sent.
const STATUS_TEXT_BYTES_MAX: usize = 1 << 10;

/// Most bytes of status details.
const DETAILS_BYTES_MAX: usize = 4 << 10;

// A message or details within the profile's limits for the guest are never cut here.
const _: () = {
    assert!(STATUS_TEXT_BYTES_MAX >= Limits::DEFAULT.status_message_bytes_max as usize);
    assert!(DETAILS_BYTES_MAX >= Limits::DEFAULT.status_details_bytes_max as usize);
};

/// Whether a command without a reply took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    NotApplied,
    Unknown,
    Applied,
}

impl Fate {
    fn text(self) -> &'static str {
        match self {
            Fate::NotApplied => "not-applied",
            Fate::Unknown => "unknown",
            Fate::Applied => "applied",
        }
    }
}

/// Returns the reply to a command, or the status that says why there is none.
pub fn outcome(outcome: Outcome, leader: Option<String>) -> Result<Response<Bytes>, Status> {
    let not_run = is_not_run(&outcome.verdict);
    let index = outcome.index;
    verdict(outcome.verdict, index, leader).map_err(|status| {
        let fate = if not_run { Fate::NotApplied } else { Fate::Applied };
        let status = with_fate(status, fate);
        if not_run { with(status, ORIGIN, "host") } else { status }
    })
}

/// Marks a command as not applied. For a refusal that came before the command was offered to any
/// leader.
pub fn not_proposed(status: Status) -> Status {
    with_fate(status, Fate::NotApplied)
}

/// Returns the reply to a query, or the status that says why there is none.
pub fn verdict(verdict: Verdict, index: u64, leader: Option<String>) -> Result<Response<Bytes>, Status> {
    let reply = match verdict {
        Verdict::Reply(reply) => reply,
        Verdict::Refused(refusal) => return Err(at(refused(refusal), index, leader)),
        Verdict::Failed(failure) => return Err(at(failed(&failure), index, leader)),
    };
    let mut response = Response::new(reply);
    describe(response.metadata_mut(), index, leader);
    Ok(response)
}

/// Returns the status that ends a stream whose guest refused.
pub fn watch_refused(refusal: crate::guest::Status, index: u64) -> Status {
    at(refused(refusal), index, None)
}

/// Returns the status that ends a stream whose guest failed.
pub fn watch_failed(failure: &Failure, index: u64) -> Status {
    at(failed(failure), index, None)
}

fn refused(refusal: crate::guest::Status) -> Status {
    let code = Code::from_i32(i32::try_from(refusal.code).unwrap_or(0));
    let code = if code == Code::Ok { Code::Internal } else { code };
    let mut details = refusal.details;
    if details.len() > DETAILS_BYTES_MAX {
        // Cut details would not decode.
        details.clear();
    }
    with(Status::with_details(code, cut(&refusal.message), details.into()), ORIGIN, "guest")
}

fn failed(failure: &Failure) -> Status {
    let (code, name, what) = failure_row(failure.reason);
    let message = match failure.detail.as_str() {
        "" => format!("the guest {what}"),
        detail => format!("the guest {what}: {detail}"),
    };
    with(with(Status::new(code, cut(&message)), ORIGIN, "host"), REASON, name)
}

/// Returns the name of a reason for metadata and metrics.
pub fn reason_name(reason: Reason) -> &'static str {
    failure_row(reason).1
}

fn failure_row(reason: Reason) -> (Code, &'static str, &'static str) {
    match reason {
        Reason::Trap => (Code::Internal, "trap", "trapped"),
        Reason::Fuel => (Code::ResourceExhausted, "fuel", "used all its fuel"),
        Reason::Memory => (Code::ResourceExhausted, "memory", "asked for more memory than the limit"),
        Reason::Stack => (Code::ResourceExhausted, "stack", "overflowed its stack"),
        Reason::StoreBudget => (Code::ResourceExhausted, "store-budget", "used all its store budget"),
        Reason::LimitExceeded => (
            Code::ResourceExhausted,
            "limit",
            "went past a limit on a key, a value, a range, a chunk, or what a command writes",
        ),
        Reason::MalformedReply => (Code::Internal, "malformed-reply", "returned a malformed reply"),
        Reason::OversizedReply => (Code::ResourceExhausted, "oversized-reply", "returned a reply above the limit"),
        Reason::Forbidden => (Code::Internal, "forbidden", "called what is forbidden in this kind of call"),
        Reason::Aborted => (Code::Internal, "aborted", "panicked"),
        Reason::Deadline => (Code::DeadlineExceeded, "deadline", "did not answer in time"),
        Reason::Stream => (Code::Internal, "stream", "read or wrote a broken snapshot stream"),
        Reason::NotRun => (
            Code::ResourceExhausted,
            "not-run",
            "was not called: the log entry had no fuel left for the command; send it again",
        ),
    }
}

/// Returns the status of a command without an outcome.
pub fn command(error: &CommandError) -> Status {
    use CommandError as E;
    let (code, fate) = match error {
        E::NoLeader { .. } | E::Stopping => (Code::Unavailable, Fate::NotApplied),
        E::Unfit(_) => (Code::FailedPrecondition, Fate::NotApplied),
        E::Overloaded(_) | E::TooLarge { .. } => (Code::ResourceExhausted, Fate::NotApplied),
        E::DeadlineBefore => (Code::DeadlineExceeded, Fate::NotApplied),
        E::DeadlineAfter { .. } => (Code::DeadlineExceeded, Fate::Unknown),
        E::Unknown => (Code::Unknown, Fate::Unknown),
    };
    with_fate(host(code, &error.to_string()), fate)
}

/// Returns the status of a query or of a watch step that did not run.
pub fn query(error: &QueryError) -> Status {
    match error {
        QueryError::NotReady(_) => host(Code::Unavailable, &error.to_string()),
        QueryError::Removed(_) => host(Code::FailedPrecondition, &error.to_string()),
        QueryError::Busy => host(Code::ResourceExhausted, &error.to_string()),
        QueryError::Fault(_) => host(Code::Internal, &error.to_string()),
    }
}

/// Returns the status of a query that is still waiting or running at its deadline.
pub fn query_deadline() -> Status {
    host(Code::DeadlineExceeded, "the query was not answered before the deadline")
}

/// Returns the status of a linearizable read that could not learn the index to wait for.
pub fn read(error: &ReadError) -> Status {
    match error {
        ReadError::NoLeader(_) | ReadError::Stopping => host(Code::Unavailable, &error.to_string()),
        ReadError::Overloaded => host(Code::ResourceExhausted, &error.to_string()),
        ReadError::Deadline => host(Code::DeadlineExceeded, &error.to_string()),
    }
}

/// Returns the status of a linearizable read that did not reach the index it had to wait for.
pub fn read_behind(index: u64) -> Status {
    host(Code::DeadlineExceeded, &format!("this node did not apply index {index} before the deadline"))
}

/// Returns the status of a call that did not answer itself by its deadline.
pub fn overdue(kind: Kind, reached: bool) -> Status {
    if !reached {
        let status = host(Code::DeadlineExceeded, "the request did not arrive whole before the deadline");
        return with_fate(status, Fate::NotApplied);
    }
    let status = host(Code::DeadlineExceeded, "no reply before the deadline");
    match kind {
        Kind::Command => with_fate(status, Fate::Unknown),
        Kind::Query | Kind::Watch => status,
    }
}

/// Returns the status of a watch whose deadline has passed. The client set that deadline.
pub fn watch_deadline() -> Status {
    host(Code::DeadlineExceeded, "the watch's deadline has passed")
}

/// Returns the status of open streams when the node stops.
pub fn stopping() -> Status {
    host(Code::Unavailable, "this node is stopping; watch again on another one")
}

/// Returns the status of a watch that exceeds the limit of the node or of one connection.
pub fn too_many_watches(full: Full) -> Status {
    let text = match full {
        Full::Node => format!("{WATCHES_MAX} watches are open on this node, which is its limit; watch on another one"),
        Full::Connection => format!(
            "{WATCHES_PER_CONNECTION_MAX} watches are open on this connection, which is its limit, so that other calls find room on it; \
             open another connection for more"
        ),
    };
    host(Code::ResourceExhausted, &text)
}

/// Returns the status for open streams and waiting reads when the node may no longer serve. Such a
/// node was removed, is in quarantine, or has another guest than its cluster. None for a node that
/// only catches up, since it will serve again by itself.
pub fn out_of_service(mode: &NodeMode) -> Option<Status> {
    match mode {
        NodeMode::Serving | NodeMode::CatchingUp(_) => None,
        NodeMode::Removed(why) => Some(query(&QueryError::Removed(why.clone()))),
        NodeMode::Quarantined(why) | NodeMode::Unfit(why) | NodeMode::Disputed(why) => {
            Some(query(&QueryError::NotReady(why.clone())))
        }
    }
}

/// Returns the status of a stream whose task ended without a result.
pub fn watch_broken() -> Status {
    host(Code::Internal, "this node failed in the watch; what happened is in its log. Watch again")
}

/// Returns the status of a request above the limit.
pub fn request_too_large(limit_bytes: usize) -> Status {
    let text = format!("the request message is larger than {limit_bytes} bytes (decompressed), the limit of this node");
    with_fate(host(Code::ResourceExhausted, &text), Fate::NotApplied)
}

/// Returns the status of a malformed `grpc-timeout`.
pub fn bad_timeout(value: &[u8]) -> Status {
    let text = format!(
        "grpc-timeout {:?} is not one to eight digits and one of H, M, S, m, u, n",
        String::from_utf8_lossy(&value[..value.len().min(32)])
    );
    with_fate(host(Code::InvalidArgument, &text), Fate::NotApplied)
}

/// Returns the status of a method that this node does not serve.
pub fn unimplemented(explanation: &str) -> Status {
    with_fate(host(Code::Unimplemented, explanation), Fate::NotApplied)
}

/// Returns the status of a node without its cluster's component: it has not joined yet, or it may
/// not serve.
pub fn no_component(node: &Addresses, mode: &NodeMode) -> Status {
    let text = match mode {
        NodeMode::Unfit(why) | NodeMode::Quarantined(why) | NodeMode::Disputed(why) | NodeMode::Removed(why) => {
            why.clone()
        }
        NodeMode::Serving | NodeMode::CatchingUp(_) => format!(
            "this node has not joined a cluster yet; add it from the leader with `lockstep admin <leader's grpc address> add_voter \
             {} {}`",
            node.name, node.raft_addr
        ),
    };
    with_fate(host(Code::Unavailable, &text), Fate::NotApplied)
}

/// Adds the leader's client address.
pub fn with_leader(status: Status, leader: Option<String>) -> Status {
    match leader {
        Some(leader) => with(status, LEADER, &leader),
        None => status,
    }
}

fn at(mut status: Status, index: u64, leader: Option<String>) -> Status {
    describe(status.metadata_mut(), index, leader);
    status
}

fn describe(metadata: &mut MetadataMap, index: u64, leader: Option<String>) {
    metadata.insert(INDEX, MetadataValue::from(index));
    if let Some(Ok(leader)) = leader.map(MetadataValue::try_from) {
        metadata.insert(LEADER, leader);
    }
}

fn host(code: Code, message: &str) -> Status {
    with(Status::new(code, cut(message)), ORIGIN, "host")
}

fn with_fate(status: Status, fate: Fate) -> Status {
    with(status, OUTCOME, fate.text())
}

fn with(mut status: Status, key: &'static str, value: &str) -> Status {
    // Addresses and the host's own texts are ASCII. Anything else is left out, because that is
    // better than to fail.
    if let Ok(value) = MetadataValue::try_from(value) {
        status.metadata_mut().insert(key, value);
    }
    status
}

/// Cuts the message to the limit, at a character boundary.
fn cut(message: &str) -> &str {
    &message[..message.floor_char_boundary(STATUS_TEXT_BYTES_MAX)]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::machine::not_run;
    use std::time::Duration;

    fn text<'a>(status: &'a Status, key: &str) -> &'a str {
        status.metadata().get(key).map_or("", |value| value.to_str().unwrap())
    }

    #[test]
    fn a_command_without_an_outcome_says_whether_it_may_have_run() {
        use CommandError as E;
        let waited = Duration::from_secs(3);
        let rows = [
            (E::NoLeader { waited }, Code::Unavailable, "not-applied"),
            (E::Stopping, Code::Unavailable, "not-applied"),
            (E::Unfit("hashes differ".into()), Code::FailedPrecondition, "not-applied"),
            (E::Overloaded("queue".into()), Code::ResourceExhausted, "not-applied"),
            (E::TooLarge { bytes: 9, limit_bytes: 8 }, Code::ResourceExhausted, "not-applied"),
            (E::DeadlineBefore, Code::DeadlineExceeded, "not-applied"),
            (E::DeadlineAfter { term: 4 }, Code::DeadlineExceeded, "unknown"),
            (E::Unknown, Code::Unknown, "unknown"),
        ];
        for (error, code, fate) in rows {
            let status = command(&error);
            assert_eq!((status.code(), text(&status, OUTCOME)), (code, fate), "{error:?}");
            assert_eq!(text(&status, ORIGIN), "host");
            assert!(code != Code::Unavailable || fate == "not-applied", "UNAVAILABLE is retried blindly");
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
        let queries = [
            (QueryError::NotReady("catching up".into()), Code::Unavailable),
            (QueryError::Busy, Code::ResourceExhausted),
            (QueryError::Fault("disk".into()), Code::Internal),
        ];
        for (error, code) in queries {
            assert_eq!(query(&error).code(), code, "{error:?}");
        }
        let reads = [
            (ReadError::NoLeader("none".into()), Code::Unavailable),
            (ReadError::Overloaded, Code::ResourceExhausted),
            (ReadError::Stopping, Code::Unavailable),
            (ReadError::Deadline, Code::DeadlineExceeded),
        ];
        for (error, code) in reads {
            assert_eq!(read(&error).code(), code, "{error:?}");
        }
    }

    #[test]
    fn a_node_that_may_not_serve_says_why() {
        let rows = [
            (NodeMode::Serving, None),
            (NodeMode::CatchingUp("replaying".into()), None),
            (NodeMode::Removed("the cluster removed it".into()), Some(Code::FailedPrecondition)),
            (NodeMode::Quarantined("its state differs".into()), Some(Code::Unavailable)),
            (NodeMode::Unfit("hashes differ".into()), Some(Code::Unavailable)),
        ];
        for (mode, code) in rows {
            let status = out_of_service(&mode);
            assert_eq!(status.as_ref().map(Status::code), code, "{mode:?}");
            assert!(status.is_none_or(|status| status.message().contains(mode.words().1)), "{mode:?}");
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
        assert_eq!(text(&status, ORIGIN), "host");
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
}
