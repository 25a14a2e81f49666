//! Runs clusters one after the other, one for each guest in turn, with the legs of the plan on
//! each, up to the limit of time or legs. This file owns the counts of the last lines, and what is
//! kept for inspection after a failure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::guest::Guest;
use super::pause;
use super::plan::{self, Leg, Plan, Step};
use super::state;
use super::switch::{Switched, rehearse, switch};
use crate::torture::cycle::{Cycle, Memory};
use crate::torture::history::{Clock, Counts, Operation};
use crate::torture::load::{BRISK_OPERATIONS, Load, LoadOptions, Tokens};
use crate::torture::verify::{self, Verified};
use crate::{Cluster, Options as NodeOptions};

/// Nodes of a cluster.
const NODES: usize = 3;

/// Keys of one leg.
const KEYS: u32 = 64;

/// Writes that must be acknowledged before the change, and again after it.
const PROGRESS: u64 = 200;

/// Entries of a cluster's log that are run again at its end, unless said otherwise. An entry has
/// the commands of many clients, and a rollback runs what it takes back once more.
pub const VERIFY_ENTRIES: u64 = 5_000;

/// Operations of all clients in one leg whose pause is measured, after which they slow down.
const MEASURED_OPERATIONS: u64 = 640_000;

/// Parameters of a run, which ends at whichever limit comes first.
#[derive(Clone, Debug)]
pub struct Options {
    /// Seed of the kills and the load.
    pub seed: u64,
    /// Time after which no leg begins. Each guest has an equal share of it.
    pub time: Option<Duration>,
    /// Most legs.
    pub legs: Option<u64>,
    /// Guests, each of which gets a cluster in turn.
    pub guests: Vec<Guest>,
    /// Clients of all nodes together. Each node has as many, so there may be a few more.
    pub clients: u32,
    /// MiB of rows that are written before the first change. Nobody is killed then, and the run
    /// ends when each guest had its two changes.
    pub state_mib: Option<u64>,
    /// Most entries of a cluster's log that are run again when it ends. 0: the nodes have no log
    /// archive, and nothing is run again; so it is with `state_mib`.
    pub verify_entries: u64,
}

/// What a successful run has done.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Clusters that were formed.
    pub clusters: u64,
    /// Changes that were made.
    pub made: u64,
    /// Changes that were taken back.
    pub rolled_back: u64,
    /// Commands of the operator that were refused, and given again.
    pub refused: u64,
    /// Number of kills by failpoint.
    pub kills: BTreeMap<&'static str, u64>,
    /// Number of operations of all histories.
    pub counts: Counts,
    /// Longest pauses of legs without a kill and of legs with one, by what was done.
    pub pauses: BTreeMap<String, Duration>,
    /// What was run again of the logs.
    pub verified: Verified,
}

impl Summary {
    /// Returns the number of changes and rollbacks.
    pub fn legs(&self) -> u64 {
        self.made + self.rolled_back
    }

    fn add(&mut self, guest: Guest, leg: &Leg, switched: &Switched, seen: &[Operation]) -> Duration {
        match leg.step {
            Step::Change => self.made += 1,
            Step::Rollback => self.rolled_back += 1,
        }
        self.refused += switched.refused;
        if let Some(point) = switched.killed_at {
            *self.kills.entry(point).or_default() += 1;
        }
        self.counts = self.counts.plus(Counts::of(seen));
        let kill = if switched.killed_at.is_some() { "with a kill" } else { "without a kill" };
        self.note_pause(format!("{} {}, {kill}", guest.name(), verb(leg.step)), switched, seen)
    }

    fn note_pause(&mut self, what: String, switched: &Switched, seen: &[Operation]) -> Duration {
        let paused = pause::longest(seen, switched.from, switched.to);
        let longest = self.pauses.entry(what).or_default();
        *longest = paused.max(*longest);
        paused
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Summary { clusters, made, rolled_back, refused, kills, counts, pauses, verified } = self;
        for (what, pause) in pauses {
            writeln!(out, "longest pause without an acknowledged write: {what}: {} ms", pause.as_millis())?;
        }
        let kills: Vec<String> = kills.iter().map(|(point, count)| format!("{point} {count}")).collect();
        writeln!(out, "kills: {}", if kills.is_empty() { "none".into() } else { kills.join(", ") })?;
        if *verified != Verified::default() {
            writeln!(out, "{verified}")?;
        }
        write!(
            out,
            "{made} changes made, {rolled_back} rolled back, {refused} refused before, on {clusters} clusters, \
             {counts}: no violation"
        )
    }
}

/// Runs to a limit, or until Ctrl-C. An error is a violation, a step that no node died at, or a
/// change that could not be made. It names what was kept for inspection.
pub fn run(options: &Options) -> Result<Summary> {
    let mut run = Run {
        plan: Plan::new(options.seed),
        options: options.clone(),
        began: Instant::now(),
        clock: Clock::start(),
        tokens: Tokens::default(),
        summary: Summary::default(),
        turn_end: None,
    };
    let guests = options.guests.clone().into_iter();
    let mut guests: Box<dyn Iterator<Item = Guest>> = match options.state_mib {
        Some(_) => Box::new(guests),
        None => Box::new(guests.cycle()),
    };
    while let Some(guest) = guests.next().filter(|_| !run.is_over()) {
        // Each cluster has a runtime of its own, so that its clients end with it.
        let turn = &mut run;
        tokio::runtime::Runtime::new()?.block_on(async {
            tokio::select! {
                done = turn.one_cluster(guest) => done,
                // The nodes end when the cluster is dropped.
                _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            }
        })?;
    }
    Ok(run.summary)
}

struct Run {
    options: Options,
    plan: Plan,
    began: Instant,
    clock: Clock,
    tokens: Tokens,
    summary: Summary,
    /// When the turn of the guest ends.
    turn_end: Option<Instant>,
}

/// Returns what a guest gets of the time that is left in this round: as much as each that has its
/// turn behind it. `turn` counts from 0 over all rounds.
fn share(left: Duration, turn: u64, guests: usize) -> Duration {
    let guests = guests.max(1) as u64;
    let still = u32::try_from(guests - turn % guests).expect("few guests");
    left / still
}

impl Run {
    fn is_over(&self) -> bool {
        self.options.time.is_some_and(|time| self.began.elapsed() >= time)
            || self.options.legs.is_some_and(|legs| self.summary.legs() >= legs)
    }

    fn is_turn_over(&self) -> bool {
        self.is_over() || self.turn_end.is_some_and(|end| Instant::now() >= end)
    }

    async fn one_cluster(&mut self, guest: Guest) -> Result<()> {
        // A guest whose state is filled before has as long as it takes.
        let time = self.options.time.filter(|_| self.options.state_mib.is_none());
        self.turn_end = time.map(|time| {
            let left = time.saturating_sub(self.began.elapsed());
            Instant::now() + share(left, self.summary.clusters, self.options.guests.len())
        });
        let mut cluster = Cluster::new()?;
        let member = NodeOptions { fsm: Some(guest.component(1)), ..NodeOptions::member() };
        let mut member = member.with_failpoints();
        let verifies = self.options.verify_entries > 0 && self.options.state_mib.is_none();
        if verifies {
            member = member.with(&[&verify::flag(&cluster)?]);
        }
        cluster.form(NODES, &member).await?;
        self.summary.clusters += 1;
        let mut done = self.legs(&mut cluster, guest).await;
        if verifies && done.is_ok() {
            done = self.verify(&mut cluster, guest).await;
        }
        done.with_context(|| format!("the nodes' directories and logs are kept in {}", cluster.keep().display()))
    }

    /// Stops the nodes, and runs their log again, with its changes and rollbacks.
    async fn verify(&mut self, cluster: &mut Cluster, guest: Guest) -> Result<()> {
        let guests = [1, 2, 3].map(|version| guest.component(version));
        let verified = verify::verify(cluster, &guests, self.options.verify_entries).await?;
        println!("{:>5} s  {}: {verified}", self.began.elapsed().as_secs(), guest.name());
        self.summary.verified = self.summary.verified.plus(verified);
        Ok(())
    }

    async fn legs(&mut self, cluster: &mut Cluster, guest: Guest) -> Result<()> {
        let legs = match self.options.state_mib {
            Some(mib) => {
                let rows = state::fill(cluster, mib).await.context("while the state is filled")?;
                println!("{:>5} s  {}: {rows} rows of {mib} MiB", self.began.elapsed().as_secs(), guest.name());
                plan::calm()
            }
            None => self.plan.cluster(),
        };
        let mut memory = Memory::default();
        for leg in legs {
            if self.is_turn_over() {
                break;
            }
            let number = self.summary.legs();
            self.leg(cluster, guest, &leg, &mut memory).await.with_context(|| {
                format!("seed {}, leg {number}, {} {leg:?} (its history may be there)", self.options.seed, guest.name())
            })?;
        }
        memory.is_still_there(cluster, self.clock).await
    }

    /// Makes one change under load, and judges it.
    async fn leg(&mut self, cluster: &mut Cluster, guest: Guest, leg: &Leg, memory: &mut Memory) -> Result<()> {
        let number = self.summary.legs();
        let first = u32::try_from(number).expect("few legs") * KEYS;
        let keys = first..first + KEYS;
        let clients_per_node = self.options.clients.div_ceil(NODES as u32);
        let seed = self.options.seed ^ number;
        // What is written while a shadow runs, it has to run, too. Pauses are measured at full
        // speed.
        let brisk_operations = self.options.state_mib.map_or(BRISK_OPERATIONS, |_| MEASURED_OPERATIONS);
        let options = LoadOptions { keys: keys.clone(), clients_per_node, seed, brisk_operations };
        let load = Load::start(cluster, &options, self.clock, &self.tokens)?;
        let struck = async {
            load.progress(PROGRESS).await.context("before it")?;
            // By themselves where pauses are measured: a rehearsal reads the whole state.
            let rehearsed = match self.options.state_mib {
                Some(_) => Some(rehearse(cluster, guest, leg, self.clock).await?),
                None => None,
            };
            let switched = switch(cluster, guest, leg, self.clock, rehearsed.as_ref()).await?;
            load.progress(PROGRESS).await.context("after it")?;
            Ok((rehearsed, switched))
        };
        let struck: Result<(Option<Switched>, Switched)> = struck.await;
        let history = cluster.directory().join(format!("history-{number}.jsonl"));
        let cycle = Cycle { clock: self.clock, tokens: self.tokens.clone(), keys, history };
        let ((rehearsed, switched), seen) = cycle.judge(cluster, load, struck, memory).await?;
        if self.options.state_mib.is_none() {
            guest.check(cluster, leg.version).await?;
        }
        let paused = self.summary.add(guest, leg, &switched, &seen);
        let seconds = self.began.elapsed().as_secs();
        if let Some(rehearsed) = rehearsed {
            let paused = self.summary.note_pause(format!("{} rehearsed", guest.name()), &rehearsed, &seen);
            println!("{seconds:>5} s  {} rehearsed: longest pause {} ms", guest.name(), paused.as_millis());
        }
        println!("{seconds:>5} s  {}", told(guest, leg, &switched, paused, Counts::of(&seen)));
        Ok(())
    }
}

fn verb(step: Step) -> &'static str {
    match step {
        Step::Change => "changed",
        Step::Rollback => "rolled back",
    }
}

/// Says what became of a leg.
fn told(guest: Guest, leg: &Leg, switched: &Switched, paused: Duration, counts: Counts) -> String {
    let kill = match (switched.killed_at, leg.kill) {
        (Some(point), Some((_, role))) => format!(", {role:?} killed at {point}"),
        _ => String::new(),
    };
    let expected = switched.expected_ms.map_or(String::new(), |(hold_ms, migrate_ms)| {
        format!(" (the rehearsal expected {hold_ms} ms, {migrate_ms} ms of them for migrate)")
    });
    let (name, verb, version, paused_ms) = (guest.name(), verb(leg.step), leg.version, paused.as_millis());
    format!("{name} {verb} to version {version}{kill}: longest pause {paused_ms} ms{expected}: {counts}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guest_has_its_share_of_the_time() {
        let seconds = Duration::from_secs;
        assert_eq!(share(seconds(600), 0, 3), seconds(200));
        // The first one took longer.
        assert_eq!(share(seconds(320), 1, 3), seconds(160));
        assert_eq!(share(seconds(60), 2, 3), seconds(60));
        assert_eq!(share(seconds(30), 3, 3), seconds(10));
        assert_eq!(share(seconds(30), 7, 1), seconds(30));
    }
}
