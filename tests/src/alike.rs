//! Runs many commands on three nodes under different conditions: other memory, caches and files,
//! other restarts, other leaders. At the end the nodes must have the same hash of all that was
//! done, and the same rows on their disks. This file owns the load, the conditions and the verdict.

use std::fmt;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lockstep_client::{Client, Outcome, outcome};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::{Code, Request, Status};

use crate::medley_pb::ActRequest;
use crate::medley_pb::medley_client::MedleyClient;
use crate::pb::LeadershipTransferToServerRequest;
use crate::process::{NodeProcess, Options, failpoints_binary, lockstep_binary, medley_wasm};
use crate::{Cluster, PATIENCE, eventually, one_node};

/// Concurrent calls at each node. Enough that an entry contains many commands, in a different
/// combination each time.
const CALLS_EACH: usize = 256;
/// Connections that these calls share, at each node.
const CONNECTIONS_EACH: usize = 4;
/// Time after which a call without an answer is sent again.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);
/// Time between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(10);
/// Time between two checks of the run.
const LOOK: Duration = Duration::from_millis(50);

/// The node that is killed again and again. It has hardly any memory and compacts all the time. The
/// first node runs from beginning to end, as for a user.
const KILLED: usize = 1;
/// The node that lets files pile up and is stopped, every second time for so long that it returns
/// by a snapshot.
const STOPPED: usize = 2;

/// Faults in a round: the second node is killed twice, and the third one is stopped once.
const FAULTS_A_ROUND: u64 = 3;
/// Commands for which there is one round. Two cores run them in about the time that a round takes.
const COMMANDS_A_ROUND: u64 = 500_000;
/// Fewest rounds. The commands go on until all rounds are over, however slow the machine is.
const ROUNDS_MIN: u64 = 4;
/// Divisor of the commands between two faults: the third node misses this part of them when it is
/// to catch up from the log.
const ABSENCE: u64 = 2;
/// Longest time that the third node may be away. After it, the node or the condition that it waits
/// for has failed.
const ABSENCE_TIME_MAX: Duration = Duration::from_secs(600);
/// Number of progress reports of a run.
const PARTS: u64 = 10;

/// Keeps the log short, so that a node that was away needs a snapshot.
const SHORT_LOG: [&str; 4] =
    ["--snapshot_threshold=500", "--snapshot_interval=500ms", "--trailing_logs=500", "--trailing_entries_min=20"];

/// Parameters of a run.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Fewest commands that must have an outcome at the end.
    pub commands: u64,
    /// Seed of what the commands do. The cluster determines their order.
    pub seed: u64,
}

/// Result of a run.
#[derive(Debug)]
pub struct Summary {
    /// Last applied index, equal on all nodes.
    pub index: u64,
    /// Commands that ran, equal on all nodes.
    pub commands: u64,
    /// Commands that were refused or failed, equal on all nodes.
    pub failed: u64,
    /// The rolling state hash, equal on all nodes.
    pub hash: String,
    /// Bytes of a backup, equal on all three nodes.
    pub backup_bytes: usize,
    /// What happened to the nodes.
    pub lives: Lives,
    /// Time from the first command to the last.
    pub took: Duration,
}

/// Counts of what happened to the nodes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lives {
    /// Kills of the second node.
    pub kills: u64,
    /// Stops of the third node.
    pub stops: u64,
    /// Snapshots that a node installed.
    pub installs: u64,
    /// Leadership transfers that succeeded.
    pub transfers: u64,
}

/// Until when the third node is away.
#[derive(Clone, Copy, Debug)]
enum Away {
    /// Until this many commands are done.
    Until(u64),
    /// Until the others have purged the entry after this one, which is the node's last.
    Beyond(u64),
}

impl Wanted {
    /// Returns the number of faults.
    fn faults(&self) -> u64 {
        FAULTS_A_ROUND * (self.commands / COMMANDS_A_ROUND).max(ROUNDS_MIN)
    }

    /// Returns the number of commands between two faults.
    fn pause(&self) -> u64 {
        self.commands / (self.faults() + 1)
    }
}

impl Lives {
    fn faults(&self) -> u64 {
        self.kills + self.stops
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { index, commands, failed, hash, backup_bytes, lives, took } = self;
        let seconds = took.as_secs_f64();
        writeln!(f, "{commands} commands ({failed} of them refused or failed) in {index} entries, {seconds:.0} s")?;
        let Lives { kills, stops, installs, transfers } = lives;
        writeln!(f, "{kills} kills, {stops} stops, {installs} snapshots installed, {transfers} leaders made")?;
        write!(f, "one hash on three nodes: {hash}; one backup of {backup_bytes} bytes")
    }
}

/// Runs it. On an error the nodes' directory is kept, and the error names it.
pub async fn run(wanted: Wanted, progress: impl FnMut(String)) -> Result<Summary> {
    let mut cluster = Cluster::new()?;
    match carry_out(&mut cluster, wanted, progress).await {
        Ok(summary) => Ok(summary),
        Err(error) => {
            let kept = cluster.keep();
            Err(error.context(format!("the nodes' data and logs are in {}", kept.display())))
        }
    }
}

async fn carry_out(cluster: &mut Cluster, wanted: Wanted, mut progress: impl FnMut(String)) -> Result<Summary> {
    form(cluster).await?;
    let began = Instant::now();
    let mut load = Load::start(cluster, wanted)?;
    let mut lives = Lives::default();
    let (mut away, mut changed) = (None, Instant::now());
    for part in 1..=PARTS {
        let lived =
            |lives: &Lives, away: &Option<Away>| part < PARTS || lives.faults() == wanted.faults() && away.is_none();
        while load.done() < part * wanted.commands / PARTS || !lived(&lives, &away) {
            load.check().await?;
            let before = away.is_some();
            live(cluster, &load, wanted, &mut lives, &mut away).await?;
            if away.is_some() != before {
                changed = Instant::now();
            }
            ensure!(
                away.is_none() || changed.elapsed() < ABSENCE_TIME_MAX,
                "{away:?} is not over after {ABSENCE_TIME_MAX:?}"
            );
            tokio::time::sleep(LOOK).await;
        }
        progress(format!("{} of {} commands, {:.0} s", load.done(), wanted.commands, began.elapsed().as_secs_f64()));
    }
    load.finish().await?;
    let took = began.elapsed();
    let Said { index, commands, failed, hash } = same_hash(cluster).await?;
    ensure!(commands >= wanted.commands, "only {commands} commands have run");
    lives.installs += installs(cluster).await?;
    let backup_bytes = same_rows(cluster)?;
    // Restarted nodes show what is on the disks, without what was in memory.
    for node in &mut cluster.nodes {
        node.kill()?;
        node.start().await?;
    }
    same_hash(cluster).await?;
    same_rows(cluster)?;
    Ok(Summary { index, commands, failed, hash, backup_bytes, lives, took })
}

async fn form(cluster: &mut Cluster) -> Result<()> {
    let plain = Options { fsm: Some(medley_wasm()), program: failpoints_binary(), ..Options::member() };
    let plain = plain.with(&SHORT_LOG);
    let env =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    // One node fills memory that malloc hands out and takes back with bytes of this kind, and all
    // its threads share one arena. The other returns memory to the kernel whenever it can
    // (mallopt(3)).
    let killed = Options {
        planted: vec!["state-cramped=return(error)".into()],
        env: env(&[("MALLOC_PERTURB_", "165"), ("MALLOC_ARENA_MAX", "1")]),
        ..plain.clone()
    };
    let stopped = Options {
        planted: vec!["state-piled=return(error)".into()],
        env: env(&[("MALLOC_TRIM_THRESHOLD_", "0"), ("MALLOC_TOP_PAD_", "65536")]),
        ..plain.clone()
    };
    for (n, options) in [Options { bootstrap: true, ..plain }, killed, stopped].into_iter().enumerate() {
        cluster.push(options)?;
        cluster.nodes[n].start().await?;
        if n > 0 {
            cluster.add_voter(n).await?;
        }
    }
    Ok(())
}

/// Applies the fault that is due, or ends the absence of the third node.
async fn live(
    cluster: &mut Cluster,
    load: &Load,
    wanted: Wanted,
    lives: &mut Lives,
    away: &mut Option<Away>,
) -> Result<()> {
    let done = load.done();
    if let Some(absence) = *away {
        let over = match absence {
            Away::Until(commands) => done >= commands,
            Away::Beyond(index) => purged(cluster).await? > index,
        };
        // Only one node may be away, or no majority serves and the run proves nothing.
        if !over {
            return Ok(());
        }
        cluster.nodes[STOPPED].start().await?;
        caught_up(cluster, load).await?;
        *away = None;
    }
    let due = lives.faults() < wanted.faults() && done >= (lives.faults() + 1) * wanted.pause();
    if due && !(lives.faults() + 1).is_multiple_of(FAULTS_A_ROUND) {
        lives.kills += 1;
        lives.transfers += u64::from(lead(cluster, KILLED).await?);
        lives.installs += installs_of(cluster, KILLED).await?;
        cluster.nodes[KILLED].kill()?;
        cluster.nodes[KILLED].start().await?;
        caught_up(cluster, load).await?;
    } else if due {
        lives.stops += 1;
        lives.transfers += u64::from(lead(cluster, STOPPED).await?);
        lives.installs += installs_of(cluster, STOPPED).await?;
        cluster.nodes[STOPPED].stop().await?;
        *away = Some(match lives.stops % 2 {
            0 => Away::Until(done + wanted.pause() / ABSENCE),
            _ => Away::Beyond(last_index(cluster).await?),
        });
    }
    Ok(())
}

/// Makes a node the leader, if it is not.
///
/// A refused transfer does not matter: another node then leads when this one stops.
async fn lead(cluster: &Cluster, n: usize) -> Result<bool> {
    let leader = cluster.leader().await?;
    if leader == n {
        return Ok(false);
    }
    let (id, address) = (cluster.nodes[n].name.clone(), cluster.nodes[n].raft_addr());
    let mut manager = cluster.nodes[leader].manager().await?;
    let request = LeadershipTransferToServerRequest { id, address };
    let operation = manager.leadership_transfer_to_server(request).await?.into_inner();
    Ok(cluster.finish(leader, operation).await.is_ok())
}

/// Waits until every node serves and is not far behind.
///
/// The next fault must leave a working majority. No commands run meanwhile, or a machine with few
/// cores would be busy with the other two nodes.
async fn caught_up(cluster: &Cluster, load: &Load) -> Result<()> {
    load.flow.send_replace(Flow::Waits);
    let caught_up = eventually("every node serves", || async {
        let mut applied = Vec::new();
        for node in &cluster.nodes {
            let status = node.status().await?;
            ensure!(status["mode"] == "serving", "{}: {} {}", node.name, status["mode"], status["mode_reason"]);
            applied.push(status["last_applied_index"].as_u64().context("no last_applied_index")?);
        }
        let (least, most) = (applied.iter().min(), applied.iter().max());
        let behind = most.zip(least).map_or(0, |(most, least)| most - least);
        ensure!(behind < 20, "the nodes have applied {applied:?}");
        Ok(())
    })
    .await;
    load.flow.send_replace(Flow::Runs);
    caught_up
}

/// Returns the index up to which both nodes that stay have purged their logs.
async fn purged(cluster: &Cluster) -> Result<u64> {
    let mut purged = u64::MAX;
    for node in [&cluster.nodes[0], &cluster.nodes[KILLED]] {
        let raft = node.status().await?["raft"].take();
        purged = purged.min(raft["purged_index"].as_u64().context("no purged_index")?);
    }
    Ok(purged)
}

/// Returns the last log index. The node that has just stopped has no later entry.
async fn last_index(cluster: &Cluster) -> Result<u64> {
    cluster.nodes[0].status().await?["raft"]["last_log_index"].as_u64().context("no last_log_index")
}

async fn installs(cluster: &Cluster) -> Result<u64> {
    let mut installs = 0;
    for n in 0..cluster.nodes.len() {
        installs += installs_of(cluster, n).await?;
    }
    Ok(installs)
}

async fn installs_of(cluster: &Cluster, n: usize) -> Result<u64> {
    cluster.nodes[n].status().await?["fsm"]["restore_count"].as_u64().context("no restore_count")
}

/// The counts and the hash of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    index: u64,
    commands: u64,
    failed: u64,
    hash: String,
}

/// Waits until all nodes have the same counts and hash at one index. Fails if a node ever saw
/// another hash.
async fn same_hash(cluster: &Cluster) -> Result<Said> {
    cluster.everyone_has_one_hash().await?;
    eventually("one word of all nodes", || async {
        let mut seen: Vec<Said> = Vec::new();
        for node in &cluster.nodes {
            let fsm = node.status().await?["fsm"].take();
            let number = |name: &str| fsm[name].as_u64().with_context(|| format!("no {name} in {fsm}"));
            seen.push(Said {
                index: number("state_hash_index")?,
                commands: number("commands_applied")?,
                failed: number("commands_failed")?,
                hash: fsm["state_hash"].as_str().context("no state_hash")?.to_owned(),
            });
        }
        ensure!(seen.iter().all(|one| *one == seen[0]), "the nodes differ: {seen:?}");
        Ok(seen.swap_remove(0))
    })
    .await
}

/// Checks that the backups of all nodes are equal, and returns the size of one.
/// A backup has every row, and all that the host keeps.
fn same_rows(cluster: &Cluster) -> Result<usize> {
    let backups = cluster.nodes.iter().map(|node| {
        let words = ["backup", "--local", &node.grpc_addr()];
        let output = Command::new(lockstep_binary()).args(words).stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "{}: {}", node.name, String::from_utf8_lossy(&output.stderr));
        Ok(output.stdout)
    });
    let backups = backups.collect::<Result<Vec<_>>>()?;
    for (node, backup) in cluster.nodes.iter().zip(&backups) {
        ensure!(*backup == backups[0], "{} has other rows than {}", node.name, cluster.nodes[0].name);
    }
    Ok(backups[0].len())
}

/// State of the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// They send commands.
    Runs,
    /// They start no command.
    Waits,
    /// They end.
    Ends,
}

/// Clients that send commands until they are told to end.
struct Load {
    done: Arc<AtomicU64>,
    /// What the clients are to do.
    flow: watch::Sender<Flow>,
    clients: Vec<JoinHandle<Result<()>>>,
}

impl Load {
    fn start(cluster: &Cluster, wanted: Wanted) -> Result<Load> {
        let (done, next) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let flow = watch::Sender::new(Flow::Runs);
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS_EACH {
            // One node at a time: the clients spread the commands over the nodes themselves.
            let connect = |node: &NodeProcess| one_node().connect_lazily(&node.grpc_addr());
            let mut nodes = cluster.nodes.iter().map(connect).collect::<Result<Vec<_>, _>>()?;
            for _ in &cluster.nodes {
                nodes.rotate_left(1);
                for _ in 0..CALLS_EACH / CONNECTIONS_EACH {
                    let nodes = nodes.iter().cloned().map(MedleyClient::new).collect();
                    clients.push(tokio::spawn(send(nodes, wanted.seed, flow.subscribe(), next.clone(), done.clone())));
                }
            }
        }
        Ok(Load { done, flow, clients })
    }

    /// Returns the number of commands that have an outcome.
    fn done(&self) -> u64 {
        self.done.load(Relaxed)
    }

    /// Fails with the error of a client that gave up.
    async fn check(&mut self) -> Result<()> {
        match self.clients.iter().position(JoinHandle::is_finished) {
            Some(ended) => self.clients.swap_remove(ended).await?,
            None => Ok(()),
        }
    }

    async fn finish(self) -> Result<()> {
        self.flow.send_replace(Flow::Ends);
        for client in self.clients {
            client.await??;
        }
        Ok(())
    }
}

/// Sends commands, to its own node while that answers and otherwise to the next one.
///
/// Each command is sent until it has an outcome, so it may run more than once. Every node runs it
/// equally often, which is what matters.
async fn send(
    mut nodes: Vec<MedleyClient<Client>>,
    seed: u64,
    mut flow: watch::Receiver<Flow>,
    next: Arc<AtomicU64>,
    done: Arc<AtomicU64>,
) -> Result<()> {
    while *flow.wait_for(|flow| *flow != Flow::Waits).await? == Flow::Runs {
        let number = next.fetch_add(1, Relaxed);
        let seed = seed.wrapping_add(number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let deadline = Instant::now() + PATIENCE * 2;
        for node in (0..nodes.len()).cycle() {
            let mut request = Request::new(ActRequest { seed });
            request.set_timeout(ANSWER_TIME_MAX);
            match nodes[node].act(request).await {
                Ok(_) => break,
                Err(status) if has_run(&status) => break,
                Err(status) => {
                    ensure!(Instant::now() < deadline, "no outcome of a command in {:?}: {status}", PATIENCE * 2);
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
        done.fetch_add(1, Relaxed);
    }
    Ok(())
}

/// Tells whether the guest refused the command or failed in it. Both are outcomes.
fn has_run(status: &Status) -> bool {
    outcome(status) == Outcome::Applied && matches!(status.code(), Code::FailedPrecondition | Code::Internal)
}

/// Prints a progress line.
pub fn print(line: String) {
    let mut out = std::io::stdout();
    // The output may be closed. The verdict is the exit code.
    drop(writeln!(out, "alike: {line}"));
}
