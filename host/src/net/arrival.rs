//! A connection that has a place at its port, before it is served: with TLS its handshake comes
//! first, in its turn. Silence, the need for room, and a failed handshake end it here. Runs in the
//! task of the connection, so that no handshake holds up another connection. The handshake itself
//! runs where its port says.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::connection::{Connection, PREFACE_TIMEOUT, Resets};
use super::counts::Counts;
use super::handshakes::Handshakes;
use super::remote::Remote;
use super::slots::Slot;
use super::unencrypted;
use crate::source::Source;
use crate::tls::{self, Mode, Server, Stream, speaks_tls};

/// Why a connection is closed that does not speak TLS, in words for its user. The client crate
/// knows the first of them.
const WANTS_TLS: &str = "this port speaks TLS alone: use https, or give the CA (--tls_ca)";

/// Longest time of a handshake once it has its turn. It takes two round trips.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How a port encrypts its connections, and what its handshakes may take.
#[derive(Clone, Debug)]
pub(super) struct Encryption {
    pub(super) tls: Server,
    pub(super) handshakes: Handshakes,
    /// Where handshakes run; `None` for where the connection does.
    pub(super) runs_on: Option<Handle>,
}

/// A connection of which nothing was read. Its place is given back when it is dropped.
#[derive(Debug)]
pub struct Arrival {
    stream: TcpStream,
    address: SocketAddr,
    encryption: Encryption,
    counts: Arc<Counts>,
    slot: Slot,
    resets: Resets,
    /// When its handshake and its preface must be finished.
    until: Instant,
}

impl Arrival {
    pub(super) fn new(
        stream: TcpStream,
        address: SocketAddr,
        encryption: Encryption,
        counts: Arc<Counts>,
        slot: Slot,
        resets: Resets,
    ) -> Arrival {
        Arrival { stream, address, encryption, counts, slot, resets, until: Instant::now() + PREFACE_TIMEOUT }
    }

    /// Returns what decides about its certificate.
    pub fn tls(&self) -> Server {
        self.encryption.tls.clone()
    }

    /// Makes the handshake, if there is one. `None` if the connection is over.
    pub async fn open(self) -> Option<(Connection<Stream>, Remote)> {
        let Arrival { stream, address, encryption, counts, mut slot, resets, until } = self;
        let opened = tokio::select! {
            opened = handshake(stream, &encryption, &counts, address) => opened?,
            () = poll_fn(|cx| slot.poll_evicted(cx)) => return None,
            () = tokio::time::sleep_until(until) => {
                Counts::add(&counts.silent_closed);
                return None;
            }
        };
        let (stream, certificate) = opened;
        let is_encrypted = matches!(stream, Stream::Encrypted(_));
        if !is_encrypted {
            Counts::add(&counts.plain);
        }
        if !is_encrypted && encryption.tls.mode() == Mode::Prefer && encryption.tls.is_for_peers() {
            slot.is_not_encrypted();
        }
        let remote = Remote { address, certificate, is_encrypted };
        let connection = Connection::new(stream, counts, slot, until);
        Some((connection.with_resets(resets), remote))
    }
}

type Opened = (Stream, Option<Arc<tls::Certificate>>);

async fn handshake(stream: TcpStream, encryption: &Encryption, counts: &Counts, address: SocketAddr) -> Option<Opened> {
    let Encryption { tls, handshakes, runs_on } = encryption;
    if tls.mode() == Mode::Off {
        return Some((Stream::Plain(stream), None));
    }
    match speaks_tls(&stream).await {
        Ok(true) => {}
        Ok(false) if tls.mode() == Mode::Prefer => return Some((Stream::Plain(stream), None)),
        Ok(false) => {
            counts.handshake_failed(address, "it does not speak TLS, and this port speaks nothing else");
            unencrypted::tell(stream, WANTS_TLS).await;
            return None;
        }
        // A probe, or somebody who changed their mind.
        Err(error) => return gone(&error),
    }
    let source = Source::of(address.ip());
    let turn = handshakes.turn(source).await;
    let accepted = tokio::time::timeout(HANDSHAKE_TIMEOUT, accept(stream, tls.clone(), runs_on.as_ref())).await;
    drop(turn);
    match accepted {
        Ok(Ok(opened)) => {
            if opened.1.is_some() {
                handshakes.has_shown(source);
            }
            Some(opened)
        }
        Ok(Err(error)) => {
            counts.handshake_failed(address, &tls::reason(&error));
            None
        }
        Err(_) => {
            Counts::add(&counts.silent_closed);
            None
        }
    }
}

/// Makes the handshake, on other threads if they are given. It ends when the result is dropped.
async fn accept(stream: TcpStream, tls: Server, runs_on: Option<&Handle>) -> io::Result<Opened> {
    let Some(threads) = runs_on else { return tls.accept(stream).await };
    let mut accepting = JoinSet::new();
    accepting.spawn_on(async move { tls.accept(stream).await }, threads);
    let accepted = accepting.join_next().await.unwrap_or_else(|| Ok(Err(io::ErrorKind::Interrupted.into())));
    accepted.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn gone(error: &io::Error) -> Option<Opened> {
    tracing::debug!(%error, "a connection ended before its handshake");
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::net::Port;
    use crate::tls::made::Made;
    use crate::tls::{Audience, MinVersion, ServerSettings};

    /// Serves a port with one place that speaks TLS: reads from each connection and keeps it.
    fn serve(mode: Mode) -> (Port, SocketAddr) {
        let made = Made::new();
        let files = made.server("server", "localhost", None);
        let audience = Audience::Clients { min_version: MinVersion::Tls13 };
        let tls = Server::open(ServerSettings { mode, files, audience }).unwrap();
        let port = Port::new("test", 1).encrypted_by(tls);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut arrivals = port.listen(listener).unwrap().connections();
        tokio::spawn(async move {
            while let Some(arrival) = arrivals.next().await {
                tokio::spawn(async move {
                    if let Some((mut connection, _)) = arrival.open().await {
                        drop(connection.read_to_end(&mut Vec::new()).await);
                    }
                });
            }
        });
        (port, address)
    }

    async fn heard(address: SocketAddr, said: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(said).await.unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        heard
    }

    #[tokio::test]
    async fn plain_text_is_refused_in_its_own_words() {
        let (port, address) = serve(Mode::Require);
        let http1 = String::from_utf8(heard(address, b"GET / HTTP/1.1\r\n\r\n").await).unwrap();
        assert!(http1.starts_with("HTTP/1.1 400 ") && http1.contains("speaks TLS"), "{http1}");
        let http2 = heard(address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        assert!(http2[3] == 4 && http2[9 + 3] == 7 && http2.ends_with(WANTS_TLS.as_bytes()), "{http2:?}");
        assert_eq!(port.status().handshakes_failed, 2);
    }

    #[tokio::test]
    async fn one_that_is_silent_in_its_handshake_makes_room() {
        let (port, address) = serve(Mode::Require);
        let mut silent = TcpStream::connect(address).await.unwrap();
        silent.write_all(&[0x16, 3, 1]).await.unwrap();
        while port.status().open == 0 {
            tokio::task::yield_now().await;
        }
        let _next = TcpStream::connect(address).await.unwrap();
        assert_eq!(silent.read(&mut [0; 8]).await.unwrap_or(0), 0, "it made room");
        assert_eq!(port.status().silent_closed, 1);
    }

    #[tokio::test]
    async fn where_tls_is_preferred_plain_text_is_served() {
        let (port, address) = serve(Mode::Prefer);
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        while port.status().open != 1 || port.status().silent != 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!((port.status().handshakes_failed, port.status().plain), (0, 1));
    }
}
