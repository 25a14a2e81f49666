//! `lockstep restore`: makes a data directory for the first node of a new cluster from a backup.
//! Runs no node.
//!
//! The directory is built under another name and renamed when it is whole, so that a partial one
//! never exists.

use std::fs::{self, File, TryLockError};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use openraft::storage::RaftLogStorage;

use super::identity::{mint_cluster_id, mint_node_id};
use crate::api;
use crate::codec::Genesis;
use crate::guest::{Component, Engine};
use crate::machine::{self, backup};
use crate::store::{Checkpoints, DataDir, Lock, LogDisk, State};
use crate::types::{Addresses, Cluster, Fatal, GROUP, Identity, Vote, hex};

/// Suffix of a directory that is not whole yet.
const UNFINISHED_SUFFIX: &str = ".restoring";

/// A prepared directory.
#[derive(Clone, Debug)]
pub struct Restored {
    /// `<raft_data_dir>/<raft_id>`.
    pub directory: PathBuf,
    /// The last entry that the state holds. The new cluster's log continues after it.
    pub index: u64,
    /// Rows of the guest and the host together.
    pub rows: u64,
    /// The new cluster, in hex.
    pub cluster: String,
    /// The BLAKE3 of the component that came with the backup.
    pub component: String,
}

/// Prepares `directory`, which must be empty or missing, for a node called `name`. On an error
/// nothing is left.
pub fn restore(file: &Path, directory: &Path, name: &str) -> anyhow::Result<Restored> {
    let from = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    let parent = directory.parent().context("a data directory has a parent")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    // One restore at a time, or each would remove what the other one builds.
    let turn = File::open(parent).with_context(|| format!("cannot open {}", parent.display()))?;
    // Held to the end. If the file system has no locks, nobody is kept out.
    let turn = Lock::take(turn);
    if let Err(TryLockError::WouldBlock) = turn {
        bail!("another restore into {} is under way; try again when that is done", parent.display());
    }
    refuse_used(directory)?;
    let unfinished = unfinished(directory);
    // A leftover of an earlier attempt that was killed.
    remove(&unfinished)?;
    let built = build(from, &unfinished, name).with_context(|| {
        format!("{} was not restored, and nothing was left in {}", file.display(), directory.display())
    });
    let restored = match built {
        Ok(restored) => restored,
        Err(error) => {
            remove(&unfinished)?;
            return Err(error);
        }
    };
    // The rename replaces an empty directory of that name, and fails on a full one.
    if let Err(error) = fs::rename(&unfinished, directory) {
        remove(&unfinished)?;
        return Err(error).with_context(|| format!("cannot put the new state in place at {}", directory.display()));
    }
    File::open(parent).and_then(|parent| parent.sync_all()).with_context(|| format!("fsync {}", parent.display()))?;
    Ok(Restored { directory: directory.to_owned(), ..restored })
}

fn refuse_used(directory: &Path) -> anyhow::Result<()> {
    match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", directory.display())),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => bail!(
                "{} is not empty; a backup is restored into a new directory only: give another --raft_id or --raft_data_dir, \
                 or remove what is there",
                directory.display()
            ),
        },
    }
}

fn unfinished(directory: &Path) -> PathBuf {
    let mut name = directory.as_os_str().to_owned();
    name.push(UNFINISHED_SUFFIX);
    name.into()
}

fn remove(directory: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

fn build(from: File, directory: &Path, name: &str) -> anyhow::Result<Restored> {
    let data = DataDir::open(directory)?;
    let (cluster_id, node_id) = (mint_cluster_id()?, mint_node_id()?);
    // Its addresses are recorded when it starts and leads.
    let node = Addresses { name: name.into(), ..Addresses::default() };
    let founder = backup::Founder { node_id, node, cluster_id };
    // The log first, as in every node: a state without a log looks as if its log were lost.
    let disk = LogDisk::open(&data, Fatal::default())?;
    let state = State::open(&data, GROUP)?;
    let checkpoints = Checkpoints::open(&data, GROUP)?;
    let founded = backup::found(&state, &checkpoints, BufReader::new(from), &founder)?;
    check_component(&founded.genesis, &founded.component)?;
    let component_hash = *blake3::hash(&founded.component).as_bytes();
    data.save_component(&component_hash, &founded.component)?;
    let cluster = Cluster { id: cluster_id, incarnation: 0, component_hash };
    let identity = Identity { node_id, name: name.into(), cluster: Some(cluster.clone()), boot: 0 };
    write_log(&disk, &identity, &founded)?;
    Ok(Restored {
        directory: directory.to_owned(),
        index: founded.applied.index,
        rows: founded.rows,
        cluster: cluster.id_hex(),
        component: hex(&component_hash),
    })
}

/// Makes now the checks that a node would make at its start.
fn check_component(genesis: &Genesis, encoded: &[u8]) -> anyhow::Result<()> {
    let limits = machine::limits_of(genesis).map_err(anyhow::Error::msg).context("the backup cannot be used")?;
    let component =
        Component::load(&Engine::new(&limits)?, encoded).context("the backup's component cannot run here")?;
    api::admit(&component)?;
    Ok(())
}

/// Writes an empty log that continues after the state, in a term that no other node knows.
fn write_log(disk: &LogDisk, identity: &Identity, founded: &backup::Founded) -> anyhow::Result<()> {
    disk.save_identity(identity)?;
    let mut log = disk.log(GROUP)?;
    let term = founded
        .applied
        .leader_id
        .term
        .checked_add(1)
        .context("the backup's last entry is of the last term there is")?;
    let vote = Vote::new(term, identity.node_id);
    let written = async {
        log.save_vote(&vote).await?;
        log.purge(founded.applied).await?;
        log.barrier().await.map_err(std::io::Error::other)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().context("cannot start a runtime")?;
    let written = runtime.block_on(written).context("the log was not written");
    disk.close();
    written
}
