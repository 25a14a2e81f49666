//! Starts the Raft of a group and connects its modules from bottom to top. Holds a group that is to
//! take no part.

use std::sync::Arc;

use anyhow::Context;

use super::stopping::hold;
use super::{Group, Lent, Opened, Settings, Tasks, clock};
use crate::calls::{Calls, CallsParts};
use crate::raft::membership::join::Host;
use crate::raft::path::forwarded::ForwardedParts;
use crate::raft::path::state_source::Source;
use crate::raft::peers::groups::GroupParts;
use crate::raft::peers::install;
use crate::raft::peers::link::{self, Links};
use crate::raft::{
    Canvass, Clock, Forward, Forwarded, Inquiry, LeaderWatch, LogTime, Members, NetworkFactory, Presence, Proposer,
    Raft, RaftCell, RaftCore, ReadIndex, Retention, Standing,
};
use crate::types::{GROUP, NodeMode};

/// A Raft that was started, with the links to its members and the log time that it stamps.
struct Started {
    raft: Raft,
    running: RaftCell,
    links: Links,
    log_time: LogTime,
}

/// Starts Raft. Over a held group it stops again before it gets a message.
async fn start_raft(group: &Opened, held: Option<&NodeMode>) -> anyhow::Result<Started> {
    let (lent, timeouts, running) = (&group.lent, group.settings.timeouts, RaftCell::default());
    let me = lent.me.node_id;
    let links = Links::new(me, group.cell.clone(), running.clone(), lent.channels.clone(), timeouts.append_progress());
    let log_time = clock::log_time(me, &group.machine, &running, timeouts.heartbeat);
    let snapshots = group.machine.snapshots().clone();
    let network = NetworkFactory::new(links.clone(), lent.boot, snapshots, timeouts, log_time.clone());
    if held.is_some() {
        group.log.apply_nothing();
    }
    let config = Arc::new(timeouts.config("lockstep")?);
    let raft = Raft::new(me, config, network, group.log.clone(), group.state_machine.clone())
        .await
        .context("Raft could not start over this node's log and state")?;
    running.set(raft.clone());
    match held {
        None if group.id == GROUP => know_members(lent, &running),
        None => {}
        Some(mode) => hold(mode, &group.machine, &running).await?,
    }
    Ok(Started { raft, running, links, log_time })
}

/// Does what [`Opened::start`] says.
pub(super) async fn start(group: Opened, host: Arc<dyn Host>, held: Option<&NodeMode>) -> anyhow::Result<Group> {
    let Started { raft, running, links, log_time } = start_raft(&group, held).await?;
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
    let retention = Retention::new(raft.clone(), machine.clone(), log.clone(), retention);
    let core = Arc::new(RaftCore::new(raft.clone(), machine.clone(), log.clone(), me));
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
        forward,
        read: read.clone(),
        clock: clock.clone(),
        election_timeout: timeouts.election,
        budget: lent.budget.clone(),
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
        calls,
        proposer,
        id,
        cell,
        canvass,
        inquiry,
        removed_before,
        removed,
        settings,
        lent,
        host,
        tasks,
    };
    serve_members(&group, read, clock);
    Ok(group)
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
fn serve_members(group: &Group, reads: ReadIndex, clock: Clock) {
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
        snapshots: Arc::new(install::Installer::new(group.machine.clone())),
        log_time: group.log_time.clone(),
        forward: forwarded.clone(),
        leader: forwarded,
        source,
    });
}
