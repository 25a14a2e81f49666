//! The honest clients: puts and linearizable gets at a steady rate at every node, whatever the
//! nodes do. A call counts from the moment at which it was due, so a node that hangs does not hide
//! the calls that would have come meanwhile. Judges nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lockstep_client::Client;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tonic::{Request, Status};

use super::case::{Guest, LARGE_BYTES, large_key};
use crate::misbehaving_pb::misbehaving_client::MisbehavingClient;
use crate::misbehaving_pb::{Deed, What};
use crate::pb::example_client::ExampleClient;
use crate::pb::{AddRequest, GetRequest};
use crate::{Cluster, noise, one_node};

/// Calls a second at each node. Half of them are puts: in an attack of ten seconds a percentile of
/// either kind is one of 300 times.
const CALLS_A_SECOND: u32 = 60;
/// Deadline of each call. It is that of a client that is patient with a busy cluster.
const DEADLINE: Duration = Duration::from_secs(10);
/// Time that a client waits for a node that does not even keep the deadline.
const GIVE_UP: Duration = Duration::from_secs(12);
/// Time of one attempt to find that a node serves.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Keys that the clients write in turn.
const KEYS: u64 = 64;

/// A part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Connections and caches become warm. Nothing is judged.
    WarmUp,
    /// Nobody attacks.
    Baseline,
    /// The attacker is at work.
    Attack,
    /// The attacker has gone.
    After,
}

const PHASES: [Phase; 4] = [Phase::WarmUp, Phase::Baseline, Phase::Attack, Phase::After];

/// The present phase, for all who note what they see.
pub(crate) struct Stage(AtomicU8);

impl Stage {
    pub(crate) fn new() -> Arc<Stage> {
        Arc::new(Stage(AtomicU8::new(0)))
    }

    pub(crate) fn phase(&self) -> Phase {
        PHASES[usize::from(self.0.load(Ordering::SeqCst))]
    }

    pub(crate) fn enter(&self, phase: Phase) {
        let place = PHASES.iter().position(|one| *one == phase).expect("all phases are listed");
        self.0.store(place as u8, Ordering::SeqCst);
    }
}

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A command.
    Put,
    /// A linearizable query.
    Get,
}

/// One call and its end.
#[derive(Clone, Debug)]
pub struct Call {
    /// The phase in which it was due.
    pub phase: Phase,
    /// Whether its node is the attacked one.
    pub at_attacked: bool,
    /// What it does.
    pub kind: Kind,
    /// Time from when it was due to its end.
    pub took: Duration,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// Honest clients at work.
pub(crate) struct Honest {
    seen: Arc<Mutex<Vec<Call>>>,
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
}

impl Honest {
    /// Starts the clients of every node.
    pub(crate) async fn start(cluster: &Cluster, guest: Guest, attacked: usize, stage: Arc<Stage>) -> Result<Honest> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = watch::channel(false);
        let mut clients = JoinSet::new();
        for (n, node) in cluster.nodes.iter().enumerate() {
            let at = Caller { client: node.connect().await?, guest };
            let noted = Noted { at_attacked: n == attacked, stage: stage.clone(), seen: seen.clone() };
            clients.spawn(call_steadily(at, n, noted, stopped.clone()));
        }
        Ok(Honest { seen, stop, clients })
    }

    /// Stops the clients, waits for the calls that are open, and returns all calls.
    pub(crate) async fn finish(self) -> Vec<Call> {
        self.stop.send_replace(true);
        // No call is open for much longer than its deadline.
        self.clients.join_all().await;
        std::mem::take(&mut *self.seen.lock())
    }
}

/// Where the clients of a node note what they see.
#[derive(Clone)]
struct Noted {
    at_attacked: bool,
    stage: Arc<Stage>,
    seen: Arc<Mutex<Vec<Call>>>,
}

/// Makes calls at a steady rate until it is told to stop, and waits for their ends.
async fn call_steadily(at: Caller, node: usize, noted: Noted, mut stopped: watch::Receiver<bool>) {
    let mut due = interval(Duration::from_secs(1) / CALLS_A_SECOND);
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut open = JoinSet::new();
    for number in 0.. {
        let begun = tokio::select! {
            _ = stopped.changed() => break,
            begun = due.tick() => begun,
        };
        while open.try_join_next().is_some() {}
        let kind = if number % 2 == 0 { Kind::Put } else { Kind::Get };
        let (at, phase, noted) = (at.clone(), noted.stage.phase(), noted.clone());
        open.spawn(async move {
            let error = match timeout(GIVE_UP, at.call(kind, node, number / 2)).await {
                Ok(ended) => ended.err().map(|status| format!("{:?}: {}", status.code(), status.message())),
                Err(_) => Some(format!("no answer for {GIVE_UP:?}")),
            };
            let call = Call { phase, at_attacked: noted.at_attacked, kind, took: begun.elapsed(), error };
            noted.seen.lock().push(call);
        });
    }
    open.join_all().await;
}

/// A client of one node.
#[derive(Clone)]
struct Caller {
    client: Client,
    guest: Guest,
}

impl Caller {
    async fn call(&self, kind: Kind, node: usize, number: u64) -> Result<(), Status> {
        let key = format!("honest-{node}-{}", number % KEYS);
        let client = self.client.clone();
        match (self.guest, kind) {
            (Guest::Kv, Kind::Put) => {
                let put = AddRequest { key, val: number.to_string() };
                ExampleClient::new(client).add(in_time(put)).await.map(drop)
            }
            (Guest::Kv, Kind::Get) => {
                let get = GetRequest { key, linearizable: true };
                ExampleClient::new(client).get(in_time(get)).await.map(drop)
            }
            (Guest::Misbehaving, Kind::Put) => MisbehavingClient::new(client).r#do(in_time(count())).await.map(drop),
            (Guest::Misbehaving, Kind::Get) => MisbehavingClient::new(client).check(in_time(count())).await.map(drop),
        }
    }
}

fn in_time<M>(message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

fn count() -> Deed {
    Deed { what: What::Count.into(), ..Deed::default() }
}

/// Writes the large values that a case needs.
pub(crate) async fn write_large(cluster: &Cluster, values: usize) -> Result<()> {
    let mut client = cluster.nodes[cluster.leader().await?].client().await?;
    for number in 0..values {
        client.add(AddRequest { key: large_key(number), val: noise(number as u64, LARGE_BYTES) }).await?;
    }
    Ok(())
}

/// Waits until a node serves: its `/livez`, a put and a get. Returns how long that took, or `None`
/// when it does not serve within `limit`.
pub(crate) async fn serves_again(cluster: &Cluster, guest: Guest, node: usize, limit: Duration) -> Option<Duration> {
    let begun = Instant::now();
    while begun.elapsed() < limit {
        if let Ok(Ok(())) = timeout(ATTEMPT, serves(cluster, guest, node)).await {
            return Some(begun.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    None
}

async fn serves(cluster: &Cluster, guest: Guest, node: usize) -> Result<()> {
    let (code, said) = cluster.nodes[node].http("/livez").await?;
    ensure!(code == 200, "/livez: {code} {said}");
    let client = one_node().connect(&cluster.nodes[node].grpc_addr()).await?;
    let at = Caller { client, guest };
    at.call(Kind::Put, node, 0).await.context("a put")?;
    at.call(Kind::Get, node, 0).await.context("a get")
}
