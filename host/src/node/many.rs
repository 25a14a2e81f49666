//! A process of many groups, for tests alone: a door to what one process can hold. Three of them,
//! with numbers 1 to 3, are one cluster whose members are known from the start. It serves no
//! client: commands come as lines, and answers go back as lines.
//!
//! | line | answer |
//! |---|---|
//! | `serve` | `serving`, once every group serves |
//! | `load <name> <count>` | `loaded <acknowledged>`, after that many commands in each group |
//! | `states` | `states <group>:<index>:<hash> …`: how far each group was applied, and its hash |
//! | `disk` | `disk <fsyncs> <entries>` of all groups together |
//! | `restart <group>` | `restarted`, after that group alone was stopped and opened again |
//! | `stop` | ends the process cleanly, as the end of the input does |

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::future::{BoxFuture, join_all};
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::sockets::serve_peers;
use super::{identity, query_threads};
use crate::calls::Call;
use crate::calls::budget::{Budget, Share};
use crate::codec::{Change, Genesis};
use crate::config;
use crate::group::{Group, Lent, Opened, Settings};
use crate::guest::{Component, Engine, Limits};
use crate::machine::{self, Executor, Pace, QueryPool};
use crate::net::Port;
use crate::raft::membership::join::{ComponentId, Host, JoinOffer};
use crate::raft::peers::groups::Groups;
use crate::raft::peers::link::Channels;
use crate::raft::peers::service::Parts;
use crate::raft::retention::RetentionLimits;
use crate::raft::{ClusterCell, Intake, Me, PeerService, Process, Timeouts};
use crate::store::{DataDir, LogDisk, Space};
use crate::types::{Addresses, Cluster, Fatal, GroupId, Identity, NodeId, NodeMode};
use lockstep_contract::{Contract, Method};
use lockstep_proto::peer::Route;

/// The id of the cluster. These processes are nobody's production.
const CLUSTER_ID: [u8; 16] = *b"groups of a test";
/// Queries that may wait.
const QUERIES_MAX: usize = 64;
/// Longest time for one command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
const ELECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// What such a process is started with.
#[derive(Clone, Debug)]
pub struct Many {
    /// Where its data is.
    pub data: PathBuf,
    /// Which of the processes it is: 1 to the number of `peers`.
    pub number: NodeId,
    /// How many groups it holds.
    pub groups: GroupId,
    /// The key-value guest.
    pub fsm: PathBuf,
    /// The peer address of each process, in the order of their numbers.
    pub peers: Vec<String>,
}

/// `AddRequest` of the key-value guest.
#[derive(Clone, PartialEq, Message)]
struct AddRequest {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    val: String,
}

/// The running process.
struct Running {
    lent: Lent,
    host: Arc<Known>,
    component: Component,
    genesis: Genesis,
    add: Arc<Method>,
    groups: BTreeMap<GroupId, Group>,
}

/// Runs the process until a line says `stop`, or no more can come. `say` gets each answer.
pub async fn run(
    many: Many,
    mut lines: mpsc::Receiver<String>,
    say: impl Fn(String) + Clone + Send + Sync + 'static,
) -> anyhow::Result<()> {
    let fatal = Fatal::default();
    let mut running = start(&many, &fatal).await?;
    say("ready".into());
    let mut loads = JoinSet::new();
    loop {
        let line = tokio::select! {
            line = lines.recv() => line.unwrap_or_else(|| "stop".into()),
            reason = fatal.raised() => bail!("{reason}"),
        };
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["load", name, count] => {
                let (load, say) = (running.load(name, count.parse()?), say.clone());
                loads.spawn(async move {
                    let acknowledged = load.await;
                    say(format!("loaded {acknowledged}"));
                });
            }
            ["serve"] => {
                for group in running.groups.values() {
                    group.machine.watch_mode().wait_for(|mode| *mode == NodeMode::Serving).await?;
                }
                say("serving".into());
            }
            ["states"] => say(running.states()),
            ["disk"] => {
                let stats = running.lent.disk.stats();
                say(format!("disk {} {}", stats.fsyncs, stats.entries));
            }
            ["restart", group] => {
                running.restart(group.parse()?).await?;
                say("restarted".into());
            }
            ["stop"] => break,
            _ => bail!("{line:?} is none of the lines that this door knows"),
        }
    }
    loads.shutdown().await;
    running.stop().await
}

async fn start(many: &Many, fatal: &Fatal) -> anyhow::Result<Running> {
    if !(1..=many.peers.len() as NodeId).contains(&many.number) {
        bail!("the number of a process is 1 to {}, as many as there are addresses", many.peers.len());
    }
    let directory = Arc::new(DataDir::open(&many.data)?);
    let space = Space::open(&directory, 0)?;
    let disk = LogDisk::open(&directory, fatal.clone())?;
    let file = std::fs::read(&many.fsm).with_context(|| format!("cannot read {}", many.fsm.display()))?;
    let encoded = Component::encode(&file)?;
    let id = ComponentId { hash: *blake3::hash(&encoded).as_bytes(), source_hash: *blake3::hash(&file).as_bytes() };
    let component = Component::load_from(&Engine::new(&Limits::default())?, &encoded, &*directory)?;
    let contract = Contract::new(component.descriptor(), component.has_watcher())?;
    let add = contract.method("Example/Add").context("the guest is not the key-value guest")?.clone();
    let cluster = Cluster { id: CLUSTER_ID, incarnation: 0, component_hash: id.hash };
    let boot = disk.identity().map_or(1, |identity| identity.boot + 1);
    let named = |number: NodeId| Addresses {
        name: format!("many{number}"),
        raft_addr: many.peers[number as usize - 1].clone(),
        grpc_addr: String::new(),
    };
    let me = Me { node_id: many.number, node: named(many.number) };
    let name = me.node.name.clone();
    disk.save_identity(&Identity { node_id: many.number, name, cluster: Some(cluster.clone()), boot })?;
    let genesis = machine::genesis_of(cluster.id, &component, id.source_hash);
    let host = Arc::new(Known { boot, id, genesis: genesis.clone(), directory: directory.clone() });
    let process = Process { boot, nonce: identity::mint_nonce()? };
    let lent = Lent {
        me: me.clone(),
        boot,
        directory,
        disk,
        space,
        cluster: ClusterCell::of_process(Some(cluster), process),
        channels: Channels::default(),
        groups: Groups::default(),
        intake: Intake::default(),
        queries: QueryPool::start(query_threads(), QUERIES_MAX)?,
        budget: Budget::default(),
        executor: Executor::default(),
        log_archive: None,
        snapshot_pace: Pace::default(),
        fatal: fatal.clone(),
    };
    let service = PeerService::new(Parts {
        me: me.clone(),
        cluster: lent.cluster.clone(),
        host: host.clone(),
        groups: lent.groups.clone(),
        intake: lent.intake.clone(),
    });
    let mut running = Running { lent, host, component, genesis, add, groups: BTreeMap::new() };
    for group in 0..many.groups {
        running.open(group).await?;
    }
    let listeners = config::bind("the peer address", &me.node.raft_addr)?;
    tokio::spawn(serve_peers(service, Port::new("raft", 256), listeners, fatal.clone()));
    if many.number == 1 {
        let members: BTreeMap<NodeId, Addresses> =
            (1..=many.peers.len() as NodeId).map(|number| (number, named(number))).collect();
        for group in running.groups.values() {
            if !group.raft.is_initialized().await? {
                group.raft.initialize(members.clone()).await?;
            }
        }
    }
    Ok(running)
}

impl Running {
    /// Opens and starts a group.
    async fn open(&mut self, id: GroupId) -> anyhow::Result<()> {
        let retention = RetentionLimits {
            interval: config::SNAPSHOT_INTERVAL,
            threshold_commands: u64::MAX,
            threshold_bytes: 0,
            trailing_commands: 1_000,
            trailing_entries_min: 1_000,
            log_bytes_max: 0,
        };
        let timeouts = Timeouts { election: ELECTION_TIMEOUT, ..Timeouts::default() };
        let settings = Settings { timeouts, catch_up_timeout: ELECTION_TIMEOUT, retention, restores_snapshot: true };
        let opened = Opened::open(&self.lent, id, settings)?;
        opened.machine.set_component(self.component.clone());
        let mut group = opened.start(self.host.clone(), None).await?;
        let genesis = self.genesis.clone();
        group.start_duties(move || Some(genesis.clone()));
        self.groups.insert(id, group);
        Ok(())
    }

    /// Runs that many commands in each group, one after another in one group and all groups at
    /// once. Returns how many were acknowledged.
    fn load(&self, name: &str, count: u32) -> impl Future<Output = u64> + Send + use<> {
        let each = self.groups.iter().map(|(group, running)| {
            let (group, calls, add, name) = (*group, running.calls.clone(), self.add.clone(), name.to_owned());
            async move {
                let mut acknowledged = 0;
                for n in 0..count {
                    let request = AddRequest { key: format!("{name}/{n}"), val: format!("{group}") };
                    let call = Call {
                        method: add.clone(),
                        request: request.encode_to_vec().into(),
                        caller: String::new(),
                        deadline: Some(Instant::now() + COMMAND_TIMEOUT),
                        share: Share::default(),
                    };
                    match calls.command(call).await {
                        Ok(_) => acknowledged += 1,
                        Err(error) => tracing::warn!(group, %error, "a command failed"),
                    }
                }
                acknowledged
            }
        });
        let each = join_all(each.collect::<Vec<_>>());
        async move { each.await.into_iter().sum() }
    }

    fn states(&self) -> String {
        let mut line = "states".to_owned();
        for (id, group) in &self.groups {
            let (index, hash) = group.machine.hash_tip();
            write!(line, " {id}:{index}:{hash:016x}").expect("a String takes everything");
        }
        line
    }

    /// Stops one group and opens it again, while the others go on.
    async fn restart(&mut self, id: GroupId) -> anyhow::Result<()> {
        let group = self.groups.remove(&id).context("there is no such group")?;
        group.stop_raft().await?;
        group.close().await?.released().await?;
        self.open(id).await
    }

    async fn stop(self) -> anyhow::Result<()> {
        for group in self.groups.into_values() {
            group.stop_raft().await?;
            group.close().await?;
        }
        Ok(tokio::task::spawn_blocking(move || self.lent.disk.close()).await?)
    }
}

/// What members ask of a process whose members never change.
struct Known {
    boot: u64,
    id: ComponentId,
    genesis: Genesis,
    directory: Arc<DataDir>,
}

impl Host for Known {
    fn boot(&self) -> u64 {
        self.boot
    }

    fn component(&self) -> Option<ComponentId> {
        Some(self.id)
    }

    fn profile(&self) -> Option<(u64, Genesis)> {
        Some((0, self.genesis.clone()))
    }

    fn load_component(&self, hash: &[u8; 32]) -> Result<Option<Vec<u8>>, String> {
        self.directory.load_component(hash).map_err(|error| error.to_string())
    }

    fn adopt(&self, _: JoinOffer) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(async { Err("the members of this process never change".into()) })
    }

    fn prepare(&self, _: Change, _: Option<(Addresses, Route)>) -> BoxFuture<'static, Result<String, String>> {
        Box::pin(async { Err("the guest of this process never changes".into()) })
    }
}
