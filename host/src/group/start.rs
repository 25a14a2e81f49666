//! Starts the Raft of a group and connects its modules from bottom to top. Holds a group that is to
//! take no part.

use std::sync::Arc;

use anyhow::Context;

use super::stopping::hold;
use super::{Group, Lent, Opened, Settings, Tasks, clock};
use crate::calls::{Calls, CallsParts};
use crate::machine::Machine;
use crate::raft::membership::join::Host;
use crate::raft::path::forwarded::ForwardedParts;
use crate::raft::path::state_source::Source;
use crate::raft::peers::acks::Acks;
use crate::raft::peers::groups::GroupParts;
use crate::raft::peers::install;
use crate::raft::peers::link::{self, Links};
use crate::raft::upgrade::{Member, UpgradesParts};
use crate::raft::{
    Archive, ArchiveParts, Canvass, Clock, Forward, Forwarded, GroupCell, Inquiry, LeaderWatch, LogSource,
    LogSourceParts, LogTime, Members, NetworkFactory, Presence, Proposer, Raft, RaftCell, RaftCore, ReadIndex,
    Retention, Standing, Upgrades,
};
use crate::store::Log;
use crate::types::{GROUP, NodeMode};

/// A Raft that was started, with the links to its members, what they acknowledge and the log time
/// that it stamps.
struct Started {
    raft: Raft,
    running: RaftCell,
    links: Links,
    acks: Acks,
    log_time: LogTime,
    /// See [`Group`].
    replays_to: u64,
}

/// Starts Raft. Over a held group it stops again before it gets a message.
///
/// Entries that are committed and that the state lacks are applied from here on, and not before:
/// they may wait for a component or for a newer build, and the node is to say so at its ports.
async fn start_raft(group: &Opened, held: Option<&NodeMode>) -> anyhow::Result<Started> {
    let (lent, timeouts, running) = (&group.lent, group.settings.timeouts, RaftCell::default());
    let me = lent.me.node_id;
    let links = Links::new(me, group.cell.clone(), running.clone(), lent.channels.clone(), timeouts.append_progress());
    let log_time = clock::log_time(me, &group.machine, &running, timeouts.heartbeat);
    let snapshots = group.machine.snapshots().clone();
    let network = NetworkFactory::new(links.clone(), lent.boot, snapshots, timeouts, log_time.clone());
    let acks = network.acks();
    if held.is_some() {
        group.log.apply_nothing();
    }
    let config = Arc::new(timeouts.config("lockstep")?);
    group.state_machine.put_off();
    let raft = Raft::build(me, config, network, group.log.clone(), group.state_machine.clone())
        .await
        .context("Raft could not start over this node's log and state")?;
    let replays_to = group.state_machine.go_on();
    running.set(raft.clone());
    if replays_to.is_some() {
        running.stand_later();
    }
    raft.run();
    match held {
        None if group.id == GROUP => know_members(lent, &running),
        None => {}
        Some(mode) => hold(mode, &group.machine, &running).await?,
    }
    Ok(Started { raft, running, links, acks, log_time, replays_to: replays_to.unwrap_or(0) })
}

/// Does what [`Opened::start`] says.
pub(super) async fn start(group: Opened, host: Arc<dyn Host>, held: Option<&NodeMode>) -> anyhow::Result<Group> {
    let Started { raft, running, links, acks, log_time, replays_to } = start_raft(&group, held).await?;
    let Opened { id, log, machine, cell, removed: removed_before, settings, lent, .. } = group;
    let Settings { timeouts, catch_up_timeout, retention, .. } = settings;
    let me = lent.me.node_id;
    let mut tasks = Tasks::new(lent.fatal.clone());
    let (leader, feed) = LeaderWatch::start(&raft);
    tasks.start(feed);
    let canvass = Canvass::new(running.clone(), links.clone(), Presence::default(), timeouts);
    let inquiry = Inquiry::new(raft.clone(), links.clone(), machine.clone());
    let (removed, standing) = Standing::start(raft.clone(), links.clone(), timeouts.heartbeat);
    tasks.start(standing);
    let members = Members::new(lent.me.clone(), links, running.clone(), host.clone(), timeouts, catch_up_timeout);
    let log_source = log_source(&lent, &cell, &machine, &log);
    let archive = match held {
        None => start_archive(&lent, &cell, &machine, &log, replays_to)?,
        Some(_) => None,
    };
    let flags = retention;
    let retention = Retention::new(raft.clone(), machine.clone(), log.clone(), retention, archive.clone());
    let core = Arc::new(RaftCore::new(raft.clone(), machine.clone(), log.clone(), me, acks));
    let (proposer, proposing) =
        Proposer::new(core.clone(), log_time.clone(), leader.clone(), machine.genesis_applied());
    tasks.start(proposing.run());
    let forward = Arc::new(Forward::new(me, cell.clone()));
    let (read, reading) = ReadIndex::new(core.clone(), forward.clone(), leader.clone(), timeouts.election);
    tasks.start(reading.run());
    let clock = Clock::new(core, proposer.clone(), forward.clone(), leader.clone());
    tasks.start(clock.clone().check_silence());
    let calls = Calls::new(CallsParts {
        me: lent.me.clone(),
        boot: lent.boot,
        machine: machine.clone(),
        raft: running.clone(),
        leader: leader.clone(),
        members: members.clone(),
        local: Arc::new(proposer.clone()),
        proposer: proposer.clone(),
        forward,
        read: read.clone(),
        clock: clock.clone(),
        election_timeout: timeouts.election,
        budget: lent.budget.clone(),
    });
    let member = Member::new(me, cell.clone(), machine.clone(), log.clone(), host.clone(), flags);
    let upgrades = Upgrades::new(UpgradesParts {
        me: lent.me.clone(),
        cell: cell.clone(),
        machine: machine.clone(),
        log: log.clone(),
        leader: leader.clone(),
        members: members.clone(),
        proposer: proposer.clone(),
        member: member.clone(),
    });
    let group = Group {
        log,
        machine,
        raft,
        running,
        members,
        leader,
        log_time,
        retention,
        log_source,
        archive,
        calls,
        upgrades,
        proposer,
        id,
        cell,
        canvass,
        inquiry,
        replays_to,
        removed_before,
        removed,
        settings,
        lent,
        host,
        tasks,
    };
    serve_members(&group, read, clock, member);
    Ok(group)
}

/// Makes what reads the group's log for others.
fn log_source(lent: &Lent, cell: &GroupCell, machine: &Machine, log: &Log) -> LogSource {
    let (cell, machine, log) = (cell.clone(), machine.clone(), log.clone());
    LogSource::new(LogSourceParts { cell, machine, log, pace: lent.snapshot_pace.clone() })
}

/// Starts the archive of the group's log, if the node keeps one.
fn start_archive(
    lent: &Lent,
    cell: &GroupCell,
    machine: &Machine,
    log: &Log,
    replays_to: u64,
) -> anyhow::Result<Option<Archive>> {
    let Some(directory) = &lent.log_archive else { return Ok(None) };
    let group = cell.group();
    let absolute = std::path::absolute(directory).context("the log archive has no path")?;
    let above = absolute.ancestors().nth(2).unwrap_or(&absolute).to_owned();
    let directory = match group {
        GROUP => directory.to_path_buf(),
        group => directory.join("groups").join(group.to_string()),
    };
    let (cell, applied, log, space) = (cell.clone(), machine.applied(), log.clone(), lent.space.clone());
    let archive = Archive::start(ArchiveParts { directory, above, group, cell, applied, replays_to, log, space });
    archive.map(Some).context("cannot start the thread of the log archive")
}

/// Lets the records of processes and names look up where each member is, and who it is. The members
/// of group 0 are those of the cluster.
fn know_members(lent: &Lent, running: &RaftCell) {
    let (running, raft) = (running.clone(), running.clone());
    let addresses = move |node| Some(link::recorded_node(&*running.get()?, node)?.raft_addr);
    lent.cluster.processes().set_addresses(Box::new(addresses));
    let names = move |node| Some(link::recorded_node(&*raft.get()?, node)?.name);
    lent.cluster.names().set_members(Box::new(names));
}

/// Has the peer port pass the group's messages to its modules.
fn serve_members(group: &Group, reads: ReadIndex, clock: Clock, changes: Member) {
    let source = Arc::new(Source::new(reads.clone(), group.machine.clone(), group.running.clone()));
    let forwarded = Arc::new(Forwarded::new(ForwardedParts {
        me: group.lent.me.node_id,
        leader: group.leader.clone(),
        proposer: group.proposer.clone(),
        waiters: group.machine.waiters().clone(),
        reads,
        clock,
        raft: group.running.clone(),
    }));
    let space = group.lent.space.clone();
    group.lent.groups.serve(GroupParts {
        me: group.lent.me.node_id,
        cluster: group.cell.clone(),
        raft: group.running.clone(),
        canvass: group.canvass.clone(),
        members: group.members.clone(),
        refuses_entries: Arc::new(move |bytes| space.refuses_entries(bytes)),
        states: Arc::new(group.machine.clone()),
        snapshots: Arc::new(install::Installer::new(group.machine.clone(), group.archive.clone())),
        log_time: group.log_time.clone(),
        forward: forwarded.clone(),
        leader: forwarded,
        source,
        changes: Arc::new(changes),
    });
}
