//! One replicated machine of a process: its log, its state, its Raft, its members, the paths of its
//! commands and reads, its mode. A group is opened, started and stopped apart from other groups. A
//! held group takes no part in its cluster, and only reports why. A group serves no client and no
//! port: `node` has those, and lends the group what a process has once.
//!
//! ```text
//! node (one process): listeners, data directory, log disk, space, channels, query threads, cluster
//!   └─ groups: 0, and more in a process of tests
//!        Opened: log, state, machine, its place in the cluster
//!        Group:  Raft, members, leader, paths, duties
//! ```

mod clock;
mod duties;
mod mode;
mod start;
pub(crate) mod stopping;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::calls::Calls;
use crate::calls::budget::Budget;
use crate::codec::Genesis;
use crate::machine::{self, Executor, Machine, Pace, QueryPool, StateMachine};
use crate::raft::membership::builds;
use crate::raft::membership::join::Host;
use crate::raft::path::proposer::STALL_MAX;
use crate::raft::peers::groups::Groups;
use crate::raft::peers::link::Channels;
use crate::raft::retention::{Retention, RetentionLimits};
use crate::raft::time::clock_warning;
use crate::raft::{
    Archive, Canvass, ClusterCell, GroupCell, Inquiry, Intake, LeaderWatch, LogSource, LogTime, Me, Members, Proposer,
    Raft, RaftCell, Timeouts, Upgrades,
};
use crate::store::{Checkpoints, DataDir, Log, LogDisk, Space, State};
use crate::types::{Fatal, GroupId, NodeMode, StoredMembership};

/// Longest wait for calls that still use the state of a closed group. They end within their
/// deadlines.
const RELEASE_PATIENCE: Duration = Duration::from_secs(30);

/// What a process has once and lends to each of its groups. Cheap to clone.
#[derive(Clone)]
pub struct Lent {
    /// This node, as others know it.
    pub me: Me,
    /// The number of this run of the process.
    pub boot: u64,
    /// The data directory, locked.
    pub directory: Arc<DataDir>,
    /// The logs of all groups.
    pub disk: LogDisk,
    /// The room on the disk.
    pub space: Space,
    /// The node's cluster, which processes take part in it, and what dials peers.
    pub cluster: ClusterCell,
    /// The pooled channels to peers. `forward`, `join` and `probe` have their own.
    pub channels: Channels,
    /// The groups that the peer port serves.
    pub groups: Groups,
    /// The room for peers' messages of which a part is here.
    pub intake: Intake,
    /// The threads for queries.
    pub queries: QueryPool,
    /// Where apply threads come from.
    pub executor: Executor,
    /// The bytes that clients may make this node hold.
    pub budget: Budget,
    /// The directory in which this node archives its log, if it does.
    pub log_archive: Option<Arc<Path>>,
    /// How fast this node sends snapshots, those of all groups together.
    pub snapshot_pace: Pace,
    /// Receives errors that the process cannot survive.
    pub fatal: Fatal,
}

/// How a group behaves. Times and limits are those of the operator's flags.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Of heartbeats and elections.
    pub timeouts: Timeouts,
    /// Time in which a new voter must catch up.
    pub catch_up_timeout: Duration,
    /// When snapshots are made, and how much log stays.
    pub retention: RetentionLimits,
    /// Whether a state that is behind the newest snapshot is restored from it.
    pub restores_snapshot: bool,
}

/// A group whose disk is open. Its Raft does not run yet.
pub struct Opened {
    /// Which group it is.
    pub id: GroupId,
    /// Its log.
    pub log: Log,
    /// Its machine.
    pub machine: Machine,
    /// Its place in the node's cluster.
    pub cell: GroupCell,
    /// The membership that its state recorded last.
    pub recorded: StoredMembership,
    /// The index of the configuration in which the cluster removed this node, as the disk says.
    pub removed: Option<u64>,
    state_machine: StateMachine,
    settings: Settings,
    lent: Lent,
}

impl Opened {
    /// Opens the log and the state of a group.
    ///
    /// # Errors
    /// The disk fails, or log and state do not belong together.
    pub fn open(lent: &Lent, id: GroupId, settings: Settings) -> anyhow::Result<Opened> {
        let log = lent.disk.log(id)?;
        let state = State::open(&lent.directory, id)?;
        let recorded = machine::stands_at(&state)?.1;
        let (machine, state_machine) = machine::open(machine::Options {
            state,
            checkpoints: Checkpoints::open(&lent.directory, id)?,
            log: log.clone(),
            space: lent.space.clone(),
            fatal: lent.fatal.clone(),
            snapshot_pace: lent.snapshot_pace.clone(),
            queries: lent.queries.clone(),
            executor: lent.executor.clone(),
            restores_snapshot: settings.restores_snapshot,
        })?;
        let cell = GroupCell::new(lent.cluster.clone(), id);
        let removed = lent.directory.group(id).removed_at()?;
        if let Some(index) = removed {
            cell.told_removed(index);
        }
        Ok(Opened { id, log, machine, cell, recorded, removed, state_machine, settings, lent: lent.clone() })
    }

    /// Starts Raft, the paths of commands and reads, and what answers the other members. A group
    /// that is `held` takes no part: it applies nothing, its Raft stops at once, and it only
    /// reports why.
    ///
    /// # Errors
    /// Raft does not start over this log and state.
    pub async fn start(self, host: Arc<dyn Host>, held: Option<&NodeMode>) -> anyhow::Result<Group> {
        start::start(self, host, held).await
    }
}

/// A group that runs.
pub struct Group {
    /// Its log.
    pub log: Log,
    /// Its machine.
    pub machine: Machine,
    /// Its Raft, as it was started. Whoever must see its end uses `running`.
    pub raft: Raft,
    /// Its Raft, while it runs.
    pub running: RaftCell,
    /// Its members.
    pub members: Members,
    /// Who leads it.
    pub leader: LeaderWatch,
    /// Its log time.
    pub log_time: LogTime,
    /// Makes its snapshots.
    pub retention: Retention,
    /// Reads its log for others to keep.
    pub log_source: LogSource,
    /// Keeps its log, if the node has an archive.
    archive: Option<Archive>,
    /// Runs the calls of its methods.
    pub calls: Calls,
    /// Changes what it runs.
    pub upgrades: Upgrades,
    proposer: Proposer,
    id: GroupId,
    cell: GroupCell,
    canvass: Canvass,
    inquiry: Inquiry,
    /// The last entry that was committed before the start and that the state lacked then; 0 if it
    /// lacked none.
    replays_to: u64,
    /// The removal that the disk knew of at the start.
    removed_before: Option<u64>,
    /// Set when the cluster has removed this node.
    removed: watch::Receiver<Option<u64>>,
    settings: Settings,
    lent: Lent,
    host: Arc<dyn Host>,
    tasks: Tasks,
}

impl Group {
    /// Starts the background tasks. `genesis` returns the first entry of the group's log, once the
    /// node knows it.
    pub fn start_duties(&mut self, genesis: impl Fn() -> Option<Genesis> + Send + Sync + 'static) {
        let (machine, leader) = (self.machine.clone(), self.leader.clone());
        self.tasks.start(duties::stand(machine.clone(), self.running.clone(), self.replays_to, self.canvass.clone()));
        self.tasks.start(self.retention.clone().run());
        self.tasks.start(duties::propose_genesis(leader.clone(), self.proposer.clone(), machine.clone(), genesis));
        let (quarantine, quarantined) = watch::channel(None);
        self.tasks.start(duties::quarantine(duties::Suspect {
            inquiry: self.inquiry.clone(),
            directory: self.lent.directory.group(self.id),
            log: self.log.clone(),
            machine: machine.clone(),
            members: self.members.clone(),
            cell: self.running.clone(),
            quarantined: quarantine,
        }));
        self.tasks.start(mode::keep(mode::Parts {
            machine,
            cluster: self.lent.cluster.clone(),
            raft: self.raft.clone(),
            log: self.log.clone(),
            replays_to: self.replays_to,
            fatal: self.lent.fatal.clone(),
            removed: self.removed.clone(),
            quarantined,
        }));
        let (directory, removed) = (self.lent.directory.group(self.id), self.removed.clone());
        self.tasks.start(duties::remember_removal(directory, self.removed_before, removed));
        self.tasks.start(duties::watch_core(self.raft.clone(), self.running.clone(), self.lent.fatal.clone()));
        self.tasks.start(clock_warning::watch(self.log_time.clone(), leader.clone()));
        self.tasks.start(duties::stand_back(
            self.machine.clone(),
            leader.clone(),
            self.members.clone(),
            self.running.clone(),
        ));
        let hung = STALL_MAX.max(2 * self.settings.timeouts.heartbeat);
        self.tasks.start(duties::leave_hung_disk(self.log.clone(), leader, self.members.clone(), hung));
        let members = self.members.clone();
        self.tasks.start(async move { members.announce_addresses().await });
        let members = self.members.clone();
        self.tasks.start(async move { members.finish_changes().await });
        let machine = self.machine.clone();
        let values_are_set = move || machine.operation().index > 0;
        self.tasks.start(builds::compare(
            self.lent.me.clone(),
            self.lent.cluster.dialer().clone(),
            self.raft.clone(),
            self.host.clone(),
            values_are_set,
        ));
    }

    /// Hands leadership to a member that can take it, if this node leads and is not the only voter.
    pub async fn hand_over(&self) {
        stopping::hand_over(&self.members, &self.running).await;
    }

    /// Stops the group's Raft. What reports the group's mode goes on.
    pub async fn stop_raft(&self) -> anyhow::Result<()> {
        stopping::stop_raft(&self.running).await.map_err(anyhow::Error::msg)
    }

    /// Ends the tasks, the machine, the archive and the log, in this order. Its Raft has stopped.
    /// Other groups of the process go on.
    pub async fn close(mut self) -> anyhow::Result<Closed> {
        self.lent.groups.drop_group(self.id);
        self.tasks.shutdown().await;
        self.machine.close().await?;
        let (archive, log) = (self.archive.take(), self.log.clone());
        let end = move || {
            if let Some(archive) = archive {
                archive.end();
            }
            log.close();
        };
        tokio::task::spawn_blocking(end).await.context("the log's end")?;
        Ok(Closed { id: self.id, released: Box::pin(self.machine.released()) })
    }
}

/// A group that is closed. Calls that were under way may still have its state.
pub struct Closed {
    id: GroupId,
    released: BoxFuture<'static, ()>,
}

impl Closed {
    /// Waits until the group can be opened again.
    ///
    /// # Errors
    /// Somebody still uses its state after [`RELEASE_PATIENCE`].
    pub async fn released(self) -> anyhow::Result<()> {
        let released = tokio::time::timeout(RELEASE_PATIENCE, self.released).await;
        released.with_context(|| format!("the state of group {} is still in use", self.id))
    }
}

/// Background tasks. One that panics ends the process: without it the node would answer and do only
/// half of its work.
pub(crate) struct Tasks(JoinSet<()>, Fatal);

impl Tasks {
    /// Creates an empty set.
    pub(crate) fn new(fatal: Fatal) -> Tasks {
        Tasks(JoinSet::new(), fatal)
    }

    /// Ends all tasks.
    pub(crate) async fn shutdown(&mut self) {
        self.0.shutdown().await;
    }

    /// Starts a task.
    pub(crate) fn start(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        let fatal = self.1.clone();
        self.0.spawn(async move {
            if let Err(panic) = std::panic::AssertUnwindSafe(task).catch_unwind().await {
                fatal.raise(format!("a task of this node panicked: {}", words(&*panic)));
            }
        });
    }
}

/// Returns what a panic said.
fn words(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("it did not say why")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_ends_the_process_and_says_why() {
        let mut tasks = Tasks::new(Fatal::default());
        tasks.start(async {});
        tasks.start(async { panic!("a {}", "bug") });
        assert_eq!(tasks.1.raised().await, "a task of this node panicked: a bug");
    }
}
