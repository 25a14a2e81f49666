//! Wires the rooms from bottom to top, and stops them from top to bottom. The only file that sees everything.
//! Decides nothing by itself: what a node may run is `node/admission.rs`, what it does unasked is `node/duties.rs`.

mod admission;
mod duties;

use std::future::Future;
use std::net::TcpListener;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::api::forward::{Commands, CommandsParts};
use crate::api::{Api, ApiParts, Stop};
use crate::config::{self, NodeConfig};
use crate::machine::{self, Machine};
use crate::raft::retention::{Retention, RetentionLimits};
use crate::raft::service::Parts;
use crate::raft::{
    ClusterCell, Forwarded, Hop, LeaderWatch, Me, Members, NetworkFactory, PeerService, Propose, Proposer, Raft,
    RaftCell, RaftCore, ReadIndex, Timeouts, install, link, membership,
};
use crate::store::{Checkpoints, DataDir, Log, State};
use crate::types::{Cluster, Fatal, GROUP, Identity};
use admission::Admission;

/// Queries that may wait for a thread; more are refused.
const QUERY_QUEUE_MAX: usize = 4_096;

/// A clean stop takes at most this long; then the process ends by itself, which loses nothing acknowledged.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// A running node.
pub struct Node {
    api: Api,
    members: Members,
    raft: RaftCell,
    machine: Machine,
    log: Log,
    fatal: Fatal,
    exit: Arc<Notify>,
    tasks: JoinSet<()>,
    listeners: Option<Listeners>,
    /// Held until the end: the lock on the directory.
    _directory: Arc<DataDir>,
}

/// The sockets of a node, bound before anything on disk is touched.
struct Listeners {
    grpc: Vec<TcpListener>,
    raft: Vec<TcpListener>,
    http: Vec<TcpListener>,
}

impl Node {
    /// Binds the ports, opens the disk, joins the rooms. The node takes part from now on; clients are served by [`Node::run`].
    pub async fn start(config: NodeConfig) -> anyhow::Result<Node> {
        config.validate()?;
        let listeners = bind(&config)?;
        let fatal = Fatal::default();
        let directory = Arc::new(DataDir::open(&config.data_dir())?);
        let log = Log::open(&directory, GROUP, fatal.clone())?;
        let identity = open_identity(&log, &config)?;
        let me = Me { node_id: identity.node_id, node: describe(&config, &listeners)? };

        let state = State::open(&directory, GROUP)?;
        let checkpoints = Checkpoints::open(&directory, GROUP)?;
        let (machine, state_machine) = machine::open(machine::Options {
            state,
            checkpoints,
            log: log.clone(),
            node: me.node_id,
            boot: identity.boot,
            fatal: fatal.clone(),
            query_threads: std::thread::available_parallelism().map_or(2, usize::from),
            query_queue_max: QUERY_QUEUE_MAX,
        })?;
        let cluster = ClusterCell::new(identity.cluster.clone());
        let api_cell = Arc::new(OnceLock::new());
        let admission = Admission::new(
            directory.clone(),
            log.clone(),
            machine.clone(),
            cluster.clone(),
            identity.clone(),
            api_cell.clone(),
        );
        let admitted = admission.clone();
        let fsm = config.fsm.clone();
        tokio::task::spawn_blocking(move || admitted.load_at_start(fsm.as_deref())).await??;

        let timeouts = Timeouts { heartbeat: config.heartbeat_timeout, election: config.election_timeout };
        let raft_cell = RaftCell::default();
        let links = link::Links::new(me.node_id, cluster.clone(), raft_cell.clone(), timeouts.append_progress());
        let network = NetworkFactory::new(links.clone(), machine.snapshots().clone(), timeouts);
        let raft_config = Arc::new(timeouts.config("lockstep")?);
        let raft = Raft::new(me.node_id, raft_config, network, log.clone(), state_machine)
            .await
            .context("Raft could not start over this node's log and state")?;
        raft_cell.set(raft.clone());
        bootstrap(&config, &raft, &admission, &me).await?;

        let mut tasks = JoinSet::new();
        let (leader, feed) = LeaderWatch::start(&raft);
        tasks.spawn(feed);
        let core = Arc::new(RaftCore::new(raft.clone(), machine.clone(), me.node_id));
        let (proposer, proposing) = Proposer::new(core.clone(), leader.clone(), machine.genesis_applied());
        tasks.spawn(proposing.run());
        let hop = Hop::new(me.node_id, cluster.clone());
        let (read, reading) = ReadIndex::new(core, Arc::new(hop.clone()), leader.clone(), config.election_timeout);
        tasks.spawn(reading.run());
        let members = Members::new(
            me.clone(),
            links,
            raft_cell.clone(),
            Arc::new(admission.clone()),
            timeouts,
            membership::CATCH_UP_TIMEOUT,
        );

        let forwarded = Arc::new(Forwarded::new(
            me.node_id,
            leader.clone(),
            proposer.clone(),
            machine.waiters().clone(),
            read.clone(),
        ));
        let service = PeerService::new(Parts {
            me: me.clone(),
            cluster: cluster.clone(),
            raft: raft_cell.clone(),
            members: members.clone(),
            host: Arc::new(admission.clone()),
            snapshots: Arc::new(install::Installer::new(machine.clone())),
            forward: forwarded.clone(),
            read_index: forwarded,
        });
        let Listeners { grpc, raft: raft_listeners, http } = listeners;
        for listener in raft_listeners {
            tasks.spawn(serve_peers(service.clone(), listener, fatal.clone()));
        }

        let local: Arc<dyn Propose> = Arc::new(proposer.clone());
        let mode = machine.clone();
        let commands = Commands::new(CommandsParts {
            node: me.node_id,
            boot: identity.boot,
            leader: leader.clone(),
            waiters: machine.waiters().clone(),
            local,
            hop: Arc::new(hop),
            mode: Arc::new(move || mode.mode()),
            election_timeout: config.election_timeout,
        });
        let exit = Arc::new(Notify::new());
        let retention = Retention::new(
            raft.clone(),
            machine.clone(),
            log.clone(),
            RetentionLimits {
                interval: config.snapshot_interval,
                threshold_commands: config.snapshot_threshold,
                trailing_commands: config.trailing_logs,
                trailing_entries_min: config.trailing_entries_min,
            },
        );
        let api = Api::new(ApiParts {
            node: me.node.clone(),
            raft: raft_cell.clone(),
            machine: machine.clone(),
            commands,
            read,
            members: members.clone(),
            leader: leader.clone(),
            election_timeout: config.election_timeout,
            retention: retention.clone(),
            stop: stop_handle(&members, &raft_cell, &exit),
        })?;
        // Set here only, so it is empty.
        drop(api_cell.set(api.clone()));
        if let Some(component) = machine.component() {
            api.set_component(&component)?;
        }

        tasks.spawn(retention.run());
        tasks.spawn(duties::propose_genesis(leader, proposer, machine.clone(), admission.clone()));
        tasks.spawn(duties::keep_mode(machine.clone(), cluster.clone(), log.committed_hint()));
        tasks.spawn(duties::watch_core(raft.clone(), raft_cell.clone(), fatal.clone()));
        let announcing = members.clone();
        tasks.spawn(async move { announcing.announce_addresses().await });
        announce(&config, &me, &cluster);
        Ok(Node {
            api,
            members,
            raft: raft_cell,
            machine,
            log,
            fatal,
            exit,
            tasks,
            listeners: Some(Listeners { grpc, raft: Vec::new(), http }),
            _directory: directory,
        })
    }

    /// Serves until `stop` completes, Shutdown was called, or the node cannot go on. An error says why it could not.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let listeners = self.listeners.take().expect("a node runs once");
        let api = self.api.clone();
        let mut serving = tokio::spawn(async move { api.serve(listeners.grpc, listeners.http).await });
        let failed = tokio::select! {
            () = stop => None,
            () = self.exit.notified() => None,
            reason = self.fatal.raised() => Some(reason),
            served = &mut serving => Some(match served? {
                Ok(()) => "the client port was closed".to_string(),
                Err(error) => format!("the client port cannot be served: {error}"),
            }),
        };
        if let Some(reason) = failed {
            // What failed may hold anything up; nothing acknowledged needs a farewell.
            bail!("{reason}");
        }
        match tokio::time::timeout(STOP_TIMEOUT, self.stop(serving)).await {
            Ok(stopped) => stopped,
            Err(_) => bail!("the clean stop took longer than {STOP_TIMEOUT:?}; nothing acknowledged is lost"),
        }
    }

    /// From top to bottom: hand leadership over, let open calls end, then Raft, the state, the log.
    async fn stop(mut self, serving: tokio::task::JoinHandle<std::io::Result<()>>) -> anyhow::Result<()> {
        hand_over(&self.members, &self.raft).await;
        self.api.stop();
        serving.await?.context("the client port did not close cleanly")?;
        stop_raft(&self.raft).await.map_err(anyhow::Error::msg)?;
        // With them go the peer port and its streams, which would never end by themselves.
        self.tasks.shutdown().await;
        self.machine.close().await?;
        let log = self.log.clone();
        tokio::task::spawn_blocking(move || log.close()).await?;
        tracing::info!("stopped");
        Ok(())
    }
}

fn bind(config: &NodeConfig) -> anyhow::Result<Listeners> {
    Ok(Listeners {
        grpc: config::bind("--grpc_addr", &config.grpc_addr)?,
        raft: config::bind("--raft_addr", &config.raft_addr)?,
        http: match &config.http_addr {
            Some(http_addr) => config::bind("--http_addr", http_addr)?,
            None => Vec::new(),
        },
    })
}

/// This node as others dial it.
fn describe(config: &NodeConfig, listeners: &Listeners) -> anyhow::Result<crate::types::Node> {
    Ok(crate::types::Node {
        name: config.name.clone(),
        raft_addr: config::advertised(config.raft_advertise_addr.as_deref(), &config.raft_addr, &listeners.raft)?,
        grpc_addr: config::advertised(config.grpc_advertise_addr.as_deref(), &config.grpc_addr, &listeners.grpc)?,
    })
}

/// The identity of the directory, minted now if it is new, with this start counted. Durable on return.
fn open_identity(log: &Log, config: &NodeConfig) -> anyhow::Result<Identity> {
    let mut identity = match log.identity() {
        Some(identity) => identity,
        None => Identity { node_id: mint_u64()?, name: config.name.clone(), cluster: None, boot: 0 },
    };
    if identity.name != config.name {
        bail!(
            "{} holds the data of node {:?}, not of {:?}; start it with --raft_id={}, or give this node its own directory",
            config.data_dir().display(),
            identity.name,
            config.name,
            identity.name
        );
    }
    identity.boot += 1;
    log.save_identity(&identity)?;
    Ok(identity)
}

fn mint_u64() -> anyhow::Result<u64> {
    getrandom::u64().context("the system gives no random numbers")
}

/// Forms a cluster of this node alone, if that was asked for and it is in none. Raft is initialized before the disk is stamped, so a
/// crash in between leaves a node that the next start finishes: alone in its cluster, it cannot disagree with anybody.
async fn bootstrap(config: &NodeConfig, raft: &Raft, admission: &Admission, me: &Me) -> anyhow::Result<()> {
    let initialized = raft.is_initialized().await?;
    if let Some(cluster) = admission.cluster() {
        if config.bootstrap {
            let id = cluster.id_hex();
            tracing::warn!("--raft_bootstrap is ignored: this node is already in cluster {id}");
        }
        return Ok(());
    }
    if !config.bootstrap && !initialized {
        return Ok(());
    }
    let Some(component) = admission.component_hash() else {
        bail!(
            "this node was bootstrapping when it last stopped; start it with --fsm and its state machine to finish that"
        );
    };
    if !initialized {
        raft.initialize([(me.node_id, me.node.clone())].into_iter().collect::<std::collections::BTreeMap<_, _>>())
            .await
            .context("the new cluster could not be initialized")?;
    }
    let mut id = [0; 16];
    getrandom::fill(&mut id).context("the system gives no random numbers")?;
    admission.stamp(Cluster { id, incarnation: 0, component_hash: component })?;
    Ok(())
}

/// The line a person looks for.
fn announce(config: &NodeConfig, me: &Me, cluster: &ClusterCell) {
    let http = config.http_addr.as_deref().unwrap_or("off");
    let cluster = cluster.get().map_or("none yet: add this node from the cluster's leader".into(), |c| c.id_hex());
    tracing::info!(
        grpc = me.node.grpc_addr,
        raft = me.node.raft_addr,
        http,
        cluster,
        data = %config.data_dir().display(),
        "serving"
    );
}

/// One listener of the peer port, for as long as the node lives.
async fn serve_peers(service: PeerService, listener: TcpListener, fatal: Fatal) {
    let served = async {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        service.serve(listener, std::future::pending()).await.map_err(std::io::Error::other)
    };
    if let Err(error) = served.await {
        fatal.raise(format!("the peer port cannot be served: {error}"));
    }
}

fn stop_handle(members: &Members, raft: &RaftCell, exit: &Arc<Notify>) -> Stop {
    let (members, raft, exit) = (members.clone(), raft.clone(), exit.clone());
    Stop {
        raft: Arc::new(move || {
            let (members, raft) = (members.clone(), raft.clone());
            Box::pin(async move {
                hand_over(&members, &raft).await;
                stop_raft(&raft).await
            })
        }),
        exit: Arc::new(move || exit.notify_one()),
    }
}

/// Gives leadership to somebody who can take it, if this node has it and there is anybody.
async fn hand_over(members: &Members, raft: &RaftCell) {
    let Some(raft) = raft.get() else { return };
    if !raft.is_leader() || raft.voter_ids().count() < 2 {
        return;
    }
    match members.transfer_leadership().await {
        Ok(()) => tracing::info!("leadership is handed over"),
        Err(error) => tracing::warn!(%error, "stopping as leader; the others will elect one"),
    }
}

/// Stops the Raft group, once. Emptied first, so that the watchdog sees that it was meant.
async fn stop_raft(cell: &RaftCell) -> Result<(), String> {
    let Some(raft) = cell.get() else { return Ok(()) };
    cell.clear();
    raft.shutdown().await.map_err(|error| format!("Raft's core did not stop cleanly: {error}"))
}
