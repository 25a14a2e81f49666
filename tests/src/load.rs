//! Clients that write without a pause, each through its own node and to its own keys, and what they
//! saw: every acknowledgement and every failure with its time. This file knows which nodes a fault
//! touches, and nothing else about faults.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lockstep_client::Client;
use tokio::task::JoinHandle;

use crate::pb::example_client::ExampleClient;
use crate::pb::{AddRequest, GetRequest};
use crate::{Cluster, eventually, one_node};

/// Keys that a client writes in turn.
const KEYS: usize = 10;
/// Time between two attempts to connect to a node again.
const RECONNECT: Duration = Duration::from_millis(5);
/// Time that a client waits after a failed call.
const RETRY: Duration = Duration::from_millis(10);
/// Time after which a call without an answer has failed. Nodes answer after 10 s at the latest.
const GIVE_UP: Duration = Duration::from_secs(15);

/// Running clients.
pub struct Load {
    clients: Vec<JoinHandle<Written>>,
    shared: Arc<Shared>,
}

struct Shared {
    started: Instant,
    stop: AtomicBool,
    /// One bit for each node. Failures at a node whose bit is set count as caused by the fault.
    touched: AtomicU64,
    /// The same for every node that was touched since the last [`Load::take`].
    touched_lately: AtomicU64,
    seen: Vec<Mutex<Seen>>,
    /// For each client, the start of the call that was acknowledged last, in microseconds.
    last: Vec<AtomicU64>,
    /// For each client, its node.
    nodes: Vec<usize>,
}

/// What one client saw. Times are measured from the start of the load.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The client's node.
    pub node: usize,
    /// Whether a fault touched the node at some time.
    pub touched: bool,
    /// Time of each acknowledgement, in order.
    pub acknowledged: Vec<Duration>,
    /// Failed calls.
    pub failures: Vec<Failure>,
}

/// One failed call.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Time of the failure.
    pub at: Duration,
    /// Whether the fault touched the node.
    pub touched: bool,
    /// The error that the client received.
    pub reason: String,
}

/// Keys of one client, with the highest acknowledged version and the highest version that was
/// tried.
#[derive(Default, Debug)]
struct Written {
    acknowledged: BTreeMap<String, u64>,
    tried: BTreeMap<String, u64>,
}

impl Load {
    /// Starts `each` clients at every node of the cluster.
    pub fn start(cluster: &Cluster, each: usize) -> Result<Load> {
        let nodes: Vec<usize> = (0..cluster.nodes.len()).flat_map(|node| vec![node; each]).collect();
        let shared = Arc::new(Shared {
            started: Instant::now(),
            stop: AtomicBool::new(false),
            touched: AtomicU64::new(0),
            touched_lately: AtomicU64::new(0),
            seen: nodes.iter().map(|node| Mutex::new(Seen { node: *node, ..Seen::default() })).collect(),
            last: nodes.iter().map(|_| AtomicU64::new(0)).collect(),
            nodes,
        });
        let client = |(client, node): (usize, &usize)| {
            let address = cluster.nodes[*node].grpc_addr();
            tokio::spawn(write(client, *node, address, shared.clone()))
        };
        let clients = shared.nodes.iter().enumerate().map(client).collect();
        Ok(Load { clients, shared })
    }

    /// Returns the time since the start of the load.
    pub fn now(&self) -> Duration {
        self.shared.started.elapsed()
    }

    /// Marks exactly these nodes as touched by a fault.
    ///
    /// Failures there count as caused by the fault, and clients connect again there after a
    /// failure.
    pub fn touch(&self, nodes: &[usize]) {
        let bits = nodes.iter().fold(0, |bits, node| bits | 1 << node);
        self.shared.touched.store(bits, Ordering::SeqCst);
        self.shared.touched_lately.fetch_or(bits, Ordering::SeqCst);
    }

    /// Returns how many clients had a write acknowledged that they began after `since`.
    /// The first number counts the clients of touched nodes, the second the others.
    pub fn served_since(&self, since: Duration) -> (usize, usize) {
        let served = (0..self.shared.nodes.len())
            .filter(|client| self.shared.last[*client].load(Ordering::SeqCst) > since.as_micros() as u64);
        let (touched, others): (Vec<usize>, Vec<usize>) =
            served.partition(|client| self.shared.is_touched(self.shared.nodes[*client]));
        (touched.len(), others.len())
    }

    /// Waits until every client has had a write acknowledged that began after this call.
    pub async fn everyone_served(&self) -> Result<()> {
        let since = self.now();
        eventually("every client writes again", || async {
            let (touched, others) = self.served_since(since);
            ensure!(touched + others == self.shared.nodes.len(), "{touched} at touched nodes and {others} others do");
            Ok(())
        })
        .await
    }

    /// Returns what the clients saw since the last call.
    pub fn take(&self) -> Vec<Seen> {
        let touched = self.shared.touched_lately.swap(self.shared.touched.load(Ordering::SeqCst), Ordering::SeqCst);
        let take = |seen: &Mutex<Seen>| {
            let mut seen = seen.lock().expect("no holder panics");
            let node = seen.node;
            let taken = std::mem::replace(&mut *seen, Seen { node, ..Seen::default() });
            Seen { touched: touched & (1 << node) != 0, ..taken }
        };
        self.shared.seen.iter().map(take).collect()
    }

    /// Ends the clients, checks what they wrote, and returns the number of reads.
    ///
    /// Each client ends after its last call. Then every key is read at every node. Fails unless
    /// everything acknowledged is there, and nothing that was never tried.
    pub async fn finish(self, cluster: &Cluster) -> Result<usize> {
        self.shared.stop.store(true, Ordering::SeqCst);
        let mut reads = 0;
        for client in self.clients {
            let written = client.await?;
            ensure!(!written.acknowledged.is_empty(), "a client had nothing acknowledged");
            reads += written.check(cluster).await.context("an acknowledged write is lost")?;
        }
        Ok(reads)
    }
}

impl Shared {
    fn is_touched(&self, node: usize) -> bool {
        self.touched.load(Ordering::SeqCst) & (1 << node) != 0
    }
}

/// Writes increasing versions to the client's own keys until it is told to stop.
///
/// The client is one of its node alone and sends nothing again, because every failure of an attempt
/// is to be seen and counted.
async fn write(client: usize, node: usize, address: String, shared: Arc<Shared>) -> Written {
    let mut written = Written::default();
    let mut connection: Option<ExampleClient<Client>> = None;
    let mut version = 0;
    // A write that failed may still be applied at any later time. Its key is not written again, so
    // that this is not mistaken for a lost write.
    let mut spoilt = [0u64; KEYS];
    while !shared.stop.load(Ordering::SeqCst) {
        let Some(connected) = &mut connection else {
            match one_node().connect(&address).await {
                Ok(node) => connection = Some(ExampleClient::new(node)),
                Err(_) => tokio::time::sleep(RECONNECT).await,
            }
            continue;
        };
        version += 1;
        let slot = version as usize % KEYS;
        let key = format!("client{client}-{slot}-{}", spoilt[slot]);
        written.tried.insert(key.clone(), version);
        let begun = shared.started.elapsed();
        let request = AddRequest { key: key.clone(), val: version.to_string() };
        let answer = tokio::time::timeout(GIVE_UP, connected.add(request)).await;
        let at = shared.started.elapsed();
        let reason = match answer {
            Ok(Ok(_)) => {
                written.acknowledged.insert(key, version);
                shared.last[client].store(begun.as_micros() as u64, Ordering::SeqCst);
                shared.seen[client].lock().expect("no holder panics").acknowledged.push(at);
                continue;
            }
            Ok(Err(status)) => format!("{:?}: {}", status.code(), status.message()),
            Err(_) => format!("no answer for {GIVE_UP:?}"),
        };
        spoilt[slot] += 1;
        let touched = shared.is_touched(node);
        shared.seen[client].lock().expect("no holder panics").failures.push(Failure { at, touched, reason });
        if touched {
            connection = None;
        }
        tokio::time::sleep(RETRY).await;
    }
    written
}

impl Written {
    async fn check(&self, cluster: &Cluster) -> Result<usize> {
        for node in &cluster.nodes {
            let mut client = node.client().await?;
            for (key, acknowledged) in &self.acknowledged {
                let request = GetRequest { key: key.clone(), linearizable: true };
                let found = client.get(request).await?.into_inner().value;
                let version: u64 = found.parse().with_context(|| format!("{} holds {found:?} at {key}", node.name))?;
                let tried = self.tried[key];
                ensure!(
                    version >= *acknowledged && version <= tried,
                    "{} holds {version} at {key}, of which {acknowledged} was acknowledged last and {tried} tried last",
                    node.name
                );
            }
        }
        Ok(self.acknowledged.len() * cluster.nodes.len())
    }
}
