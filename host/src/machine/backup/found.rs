//! From a backup to a state: of a new cluster's first node, or of a member whose own was wrong. For a new cluster it changes the host's
//! own records only: who is in the cluster, and which cluster it is. The guest's rows, log time and indexes go on as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::sync::Arc;

use super::super::snapshot_receive::receive_backup;
use super::super::snapshots::SnapshotError;
use super::super::system::System;
use super::super::transfers::{Direction, Transfers};
use super::{BackupError, BackupReader};
use crate::codec::Genesis;
use crate::store::{Batch, Checkpoints, Column, Generation, State};
use crate::types::{LogId, Membership, Node, NodeId, StoredMembership, hex};

/// Who begins the new cluster.
#[derive(Clone, Debug)]
pub struct Founder {
    /// Minted for its data directory.
    pub node_id: NodeId,
    /// Its name; addresses are recorded when it starts.
    pub node: Node,
    /// Minted for the new cluster.
    pub cluster_id: [u8; 16],
}

/// What was built.
#[derive(Clone, Debug)]
pub struct Founded {
    /// The last entry of the old cluster that the state holds.
    pub applied: LogId,
    /// As the new cluster has it.
    pub genesis: Genesis,
    /// The component, encoded. Its BLAKE3 is that of the genesis.
    pub component: Vec<u8>,
    /// Rows of the guest and the host together.
    pub rows: u64,
}

/// What took the place of a node's state.
#[derive(Clone, Copy, Debug)]
pub struct Replaced {
    /// The last entry that the state holds.
    pub applied: LogId,
    /// Rows of the guest and the host together.
    pub rows: u64,
}

/// Puts the state of a backup, which is of the same cluster, in force as it is. The checkpoints of the state before it go, and one
/// of the new state takes their place. Blocks.
pub fn replace(
    state: &State,
    checkpoints: &Checkpoints,
    from: impl Read + Send + 'static,
    cluster_id: [u8; 16],
) -> Result<Replaced, BackupError> {
    let (generation, system, _, rows) = read(state, from)?;
    let applied = system.applied.ok_or(SnapshotError::Empty)?;
    let theirs = system.genesis.as_ref().map(|genesis| genesis.1.cluster_id.clone()).unwrap_or_default();
    if theirs[..] != cluster_id {
        let (theirs, ours) = (hex(&theirs), hex(&cluster_id));
        return Err(BackupError::Damaged(format!("it is of cluster {theirs}, this node is in cluster {ours}")));
    }
    for old in checkpoints.list() {
        if !checkpoints.set_aside(&old) {
            // Its own words are in the log.
            return Err(io::Error::other("a snapshot of the state in quarantine cannot be set aside").into());
        }
    }
    put_in_force(state, checkpoints, generation, applied)?;
    Ok(Replaced { applied, rows })
}

/// Builds the state in force, and a checkpoint of it, from a backup. `state` is a new node's. Blocks.
pub fn found(
    state: &State,
    checkpoints: &Checkpoints,
    from: impl Read + Send + 'static,
    founder: &Founder,
) -> Result<Founded, BackupError> {
    let (generation, system, component, rows) = read(state, from)?;
    let applied = system.applied.ok_or(SnapshotError::Empty)?;
    let genesis = genesis(&system, &component, founder)?;
    rewrite(&generation, &system, genesis.clone(), applied, founder)?;
    put_in_force(state, checkpoints, generation, applied)?;
    Ok(Founded { applied, genesis, component, rows })
}

/// A new generation with what the backup holds, its host records, the component, and the count of its rows.
fn read(
    state: &State,
    from: impl Read + Send + 'static,
) -> Result<(Arc<Generation>, System, Vec<u8>, u64), BackupError> {
    let transfer = Transfers::default().begin(Direction::Receiving, "a backup", None);
    let mut reader = BackupReader::new(from)?;
    let incoming = Box::new(move || reader.next_frame().map_err(|error| SnapshotError::Backup(error.to_string())));
    let (generation, system, component) = receive_backup(state, incoming, &transfer.shared())?;
    Ok((generation, system, component, transfer.status().rows))
}

fn put_in_force(
    state: &State,
    checkpoints: &Checkpoints,
    generation: Arc<Generation>,
    applied: LogId,
) -> Result<(), BackupError> {
    state.install(generation.clone(), applied.index).map_err(SnapshotError::from)?;
    let position = (applied.index, applied.leader_id.term);
    checkpoints.create(&generation, &|_| Ok(Some(position))).map_err(SnapshotError::from)?;
    Ok(())
}

/// The recorded genesis under the new cluster's id.
fn genesis(system: &System, component: &[u8], founder: &Founder) -> Result<Genesis, BackupError> {
    let damaged = |what: &str| BackupError::Damaged(what.into());
    let recorded = system.genesis.as_ref().ok_or_else(|| damaged("it is of a cluster without a genesis entry"))?;
    if recorded.1.component_hash != blake3::hash(component).as_bytes()[..] {
        return Err(damaged("the component in it is not the one that its genesis entry names"));
    }
    Ok(Genesis { cluster_id: founder.cluster_id.to_vec().into(), ..recorded.1.clone() })
}

fn rewrite(
    generation: &Generation,
    before: &System,
    genesis: Genesis,
    applied: LogId,
    founder: &Founder,
) -> Result<(), BackupError> {
    let nodes = BTreeMap::from([(founder.node_id, founder.node.clone())]);
    let membership = Membership::new(vec![BTreeSet::from([founder.node_id])], nodes)
        .map_err(|error| BackupError::Damaged(format!("no membership of one: {error}")))?;
    let index = before.genesis.as_ref().map_or(0, |genesis| genesis.0);
    let after = System {
        membership: Arc::new(StoredMembership::new(Some(applied), membership)),
        genesis: Some(Arc::new((index, genesis))),
        ..before.clone()
    };
    let mut batch = Batch::new();
    for (key, value) in after.changes_since(before) {
        batch.put(Column::System, key, &value);
    }
    Ok(generation.commit(&batch).map_err(SnapshotError::from)?)
}
