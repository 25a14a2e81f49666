//! Checks whether this node's place is its own, before it forms a cluster and as long as it runs. A
//! wiped member that bootstraps again, or a copy of a data directory, would answer where others
//! expect another node. Decides who yields; the messages come from `raft`.
//!
//! - A cluster is formed only if, for a moment, no member of another cluster speaks to this
//!   address, and no other node's data is in the same `--raft_data_dir`.
//!   [`NodeConfig::bootstrap_forced`] overrides this.
//! - A node that founded a cluster and is still alone in it yields when a member of another cluster
//!   takes it for one of its own. It stops its Raft, serves nobody, and records that in the file
//!   `DISPUTED`. A cluster of several nodes ignores a stranger's message.
//! - A process that is told that another one takes part in its place stops its Raft until it is
//!   started again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use lockstep_proto::peer;
use openraft::async_runtime::WatchReceiver;
use tokio::time::timeout;

use super::identity::mint_cluster_id;
use super::{Foundation, clock};
use crate::config::NodeConfig;
use crate::group::stopping::stop_raft;
use crate::raft::peers::probe;
use crate::raft::peers::probe::Answer;
use crate::raft::peers::process::Original;
use crate::raft::time::log_time::wall_ms;
use crate::raft::{Claim, ClusterCell, Me, Process, Raft, RaftCell};
use crate::store::{self, DataDir};
use crate::types::{Cluster, NodeMode, StoredMembership};

/// Shortest time that a founder listens for members of another cluster. A leader tries each of its
/// members at least twice a second.
const LISTEN_FOR_MIN: Duration = Duration::from_millis(1_500);

/// Longest wait for an answer from this node's former address. It answers or refuses at once, or
/// proves nothing.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// Refuses to form a cluster beside the data of other nodes, before anything is made.
pub(super) fn check_siblings(config: &NodeConfig) -> anyhow::Result<()> {
    if !config.bootstrap || config.bootstrap_forced || store::holds_log(&config.data_dir()) {
        return Ok(());
    }
    let siblings = siblings(&config.raft_data_dir, &config.data_dir());
    let Some(first) = siblings.first() else { return Ok(()) };
    let names: Vec<String> = siblings.iter().map(|path| path.display().to_string()).collect();
    let name = first.file_name().unwrap_or_default().to_string_lossy();
    bail!(
        "--raft_bootstrap would form a new, empty cluster beside the data of other nodes: {} (there is none in {}). To start one of these \
         again, give its name: --raft_id={name}. To add a node to their cluster, leave --raft_bootstrap out and use `lockstep admin <the \
         leader's grpc_addr> add_voter`. If a second cluster is meant, give it a --raft_data_dir of its own, or say --raft_bootstrap=force",
        names.join(", "),
        config.data_dir().display()
    )
}

/// Returns the directories of nodes that are, or were, in a cluster. Ignores anything unreadable.
fn siblings(parent: &Path, own: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().filter_map(Result::ok);
    let mut found: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| path != own && store::holds_log(path)).collect();
    found.sort();
    found
}

/// Returns why this node may take no part from its start.
///
/// Either its place was found disputed before, or another process answers at its recorded address.
pub(super) async fn disputed(
    config: &NodeConfig,
    directory: &DataDir,
    recorded: &StoredMembership,
    me: &Me,
    cluster: &ClusterCell,
) -> anyhow::Result<Option<NodeMode>> {
    let process = cluster.processes().mine();
    if config.bootstrap_forced {
        directory.save_disputed(None)?;
    }
    if let Some(why) = directory.disputed()? {
        return Ok(Some(NodeMode::Disputed(why)));
    }
    let original = original(recorded, me, cluster).await;
    Ok(original.map(|original| NodeMode::Disputed(copied(me, process, &original, directory))))
}

/// Finds another process with this node's identity at this node's former address.
///
/// Tells that process of this one.
async fn original(recorded: &StoredMembership, me: &Me, cluster: &ClusterCell) -> Option<Original> {
    let process = cluster.processes().mine();
    let before = recorded.membership().get_node(&me.node_id)?.raft_addr.clone();
    if before == me.node.raft_addr || before.is_empty() {
        return None;
    }
    match probe::who(cluster.dialer(), &before, Some(copy(me, process)), LOOK_TIMEOUT).await {
        Answer::Somebody(answer) if answer.node_id == me.node_id && answer.nonce != process.nonce => {
            let process = Process { boot: answer.boot, nonce: answer.nonce };
            Some(Original { process, raft_addr: before })
        }
        Answer::Somebody(_) | Answer::Nobody | Answer::Unclear => None,
    }
}

/// Makes the message for the original.
fn copy(me: &Me, process: Process) -> peer::Copy {
    peer::Copy {
        node: me.node_id,
        nonce: process.nonce,
        boot: process.boot,
        raft_addr: me.node.raft_addr.clone(),
        takes_part: false,
    }
}

/// Makes the text for the operator of a process that is not the first of its identity.
fn copied(me: &Me, process: Process, original: &Original, directory: &DataDir) -> String {
    let (name, path) = (&me.node.name, directory.root().display());
    let place = match &*original.raft_addr {
        "" => String::new(),
        address => format!(" at {address}"),
    };
    format!(
        "node {name} ({:016x}) takes part as another process{place} ({}). This one ({process}) runs on a copy of its data directory, or on \
         one that was put back to an earlier state: it neither votes nor acknowledges nor serves. Stop it and delete {path}; for one more \
         node, start with an empty directory under another --raft_id. If the other process is the one that must go, stop it, remove {name} \
         from the cluster, and add it again with an empty directory: what it acknowledged since the copy was made is not here",
        me.node_id, original.process
    )
}

/// Forms a cluster of this node alone, if that was asked for.
///
/// The node must be in no cluster, and nobody may take it for a member of another one. Raft is
/// initialized before the cluster is recorded on disk. A crash in between leaves a node that the
/// next start finishes: alone in its cluster, it cannot disagree with anybody.
pub(super) async fn found(config: &NodeConfig, below: &Foundation, raft: &Raft) -> anyhow::Result<()> {
    let (me, admission, cell) = (&below.lent.me, &below.admission, &below.lent.cluster);
    if let Some(cluster) = admission.cluster() {
        if config.bootstrap {
            let id = cluster.id_hex();
            tracing::info!("--raft_bootstrap is ignored: this node is already in cluster {id}");
        }
        // A restored node starts at an address where its old cluster may still look for it.
        if below.identity.boot == 1
            && is_alone(raft, me)
            && let Some(claim) = listen(config, cell).await
        {
            // `keep_identity` logs and records it.
            cell.begin_dispute(claimed(me, &cluster, &claim, &below.lent.directory));
        }
        return Ok(());
    }
    let initialized = raft.is_initialized().await?;
    if !config.bootstrap && !initialized {
        return Ok(());
    }
    clock::check_to_found(wall_ms())?;
    let Some(component) = admission.component_hash() else {
        bail!(
            "this node was bootstrapping when it last stopped; start it with --fsm and its state machine to finish that"
        );
    };
    let claim = listen(config, cell).await;
    // A leader added this node meanwhile. Then it is at home, whoever else spoke to it.
    if admission.cluster().is_some() {
        return Ok(());
    }
    if let Some(claim) = claim {
        let why = not_founded(me, &claim);
        tracing::error!("NOT BOOTSTRAPPED: {why}");
        cell.begin_dispute(why);
        return Ok(());
    }
    if !initialized {
        raft.initialize([(me.node_id, me.node.clone())].into_iter().collect::<std::collections::BTreeMap<_, _>>())
            .await
            .context("the new cluster could not be initialized")?;
    }
    admission.stamp(Cluster { id: mint_cluster_id()?, incarnation: 0, component_hash: component })
}

/// Waits for a member of another cluster to speak to this address.
async fn listen(config: &NodeConfig, cell: &ClusterCell) -> Option<Claim> {
    if config.bootstrap_forced {
        return None;
    }
    let mut claims = cell.claims();
    // A member that hears no leader asks after its heartbeat timeout. That of this node is the best
    // guess at theirs.
    let time = LISTEN_FOR_MIN.max(config.heartbeat_timeout * 3 / 2);
    tracing::debug!(?time, "listening whether members of another cluster take this node for one of theirs");
    tokio::select! {
        claim = timeout(time, claims.wait_for(Option::is_some)) => claim.ok()?.ok()?.clone(),
        // Added by a leader, this node forms no cluster.
        _ = async { cell.joined().await }, if cell.get().is_none() => None,
    }
}

fn not_founded(me: &Me, claim: &Claim) -> String {
    let (name, address, theirs) = (&me.node.name, &me.node.raft_addr, &claim.cluster);
    format!(
        "members of cluster {theirs} take this node for one of theirs ({:016x}), so no new cluster was formed here: --raft_bootstrap would \
         have made a second one. If this node lost its data directory: leave it running, and on that cluster's leader run `remove_server \
         {name}` and then `add_voter {name} {address}`; from then on start it without --raft_bootstrap. If that cluster is given up: stop \
         its nodes and start this one again. If both are meant: --raft_bootstrap=force",
        claim.as_node
    )
}

fn claimed(me: &Me, ours: &Cluster, claim: &Claim, directory: &DataDir) -> String {
    let (name, address, theirs, ours) = (&me.node.name, &me.node.raft_addr, &claim.cluster, ours.id_hex());
    let path = directory.root().display();
    format!(
        "this node is alone in cluster {ours}, and node {:016x} of cluster {theirs} takes it for a member of its own ({:016x}). It serves \
         nothing, so that nobody writes to the wrong one. If {theirs} is right, because this node lost its data directory and was \
         bootstrapped again: stop it, delete {path}, start it without --raft_bootstrap, and on the leader of {theirs} run `remove_server \
         {name}` and `add_voter {name} {address}`. If {ours} is right, because it was restored or the address has a new owner: stop the \
         nodes of {theirs} or remove that member there, and start this one once with --raft_bootstrap=force",
        claim.from, claim.as_node
    )
}

fn is_alone(raft: &Raft, me: &Me) -> bool {
    let membership = raft.metrics().borrow_watched().membership_config.clone();
    membership.membership().nodes().all(|(id, _)| *id == me.node_id)
}

/// The parts of a node that [`keep_identity`] works on.
pub(super) struct Place {
    pub(super) me: Me,
    pub(super) cluster: ClusterCell,
    pub(super) raft: Raft,
    pub(super) cell: RaftCell,
    pub(super) directory: Arc<DataDir>,
    /// [`NodeConfig::bootstrap_forced`].
    pub(super) forced: bool,
}

/// Yields, for the rest of this process's life, in the cases that the head of this file names.
pub(super) async fn keep_identity(place: Place) {
    tokio::join!(yield_to_original(&place), yield_to_cluster(&place), stop_in_dispute(&place));
}

async fn yield_to_original(place: &Place) {
    let (processes, me) = (place.cluster.processes(), &place.me);
    let mut told = processes.original();
    // The sender lives as long as the node.
    let Ok(original) = told.wait_for(Option::is_some).await.map(|told| told.clone()) else { return };
    let Some(original) = original else { return };
    let why = copied(me, processes.mine(), &original, &place.directory);
    tracing::error!("A COPY: {why}");
    place.cluster.begin_dispute(why);
    if !original.raft_addr.is_empty() && original.raft_addr != me.node.raft_addr {
        let copy = Some(copy(me, processes.mine()));
        probe::who(place.cluster.dialer(), &original.raft_addr, copy, LOOK_TIMEOUT).await;
    }
}

async fn yield_to_cluster(place: &Place) {
    let mut claims = place.cluster.claims();
    loop {
        let claim = claims.borrow_and_update().clone();
        let ours = place.cluster.get();
        if let (Some(claim), Some(ours)) = (claim, ours)
            && claim.cluster != ours.id_hex()
            && !place.forced
            && is_alone(&place.raft, &place.me)
        {
            let why = claimed(&place.me, &ours, &claim, &place.directory);
            tracing::error!("TWO CLUSTERS: {why}");
            place.cluster.begin_dispute(why.clone());
            let directory = place.directory.clone();
            let saved = tokio::task::spawn_blocking(move || directory.save_disputed(Some(&why))).await;
            match saved.map_err(|error| error.to_string()).and_then(|saved| saved.map_err(|error| error.to_string())) {
                Ok(()) => {}
                Err(error) => tracing::error!(error, "cannot keep on the disk that this node must not serve"),
            }
            return;
        }
        if claims.changed().await.is_err() {
            return;
        }
    }
}

/// Stops Raft when this node's place is disputed. A node in no cluster continues, because a leader
/// may add it.
async fn stop_in_dispute(place: &Place) {
    let mut disputes = place.cluster.disputes();
    loop {
        let is_disputed = disputes.borrow_and_update().is_some();
        if is_disputed && place.cluster.get().is_some() {
            if let Err(error) = stop_raft(&place.cell).await {
                tracing::error!(error, "stopping Raft in a node whose place is disputed");
            }
            return;
        }
        if disputes.changed().await.is_err() {
            return;
        }
    }
}
