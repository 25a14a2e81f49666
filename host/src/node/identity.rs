//! Who a node is: its id in Raft, minted with its data directory, and the cluster that it forms when it is asked to. Joins no other
//! cluster (that is `node/admission.rs`).

use anyhow::{Context, bail};

use super::admission::Admission;
use super::clock;
use crate::config::NodeConfig;
use crate::raft::log_time::wall_ms;
use crate::raft::{Me, Raft};
use crate::store::Log;
use crate::types::{Cluster, Identity, NodeId};

/// The identity of the directory, minted now if it is new, with this start counted. Durable on return.
pub(super) fn open(log: &Log, config: &NodeConfig) -> anyhow::Result<Identity> {
    let mut identity = match log.identity() {
        Some(identity) => identity,
        None => Identity { node_id: mint_node_id()?, name: config.name.clone(), cluster: None, boot: 0 },
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

/// Forms a cluster of this node alone, if that was asked for and it is in none. Raft is initialized before the disk is stamped, so a
/// crash in between leaves a node that the next start finishes: alone in its cluster, it cannot disagree with anybody.
pub(super) async fn bootstrap(config: &NodeConfig, raft: &Raft, admission: &Admission, me: &Me) -> anyhow::Result<()> {
    let initialized = raft.is_initialized().await?;
    if let Some(cluster) = admission.cluster() {
        if config.bootstrap {
            let id = cluster.id_hex();
            tracing::info!("--raft_bootstrap is ignored: this node is already in cluster {id}");
        }
        return Ok(());
    }
    if !config.bootstrap && !initialized {
        return Ok(());
    }
    clock::check_to_found(wall_ms())?;
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
    admission.stamp(Cluster { id: mint_cluster_id()?, incarnation: 0, component_hash: component })?;
    Ok(())
}

/// An id that no other data directory has.
pub(super) fn mint_node_id() -> anyhow::Result<NodeId> {
    getrandom::u64().context("the system gives no random numbers")
}

/// An id that no other cluster has.
pub(super) fn mint_cluster_id() -> anyhow::Result<[u8; 16]> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).context("the system gives no random numbers")?;
    Ok(id)
}
