//! Recovers from a lost majority, on the data directory of one survivor that is stopped: inspects
//! it, and makes it a cluster of its own. Keeps log, state, cluster id and node id. Starts no node
//! and connects to nobody.
//!
//! Raft forbids this, so it is done by decree. A configuration of this node alone is appended after
//! the log, in a term after every one that the directory knows. That commits everything the
//! survivor holds, whether or not the others had acknowledged it.
//!
//! - The incarnation of the cluster is raised first, and is durable before anything else changes.
//!   From then on no message of the old members counts here, and none from here counts there. A
//!   crash after this step leaves a node without a quorum; it can be recovered again.
//! - A vote that comes from no election (a forged one, of a term far beyond the log's) is ignored:
//!   the new term is the next one of the log. That is safe only here, because nobody accepts the
//!   messages of the incarnation in which that vote was given.
//! - The vote is saved before the entry, as in Raft. The single entry is either there or not.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use openraft::EntryPayload;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};

use crate::machine;
use crate::raft::peers::bounds::{TERM_END, TERM_LEAP_MAX};
use crate::store::{DataDir, Log, LogDisk, State};
use crate::types::{
    Addresses, Cluster, CommittedLeaderId, Entry, Fatal, GROUP, Identity, LogId, Membership, NodeId, StoredMembership,
    TypeConfig, Vote,
};

/// A member of the old configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Name and addresses.
    pub node: Addresses,
    /// Whether it votes.
    pub voter: bool,
    /// Whether it is this node.
    pub me: bool,
}

/// The contents of a data directory.
#[derive(Clone, Debug)]
pub struct Found {
    /// The directory.
    pub path: PathBuf,
    /// This node's name.
    pub name: String,
    /// The cluster.
    pub cluster: Cluster,
    /// The last entry of the log.
    pub last: LogId,
    /// The last entry that is known to be committed. Later entries may have been acknowledged all
    /// the same.
    pub committed: Option<LogId>,
    /// The last entry that the state has applied.
    pub applied: Option<LogId>,
    /// The configuration in force.
    pub members: Vec<Member>,
    /// Set when the cluster had told this node that it was removed.
    pub removed_at: Option<u64>,
}

/// The directory of a survivor, open and locked.
pub struct Survivor {
    directory: Arc<DataDir>,
    disk: LogDisk,
    log: Log,
    vote: Option<Vote>,
    identity: Identity,
    membership: StoredMembership,
    found: Found,
}

impl Survivor {
    /// Opens and checks the directory.
    ///
    /// Fails when a node runs on it, when it is no node's directory, or when there is nothing to
    /// recover from.
    pub async fn open(path: &Path) -> anyhow::Result<Survivor> {
        if !path.join("raft").is_dir() {
            bail!(
                "{} is no data directory of a node; give --raft_data_dir and --raft_id as the node is started with",
                path.display()
            );
        }
        let directory = Arc::new(DataDir::open(path)?);
        if let Some(why) = directory.group(GROUP).quarantined()? {
            bail!(
                "this node is in quarantine, so its state must not become the cluster's; recover from another one: {why}"
            );
        }
        let disk = LogDisk::open(&directory, Fatal::default())?;
        let mut log = disk.log(GROUP)?;
        let identity = disk.identity().context("this directory was never used by a node")?;
        let Some(cluster) = identity.cluster.clone() else {
            bail!("node {} is in no cluster yet, so it has nothing to recover", identity.name);
        };
        let (applied, applied_membership) = machine::stands_at(&State::open(&directory, GROUP)?)?;
        let state = log.get_log_state().await?;
        let Some(last) = state.last_log_id else { bail!("the log is empty; there is nothing to recover from") };
        if applied.is_some_and(|applied| applied.index > last.index) {
            bail!(
                "a snapshot was being installed when the node stopped; start the node once, which finishes that, and stop it again"
            );
        }
        let present = log.stats().first_index.unwrap_or(last.index + 1)..last.index + 1;
        let mut reader = log.get_log_reader().await;
        let vote = reader.read_vote().await?;
        let membership = in_force(&mut reader, applied_membership, present).await?;
        let found = Found {
            path: path.to_owned(),
            name: identity.name.clone(),
            cluster,
            last,
            committed: log.committed_hint().max(applied),
            applied,
            members: members(membership.membership(), identity.node_id),
            removed_at: directory.group(GROUP).removed_at()?,
        };
        Ok(Survivor { directory, disk, log, vote, identity, membership, found })
    }

    /// Returns the contents of the directory.
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// Makes this node the only member of its cluster, in the next incarnation. Durable on return.
    ///
    /// After a crash in between it can be repeated.
    pub async fn recover(mut self) -> anyhow::Result<Cluster> {
        let node_id = self.identity.node_id;
        let Some(node) = self.membership.membership().get_node(&node_id).cloned() else {
            bail!(
                "{} is not in the configuration it holds, so its data may end before the cluster's did; recover from a member",
                self.found.name
            );
        };
        if self.membership.membership().voter_ids().eq([node_id]) {
            bail!("{} is the only voter of its cluster already; start it", self.found.name);
        }
        let (term, incarnation) = (next_term(self.vote, self.found.last)?, self.found.cluster.incarnation);
        let incarnation =
            incarnation.checked_add(1).context("the cluster has no incarnation left; restore a backup")?;
        let cluster = Cluster { incarnation, ..self.found.cluster.clone() };
        self.disk.save_identity(&Identity { cluster: Some(cluster.clone()), ..self.identity.clone() })?;
        crate::faults::point("recover-after-identity");
        let leader_id = CommittedLeaderId { term, node_id };
        self.log.save_vote(&Vote { leader_id, committed: true }).await?;
        crate::faults::point("recover-after-vote");
        let alone = Membership::new(vec![[node_id].into()], BTreeMap::from([(node_id, node)]))?;
        self.append(leader_id, alone).await?;
        self.directory.group(GROUP).save_removed_at(None)?;
        let disk = self.disk.clone();
        tokio::task::spawn_blocking(move || disk.close()).await?;
        Ok(cluster)
    }

    async fn append(&mut self, leader_id: CommittedLeaderId, alone: Membership) -> anyhow::Result<()> {
        let log_id = LogId::new(leader_id, self.found.last.index + 1);
        let entry = Entry { log_id, payload: EntryPayload::Membership(alone) };
        self.log.append([entry], IOFlushed::noop()).await?;
        Ok(self.log.barrier().await?)
    }
}

/// Returns the term of the new configuration.
fn next_term(vote: Option<Vote>, last: LogId) -> anyhow::Result<u64> {
    let (voted, last) = (vote.map_or(0, |vote| vote.leader_id.term), last.leader_id.term);
    ensure!(
        last < TERM_END - 1,
        "the last log entry itself is of term {last}, behind which there is none: its leader was forged; restore a backup"
    );
    // A vote that is close enough to the log comes from an election.
    let is_forged = voted.saturating_sub(last) > TERM_LEAP_MAX || voted >= TERM_END - 1;
    Ok(1 + if is_forged { last } else { voted.max(last) })
}

fn members(membership: &Membership, me: NodeId) -> Vec<Member> {
    let votes = |id: NodeId| membership.voter_ids().any(|voter| voter == id);
    let mut members: Vec<Member> =
        membership.nodes().map(|(id, node)| Member { node: node.clone(), voter: votes(*id), me: *id == me }).collect();
    members.sort_by(|a, b| a.node.name.cmp(&b.node.name));
    members
}

/// Returns the last configuration of the log, committed or not.
///
/// If the entries that are present hold none after the state's, returns the state's: the state
/// covers whatever was purged.
async fn in_force(
    reader: &mut impl RaftLogReader<TypeConfig>,
    applied: StoredMembership,
    present: Range<u64>,
) -> anyhow::Result<StoredMembership> {
    let mut found = applied;
    let mut next = found.log_id().as_ref().map_or(0, |log_id| log_id.index + 1).max(present.start);
    while next < present.end {
        // A read is limited in bytes, and returns at least one entry.
        let entries = reader.limited_get_log_entries(next, present.end).await?;
        ensure!(!entries.is_empty(), "log entry {next} is missing");
        for entry in entries {
            next = entry.log_id.index + 1;
            if let EntryPayload::Membership(membership) = entry.payload {
                found = StoredMembership::new(Some(entry.log_id), membership);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_next_term_follows_elections_and_no_forged_vote() {
        let last = |term| LogId::new(CommittedLeaderId { term, node_id: 1 }, 9);
        let next = |voted: Option<u64>, term| next_term(voted.map(|voted| Vote::new(voted, 2)), last(term));
        for (voted, term, expected) in [
            (None, 3, 4),
            (Some(3), 3, 4),
            (Some(8), 3, 9),
            (Some(3 + TERM_LEAP_MAX), 3, 4 + TERM_LEAP_MAX),
            (Some(4 + TERM_LEAP_MAX), 3, 4),
            (Some(u64::MAX), 3, 4),
        ] {
            assert_eq!(next(voted, term).unwrap(), expected, "{voted:?} {term}");
        }
        assert!(next(None, u64::MAX).unwrap_err().to_string().contains("restore a backup"));
    }

    /// Regression test: a single forged vote made a cluster unrecoverable.
    ///
    /// It was of the last term, and a build that did not refuse it had granted it.
    #[tokio::test]
    async fn a_directory_whose_vote_is_of_the_last_term_is_recovered_into_the_next_one_of_its_log() {
        let place = tempfile::tempdir().unwrap();
        let node = |name: &str| Addresses {
            name: name.into(),
            raft_addr: format!("{name}:1"),
            grpc_addr: format!("{name}:2"),
        };
        let cluster = Cluster { id: [1; 16], incarnation: 0, component_hash: [2; 32] };
        {
            let directory = DataDir::open(place.path()).unwrap();
            let disk = LogDisk::open(&directory, Fatal::default()).unwrap();
            let mut log = disk.log(GROUP).unwrap();
            drop(State::open(&directory, GROUP).unwrap());
            disk.save_identity(&Identity { node_id: 1, name: "a".into(), cluster: Some(cluster), boot: 1 }).unwrap();
            let nodes = BTreeMap::from([(1, node("a")), (2, node("b"))]);
            let both = Membership::new(vec![[1, 2].into()], nodes).unwrap();
            let leader_id = CommittedLeaderId { term: 3, node_id: 1 };
            let entry = Entry { log_id: LogId::new(leader_id, 0), payload: EntryPayload::Membership(both) };
            log.append([entry], IOFlushed::noop()).await.unwrap();
            log.save_vote(&Vote::new(u64::MAX, 2)).await.unwrap();
            let why = crate::node::identity::out_of_terms(&log).await.unwrap().unwrap();
            assert!(why.contains("lockstep recover"), "{why}");
            disk.close();
        }
        let survivor = Survivor::open(place.path()).await.unwrap();
        assert_eq!(survivor.recover().await.unwrap().incarnation, 1);
        let directory = DataDir::open(place.path()).unwrap();
        let mut log = LogDisk::open(&directory, Fatal::default()).unwrap().log(GROUP).unwrap();
        let vote = log.get_log_reader().await.read_vote().await.unwrap();
        assert_eq!(vote, Some(Vote::new_committed(4, 1)));
        assert_eq!(log.get_log_state().await.unwrap().last_log_id.unwrap().index, 1);
    }
}
