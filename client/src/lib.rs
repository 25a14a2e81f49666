//! A client of a Lockstep cluster. It takes the addresses of any nodes, finds the leader, keeps one
//! connection to each node, and sends a call again when no node ran it. It is a tower service, so
//! it carries every client that tonic generates:
//!
//! ```no_run
//! # mod pb { pub struct ExampleClient; impl ExampleClient { pub fn new<T>(_: T) -> Self { Self } } }
//! # use pb::ExampleClient;
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = lockstep_client::connect("localhost:20051,localhost:20052,localhost:20053").await?;
//! let mut client = ExampleClient::new(cluster);
//! # Ok(())
//! # }
//! ```
//!
//! # What is sent again
//!
//! - A call that its node refused because it has no leader, or is not ready: the node says that the
//!   call did not run.
//! - A call whose connection could not be made.
//! - A command that a node returned unrun because its log entry had no fuel left.
//!
//! Attempts end at the deadline of the call (`Request::set_timeout`), or after
//! [`Options::call_timeout`] when it has none.
//!
//! # What is not sent again
//!
//! A call whose connection broke before the answer may have run. It ends with `UNKNOWN`, and
//! [`outcome`] says [`Outcome::Unknown`]. Queries, and commands that may run twice, can go through
//! [`Client::repeating`], which sends such a call again, too. A stream that has begun is never
//! begun again: the request of a watch says where it goes on.
//!
//! The client speaks plain gRPC; a cluster is reached over a network that its operator trusts.

mod addresses;
mod call;
mod nodes;
mod outcome;

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::body::Body;
use tower_service::Service;

pub use addresses::AddressError;
pub use outcome::{Outcome, index, leader, outcome};

use call::{Call, chain};
use nodes::Nodes;

/// Connects to a cluster with the default [`Options`]. `addresses` names one node or more:
/// `host:port`, separated by commas. One reachable node is enough; it names the leader.
///
/// # Errors
/// `addresses` is malformed, or no node can be reached.
pub async fn connect(addresses: &str) -> Result<Client, ConnectError> {
    Options::default().connect(addresses).await
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The list of addresses cannot be used.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// No node takes a connection.
    #[error("no node can be reached: {0}")]
    Unreachable(String),
}

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The time that a call without a deadline of its own may take, all attempts together, until
    /// its answer begins. A stream that has begun goes on. Nodes end a command or a query without a
    /// deadline after 10 s, so a longer one is set on the request. Default: 10 s.
    pub call_timeout: Duration,
    /// The time that one attempt to connect may take. Default: 2 s.
    pub connect_timeout: Duration,
    /// The largest request, in bytes. The client holds a request until its call has ended. Default:
    /// 4 MiB, as nodes have it.
    pub request_bytes_max: usize,
    /// The pause before the second attempt. It doubles with each attempt. Default: 10 ms.
    pub pause_min: Duration,
    /// The longest pause between two attempts. Default: 500 ms.
    pub pause_max: Duration,
}

impl Options {
    /// Connects as [`connect`] does.
    ///
    /// # Errors
    /// Those of [`connect`].
    pub async fn connect(self, addresses: &str) -> Result<Client, ConnectError> {
        let client = self.connect_lazily(addresses)?;
        let mut avoid = Vec::new();
        let mut words = Vec::new();
        while let Some(address) = client.nodes().choose(&avoid) {
            match client.nodes().channel(&address).await {
                Ok(_) => return Ok(client),
                Err(error) => words.push(format!("{address}: {}", chain(&error))),
            }
            client.nodes().failed(&address);
            avoid.push(address);
        }
        Err(ConnectError::Unreachable(words.join("; ")))
    }

    /// Makes a client that connects with its first call.
    ///
    /// # Errors
    /// `addresses` is malformed.
    pub fn connect_lazily(self, addresses: &str) -> Result<Client, AddressError> {
        let nodes = Nodes::new(addresses::parse(addresses)?, self.connect_timeout);
        Ok(Client { shared: Arc::new(Shared { options: self, nodes }), repeats: false })
    }
}

/// A cluster, as a tower service. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    repeats: bool,
}

struct Shared {
    options: Options,
    nodes: Nodes,
}

impl Client {
    /// Returns a client that also sends a call again when it may have run: when its connection
    /// broke before the answer. For queries, and for commands that have the same effect when they
    /// run twice.
    #[must_use]
    pub fn repeating(&self) -> Client {
        Client { shared: self.shared.clone(), repeats: true }
    }

    fn options(&self) -> &Options {
        &self.shared.options
    }

    fn nodes(&self) -> &Nodes {
        &self.shared.nodes
    }

    fn repeats(&self) -> bool {
        self.repeats
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("options", &self.shared.options)
            .field("repeats", &self.repeats)
            .finish_non_exhaustive()
    }
}

impl Service<http::Request<Body>> for Client {
    type Response = http::Response<Body>;
    /// A call that fails ends with a status, like one that a node refuses.
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let client = self.clone();
        Box::pin(async move {
            Ok(match Call::new(client, request).await {
                Ok(call) => call.run().await,
                Err(status) => status.into_http(),
            })
        })
    }
}
