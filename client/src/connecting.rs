//! Makes a client from a list of addresses: how it is to behave, and how long it waits for a node
//! that is only starting. It makes no calls.

use std::error::Error;
use std::fmt;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::addresses::{self, AddressError};
use crate::nodes::{self, Nodes};
use crate::refused::is_refusal;
use crate::{Client, Shared, Tls, Token};

/// Time between two looks at an address where nothing listens.
const LISTEN_PAUSE: Duration = Duration::from_millis(50);

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether the client looks for the leader and sends a call again when no node ran it. Default:
    /// true.
    ///
    /// Without it, the list holds one address. Each call is one attempt at that node, which
    /// forwards commands by itself, and the caller gets what came of it. Requests are not held, so
    /// [`request_bytes_max`](Options::request_bytes_max) does not count, and a stream of requests
    /// may go on while replies come.
    pub follow_leader: bool,
    /// The time that a call without a deadline of its own may take, all attempts together, until
    /// its answer begins. A stream that has begun goes on. Nodes end a command or a query without a
    /// deadline after 10 s, so a longer one is set on the request. `Duration::MAX` means no limit.
    /// Default: 10 s.
    pub call_timeout: Duration,
    /// The time that one attempt to connect may take. Default: 2 s.
    pub connect_timeout: Duration,
    /// How long [`connect`](Options::connect) waits while nothing listens at an address. The node
    /// may just be starting. Default: zero.
    pub patience: Duration,
    /// How long a node may leave a ping unanswered until its connection counts as broken. A ping
    /// is sent after 20 s without one, also on an idle connection. Default: 10 s.
    pub ping_timeout: Duration,
    /// The largest request, in bytes. The client holds a request until its call has ended. Default:
    /// 4 MiB, as nodes have it.
    pub request_bytes_max: usize,
    /// Encrypts every connection, also to a leader that a node names. Default: none, so nothing is
    /// encrypted.
    pub tls: Option<Tls>,
    /// The token that is shown with every call whose request has no metadata `authorization` of its
    /// own. Default: none.
    pub token: Option<Token>,
    /// Whether the token is also sent to other machines over connections without TLS, where
    /// everybody on the way can take it. Default: false.
    pub token_without_tls: bool,
    /// The pause before the second attempt. It doubles with each attempt. Default: 10 ms.
    pub pause_min: Duration,
    /// The longest pause between two attempts. Default: 500 ms.
    pub pause_max: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            follow_leader: true,
            call_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(2),
            patience: Duration::ZERO,
            ping_timeout: Duration::from_secs(10),
            request_bytes_max: 4 << 20,
            tls: None,
            token: None,
            token_without_tls: false,
            pause_min: Duration::from_millis(10),
            pause_max: Duration::from_millis(500),
        }
    }
}

impl Options {
    /// Returns options for one node alone: every call is one attempt at the address that
    /// [`connect`](Options::connect) gets, and takes as long as that node lets it. See
    /// [`follow_leader`](Options::follow_leader).
    pub fn one_node() -> Options {
        Options { follow_leader: false, call_timeout: Duration::MAX, ..Options::default() }
    }

    /// Connects as [`connect`](crate::connect()) does.
    ///
    /// # Errors
    /// Those of [`connect`](crate::connect()).
    pub async fn connect(self, addresses: &str) -> Result<Client, ConnectError> {
        self.connect_with_notice(addresses, |_| ()).await
    }

    /// Connects, and calls `waiting` once when the client begins to wait for a node that does not
    /// listen yet. It gets the addresses where nothing listens.
    ///
    /// # Errors
    /// Those of [`connect`](crate::connect()).
    pub async fn connect_with_notice(
        self,
        addresses: &str,
        waiting: impl FnOnce(&[&str]),
    ) -> Result<Client, ConnectError> {
        let deadline = Instant::now().checked_add(self.patience);
        let client = self.connect_lazily(addresses)?;
        let mut waiting = Some(waiting);
        loop {
            let Err(unreached) = client.reach_one().await else { return Ok(client) };
            let silent: Vec<&str> =
                unreached.iter().filter(|node| node.is_refused()).map(|node| node.address()).collect();
            if silent.is_empty() || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(ConnectError::Unreachable(unreached));
            }
            if let Some(waiting) = waiting.take() {
                waiting(&silent);
            }
            sleep(LISTEN_PAUSE).await;
        }
    }

    /// Makes a client that connects with its first call.
    ///
    /// # Errors
    /// `addresses` is malformed, or names several nodes although the client is to call one.
    pub fn connect_lazily(self, addresses: &str) -> Result<Client, AddressError> {
        let addresses = addresses::parse(addresses, self.tls.is_some())?;
        if !self.follow_leader && addresses.len() > 1 {
            return Err(AddressError::Several(addresses.len()));
        }
        let nodes = Nodes::new(addresses, self.connect_timeout, self.ping_timeout, self.tls.clone());
        Ok(Client { shared: Arc::new(Shared { options: self, nodes }), repeats: false })
    }
}

impl Client {
    /// Connects to one of the nodes. When none can be reached, returns why, for each.
    async fn reach_one(&self) -> Result<(), Vec<Unreached>> {
        let mut avoid = Vec::new();
        let mut unreached = Vec::new();
        while let Some(address) = self.nodes().choose(&avoid) {
            match self.nodes().connection(&address).await {
                Ok(_) => return Ok(()),
                Err(error) => unreached.push(Unreached { address: address.clone(), error }),
            }
            self.nodes().failed(&address, None);
            avoid.push(address);
        }
        Err(unreached)
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The list of addresses cannot be used.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// No node takes a connection. There is one element for each address.
    #[error("no node can be reached: {}", .0.iter().map(Unreached::to_string).collect::<Vec<_>>().join("; "))]
    Unreachable(Vec<Unreached>),
}

/// Why one node took no connection.
#[derive(Debug)]
pub struct Unreached {
    address: String,
    error: nodes::Error,
}

impl Unreached {
    /// Returns the address of the node.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns whether nothing listens at the address.
    pub fn is_refused(&self) -> bool {
        causes(&*self.error).any(|cause| {
            let io = cause.downcast_ref::<std::io::Error>();
            io.is_some_and(|io| io.kind() == ErrorKind::ConnectionRefused)
        })
    }

    /// Returns whether TLS failed: the node's certificate was refused, or the node refused this
    /// side's, or one side does not speak TLS, or a file has no certificate.
    pub fn is_tls(&self) -> bool {
        causes(&*self.error).any(|cause| cause.is::<crate::TlsError>()) || is_refusal(&chain(&*self.error))
    }

    /// Returns the text of the innermost cause. It says what happened; the outer ones say only that
    /// something failed.
    pub fn reason(&self) -> String {
        causes(&*self.error).last().map_or_else(String::new, |cause| cause.to_string())
    }
}

impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.address, chain(&*self.error))
    }
}

/// An error and what is behind it, from the outside in.
pub(crate) fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&cause| cause.source())
}

/// An error with its causes, as one text.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    causes(error).map(|cause| cause.to_string()).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::SocketAddr;

    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    /// An address that is taken and does not listen yet.
    fn closed() -> (TcpSocket, String) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = socket.local_addr().unwrap().to_string();
        (socket, address)
    }

    #[tokio::test]
    async fn a_node_that_is_just_starting_is_waited_for_with_one_notice() {
        let (socket, address) = closed();
        let options = Options { patience: Duration::from_secs(60), ..Options::one_node() };
        let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
        let notice = |silent: &[&str]| told.send(silent.join(" ")).unwrap();
        let opened = async {
            assert_eq!(hears.recv().await.unwrap(), address);
            socket.listen(1).unwrap()
        };
        let (connected, _listener): (_, TcpListener) =
            tokio::join!(options.connect_with_notice(&address, notice), opened);
        connected.unwrap();
    }

    #[tokio::test]
    async fn without_patience_a_closed_address_is_named_at_once() {
        let (_socket, address) = closed();
        let error = Options::one_node().connect_with_notice(&address, |_| panic!("it waits")).await;
        let ConnectError::Unreachable(nodes) = error.unwrap_err() else { panic!("the address is sound") };
        assert!(nodes.len() == 1 && nodes[0].address() == address && nodes[0].is_refused(), "{nodes:?}");
        assert!(nodes[0].reason().contains("refused") && nodes[0].to_string().starts_with(&address), "{nodes:?}");
    }

    #[tokio::test]
    async fn one_node_is_one_address() {
        let several = Options::one_node().connect("a:1,b:2").await.unwrap_err();
        assert!(matches!(several, ConnectError::Address(AddressError::Several(2))), "{several}");
        assert!(Options::one_node().connect_lazily("a:1, a:1").is_ok(), "it is the same one");
    }
}
