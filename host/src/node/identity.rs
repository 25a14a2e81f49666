//! A node's identity: its id in Raft, minted with its data directory, and whether its vote leaves
//! any later term. Forms no cluster (that is `node/founding.rs`) and joins none (that is
//! `node/admission.rs`).

use anyhow::{Context, bail};
use openraft::storage::{RaftLogReader, RaftLogStorage};

use crate::config::NodeConfig;
use crate::raft::peers::bounds::TERM_END;
use crate::store::{Log, LogDisk};
use crate::types::{Identity, NodeId};

/// Returns the identity of the directory, and counts this start. Durable on return.
///
/// Mints the identity if the directory is new.
pub(super) fn open(disk: &LogDisk, config: &NodeConfig) -> anyhow::Result<Identity> {
    let mut identity = match disk.identity() {
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
    disk.save_identity(&identity)?;
    Ok(identity)
}

/// Returns why nobody can be elected over this log any more, if that is so.
///
/// The vote's term has then reached [`TERM_END`]. Only a forged message to a build that did not
/// refuse it can cause that.
pub(super) async fn out_of_terms(log: &Log) -> anyhow::Result<Option<String>> {
    let vote = log.clone().get_log_reader().await.read_vote().await?;
    let term = vote.map(|vote| vote.leader_id.term).filter(|term| *term >= TERM_END);
    Ok(term.map(|term| {
        format!(
            "the vote on this node's disk is of term {term}, behind which there is none: no election brought it, a message was forged. If \
             other members have no such vote, remove this node and add it again with an empty data directory; if all have, stop them all \
             and run `lockstep recover` on the one with the longest log"
        )
    }))
}

/// Mints a number that no other process has; never 0.
pub(super) fn mint_nonce() -> anyhow::Result<u64> {
    Ok(mint_node_id()?.max(1))
}

/// Mints an id that no other data directory has.
pub(super) fn mint_node_id() -> anyhow::Result<NodeId> {
    getrandom::u64().context("the system gives no random numbers")
}

/// Mints an id that no other cluster has.
pub(super) fn mint_cluster_id() -> anyhow::Result<[u8; 16]> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).context("the system gives no random numbers")?;
    Ok(id)
}
