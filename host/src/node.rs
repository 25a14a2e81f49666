//! Connects the modules from bottom to top, and stops them from top to bottom. The only file that
//! sees everything. Decides nothing itself. `node/identity.rs` owns the node's identity,
//! `node/clock.rs` its clock. `node/founding.rs` decides whether it forms a cluster and whether its
//! place is disputed, `node/admission.rs` what it may run. `node/duties.rs` has its background
//! tasks, `node/sockets.rs` its sockets, and `node/stopping.rs` ends its Raft.

mod admission;
mod clock;
mod duties;
mod founding;
mod identity;
pub mod recover;
pub mod restore;
mod resync;
mod sockets;
mod stopping;

use std::future::Future;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::api::commands::{Commands, CommandsParts};
use crate::api::{Api, ApiParts};
use crate::config::{self, NodeConfig};
use crate::guest::QUERY_INSTANCES_MAX;
use crate::machine::{self, Machine};
use crate::net::Sockets;
use crate::raft::membership::builds;
use crate::raft::path::proposer::STALL_MAX;
use crate::raft::peers::service::Parts;
use crate::raft::peers::{install, link};
use crate::raft::retention::{Retention, RetentionLimits};
use crate::raft::time::clock_warning;
use crate::raft::{
    Canvass, Clock, ClusterCell, Forward, Forwarded, Inquiry, LeaderWatch, LogTime, Me, Members, NetworkFactory,
    PeerService, Presence, Process, Proposer, Raft, RaftCell, RaftCore, ReadIndex, Standing, Timeouts,
};
use crate::store::{Checkpoints, DataDir, Log, LogDisk, Space, State};
use crate::types::{Fatal, GROUP, Identity, NodeMode};
use admission::Admission;
use resync::Resync;
use sockets::{Listeners, bind, describe, serve_peers};
use stopping::{hand_over, hold, stop_handle, stop_raft};

/// Most queries that may wait for a thread; more are refused.
const QUERY_QUEUE_MAX: usize = 4_096;

/// Longest time of a clean stop. After that the process ends by itself, which loses nothing
/// acknowledged.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// A running node.
pub struct Node {
    api: Api,
    members: Members,
    raft: RaftCell,
    machine: Machine,
    disk: LogDisk,
    fatal: Fatal,
    exit: Arc<Notify>,
    /// Set when the process is to start again after it has stopped.
    restart: Arc<AtomicBool>,
    tasks: JoinSet<()>,
    listeners: Option<Listeners>,
    /// Holds the lock on the directory until the end.
    _directory: Arc<DataDir>,
}

/// How a node ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to stop.
    Stopped,
    /// It is to start again, with the files that it has prepared on its disk.
    Restart,
}

/// The modules below Raft, opened from the disk.
struct Foundation {
    directory: Arc<DataDir>,
    disk: LogDisk,
    log: Log,
    machine: Machine,
    identity: Identity,
    me: Me,
    cluster: ClusterCell,
    /// The index of the configuration in which the cluster removed this node, as the disk says.
    removed: Option<u64>,
    admission: Admission,
    /// Gives admission the API once there is one.
    api: Arc<OnceLock<Api>>,
    /// Set if this node takes no part in its cluster, with the reason. It then only reports that.
    held: Option<NodeMode>,
}

/// The running Raft, and the connections to the peers.
struct Consensus {
    raft: Raft,
    cell: RaftCell,
    canvass: Canvass,
    members: Members,
    leader: LeaderWatch,
    log_time: LogTime,
    retention: Retention,
    inquiry: Inquiry,
    /// Set when the cluster has removed this node.
    removed: watch::Receiver<Option<u64>>,
}

/// The paths of commands and reads.
struct Paths {
    proposer: Proposer,
    forward: Forward,
    read: ReadIndex,
    clock: Clock,
}

impl Node {
    /// Binds the ports, opens the disk and connects the modules.
    ///
    /// From here on the node takes part in its cluster. [`Node::run`] serves clients.
    pub async fn start(config: NodeConfig) -> anyhow::Result<Node> {
        config.validate()?;
        founding::check_siblings(&config)?;
        let sockets = sockets::open()?;
        let Listeners { grpc, raft: peer_listeners, http } = bind(&config)?;
        let fatal = Fatal::default();
        let me = describe(&config, &grpc, &peer_listeners)?;
        let http_addr = config.http_addr.as_deref().map(|addr| config::advertised(None, addr, &http)).transpose()?;
        let (below, state_machine) = open_disk(&config, me, &fatal).await?;
        let mut tasks = JoinSet::new();
        let consensus = start_raft(&config, &below, state_machine, &mut tasks).await?;
        let paths = open_paths(&config, &below, &consensus, &mut tasks);
        let service = peer_service(&below, &consensus, &paths);
        tasks.spawn(serve_peers(service, sockets.peers.clone(), peer_listeners, fatal.clone()));
        if below.held.is_none() {
            founding::found(&config, &below, &consensus.raft).await?;
        }
        let (exit, restart) = (Arc::new(Notify::new()), Arc::default());
        let resync = Resync::new(&below, &consensus.raft, &exit, &restart);
        let api = open_api(&config, &below, &consensus, &paths, &exit, resync, sockets)?;
        announce(&config, &below, http_addr.as_deref());
        match below.held {
            None => start_duties(&config, &below, &consensus, paths, &fatal, &mut tasks),
            Some(_) => drop(tasks.spawn(duties::watch_space(below.machine.space().clone()))),
        }
        Ok(Node {
            api,
            members: consensus.members,
            raft: consensus.cell,
            machine: below.machine,
            disk: below.disk,
            fatal,
            exit,
            restart,
            tasks,
            listeners: Some(Listeners { grpc, raft: Vec::new(), http }),
            _directory: below.directory,
        })
    }

    /// Serves until `stop` completes, Shutdown was called, or the node cannot continue. An error
    /// says why it could not.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> anyhow::Result<Ended> {
        let listeners = self.listeners.take().expect("a node runs once");
        let api = self.api.clone();
        let mut serving = tokio::spawn(async move { api.serve(listeners.grpc, listeners.http).await });
        let mut ended = Ended::Stopped;
        let failed = tokio::select! {
            () = stop => None,
            () = self.exit.notified() => {
                if self.restart.load(Relaxed) {
                    ended = Ended::Restart;
                }
                None
            }
            reason = self.fatal.raised() => Some(reason),
            reason = duties::panicked(&mut self.tasks) => Some(reason),
            served = &mut serving => Some(match served? {
                Ok(()) => "the client port was closed".to_string(),
                Err(error) => format!("the client port cannot be served: {error}"),
            }),
        };
        if let Some(reason) = failed {
            // The failed part may block a clean stop, and nothing acknowledged needs one.
            bail!("{reason}");
        }
        match tokio::time::timeout(STOP_TIMEOUT, self.stop(serving)).await {
            Ok(stopped) => stopped.map(|()| ended),
            Err(_) => bail!("the clean stop took longer than {STOP_TIMEOUT:?}; nothing acknowledged is lost"),
        }
    }

    /// Stops from top to bottom: hands leadership over, lets open calls end, then stops Raft, the
    /// state and the logs.
    async fn stop(mut self, serving: tokio::task::JoinHandle<std::io::Result<()>>) -> anyhow::Result<()> {
        hand_over(&self.members, &self.raft).await;
        self.api.stop();
        serving.await?.context("the client port did not close cleanly")?;
        // Another node that stops at the same time may have handed leadership to this one
        // meanwhile.
        hand_over(&self.members, &self.raft).await;
        stop_raft(&self.raft).await.map_err(anyhow::Error::msg)?;
        // This also ends the peer port and its streams, which never end by themselves.
        self.tasks.shutdown().await;
        self.machine.close().await?;
        let disk = self.disk.clone();
        tokio::task::spawn_blocking(move || disk.close()).await?;
        tracing::info!("stopped");
        Ok(())
    }
}

/// Opens everything on the disk, and loads the component that this node may run.
async fn open_disk(
    config: &NodeConfig,
    node: crate::types::Addresses,
    fatal: &Fatal,
) -> anyhow::Result<(Foundation, machine::StateMachine)> {
    let directory = Arc::new(DataDir::open(&config.data_dir())?);
    // Must come before any database is opened: on a full disk this makes the room they need.
    let space = Space::open(&directory, config.min_free_bytes)?;
    resync::finish(&directory).await?;
    let mut held = directory.group(GROUP).quarantined()?.map(NodeMode::Quarantined);
    let disk = LogDisk::open(&directory, fatal.clone())?;
    let log = disk.log(GROUP)?;
    let identity = identity::open(&disk, config)?;
    let process = Process { boot: identity.boot, nonce: identity::mint_nonce()? };
    let me = Me { node_id: identity.node_id, node };
    let state = State::open(&directory, GROUP)?;
    let recorded = machine::stands_at(&state)?.1;
    let (machine, state_machine) = machine::open(machine::Options {
        state,
        checkpoints: Checkpoints::open(&directory, GROUP)?,
        log: log.clone(),
        space,
        node: identity.node_id,
        boot: identity.boot,
        fatal: fatal.clone(),
        snapshot_pace: machine::Pace::new(NonZeroU64::new(config.snapshot_rate_limit)),
        // Each thread keeps an instance of the pool between queries.
        query_threads: std::thread::available_parallelism().map_or(2, usize::from).min(QUERY_INSTANCES_MAX as usize),
        query_queue_max: QUERY_QUEUE_MAX,
        restores_snapshot: !config.no_snapshot_restore_on_start,
    })?;
    let cluster = ClusterCell::of_process(identity.cluster.clone(), process);
    let removed = directory.group(GROUP).removed_at()?;
    if let Some(index) = removed {
        cluster.told_removed(index);
    }
    let api = Arc::new(OnceLock::new());
    let admission = Admission::new(
        directory.clone(),
        disk.clone(),
        machine.clone(),
        cluster.clone(),
        identity.clone(),
        api.clone(),
    );
    let (desk, fsm) = (admission.clone(), config.fsm.clone());
    let unfit = tokio::task::spawn_blocking(move || desk.load_at_start(fsm.as_deref())).await??;
    held = held.or(unfit.or(identity::out_of_terms(&log).await?).map(NodeMode::Unfit));
    held = held.or(founding::disputed(config, &directory, &recorded, &me, process).await?);
    let below = Foundation { directory, disk, log, machine, identity, me, cluster, removed, admission, api, held };
    Ok((below, state_machine))
}

/// Starts Raft on the log and the state machine.
async fn start_raft(
    config: &NodeConfig,
    below: &Foundation,
    state_machine: machine::StateMachine,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<Consensus> {
    let me = &below.me;
    let timeouts = Timeouts { heartbeat: config.heartbeat_timeout, election: config.election_timeout };
    let cell = RaftCell::default();
    let links = link::Links::new(me.node_id, below.cluster.clone(), cell.clone(), timeouts.append_progress());
    let log_time = clock::log_time(me.node_id, &below.machine, &cell, config.heartbeat_timeout);
    let snapshots = below.machine.snapshots().clone();
    let network = NetworkFactory::new(links.clone(), below.identity.boot, snapshots, timeouts, log_time.clone());
    let raft_config = Arc::new(timeouts.config("lockstep")?);
    if below.held.is_some() {
        below.log.apply_nothing();
    }
    let raft = Raft::new(me.node_id, raft_config, network, below.log.clone(), state_machine)
        .await
        .context("Raft could not start over this node's log and state")?;
    cell.set(raft.clone());
    match &below.held {
        None => {
            let cell = cell.clone();
            below.cluster.processes().set_addresses(Box::new(move |node| link::recorded_address(&*cell.get()?, node)));
        }
        Some(mode) => hold(mode, &below.machine, &cell).await?,
    }
    let (leader, feed) = LeaderWatch::start(&raft);
    tasks.spawn(feed);
    let canvass = Canvass::new(cell.clone(), links.clone(), Presence::default(), timeouts);
    let host = Arc::new(below.admission.clone());
    let inquiry = Inquiry::new(raft.clone(), links.clone(), below.machine.clone());
    let (removed, standing) = Standing::start(raft.clone(), links.clone(), timeouts.heartbeat);
    tasks.spawn(standing);
    let members = Members::new(me.clone(), links, cell.clone(), host, timeouts, config.catch_up_timeout);
    let limits = RetentionLimits {
        interval: config.snapshot_interval,
        threshold_commands: config.snapshot_threshold,
        threshold_bytes: config.snapshot_threshold_bytes,
        trailing_commands: config.trailing_logs,
        trailing_entries_min: config.trailing_entries_min,
        log_bytes_max: config.log_quota,
    };
    let retention = Retention::new(raft.clone(), below.machine.clone(), below.log.clone(), limits);
    Ok(Consensus { raft, cell, canvass, members, leader, log_time, retention, inquiry, removed })
}

/// Makes the paths of commands and reads, and starts their loops.
fn open_paths(config: &NodeConfig, below: &Foundation, consensus: &Consensus, tasks: &mut JoinSet<()>) -> Paths {
    let (me, machine) = (below.me.node_id, &below.machine);
    let core = Arc::new(RaftCore::new(consensus.raft.clone(), machine.clone(), below.log.clone(), me));
    let (leader, log_time) = (consensus.leader.clone(), consensus.log_time.clone());
    let (proposer, proposing) = Proposer::new(core.clone(), log_time, leader, machine.genesis_applied());
    tasks.spawn(proposing.run());
    let forward = Forward::new(me, below.cluster.clone());
    let (read, reading) =
        ReadIndex::new(core.clone(), Arc::new(forward.clone()), consensus.leader.clone(), config.election_timeout);
    tasks.spawn(reading.run());
    let clock = Clock::new(core, proposer.clone(), Arc::new(forward.clone()), consensus.leader.clone());
    tasks.spawn(clock.clone().check_silence());
    Paths { proposer, forward, read, clock }
}

/// Makes the service that answers the other nodes.
fn peer_service(below: &Foundation, consensus: &Consensus, paths: &Paths) -> PeerService {
    let forwarded = Arc::new(Forwarded::new(
        below.me.node_id,
        consensus.leader.clone(),
        paths.proposer.clone(),
        below.machine.waiters().clone(),
        paths.read.clone(),
        paths.clock.clone(),
        consensus.cell.clone(),
    ));
    let space = below.machine.space().clone();
    PeerService::new(Parts {
        me: below.me.clone(),
        cluster: below.cluster.clone(),
        raft: consensus.cell.clone(),
        canvass: consensus.canvass.clone(),
        members: consensus.members.clone(),
        refuses_entries: Arc::new(move |bytes| space.refuses_entries(bytes)),
        states: Arc::new(below.machine.clone()),
        host: Arc::new(below.admission.clone()),
        snapshots: Arc::new(install::Installer::new(below.machine.clone())),
        log_time: consensus.log_time.clone(),
        forward: forwarded.clone(),
        leader: forwarded,
    })
}

/// Makes the API for clients and operators. It serves once [`Node::run`] begins.
fn open_api(
    config: &NodeConfig,
    below: &Foundation,
    consensus: &Consensus,
    paths: &Paths,
    exit: &Arc<Notify>,
    resync: Resync,
    sockets: Sockets,
) -> anyhow::Result<Api> {
    let mode = below.machine.clone();
    let commands = Commands::new(CommandsParts {
        node: below.me.node_id,
        boot: below.identity.boot,
        leader: consensus.leader.clone(),
        waiters: below.machine.waiters().clone(),
        local: Arc::new(paths.proposer.clone()),
        forward: Arc::new(paths.forward.clone()),
        mode: Arc::new(move || mode.mode()),
        election_timeout: config.election_timeout,
    });
    let api = Api::new(ApiParts {
        node: below.me.node.clone(),
        raft: consensus.cell.clone(),
        machine: below.machine.clone(),
        commands,
        read: paths.read.clone(),
        clock: paths.clock.clone(),
        log_time: consensus.log_time.clone(),
        members: consensus.members.clone(),
        leader: consensus.leader.clone(),
        election_timeout: config.election_timeout,
        retention: consensus.retention.clone(),
        sockets,
        stop: stop_handle(&consensus.members, &consensus.cell, exit),
        resync: Arc::new(move |from| {
            let resync = resync.clone();
            Box::pin(async move { resync.run(from).await })
        }),
    })?;
    // Admission must know the API before the component is read, so that a join in between is not
    // missed.
    if below.api.set(api.clone()).is_err() {
        bail!("a node opens its API once");
    }
    if let Some(component) = below.machine.component() {
        api.set_component(&component)?;
    }
    Ok(api)
}

/// Starts the node's background tasks.
fn start_duties(
    config: &NodeConfig,
    below: &Foundation,
    consensus: &Consensus,
    paths: Paths,
    fatal: &Fatal,
    tasks: &mut JoinSet<()>,
) {
    let (machine, admission) = (&below.machine, below.admission.clone());
    tasks.spawn(consensus.canvass.clone().run());
    tasks.spawn(consensus.retention.clone().run());
    tasks.spawn(duties::watch_space(machine.space().clone()));
    tasks.spawn(duties::propose_genesis(consensus.leader.clone(), paths.proposer, machine.clone(), admission));
    let (quarantine, quarantined) = watch::channel(None);
    tasks.spawn(duties::quarantine(
        consensus.inquiry.clone(),
        below.directory.clone(),
        below.log.clone(),
        machine.clone(),
        consensus.members.clone(),
        consensus.cell.clone(),
        quarantine,
    ));
    tasks.spawn(duties::keep_mode(
        machine.clone(),
        below.cluster.clone(),
        consensus.raft.clone(),
        below.log.clone(),
        fatal.clone(),
        consensus.removed.clone(),
        quarantined,
    ));
    tasks.spawn(founding::keep_identity(founding::Place {
        me: below.me.clone(),
        cluster: below.cluster.clone(),
        raft: consensus.raft.clone(),
        cell: consensus.cell.clone(),
        directory: below.directory.clone(),
        forced: config.bootstrap_forced,
    }));
    tasks.spawn(duties::remember_removal(below.directory.clone(), below.removed, consensus.removed.clone()));
    tasks.spawn(duties::watch_core(consensus.raft.clone(), consensus.cell.clone(), fatal.clone()));
    tasks.spawn(clock_warning::watch(consensus.log_time.clone(), consensus.leader.clone()));
    let hung = STALL_MAX.max(2 * config.heartbeat_timeout);
    tasks.spawn(duties::leave_hung_disk(below.log.clone(), consensus.leader.clone(), consensus.members.clone(), hung));
    let members = consensus.members.clone();
    tasks.spawn(async move { members.announce_addresses().await });
    let members = consensus.members.clone();
    tasks.spawn(async move { members.finish_changes().await });
    tasks.spawn(builds::compare(below.me.clone(), consensus.raft.clone(), Arc::new(below.admission.clone())));
}

/// Logs the line that people look for. It has the ports that the system chose where none was given.
fn announce(config: &NodeConfig, below: &Foundation, http: Option<&str>) {
    let what = if below.held.is_some() { "serving operators only" } else { "serving" };
    let http = http.unwrap_or("off");
    let cluster = below.cluster.get();
    let cluster = cluster.map_or("none yet: add this node from the cluster's leader".into(), |found| found.id_hex());
    tracing::info!(
        grpc = below.me.node.grpc_addr,
        raft = below.me.node.raft_addr,
        http,
        cluster,
        data = %config.data_dir().display(),
        "{what}"
    );
}
