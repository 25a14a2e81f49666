//! Builds a state from a backup: for the first node of a new cluster, or for a member whose own
//! state was wrong. For a new cluster it changes only the host's own records: the members, and the
//! cluster's id. The guest's rows, log time and indexes stay as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::sync::Arc;

use super::super::system::System;
use super::{BackupError, BackupReader};
use crate::codec::Genesis;
use crate::machine::snapshot::error::SnapshotError;
use crate::machine::snapshot::receive::receive_backup;
use crate::machine::snapshot::transfers::{Direction, Transfers};
use crate::store::{Batch, Checkpoints, Column, Generation, State};
use crate::types::{Addresses, LogId, Membership, NodeId, StoredMembership, hex};

/// The node that begins the new cluster.
#[derive(Clone, Debug)]
pub struct Founder {
    /// The node's id, created for its data directory.
    pub node_id: NodeId,
    /// Its name; addresses are recorded when it starts.
    pub node: Addresses,
    /// The id that was created for the new cluster.
    pub cluster_id: [u8; 16],
}

/// The state that was built.
#[derive(Clone, Debug)]
pub struct Founded {
    /// The last entry of the old cluster in the state.
    pub applied: LogId,
    /// The genesis record of the new cluster.
    pub genesis: Genesis,
    /// The encoded component. Its BLAKE3 hash is the one in the genesis.
    pub component: Vec<u8>,
    /// Rows of the guest and the host together.
    pub rows: u64,
}

/// The state that replaced a node's state.
#[derive(Clone, Copy, Debug)]
pub struct Replaced {
    /// The last entry in the state.
    pub applied: LogId,
    /// Rows of the guest and the host together.
    pub rows: u64,
}

/// Installs the state of a backup of the same cluster as it is. Sets aside the checkpoints of the
/// old state, and makes one of the new state. Blocks.
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
            // `set_aside` has logged the reason.
            return Err(io::Error::other("a snapshot of the state in quarantine cannot be set aside").into());
        }
    }
    put_in_force(state, checkpoints, generation, applied)?;
    Ok(Replaced { applied, rows })
}

/// Builds a new node's state from a backup, and makes a checkpoint of it. `state` must be a new
/// node's. Blocks.
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

/// Reads a backup into a new generation. Returns it with its host records, the component, and the
/// number of rows.
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

/// Returns the recorded genesis with the new cluster's id.
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
