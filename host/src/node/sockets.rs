//! The sockets of a node: its listeners, its address for others, and how many connections each port
//! may have beside everything else that needs a descriptor. Accepts nothing itself; `net` does.

use std::net::TcpListener;

use anyhow::bail;

use crate::config::{self, NodeConfig};
use crate::net::{Descriptors, Port, PortLimits, REFUSED_IN_WORDS_MAX, Resets, Sockets, Wish, share};
use crate::raft::PeerService;
use crate::store;
use crate::types::{Addresses, Fatal};

/// The listeners of a node, bound before anything on disk is touched.
pub(super) struct Listeners {
    pub(super) grpc: Vec<TcpListener>,
    pub(super) raft: Vec<TcpListener>,
    pub(super) http: Vec<TcpListener>,
}

pub(super) fn bind(config: &NodeConfig) -> anyhow::Result<Listeners> {
    Ok(Listeners {
        grpc: config::bind("--grpc_addr", &config.grpc_addr)?,
        raft: config::bind("--raft_addr", &config.raft_addr)?,
        http: match &config.http_addr {
            Some(http_addr) => config::bind("--http_addr", http_addr)?,
            None => Vec::new(),
        },
    })
}

/// Returns this node with the addresses that others connect to.
pub(super) fn describe(config: &NodeConfig, grpc: &[TcpListener], raft: &[TcpListener]) -> anyhow::Result<Addresses> {
    Ok(Addresses {
        name: config.name.clone(),
        raft_addr: config::advertised(config.raft_advertise_addr.as_deref(), &config.raft_addr, raft)?,
        grpc_addr: config::advertised(config.grpc_advertise_addr.as_deref(), &config.grpc_addr, grpc)?,
    })
}

/// Serves the peer port for as long as the node lives.
pub(super) async fn serve_peers(service: PeerService, port: Port, listeners: Vec<TcpListener>, fatal: Fatal) {
    if let Err(error) = service.serve(&port, listeners, std::future::pending()).await {
        fatal.raise(format!("the peer port cannot be served: {error}"));
    }
}

/// Connections of clients. An application has tens of connections, and a thousand serve a large
/// company. At least a few applications of one cluster.
const CLIENTS: Wish = Wish { max: 4_096, min: 64 };
/// Connections of peers. A member has up to eight connections to each other one, and reconnects
/// when one breaks. At least a cluster of five.
const PEERS: Wish = Wish { max: 1_024, min: 64 };
/// Connections of probes, scrapers and operators. Never fewer than the minimum, whatever clients
/// do.
const HTTP: Wish = Wish { max: 1_024, min: 32 };
/// One address may have this part of the connections to a port. A machine that runs wild leaves
/// room for others, and what its connections hold before anything is read is bounded. And several
/// nodes, or a bench and some tools, may run on one machine: fifteen have 120 to a peer port.
const OF_ONE_ADDRESS: usize = 8;
/// Connections to the port for clients that only programs on this machine get. Operators come by
/// that port, and each of their commands has one connection for a moment.
const RESERVED_FOR_THIS_MACHINE: usize = 16;
/// Connections that this node opens: up to eight to each of fifteen others.
const DIALLED: u64 = 128;
/// Descriptors of the process itself: standard streams, the runtimes, listeners, small files of
/// the data directory, pipes to a compiler, a file of a backup or a guest.
const OWN: u64 = 64;
/// Connections that are being told why they are closed, on all three ports.
const REFUSED: u64 = 3 * REFUSED_IN_WORDS_MAX as u64;

/// Raises the limit of descriptors, and shares them out. Fails if the limit is too low for a node.
pub(super) fn open(config: &NodeConfig) -> anyhow::Result<Sockets> {
    let descriptors = Descriptors::raise();
    let limit = descriptors.max();
    // Half of them are the store's, up to the number that it can use.
    let files = store::OpenFiles::of(limit / 2);
    let wishes = [CLIENTS, PEERS, HTTP];
    let Some([clients, peers, http]) = share(limit, reserve(files), wishes) else { bail!("{}", too_few(limit)) };
    files.limit();
    if (clients as u64) < CLIENTS.max {
        tracing::warn!(
            limit,
            clients,
            peers,
            http,
            wanted = needed_for_all(),
            "the limit of open files and sockets (ulimit -Hn) is low, so the ports may have only so many connections at a time"
        );
    }
    let port = |name, connections_max, reserved, idle_timeout, resets| {
        let per_address_max = config.connections.of_one_address(connections_max, connections_max / OF_ONE_ADDRESS);
        let limits = PortLimits { connections_max, per_address_max, reserved, idle_timeout, resets };
        Port::limited(name, limits)
    };
    let idle = config.connections.idle_timeout();
    Ok(Sockets {
        clients: port("grpc", clients, RESERVED_FOR_THIS_MACHINE, idle, Resets::OF_CLIENTS),
        // Silence of a peer is nothing strange, and its connections are few.
        peers: port("raft", peers, 0, None, Resets::AMONG_FEW),
        http: port("http", http, 0, idle, Resets::AMONG_FEW),
        descriptors,
    })
}

/// Returns the descriptors that are not for connections to the ports.
fn reserve(files: store::OpenFiles) -> u64 {
    files.descriptors() + DIALLED + OWN + REFUSED
}

fn needed() -> u64 {
    reserve(store::OpenFiles::of(0)) + CLIENTS.min + PEERS.min + HTTP.min
}

fn needed_for_all() -> u64 {
    reserve(store::OpenFiles::of(u64::MAX)) + CLIENTS.max + PEERS.max + HTTP.max
}

fn too_few(limit: u64) -> String {
    let (files, connections) = (store::OpenFiles::of(0).descriptors(), CLIENTS.min + PEERS.min + HTTP.min);
    format!(
        "this process may have {limit} files and sockets open at a time, and a node needs {}: {files} for the files of its store, \
         {connections} for connections to its ports, {} for those to its peers and for itself. Raise the limit where it is started: \
         `ulimit -Hn {suggested}` as root in a shell, LimitNOFILE={suggested} in a systemd unit, \
         `--ulimit nofile={suggested}` for docker",
        needed(),
        DIALLED + OWN + REFUSED,
        suggested = needed_for_all().next_power_of_two(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_hard_limits_can_do_and_tiny_ones_say_what_is_needed() {
        let shared = |limit: u64| share(limit, reserve(store::OpenFiles::of(limit / 2)), [CLIENTS, PEERS, HTTP]);
        // An old default, a container's, systemd's.
        for limit in [1_024, 4_096, 65_536, 524_288] {
            let [clients, peers, http] = shared(limit).unwrap_or_else(|| panic!("{limit} cannot do"));
            let connections = (clients + peers + http) as u64;
            assert!(connections + reserve(store::OpenFiles::of(limit / 2)) <= limit, "{limit}");
        }
        assert_eq!(shared(65_536), Some([4_096, 1_024, 1_024]));
        assert_eq!(shared(needed() - 1), None);
        assert!(shared(needed()).is_some() && needed() <= 1_024, "{}", needed());
        let text = too_few(100);
        assert!(text.contains("may have 100 files") && text.contains("ulimit -Hn 16384"), "{text}");
    }
}
