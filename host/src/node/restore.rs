//! `lockstep restore`: makes a data directory for the first node of a new cluster from a backup.
//! Log entries behind the backup bring its state forward, if they are given (`restore/log.rs`).
//! Another component than that of the backup may take the state over. Runs no node.
//!
//! - The directory is built under another name and renamed when it is whole, so that a partial one
//!   never exists.
//! - A dry run builds the same, and removes it.

mod log;

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use lockstep_contract::{Contract, Difference, differences};
use openraft::storage::RaftLogStorage;

use super::admission::{self, id_of, same_component};
use super::identity::{mint_cluster_id, mint_node_id};
use crate::api;
use crate::codec::Genesis;
use crate::guest::{Component, Engine, on_guest_stack};
use crate::machine::backup::Forwarded;
use crate::machine::{self, RehearsalReport, backup};
use crate::store::{Checkpoints, DataDir, Lock, LogDisk, State};
use crate::types::{Addresses, Cluster, Fatal, GROUP, Identity, Vote, hex};
use log::{Building, bring_forward};

pub use log::Behind;

/// Suffix of a directory that is not whole yet.
const UNFINISHED_SUFFIX: &str = ".restoring";
/// Suffix of the directory of a dry run.
const TRIED_SUFFIX: &str = ".trying";

/// Bytes of the backup that are read at once.
const READ_BYTES: usize = 1 << 20;

/// How far a restore has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The backup is read.
    Reading {
        /// Bytes so far.
        bytes: u64,
        /// Bytes of the file.
        of: u64,
    },
    /// The log is applied.
    Applying {
        /// The last entry that was.
        index: u64,
        /// The last one that may be.
        last: u64,
    },
    /// Another component migrates the state.
    Migrating {
        /// Calls so far.
        calls: u32,
    },
}

/// Is told how far a restore has come, on any thread.
pub type Tell = Arc<dyn Fn(Progress) + Send + Sync>;

/// What to restore, and how.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The backup.
    pub file: &'a Path,
    /// The data directory, which must be empty or missing.
    pub directory: &'a Path,
    /// The name of the node.
    pub name: &'a str,
    /// The log that brings the state forward, before another component takes it over.
    pub behind: Behind<'a>,
    /// The component that takes the state over. `None`: that of the backup.
    pub fsm: Option<&'a Path>,
    /// Builds the directory, passes the state through the component's own snapshot and restore, and
    /// removes all of it.
    pub is_dry_run: bool,
}

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
    /// The BLAKE3 of the component that the state belongs to.
    pub component: String,
    /// What the log did to the state, if one was given.
    pub forwarded: Option<Forwarded>,
    /// What happened to the state, if another component took it over.
    pub succession: Option<Succession>,
    /// Whether the backup is of a cluster in read-only mode, which the new one keeps.
    pub is_read_only: bool,
    /// Retention and quotas of the cluster of the backup, by their keys, which the new one keeps.
    pub operation: BTreeMap<String, String>,
}

/// Another component took the state over, or could not.
#[derive(Clone, Debug)]
pub struct Succession {
    /// How what it serves differs from what the component of the backup served.
    pub differences: Vec<Difference>,
    /// What became of the state.
    pub report: RehearsalReport,
}

/// The component did not take the state over. The report says why.
#[derive(Debug, thiserror::Error)]
#[error("the component does not take the state over: {}", .0.report.migration.detail)]
pub struct NotSucceeded(pub Box<Succession>);

/// Prepares the directory. On an error, and after a dry run, nothing is left.
pub fn restore(plan: &Plan<'_>, tell: &Tell) -> anyhow::Result<Restored> {
    let Plan { file, directory, is_dry_run, .. } = *plan;
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
    let unfinished = beside(directory, if is_dry_run { TRIED_SUFFIX } else { UNFINISHED_SUFFIX });
    // A leftover of an earlier attempt that was killed.
    remove(&unfinished)?;
    let built = build(from, &unfinished, plan, tell).with_context(|| {
        format!("{} was not restored, and nothing was left in {}", file.display(), directory.display())
    });
    let restored = match built {
        Ok(restored) => restored,
        Err(error) => {
            remove(&unfinished)?;
            return Err(error);
        }
    };
    if is_dry_run {
        remove(&unfinished)?;
        return Ok(restored);
    }
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

/// Returns the directory beside another one.
fn beside(directory: &Path, suffix: &str) -> PathBuf {
    let mut name = directory.as_os_str().to_owned();
    name.push(suffix);
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

/// The file of a backup. It tells how much of it was read.
struct Told {
    file: File,
    bytes: u64,
    of: u64,
    tell: Tell,
}

impl Read for Told {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.bytes += read as u64;
        (self.tell)(Progress::Reading { bytes: self.bytes, of: self.of });
        Ok(read)
    }
}

fn build(from: File, directory: &Path, plan: &Plan<'_>, tell: &Tell) -> anyhow::Result<Restored> {
    let data = DataDir::open(directory)?;
    let (cluster_id, node_id) = (mint_cluster_id()?, mint_node_id()?);
    // Its addresses are recorded when it starts and leads.
    let node = Addresses { name: plan.name.into(), ..Addresses::default() };
    let founder = backup::Founder { node_id, node, cluster_id };
    // The log first, as in every node: a state without a log looks as if its log were lost.
    let disk = LogDisk::open(&data, Fatal::default())?;
    let state = State::open(&data, GROUP)?;
    let checkpoints = Checkpoints::open(&data, GROUP)?;
    let of = from.metadata().map_or(0, |file| file.len());
    let from = Told { file: from, bytes: 0, of, tell: tell.clone() };
    let mut read = backup::Unfounded::read(&state, BufReader::with_capacity(READ_BYTES, from))?;
    let fsm = plan.fsm.map(admission::read).transpose()?;
    let forwarded = match plan.behind.log {
        [] => None,
        _ => {
            let building = Building { directory, state: &state, fsm: fsm.as_ref().map(|(_, encoded)| encoded) };
            let forward = || bring_forward(&mut read, &plan.behind, &building, tell);
            Some(on_guest_stack("forward", forward).context("cannot start a thread")??)
        }
    };
    let succession = match &fsm {
        // Another version may have encoded the same file otherwise.
        Some((id, encoded)) if !id_of(read.profile()).is_some_and(|own| same_component(*id, own)) => {
            let tell = |calls| tell(Progress::Migrating { calls });
            let rehearses_in = plan.is_dry_run.then_some(&state);
            Some(succeed(&mut read, (id.source_hash, &encoded[..]), rehearses_in, &tell)?)
        }
        _ => {
            check_component(read.profile(), read.component())?;
            None
        }
    };
    let founded = read.found(&state, &checkpoints, &founder)?;
    let component_hash = *blake3::hash(&founded.component).as_bytes();
    data.save_component(&component_hash, &founded.component)?;
    let cluster = Cluster { id: cluster_id, incarnation: 0, component_hash };
    let identity = Identity { node_id, name: plan.name.into(), cluster: Some(cluster.clone()), boot: 0 };
    write_log(&disk, &identity, &founded)?;
    Ok(Restored {
        directory: directory.to_owned(),
        index: founded.applied.index,
        rows: founded.rows,
        cluster: cluster.id_hex(),
        component: hex(&component_hash),
        forwarded,
        succession,
        is_read_only: founded.read_only.is_some(),
        operation: founded.operation,
    })
}

/// Makes now the checks that a node would make at its start. Returns the component.
fn check_component(profile: &Genesis, encoded: &[u8]) -> anyhow::Result<(Component, Contract)> {
    let limits = machine::limits_of(profile).map_err(anyhow::Error::msg).context("the backup cannot be used")?;
    let component = Component::load(&Engine::new(&limits)?, encoded).context("the component cannot run here")?;
    let contract = api::admit(&component)?;
    Ok((component, contract))
}

/// Has another component take the state over, under the limits of the backup.
fn succeed(
    read: &mut backup::Unfounded,
    (source_hash, encoded): ([u8; 32], &[u8]),
    rehearses_in: Option<&State>,
    tell: &(dyn Fn(u32) + Sync),
) -> anyhow::Result<Succession> {
    let (component, contract) = check_component(read.profile(), encoded)?;
    // The old component only says what it served. It need not run here.
    let old = Component::check(read.component())
        .ok()
        .and_then(|checked| Contract::new(checked.descriptor.as_deref(), checked.has_watcher).ok());
    let differences = old.map_or_else(Vec::new, |old| differences(&old, &contract));
    let successor = backup::Successor { component: &component, source_hash, rehearses_in, tell };
    let report = on_guest_stack("succession", || read.succeed(&successor)).context("cannot start a thread")??;
    let succession = Succession { differences, report };
    let is_unfaithful = succession.report.snapshot.as_ref().is_some_and(|snapshot| snapshot.problem.is_some());
    match succession.report.migration.has_result() && !is_unfaithful {
        true => Ok(succession),
        false => Err(NotSucceeded(Box::new(succession)).into()),
    }
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
