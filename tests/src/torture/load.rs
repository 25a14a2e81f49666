//! Clients of the torture. Each is pinned to a node, writes and reads the keys of one cycle until
//! it is told to stop, and records what it sees. This file decides what an answer means for the
//! history. It knows nothing of faults.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lockstep_client::{Options, outcome, unanswered};
use tokio::task::JoinHandle;
use tonic::{Request, Status};

use super::history::{Clock, Kind, Operation, Outcome, Record};
use super::plan::Random;
use crate::chain_pb::chain_client::ChainClient;
use crate::chain_pb::{GetRequest, PutRequest};
use crate::{Cluster, NodeProcess, PATIENCE, one_node};

/// Time that a client waits for an answer. After that, the outcome of the request is unknown.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// Most time that connecting may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);

/// Time between two attempts to reach a node that does not run.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// Operations of all clients in one cycle, after which they slow down so that the history stays
/// small.
pub const BRISK_OPERATIONS: u64 = 120_000;

/// Pause of a client that has slowed down, for each client that there is: together they do at most
/// 500 operations a second.
const SLOW_PAUSE: Duration = Duration::from_millis(2);

/// Source of the tokens of a run. No two writes share a token.
pub type Tokens = Arc<AtomicU64>;

/// One client of one node. It sends each request once, to its node alone: the judges must see what
/// came of every single attempt.
pub struct Session {
    /// Id of the client.
    pub id: u32,
    /// The node that the client calls.
    pub node: u32,
    address: String,
    client: Option<ChainClient<lockstep_client::Client>>,
    clock: Clock,
}

impl Session {
    /// Makes a client that connects at its first call.
    pub fn new(id: u32, node: u32, address: String, clock: Clock) -> Session {
        Session { id, node, address, client: None, clock }
    }

    async fn client(&mut self) -> Option<ChainClient<lockstep_client::Client>> {
        if self.client.is_none() {
            let options = Options { connect_timeout: CONNECT_TIME_MAX, ..one_node() };
            self.client = options.connect(&self.address).await.ok().map(ChainClient::new);
        }
        self.client.clone()
    }

    /// Writes `token`. Returns `None` when no node could be reached.
    pub async fn put(&mut self, key: u32, token: u64) -> Result<Option<Operation>> {
        let Some(mut client) = self.client().await else { return Ok(None) };
        let request = request(PutRequest { key: key_text(key), value: token.to_string() });
        let invoked = self.clock.now();
        let answer = tokio::time::timeout(ANSWER_TIME_MAX, client.put(request)).await;
        let outcome = match answer {
            Ok(Ok(reply)) => {
                let reply = reply.into_inner();
                let written = reply.written.as_ref().context("a write was answered without its place")?;
                let previous = reply.previous.as_ref().map(Record::decode).transpose()?;
                Outcome::Wrote(Record::decode(written)?, previous)
            }
            Ok(Err(status)) => self.failed(&status),
            Err(_) => self.silent(),
        };
        Ok(Some(self.operation(key, Kind::Put(token), invoked, outcome)))
    }

    /// Reads a key. Returns `None` when that failed, because a failed read proves nothing.
    pub async fn get(&mut self, key: u32, linearizable: bool) -> Result<Option<Operation>> {
        let Some(mut client) = self.client().await else { return Ok(None) };
        let request = request(GetRequest { key: key_text(key), linearizable });
        let invoked = self.clock.now();
        match tokio::time::timeout(ANSWER_TIME_MAX, client.get(request)).await {
            Ok(Ok(reply)) => {
                let record = reply.into_inner().record.as_ref().map(Record::decode).transpose()?;
                let kind = if linearizable { Kind::Get } else { Kind::GetLocal };
                Ok(Some(self.operation(key, kind, invoked, Outcome::Read(record))))
            }
            Ok(Err(status)) => {
                self.failed(&status);
                Ok(None)
            }
            Err(_) => {
                self.silent();
                Ok(None)
            }
        }
    }

    fn operation(&self, key: u32, kind: Kind, invoked: u64, outcome: Outcome) -> Operation {
        Operation { client: self.id, node: self.node, key, kind, invoked, returned: self.clock.now(), outcome }
    }

    /// Returns the outcome of a failed write.
    ///
    /// A node can say that the write did not happen and will not happen, and the client crate can,
    /// when it could not send it. The judges hold both to it. When no node answered, the connection
    /// is given up, too.
    fn failed(&mut self, status: &Status) -> Outcome {
        if unanswered(status).is_some() || status.metadata().get("lockstep-outcome").is_none() {
            self.client = None;
        }
        match outcome(status) {
            // The test guest refuses nothing, and the writes of a command that failed are undone.
            lockstep_client::Outcome::NotApplied | lockstep_client::Outcome::Applied => Outcome::Refused,
            lockstep_client::Outcome::Unknown => Outcome::Maybe,
        }
    }

    fn silent(&mut self) -> Outcome {
        self.client = None;
        Outcome::Maybe
    }
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(ANSWER_TIME_MAX);
    request
}

fn key_text(key: u32) -> String {
    format!("k{key}")
}

/// Parameters of a load.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Keys that are written and read.
    pub keys: Range<u32>,
    /// Clients at each node.
    pub clients_per_node: u32,
    /// Seed of the choice of keys and operations. The cluster determines their interleaving.
    pub seed: u64,
    /// Operations of all clients after which they slow down: [`BRISK_OPERATIONS`], as a rule.
    pub brisk_operations: u64,
}

/// Running clients.
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Result<Vec<Operation>>>>,
}

impl Load {
    /// Starts clients at every node, whether or not the node runs.
    pub fn start(cluster: &Cluster, options: &LoadOptions, clock: Clock, tokens: &Tokens) -> Result<Load> {
        let mut load = Load { stop: Arc::default(), acknowledged: Arc::default(), clients: Vec::new() };
        let clients = u32::try_from(cluster.nodes.len()).expect("few nodes") * options.clients_per_node;
        let brisk = usize::try_from(options.brisk_operations / u64::from(clients.max(1))).expect("they fit in memory");
        for (node, process) in (0..).zip(&cluster.nodes) {
            for _ in 0..options.clients_per_node {
                let id = u32::try_from(load.clients.len()).expect("few clients");
                let client = Client {
                    session: Session::new(id, node, process.grpc_addr(), clock),
                    keys: options.keys.clone(),
                    random: Random::new(options.seed ^ (u64::from(id) << 32)),
                    tokens: tokens.clone(),
                    stop: load.stop.clone(),
                    acknowledged: load.acknowledged.clone(),
                    brisk,
                    pause: SLOW_PAUSE * clients,
                };
                load.clients.push(tokio::spawn(client.run()));
            }
        }
        Ok(load)
    }

    /// Returns the number of acknowledged writes so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until `more` further writes are acknowledged.
    pub async fn progress(&self, more: u64) -> Result<()> {
        let target = self.acknowledged() + more;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.acknowledged() < target {
            if tokio::time::Instant::now() > deadline {
                bail!("no progress: {} of {target} writes acknowledged after {PATIENCE:?}", self.acknowledged());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Stops the clients after their current operations and returns what they saw.
    pub async fn finish(self) -> Result<Vec<Operation>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut history = Vec::new();
        for client in self.clients {
            history.extend(client.await.context("a client panicked")??);
        }
        Ok(history)
    }
}

struct Client {
    session: Session,
    keys: Range<u32>,
    random: Random,
    tokens: Tokens,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    /// Operations after which it pauses behind each.
    brisk: usize,
    pause: Duration,
}

impl Client {
    async fn run(mut self) -> Result<Vec<Operation>> {
        let mut seen = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let key = self.keys.start + self.random.below(u64::from(self.keys.end - self.keys.start)) as u32;
            let operation = match self.random.below(10) {
                0..5 => self.session.put(key, self.tokens.fetch_add(1, Ordering::Relaxed)).await?,
                5..8 => self.session.get(key, true).await?,
                _ => self.session.get(key, false).await?,
            };
            match operation {
                Some(operation) => {
                    let wrote = matches!(operation.outcome, Outcome::Wrote(..));
                    self.acknowledged.fetch_add(u64::from(wrote), Ordering::Relaxed);
                    seen.push(operation);
                }
                None => tokio::time::sleep(RECONNECT_PAUSE).await,
            }
            if seen.len() > self.brisk {
                tokio::time::sleep(self.pause).await;
            }
        }
        Ok(seen)
    }
}

/// Returns the running nodes with their places.
fn running(cluster: &Cluster) -> impl Iterator<Item = (u32, &NodeProcess)> {
    (0..).zip(&cluster.nodes).filter(|(_, node)| node.running())
}

/// Checks that every node acknowledges a write and answers a linearizable read.
///
/// Call it when everything is healed. Each node has [`PATIENCE`] for it.
pub async fn liveness(cluster: &Cluster, keys: Range<u32>, clock: Clock, tokens: &Tokens) -> Result<Vec<Operation>> {
    let mut seen = Vec::new();
    for (node, process) in running(cluster) {
        let mut session = Session::new(LIVENESS_CLIENT + node, node, process.grpc_addr(), clock);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let (mut wrote, mut read) = (false, false);
        while !(wrote && read) {
            let operation = match wrote {
                false => session.put(keys.start, tokens.fetch_add(1, Ordering::Relaxed)).await?,
                true => session.get(keys.start, true).await?,
            };
            match operation.map(|operation| operation.outcome) {
                Some(Outcome::Wrote(..)) => wrote = true,
                Some(Outcome::Read(_)) => read = true,
                _ if tokio::time::Instant::now() > deadline => {
                    bail!("not live: {} neither wrote nor read within {PATIENCE:?} after all was healed", process.name)
                }
                _ => tokio::time::sleep(RECONNECT_PAUSE).await,
            }
            seen.extend(operation);
        }
    }
    Ok(seen)
}

/// Reads every key at every node, linearizably and locally, until each read is answered.
pub async fn final_reads(cluster: &Cluster, keys: Range<u32>, clock: Clock) -> Result<Vec<Operation>> {
    let mut seen = Vec::new();
    for (node, process) in running(cluster) {
        let mut session = Session::new(FINAL_CLIENT + node, node, process.grpc_addr(), clock);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        for (key, linearizable) in keys.clone().flat_map(|key| [(key, true), (key, false)]) {
            loop {
                if let Some(operation) = session.get(key, linearizable).await? {
                    seen.push(operation);
                    break;
                }
                if tokio::time::Instant::now() > deadline {
                    bail!("{} did not answer the final reads within {PATIENCE:?}", process.name);
                }
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        }
    }
    Ok(seen)
}

/// First ids of clients that are not part of the load.
const LIVENESS_CLIENT: u32 = 1_000;
const FINAL_CLIENT: u32 = 2_000;
