//! Our three nodes, and the client that drives either system: `lockstep bench`. It starts the nodes
//! as the demo does, and knows nothing of etcd but its name.

use anyhow::{Context, Result};

use super::figures::{Load, Report, System};
use crate::demo;
use crate::demo_cluster::Cluster;

/// Size of each value.
const VALUE_BYTES: u64 = 256;
/// Keys that are written and read.
const KEYS: u64 = 10_000;

/// The three processes of a system.
#[derive(Debug)]
pub(super) struct Members {
    /// Where clients reach each of them.
    pub(super) addresses: Vec<String>,
    /// Their process ids.
    pub(super) ids: Vec<u32>,
}

/// Starts our nodes, and waits until they are one cluster.
pub(super) fn start(cluster: &Cluster) -> Result<Members> {
    demo::form(cluster)?;
    let addresses = Cluster::NAMES.iter().map(|name| cluster.grpc_addr(name).to_owned()).collect();
    let ids = Cluster::NAMES.iter().map(|name| cluster.id_of(name)).collect::<Result<Vec<u32>>>()?;
    Ok(Members { addresses, ids })
}

/// Returns the name of the node that leads.
pub(super) fn leader(cluster: &Cluster) -> Result<String> {
    demo::leader(cluster)
}

/// One run of the client.
#[derive(Debug)]
pub(super) struct Drive<'a> {
    pub(super) system: System,
    /// The nodes that are called, in turn.
    pub(super) addresses: Vec<String>,
    pub(super) load: &'a Load,
    pub(super) seconds: u64,
    /// Seconds of load before the calls count.
    pub(super) warmup: u64,
    /// Whether the keys that are read are there already.
    pub(super) is_filled: bool,
}

impl Drive<'_> {
    /// Runs the client to its end, and returns what it printed.
    pub(super) fn run(&self, cluster: &Cluster) -> Result<Report> {
        let words = self.words();
        let printed = cluster.quietly(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        let line = printed.lines().find(|line| line.starts_with('{'));
        let line = line.with_context(|| format!("lockstep bench printed no JSON:\n{printed}"))?;
        serde_json::from_str(line).with_context(|| format!("lockstep bench printed {line}"))
    }

    fn words(&self) -> Vec<String> {
        let connections = connections(self.load.clients, self.addresses.len() as u64);
        let flags = [
            ("--system", self.system.name().to_owned()),
            ("--operation", self.load.operation.clone()),
            ("--clients", self.load.clients.to_string()),
            ("--connections", connections.to_string()),
            ("--value_bytes", VALUE_BYTES.to_string()),
            ("--keys", KEYS.to_string()),
            ("--seconds", self.seconds.to_string()),
            ("--warmup", self.warmup.to_string()),
        ];
        let mut words = vec!["bench".to_owned(), self.addresses.join(",")];
        words.extend(flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
        if self.is_filled && self.load.operation != "put" {
            words.push("--filled".to_owned());
        }
        words.push("--json".to_owned());
        words
    }
}

/// Returns how many connections the clients share: 1 for one client, 4 for 64, and 8 for 256. Each
/// node gets as many as the others.
fn connections(clients: u64, nodes: u64) -> u64 {
    (clients.isqrt() / 2).max(1).next_multiple_of(nodes.max(1)).min(clients)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::bench::figures::tests::{PRINTED, load};

    #[test]
    fn clients_share_few_connections() {
        let of = |clients| (connections(clients, 1), connections(clients, 3));
        assert_eq!([1, 4, 64, 256].map(of), [(1, 1), (1, 3), (4, 6), (8, 9)]);
    }

    #[test]
    fn the_client_is_told_everything() {
        let load = load("local_get", 64);
        let addresses = vec!["a:1".to_owned(), "b:1".to_owned()];
        let drive = Drive { system: System::Etcd, addresses, load: &load, seconds: 5, warmup: 2, is_filled: true };
        let expected = "bench a:1,b:1 --system etcd --operation local_get --clients 64 --connections 4 \
                        --value_bytes 256 --keys 10000 --seconds 5 --warmup 2 --filled --json";
        assert_eq!(drive.words().join(" "), expected);
    }

    #[test]
    fn what_the_client_prints_is_understood() {
        let report: Report = serde_json::from_str(PRINTED).unwrap();
        assert_eq!((report.calls, report.rate, report.latency_us.p99), (1000, None, 2000.0));
        assert_eq!(report.histogram[1], (2000.0, 490));
        assert!(serde_json::from_str::<Report>(&PRINTED.replace("\"p99\"", "\"p98\"")).is_err());
    }
}
