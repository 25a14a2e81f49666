//! Starts the Raft of a group and connects its modules from bottom to top. It decides nothing.

use std::sync::Arc;

use anyhow::Context;
use tokio::task::JoinSet;

use super::stopping::hold;
use super::{Group, Lent, Opened, Settings, Tasks, clock};
use crate::calls::{Calls, CallsParts};
use crate::machine::Machine;
use crate::raft::membership::join::Host;
use crate::raft::peers::groups::GroupParts;
use crate::raft::peers::install;
use crate::raft::peers::link::{self, Links};
use crate::raft::{
    Canvass, Clock, Forward, Forwarded, Inquiry, LeaderWatch, LogTime, Members, NetworkFactory, Presence, Proposer,
    Raft, RaftCell, RaftCore, ReadIndex, Retention, Standing,
};
use crate::types::{GROUP, NodeMode};

/// Does what [`Opened::start`] says.
pub(super) async fn start(group: Opened, host: Arc<dyn Host>, held: Option<&NodeMode>) -> anyhow::Result<Group> {
    let Opened { id, log, machine, cell, removed: removed_before, state_machine, settings, lent, .. } = group;
    let Settings { timeouts, catch_up_timeout, retention, .. } = settings;
    let (me, running) = (lent.me.node_id, RaftCell::default());
    let mut tasks = Tasks(JoinSet::new(), lent.fatal.clone());
    let silence_max = timeouts.append_progress();
    let links = Links::new(me, cell.clone(), running.clone(), lent.channels.clone(), silence_max);
    let log_time = clock::log_time(me, &machine, &running, timeouts.heartbeat);
    let snapshots = machine.snapshots().clone();
    let network = NetworkFactory::new(links.clone(), lent.boot, snapshots, timeouts, log_time.clone());
    if held.is_some() {
        log.apply_nothing();
    }
    let config = Arc::new(timeouts.config("lockstep")?);
    let raft = Raft::new(me, config, network, log.clone(), state_machine)
        .await
        .context("Raft could not start over this node's log and state")?;
    running.set(raft.clone());
    match held {
        None if id == GROUP => know_addresses(&lent, &running),
        None => {}
        Some(mode) => hold(mode, &machine, &running).await?,
    }
    let (leader, feed) = LeaderWatch::start(&raft);
    tasks.start(feed);
    let canvass = Canvass::new(running.clone(), links.clone(), Presence::default(), timeouts);
    let inquiry = Inquiry::new(raft.clone(), links.clone(), machine.clone());
    let (removed, standing) = Standing::start(raft.clone(), links.clone(), timeouts.heartbeat);
    tasks.start(standing);
    let members = Members::new(lent.me.clone(), links, running.clone(), host.clone(), timeouts, catch_up_timeout);
    let retention = Retention::new(raft.clone(), machine.clone(), log.clone(), retention);
    let core = Arc::new(RaftCore::new(raft.clone(), machine.clone(), log.clone(), me));
    let paths = open_paths(core, Forward::new(me, cell.clone()), &machine, &leader, &log_time, settings, &mut tasks);
    let calls = Calls::new(CallsParts {
        me: lent.me.clone(),
        boot: lent.boot,
        machine: machine.clone(),
        raft: running.clone(),
        leader: leader.clone(),
        members: members.clone(),
        local: Arc::new(paths.proposer.clone()),
        forward: Arc::new(paths.forward.clone()),
        read: paths.read.clone(),
        clock: paths.clock.clone(),
        election_timeout: timeouts.election,
    });
    let proposer = paths.proposer.clone();
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
    serve_members(&group, paths);
    Ok(group)
}

/// Lets the record of processes look up where each member is. The members of group 0 are those of
/// the cluster.
fn know_addresses(lent: &Lent, running: &RaftCell) {
    let running = running.clone();
    let addresses = move |node| link::recorded_address(&*running.get()?, node);
    lent.cluster.processes().set_addresses(Box::new(addresses));
}

/// The paths of a group's commands and reads.
struct Paths {
    proposer: Proposer,
    forward: Forward,
    read: ReadIndex,
    clock: Clock,
}

/// Makes the paths of commands and reads, and starts their loops.
fn open_paths(
    core: Arc<RaftCore>,
    forward: Forward,
    machine: &Machine,
    leader: &LeaderWatch,
    log_time: &LogTime,
    settings: Settings,
    tasks: &mut Tasks,
) -> Paths {
    let genesis = machine.genesis_applied();
    let (proposer, proposing) = Proposer::new(core.clone(), log_time.clone(), leader.clone(), genesis);
    tasks.start(proposing.run());
    let remote = Arc::new(forward.clone());
    let (read, reading) = ReadIndex::new(core.clone(), remote.clone(), leader.clone(), settings.timeouts.election);
    tasks.start(reading.run());
    let clock = Clock::new(core, proposer.clone(), remote, leader.clone());
    tasks.start(clock.clone().check_silence());
    Paths { proposer, forward, read, clock }
}

/// Has the peer port pass the group's messages to its modules.
fn serve_members(group: &Group, paths: Paths) {
    let forwarded = Arc::new(Forwarded::new(
        group.lent.me.node_id,
        group.leader.clone(),
        paths.proposer,
        group.machine.waiters().clone(),
        paths.read,
        paths.clock,
        group.running.clone(),
    ));
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
    });
}
