//! An accepted connection, as its server reads and writes it. Closes it when it is silent for too
//! long or has to make room, and slows it down when it resets calls too fast. Changes no byte.
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

use super::counts::Counts;
use super::frames::{Frames, RST_STREAM};
use super::preface::{Preface, Spoken};
use super::rate::Rate;
use super::slots::Slot;
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

/// Most resets of calls that the server has not accepted yet: [`RESETS_AT_ONCE_MAX`], and what one
/// read of 64 KiB may hold beyond it. The rate limit applies first, so a connection is slowed down
/// and not ended.
pub const PENDING_RESETS_MAX: usize = 4 * RESETS_AT_ONCE_MAX as usize;

/// One connection. Its place is given back when it is dropped.
pub struct Connection<S> {
    io: S,
    counts: Arc<Counts>,
    slot: Slot,
    speech: Speech,
    resets: Rate,
    /// Nothing is read before this has elapsed.
    rest: Option<Pin<Box<Sleep>>>,
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
            resets: Rate::new(RESETS_AT_ONCE_MAX, RESETS_A_SECOND_MAX, Instant::now()),
            rest: None,
        }
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
        let mut resets = 0;
        let mut count = |kind| resets += usize::from(kind == RST_STREAM);
        match &mut self.speech {
            Speech::Silent { preface, sent, .. } => {
                let spoken = match preface.pass(bytes, &mut count) {
                    None => return Ok(()),
                    Some(Spoken::Http1) => Speech::Http1,
                    Some(Spoken::Http2(received)) => Speech::Http2 { received, sent: std::mem::take(sent) },
                };
                self.speech = spoken;
                if !self.slot.has_spoken() {
                    return Err(made_room());
                }
            }
            Speech::Http1 => {}
            Speech::Http2 { received, .. } => received.pass(bytes, |kind, _| count(kind)),
        }
        self.note_resets(resets);
        Ok(())
    }

    /// Examines bytes that were sent. A reset that a peer provokes costs as much as one that it
    /// sends.
    fn sent(&mut self, bytes: &[u8]) {
        let mut resets = 0;
        let count = |kind, _| resets += usize::from(kind == RST_STREAM);
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
        let now = Instant::now();
        let rest = self.resets.spend(count, now);
        if rest > Duration::ZERO {
            self.counts.slowed();
            // A reader may wait on the timer that there is, and nothing else would wake it.
            match &mut self.rest {
                Some(timer) => timer.as_mut().reset(now + rest),
                None => self.rest = Some(Box::pin(tokio::time::sleep_until(now + rest))),
            }
        }
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

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.check_patience(cx)?;
        if let Some(rest) = &mut this.rest {
            ready!(rest.as_mut().poll(cx));
            this.rest = None;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buffer))?;
        Poll::Ready(this.received(&buffer.filled()[before..]))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.sent(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices))?;
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
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::net::Port;
    use crate::net::slots::Slots;

    const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const RESET: &[u8] = &[0, 0, 4, RST_STREAM, 0, 0, 0, 0, 1, 0, 0, 0, 8];

    #[tokio::test]
    async fn resets_beyond_a_burst_come_in_measure_from_either_side() {
        let port = Port::new("test", 1);
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let (slot, _) = Slots::new(1).enter().unwrap();
        let mut connection = Connection::new(server, port.counts(), slot, Instant::now() + PREFACE_TIMEOUT);
        // One that gets nothing back while this runs, however long that takes.
        let hours_later = Instant::now() + Duration::from_secs(10_000);
        connection.resets = Rate::new(RESETS_AT_ONCE_MAX, RESETS_A_SECOND_MAX, hours_later);
        let burst = RESET.repeat(RESETS_AT_ONCE_MAX as usize);
        client.write_all(&[OPENING, &burst].concat()).await.unwrap();
        let mut read = vec![0; OPENING.len() + burst.len()];
        connection.read_exact(&mut read).await.unwrap();
        assert_eq!((port.status().resets, port.status().slowed), (u64::from(RESETS_AT_ONCE_MAX), 0));
        // Ours count, too.
        let begun = Instant::now();
        connection.write_all(&RESET.repeat(RESETS_A_SECOND_MAX as usize / 2)).await.unwrap();
        assert_eq!(port.status().slowed, 1);
        client.write_all(b"more").await.unwrap();
        connection.read_exact(&mut read[..4]).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn one_that_made_room_reads_an_error() {
        let slots = Slots::new(1);
        let (_client, server) = tokio::io::duplex(64);
        let until = Instant::now() + PREFACE_TIMEOUT;
        let mut connection = Connection::new(server, Port::new("test", 1).counts(), slots.enter().unwrap().0, until);
        let reading = tokio::spawn(async move { connection.read_u8().await });
        tokio::task::yield_now().await;
        let (_slot, made_room) = slots.enter().unwrap();
        assert!(made_room && reading.await.unwrap().unwrap_err().kind() == io::ErrorKind::ConnectionAborted);
    }
}
