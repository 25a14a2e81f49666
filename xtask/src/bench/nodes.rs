//! Our three nodes, and the client that drives either system: `lockstep bench`. It starts the nodes
//! as the demo does, and knows nothing of etcd but its name.

use anyhow::{Context, Result};

use super::figures::{Load, Report, System};
use crate::demo;
use crate::demo_cluster::Cluster;

/// Size of each value.
pub(super) const VALUE_BYTES: u64 = 256;
/// Keys that are written and read.
pub(super) const KEYS: u64 = 10_000;

/// The three processes of a system.
#[derive(Debug)]
pub(super) struct Members {
    /// Where clients reach each of them.
    pub(super) addresses: Vec<String>,
    /// Their process ids.
    pub(super) ids: Vec<u32>,
}

impl Members {
    /// Returns these nodes of ours, which run.
    pub(super) fn of(cluster: &Cluster, names: &[impl AsRef<str>]) -> Result<Members> {
        let addresses = names.iter().map(|name| cluster.grpc_addr(name.as_ref()).to_owned()).collect();
        let ids = names.iter().map(|name| cluster.id_of(name.as_ref())).collect::<Result<Vec<u32>>>()?;
        Ok(Members { addresses, ids })
    }
}

/// Starts our nodes, and waits until they are one cluster.
pub(super) fn start(cluster: &Cluster) -> Result<Members> {
    demo::form(cluster)?;
    Members::of(cluster, &Cluster::NAMES)
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
    /// Keys that the calls draw from.
    pub(super) keys: u64,
    /// Calls a second of all clients together; none in a closed loop.
    pub(super) rate: Option<u64>,
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
            ("--keys", self.keys.to_string()),
            ("--seconds", self.seconds.to_string()),
            ("--warmup", self.warmup.to_string()),
        ];
        let mut words = vec!["bench".to_owned(), self.addresses.join(",")];
        words.extend(flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
        words.extend(self.rate.iter().flat_map(|rate| ["--rate".to_owned(), rate.to_string()]));
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
        let drive = Drive {
            system: System::Etcd,
            addresses,
            load: &load,
            keys: KEYS,
            rate: None,
            seconds: 5,
            warmup: 2,
            is_filled: true,
        };
        let expected = "bench a:1,b:1 --system etcd --operation local_get --clients 64 --connections 4 \
                        --value_bytes 256 --keys 10000 --seconds 5 --warmup 2 --filled --json";
        assert_eq!(drive.words().join(" "), expected);
        let paced = Drive { rate: Some(2000), keys: 7, ..drive }.words().join(" ");
        assert!(paced.contains("--keys 7 ") && paced.ends_with("--rate 2000 --filled --json"), "{paced}");
    }

    #[test]
    fn what_the_client_prints_is_understood() {
        let report: Report = serde_json::from_str(PRINTED).unwrap();
        assert_eq!((report.calls, report.rate, report.latency_us.p99), (1000, None, 2000.0));
        assert_eq!(report.histogram[1], (2000.0, 490));
        assert!(serde_json::from_str::<Report>(&PRINTED.replace("\"p99\"", "\"p98\"")).is_err());
    }
}
