//! The body of a request as it arrives: counts its bytes, and refuses one that takes too long, or
//! that stops on its way while memory is short. It knows where a gRPC message begins and ends, and
//! reads none.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use tokio::time::{Instant, Sleep};
use tonic::Status;

use super::{Held, LOOK, PATIENCE};
use crate::api::status;
use crate::net::Frame;

/// Bytes before each message: whether it is compressed, and its length.
pub(super) const PREFIX_BYTES: usize = 5;

/// How many messages a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One, which the service keeps until the call ends. All must arrive within the limit.
    Unary,
    /// One after the other. Each must arrive within the limit once it has begun, and a service
    /// keeps none when it asks for the next.
    Stream,
}

/// A request's body.
pub(super) struct Incoming {
    body: Body,
    held: Held,
    shape: Shape,
    limit: Duration,
    messages: Messages,
    /// Bytes of the body that `held` has.
    bytes: u64,
    /// Ends a wait for bytes. Made when one begins.
    timer: Option<Pin<Box<Sleep>>>,
    until: Option<Instant>,
    /// Ends a wait for bytes while memory is short. Made when one begins.
    stall: Option<Pin<Box<Sleep>>>,
    /// Time without a byte after which the body ends while memory is short.
    patience: Duration,
    is_over: bool,
}

impl Incoming {
    /// `limit` is the time that the request may take, and `held` has its bytes.
    pub(super) fn new(body: Body, held: Held, limit: Duration, shape: Shape) -> Incoming {
        let until = (shape == Shape::Unary).then(|| Instant::now() + limit);
        Incoming {
            body,
            held,
            shape,
            limit,
            messages: Messages::default(),
            bytes: 0,
            timer: None,
            until,
            stall: None,
            patience: PATIENCE,
            is_over: false,
        }
    }

    /// Counts bytes that have arrived.
    fn received(&mut self, data: &[u8]) -> Result<(), Status> {
        let begun = self.messages.pass(data);
        if !data.is_empty() {
            self.stall = None;
        }
        if self.shape == Shape::Stream && begun {
            drop(self.held.lock().split(self.bytes));
            self.bytes = 0;
        }
        let bytes = data.len() as u64;
        self.held.lock().grow(bytes).map_err(status::no_memory)?;
        self.bytes += bytes;
        if self.shape == Shape::Stream {
            let is_within = self.messages.is_within();
            self.until =
                is_within.then(|| self.until.filter(|_| !begun).unwrap_or_else(|| Instant::now() + self.limit));
            self.timer = None;
        }
        Ok(())
    }

    /// Completes when no more bytes are waited for, with the status that says why.
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        if self.poll_late(cx).is_ready() {
            return Poll::Ready(status::too_slow(self.limit));
        }
        self.poll_stalled(cx).map(|()| status::stalled(self.patience))
    }

    /// Completes when bytes are missing, none came for a while, and the node or the connection
    /// holds nearly as much as it may.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.shape == Shape::Stream && !self.messages.is_within() {
            return Poll::Pending;
        }
        let patience = self.patience;
        let stall = self.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        loop {
            ready!(stall.as_mut().poll(cx));
            if self.held.lock().check_nearly().is_err() {
                return Poll::Ready(());
            }
            stall.as_mut().reset(Instant::now() + LOOK);
        }
    }

    /// Completes when the request has taken too long.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(until) = self.until else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        timer.as_mut().poll(cx)
    }
}

impl HttpBody for Incoming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.is_over {
            return Poll::Ready(None);
        }
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
            let status = ready!(this.poll_ended(cx));
            this.is_over = true;
            return Poll::Ready(Some(Err(status)));
        };
        let Some(frame) = frame else { return Poll::Ready(None) };
        let frame = frame.map_err(|error| Status::from_error(error.into()))?;
        if let Some(data) = frame.data_ref()
            && let Err(status) = this.received(data)
        {
            this.is_over = true;
            return Poll::Ready(Some(Err(status)));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body.is_end_stream()
    }
}

/// Where messages begin and end.
#[derive(Debug, Default)]
struct Messages {
    prefix: [u8; PREFIX_BYTES],
    /// Bytes of the prefix that have arrived.
    prefix_bytes: usize,
    /// Bytes of the message that are missing.
    missing: usize,
}

impl Messages {
    /// Passes over bytes. Returns whether a message begins in them.
    fn pass(&mut self, mut data: &[u8]) -> bool {
        let mut begun = false;
        while !data.is_empty() {
            if self.prefix_bytes < PREFIX_BYTES {
                begun |= self.prefix_bytes == 0;
                let take = data.len().min(PREFIX_BYTES - self.prefix_bytes);
                self.prefix[self.prefix_bytes..][..take].copy_from_slice(&data[..take]);
                self.prefix_bytes += take;
                data = &data[take..];
                if self.prefix_bytes == PREFIX_BYTES {
                    let [_, length @ ..] = self.prefix;
                    self.missing = u32::from_be_bytes(length) as usize;
                }
            } else {
                let take = data.len().min(self.missing);
                self.missing -= take;
                data = &data[take..];
            }
            if self.prefix_bytes == PREFIX_BYTES && self.missing == 0 {
                self.prefix_bytes = 0;
            }
        }
        begun
    }

    /// Returns whether a message has begun and not ended.
    fn is_within(&self) -> bool {
        self.prefix_bytes > 0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::calls::budget::{Budget, Use};
    use futures::{StreamExt, stream};
    use http_body_util::BodyExt;
    use parking_lot::Mutex;
    use proptest::prelude::*;

    #[tokio::test]
    async fn a_body_that_stops_on_its_way_ends_while_memory_is_short_and_only_then() {
        let share = Budget::new(64 << 20).share();
        let held = Arc::new(Mutex::new(share.force(Use::Call, 0)));
        let begun = stream::iter([Ok::<_, std::convert::Infallible>(Bytes::from_static(&[0, 0]))]);
        let body = Body::from_stream(begun.chain(stream::pending()));
        let mut incoming = Incoming::new(body, held, Duration::from_secs(600), Shape::Unary);
        incoming.patience = Duration::from_millis(20);
        assert!(incoming.frame().await.unwrap().is_ok());
        let silence = Duration::from_millis(100);
        assert!(tokio::time::timeout(silence, incoming.frame()).await.is_err(), "there is memory");
        let _replies = share.force(Use::Call, 15 << 20);
        let ended = incoming.frame().await.unwrap().unwrap_err();
        assert_eq!(ended.code(), tonic::Code::ResourceExhausted);
        assert!(ended.message().contains("nothing of the request arrived for 20ms"), "{ended}");
        assert!(incoming.frame().await.is_none());
    }

    #[test]
    fn messages_are_told_apart() {
        let mut messages = Messages::default();
        assert!(messages.pass(&[0, 0, 0]) && messages.is_within());
        assert!(!messages.pass(&[0, 2, 9]) && messages.is_within());
        assert!(!messages.pass(&[9]) && !messages.is_within());
        assert!(messages.pass(&[0, 0, 0, 0, 0]) && !messages.is_within(), "an empty one");
        assert!(messages.pass(&[1, 0, 0, 0, 1, 7, 0]) && messages.is_within(), "the next one begins");
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(lengths in prop::collection::vec(0usize..40, 1..6), cut in 1usize..50) {
            let message = |length: &usize| [&[0, 0, 0, 0, *length as u8][..], &vec![9; *length]].concat();
            let bytes: Vec<u8> = lengths.iter().flat_map(message).collect();
            let mut messages = Messages::default();
            for piece in bytes.chunks(cut) {
                messages.pass(piece);
            }
            prop_assert!(!messages.is_within());
        }
    }
}
