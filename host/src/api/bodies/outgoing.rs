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
use tonic::Status;

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
    /// How long it may be unread while memory is not short; `None` for as long as it likes.
    patience: Option<Duration>,
    state: Mutex<State>,
}

struct State {
    /// What makes the response. `None` when it is over.
    body: Option<Body>,
    /// Bytes that it made, and that the transport did not get yet.
    rest: Bytes,
    /// What comes after `rest`, if no body makes it.
    trailers: Option<HeaderMap>,
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

/// What goes with a response.
pub(super) struct Keeps {
    /// What its call holds beside it.
    pub(super) held: Option<Held>,
    /// How long it may be unread while memory is not short; `None` for as long as it likes.
    pub(super) patience: Option<Duration>,
}

/// A response's body.
pub(in crate::api) struct Outgoing {
    unread: Unread,
    number: u64,
    response: Arc<Response>,
}

impl Unread {
    /// Returns the body as it is to be sent.
    pub(super) fn add(&self, body: Body, share: Share, of: Use, keeps: Keeps) -> Body {
        if body.is_end_stream() {
            return body;
        }
        let lease = share.force(of, 0);
        let Keeps { held, patience } = keeps;
        let state = Mutex::new(State { body: Some(body), held, ..State::new(lease) });
        Body::new(self.open_one(Response { share, of, patience, state }))
    }

    /// Returns the body of a response that is whole: its bytes, and the trailers behind them.
    /// `lease` has all that the call holds, with these bytes.
    pub(super) fn add_whole(&self, bytes: Bytes, trailers: HeaderMap, lease: Lease) -> Outgoing {
        let share = lease.share().clone();
        let state = Mutex::new(State { rest: bytes, trailers: Some(trailers), ..State::new(lease) });
        self.open_one(Response { share, of: Use::Call, patience: None, state })
    }

    fn open_one(&self, response: Response) -> Outgoing {
        let response = Arc::new(response);
        let mut responses = self.0.responses.lock();
        let number = responses.next;
        responses.next += 1;
        responses.open.insert(number, response.clone());
        drop(responses);
        Outgoing { unread: self.clone(), number, response }
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
                let status = status::not_taken(patience, response.of);
                ended += u64::from(response.end(now, patience, &status));
            }
        }
        self.0.ended.fetch_add(ended, Relaxed);
        ended
    }

    /// Ends responses that are unread for longer than they may be at any time. Returns how many.
    pub(super) fn end_the_impatient(&self) -> u64 {
        let now = Instant::now();
        let mut ended = 0;
        for response in self.open() {
            if let Some(patience) = response.patience {
                ended += u64::from(response.end(now, patience, &status::stream_not_taken(patience)));
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

    /// Drops what was not read, and leaves a status in its place. Returns false if enough is taken.
    fn end(&self, now: Instant, patience: Duration, status: &Status) -> bool {
        let mut trailers = HeaderMap::new();
        if status.add_header(&mut trailers).is_err() {
            return false;
        }
        let mut state = self.state.lock();
        if state.unread_since(now, patience).is_none() {
            return false;
        }
        state.end = Some(trailers);
        let bytes = state.lease.bytes();
        state.trailers = None;
        let unread = (state.body.take(), state.held.take(), std::mem::take(&mut state.rest), state.lease.split(bytes));
        drop(state);
        // Not under the lock: the body may wake others.
        drop(unread);
        true
    }
}

impl State {
    /// Returns the state of a response of which nothing is there yet.
    fn new(lease: Lease) -> State {
        State {
            body: None,
            rest: Bytes::new(),
            trailers: None,
            lease,
            held: None,
            end: None,
            since: Instant::now(),
            taken: 0,
            is_awaited: false,
        }
    }

    /// Whether more is to come than `rest`.
    fn is_open(&self) -> bool {
        self.body.is_some() || self.trailers.is_some()
    }

    fn unread_since(&self, now: Instant, patience: Duration) -> Option<Instant> {
        let is_unread = !self.is_awaited && self.is_open() && now.duration_since(self.since) >= patience;
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
            if let Some(trailers) = self.trailers.take() {
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
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
    /// keep the whole. The whole stays in memory until its last piece is taken, and so it counts
    /// until then.
    fn piece(&mut self) -> Bytes {
        if self.rest.len() <= PIECE_BYTES {
            let whole = self.lease.bytes();
            return self.lease.split(whole).tied_to(std::mem::take(&mut self.rest));
        }
        let piece = Bytes::copy_from_slice(&self.rest[..PIECE_BYTES]);
        self.rest.advance(PIECE_BYTES);
        self.lease.grow_by_force(PIECE_BYTES as u64);
        self.lease.split(PIECE_BYTES as u64).tied_to(piece)
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
        let is_over = state.end.is_none() && state.trailers.is_none() && state.rest.is_empty();
        is_over && state.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.unread.0.responses.lock().open.remove(&self.number);
    }
}
