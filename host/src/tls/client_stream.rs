//! The bytes of one dialled connection, encrypted or not.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// A dialled connection below HTTP.
#[derive(Debug)]
pub enum ClientStream {
    /// Nothing is encrypted.
    Plain(TcpStream),
    /// TLS, after the handshake.
    Encrypted(Box<Trusted>),
}

/// An encrypted connection that ends once the other end is trusted no more.
pub struct Trusted {
    io: TlsStream<TcpStream>,
    /// Completes then. `None` after that.
    refused: Option<BoxFuture<'static, ()>>,
}

impl std::fmt::Debug for Trusted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Trusted").field(&self.io).finish()
    }
}

impl Trusted {
    pub(super) fn new(io: TlsStream<TcpStream>, refused: BoxFuture<'static, ()>) -> Trusted {
        Trusted { io, refused: Some(refused) }
    }

    fn poll_refused(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(refused) = &mut self.refused {
            if refused.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            self.refused = None;
        }
        let text = "the new files with CAs do not trust the certificate of the other end any more";
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, text))
    }
}

macro_rules! each {
    ($self:expr, $io:ident => $body:expr) => {
        match $self {
            ClientStream::Plain($io) => $body,
            ClientStream::Encrypted(trusted) => {
                let $io = &mut trusted.io;
                $body
            }
        }
    };
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let ClientStream::Encrypted(trusted) = this {
            trusted.poll_refused(cx)?;
        }
        each!(this, io => Pin::new(io).poll_read(cx, buffer))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), io => Pin::new(io).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), io => Pin::new(io).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            ClientStream::Plain(io) => io.is_write_vectored(),
            ClientStream::Encrypted(trusted) => trusted.io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), io => Pin::new(io).poll_shutdown(cx))
    }
}
