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
//! - A command that a node returned unrun, because its log entry had no fuel left, or no room for
//!   its reply.
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
//! # One node alone
//!
//! [`Options::one_node`] makes a client of one node for what only that node can say or do: its
//! status, a change of membership that names it, a read of its own state, a test. Each call is one
//! attempt, and the caller gets what came of it. Nothing is sent again, not even what certainly did
//! not run.
//!
//! # Who speaks
//!
//! [`Options::tls`] encrypts every connection, and [`Tls::identity`] or [`Options::token`] say who
//! the client is. Both go to every node alike, also to a leader that a node names. What a node
//! refuses for who the client is (`UNAUTHENTICATED`, `PERMISSION_DENIED`) is not tried elsewhere.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use lockstep_client::{Options, Tls, Token};
//!
//! let tls = Tls::trusting_file("certs/ca.pem");
//! let token = Some(Token::file("/run/secrets/token"));
//! let options = Options { tls: Some(tls), token, ..Options::default() };
//! let cluster = options.connect("db1.example:20051,db2.example:20051").await?;
//! # Ok(())
//! # }
//! ```

mod addresses;
mod attempt;
mod call;
mod connecting;
mod nodes;
mod outcome;
mod refused;
mod tls;
mod token;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

pub use addresses::AddressError;
pub use attempt::{Unanswered, unanswered};
pub use connecting::{ConnectError, Options, Unreached};
pub use outcome::{Outcome, index, leader, outcome};
pub use tls::{Tls, TlsError};
pub use token::{Token, TokenError};

use call::Call;
use nodes::Nodes;

/// Connects to a cluster with the default [`Options`]. `addresses` names one node or more:
/// `host:port`, separated by commas. One reachable node is enough; it names the leader.
///
/// # Errors
/// `addresses` is malformed, or no node can be reached.
pub async fn connect(addresses: &str) -> Result<Client, ConnectError> {
    Options::default().connect(addresses).await
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
    /// run twice. A client of one node alone sends nothing again all the same.
    #[must_use]
    pub fn repeating(&self) -> Client {
        Client { shared: self.shared.clone(), repeats: true }
    }

    /// Returns the addresses of the nodes that the client knows, those first that it was given.
    pub fn addresses(&self) -> Vec<String> {
        self.shared.nodes.addresses()
    }

    /// Returns whether its connections are encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.shared.options.tls.is_some()
    }

    /// Returns whether it shows nodes a certificate.
    pub fn has_identity(&self) -> bool {
        self.shared.options.tls.as_ref().is_some_and(Tls::has_identity)
    }

    /// Returns whether it shows nodes a token.
    pub fn has_token(&self) -> bool {
        self.shared.options.token.is_some()
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
    /// The status of a call that no node answered. A node's own status is a response.
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let client = self.clone();
        Box::pin(async move {
            match client.options().follow_leader {
                true => Call::new(client, request).await?.run().await,
                false => call::once(&client, request).await,
            }
        })
    }
}
