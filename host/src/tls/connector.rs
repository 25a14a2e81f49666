//! The dialling end of a node, towards its peers. Checks that a node of the own cluster answers.
//! Which node it has to be, the caller checks.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::client_stream::Trusted;
use super::keeper::Keeper;
use super::reason::{is_not_tls, reason};
use super::settings::Mode;
use super::stream::Chain;
use super::verify::PeerServer;
use super::{Certificate, ClientStream};

/// Longest time of a handshake. It takes two round trips.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The dialling end of a node. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Connector {
    mode: Mode,
    /// `None` if nothing is encrypted.
    keeper: Option<Arc<Keeper>>,
    raft_id: Arc<str>,
}

impl Connector {
    /// Makes one that encrypts nothing.
    pub fn plain() -> Connector {
        Connector::default()
    }

    pub(super) fn of(mode: Mode, keeper: Option<Arc<Keeper>>, raft_id: &str) -> Connector {
        Connector { mode, keeper, raft_id: raft_id.into() }
    }

    /// Returns whether connections are encrypted.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Returns the name of the cluster that our certificate names. Empty if it names none, and then
    /// nodes of any are accepted.
    pub fn cluster(&self) -> String {
        let own = self.keeper.as_ref().map(|keeper| keeper.now().own.clone());
        own.and_then(|own| own.cluster_of(&self.raft_id).map(str::to_owned)).unwrap_or_default()
    }

    /// Makes a connection as the mode wants it, with `dial` for each attempt. With [`Mode::Prefer`]
    /// it tries TLS first, and plain text if the other end does not speak TLS.
    ///
    /// # Errors
    /// As [`Connector::secure`], and as `dial`.
    pub async fn connect<D, F>(&self, mut dial: D) -> io::Result<(ClientStream, Option<Arc<Certificate>>)>
    where
        D: FnMut() -> F,
        F: Future<Output = io::Result<TcpStream>>,
    {
        if self.mode == Mode::Off {
            return Ok((ClientStream::Plain(dial().await?), None));
        }
        match self.secure(dial().await?).await {
            Ok((stream, certificate)) => Ok((stream, Some(certificate))),
            Err(error) if self.mode == Mode::Prefer && is_not_tls(&error) => {
                Ok((ClientStream::Plain(dial().await?), None))
            }
            Err(error) => Err(explained(error)),
        }
    }

    /// Makes the handshake over an open connection. Returns the certificate of the node that has
    /// answered. It names a node of the same cluster as ours. A read fails once new files no longer
    /// trust it.
    ///
    /// # Errors
    /// The handshake fails, or the certificate names no such node. Always with [`Mode::Off`].
    pub async fn secure(&self, stream: TcpStream) -> io::Result<(ClientStream, Arc<Certificate>)> {
        let client = |keeper: &Arc<Keeper>| Some((keeper.clone(), keeper.now().client.clone()?));
        let Some((keeper, config)) = self.keeper.as_ref().and_then(client) else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this node has no certificate for its peers"));
        };
        let name = ServerName::IpAddress(stream.peer_addr()?.ip().into());
        let handshake = TlsConnector::from(config).connect(name, stream);
        let Ok(stream) = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await else {
            let text = format!("no handshake within {HANDSHAKE_TIMEOUT:?}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        };
        let stream = stream?;
        let chain: Chain = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec).unwrap_or_default();
        let certificate = chain.first().and_then(|first| Certificate::read(first));
        let Some(certificate) = certificate else { return Err(refused("its certificate cannot be read")) };
        let cluster = self.cluster();
        if certificate.node_of(&cluster).is_empty() {
            let shown = certificate.describe();
            return Err(refused(&match cluster.is_empty() {
                true => format!("its certificate names no node, but {shown}"),
                false => format!("its certificate names no node of the cluster {cluster}, but {shown}"),
            }));
        }
        let refused = async move {
            let accepts = |dialled: &Arc<PeerServer>| dialled.still_accepts(&chain);
            keeper.until_refused(|material| !material.dialled.as_ref().is_some_and(accepts)).await;
        };
        let stream = Trusted::new(stream, Box::pin(refused));
        Ok((ClientStream::Encrypted(Box::new(stream)), Arc::new(certificate)))
    }
}

fn refused(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, reason)
}

/// Returns the error with its reason in words.
fn explained(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("TLS: {}", reason(&error)))
}
