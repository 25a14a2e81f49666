//! An accepted connection, as its server reads and writes it. Closes it when it is silent for too
//! long, has to make room, or takes nothing of what is sent. Slows it down when it resets calls or
//! sends control frames too fast, and closes it when it goes on with the latter. Changes no byte.
//!
//! It sits between HTTP and the transport. TLS is below it, and `arrival` makes the handshake. One
//! time limit covers the handshake and the preface.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::control::{Control, Pace};
use super::counts::Counts;
use super::farewell::Farewell;
use super::frames::{Frames, Head, RST_STREAM};
use super::preface::{Preface, Spoken};
use super::rate::Rate;
use super::refusal::goaway;
use super::slots::{Gone, Slot};
use crate::tls::{Chain, Stream};

/// Longest time that a connection may take to finish its preface, and before it the handshake of
/// TLS. A client sends both at once; this bounds how long a place is held without them.
pub const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// Most calls that a connection may reset at once, by either side. As many as it may have open,
/// because all may end at one deadline.
pub const RESETS_AT_ONCE_MAX: u32 = 1_024;

/// Most calls that a connection may reset per second in the long run. A reset call costs about as
/// much as an answered one, and the limit of open calls does not bound resets.
pub const RESETS_A_SECOND_MAX: u32 = 2_000;

/// How many calls a connection may reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resets {
    /// So many at once.
    pub at_once: u32,
    /// So many a second in the long run.
    pub a_second: u32,
}

impl Resets {
    /// At the clients' port.
    pub const OF_CLIENTS: Resets = Resets { at_once: RESETS_AT_ONCE_MAX, a_second: RESETS_A_SECOND_MAX };
    /// Between nodes and at the http port, where calls are few. What runs there is before clients'
    /// calls. A connection between nodes may have as many calls open.
    pub const AMONG_FEW: Resets = Resets { at_once: 256, a_second: 200 };

    fn rate(self) -> Rate {
        Rate::new(self.at_once, self.a_second, Instant::now())
    }
}

/// Longest time for which nothing is read because of resets. What one read held beyond that is
/// forgiven, so that other calls of the connection go on: nodes hear heartbeats by theirs.
const RESETS_REST_MAX: Duration = Duration::from_millis(250);

/// Most resets of calls that the server has not accepted yet: [`RESETS_AT_ONCE_MAX`], and what one
/// read of 64 KiB may hold beyond it. The rate limit applies first, so a connection is slowed down
/// and not ended.
pub const PENDING_RESETS_MAX: usize = 4 * RESETS_AT_ONCE_MAX as usize;

/// Longest time for which bytes may wait without one of them being taken.
pub const UNREAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Most bytes of one read while a connection sends control frames or resets too fast. They hold a
/// hundred of the smallest frames, so that a rest comes soon.
const RESTLESS_READ_BYTES: usize = 1 << 10;

/// The last stream that a GOAWAY may name: every call may have been run.
const EVERY_STREAM: u32 = u32::MAX >> 1;
/// The same: no call was run.
const NO_STREAM: u32 = 0;

/// Why a connection is closed that sends control frames too fast, in words for its user.
const TOO_MUCH_CONTROL: &str =
    "this connection sent PING, SETTINGS or other frames without a call too fast for too long";

/// Why a connection is closed that is not encrypted, in words for its user.
const TOO_MANY_PLAIN: &str = "half of the connections that this port may have are in use without TLS: use TLS";

/// One connection. Its place is given back when it is dropped.
pub struct Connection<S> {
    io: S,
    counts: Arc<Counts>,
    slot: Slot,
    speech: Speech,
    resets: Rate,
    /// Whether a call was reset a short time ago.
    is_resetting: bool,
    control: Control,
    /// Nothing is read before this has elapsed.
    rest: Option<Pin<Box<Sleep>>>,
    unread_timeout: Duration,
    /// Runs while bytes wait to be taken. The connection is closed when it has elapsed.
    unread: Option<Pin<Box<Sleep>>>,
    /// Set when the connection is being closed with words.
    farewell: Option<Farewell>,
}

/// How much the client has sent so far.
enum Speech {
    /// Its preface is not complete.
    Silent { preface: Preface, sent: Frames, until: Pin<Box<Sleep>> },
    /// HTTP/1, which needs no limit of resets.
    Http1,
    /// HTTP/2, with the frames of both sides.
    Http2 { received: Frames, sent: Frames },
}

impl<S> Connection<S> {
    /// Makes one that must finish its preface before `until`.
    pub(super) fn new(io: S, counts: Arc<Counts>, slot: Slot, until: Instant) -> Connection<S> {
        let until = Box::pin(tokio::time::sleep_until(until));
        Connection {
            io,
            counts,
            slot,
            speech: Speech::Silent { preface: Preface::default(), sent: Frames::default(), until },
            resets: Resets::OF_CLIENTS.rate(),
            is_resetting: false,
            control: Control::new(Instant::now()),
            rest: None,
            unread_timeout: UNREAD_TIMEOUT,
            unread: None,
            farewell: None,
        }
    }

    /// Returns it with another limit of resets.
    pub(super) fn with_resets(self, resets: Resets) -> Connection<S> {
        Connection { resets: resets.rate(), ..self }
    }

    /// Checks a silent connection. An error ends it.
    fn check_patience(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Speech::Silent { until, .. } = &mut self.speech else { return Ok(()) };
        if self.slot.poll_evicted(cx).is_ready() {
            return Err(made_room());
        }
        if until.as_mut().poll(cx).is_ready() {
            Counts::add(&self.counts.silent_closed);
            let text = format!("it did not finish its preface in {PREFACE_TIMEOUT:?}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        Ok(())
    }

    /// Examines bytes that have arrived. An error ends the connection.
    fn received(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (mut resets, mut cost) = (0, 0);
        let control = &mut self.control;
        let mut count = |head: Head| {
            resets += usize::from(head.kind == RST_STREAM);
            cost += control.received(head);
        };
        match &mut self.speech {
            Speech::Silent { preface, sent, .. } => {
                if let Some(spoken) = preface.pass(bytes, &mut count) {
                    self.speech = match spoken {
                        Spoken::Http1 => Speech::Http1,
                        Spoken::Http2(received) => Speech::Http2 { received, sent: std::mem::take(sent) },
                    };
                    match self.slot.has_spoken() {
                        Ok(()) => {}
                        Err(Gone::MadeRoom) => return Err(made_room()),
                        Err(Gone::Plain) => return self.refuse_plain(),
                    }
                }
            }
            Speech::Http1 => {}
            Speech::Http2 { received, .. } => received.pass(bytes, count),
        }
        self.note_resets(resets);
        self.note_control(cost)
    }

    /// Examines bytes that were sent. A reset that a peer provokes costs as much as one that it
    /// sends.
    fn sent(&mut self, bytes: &[u8]) {
        let mut resets = 0;
        let control = &mut self.control;
        let count = |head: Head| {
            resets += usize::from(head.kind == RST_STREAM);
            control.sent(head);
        };
        match &mut self.speech {
            Speech::Silent { preface, sent, .. } if preface.is_http2() => sent.pass(bytes, count),
            Speech::Http2 { sent, .. } => sent.pass(bytes, count),
            Speech::Silent { .. } | Speech::Http1 => {}
        }
        self.note_resets(resets);
    }

    fn note_resets(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        self.counts.reset(count);
        self.is_resetting = true;
        let now = Instant::now();
        let rest = self.resets.spend(count, now);
        if rest > Duration::ZERO {
            self.resets.forgive(RESETS_REST_MAX);
            self.counts.slowed();
            self.rest_until(now + rest.min(RESETS_REST_MAX));
        }
    }

    /// Pays for control frames. An error ends the connection at once.
    fn note_control(&mut self, cost: usize) -> io::Result<()> {
        if cost == 0 {
            return Ok(());
        }
        let now = Instant::now();
        match self.control.spend(cost, now) {
            Pace::Free => Ok(()),
            Pace::Rest(rest) => {
                self.counts.control_slowed();
                self.rest_until(now + rest);
                Ok(())
            }
            Pace::Over => {
                self.counts.control_closed();
                self.part(EVERY_STREAM, TOO_MUCH_CONTROL)
            }
        }
    }

    /// Closes a connection before its first call, because too many are not encrypted.
    fn refuse_plain(&mut self) -> io::Result<()> {
        self.counts.plain_refused();
        self.part(NO_STREAM, TOO_MANY_PLAIN)
    }

    /// Begins to close the connection with words. An error ends it without any, because a frame is
    /// on its way that the other side does not take. No stream after `last_stream` was processed.
    fn part(&mut self, last_stream: u32, words: &'static str) -> io::Result<()> {
        match &self.speech {
            Speech::Http2 { sent, .. } if sent.is_between() => {
                self.farewell = Some(Farewell::new(goaway(last_stream, words), words));
                Ok(())
            }
            _ => Err(io::Error::new(io::ErrorKind::ConnectionAborted, words)),
        }
    }

    /// Returns whether the connection has sent control frames too fast, or reset half of the calls
    /// that it may reset at once, a short time ago.
    fn is_restless(&mut self) -> bool {
        self.is_resetting = self.is_resetting && !self.resets.is_rested(Instant::now());
        self.is_resetting || self.control.is_restless(Instant::now)
    }

    /// Reads nothing until then, or longer if it rests already.
    fn rest_until(&mut self, until: Instant) {
        // A reader may wait on the timer that there is, and nothing else would wake it.
        match &mut self.rest {
            Some(timer) if timer.deadline() >= until => {}
            Some(timer) => timer.as_mut().reset(until),
            None => self.rest = Some(Box::pin(tokio::time::sleep_until(until))),
        }
    }

    /// Watches that the other side takes what is sent. Passes on what a write has given.
    fn attend<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.unread = None;
            return written;
        }
        let timer = self.unread.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.unread_timeout)));
        ready!(timer.as_mut().poll(cx));
        self.counts.unread_closed();
        let text = format!("it took nothing of what was sent to it for {:?}", self.unread_timeout);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
    }
}

impl<S: AsyncRead + Unpin> Connection<S> {
    /// Reads, and fewer bytes at a time if the connection sends control frames or resets too fast.
    fn poll_some(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.is_restless() {
            return Pin::new(&mut self.io).poll_read(cx, buffer);
        }
        let mut space = [0; RESTLESS_READ_BYTES];
        let mut some = ReadBuf::new(&mut space[..RESTLESS_READ_BYTES.min(buffer.remaining())]);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut some))?;
        buffer.put_slice(some.filled());
        Poll::Ready(Ok(()))
    }
}

impl Connection<Stream> {
    /// Returns bytes that the client has sent without consuming them. Waits for the first. `None`
    /// if the connection is encrypted.
    pub async fn peek(&self, bytes: &mut [u8]) -> Option<io::Result<usize>> {
        match &self.io {
            Stream::Plain(io) => Some(io.peek(bytes).await),
            Stream::Encrypted(_) => None,
        }
    }

    /// Returns the certificates that the other end has shown; `None` without any.
    pub fn shown(&self) -> Option<Chain> {
        self.io.shown()
    }
}

fn made_room() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "it was silent and had to make room for a new connection")
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Connection<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.farewell.is_none() {
            this.check_patience(cx)?;
            if let Some(rest) = &mut this.rest {
                ready!(rest.as_mut().poll(cx));
                this.rest = None;
            }
            let before = buffer.filled().len();
            ready!(this.poll_some(cx, buffer))?;
            this.received(&buffer.filled()[before..])?;
            if this.farewell.is_some() {
                buffer.set_filled(before);
            }
        }
        match &mut this.farewell {
            Some(farewell) => farewell.poll(&mut this.io, cx).map(Err),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.farewell.is_some() {
            // The last words are said. Nobody waits for these.
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        let written = ready!(self.attend(cx, written))?;
        self.sent(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.farewell.is_some() {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        let written = ready!(self.attend(cx, written))?;
        let mut left = written;
        for slice in slices {
            let part = &slice[..left.min(slice.len())];
            self.sent(part);
            left -= part.len();
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.farewell.is_some() {
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.attend(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
