//! The process: connects what it has once with its groups, from bottom to top, and stops them from
//! top to bottom. The only file that sees everything. Decides only which reason to hold a node
//! comes first. `node/identity.rs` owns the node's identity. `node/founding.rs` decides whether it
//! forms a cluster (not by a clock that `node/clock.rs` refuses), and whether its place is
//! disputed. `node/admission.rs` decides what it may run. `node/duties.rs` has its background
//! tasks, `node/sockets.rs` its sockets, `node/certificates.rs` its certificates, and
//! `node/stopping.rs` what Shutdown does. `group` has the rest.

mod admission;
mod certificates;
mod clock;
mod duties;
mod founding;
mod identity;
#[cfg(feature = "failpoints")]
pub mod many;
pub mod recover;
pub mod replay;
pub mod restore;
mod resync;
mod sockets;
mod stopping;

use std::collections::BTreeMap;
use std::future::Future;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::Notify;

use crate::api::{Api, ApiParts, Keep};
use crate::calls::budget::Budget;
use crate::config::{self, ConfigError, NodeConfig};
use crate::group::{Group, Lent, Opened, Settings, Tasks};
use crate::guest::QUERY_INSTANCES_MAX;
use crate::machine::{Executor, Pace, QueryPool};
use crate::net::Sockets;
use crate::raft::peers::groups::Groups;
use crate::raft::peers::link::Channels;
use crate::raft::peers::service::Parts;
use crate::raft::retention::RetentionLimits;
use crate::raft::{ClusterCell, Intake, Me, PeerService, Process, RaftCell, Timeouts};
use crate::store::{DataDir, LogDisk, Space};
use crate::threads::Handles;
use crate::tls::{Connector, Mode, OwnCluster};
use crate::trust::{TokenRules, Trust, TrustSettings};
use crate::types::{Addresses, Fatal, GROUP, GroupId, Identity, NodeMode};
use admission::Admission;
use certificates::Certificates;
use resync::Resync;
use sockets::{Listeners, bind, describe, serve_peers};
use stopping::stop_handle;

/// Most queries that may wait for a thread; more are refused.
const QUERY_QUEUE_MAX: usize = 4_096;

/// Longest time of a clean stop. After that the process ends by itself, which loses nothing
/// acknowledged.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// A running node: what a process has once, and its groups. It has group 0 alone today: `api`,
/// `admission`, `resync` and `join` know one group.
pub struct Node {
    api: Api,
    trust: Trust,
    groups: BTreeMap<GroupId, Group>,
    fatal: Fatal,
    exit: Arc<Notify>,
    /// Set when the process is to start again after it has stopped.
    restart: Arc<AtomicBool>,
    tasks: Tasks,
    threads: Handles,
    listeners: Option<Listeners>,
    disk: LogDisk,
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

/// What is open before any Raft runs.
struct Foundation {
    lent: Lent,
    identity: Identity,
    admission: Admission,
    /// Set if this node takes no part in its cluster, with the reason. It then only reports that.
    held: Option<NodeMode>,
}

impl Node {
    /// Binds the ports, opens the disk and connects the modules. What clients and probes can make
    /// as much of as they like runs in `threads`, all else in this runtime.
    ///
    /// From here on the node takes part in its cluster. [`Node::run`] serves clients.
    pub async fn start(config: NodeConfig, threads: Handles) -> anyhow::Result<Node> {
        config.validate()?;
        founding::check_siblings(&config)?;
        let certificates = certificates::open(&config)?;
        let sockets = certificates.on(sockets::open(&config)?, &threads.ports);
        let trust = open_trust(&config, certificates.cluster(&config.name))?;
        certificates.check_names(trust.is_closed());
        let Listeners { grpc, raft: peer_listeners, http } = bind(&config)?;
        let fatal = Fatal::default();
        let me = describe(&config, &grpc, &peer_listeners)?;
        let http_addr = config.http_addr.as_deref().map(|addr| config::advertised(None, addr, &http)).transpose()?;
        let (below, opened) = open_disk(&config, me, certificates.of_peers().connector(&config.name), &fatal).await?;
        let mut tasks = Tasks::new(fatal.clone());
        let raft = RaftCell::default();
        if below.held.is_none() {
            // What the state lacks is applied from the start of Raft on, and may need a component.
            tasks.start(below.admission.clone().supply(opened.recorded.clone(), raft.clone()));
        }
        let group = opened.start(Arc::new(below.admission.clone()), below.held.as_ref()).await?;
        raft.set(group.raft.clone());
        let service = PeerService::new(Parts {
            me: below.lent.me.clone(),
            cluster: below.lent.cluster.clone(),
            host: Arc::new(below.admission.clone()),
            groups: below.lent.groups.clone(),
            intake: below.lent.intake.clone(),
        });
        tasks.start(serve_peers(service, sockets.peers.clone(), peer_listeners, fatal.clone()));
        if below.held.is_none() {
            founding::found(&config, &below, &group.raft).await?;
        }
        let (exit, restart) = (Arc::new(Notify::new()), Arc::default());
        let resync = Resync::new(&below.lent, &group, &exit, &restart);
        let api = open_api(&config, &below, &group, &exit, resync, sockets, trust.clone())?;
        announce(&config, &below, http_addr.as_deref(), &certificates);
        tasks.start(certificates.keep());
        tasks.start(duties::watch_space(below.lent.space.clone()));
        tasks.start(trust.clone().watch_files());
        let group = start_duties(&config, &below, group, &mut tasks);
        Ok(Node {
            api,
            trust,
            groups: BTreeMap::from([(GROUP, group)]),
            fatal,
            exit,
            restart,
            tasks,
            threads,
            listeners: Some(Listeners { grpc, raft: Vec::new(), http }),
            disk: below.lent.disk,
            _directory: below.lent.directory,
        })
    }

    /// Serves until `stop` completes, Shutdown was called, or the node cannot continue. An error
    /// says why the node could not continue.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> anyhow::Result<Ended> {
        let listeners = self.listeners.take().expect("a node runs once");
        let (api, threads) = (self.api.clone(), self.threads.clone());
        let mut serving = tokio::spawn(async move { api.serve(&threads, listeners.grpc, listeners.http).await });
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
    /// state and the log.
    async fn stop(mut self, serving: tokio::task::JoinHandle<std::io::Result<()>>) -> anyhow::Result<()> {
        for group in self.groups.values() {
            group.hand_over().await;
        }
        self.api.stop();
        serving.await?.context("the client port did not close cleanly")?;
        for group in self.groups.values() {
            // Another node that stops at the same time may have handed leadership to this one
            // meanwhile.
            group.hand_over().await;
            group.stop_raft().await?;
        }
        // This also ends the peer port and its streams, which never end by themselves.
        self.tasks.shutdown().await;
        for group in self.groups.into_values() {
            group.close().await?;
        }
        tokio::task::spawn_blocking(move || self.disk.close()).await?;
        tokio::task::spawn_blocking(move || self.trust.flush()).await?;
        tracing::info!("stopped");
        Ok(())
    }
}

/// Opens everything on the disk, and loads the component that this node may run.
async fn open_disk(
    config: &NodeConfig,
    node: Addresses,
    connector: Connector,
    fatal: &Fatal,
) -> anyhow::Result<(Foundation, Opened)> {
    let directory = Arc::new(DataDir::open(&config.data_dir())?);
    // Must come before any database is opened: on a full disk this makes the room they need.
    let space = Space::open(&directory, config.min_free_bytes)?;
    resync::finish(&directory).await?;
    let quarantined = directory.group(GROUP).quarantined()?.map(NodeMode::Quarantined);
    let disk = LogDisk::open(&directory, fatal.clone())?;
    let identity = identity::open(&disk, config)?;
    let process = Process { boot: identity.boot, nonce: identity::mint_nonce()? };
    let me = Me { node_id: identity.node_id, node };
    let lent = Lent {
        me: me.clone(),
        boot: identity.boot,
        directory: directory.clone(),
        disk: disk.clone(),
        space,
        cluster: ClusterCell::of_node(identity.cluster.clone(), process, connector, &me.node.name),
        channels: Channels::default(),
        groups: Groups::default(),
        intake: Intake::default(),
        queries: QueryPool::start(query_threads(), QUERY_QUEUE_MAX)?,
        budget: Budget::new(config.costs.client_memory),
        executor: Executor::default(),
        log_archive: config.archive_dir().map(Into::into),
        snapshot_pace: Pace::new(NonZeroU64::new(config.snapshot_rate_limit)),
        fatal: fatal.clone(),
    };
    let opened = Opened::open(&lent, GROUP, settings(config))?;
    let admission =
        Admission::new(directory.clone(), disk, opened.machine.clone(), lent.cluster.clone(), identity.clone());
    let (loader, fsm) = (admission.clone(), config.fsm.clone());
    let unfit = tokio::task::spawn_blocking(move || loader.load_at_start(fsm.as_deref())).await??;
    let mut held = quarantined.or(unfit.or(identity::out_of_terms(&opened.log).await?).map(NodeMode::Unfit));
    held = held.or(founding::disputed(config, &directory, &opened.recorded, &me, &lent.cluster).await?);
    Ok((Foundation { lent, identity, admission, held }, opened))
}

/// Returns the number of threads for queries. Each keeps an instance of the guest's pool between
/// queries.
fn query_threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).min(QUERY_INSTANCES_MAX as usize)
}

fn settings(config: &NodeConfig) -> Settings {
    Settings {
        timeouts: Timeouts { heartbeat: config.heartbeat_timeout, election: config.election_timeout },
        catch_up_timeout: config.catch_up_timeout,
        retention: RetentionLimits {
            interval: config.snapshot_interval,
            threshold_commands: config.snapshot_threshold,
            threshold_bytes: config.snapshot_threshold_bytes,
            trailing_commands: config.trailing_logs,
            trailing_entries_min: config.trailing_entries_min,
            log_bytes_max: config.log_quota,
        },
        restores_snapshot: !config.no_snapshot_restore_on_start,
    }
}

/// Reads who may do what.
fn open_trust(config: &NodeConfig, cluster: OwnCluster) -> Result<Trust, ConfigError> {
    let trust = &config.trust;
    let settings = TrustSettings {
        node: config.name.clone(),
        cluster,
        client_certificates: config.tls.clients.ca.is_some() && config.tls.clients.mode() != Mode::Off,
        keys: trust.token_jwks.clone(),
        rules: TokenRules { issuer: trust.token_issuer.clone(), audience: trust.token_audience.clone() },
        policy: trust.policy.clone(),
        http_open: trust.http_open,
        audit_file: trust.audit_file.clone(),
    };
    Trust::open(settings).map_err(|error| ConfigError::new(error.flag, error.problem, error.hint))
}

/// Makes the API for clients and operators. It serves once [`Node::run`] begins.
fn open_api(
    config: &NodeConfig,
    below: &Foundation,
    group: &Group,
    exit: &Arc<Notify>,
    resync: Resync,
    sockets: Sockets,
    trust: Trust,
) -> anyhow::Result<Api> {
    Ok(Api::new(ApiParts {
        node: below.lent.me.node.clone(),
        raft: group.running.clone(),
        machine: group.machine.clone(),
        calls: group.calls.clone(),
        log_time: group.log_time.clone(),
        members: group.members.clone(),
        leader: group.leader.clone(),
        election_timeout: config.election_timeout,
        retention: group.retention.clone(),
        log_source: group.log_source.clone(),
        sockets,
        trust,
        stop: stop_handle(&group.members, &group.running, exit),
        intake: below.lent.intake.clone(),
        resync: Arc::new(move |from| {
            let resync = resync.clone();
            Box::pin(async move { resync.run(from).await })
        }),
        keep: keep_handle(&below.admission),
        upgrades: group.upgrades.clone(),
    })?)
}

/// Makes the function by which the API has a component kept.
fn keep_handle(admission: &Admission) -> Keep {
    let admission = admission.clone();
    Arc::new(move |file| {
        let admission = admission.clone();
        Box::pin(async move {
            let kept = tokio::task::spawn_blocking(move || admission.keep(&file)).await;
            kept.map_err(|error| error.to_string())?.map_err(|error| format!("{error:#}"))
        })
    })
}

/// Starts the background tasks of a node that is not held.
fn start_duties(config: &NodeConfig, below: &Foundation, mut group: Group, tasks: &mut Tasks) -> Group {
    if below.held.is_some() {
        return group;
    }
    let admission = below.admission.clone();
    group.start_duties(move || admission.genesis_to_propose());
    tasks.start(founding::keep_identity(founding::Place {
        me: below.lent.me.clone(),
        cluster: below.lent.cluster.clone(),
        raft: group.raft.clone(),
        cell: group.running.clone(),
        directory: below.lent.directory.clone(),
        forced: config.bootstrap_forced,
    }));
    group
}

/// Logs the line that people look for. It has the ports that the system chose where none was given.
fn announce(config: &NodeConfig, below: &Foundation, http: Option<&str>, certificates: &Certificates) {
    let what = if below.held.is_some() { "serving operators only" } else { "serving" };
    let encrypted = certificates.describe(http.is_some());
    let http = http.unwrap_or("off");
    let cluster = below.lent.cluster.get();
    let cluster = cluster.map_or("none yet: add this node from the cluster's leader".into(), |found| found.id_hex());
    tracing::info!(
        grpc = below.lent.me.node.grpc_addr,
        raft = below.lent.me.node.raft_addr,
        http,
        encrypted,
        cluster,
        data = %config.data_dir().display(),
        "{what}"
    );
}
