//! One attempt of a call at one node: connects if need be, sends, and waits for the head of the
//! answer. Says what became of an attempt that got none. Never sends anything twice.

use std::time::Duration;

use http::header::AUTHORIZATION;
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tonic::{Code, Status};
use tower_service::Service;

use crate::Options;
use crate::addresses::is_this_machine;
use crate::connecting::{causes, chain};
use crate::nodes::{Connection, Nodes};
use crate::outcome::{Outcome, with_outcome};
use crate::refused::{is_late_refusal, is_refusal};

/// How much longer than the deadline a node's own answer is waited for, when the call names no
/// deadline to the node. Otherwise the channel ends the call at that deadline.
const GRACE: Duration = Duration::from_millis(500);

/// Why no node answered a call. It is the source of a status that the client made itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unanswered {
    /// No connection could be made. The call was not sent.
    #[error("no connection could be made")]
    Unreachable,
    /// One side refused the other's certificate, does not speak TLS, or there is no token. The call
    /// did not run.
    #[error("the connection or the call was not allowed")]
    Refused,
    /// The connection broke before the answer. The call may have run.
    #[error("the connection broke before the answer")]
    Broken,
    /// The node had the call at the deadline and had not answered. The call may have run.
    #[error("no answer came before the deadline")]
    Late,
}

/// Returns why no node answered the call that ended with `status`. `None` when the status is a
/// node's own, when the client refused to send the request (it is too large, or could not be read),
/// and when a stream broke after its answer had begun.
pub fn unanswered(status: &Status) -> Option<Unanswered> {
    std::error::Error::source(status)?.downcast_ref().copied()
}

/// An attempt without an answer, and what happened, in words.
pub(crate) struct Failed {
    pub(crate) why: Unanswered,
    pub(crate) words: String,
}

impl Failed {
    /// Returns the status with which a call ends whose only attempt this was.
    pub(crate) fn status(self) -> Status {
        let (code, outcome) = match self.why {
            Unanswered::Unreachable => (Code::Unavailable, Outcome::NotApplied),
            Unanswered::Refused => (Code::Unauthenticated, Outcome::NotApplied),
            Unanswered::Broken => (Code::Unknown, Outcome::Unknown),
            Unanswered::Late => (Code::DeadlineExceeded, Outcome::Unknown),
        };
        own(code, self.words, outcome, self.why)
    }
}

/// A status of the client's own.
pub(crate) fn own(code: Code, words: String, outcome: Outcome, why: Unanswered) -> Status {
    let mut status = with_outcome(Status::new(code, words), outcome);
    status.set_source(std::sync::Arc::new(why));
    status
}

/// Sends the request to the node at `address`, and returns its answer as it is. A connection that
/// broke is dropped.
pub(crate) async fn attempt(
    nodes: &Nodes,
    address: &str,
    mut request: http::Request<Body>,
    deadline: Instant,
    options: &Options,
) -> Result<http::Response<Body>, Failed> {
    let unreachable = |words| Failed { why: Unanswered::Unreachable, words };
    let refused = |error: &(dyn std::error::Error + 'static), broken: Option<u64>| {
        nodes.failed(address, broken);
        let words = chain(error);
        match is_refusal(&words) || causes(error).any(|cause| cause.is::<crate::TlsError>()) {
            true => Failed { why: Unanswered::Refused, words: format!("{address} is not spoken to: {words}") },
            false => unreachable(format!("{address} cannot be reached: {words}")),
        }
    };
    show_token(&mut request, address, options).map_err(|words| Failed { why: Unanswered::Refused, words })?;
    let Connection { mut channel, number } = match timeout_at(deadline, nodes.connection(address)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return Err(refused(&*error, None)),
        Err(_) => {
            nodes.pass_over(address);
            return Err(unreachable(format!("{address} did not take a connection in time")));
        }
    };
    let sent = async {
        std::future::poll_fn(|context| channel.poll_ready(context)).await?;
        channel.call(request).await
    };
    match timeout_at(deadline + GRACE, sent).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) if causes(&error).any(|cause| cause.is::<tonic::ConnectError>()) => {
            Err(refused(&error, Some(number)))
        }
        // With TLS 1.3 the node refuses a certificate after this side has begun to speak, and plain
        // text at any time. It has read nothing of the call.
        Ok(Err(error)) if is_late_refusal(&chain(&error)) => Err(refused(&error, Some(number))),
        Ok(Err(error)) if !causes(&error).any(|cause| cause.is::<tonic::TimeoutExpired>()) => {
            nodes.failed(address, Some(number));
            let words = format!("the connection to {address} broke during the call: {}", chain(&error));
            Err(Failed { why: Unanswered::Broken, words })
        }
        // The connection may be sound, so it is kept.
        Ok(Err(_)) | Err(_) => {
            nodes.pass_over(address);
            let words = format!("{address} did not answer before the deadline");
            Err(Failed { why: Unanswered::Late, words })
        }
    }
}

/// Adds the token to a request that has no credentials of its own.
fn show_token(request: &mut http::Request<Body>, address: &str, options: &Options) -> Result<(), String> {
    let Some(token) = &options.token else { return Ok(()) };
    if request.headers().contains_key(AUTHORIZATION) {
        return Ok(());
    }
    if options.tls.is_none() && !options.token_without_tls && !is_this_machine(address) {
        return Err(format!("the token is not sent to {address}, because the connection is not encrypted"));
    }
    let value = token.header().map_err(|error| chain(&error))?;
    request.headers_mut().insert(AUTHORIZATION, value);
    Ok(())
}
