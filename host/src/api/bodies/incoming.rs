//! The body of a request as it arrives: counts its bytes, and refuses one that takes too long, or
//! that arrives too slowly. It knows where a gRPC message begins and ends, and reads none.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use tokio::time::{Instant, Sleep};
use tonic::Status;

use super::{Held, PACE_BYTES, PATIENCE};
use crate::api::status;
use crate::net::Frame;

/// Bytes before each message: whether it is compressed, and its length.
pub(in crate::api) const PREFIX_BYTES: usize = 5;

/// How many messages a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One, which the service keeps until the call ends. All must arrive within the limit.
    Unary,
    /// One after the other. Each must arrive within the limit once it has begun, and a service
    /// keeps none when it asks for the next.
    Stream,
}

/// A request's body, as it comes from the transport or from a test.
pub(in crate::api) struct Incoming<B = Body> {
    body: B,
    held: Held,
    shape: Shape,
    limit: Duration,
    messages: Messages,
    /// Bytes of the body that `held` has.
    bytes: u64,
    /// Ends a wait for bytes. Made when one begins.
    timer: Option<Pin<Box<Sleep>>>,
    until: Option<Instant>,
    pace: Pace,
    is_over: bool,
}

impl<B> Incoming<B> {
    /// `limit` is the time that the request may take, and `held` has its bytes.
    pub(super) fn new(body: B, held: Held, limit: Duration, shape: Shape) -> Incoming<B> {
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
            pace: Pace::new(PATIENCE),
            is_over: false,
        }
    }

    /// Counts bytes that have arrived.
    fn received(&mut self, data: &[u8]) -> Result<(), Status> {
        let begun = self.messages.pass(data);
        self.pace.received(data.len(), begun);
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
        if self.shape == Shape::Stream && !self.messages.is_within() {
            return Poll::Pending;
        }
        self.pace.poll_slow(cx).map(|()| status::drips(self.pace.patience))
    }

    /// Completes when the request has taken too long.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(until) = self.until else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        timer.as_mut().poll(cx)
    }
}

impl<B> HttpBody for Incoming<B>
where
    B: HttpBody<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin,
{
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

/// How fast a message arrives, as long as somebody waits for it. The time in which nobody reads, as
/// while another message is decompressed, is not the client's.
struct Pace {
    /// Time of waiting in which [`PACE_BYTES`] must come.
    patience: Duration,
    /// Bytes that have come since that many came before, and the time for which they were waited
    /// for.
    bytes: usize,
    waited: Duration,
    /// The wait that is under way: when it began, and what ends it.
    wait: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Pace {
    fn new(patience: Duration) -> Pace {
        Pace { patience, bytes: 0, waited: Duration::ZERO, wait: None }
    }

    /// Notes that bytes have come, and whether a message begins in them.
    fn received(&mut self, bytes: usize, begun: bool) {
        if let Some((since, _)) = self.wait.take() {
            self.waited += since.elapsed();
        }
        self.bytes += bytes;
        if begun || self.bytes >= PACE_BYTES {
            self.bytes = 0;
            self.waited = Duration::ZERO;
        }
    }

    /// Completes when too few bytes have come for too long.
    fn poll_slow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.patience.saturating_sub(self.waited);
        let begin = || (Instant::now(), Box::pin(tokio::time::sleep(left)));
        let (_, timer) = self.wait.get_or_insert_with(begin);
        timer.as_mut().poll(cx)
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
    use futures::{Stream, StreamExt, stream};
    use http_body_util::BodyExt;
    use parking_lot::Mutex;
    use proptest::prelude::*;

    /// Returns a body that begins with these pieces, and its bound on time.
    fn incoming(pieces: impl Stream<Item = Bytes> + Send + 'static, shape: Shape, patience: Duration) -> Incoming {
        let held = Arc::new(Mutex::new(Budget::new(64 << 20).share().force(Use::Call, 0)));
        let sent = pieces.chain(stream::pending()).map(Ok::<_, std::convert::Infallible>);
        let body = Incoming::new(Body::from_stream(sent), held, Duration::from_secs(600), shape);
        Incoming { pace: Pace::new(patience), ..body }
    }

    /// Returns the status with which a body ends.
    async fn end(mut incoming: Incoming) -> Status {
        loop {
            if let Err(status) = incoming.frame().await.unwrap() {
                assert!(incoming.frame().await.is_none());
                return status;
            }
        }
    }

    const BEGINNING: Bytes = Bytes::from_static(&[0, 0, 255, 255, 255]);

    #[tokio::test]
    async fn a_body_that_drips_or_stops_is_refused() {
        let patience = Duration::from_millis(200);
        for shape in [Shape::Unary, Shape::Stream] {
            let drops = stream::repeat(Bytes::from_static(&[7])).then(|drop| async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                drop
            });
            for pieces in [stream::iter([BEGINNING]).chain(drops).boxed(), stream::iter([BEGINNING]).boxed()] {
                let status = end(incoming(pieces, shape, patience)).await;
                assert_eq!(status.code(), tonic::Code::ResourceExhausted);
                assert!(status.message().contains("less than 40 KiB of the request arrived in 200ms"), "{status}");
            }
        }
    }

    #[tokio::test]
    async fn time_in_which_nobody_reads_is_not_the_clients() {
        let patience = Duration::from_millis(50);
        let mut incoming = incoming(stream::iter(vec![BEGINNING; 4]), Shape::Unary, patience);
        for _ in 0..4 {
            tokio::time::sleep(2 * patience).await;
            assert!(incoming.frame().await.unwrap().is_ok());
        }
        assert!(incoming.frame().await.unwrap().is_err(), "now it is");
    }

    #[test]
    fn a_client_that_keeps_the_pace_has_its_time_again() {
        let (mut pace, waited) = (Pace::new(PATIENCE), PATIENCE / 2);
        pace.waited = waited;
        pace.received(PACE_BYTES - 1, false);
        assert_eq!((pace.waited, pace.bytes), (waited, PACE_BYTES - 1));
        pace.received(1, false);
        assert_eq!((pace.waited, pace.bytes), (Duration::ZERO, 0));
        pace.waited = waited;
        pace.received(1, true);
        assert_eq!(pace.waited, Duration::ZERO, "the next message has its own");
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
