//! The nodes that a client knows and one connection to each. Chooses which node gets the next
//! attempt; sends nothing itself.

use std::time::Duration;

use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};

use crate::tls::Tls;

/// Why there is no connection.
pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// Nodes that one client knows at most. Addresses beyond it that nodes name as the leader's replace
/// learned ones.
const NODES_MAX: usize = 64;

/// How often an idle connection is checked, so that a node that vanished is noticed.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// All nodes of one client.
pub(crate) struct Nodes {
    connect_timeout: Duration,
    ping_timeout: Duration,
    tls: Option<Tls>,
    known: Mutex<Known>,
}

struct Known {
    nodes: Vec<Node>,
    /// How many of them the user named. The others were learned from metadata.
    named: usize,
    /// The node that gets the next call first: the leader, as far as is known.
    preferred: usize,
    /// Connections made so far.
    connections: u64,
}

struct Node {
    address: String,
    connection: Option<Connection>,
}

/// A connection, with a number that no other one of this client has.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    pub(crate) number: u64,
}

impl Nodes {
    pub(crate) fn new(
        addresses: Vec<String>,
        connect_timeout: Duration,
        ping_timeout: Duration,
        tls: Option<Tls>,
    ) -> Nodes {
        let named = addresses.len();
        let nodes = addresses.into_iter().map(|address| Node { address, connection: None }).collect();
        let known = Mutex::new(Known { nodes, named, preferred: 0, connections: 0 });
        Nodes { connect_timeout, ping_timeout, tls, known }
    }

    /// Returns the address of the preferred node, or, when that is among `avoid`, of the next one
    /// behind it that is not. `None` when all are.
    pub(crate) fn choose(&self, avoid: &[String]) -> Option<String> {
        let known = self.known.lock();
        let count = known.nodes.len();
        let order = (0..count).map(|offset| &known.nodes[(known.preferred + offset) % count].address);
        order.into_iter().find(|address| !avoid.contains(address)).cloned()
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.known.lock().nodes.iter().map(|node| node.address.clone()).collect()
    }

    /// Returns a connection to `address`, which it makes when there is none.
    ///
    /// # Errors
    /// The node cannot be reached. Nothing was sent to it.
    pub(crate) async fn connection(&self, address: &str) -> Result<Connection, Error> {
        if let Some(connection) = self.open(address) {
            return Ok(connection);
        }
        let channel = self.endpoint(address)?.connect().await?;
        let mut known = self.known.lock();
        known.connections += 1;
        let connection = Connection { channel, number: known.connections };
        if let Some(node) = known.nodes.iter_mut().find(|node| node.address == address) {
            // Two calls may have connected at once. One connection is enough.
            return Ok(node.connection.get_or_insert(connection).clone());
        }
        Ok(connection)
    }

    /// A connection to a leader that a node named is as encrypted as every other one.
    fn endpoint(&self, address: &str) -> Result<Endpoint, Error> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(self.ping_timeout)
            .keep_alive_while_idle(true);
        match &self.tls {
            // The timeout of connecting ends before the handshake begins.
            Some(tls) => Ok(endpoint.tls_config(tls.config()?.timeout(self.connect_timeout))?),
            None => Ok(endpoint),
        }
    }

    fn open(&self, address: &str) -> Option<Connection> {
        self.known.lock().nodes.iter().find(|node| node.address == address)?.connection.clone()
    }

    /// Prefers the next node if the one at `address` was preferred: it failed. Drops its connection
    /// if that is still the one which broke. The calls that were on it all come here, and must not
    /// drop the next one.
    pub(crate) fn failed(&self, address: &str, broken: Option<u64>) {
        let mut known = self.known.lock();
        let count = known.nodes.len();
        let Some(at) = known.nodes.iter().position(|node| node.address == address) else { return };
        let connection = &mut known.nodes[at].connection;
        if broken.is_some() && connection.as_ref().map(|connection| connection.number) == broken {
            *connection = None;
        }
        if known.preferred == at {
            known.preferred = (at + 1) % count;
        }
    }

    /// Prefers the node behind `address`, if that one is preferred: it did not answer in time. Its
    /// connection stays, because it may only be slow.
    pub(crate) fn pass_over(&self, address: &str) {
        let mut known = self.known.lock();
        if known.nodes[known.preferred].address == address {
            known.preferred = (known.preferred + 1) % known.nodes.len();
        }
    }

    /// Prefers the node at `leader` from now on. Returns whether that is news.
    pub(crate) fn prefer(&self, leader: &str) -> bool {
        let mut known = self.known.lock();
        if known.nodes[known.preferred].address == leader {
            return false;
        }
        let at = match known.nodes.iter().position(|node| node.address == leader) {
            Some(at) => at,
            None => {
                if known.nodes.len() >= NODES_MAX && known.nodes.len() > known.named {
                    let named = known.named;
                    known.nodes.remove(named);
                }
                known.nodes.push(Node { address: leader.to_owned(), connection: None });
                known.nodes.len() - 1
            }
        };
        known.preferred = at;
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn nodes(addresses: &[&str]) -> Nodes {
        let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
        Nodes::new(addresses, Duration::from_secs(1), Duration::from_secs(1), None)
    }

    #[test]
    fn the_leader_comes_first_and_the_others_in_turn() {
        let nodes = nodes(&["a:1", "b:2", "c:3"]);
        assert_eq!(nodes.choose(&[]).unwrap(), "a:1");
        assert!(nodes.prefer("c:3") && !nodes.prefer("c:3"));
        assert_eq!(nodes.choose(&[]).unwrap(), "c:3");
        assert_eq!(nodes.choose(&["c:3".into()]).unwrap(), "a:1");
        nodes.failed("c:3", None);
        assert_eq!(nodes.choose(&[]).unwrap(), "a:1");
        assert_eq!(nodes.choose(&["a:1".into(), "b:2".into(), "c:3".into()]), None);
        nodes.pass_over("b:2");
        assert_eq!(nodes.choose(&[]).unwrap(), "a:1", "it was not preferred");
        nodes.pass_over("a:1");
        assert_eq!(nodes.choose(&[]).unwrap(), "b:2");
    }

    #[test]
    fn a_learned_leader_is_kept_and_their_number_is_bounded() {
        let nodes = nodes(&["a:1"]);
        assert!(nodes.prefer("d:4"));
        assert_eq!(nodes.choose(&["d:4".into()]).unwrap(), "a:1");
        for port in 1..200 {
            nodes.prefer(&format!("x:{port}"));
        }
        assert_eq!(nodes.choose(&[]).unwrap(), "x:199");
        assert_eq!(nodes.known.lock().nodes.len(), NODES_MAX);
        assert_eq!(nodes.known.lock().nodes[0].address, "a:1");
    }

    #[tokio::test]
    async fn a_connection_that_broke_is_dropped_once() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let nodes = nodes(&[&address]);
        let first = nodes.connection(&address).await.unwrap().number;
        assert_eq!(nodes.connection(&address).await.unwrap().number, first);
        nodes.failed(&address, Some(first));
        let second = nodes.connection(&address).await.unwrap().number;
        assert_ne!(second, first);
        nodes.failed(&address, Some(first));
        assert_eq!(nodes.connection(&address).await.unwrap().number, second);
    }
}
