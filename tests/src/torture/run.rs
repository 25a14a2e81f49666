//! Runs clusters one after the other, with several cycles of load, fault, healing and verdict on
//! each, up to the limit of time or cycles. This file owns what is kept for inspection after a
//! failure, and the counts of the last line.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::disk::Disk;
use super::history::{self, Clock, Counts, Kind, Operation, Outcome, Record};
use super::judge::Verdict;
use super::load::{self, Load, LoadOptions, Session, Tokens};
use super::nemesis;
use super::plan::{Fault, FaultKind, Plan};
use crate::{Cluster, Network, Options as NodeOptions, PATIENCE};

/// Cycles on one cluster before the next one is formed.
const CYCLES_PER_CLUSTER: u64 = 25;

/// Sizes of the clusters: every fourth one has five nodes, the others three.
const SIZES: [usize; 4] = [3, 3, 3, 5];

/// Keys of one cycle.
const KEYS: u32 = 16;

/// Clients at each node.
const CLIENTS_PER_NODE: u32 = 4;

/// Writes that must be acknowledged before the fault, and again after it.
const PROGRESS: u64 = 50;

/// Limits so small that snapshots, purges and installs happen within seconds.
const TIGHT: [&str; 4] =
    ["--snapshot_threshold=200", "--snapshot_interval=1s", "--trailing_logs=20", "--trailing_entries_min=20"];

/// Parameters of a run, which ends at whichever limit comes first.
#[derive(Clone, Debug)]
pub struct Options {
    /// Seed of the faults and the load.
    pub seed: u64,
    /// Time after which no cycle begins.
    pub time: Option<Duration>,
    /// Most cycles.
    pub cycles: Option<u64>,
    /// Kinds of faults.
    pub kinds: Vec<FaultKind>,
    /// Nodes of every cluster. `None` means three, and five in every fourth.
    pub nodes: Option<usize>,
    /// Failpoints that every node has all the time: bugs that the run should detect.
    pub planted: Vec<String>,
}

/// What a successful run has done.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Number of cycles. Each has one history.
    pub cycles: u64,
    /// Clusters that were formed.
    pub clusters: u64,
    /// Number of faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Number of hits of each crash point, by name.
    pub points: BTreeMap<&'static str, u64>,
    /// Number of operations of all histories.
    pub counts: Counts,
    /// Number of snapshots that followers received and restored.
    pub installs: u64,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |counts: &BTreeMap<&str, u64>| {
            let counts: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
            if counts.is_empty() { "none".into() } else { counts.join(", ") }
        };
        let Summary { cycles, clusters, faults, points, counts, installs } = self;
        writeln!(out, "faults: {}", list(faults))?;
        writeln!(out, "crash points: {}", list(points))?;
        write!(
            out,
            "{cycles} cycles on {clusters} clusters, {installs} snapshots installed, {cycles} histories, {counts}: no violation"
        )
    }
}

/// Runs to a limit, or until Ctrl-C.
///
/// An error is a violation, or a fault that could not be applied. It names what was kept for
/// inspection. Faults that need a network to cut are left out, with a notice, where the system does
/// not allow one.
pub fn run(options: &Options) -> Result<Summary> {
    let kinds = possible(&options.kinds)?;
    let mut run = Run {
        plan: Plan::new(options.seed, &kinds),
        in_network: kinds.iter().any(|kind| kind.needs_network()),
        cuts_power: kinds.contains(&FaultKind::CutPower),
        only_cuts_power: kinds == [FaultKind::CutPower],
        options: options.clone(),
        began: Instant::now(),
        clock: Clock::start(),
        tokens: Tokens::default(),
        summary: Summary::default(),
        restored: Vec::new(),
    };
    while !run.is_over() {
        // Each cluster has a runtime of its own, so that its clients end with it.
        let turn = &mut run;
        if turn.in_network {
            Network::run(move |network| async move { turn.interruptible(Cluster::inside(network)?).await })?;
        } else {
            tokio::runtime::Runtime::new()?.block_on(async { turn.interruptible(Cluster::new()?).await })?;
        }
    }
    Ok(run.summary)
}

/// Returns the faults that can be applied on this system.
fn possible(kinds: &[FaultKind]) -> Result<Vec<FaultKind>> {
    let mut kinds = kinds.to_vec();
    if kinds.iter().any(|kind| kind.needs_network())
        && let Err(reason) = Network::available()
    {
        println!("NOTICE: no network is cut, because {reason}");
        kinds.retain(|kind| !kind.needs_network());
    }
    if kinds.contains(&FaultKind::CutPower) && Disk::mount()?.is_none() {
        kinds.retain(|kind| *kind != FaultKind::CutPower);
    }
    ensure!(!kinds.is_empty(), "no fault is left");
    Ok(kinds)
}

struct Run {
    options: Options,
    plan: Plan,
    in_network: bool,
    cuts_power: bool,
    only_cuts_power: bool,
    began: Instant,
    clock: Clock,
    tokens: Tokens,
    summary: Summary,
    /// Snapshots restored by each node of the cluster, at the last check.
    restored: Vec<u64>,
}

impl Run {
    fn is_over(&self) -> bool {
        self.options.time.is_some_and(|time| self.began.elapsed() >= time)
            || self.options.cycles.is_some_and(|cycles| self.summary.cycles >= cycles)
    }

    async fn interruptible(&mut self, cluster: Cluster) -> Result<()> {
        tokio::select! {
            done = self.one_cluster(cluster) => done,
            // The nodes end when the cluster is dropped.
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    }

    async fn one_cluster(&mut self, mut cluster: Cluster) -> Result<()> {
        // Half of the clusters use the machine's own disk, whose syncs take time.
        if self.cuts_power
            && (self.only_cuts_power || self.summary.clusters % 2 == 1)
            && let Some(disk) = Disk::mount()?
        {
            cluster.on_disk(disk);
        }
        let default = SIZES[self.summary.clusters as usize % SIZES.len()];
        let size = self.options.nodes.unwrap_or(default);
        let planted = self.options.planted.clone();
        let node = NodeOptions { planted, ..NodeOptions::tortured() };
        cluster.form(size, &node.with(&TIGHT)).await?;
        self.summary.clusters += 1;
        self.restored.clear();
        let mut memory = Memory::default();
        let mut done = Ok(());
        for _ in 0..CYCLES_PER_CLUSTER {
            if self.is_over() || done.is_err() {
                break;
            }
            done = self.cycle(&mut cluster, &mut memory).await;
        }
        let done = match done {
            Ok(()) => memory.is_still_there(&cluster, self.clock).await,
            failed => failed,
        };
        done.with_context(|| format!("the nodes' directories and logs are kept in {}", cluster.keep().display()))
    }

    async fn cycle(&mut self, cluster: &mut Cluster, memory: &mut Memory) -> Result<()> {
        let possible = |fault: &Fault| fault.kind != FaultKind::CutPower || cluster.has_power_to_cut();
        let fault = self.plan.find(possible).context("a plan has no end")?;
        let cycle = self.summary.cycles;
        let history = cluster.directory().join(format!("history-{cycle}.jsonl"));
        let name = fault.kind.name();
        let (words, counts) = self.fault_under_load(cluster, &fault, memory, &history).await.with_context(|| {
            format!(
                "seed {}, cycle {cycle}, {name} (the history, if there is one, is {})",
                self.options.seed,
                history.display()
            )
        })?;
        self.summary.cycles += 1;
        *self.summary.faults.entry(name).or_default() += 1;
        if let Some((point, _)) = fault.point {
            *self.summary.points.entry(point.name).or_default() += 1;
        }
        self.summary.counts = self.summary.counts.plus(counts);
        let seconds = self.began.elapsed().as_secs();
        println!("{seconds:>5} s  cycle {cycle}: {name}, {words}: {counts}");
        Ok(())
    }

    async fn fault_under_load(
        &mut self,
        cluster: &mut Cluster,
        fault: &Fault,
        memory: &mut Memory,
        path: &Path,
    ) -> Result<(String, Counts)> {
        let first = u32::try_from(self.summary.cycles).expect("few cycles") * KEYS;
        let keys = first..first + KEYS;
        let seed = self.options.seed ^ self.summary.cycles;
        let options = LoadOptions { keys: keys.clone(), clients_per_node: CLIENTS_PER_NODE, seed };
        let load = Load::start(cluster, &options, self.clock, &self.tokens)?;
        let struck = async {
            load.progress(PROGRESS).await.context("before the fault")?;
            tokio::time::sleep(fault.lead).await;
            let words = nemesis::strike(cluster, fault, &load).await?;
            load.progress(PROGRESS).await.context("after the fault, all healed")?;
            Ok(words)
        };
        let struck: Result<String> = struck.await;
        // The history is judged in any case: a violation says more than a fault that could not be
        // applied.
        let mut seen = load.finish().await?;
        let mut ends_at = None;
        let live = match &struck {
            Ok(_) => self.closing(cluster, keys, &mut seen, &mut ends_at).await,
            Err(_) => Ok(()),
        };
        let (verdict, seen) = tokio::task::spawn_blocking(move || (Verdict::of(&seen, ends_at), seen)).await?;
        if !verdict.passed() || live.is_err() || struck.is_err() {
            history::save(&seen, path)?;
        }
        if !verdict.passed() {
            let also = struck.err().or(live.err()).map(|error| format!("and {error:#}")).unwrap_or_default();
            bail!("{verdict}{also}");
        }
        let words = struck?;
        live?;
        memory.keep(&seen);
        Ok((words, Counts::of(&seen)))
    }

    /// Checks the cluster after a fault and takes the last reads.
    ///
    /// All nodes must run and be live, and all states must be equal.
    async fn closing(
        &mut self,
        cluster: &mut Cluster,
        keys: std::ops::Range<u32>,
        seen: &mut Vec<Operation>,
        ends_at: &mut Option<u64>,
    ) -> Result<()> {
        nobody_died(cluster).await?;
        seen.extend(load::liveness(cluster, keys.clone(), self.clock, &self.tokens).await?);
        *ends_at = Some(self.clock.now());
        seen.extend(load::final_reads(cluster, keys, self.clock).await?);
        states_agree(cluster).await?;
        self.count_installs(cluster).await?;
        nobody_died(cluster).await
    }
}

impl Run {
    /// Adds the snapshots that the nodes restored since the last check. A restarted node counts
    /// from 0.
    async fn count_installs(&mut self, cluster: &Cluster) -> Result<()> {
        self.restored.resize(cluster.nodes.len(), 0);
        for (node, before) in cluster.nodes.iter().zip(&mut self.restored) {
            let now = node.status().await?["fsm"]["restore_count"].as_u64().context("no restore count")?;
            self.summary.installs += if now >= *before { now - *before } else { now };
            *before = now;
        }
        Ok(())
    }
}

async fn nobody_died(cluster: &mut Cluster) -> Result<()> {
    for node in &mut cluster.nodes {
        if node.has_ended()? {
            let status = node.wait_exit().await?;
            bail!("{} ended with {status} although nobody struck it:\n{}", node.name, node.last_words());
        }
        ensure!(!node.log().contains("panicked at"), "{} panicked: its log says where", node.name);
    }
    Ok(())
}

/// Waits until every node has applied the same index, and checks that all have the same state hash.
async fn states_agree(cluster: &Cluster) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut places = HashSet::new();
        let mut hashes = HashSet::new();
        let mut statuses = Vec::new();
        for node in &cluster.nodes {
            let status = node.status().await?;
            places.insert(status["fsm"]["state_hash_index"].as_u64().context("no index of the state hash")?);
            hashes.insert(status["fsm"]["state_hash"].as_str().context("no state hash")?.to_owned());
            let mismatches = status["fsm"]["state_hash_mismatches"].as_u64();
            ensure!(mismatches == Some(0), "{} counts {mismatches:?} mismatches of state hashes", node.name);
            statuses.push(format!("{}: {}", node.name, status["fsm"]));
        }
        if places.len() == 1 {
            ensure!(hashes.len() == 1, "states differ at one index:\n{}", statuses.join("\n"));
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the nodes do not reach one index within {PATIENCE:?}:\n{}", statuses.join("\n"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The newest record of each key of earlier cycles. This is all that is kept of a history. When the
/// cluster ends, the records are looked up.
#[derive(Default)]
struct Memory {
    newest: HashMap<u32, Record>,
    /// Writes of unknown outcome. Each may still be applied.
    maybes: HashSet<u64>,
}

impl Memory {
    fn keep(&mut self, history: &[Operation]) {
        for operation in history {
            let record = match operation.outcome {
                Outcome::Wrote(record, _) | Outcome::Read(Some(record)) => record,
                Outcome::Maybe => {
                    if let Kind::Put(token) = operation.kind {
                        self.maybes.insert(token);
                    }
                    continue;
                }
                Outcome::Read(None) | Outcome::Refused => continue,
            };
            let newest = self.newest.entry(operation.key).or_insert(record);
            if newest.version < record.version {
                *newest = record;
            }
        }
    }

    async fn is_still_there(&self, cluster: &Cluster, clock: Clock) -> Result<()> {
        for (node, process) in (0..).zip(&cluster.nodes) {
            let mut session = Session::new(0, node, process.grpc_addr(), clock);
            for (key, kept) in &self.newest {
                let deadline = Instant::now() + PATIENCE;
                let found = loop {
                    match session.get(*key, true).await?.map(|operation| operation.outcome) {
                        Some(Outcome::Read(found)) => break found,
                        _ if Instant::now() > deadline => bail!("{} does not answer", process.name),
                        _ => {}
                    }
                };
                let later = |record: Record| record.version > kept.version && self.maybes.contains(&record.token);
                ensure!(
                    found.is_some_and(|record| record == *kept || later(record)),
                    "lost: key {key} was {kept:?} and is {found:?} at {} when the cluster ends",
                    process.name
                );
            }
        }
        Ok(())
    }
}
