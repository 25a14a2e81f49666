//! Applies a fault to the cluster, under load, and heals it. Reports a fault that did not happen: a
//! crash point that was never reached, or a leader that was never replaced. Judges nothing else.

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::time::sleep;

use super::load::Load;
use super::plan::{Fault, FaultKind};
use super::points::{Point, Role, Setup};
use super::verify;
use crate::{Cluster, Cut, NodeProcess, Options, Signal, eventually};

/// Writes that must be acknowledged during a fault that leaves a majority.
const PROGRESS: u64 = 20;

/// Longest time until the log is purged and until a crash point is reached. It is long because
/// nothing is purged for a minute after a node was sent a snapshot.
const REACHED_WITHIN: Duration = Duration::from_secs(120);

/// Time between two checks of a node that should end.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// Most attempts to bring back a node with log entries to cut off, when a snapshot replaced them
/// each time.
const REJOINS_MAX: usize = 4;

/// Time after which an append is very probably on disk.
const SYNC_TIME: Duration = Duration::from_millis(500);

/// Applies one fault, up to the last restart. Returns words that name the nodes.
pub async fn strike(cluster: &mut Cluster, fault: &Fault, load: &Load) -> Result<String> {
    match fault.kind {
        FaultKind::KillLeader => {
            let leader = cluster.leader().await?;
            kill_one(cluster, leader, load).await
        }
        FaultKind::KillFollower => {
            let follower = follower(cluster, fault.draw).await?;
            kill_one(cluster, follower, load).await
        }
        FaultKind::KillAll => kill_all(cluster).await,
        FaultKind::CutPower => cut_power(cluster).await,
        FaultKind::KillTwo => kill_two(cluster, fault).await,
        FaultKind::StopLeader => stop_leader(cluster, load).await,
        FaultKind::PauseLeader => pause_leader(cluster, fault.hold).await,
        FaultKind::PauseFollower => {
            let follower = follower(cluster, fault.draw).await?;
            pause(&cluster.nodes[follower], fault.hold).await
        }
        FaultKind::FallBehind => fall_behind(cluster, fault).await,
        FaultKind::GrowAndShrink => grow_and_shrink(cluster, load).await,
        FaultKind::CutOffLeader => {
            let leader = cluster.leader().await?;
            let before = term(&cluster.nodes[leader]).await?;
            let words = cut_off(cluster, leader, fault.hold, load).await?;
            is_replaced(&cluster.nodes[leader], before).await?;
            Ok(words)
        }
        FaultKind::CutOffFollower => {
            let follower = follower(cluster, fault.draw).await?;
            cut_off(cluster, follower, fault.hold, load).await
        }
        FaultKind::CutOneWay => cut_one_way(cluster, fault).await,
        FaultKind::Crash => {
            let (point, role) = fault.point.context("no crash point is known")?;
            crash(cluster, point, role, fault, load).await
        }
        FaultKind::SyncError => {
            let (point, role) = fault.point.context("no point for an error is known")?;
            fail_step(cluster, point, role, fault, load).await
        }
    }
}

async fn follower(cluster: &Cluster, draw: u64) -> Result<usize> {
    let leader = cluster.leader().await?;
    let place = draw as usize % (cluster.nodes.len() - 1);
    Ok(if place >= leader { place + 1 } else { place })
}

/// Returns a node that has a role now.
pub(crate) async fn with_role(cluster: &Cluster, role: Role, draw: u64) -> Result<usize> {
    match role {
        Role::Leader => cluster.leader().await,
        Role::Follower => follower(cluster, draw).await,
    }
}

async fn kill_one(cluster: &mut Cluster, n: usize, load: &Load) -> Result<String> {
    cluster.nodes[n].kill()?;
    load.progress(PROGRESS).await.context("a majority lives")?;
    cluster.nodes[n].start().await?;
    Ok(cluster.nodes[n].name.clone())
}

async fn kill_all(cluster: &mut Cluster) -> Result<String> {
    for node in &mut cluster.nodes {
        node.kill()?;
    }
    start_all(cluster).await
}

async fn cut_power(cluster: &mut Cluster) -> Result<String> {
    for node in &mut cluster.nodes {
        node.kill()?;
    }
    cluster.cut_power()?;
    start_all(cluster).await
}

async fn start_all(cluster: &mut Cluster) -> Result<String> {
    for node in &mut cluster.nodes {
        node.spawn()?;
    }
    for node in &mut cluster.nodes {
        node.wait_answers().await?;
    }
    Ok("all".into())
}

async fn kill_two(cluster: &mut Cluster, fault: &Fault) -> Result<String> {
    let size = cluster.nodes.len();
    let first = fault.draw as usize % size;
    let second = (first + 1 + (fault.draw >> 32) as usize % (size - 1)) % size;
    cluster.nodes[first].kill()?;
    sleep(fault.hold).await;
    cluster.nodes[first].spawn()?;
    sleep(fault.hold / 4).await;
    cluster.nodes[second].kill()?;
    cluster.nodes[first].wait_answers().await?;
    cluster.nodes[second].start().await?;
    Ok(format!("{} and {}", cluster.nodes[first].name, cluster.nodes[second].name))
}

async fn stop_leader(cluster: &mut Cluster, load: &Load) -> Result<String> {
    let leader = cluster.leader().await?;
    let status = cluster.nodes[leader].stop().await?;
    ensure!(status.success(), "{} ended with {status} on SIGTERM", cluster.nodes[leader].name);
    load.progress(PROGRESS).await.context("a majority lives")?;
    cluster.nodes[leader].start().await?;
    Ok(cluster.nodes[leader].name.clone())
}

async fn pause(node: &NodeProcess, hold: Duration) -> Result<String> {
    node.signal(Signal::SIGSTOP)?;
    sleep(hold).await;
    node.signal(Signal::SIGCONT)?;
    Ok(format!("{} for {hold:.1?}", node.name))
}

async fn pause_leader(cluster: &mut Cluster, hold: Duration) -> Result<String> {
    let leader = cluster.leader().await?;
    let before = term(&cluster.nodes[leader]).await?;
    let words = pause(&cluster.nodes[leader], hold).await?;
    is_replaced(&cluster.nodes[leader], before).await?;
    Ok(words)
}

async fn is_replaced(leader: &NodeProcess, term_before: u64) -> Result<()> {
    eventually("a leader that was silent for seconds is replaced", || async {
        let now = term(leader).await?;
        ensure!(now > term_before, "term {now}, as before");
        Ok(())
    })
    .await
}

/// Cuts off a node from its peers. Clients still reach the node.
async fn cut_off(cluster: &Cluster, n: usize, hold: Duration, load: &Load) -> Result<String> {
    cluster.network().isolate(n)?;
    sleep(hold).await;
    let progress = load.progress(PROGRESS).await;
    cluster.network().heal()?;
    progress.context("a majority is connected")?;
    Ok(format!("{} for {hold:.1?}", cluster.nodes[n].name))
}

async fn cut_one_way(cluster: &Cluster, fault: &Fault) -> Result<String> {
    let size = cluster.nodes.len();
    let n = fault.draw as usize % size;
    let sends = (fault.draw >> 32) & 1 == 0;
    let others = (0..size).filter(|other| *other != n);
    let cut = |other| if sends { Cut::Lost { from: n, to: other } } else { Cut::Lost { from: other, to: n } };
    cluster.network().cut(&others.map(cut).collect::<Vec<_>>())?;
    sleep(fault.hold).await;
    cluster.network().heal()?;
    let direction = if sends { "is not heard" } else { "does not hear" };
    Ok(format!("{} {direction} for {:.1?}", cluster.nodes[n].name, fault.hold))
}

async fn term(node: &NodeProcess) -> Result<u64> {
    node.status().await?["raft"]["term"].as_u64().context("no term")
}

/// Kills a follower and waits until the others have purged the entries that it needs.
async fn outlive_log(cluster: &mut Cluster, victim: usize) -> Result<()> {
    let has = cluster.nodes[victim].status().await?["raft"]["last_log_index"].as_u64().context("no last log index")?;
    cluster.nodes[victim].kill()?;
    let deadline = Instant::now() + REACHED_WITHIN;
    loop {
        let leader = cluster.leader().await?;
        let purged = cluster.nodes[leader].status().await?["raft"]["purged_index"].as_u64();
        if purged > Some(has + 1) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the log is purged up to {purged:?} only, the follower has {has}");
        sleep(LOOK_PAUSE).await;
    }
}

async fn fall_behind(cluster: &mut Cluster, fault: &Fault) -> Result<String> {
    let victim = follower(cluster, fault.draw).await?;
    outlive_log(cluster, victim).await?;
    cluster.nodes[victim].start().await?;
    is_restored(&cluster.nodes[victim]).await?;
    Ok(cluster.nodes[victim].name.clone())
}

/// Adds a voter and removes it. The new node starts empty each time, so it also gets a snapshot.
async fn grow_and_shrink(cluster: &mut Cluster, load: &Load) -> Result<String> {
    let member = cluster.nodes[0].options.clone();
    let newcomer = cluster.push(Options { bootstrap: false, ..member })?;
    cluster.nodes[newcomer].start().await?;
    cluster.add_voter(newcomer).await?;
    load.progress(PROGRESS).await.context("with one more voter")?;
    cluster.remove(newcomer).await?;
    load.progress(PROGRESS).await.context("with one voter less")?;
    let removed = cluster.drop_last()?;
    // The next one with this name is another node.
    let archive = verify::archive(cluster).join(&removed);
    if archive.is_dir() {
        std::fs::remove_dir_all(archive)?;
    }
    Ok(format!("{removed} came and went"))
}

async fn is_restored(node: &NodeProcess) -> Result<()> {
    eventually("a follower that was away too long gets a snapshot", || async {
        ensure!(restores(node).await >= 1, "no snapshot is installed");
        Ok(())
    })
    .await
}

async fn crash(cluster: &mut Cluster, point: Point, role: Role, fault: &Fault, load: &Load) -> Result<String> {
    let ended = end_at(cluster, point, role, "return(crash)", fault.draw, load).await?;
    ensure!(ended.crashes > 0, "{}: the node ended elsewhere", ended.words);
    start_again(cluster, &ended).await
}

async fn fail_step(cluster: &mut Cluster, point: Point, role: Role, fault: &Fault, load: &Load) -> Result<String> {
    let ended = end_at(cluster, point, role, "return(error)", fault.draw, load).await?;
    // The node must end by itself with an exit code, not by a signal or a panic.
    let status = ended.status;
    ensure!(status.code().is_some_and(|code| code != 0 && code != 101), "{}: ended with {status}", ended.words);
    start_again(cluster, &ended).await
}

/// A node that ended at a point.
struct Ended {
    victim: usize,
    /// Node that was killed to bring the victim to the point.
    killed: Option<usize>,
    status: ExitStatus,
    /// How often the node logged a crash at the point.
    crashes: usize,
    words: String,
}

/// Arms the point on a node of that role and does what makes the node reach it.
async fn end_at(cluster: &mut Cluster, point: Point, role: Role, task: &str, draw: u64, load: &Load) -> Result<Ended> {
    for _ in 0..REJOINS_MAX {
        let victim = with_role(cluster, role, draw).await?;
        let words = format!("{} of {} ({role:?})", point.name, cluster.nodes[victim].name);
        let before = hits(&cluster.nodes[victim], point);
        let killed = bring_to(cluster, victim, point, task, load).await.with_context(|| words.clone())?;
        let status = struck(&mut cluster.nodes[victim], point).await.with_context(|| words.clone())?;
        if let Some(status) = status {
            let crashes = hits(&cluster.nodes[victim], point) - before;
            return Ok(Ended { victim, killed, status, crashes, words });
        }
        cluster.nodes[victim].fail_at(&[])?;
    }
    bail!("{}: {REJOINS_MAX} times a snapshot was there before anything could be cut off", point.name)
}

/// Waits until the victim has ended.
///
/// Returns `None` when it will never reach the point, because a snapshot replaced what it should
/// cut off. That happens on a slow machine, where the others write that much meanwhile.
async fn struck(node: &mut NodeProcess, point: Point) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + REACHED_WITHIN;
    while !node.has_ended()? {
        ensure!(Instant::now() < deadline, "the point was never reached:\n{}", node.last_words());
        if point.setup == Setup::Rejoin && restores(node).await >= 1 {
            return Ok(None);
        }
        sleep(LOOK_PAUSE).await;
    }
    Ok(Some(node.wait_exit().await?))
}

/// Returns the snapshots installed since the process started. Returns 0 also while it does not
/// answer.
async fn restores(node: &NodeProcess) -> u64 {
    let status = node.status().await.unwrap_or_default();
    status["fsm"]["restore_count"].as_u64().unwrap_or(0)
}

/// Starts the victim again, without the failpoint, and the node that was killed for it.
async fn start_again(cluster: &mut Cluster, ended: &Ended) -> Result<String> {
    cluster.nodes[ended.victim].fail_at(&[])?;
    let down: Vec<usize> = ended.killed.into_iter().chain([ended.victim]).collect();
    for n in &down {
        cluster.nodes[*n].spawn()?;
    }
    for n in &down {
        cluster.nodes[*n].wait_answers().await?;
    }
    Ok(ended.words.clone())
}

/// Arms the point and does what makes the node reach it.
///
/// Returns the node that was killed for it and must still be started.
async fn bring_to(
    cluster: &mut Cluster,
    victim: usize,
    point: Point,
    task: &str,
    load: &Load,
) -> Result<Option<usize>> {
    let armed = format!("{}={task}", point.name);
    match point.setup {
        Setup::Load => cluster.nodes[victim].fail_at(&[&armed])?,
        Setup::Election => {
            cluster.nodes[victim].fail_at(&[&armed])?;
            let leader = cluster.leader().await?;
            cluster.nodes[leader].kill()?;
            return Ok(Some(leader));
        }
        Setup::Install => {
            outlive_log(cluster, victim).await?;
            cluster.nodes[victim].fail_at(&[&armed])?;
            cluster.nodes[victim].spawn()?;
        }
        Setup::Rejoin => {
            write_alone(cluster, victim, load).await?;
            cluster.nodes[victim].fail_at(&[&armed])?;
            cluster.nodes[victim].spawn()?;
        }
        Setup::Start => {
            cluster.nodes[victim].kill()?;
            cluster.nodes[victim].fail_at(&[&armed])?;
            cluster.nodes[victim].spawn()?;
        }
    }
    Ok(None)
}

/// Kills the leader when its log has an entry that no other node stored.
///
/// The others continue without it. When it returns, it must cut that entry off.
async fn write_alone(cluster: &mut Cluster, leader: usize, load: &Load) -> Result<()> {
    let others: Vec<usize> = (0..cluster.nodes.len()).filter(|n| *n != leader).collect();
    // Each follower ends when it is about to store an entry. With the last one the quorum is lost.
    for n in &others {
        cluster.nodes[*n].fail_at(&["log-before-sync=return(crash)"])?;
    }
    for n in &others {
        cluster.nodes[*n].wait_exit().await?;
        cluster.nodes[*n].fail_at(&[])?;
    }
    // Nothing reports when the entry is on the leader's disk. If it were not, there would be
    // nothing to cut off, and the cycle would report that.
    sleep(SYNC_TIME).await;
    cluster.nodes[leader].kill()?;
    for n in &others {
        cluster.nodes[*n].spawn()?;
    }
    for n in &others {
        cluster.nodes[*n].wait_answers().await?;
    }
    load.progress(PROGRESS).await.context("a majority lives")
}

/// Returns how often the node logged a crash at the point.
fn hits(node: &NodeProcess, point: Point) -> usize {
    node.log().matches(&format!("failpoint {}: crash", point.name)).count()
}
