//! Names and addresses of nodes, chosen before anything runs. Listens on ports for a moment to see
//! whether they are free, and starts nothing.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};

use nix::errno::Errno;

/// Most attempts to find a port that is free on all addresses of a host.
const PORT_ATTEMPTS_MAX: u32 = 32;

/// One node: what it is called and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `--raft_id`.
    pub name: String,
    /// `--grpc_addr`, for clients.
    pub grpc_addr: String,
    /// `--raft_addr`, for peers.
    pub raft_addr: String,
}

impl Node {
    /// Returns the name of the node at this position of a cluster: nodeA, nodeB, and so on.
    pub fn name_at(position: usize) -> String {
        let letter = u8::try_from(position).ok().filter(|position| *position < 26);
        letter.map_or_else(|| format!("node{position}"), |position| format!("node{}", char::from(b'A' + position)))
    }
}

/// The nodes of a cluster, in the order of their names.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The nodes. The first one founds the cluster.
    pub nodes: Vec<Node>,
}

impl Plan {
    /// Plans `count` nodes on ports of `host` that are free now. Another process may take a port
    /// before the node does; then the node reports it.
    ///
    /// # Errors
    /// Nothing can listen on `host`.
    pub fn on_free_ports(host: &str, count: u16) -> Result<Plan, PortError> {
        // All ports are held until all are found, so that no port is found twice.
        let held = (0..2 * count).map(|_| listen(host, 0)).collect::<Result<Vec<_>, _>>()?;
        let port = |listeners: &Vec<TcpListener>| listeners[0].local_addr().map(|address| address.port());
        let ports = held.iter().map(port).collect::<io::Result<Vec<u16>>>();
        Ok(Plan::new(host, &ports.map_err(|error| PortError { port: 0, error })?))
    }

    /// Plans `count` nodes on the ports of `host` from `base`: one port a node for clients, then
    /// one a node for peers. If a port belonged to another cluster, that cluster would answer in
    /// place of this one, and everything would look right; so it listens on each for a moment.
    ///
    /// # Errors
    /// A port is taken, or nothing can listen on it.
    pub fn on_ports_from(host: &str, base: u16, count: u16) -> Result<Plan, PortError> {
        let ports: Vec<u16> = (base..=u16::MAX).take(2 * usize::from(count)).collect();
        if ports.len() < 2 * usize::from(count) {
            let error = io::Error::new(ErrorKind::InvalidInput, "there are not that many ports from there");
            return Err(PortError { port: base, error });
        }
        ports.iter().try_for_each(|port| listen(host, *port).map(drop))?;
        Ok(Plan::new(host, &ports))
    }

    fn new(host: &str, ports: &[u16]) -> Plan {
        let (grpc, raft) = ports.split_at(ports.len() / 2);
        let node = |(position, (grpc, raft)): (usize, (&u16, &u16))| Node {
            name: Node::name_at(position),
            grpc_addr: format!("{host}:{grpc}"),
            raft_addr: format!("{host}:{raft}"),
        };
        Plan { nodes: grpc.iter().zip(raft).enumerate().map(node).collect() }
    }
}

/// Why a port cannot be used.
#[derive(Debug)]
pub struct PortError {
    port: u16,
    error: io::Error,
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.error.kind() {
            ErrorKind::AddrInUse => write!(f, "port {} is taken by another process", self.port),
            _ => write!(f, "cannot listen on port {}: {}", self.port, self.error),
        }
    }
}

impl Error for PortError {}

/// Listens as a node does: on every address of `host`, all on one port, which the system chooses if
/// `port` is 0. A family that this machine lacks is left out as long as another remains.
fn listen(host: &str, port: u16) -> Result<Vec<TcpListener>, PortError> {
    let mut attempt = 1;
    loop {
        match listen_once(host, port) {
            // The port that the system chose on one address is taken on another.
            Err(PortError { error, .. })
                if error.kind() == ErrorKind::AddrInUse && port == 0 && attempt < PORT_ATTEMPTS_MAX =>
            {
                attempt += 1;
            }
            result => return result,
        }
    }
}

fn listen_once(host: &str, port: u16) -> Result<Vec<TcpListener>, PortError> {
    let failed = |port| move |error| PortError { port, error };
    let mut ips: Vec<IpAddr> = Vec::new();
    for found in (host, port).to_socket_addrs().map_err(failed(port))? {
        if !ips.contains(&found.ip()) {
            ips.push(found.ip());
        }
    }
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut left_out = io::Error::new(ErrorKind::NotFound, "no address");
    let mut chosen = port;
    for ip in ips {
        match TcpListener::bind(SocketAddr::new(ip, chosen)) {
            Ok(listener) => {
                chosen = listener.local_addr().map_err(failed(chosen))?.port();
                listeners.push(listener);
            }
            Err(error) if is_missing_family(&error) => left_out = error,
            Err(error) => return Err(failed(chosen)(error)),
        }
    }
    if listeners.is_empty() { Err(failed(port)(left_out)) } else { Ok(listeners) }
}

fn is_missing_family(error: &io::Error) -> bool {
    error.kind() == ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Only one test at a time looks for ports and uses the ports that it found.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    /// Returns the first of six adjacent free ports. The search range is below the ports that the
    /// system picks for others.
    fn free_run() -> u16 {
        (20_000..32_000).step_by(6).find(|base| Plan::on_ports_from("localhost", *base, 3).is_ok()).unwrap()
    }

    #[test]
    fn ports_from_a_base_are_neighbours() {
        let _turn = ONE_AT_A_TIME.lock().unwrap();
        let base = free_run();
        let plan = Plan::on_ports_from("localhost", base, 3).unwrap();
        let expected = (0..3).map(|n| Node {
            name: ["nodeA", "nodeB", "nodeC"][usize::from(n)].to_owned(),
            grpc_addr: format!("localhost:{}", base + n),
            raft_addr: format!("localhost:{}", base + 3 + n),
        });
        assert_eq!(plan.nodes, expected.collect::<Vec<_>>());
    }

    #[test]
    fn a_taken_port_is_named() {
        let _turn = ONE_AT_A_TIME.lock().unwrap();
        let base = free_run();
        let _holder = TcpListener::bind(("127.0.0.1", base + 4)).unwrap();
        let error = Plan::on_ports_from("localhost", base, 3).unwrap_err();
        assert_eq!(error.to_string(), format!("port {} is taken by another process", base + 4));
        assert!(Plan::on_ports_from("localhost", 65_533, 3).is_err(), "there are three ports");
    }

    #[test]
    fn chosen_ports_differ() {
        let plan = Plan::on_free_ports("127.0.0.1", 3).unwrap();
        let mut addresses: Vec<_> = plan.nodes.iter().flat_map(|node| [&node.grpc_addr, &node.raft_addr]).collect();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), 6);
    }
}
