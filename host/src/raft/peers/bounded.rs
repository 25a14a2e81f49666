//! Bounds what peers send before it is decoded. It follows the frames of gRPC in the body of a
//! request: the size of a message is known by its first five bytes. It decodes no message and knows
//! no method.
//!
//! - A message that is larger than its call may have ends the call, before its bytes are read.
//! - A message of which a part is here takes its whole size from a budget: a large one from that of
//!   the port, a small one from that of its connection. A call for whose message there is no room
//!   is not read further until there is. So large messages never keep a heartbeat waiting. One
//!   connection never fills the room of another one's small messages, and of that of the port it
//!   has a quarter at most. The room is free again when the last byte was passed on.
//! - Whoever has room must send the rest in time, so nobody waits for ever.
//! - A call that waits keeps the frame that it was read with, and HTTP/2 counts that frame no more.
//!   So the number of calls that wait is bounded, and a further one ends. Calls that may have large
//!   messages have the bound of the port: a peer with many groups has many of them. The others,
//!   which anybody can make, have a small one on each connection: their honest messages come whole.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::Status;

use crate::limit::{Limit, Many};
use crate::logs::Sparse;
use crate::net::{Frame, HttpBody};

/// Largest message of a call that may have small ones only.
pub const SMALL_MESSAGE_BYTES_MAX: usize = 64 << 10;

/// Most bytes of large messages of which a part is here, on all connections of the port together.
pub const HALF_RECEIVED_BYTES_MAX: usize = 128 << 20;

/// Most bytes of large messages of which a part is here, on one connection.
pub const HALF_RECEIVED_BYTES_OF_ONE_MAX: usize = HALF_RECEIVED_BYTES_MAX / OF_ONE_CONNECTION;

/// One connection may have this part of a port's room for large messages.
const OF_ONE_CONNECTION: usize = 4;

/// Most bytes of small messages of which a part is here, on one connection: two of the largest. Who
/// has shown no certificate may have an eighth of the port's connections.
pub const SMALL_HALF_RECEIVED_BYTES_MAX: usize = 2 * SMALL_MESSAGE_BYTES_MAX;

/// Most calls on one connection that wait for room and may have small messages only. Each keeps one
/// frame of HTTP/2, which is 16 KiB at most.
pub const SMALL_WAITING_CALLS_MAX: usize = 8;

/// Most calls on all connections of the port that wait for room and may have large messages. Each
/// keeps one frame, so they keep 64 MiB. It is what 16 connections have with all their calls.
pub const WAITING_CALLS_MAX: usize = 4_096;

/// Longest time from the first part of a message to its last one, without the time that its size
/// needs.
const MESSAGE_TIME: Duration = Duration::from_secs(60);

/// Fewest bytes a second at which a message must come after that.
const BYTES_A_SECOND_MIN: usize = 1 << 20;

/// Bytes before each message: a flag, and the size.
const HEADER_BYTES: usize = 5;

/// Bytes of a first message that are enough to judge a call by.
const JUDGED_BYTES: usize = 256;

/// The room for the large messages of one port. Clones share it.
#[derive(Clone, Debug)]
pub struct Intake(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    room: Arc<Semaphore>,
    room_bytes: usize,
    /// What is left of the rooms of each connection.
    large: Many<Semaphore>,
    small: Many<Semaphore>,
    /// The places of calls that wait: of the port for those that may have large messages, and of
    /// each connection for the others.
    waiting: Arc<Semaphore>,
    small_waiting: Many<Semaphore>,
    too_large: AtomicU64,
    /// Limits the log lines about messages that are too large, or come too slowly.
    refusals: Sparse,
}

/// Figures of an [`Intake`] for operators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IntakeStatus {
    /// Bytes of large messages of which a part is here.
    pub half_received_bytes: u64,
    /// Calls that were ended for the size of a message, because it did not come in time, or because
    /// too many waited.
    pub refused: u64,
}

impl Default for Intake {
    fn default() -> Intake {
        Intake::new(HALF_RECEIVED_BYTES_MAX)
    }
}

impl Intake {
    /// Makes room for that many bytes.
    pub fn new(room_bytes: usize) -> Intake {
        let room = Arc::new(Semaphore::new(room_bytes));
        Intake(Arc::new(Inner {
            room,
            room_bytes,
            large: Many::default(),
            small: Many::default(),
            waiting: Arc::new(Semaphore::new(WAITING_CALLS_MAX)),
            small_waiting: Many::default(),
            too_large: AtomicU64::new(0),
            refusals: Sparse::default(),
        }))
    }

    /// Returns figures for operators.
    pub fn status(&self) -> IntakeStatus {
        IntakeStatus {
            half_received_bytes: (self.0.room_bytes - self.0.room.available_permits()) as u64,
            refused: self.0.too_large.load(Ordering::Relaxed),
        }
    }

    /// Returns how near the limits are: that of the port, and those of the connections that hold
    /// most.
    pub fn limits(&self) -> [Limit; 5] {
        let taken = |room: &Semaphore, max: usize| max - room.available_permits();
        let (all_max, large_max) = (self.0.room_bytes, self.0.room_bytes / OF_ONE_CONNECTION);
        let small_max = SMALL_HALF_RECEIVED_BYTES_MAX;
        let large = self.0.large.most(|room| taken(room, large_max) as u64);
        let small = self.0.small.most(|room| taken(room, small_max) as u64);
        let small_waiting = self.0.small_waiting.most(|places| taken(places, SMALL_WAITING_CALLS_MAX) as u64);
        [
            Limit::new("peer_half_received_bytes", taken(&self.0.room, all_max), all_max),
            Limit { name: "peer_half_received_of_one_connection_bytes", used: large, max: large_max as u64 },
            Limit { name: "peer_small_half_received_of_one_connection_bytes", used: small, max: small_max as u64 },
            Limit::new("peer_waiting_calls", taken(&self.0.waiting, WAITING_CALLS_MAX), WAITING_CALLS_MAX),
            Limit {
                name: "peer_small_waiting_calls_of_one_connection",
                used: small_waiting,
                max: SMALL_WAITING_CALLS_MAX as u64,
            },
        ]
    }

    /// Returns the share of one connection.
    pub(super) fn connection(&self) -> Share {
        let room = |places| Arc::new(Semaphore::new(places));
        let (large, small) = (room(self.0.room_bytes / OF_ONE_CONNECTION), room(SMALL_HALF_RECEIVED_BYTES_MAX));
        let small_waiting = room(SMALL_WAITING_CALLS_MAX);
        self.0.large.add(&large);
        self.0.small.add(&small);
        self.0.small_waiting.add(&small_waiting);
        Share { intake: self.clone(), large, small, small_waiting }
    }

    fn refuse(&self, status: Status) -> Status {
        self.0.too_large.fetch_add(1, Ordering::Relaxed);
        if let Some(left_out) = self.0.refusals.due() {
            tracing::warn!(error = status.message(), left_out, "ended a call of a peer for its message");
        }
        status
    }
}

/// What a connection may have of the port's room, its own room for small messages, and its own
/// places for calls that wait.
#[derive(Clone, Debug)]
pub(super) struct Share {
    intake: Intake,
    large: Arc<Semaphore>,
    small: Arc<Semaphore>,
    small_waiting: Arc<Semaphore>,
}

/// What the messages of one call may be.
pub(super) struct Bound {
    /// Largest message.
    pub(super) bytes: usize,
    /// Why it may not be larger. For the text of a refusal.
    pub(super) why: String,
    /// What the beginning of the first message may change in that.
    pub(super) judge: Option<Judge>,
}

/// Returns another bound, by the first bytes of a call's first message: all of it, or
/// [`JUDGED_BYTES`] and more.
pub(super) type Judge = Box<dyn FnOnce(&[u8]) -> Bound + Send>;

impl Share {
    /// Bounds the messages of a request.
    pub(super) fn bound<B>(&self, body: B, bound: Bound) -> Bounded<B> {
        Bounded {
            body,
            bound,
            share: self.clone(),
            begun: Bytes::new(),
            header: Vec::with_capacity(HEADER_BYTES),
            left_bytes: 0,
            rest: Bytes::new(),
            waiting: None,
            held: Vec::new(),
            late: None,
        }
    }

    /// Returns the rooms that a message needs a place in, its connection's before the port's.
    fn rooms(&self, bytes: usize) -> Vec<Arc<Semaphore>> {
        match bytes <= SMALL_MESSAGE_BYTES_MAX {
            true => vec![self.small.clone()],
            false => vec![self.large.clone(), self.intake.0.room.clone()],
        }
    }

    /// Takes a place among the calls that wait, for one whose messages may have so many bytes.
    fn place(&self, bytes_max: usize) -> Result<OwnedSemaphorePermit, Status> {
        let (places, max, whose) = match bytes_max <= SMALL_MESSAGE_BYTES_MAX {
            true => (&self.small_waiting, SMALL_WAITING_CALLS_MAX, "this connection"),
            false => (&self.intake.0.waiting, WAITING_CALLS_MAX, "this port"),
        };
        places.clone().try_acquire_owned().map_err(|_| {
            let text = format!("{max} calls of {whose} wait for room, each with the beginning of a message");
            self.intake.refuse(Status::resource_exhausted(text))
        })
    }
}

/// The body of a request whose messages are bounded.
pub(in crate::raft) struct Bounded<B> {
    body: B,
    bound: Bound,
    share: Share,
    /// The beginning of the first message, until it can be judged.
    begun: Bytes,
    /// The header of the message that begins, as far as it is here.
    header: Vec<u8>,
    /// Bytes of the message under way that have not come.
    left_bytes: usize,
    /// Bytes that were read, and are passed on after those of the message before.
    rest: Bytes,
    waiting: Option<Waiting>,
    /// The room of the message under way.
    held: Vec<OwnedSemaphorePermit>,
    /// When the message under way must be here.
    late: Option<Pin<Box<Sleep>>>,
}

/// The beginning of a message for which there is no room yet.
struct Waiting {
    room: BoxFuture<'static, Vec<OwnedSemaphorePermit>>,
    bytes: Bytes,
    size: usize,
    _place: OwnedSemaphorePermit,
}

type BoxError = Box<dyn Error + Send + Sync>;

impl<B> HttpBody for Bounded<B>
where
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            if let Some(bytes) = ready!(this.poll_room(cx)) {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if let Some(late) = &mut this.late
                && late.poll_unpin(cx).is_ready()
            {
                return Poll::Ready(Some(Err(this.refuse_late().into())));
            }
            let bytes = match std::mem::take(&mut this.rest) {
                rest if !rest.is_empty() => rest,
                _ => match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                    None => return Poll::Ready(this.cut_off().map(|status| Err(status.into()))),
                    Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(bytes) => bytes,
                        Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                    },
                },
            };
            let Some(bytes) = this.gather(bytes) else { continue };
            match this.take(bytes) {
                Ok(Some(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Ok(None) => {}
                Err(status) => return Poll::Ready(Some(Err(status.into()))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.begun.is_empty() && self.rest.is_empty() && self.waiting.is_none() && self.body.is_end_stream()
    }
}

impl<B> Bounded<B> {
    /// Waits for the room of a message, if one waits, and returns its beginning.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let Some(waiting) = &mut self.waiting else { return Poll::Ready(None) };
        let room = ready!(waiting.room.poll_unpin(cx));
        let Some(Waiting { bytes, size, .. }) = self.waiting.take() else { return Poll::Ready(None) };
        self.begin(room, size);
        Poll::Ready(Some(bytes))
    }

    /// Begins a message that has room.
    fn begin(&mut self, room: Vec<OwnedSemaphorePermit>, size: usize) {
        self.held = room;
        let time = MESSAGE_TIME + Duration::from_secs((size / BYTES_A_SECOND_MIN) as u64);
        self.late = Some(Box::pin(tokio::time::sleep(time)));
    }

    /// Holds back the beginning of the first message until it can be judged. Small pieces may come
    /// before that.
    fn gather(&mut self, bytes: Bytes) -> Option<Bytes> {
        if self.bound.judge.is_none() {
            return Some(bytes);
        }
        let begun = std::mem::take(&mut self.begun);
        let bytes = if begun.is_empty() { bytes } else { [begun, bytes].concat().into() };
        if is_enough(&bytes) {
            return Some(bytes);
        }
        // A copy keeps no more than itself, and a part of a frame keeps all of it.
        self.begun = Bytes::copy_from_slice(&bytes);
        None
    }

    /// Returns why a request is broken that ends while its beginning is held back.
    fn cut_off(&mut self) -> Option<Status> {
        let begun = std::mem::take(&mut self.begun);
        (!begun.is_empty()).then(|| Status::internal("the request ended within its first message"))
    }

    /// Takes bytes from the connection and returns those that can be passed on now. `None`: they
    /// wait for room.
    fn take(&mut self, mut bytes: Bytes) -> Result<Option<Bytes>, Status> {
        if self.left_bytes > 0 {
            let of_message = bytes.split_to(bytes.len().min(self.left_bytes));
            self.left_bytes -= of_message.len();
            if self.left_bytes == 0 {
                // It is decoded at once. What its handler does then may take long.
                self.held.clear();
                self.late = None;
            }
            self.rest = bytes;
            return Ok(Some(of_message));
        }
        let mut whole_bytes = 0;
        loop {
            let missing = HEADER_BYTES - self.header.len();
            let Some((header, body)) = bytes[whole_bytes..].split_at_checked(missing) else {
                self.header.extend_from_slice(&bytes[whole_bytes..]);
                return Ok(Some(bytes));
            };
            let body_bytes = body.len();
            let size = size_of(&self.header, header);
            if let Some(judge) = self.bound.judge.take() {
                self.bound = judge(&body[..size.min(body_bytes)]);
            }
            if size <= self.bound.bytes && size <= body_bytes {
                self.header.clear();
                whole_bytes += missing + size;
                if whole_bytes == bytes.len() {
                    return Ok(Some(bytes));
                }
                continue;
            }
            if whole_bytes > 0 {
                // The whole messages go on first. They are decoded before the next one gets room.
                self.rest = bytes.split_off(whole_bytes);
                return Ok(Some(bytes));
            }
            if size > self.bound.bytes {
                return Err(self.refuse_size(size));
            }
            self.header.clear();
            self.left_bytes = size - body_bytes;
            return self.enter(bytes, size);
        }
    }

    /// Takes room for a message and returns its beginning, or has it wait.
    fn enter(&mut self, bytes: Bytes, size: usize) -> Result<Option<Bytes>, Status> {
        let rooms = self.share.rooms(size);
        // No bound is above a room, or this would wait for ever.
        let permits = u32::try_from(size).unwrap_or(u32::MAX);
        let mut room = async move {
            let mut held = Vec::with_capacity(rooms.len());
            for room in rooms {
                held.push(room.acquire_many_owned(permits).await.expect("the room is never closed"));
            }
            held
        }
        .boxed();
        if let Some(held) = (&mut room).now_or_never() {
            self.begin(held, size);
            return Ok(Some(bytes));
        }
        let place = self.share.place(self.bound.bytes)?;
        self.waiting = Some(Waiting { room, bytes, size, _place: place });
        Ok(None)
    }

    fn refuse_size(&self, size: usize) -> Status {
        let Bound { bytes, why, .. } = &self.bound;
        let text = format!("a message of {size} bytes; on this call it may have {bytes}, because {why}");
        self.share.intake.refuse(Status::resource_exhausted(text))
    }

    fn refuse_late(&self) -> Status {
        let text = format!("a message did not come whole in time; {} bytes of it are missing", self.left_bytes);
        self.share.intake.refuse(Status::deadline_exceeded(text))
    }
}

/// Returns whether a call can be judged by these bytes, with which its first message begins.
fn is_enough(bytes: &[u8]) -> bool {
    let Some((header, body)) = bytes.split_at_checked(HEADER_BYTES) else { return false };
    body.len() >= size_of(&[], header).min(JUDGED_BYTES)
}

/// Returns the size that a header of gRPC gives, of which a part may have come before.
fn size_of(before: &[u8], now: &[u8]) -> usize {
    // The first byte is a flag.
    let size = before.iter().chain(now).skip(1);
    size.fold(0, |size, byte| size << 8 | usize::from(*byte))
}

#[cfg(test)]
#[path = "bounded_tests.rs"]
mod tests;
