//! Builds a state from a backup: for the first node of a new cluster, or for a member whose own
//! state was wrong. For a new cluster it changes only the host's own records: the members, and the
//! cluster's id. The guest's rows, log time and indexes stay as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::sync::Arc;

use super::super::system::System;
use super::{BackupError, BackupReader};
use crate::codec::Genesis;
use crate::guest::Component;
use crate::machine::ReadOnly;
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
    /// The profile in force: that of the genesis record, or of the last change.
    pub profile: Genesis,
    /// The encoded component. Its BLAKE3 hash is the one in the profile.
    pub component: Vec<u8>,
    /// Rows of the guest and the host together.
    pub rows: u64,
    /// The read-only mode of the old cluster, if it was on. The new cluster keeps it.
    pub read_only: Option<ReadOnly>,
    /// Retention and quotas of the old cluster, as they are written, by their keys. The new cluster
    /// keeps them.
    pub operation: BTreeMap<String, String>,
}

/// The state that replaced a node's state.
#[derive(Clone, Copy, Debug)]
pub struct Replaced {
    /// The last entry in the state.
    pub applied: LogId,
    /// Rows of the guest and the host together.
    pub rows: u64,
}

/// A state that was read from a backup, and is not in force yet.
pub struct Unfounded {
    pub(super) generation: Arc<Generation>,
    /// The host's records as they are on the disk.
    pub(super) stored: System,
    /// The host's records as they shall be.
    pub(super) system: System,
    /// The encoded component that the state belongs to.
    pub(super) component: Vec<u8>,
    /// The version that it declares; empty if it declares none.
    pub(super) version: String,
    pub(super) rows: u64,
}

impl Unfounded {
    /// Reads a backup into a new generation of `state`. Blocks.
    pub fn read(state: &State, from: impl Read + Send + 'static) -> Result<Unfounded, BackupError> {
        let (generation, stored, component, rows) = read(state, from)?;
        let in_force = stored.in_force().map(|(_, profile)| &profile.component_hash);
        if in_force.is_none_or(|hash| hash != blake3::hash(&component).as_bytes().as_slice()) {
            return Err(BackupError::Damaged("the component in it is not the one that its state runs".into()));
        }
        let checked = Component::check(&component).map_err(|error| BackupError::Damaged(error.to_string()))?;
        Ok(Unfounded { generation, system: stored.clone(), stored, component, version: checked.version, rows })
    }

    /// Returns the profile in force, as a genesis entry has it.
    pub fn profile(&self) -> &Genesis {
        self.system.in_force().map(|(_, profile)| profile).expect("reading it has checked that there is one")
    }

    /// Returns the state that was read.
    pub(crate) fn generation(&self) -> &Generation {
        &self.generation
    }

    /// Returns the encoded component that the state belongs to.
    pub fn component(&self) -> &[u8] {
        &self.component
    }

    /// Makes the state that of a new node, and makes a checkpoint of it. `state` must be the one
    /// that it was read into. Blocks.
    pub fn found(self, state: &State, checkpoints: &Checkpoints, founder: &Founder) -> Result<Founded, BackupError> {
        let Unfounded { generation, stored, system, component, rows, .. } = self;
        let applied = system.applied.ok_or(SnapshotError::Empty)?;
        let genesis = genesis(&system, founder)?;
        let after = rewrite(&generation, &stored, system, genesis.clone(), applied, founder)?;
        put_in_force(state, checkpoints, generation, applied)?;
        let profile = after.in_force().map_or_else(|| genesis.clone(), |(_, profile)| profile.clone());
        let read_only = after.read_only.filter(|mode| mode.on).map(|mode| (*mode).clone());
        let operation = after.operation.map(|operation| operation.settings.clone()).unwrap_or_default();
        Ok(Founded { applied, genesis, profile, component, rows, read_only, operation })
    }
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
    Unfounded::read(state, from)?.found(state, checkpoints, founder)
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
fn genesis(system: &System, founder: &Founder) -> Result<Genesis, BackupError> {
    let recorded = system.genesis.as_ref();
    let recorded = recorded.ok_or_else(|| BackupError::Damaged("it is of a cluster without a genesis entry".into()))?;
    Ok(Genesis { cluster_id: founder.cluster_id.to_vec().into(), ..recorded.1.clone() })
}

/// Writes the records of a cluster of one to the disk, where `stored` is.
fn rewrite(
    generation: &Generation,
    stored: &System,
    system: System,
    genesis: Genesis,
    applied: LogId,
    founder: &Founder,
) -> Result<System, BackupError> {
    let nodes = BTreeMap::from([(founder.node_id, founder.node.clone())]);
    let membership = Membership::new(vec![BTreeSet::from([founder.node_id])], nodes)
        .map_err(|error| BackupError::Damaged(format!("no membership of one: {error}")))?;
    let index = system.genesis.as_ref().map_or(0, |genesis| genesis.0);
    let after = System {
        membership: Arc::new(StoredMembership::new(Some(applied), membership)),
        genesis: Some(Arc::new((index, genesis))),
        profile: system.profile.as_ref().map(|profile| Arc::new(profile.in_cluster(founder.cluster_id))),
        ..system
    };
    let mut batch = Batch::new();
    for (key, value) in after.changes_since(stored) {
        batch.put(Column::System, key, &value);
    }
    generation.commit(&batch).map_err(SnapshotError::from)?;
    Ok(after)
}
