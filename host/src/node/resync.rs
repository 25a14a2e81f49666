//! Gives a node in quarantine another node's state: fetches it while the node runs, and puts it in
//! place at the next start. The log, vote and identity stay, because only the state computed from
//! the log was wrong. If the fetched state is ahead of the log and the vote, they follow it.
//!
//! - The state comes over the peer port of a member that serves, as a backup that is taken after a
//!   read of its leader's commit index. So it holds everything that this node had acknowledged and
//!   shown.
//! - Nothing of the old state is changed before the whole backup is on the disk. If the node
//!   crashes after that, the next start finishes.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context, bail};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::async_runtime::WatchReceiver;
use tokio::sync::{Mutex, Notify, mpsc};

use crate::api::Fetched;
use crate::group::{Group, Lent};
use crate::machine::Machine;
use crate::machine::backup::{self, BackupWriter, Summary};
use crate::raft::peers::fetch::fetch_state;
use crate::raft::{GroupCell, Raft};
use crate::store::{Checkpoints, DataDir, LogDisk, State};
use crate::types::{Addresses, Fatal, GROUP, Membership, NodeId, NodeMode};

/// Frames buffered between the network and the disk.
const FRAMES_AHEAD: usize = 4;

/// Fetches another node's state. Cheap to clone.
#[derive(Clone)]
pub(super) struct Resync {
    me: NodeId,
    raft: Raft,
    cell: GroupCell,
    directory: Arc<DataDir>,
    machine: Machine,
    exit: Arc<Notify>,
    restart: Arc<AtomicBool>,
    one: Arc<Mutex<()>>,
}

impl Resync {
    pub(super) fn new(lent: &Lent, group: &Group, exit: &Arc<Notify>, restart: &Arc<AtomicBool>) -> Resync {
        Resync {
            me: lent.me.node_id,
            raft: group.raft.clone(),
            cell: GroupCell::new(lent.cluster.clone(), GROUP),
            directory: lent.directory.clone(),
            machine: group.machine.clone(),
            exit: exit.clone(),
            restart: restart.clone(),
            one: Arc::default(),
        }
    }

    /// Fetches another node's state, and restarts the process.
    ///
    /// The source is the member with that address or name, or else the first voter that gives its
    /// state.
    pub(super) async fn run(&self, from: Option<String>) -> Result<Fetched, String> {
        let Ok(_turn) = self.one.try_lock() else { return Err("a resync is under way on this node".into()) };
        if !matches!(self.machine.mode(), NodeMode::Quarantined(_)) {
            return Err(format!("only a node in quarantine is made anew; this one is {}", self.machine.mode()));
        }
        let mut refusals = Vec::new();
        for (id, node) in self.sources(from.as_deref())? {
            tracing::info!(from = %node, "fetching the state of another node");
            match self.fetch(id, &node).await {
                Ok(Summary { index, rows, .. }) => {
                    tracing::info!(
                        from = %node,
                        index,
                        rows,
                        "the state of another node is on the disk; starting again with it"
                    );
                    self.restart.store(true, Relaxed);
                    self.exit.notify_one();
                    return Ok(Fetched { from: node.to_string(), index, rows });
                }
                Err(error) => refusals.push(format!("{node}: {error:#}")),
            }
        }
        Err(format!("no other voter gave its state: {}", refusals.join("; ")))
    }

    /// Returns the member that was asked for, or else all other voters, as of the end of this
    /// node's log.
    ///
    /// Raft has stopped, so its metrics are those of its last moment.
    fn sources(&self, from: Option<&str>) -> Result<Vec<(NodeId, Addresses)>, String> {
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        let membership = now.membership_config.membership();
        match from {
            Some(from) => Ok(vec![find(membership, self.me, from)?]),
            None => {
                let others = membership.voter_ids().filter(|id| *id != self.me);
                Ok(others.filter_map(|id| Some((id, membership.get_node(&id)?.clone()))).collect())
            }
        }
    }

    async fn fetch(&self, id: NodeId, node: &Addresses) -> anyhow::Result<Summary> {
        let route = self.cell.route(self.me, id).context("this node is in no cluster")?;
        let frames = fetch_state(self.cell.dialer(), node, route).await.map_err(anyhow::Error::msg)?;
        let (sender, receiver) = mpsc::channel(FRAMES_AHEAD);
        let directory = self.directory.clone();
        let writing = tokio::task::spawn_blocking(move || write(&directory, receiver));
        let received = pass_on(frames, sender).await;
        let written = writing.await.context("the thread that writes the state ended")?;
        let fetched = received.and(written);
        match &fetched {
            Ok(_) => self.directory.group(GROUP).keep_resync()?,
            Err(_) => self.directory.group(GROUP).drop_resync_unfinished()?,
        }
        fetched
    }
}

/// Returns the other member with that grpc_addr, raft_addr or raft_id.
fn find(membership: &Membership, me: NodeId, from: &str) -> Result<(NodeId, Addresses), String> {
    let others = || membership.nodes().filter(|(id, _)| **id != me);
    let is_meant = |node: &Addresses| [&node.grpc_addr, &node.raft_addr, &node.name].into_iter().any(|it| it == from);
    let found = others().find(|(_, node)| is_meant(node)).map(|(id, node)| (*id, node.clone()));
    found.ok_or_else(|| {
        let members: Vec<String> = others().map(|(_, node)| node.to_string()).collect();
        format!(
            "{from:?} is no other member of this cluster: give the grpc_addr, raft_addr or raft_id of one, or none to take any \
             voter. The others are {}",
            members.join(", ")
        )
    })
}

/// Passes frames on until the stream ends or fails, or the writer is gone.
async fn pass_on(frames: impl Stream<Item = Result<Bytes, String>>, to: mpsc::Sender<Bytes>) -> anyhow::Result<()> {
    let mut frames = std::pin::pin!(frames);
    while let Some(frame) = frames.next().await {
        if to.send(frame.map_err(anyhow::Error::msg)?).await.is_err() {
            // The writer's own error says more.
            return Ok(());
        }
    }
    Ok(())
}

fn write(directory: &DataDir, mut frames: mpsc::Receiver<Bytes>) -> anyhow::Result<Summary> {
    let path = directory.group(GROUP).resync_unfinished()?;
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut writer = BackupWriter::new(BufWriter::new(file))?;
    while let Some(frame) = frames.blocking_recv() {
        writer.push(&frame)?;
    }
    let (summary, buffer) = writer.finish().context("the other node stopped sending")?;
    let file = buffer.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    file.sync_all().with_context(|| format!("fsync {}", path.display()))?;
    Ok(summary)
}

/// At a start, replaces the state in quarantine by the fetched one, if there is one.
pub(super) async fn finish(directory: &DataDir) -> anyhow::Result<()> {
    let of_group = directory.group(GROUP);
    of_group.drop_resync_unfinished()?;
    let path = of_group.resync();
    let from = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    let disk = LogDisk::open(directory, Fatal::default())?;
    let mut log = disk.log(GROUP)?;
    let Some(cluster) = disk.identity().and_then(|identity| identity.cluster) else {
        bail!("{} is there, and this node is in no cluster; remove that file", path.display());
    };
    let (state, checkpoints) = (State::open(directory, GROUP)?, Checkpoints::open(directory, GROUP)?);
    let replaced =
        tokio::task::block_in_place(|| backup::replace(&state, &checkpoints, BufReader::new(from), cluster.id));
    let replaced = match replaced {
        Err(error) if error.is_of_the_file() => {
            tracing::error!(%error, "the state that was fetched cannot be used; the node stays in quarantine");
            return Ok(of_group.drop_resync()?);
        }
        replaced => replaced.context(
            "the state that was fetched could not be put in place; start the node again when that is mended",
        )?,
    };
    log.vote_with(replaced.applied.leader_id).await?;
    log.go_on_behind(replaced.applied).await?;
    disk.close();
    of_group.end_quarantine()?;
    let (index, rows) = (replaced.applied.index, replaced.rows);
    tracing::warn!(index, rows, "this node's state was replaced by that of another node; its quarantine is over");
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_member_is_found_by_either_address_and_by_its_name() {
        let node = |name: &str| Addresses {
            name: name.into(),
            raft_addr: format!("{name}:1"),
            grpc_addr: format!("{name}:2"),
        };
        let nodes = BTreeMap::from([(1, node("nodeA")), (2, node("nodeB"))]);
        let membership = Membership::new(vec![[1].into()], nodes).unwrap();
        for from in ["nodeB", "nodeB:1", "nodeB:2"] {
            assert_eq!(find(&membership, 1, from).unwrap(), (2, node("nodeB")));
        }
        for from in ["nodeA", "nodeC:2", ""] {
            let words = find(&membership, 1, from).unwrap_err();
            assert!(
                words.contains("is no other member") && words.contains("nodeB (raft nodeB:1, grpc nodeB:2)"),
                "{words}"
            );
        }
    }
}
