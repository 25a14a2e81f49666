//! The one table from the end of a call to what the client is told: gRPC code, message, and the
//! metadata that programs read. No other file makes a status of a call's end, nor the text of an
//! operation. It decides nothing itself.
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

use std::time::Duration;

use bytes::Bytes;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Response, Status};

use super::operations::Done;
use crate::calls::budget::{Short, Use};
use crate::calls::{CallError, NOT_APPLIED, UNKNOWN, WatchEnd, fate_of};
use crate::guest::{Failure, Limits, Reason, Verdict};
use crate::machine::{Answer, Outcome, QueryError, is_not_run};
use crate::raft::path::read::RoundError;
use crate::raft::{NotProposed, ReadError};
use crate::trust::Refusal;
use lockstep_contract::Kind;

/// Log index of the entry that held the command, or of the state that a query saw. A command that
/// no entry held has none.
pub const INDEX: &str = "lockstep-index";
/// The leader's client address, when one is known.
pub const LEADER: &str = "lockstep-leader";
/// Whether a command without a reply took effect.
pub const OUTCOME: &str = "lockstep-outcome";
/// Who refused the call: `guest` or `host`.
pub const ORIGIN: &str = "lockstep-origin";
/// Which of the enumerated reasons ended the guest's call.
pub const REASON: &str = "lockstep-reason";
/// The [`REASON`] of a command that the read-only mode refused.
const READ_ONLY: &str = "read-only";
/// Milliseconds after which the client may try again, in the words of gRPC's own retries.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Most bytes of a status message. `trailers` limits the size of the whole status as it is sent.
const STATUS_TEXT_BYTES_MAX: usize = 1 << 10;

/// Most bytes of status details.
const DETAILS_BYTES_MAX: usize = 4 << 10;

// A message or details within the profile's limits for the guest are never cut here.
const _: () = {
    assert!(STATUS_TEXT_BYTES_MAX >= Limits::DEFAULT.status_message_bytes_max as usize);
    assert!(DETAILS_BYTES_MAX >= Limits::DEFAULT.status_details_bytes_max as usize);
};

/// Returns the reply to a command, or the status that says why there is none. `leader` returns the
/// leader's client address.
pub fn command(
    result: Result<Outcome, CallError>,
    leader: impl FnOnce() -> Option<String>,
) -> Result<Response<Bytes>, Status> {
    match result {
        Ok(ran) => outcome(ran, leader()),
        // This node was not ready, so the command looked for no leader.
        Err(error @ CallError::Query(_)) => Err(with_fate(ended(&error), error.fate())),
        // No other node would take it either.
        Err(error @ CallError::ReadOnly(_)) => Err(with(with_fate(ended(&error), error.fate()), REASON, READ_ONLY)),
        Err(error) => Err(with_leader(with_fate(ended(&error), error.fate()), leader())),
    }
}

/// Returns the reply to a query, or the status that says why there is none. `leader` returns the
/// leader's client address.
pub fn query(
    result: Result<Answer, CallError>,
    leader: impl FnOnce() -> Option<String>,
) -> Result<Response<Bytes>, Status> {
    let answer = result.map_err(|error| ended(&error))?;
    verdict(answer.verdict, answer.index, leader())
}

/// Returns the status that ends a stream.
pub fn watch(end: WatchEnd) -> Status {
    match end {
        WatchEnd::Refused { refusal, index } => watch_refused(refusal, index),
        WatchEnd::Failed { failure, index } => watch_failed(&failure, index),
        WatchEnd::Host(error) => ended(&error),
    }
}

/// Returns how an operation of RaftManager ended.
pub(super) fn operation(result: Result<u64, CallError>) -> Done {
    result.map_err(|error| error.to_string()).into()
}

/// Returns how the command of an ApplyLog ended.
pub(super) fn applied_log(result: Result<Outcome, CallError>) -> Done {
    match result {
        Ok(ran) => {
            let index = ran.index;
            let error = match outcome(ran, None) {
                Ok(_) => String::new(),
                Err(status) => format!("{:?}: {}", status.code(), status.message()),
            };
            Done { index, error }
        }
        Err(error) => operation(Err(error)),
    }
}

fn outcome(outcome: Outcome, leader: Option<String>) -> Result<Response<Bytes>, Status> {
    let (not_run, fate) = (is_not_run(&outcome.verdict), fate_of(&outcome));
    verdict(outcome.verdict, outcome.index, leader).map_err(|status| {
        let status = with_fate(status, fate);
        if not_run { with(status, ORIGIN, "host") } else { status }
    })
}

/// Returns the reply of a guest, or the status that says why there is none.
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
            "was not called: the log entry had no fuel left for the command, or no room for its reply, or large replies of this \
             client were to come first; send it again",
        ),
    }
}

/// Returns the code of a call that ended without a word of the guest.
fn code(error: &CallError) -> Code {
    use CallError as E;
    match error {
        E::NotProposed(NotProposed::NotLeader | NotProposed::Stopping)
        | E::NoLeader { .. }
        | E::NoComponent(_)
        | E::Query(QueryError::NotReady(_))
        | E::Read(ReadError::NoLeader(_) | ReadError::Stopping)
        | E::WatchStopping
        | E::LeadershipLost
        | E::LogTime(RoundError::Failed(_)) => Code::Unavailable,
        E::NotProposed(NotProposed::Overloaded(_) | NotProposed::TooLarge { .. })
        | E::Query(QueryError::Busy)
        | E::Read(ReadError::Overloaded)
        | E::TooManyWatches(_)
        | E::NoMemory(_)
        | E::WatchStarved { .. }
        | E::WatchStepTooLarge { .. } => Code::ResourceExhausted,
        E::NotProposed(NotProposed::Removed { .. } | NotProposed::CallerUnproven)
        | E::OutOfService(_)
        | E::ReadOnly(_)
        | E::Query(QueryError::Removed(_))
        | E::NotLeader(_)
        | E::LogTime(RoundError::NotLeader) => Code::FailedPrecondition,
        E::NotProposed(NotProposed::Expired)
        | E::DeadlineAfter { .. }
        | E::Read(ReadError::Deadline)
        | E::ReadBehind { .. }
        | E::QueryDeadline
        | E::WatchDeadline
        | E::BarrierBehind { .. } => Code::DeadlineExceeded,
        E::Unknown | E::LogTime(RoundError::NoQuorum) => Code::Unknown,
        E::Query(QueryError::Fault(_)) | E::WatchBroken => Code::Internal,
    }
}

/// Returns the status of a call that is no command and ended without a word of the guest.
pub fn ended(error: &CallError) -> Status {
    host(code(error), &error.to_string())
}

/// Returns the status of a call that ended before its method was known, so it may have been a
/// command.
pub fn unrouted(error: &CallError) -> Status {
    with_fate(ended(error), error.fate())
}

/// Returns the status of an operator's call, without the metadata of the guest's methods.
pub fn unmarked(error: &CallError) -> Status {
    Status::new(code(error), error.to_string())
}

/// Returns the status of a call that did not answer itself by its deadline.
pub fn overdue(kind: Kind, reached: bool) -> Status {
    if !reached {
        let status = host(Code::DeadlineExceeded, "the request did not arrive whole before the deadline");
        return with_fate(status, NOT_APPLIED);
    }
    let status = host(Code::DeadlineExceeded, "no reply before the deadline");
    match kind {
        Kind::Command => with_fate(status, UNKNOWN),
        Kind::Query | Kind::Watch => status,
    }
}

/// Returns the status of a request above the limit.
pub fn request_too_large(limit_bytes: usize) -> Status {
    let text = format!("the request message is larger than {limit_bytes} bytes (decompressed), the limit of this node");
    with_fate(host(Code::ResourceExhausted, &text), NOT_APPLIED)
}

/// Returns the status of a watch whose request has too many bytes to be kept.
pub fn watch_too_large(limit_bytes: usize) -> Status {
    let text = format!(
        "the request of a watch may have {limit_bytes} bytes in the fields that its message declares, because the node keeps them; \
         ask for less, or open more watches"
    );
    host(Code::ResourceExhausted, &text)
}

/// Returns the status of a call that would make this node hold too much. The call may have been a
/// command, and did not run.
pub fn no_memory(short: Short) -> Status {
    unrouted(&short.into())
}

/// Returns the status of a request that did not arrive within `limit`.
pub fn too_slow(limit: Duration) -> Status {
    let text = format!("the request did not arrive whole within {limit:?}, the time that it may take");
    with_fate(host(Code::DeadlineExceeded, &text), NOT_APPLIED)
}

/// Returns the status of a request of which hardly anything came for `patience`.
pub fn drips(patience: Duration) -> Status {
    let text = format!(
        "less than 40 KiB of the request arrived in {patience:?}, and it is not whole; the call was refused, and nothing was applied. \
         Make the request before you call, and send it without breaks"
    );
    with_fate(host(Code::ResourceExhausted, &text), NOT_APPLIED)
}

/// Returns the status of a compressed request that cannot be read.
pub fn bad_compression(error: &std::io::Error) -> Status {
    with_fate(host(Code::Internal, &format!("the request cannot be decompressed: {error}")), NOT_APPLIED)
}

/// Returns the status of a call whose reply was hardly taken while this node was short of memory. A
/// command was applied, and its client can not know that.
pub fn not_taken(patience: Duration, of: Use) -> Status {
    let text = format!(
        "less than 64 KiB of the reply was taken in {patience:?} while this node was short of memory for its clients (--client_memory), so the \
         call was ended; take replies as they come, and call again"
    );
    let status = host(Code::ResourceExhausted, &text);
    match of {
        Use::Call => with_fate(status, UNKNOWN),
        Use::Watch => status,
    }
}

/// Ends a stream of the host's own of which nobody takes anything.
pub fn stream_not_taken(patience: Duration) -> Status {
    let text = format!(
        "less than 64 KiB of what this stream has to say was taken in {patience:?}, so it was ended; take replies as they come"
    );
    host(Code::ResourceExhausted, &text)
}

/// Returns whether the host says why in this response, and not the gRPC library.
pub fn is_hosts<T>(response: &http::Response<T>) -> bool {
    response.headers().contains_key(ORIGIN)
}

/// Returns the status of a malformed `grpc-timeout`.
pub fn bad_timeout(value: &[u8]) -> Status {
    let text = format!(
        "grpc-timeout {:?} is not one to eight digits and one of H, M, S, m, u, n",
        String::from_utf8_lossy(&value[..value.len().min(32)])
    );
    with_fate(host(Code::InvalidArgument, &text), NOT_APPLIED)
}

/// Returns the status of a method that this node does not serve.
pub fn unimplemented(explanation: &str) -> Status {
    with_fate(host(Code::Unimplemented, explanation), NOT_APPLIED)
}

/// Returns the status of a call that reached a machine which has no such method any more: the
/// cluster has changed its component meanwhile. A command has an index, that of its entry.
pub fn gone(method: &str, component: &str, command: Option<&Outcome>) -> Status {
    let now = format!("the cluster runs component {component} now");
    match command {
        Some(outcome) => {
            let (index, fate) = (outcome.index, fate_of(outcome));
            let text = format!("{now}, which has no command {method}; this one changed nothing at index {index}");
            at(with_fate(host(Code::Unimplemented, &text), fate), index, None)
        }
        None => host(Code::Unimplemented, &format!("{now}, which has no query {method}")),
    }
}

/// Returns the status of an operator's call for which this node has no place.
pub(super) fn no_place(text: &str) -> Status {
    with_fate(host(Code::ResourceExhausted, text), NOT_APPLIED)
}

/// Returns the status of a call that a mistake of this node ended.
pub(super) fn panicked() -> Status {
    let text = "a mistake in this node ended the call, and it may have taken effect; the node's log says more";
    with_fate(host(Code::Internal, text), UNKNOWN)
}

/// Returns the status of a call that its caller may not make. No service has seen the call.
pub(super) fn not_allowed(refusal: &Refusal) -> Status {
    let status = with_fate(host(refusal_code(refusal.reason), &refusal.text), NOT_APPLIED);
    match refusal.retry_after {
        Some(wait) => with(status, PUSHBACK, &wait.as_millis().to_string()),
        None => status,
    }
}

/// Returns the code of a call that its caller may not make.
pub(super) fn refusal_code(reason: crate::trust::Reason) -> Code {
    match reason {
        crate::trust::Reason::Unauthenticated => Code::Unauthenticated,
        crate::trust::Reason::Denied => Code::PermissionDenied,
        crate::trust::Reason::Quota => Code::ResourceExhausted,
    }
}

fn with_leader(status: Status, leader: Option<String>) -> Status {
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
    if index > 0 {
        metadata.insert(INDEX, MetadataValue::from(index));
    }
    if let Some(Ok(leader)) = leader.map(MetadataValue::try_from) {
        metadata.insert(LEADER, leader);
    }
}

fn host(code: Code, message: &str) -> Status {
    with(Status::new(code, cut(message)), ORIGIN, "host")
}

fn with_fate(status: Status, fate: &'static str) -> Status {
    with(status, OUTCOME, fate)
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
#[path = "status_tests.rs"]
mod tests;
