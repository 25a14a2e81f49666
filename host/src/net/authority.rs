//! Lets clients call this node by any name. h2 accepts an `:authority` only if it is the authority
//! of a URI. This filter checks it before h2 does, and replaces a bad one. Changes no other byte
//! that a client sends, and none that it receives.
//!
//! A client that was given several addresses in one target sends the whole target:
//! `127.0.0.1:40051,127.0.0.1:40052`. A node does not use the name.
//!
//! - Every header block of a connection is checked, because a proxy puts calls of many clients on
//!   one. That takes 50 to 100 ns a call and no copy: the bytes are read where the HTTP library
//!   wants them, and stay there.
//! - A bad authority is replaced by a good one *of the same length*. The entries of the client's
//!   HPACK table then have the same indexes and sizes here as at the client, so that nothing else
//!   has to be rewritten, in this block or in a later one.
//! - Anything unreadable is passed on as it is, with all that follows. h2 judges it and reports the
//!   error.
//! - At most one header block is held back, of at most [`frames::BLOCK_BYTES_MAX`].

mod frames;
mod hpack;
mod huffman;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use frames::Filter;

/// A client's connection. Its requests no longer name a bad authority.
#[derive(Debug)]
pub struct AnyAuthority<S> {
    connection: S,
    filter: Filter,
}

impl<S> AnyAuthority<S> {
    /// Wraps a connection on which nothing was read yet.
    pub fn new(connection: S) -> AnyAuthority<S> {
        AnyAuthority { connection, filter: Filter::new() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AnyAuthority<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let AnyAuthority { connection, filter } = &mut *self;
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if filter.take(buffer) {
                return Poll::Ready(Ok(()));
            }
            let before = buffer.filled().len();
            ready!(Pin::new(&mut *connection).poll_read(context, buffer))?;
            let fresh = &buffer.filled()[before..];
            if fresh.is_empty() {
                filter.end();
                filter.take(buffer);
                return Poll::Ready(Ok(()));
            }
            let passed = filter.look(fresh);
            buffer.set_filled(before + passed);
            if passed > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AnyAuthority<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}
