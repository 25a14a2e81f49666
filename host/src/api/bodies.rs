//! Counts the bytes that the bodies of calls make this node hold: the headers and the request as it
//! arrives and is decompressed, and the response until it is written. Every call of the client port
//! passes here, whatever its service. It decides no call; `calls/budget` says how much there may
//! be.
//!
//! ```text
//! request  ──► incoming (counted as it arrives, in time) ──► inflating (gzip, in steps) ──► router
//! response ◄── outgoing (counted until it is written, in pieces) ◄──────────────────────── router
//!                └─ ended when nobody takes it and the node is short of memory
//! ```
//!
//! A plain unary call of the guest passes `incoming` and `outgoing` alone, without a box (`face`).

mod incoming;
mod inflating;
mod outgoing;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tonic::Status;

use super::status;
use super::wire::parse_timeout;
use crate::calls::budget::{Budget, Lease, Share, Use};
use crate::calls::{Connection, DEADLINE_DEFAULT};
use crate::limit::Limit;
use incoming::Shape;
use outgoing::{Keeps, Unread};

pub(super) use incoming::{Incoming, PREFIX_BYTES};
pub(super) use outgoing::Outgoing;

/// Bytes that a call takes beside its messages: its task, and the buffers of its bodies.
const CALL_BYTES: u64 = 8 << 10;

/// Bytes that HTTP/2 counts for each header beside its name and value.
const HEADER_OVERHEAD_BYTES: usize = 32;

/// Longest time that a request may take, however late its deadline.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// How long after its deadline a request that has not arrived is refused here. The guest's methods
/// answer before that themselves.
const GRACE: Duration = Duration::from_secs(1);

/// Longest time that hardly anything of a request may arrive. And the longest time that hardly
/// anything of a response may be taken, while the node is short of memory.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of a request that must arrive in [`PATIENCE`], or the rest of it. That is 4 KiB a second,
/// less than any link has that carries calls. A request that is slower holds its place and its
/// bytes for next to nothing.
const PACE_BYTES: usize = 40 << 10;

/// Longest time that hardly anything is taken of a stream of the host's own that may stay open for
/// ever. While nobody takes what reflection answers, it reads no further question, and what the
/// client has sent stays in the connection.
const STREAM_PATIENCE: Duration = Duration::from_secs(60);

/// Time between two looks for responses that nobody takes, while the node is short of memory.
const LOOK: Duration = Duration::from_secs(1);

/// Time between two looks for streams that nobody takes.
const STREAM_LOOK: Duration = Duration::from_secs(10);

/// Most messages that are decompressed at a time. The others wait in order, so that they take turns
/// with all other work.
const INFLATING_MAX: usize = 2;

/// The bodies of one node. Cheap to clone.
#[derive(Clone)]
pub(super) struct Bodies {
    unread: Unread,
    inflating: Arc<Semaphore>,
}

/// The bytes of one call's request. They are given back when the last copy is dropped.
pub(super) type Held = Arc<Mutex<Lease>>;

impl Bodies {
    pub(super) fn new() -> Bodies {
        Bodies { unread: Unread::default(), inflating: Arc::new(Semaphore::new(INFLATING_MAX)) }
    }

    /// Returns the request with a body that is counted, and what holds its bytes while the call
    /// runs. An error has the body, and the status of a call for which there is no memory.
    pub(super) fn received(&self, request: Request<Body>) -> Result<(Request<Body>, Held), (Body, Status)> {
        let (parts, body) = request.into_parts();
        let share = parts.extensions.get::<Connection>().cloned().unwrap_or_default();
        let of = if stays_open(parts.uri.path()) { Use::Watch } else { Use::Call };
        let lease = share.share().lease(of, CALL_BYTES + bytes_of(&parts.headers));
        let held = match lease {
            Ok(lease) => Arc::new(Mutex::new(lease)),
            Err(short) => return Err((body, status::no_memory(short))),
        };
        let limit = limit_of(&parts.headers);
        let shape = if is_streaming(parts.uri.path()) { Shape::Stream } else { Shape::Unary };
        let incoming = Incoming::new(body, held.clone(), limit + GRACE, shape);
        let body = match is_gzip(&parts.headers) {
            true => inflating::inflated(incoming, held.clone(), self.inflating.clone()),
            false => Body::new(incoming),
        };
        Ok((Request::from_parts(parts, body), held))
    }

    /// Returns the response with a body that is counted until it is written. It has what was held
    /// for the request, except that of a watch, which counts what it keeps itself.
    pub(super) fn sent(&self, response: Response<Body>, connection: &Connection, held: Held) -> Response<Body> {
        let of = response.extensions().get::<Use>().copied().unwrap_or(Use::Call);
        // A watch of the guest says itself that it is one. Its next step waits for its client.
        let patience = (of == Use::Call && held.lock().held_for() == Use::Watch).then_some(STREAM_PATIENCE);
        let held = (of == Use::Call).then_some(held);
        response.map(|body| self.unread.add(body, connection.share().clone(), of, Keeps { held, patience }))
    }

    /// Returns the body of a response that is whole: its bytes, and the trailers behind them. Like
    /// any other, it is counted until it is written. `lease` has all that its call holds.
    pub(super) fn whole(&self, bytes: Bytes, trailers: HeaderMap, lease: Lease) -> Outgoing {
        self.unread.add_whole(bytes, trailers, lease)
    }

    /// Ends responses that nobody takes, while the node is short of memory. The oldest end first,
    /// and no more than it takes.
    pub(super) async fn keep_room(self, budget: Budget) {
        loop {
            budget.short().await;
            let ended = self.unread.end_the_longest_unread(PATIENCE);
            if ended > 0 {
                tracing::warn!(ended, "calls were ended: their clients took hardly anything while memory was short");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends streams of the host's own of which nobody takes anything, whether or not memory is
    /// short.
    pub(super) async fn end_unread_streams(self) {
        loop {
            tokio::time::sleep(STREAM_LOOK).await;
            let ended = self.unread.end_the_impatient();
            if ended > 0 {
                tracing::info!(ended, "streams were ended: their clients took hardly anything of them");
            }
        }
    }

    /// Returns how many messages are being decompressed, of how many.
    pub(super) fn limit(&self) -> Limit {
        Limit::new("inflating_messages", INFLATING_MAX - self.inflating.available_permits(), INFLATING_MAX)
    }

    /// Returns the number of responses that were ended since the process started.
    pub(super) fn ended(&self) -> u64 {
        self.unread.ended()
    }
}

/// Returns the body of a guest's unary request as it is counted, and what holds its bytes while the
/// call runs. An error has the body, and the status of a call for which there is no memory.
pub(super) fn unary<B>(body: B, headers: &HeaderMap, share: &Share) -> Result<(Incoming<B>, Held), (B, Status)> {
    let held = match share.lease(Use::Call, CALL_BYTES + bytes_of(headers)) {
        Ok(lease) => Arc::new(Mutex::new(lease)),
        Err(short) => return Err((body, status::no_memory(short))),
    };
    let incoming = Incoming::new(body, held.clone(), limit_of(headers) + GRACE, Shape::Unary);
    Ok((incoming, held))
}

/// Takes all bytes that are held into one lease.
pub(super) fn taken(held: &Held) -> Lease {
    let mut held = held.lock();
    let bytes = held.bytes();
    held.split(bytes)
}

/// Returns the bytes of headers as HTTP/2 counts them.
fn bytes_of(headers: &HeaderMap) -> u64 {
    let each = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        name.as_str().len() + value.len() + HEADER_OVERHEAD_BYTES
    };
    headers.iter().map(each).sum::<usize>() as u64
}

/// Returns the time in which the request must arrive.
fn limit_of(headers: &HeaderMap) -> Duration {
    let timeout = headers.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(parse_timeout);
    timeout.unwrap_or(DEADLINE_DEFAULT).min(LONGEST)
}

fn is_gzip(headers: &HeaderMap) -> bool {
    headers.get("grpc-encoding").is_some_and(|encoding| encoding == "gzip")
}

/// Returns whether clients of this method send one message after the other.
fn is_streaming(path: &str) -> bool {
    is_reflection(path) || matches!(path, "/lockstep.v1.Admin/ImportRows" | "/lockstep.v1.Admin/PutComponent")
}

fn is_reflection(path: &str) -> bool {
    path.starts_with("/grpc.reflection.")
}

/// Returns whether a call of the host's own services may stay open for ever. It counts among the
/// watches, so that such calls alone never keep others out.
fn stays_open(path: &str) -> bool {
    is_reflection(path) || path == "/grpc.health.v1.Health/Watch"
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "bodies_tests.rs"]
mod tests;
