//! How a peer is dialled: the one way from this process to a peer port, encrypted or not, the
//! settings of every channel, and the limits that all peers keep. It keeps no channel, and decides
//! no trust: `tls` verifies certificates, and `names` says which node a certificate names.
//!
//! - A host name is tried at every address it resolves to (`localhost` is two).
//! - A connection to a node of which the name is known is not used when its certificate names
//!   another node.
//! - While `--peer_tls_mode` is `prefer`, a peer that does not speak TLS is dialled again without.
//!   One whose certificate was refused is not.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use lockstep_proto::peer::peer_client::PeerClient;
use lockstep_proto::peer::{IdentifyResponse, Route};
use parking_lot::Mutex;
use prost::Message;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tonic::Status;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};

use super::names::Names;
use crate::net::TokioIo;
use crate::tls::{Certificate, ClientStream, Connector};
use crate::types::Addresses;

/// Largest answer of a peer.
pub const PEER_ANSWER_BYTES_MAX: usize = 64 << 20;

/// Largest message that a peer sends. One log entry must fit: the proposer packs at most 1 MiB into
/// one, or a single command of 2 MiB, and an import at most 1 MiB or one row; a genesis entry is
/// small. The log reader cuts appends at 1 MiB, or one entry.
pub const PEER_MESSAGE_BYTES_MAX: usize = 32 << 20;

/// Largest answer of [`small_client`]: an introduction, or a chunk of a component or of a state.
const SMALL_ANSWER_BYTES_MAX: usize = 4 << 20;

/// Metadata of a call that may have large messages: the encoded Route.
pub(in crate::raft) const ROUTE: &str = "lockstep-route-bin";

/// Time between keepalive pings, also while nothing is being sent. A dead TCP connection is noticed
/// after this time and [`KEEPALIVE_TIMEOUT`].
pub(in crate::raft) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Longest wait for the answer to a keepalive ping.
pub(in crate::raft) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time to reach a peer, over all of its addresses.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest time after that for the handshake of TLS, and for another connection without it.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(8);

pub(in crate::raft) const STREAM_WINDOW_BYTES: u32 = 4 << 20;
pub(in crate::raft) const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// An address that cannot be dialled.
#[derive(Debug, thiserror::Error)]
#[error("{address:?} is not an address of the form host:port: {source}")]
pub struct AddressError {
    address: String,
    source: tonic::transport::Error,
}

/// Which node must be at the other end. Only a certificate can show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The node with this name.
    Node(String),
    /// Any node of the cluster.
    AnyNode,
}

impl Expect {
    /// Expects the node that the membership has. An early membership may lack its name.
    pub fn of(node: &Addresses) -> Expect {
        Expect::named(&node.name)
    }

    /// Expects the node with that name, or any one if it is empty.
    pub fn named(name: &str) -> Expect {
        match name {
            "" => Expect::AnyNode,
            name => Expect::Node(name.to_owned()),
        }
    }
}

/// Dials peers. Clones share what it dials with.
#[derive(Clone)]
pub struct Dialer {
    connector: Connector,
    names: Names,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dialer({:?})", self.connector.mode())
    }
}

/// A connection that was just opened.
pub struct Dialled {
    /// The channel on it.
    pub channel: Channel,
    shown: Shown,
}

/// The certificate that the other end has shown last.
type Shown = Arc<Mutex<Option<Arc<Certificate>>>>;

impl Dialer {
    /// Dials by `connector`. `names` says which node a certificate names.
    pub fn new(connector: Connector, names: Names) -> Dialer {
        Dialer { connector, names }
    }

    /// Encrypts nothing.
    #[cfg(test)]
    pub fn plain() -> Dialer {
        Dialer::new(Connector::plain(), Names::new(Connector::plain(), ""))
    }

    /// Returns a channel that connects with its first call. Dials nothing yet.
    pub fn lazy(&self, address: &str, expect: Expect) -> Result<Channel, AddressError> {
        Ok(endpoint(address)?.connect_with_connector_lazy(self.way(address, expect)))
    }

    /// Opens a connection now.
    pub async fn connect(&self, address: &str, expect: Expect) -> Result<Dialled, Status> {
        let endpoint = endpoint(address).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let way = self.way(address, expect);
        let shown = way.shown.clone();
        let channel = endpoint.connect_with_connector(way).await;
        Ok(Dialled { channel: channel.map_err(|error| Status::from_error(error.into()))?, shown })
    }

    /// Checks that whoever answered at `dialled` is the node that it says to be.
    pub fn check_answer(&self, dialled: &Dialled, answer: &IdentifyResponse) -> Result<(), Status> {
        let name = answer.node.as_ref().map(|node| node.name.as_str()).unwrap_or_default();
        let shown = dialled.shown.lock().clone();
        shown.map_or(Ok(()), |certificate| self.names.admit_as(name, &certificate))
    }

    fn way(&self, address: &str, expect: Expect) -> Way {
        Way { dialer: self.clone(), address: address.to_owned(), expect, shown: Shown::default() }
    }
}

/// Returns the endpoint for an address given as text. Dials nothing yet.
fn endpoint(address: &str) -> Result<Endpoint, AddressError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|source| AddressError { address: address.to_owned(), source })?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT + HANDSHAKE_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
}

/// Returns the message of a call that may have large ones: the route in the metadata says early
/// that it may.
pub fn routed<T>(message: T, route: &Route) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert_bin(ROUTE, MetadataValue::from_bytes(&route.encode_to_vec()));
    request
}

/// Creates a client for calls whose answers are small.
pub fn small_client(channel: Channel) -> PeerClient<Channel> {
    PeerClient::new(channel).max_decoding_message_size(SMALL_ANSWER_BYTES_MAX)
}

/// Creates a client with the limits that all peers keep.
pub fn client(channel: Channel) -> PeerClient<Channel> {
    PeerClient::new(channel)
        .max_decoding_message_size(PEER_ANSWER_BYTES_MAX)
        .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX)
}

/// The connector of one channel, as tonic calls it for each connection.
#[derive(Clone)]
struct Way {
    dialer: Dialer,
    address: String,
    expect: Expect,
    shown: Shown,
}

impl Service<Uri> for Way {
    type Response = TokioIo<ClientStream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<ClientStream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let way = self.clone();
        Box::pin(async move { Ok(TokioIo::new(way.open().await?)) })
    }
}

impl Way {
    async fn open(&self) -> io::Result<ClientStream> {
        *self.shown.lock() = None;
        let (stream, certificate) = self.dialer.connector.connect(|| reach(&self.address)).await?;
        if let Some(certificate) = certificate {
            self.check(&certificate)?;
            *self.shown.lock() = Some(certificate);
        }
        Ok(stream)
    }

    fn check(&self, certificate: &Certificate) -> io::Result<()> {
        let Expect::Node(name) = &self.expect else { return Ok(()) };
        let checked = self.dialer.names.admit_as(name, certificate);
        checked.map_err(|status| io::Error::new(io::ErrorKind::PermissionDenied, status.message().to_owned()))
    }
}

/// Connects to the first address that accepts.
async fn reach(address: &str) -> io::Result<TcpStream> {
    let found: Vec<_> = timeout(CONNECT_TIMEOUT, lookup_host(address)).await??.collect();
    let each = CONNECT_TIMEOUT / u32::try_from(found.len()).unwrap_or(u32::MAX).max(1);
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for at in found {
        match timeout(each, TcpStream::connect(at)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => failed = error,
            Err(elapsed) => failed = elapsed.into(),
        }
    }
    Err(failed)
}
