//! Ends a connection that is being served with words of its own: sends them, closes this side, and
//! waits a moment for the other side to read. Whoever serves the connection gets the reason only
//! then, and drops it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Longest time for the words to be sent and read.
const PATIENCE: Duration = Duration::from_millis(500);

/// Words that are on their way.
pub(super) struct Farewell {
    words: Vec<u8>,
    sent: usize,
    is_shut: bool,
    until: Pin<Box<Sleep>>,
    reason: &'static str,
}

impl Farewell {
    pub(super) fn new(words: Vec<u8>, reason: &'static str) -> Farewell {
        Farewell { words, sent: 0, is_shut: false, until: Box::pin(tokio::time::sleep(PATIENCE)), reason }
    }

    /// Completes with the reason, once all is said or the other side is not listening.
    pub(super) fn poll(
        &mut self,
        mut io: impl AsyncRead + AsyncWrite + Unpin,
        cx: &mut Context<'_>,
    ) -> Poll<io::Error> {
        let is_gone = match self.poll_say(&mut io, cx) {
            Poll::Ready(Err(_)) => true,
            // Unread bytes would reset the connection, and the words would be lost.
            Poll::Ready(Ok(())) | Poll::Pending => poll_drain(&mut io, cx).is_ready(),
        };
        if is_gone || self.until.as_mut().poll(cx).is_ready() {
            return Poll::Ready(io::Error::new(io::ErrorKind::ConnectionAborted, self.reason));
        }
        Poll::Pending
    }

    fn poll_say(&mut self, mut io: impl AsyncWrite + Unpin, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.words.len() {
            match Pin::new(&mut io).poll_write(cx, &self.words[self.sent..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(bytes)) => self.sent += bytes,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        if !self.is_shut {
            match Pin::new(&mut io).poll_shutdown(cx) {
                Poll::Ready(Ok(())) => self.is_shut = true,
                other => return other,
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Discards what arrives. Completes at the end.
fn poll_drain(mut io: impl AsyncRead + Unpin, cx: &mut Context<'_>) -> Poll<()> {
    let mut space = [0; 4 << 10];
    loop {
        let mut buffer = ReadBuf::new(&mut space);
        match Pin::new(&mut io).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
            Poll::Ready(_) => return Poll::Ready(()),
            Poll::Pending => return Poll::Pending,
        }
    }
}
