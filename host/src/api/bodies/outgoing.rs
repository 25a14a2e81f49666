//! The body of a response until it is written: counts its bytes, hands them on in pieces, and can
//! be ended from outside when nobody takes it. It reads no message.
//!
//! The transport asks for the next piece when the client has taken most of the last. A response for
//! which it hardly asks is unread.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use bytes::Buf;
use http::HeaderMap;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Held;
use crate::api::status;
use crate::calls::budget::{Lease, Share, Use};
use crate::net::Frame;

/// Most bytes that the transport gets at a time: one frame of HTTP/2. What it has, nobody can take
/// back while the connection is open.
const PIECE_BYTES: usize = 16 << 10;

/// Bytes that a client takes at least within the patience of this node. Who takes less only keeps
/// the rest in memory.
const TAKEN_BYTES_MIN: usize = 64 << 10;

/// The responses that are not written yet. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Unread(Arc<Table>);

#[derive(Default)]
struct Table {
    responses: Mutex<Responses>,
    ended: AtomicU64,
}

#[derive(Default)]
struct Responses {
    next: u64,
    /// By number, so the oldest is the first.
    open: BTreeMap<u64, Arc<Response>>,
}

struct Response {
    share: Share,
    of: Use,
    state: Mutex<State>,
}

struct State {
    /// What makes the response. `None` when it is over.
    body: Option<Body>,
    /// Bytes that it made, and that the transport did not get yet.
    rest: Bytes,
    lease: Lease,
    /// What the call holds beside its response.
    held: Option<Held>,
    /// The end that replaces what was not read.
    end: Option<HeaderMap>,
    /// Since when the client has taken `taken` bytes. It begins anew when the client has taken all
    /// that there was, or [`TAKEN_BYTES_MIN`].
    since: Instant,
    taken: usize,
    /// Whether the transport waits for the next piece.
    is_awaited: bool,
}

/// A response's body.
struct Outgoing {
    unread: Unread,
    number: u64,
    response: Arc<Response>,
}

impl Unread {
    /// Returns the body as it is to be sent.
    pub(super) fn add(&self, body: Body, share: Share, of: Use, held: Option<Held>) -> Body {
        if body.is_end_stream() {
            return body;
        }
        let state = State {
            body: Some(body),
            rest: Bytes::new(),
            lease: share.force(of, 0),
            held,
            end: None,
            since: Instant::now(),
            taken: 0,
            is_awaited: false,
        };
        let response = Arc::new(Response { share, of, state: Mutex::new(state) });
        let mut responses = self.0.responses.lock();
        let number = responses.next;
        responses.next += 1;
        responses.open.insert(number, response.clone());
        drop(responses);
        Body::new(Outgoing { unread: self.clone(), number, response })
    }

    /// Ends responses of which the client has taken less than [`TAKEN_BYTES_MIN`] in `patience`, as
    /// long as their connection, or the node, holds nearly as much as it may. Returns how many.
    pub(super) fn end_the_longest_unread(&self, patience: Duration) -> u64 {
        let now = Instant::now();
        let mut unread: Vec<(Instant, Arc<Response>)> = self
            .open()
            .into_iter()
            .filter_map(|response| Some((response.unread_since(now, patience)?, response)))
            .collect();
        unread.sort_by_key(|(since, _)| *since);
        let mut ended = 0;
        for (_, response) in unread {
            if response.share.is_nearly_used_up() {
                ended += u64::from(response.end(now, patience));
            }
        }
        self.0.ended.fetch_add(ended, Relaxed);
        ended
    }

    pub(super) fn ended(&self) -> u64 {
        self.0.ended.load(Relaxed)
    }

    fn open(&self) -> Vec<Arc<Response>> {
        self.0.responses.lock().open.values().cloned().collect()
    }
}

impl Response {
    /// Returns since when too little was taken, if that is at least `patience`.
    fn unread_since(&self, now: Instant, patience: Duration) -> Option<Instant> {
        self.state.lock().unread_since(now, patience)
    }

    /// Drops what was not read, and leaves a status in its place. Returns false if enough is taken
    /// meanwhile.
    fn end(&self, now: Instant, patience: Duration) -> bool {
        let mut trailers = HeaderMap::new();
        if status::not_taken(patience, self.of).add_header(&mut trailers).is_err() {
            return false;
        }
        let mut state = self.state.lock();
        if state.unread_since(now, patience).is_none() {
            return false;
        }
        state.end = Some(trailers);
        let bytes = state.lease.bytes();
        let unread = (state.body.take(), state.held.take(), std::mem::take(&mut state.rest), state.lease.split(bytes));
        drop(state);
        // Not under the lock: the body may wake others.
        drop(unread);
        true
    }
}

impl State {
    fn unread_since(&self, now: Instant, patience: Duration) -> Option<Instant> {
        let is_unread = !self.is_awaited && self.body.is_some() && now.duration_since(self.since) >= patience;
        is_unread.then_some(self.since)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.is_awaited {
            self.begin_anew();
        }
        self.is_awaited = true;
        let frame = ready!(self.next(cx));
        self.is_awaited = false;
        if let Some(Ok(frame)) = &frame {
            self.taken += frame.data_ref().map_or(0, Bytes::len);
        }
        if self.taken >= TAKEN_BYTES_MIN {
            self.begin_anew();
        }
        Poll::Ready(frame)
    }

    fn begin_anew(&mut self) {
        (self.since, self.taken) = (Instant::now(), 0);
    }

    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        loop {
            if let Some(trailers) = self.end.take() {
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            if !self.rest.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(self.piece()))));
            }
            let Some(body) = &mut self.body else { return Poll::Ready(None) };
            let Some(frame) = ready!(Pin::new(body).poll_frame(cx)).transpose()? else {
                self.body = None;
                return Poll::Ready(None);
            };
            match frame.into_data() {
                Ok(data) => {
                    self.lease.grow_by_force(data.len() as u64);
                    self.rest = data;
                }
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            }
        }
    }

    /// Takes the next piece. It is a copy, unless it is all there is: a part of a large reply would
    /// keep the whole.
    fn piece(&mut self) -> Bytes {
        let piece = match self.rest.len() {
            0..=PIECE_BYTES => std::mem::take(&mut self.rest),
            _ => {
                let piece = Bytes::copy_from_slice(&self.rest[..PIECE_BYTES]);
                self.rest.advance(PIECE_BYTES);
                piece
            }
        };
        self.lease.split(piece.len() as u64).tied_to(piece)
    }
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.response.state.lock().poll(cx)
    }

    fn is_end_stream(&self) -> bool {
        let state = self.response.state.lock();
        state.end.is_none() && state.rest.is_empty() && state.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.unread.0.responses.lock().open.remove(&self.number);
    }
}
