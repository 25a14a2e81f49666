//! The accepting end of one port. Decides nothing about what a holder of a certificate may do.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::keeper::{Keeper, Looked};
use super::material::Material;
use super::settings::{Audience, Mode, ServerSettings, TlsError};
use super::stream::Chain;
use super::verify::while_valid;
use super::{Certificate, Connector, Stream};

/// First byte of a connection that speaks TLS: the kind of a record with a handshake message.
const HANDSHAKE: u8 = 0x16;

/// Longest time that the end of a failed handshake may take.
const LEAVE: Duration = Duration::from_secs(1);
/// Most bytes that are read meanwhile.
const LEAVE_BYTES_MAX: u64 = 64 << 10;

/// The accepting end of a port. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Server {
    mode: Mode,
    /// `None` if nothing is encrypted.
    keeper: Option<Arc<Keeper>>,
    is_for_peers: bool,
}

impl Server {
    /// Makes one that encrypts nothing.
    pub fn plain() -> Server {
        Server::default()
    }

    /// Reads the files. Blocks.
    ///
    /// # Errors
    /// A file cannot be used, with the reason.
    pub fn open(settings: ServerSettings) -> Result<Server, TlsError> {
        let ServerSettings { mode, files, audience } = settings;
        if mode == Mode::Off {
            return Ok(Server::plain());
        }
        let is_for_peers = matches!(audience, Audience::Peers { .. });
        Ok(Server { mode, keeper: Some(Keeper::open(files, audience)?), is_for_peers })
    }

    /// Returns whether connections are encrypted.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Returns whether the other ends are nodes, which all have certificates once they encrypt.
    pub fn is_for_peers(&self) -> bool {
        self.is_for_peers
    }

    /// Returns our certificate. `None` if nothing is encrypted.
    pub fn own(&self) -> Option<Arc<Certificate>> {
        self.keeper.as_ref().map(|keeper| keeper.now().own.clone())
    }

    /// Returns the CAs whose certificates are accepted, the first 64 of them. None without a file
    /// of CAs.
    pub fn authorities(&self) -> Arc<[Certificate]> {
        self.keeper.as_ref().map(|keeper| keeper.now().authorities.clone()).unwrap_or_default()
    }

    /// Returns the dialling end of the node whose peer port this is. It uses the same files.
    pub fn connector(&self, raft_id: &str) -> Connector {
        Connector::of(self.mode, self.keeper.clone(), raft_id)
    }

    /// Looks whether the files have changed. Blocks.
    pub fn look(&self) -> Looked {
        self.keeper.as_ref().map_or(Looked::Same, |keeper| keeper.look())
    }

    /// Returns whether new files were refused, and the old ones are still in use.
    pub fn are_files_refused(&self) -> bool {
        self.keeper.as_ref().is_some_and(|keeper| keeper.is_refusing())
    }

    /// Makes the handshake. Returns the verified certificate that the other end has shown, if any.
    /// Whether it is one of a client or of a node, the caller looks.
    ///
    /// With [`Mode::Prefer`], a connection that does not begin with TLS stays plain.
    ///
    /// # Errors
    /// The handshake fails; [`super::reason()`] says why in words.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<(Stream, Option<Arc<Certificate>>)> {
        let Some(keeper) = &self.keeper else { return Ok((Stream::Plain(stream), None)) };
        if self.mode == Mode::Prefer && !speaks_tls(&stream).await? {
            return Ok((Stream::Plain(stream), None));
        }
        let accepting = TlsAcceptor::from(keeper.now().server.clone()).accept(stream);
        let stream = match accepting.into_fallible().await {
            Ok(stream) => stream,
            Err((error, stream)) => {
                take_leave(stream).await;
                return Err(error);
            }
        };
        let certificate = self.shown(stream.get_ref().1.peer_certificates())?;
        Ok((Stream::Encrypted(Box::new(stream)), certificate))
    }

    fn shown(&self, chain: Option<&[CertificateDer<'static>]>) -> io::Result<Option<Arc<Certificate>>> {
        let Some(first) = chain.and_then(<[_]>::first) else { return Ok(None) };
        let refuse = |reason| Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        let Some(certificate) = Certificate::read(first) else { return refuse("its certificate cannot be read") };
        // A resumed session does not verify the dates again.
        if certificate.not_after < SystemTime::now() {
            return refuse("its certificate has expired");
        }
        Ok(Some(Arc::new(certificate)))
    }

    /// Completes once new files no longer accept the certificate that an open connection has shown.
    pub async fn until_refused(&self, chain: Option<Chain>) {
        let (Some(keeper), Some(chain)) = (&self.keeper, chain) else { return pending().await };
        let Some((first, others)) = chain.split_first() else { return pending().await };
        let refuses =
            |material: &Material| material.verifier.verify_client_cert(first, others, while_valid(first)).is_err();
        keeper.until_refused(refuses).await;
    }
}

/// Returns whether a connection begins with TLS. Waits for its first byte, and consumes nothing.
///
/// # Errors
/// The connection fails, or ends without a byte.
pub async fn speaks_tls(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    match stream.peek(&mut first).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(first[0] == HANDSHAKE),
    }
}

/// Lets the other end read the alert that says why its handshake failed. What it has sent meanwhile
/// is read and dropped: closing a socket with unread bytes would reset the connection, and the
/// alert would be lost.
async fn take_leave(mut stream: TcpStream) {
    let left = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut (&mut stream).take(LEAVE_BYTES_MAX), &mut tokio::io::sink()).await
    };
    // An end that does not wait for the reason does not need it.
    let _out_of_time = tokio::time::timeout(LEAVE, left).await;
}
