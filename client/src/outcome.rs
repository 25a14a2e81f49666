//! Reads what a node says about a call beside the reply: the outcome of a command, the log index,
//! the leader. Decides nothing.

use http::HeaderMap;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

const INDEX: &str = "lockstep-index";
const LEADER: &str = "lockstep-leader";
const ORIGIN: &str = "lockstep-origin";
const OUTCOME: &str = "lockstep-outcome";
const REASON: &str = "lockstep-reason";

/// Whether a command that got no reply took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command did not run and will not run. It is safe to send it again.
    NotApplied,
    /// The command may have run, or may run later.
    Unknown,
    /// The command is in the log. The guest refused it or failed, so its writes were undone.
    /// Sending it again runs it again.
    Applied,
}

/// Returns what became of the command that ended with `status`. A status without the metadata
/// `lockstep-outcome` was not made by a node, usually because a connection broke: its outcome is
/// unknown. The statuses of queries have no outcome either.
pub fn outcome(status: &Status) -> Outcome {
    match text(status.metadata(), OUTCOME) {
        Some("not-applied") => Outcome::NotApplied,
        Some("applied") => Outcome::Applied,
        _ => Outcome::Unknown,
    }
}

/// Returns the log index in the metadata of a response or a status: that of the entry with the
/// command, or that of the state which a query saw.
pub fn index(metadata: &MetadataMap) -> Option<u64> {
    text(metadata, INDEX)?.parse().ok()
}

/// Returns the client address of the leader in the metadata of a response or a status.
pub fn leader(metadata: &MetadataMap) -> Option<&str> {
    text(metadata, LEADER)
}

fn text<'a>(metadata: &'a MetadataMap, name: &str) -> Option<&'a str> {
    metadata.get(name)?.to_str().ok()
}

/// What is to be done with a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    /// It is the caller's: a reply, or an error that another attempt would not change.
    Final,
    /// The node certainly did not run the call, and may run the next one.
    Again,
    /// The node certainly did not run the call, and will not run the next one either; another node
    /// may.
    Elsewhere,
}

/// Judges a response by its head. A node answers a failed unary call in the head alone, so that is
/// enough for every call whose reply has not begun.
pub(crate) fn judge(head: &HeaderMap) -> Judged {
    let value = |name: &str| head.get(name).and_then(|value| value.to_str().ok());
    let Some(code) = value("grpc-status").and_then(|code| code.parse().ok()).map(Code::from_i32) else {
        return Judged::Final;
    };
    let by_node = value(ORIGIN) == Some("host");
    let not_applied = value(OUTCOME) == Some("not-applied");
    let undone = value(OUTCOME).is_some() && !not_applied;
    match code {
        _ if undone => Judged::Final,
        Code::Unavailable if by_node || not_applied => Judged::Again,
        Code::FailedPrecondition if value(REASON) == Some("read-only") => Judged::Final,
        Code::FailedPrecondition if by_node || not_applied => Judged::Elsewhere,
        Code::ResourceExhausted if not_applied && value(REASON) == Some("not-run") => Judged::Again,
        _ => Judged::Final,
    }
}

/// The leader that a response names.
pub(crate) fn leader_of(head: &HeaderMap) -> Option<String> {
    head.get(LEADER)?.to_str().ok().and_then(crate::addresses::one)
}

/// A status of this client's own, for a call whose outcome it knows.
pub(crate) fn with_outcome(mut status: Status, outcome: Outcome) -> Status {
    let text = match outcome {
        Outcome::NotApplied => "not-applied",
        Outcome::Unknown => "unknown",
        Outcome::Applied => "applied",
    };
    status.metadata_mut().insert(OUTCOME, tonic::metadata::MetadataValue::from_static(text));
    status
}

/// Makes a response that says "not applied" say "unknown": an earlier attempt may have run.
pub(crate) fn doubted<B>(mut response: http::Response<B>) -> http::Response<B> {
    if response.headers().get(OUTCOME).is_some_and(|outcome| outcome == "not-applied") {
        response.headers_mut().insert(OUTCOME, http::HeaderValue::from_static("unknown"));
    }
    response
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn judged(code: Code, metadata: &[(&'static str, &'static str)]) -> Judged {
        let mut head = HeaderMap::new();
        head.insert("grpc-status", (code as i32).into());
        for (name, value) in metadata {
            head.insert(*name, value.parse().unwrap());
        }
        judge(&head)
    }

    #[test]
    fn only_what_certainly_did_not_run_is_sent_again() {
        let host = (ORIGIN, "host");
        let not_applied = (OUTCOME, "not-applied");
        assert_eq!(judge(&HeaderMap::new()), Judged::Final, "a reply");
        assert_eq!(judged(Code::Unavailable, &[host, not_applied]), Judged::Again);
        assert_eq!(judged(Code::Unavailable, &[host]), Judged::Again, "a query");
        assert_eq!(judged(Code::Unavailable, &[]), Judged::Final, "a proxy's");
        assert_eq!(judged(Code::Unavailable, &[(ORIGIN, "guest"), (OUTCOME, "applied")]), Judged::Final, "the guest's");
        assert_eq!(judged(Code::Unavailable, &[host, (OUTCOME, "unknown")]), Judged::Final);
        assert_eq!(judged(Code::FailedPrecondition, &[host, not_applied]), Judged::Elsewhere, "an unfit node");
        let read_only = (REASON, "read-only");
        assert_eq!(judged(Code::FailedPrecondition, &[host, not_applied, read_only]), Judged::Final, "on every node");
        assert_eq!(judged(Code::FailedPrecondition, &[(ORIGIN, "guest"), (OUTCOME, "applied")]), Judged::Final);
        assert_eq!(judged(Code::ResourceExhausted, &[host, not_applied, (REASON, "not-run")]), Judged::Again);
        assert_eq!(judged(Code::ResourceExhausted, &[host, not_applied]), Judged::Final, "too large, or overloaded");
        assert_eq!(judged(Code::DeadlineExceeded, &[host, not_applied]), Judged::Final);
        for code in [Code::Unauthenticated, Code::PermissionDenied] {
            assert_eq!(judged(code, &[host, not_applied]), Judged::Final, "another node knows the client no better");
        }
    }

    #[test]
    fn what_may_have_run_is_not_called_unapplied() {
        for (said, told) in [("not-applied", "unknown"), ("applied", "applied"), ("unknown", "unknown")] {
            let mut response = http::Response::new(());
            response.headers_mut().insert(OUTCOME, said.parse().unwrap());
            assert_eq!(doubted(response).headers()[OUTCOME], told);
        }
        assert!(doubted(http::Response::new(())).headers().is_empty());
    }

    #[test]
    fn statuses_without_an_outcome_are_unknown() {
        let status = Status::unavailable("the connection broke");
        assert_eq!(outcome(&status), Outcome::Unknown);
        for known in [Outcome::NotApplied, Outcome::Unknown, Outcome::Applied] {
            assert_eq!(outcome(&with_outcome(status.clone(), known)), known);
        }
        let mut metadata = MetadataMap::new();
        metadata.insert(INDEX, "17".parse().unwrap());
        metadata.insert(LEADER, "localhost:20051".parse().unwrap());
        assert_eq!((index(&metadata), leader(&metadata)), (Some(17), Some("localhost:20051")));
    }
}
