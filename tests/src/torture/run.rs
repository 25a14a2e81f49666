//! Runs clusters one after the other, with several cycles of load, fault, healing and verdict on
//! each, up to the limit of time or cycles. This file owns what is kept for inspection after a
//! failure, and the counts of the last line.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::cycle::{Cycle, Memory};
use super::disk::Disk;
use super::history::{Clock, Counts};
use super::load::{BRISK_OPERATIONS, Load, LoadOptions, Tokens};
use super::nemesis;
use super::plan::{Fault, FaultKind, Plan};
use super::verify::{self, Verified};
use crate::{Cluster, Network, Options as NodeOptions, chain_wasm};

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

/// Entries of a cluster's log that are run again at its end, unless said otherwise.
pub const VERIFY_ENTRIES: u64 = 20_000;

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
    /// Most entries of a cluster's log that are run again when it ends. 0: the nodes have no log
    /// archive, and nothing is run again.
    pub verify_entries: u64,
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
    /// What was run again of the logs.
    pub verified: Verified,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |counts: &BTreeMap<&str, u64>| {
            let counts: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
            if counts.is_empty() { "none".into() } else { counts.join(", ") }
        };
        let Summary { cycles, clusters, faults, points, counts, installs, verified } = self;
        writeln!(out, "faults: {}", list(faults))?;
        writeln!(out, "crash points: {}", list(points))?;
        if *verified != Verified::default() {
            writeln!(out, "{verified}")?;
        }
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
        let mut node = node.with(&TIGHT);
        if self.options.verify_entries > 0 {
            node = node.with(&[&verify::flag(&cluster)?]);
        }
        cluster.form(size, &node).await?;
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
            Ok(()) => self.end(&mut cluster, &memory).await,
            failed => failed,
        };
        done.with_context(|| format!("the nodes' directories and logs are kept in {}", cluster.keep().display()))
    }

    /// Looks everything up once more, stops the nodes, and runs their log again.
    async fn end(&mut self, cluster: &mut Cluster, memory: &Memory) -> Result<()> {
        memory.is_still_there(cluster, self.clock).await?;
        if self.options.verify_entries > 0 {
            let verified = verify::verify(cluster, &[chain_wasm()], self.options.verify_entries).await?;
            println!("{:>5} s  {verified}", self.began.elapsed().as_secs());
            self.summary.verified = self.summary.verified.plus(verified);
        }
        Ok(())
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
        let options = LoadOptions {
            keys: keys.clone(),
            clients_per_node: CLIENTS_PER_NODE,
            seed,
            brisk_operations: BRISK_OPERATIONS,
        };
        let load = Load::start(cluster, &options, self.clock, &self.tokens)?;
        let struck = async {
            load.progress(PROGRESS).await.context("before the fault")?;
            tokio::time::sleep(fault.lead).await;
            let words = nemesis::strike(cluster, fault, &load).await?;
            load.progress(PROGRESS).await.context("after the fault, all healed")?;
            Ok(words)
        };
        let struck: Result<String> = struck.await;
        let cycle = Cycle { clock: self.clock, tokens: self.tokens.clone(), keys, history: path.to_path_buf() };
        let (words, seen) = cycle.judge(cluster, load, struck, memory).await?;
        self.count_installs(cluster).await?;
        Ok((words, Counts::of(&seen)))
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
