//! The run of a benchmark: starts both systems, drives them in blocks that alternate, counts syncs
//! and watches apply at the end, and hands the results to the pages. It judges nothing.

use anyhow::{Context, Result};

use super::applied::Applied;
use super::calibrate::calibrate;
use super::conditions::{self, Conditions};
use super::figures::{Block, Load, Report, Results, System};
use super::nodes::{self, Drive, KEYS, Members};
use super::syncs::{self, Syncs};
use super::{Bench, block, etcd, pages, table};
use crate::demo::step;
use crate::demo_cluster::Cluster;

/// Longest run under strace, in seconds.
const SYNCS_SECONDS_MAX: u64 = 2;

/// Measures what was asked for, and writes the pages about it.
pub(crate) fn bench(asked: &Bench<'_>) -> Result<()> {
    // Looked for before the build, so that a wrong --etcd costs no time.
    let program = etcd::find(asked.etcd)?;
    crate::build()?;
    let out = pages::directory(asked.out)?;
    let cluster = Cluster::plan_with_pages(3)?;
    let measured = measure_all(asked, program.as_ref(), &cluster)
        .map_err(|error| error.context(format!("the benchmark failed{}", cluster.last_words())));
    let results = measured?;
    step("Figures");
    print!("{}", table::figures(&results));
    println!("\nFiles in {}:", out.display());
    for name in pages::write(&results, &out)? {
        println!("  {name}");
    }
    cluster.stop()
}

fn measure_all(asked: &Bench<'_>, program: Option<&etcd::Program>, cluster: &Cluster) -> Result<Results> {
    let version = program.map(|program| program.version.clone());
    let mut conditions = Conditions::of(cluster.directory(), version, asked.seconds, asked.rounds)?;
    conditions.warn_of_memory(cluster.directory());
    let lockstep = nodes::start(cluster)?;
    let etcd = match program {
        Some(program) => {
            step(&format!("Start three members of etcd ({})", program.version));
            Some(etcd::start(program, cluster)?)
        }
        None => {
            println!("\n{}. Nothing is compared: Lockstep is measured alone.", etcd::INSTALL);
            None
        }
    };
    let run = Run { asked, cluster, lockstep, etcd };
    run.fill()?;
    let (blocks, syncs, applied) = (run.blocks()?, run.syncs(), run.applied());
    conditions.load_average_after = conditions::load_average();
    Ok(Results { conditions, loads: loads(asked), blocks, syncs, applied })
}

fn loads(asked: &Bench<'_>) -> Vec<Load> {
    let of = |operation: &&str| {
        let operation = operation.to_string();
        asked.clients.iter().map(move |clients| Load { operation: operation.clone(), clients: *clients })
    };
    asked.operations.iter().flat_map(of).collect()
}

/// Returns the systems in the order of their blocks: A B, then B A, and so on, so that neither is
/// always the one that finds a warmer machine.
fn order(has_etcd: bool, pair: usize) -> Vec<System> {
    match (has_etcd, pair.is_multiple_of(2)) {
        (false, _) => vec![System::Lockstep],
        (true, true) => vec![System::Lockstep, System::Etcd],
        (true, false) => vec![System::Etcd, System::Lockstep],
    }
}

struct Run<'a> {
    asked: &'a Bench<'a>,
    cluster: &'a Cluster,
    lockstep: Members,
    etcd: Option<Members>,
}

impl Run<'_> {
    /// Runs all rounds of all loads.
    fn blocks(&self) -> Result<Vec<Block>> {
        let loads = loads(self.asked);
        let mut blocks = Vec::new();
        for round in 0..self.asked.rounds {
            step(&format!("Round {} of {}", round + 1, self.asked.rounds));
            for (position, load) in loads.iter().enumerate() {
                for system in order(self.etcd.is_some(), round as usize + position) {
                    let block = self
                        .block(round, system, load)
                        .with_context(|| format!("round {}: {load}, {}", round + 1, system.name()))?;
                    println!("  {}", table::line(&block));
                    blocks.push(block);
                }
            }
        }
        Ok(blocks)
    }

    fn block(&self, round: u64, system: System, load: &Load) -> Result<Block> {
        let calibration = calibrate(self.cluster.directory())?;
        let ids = &self.members(system)?.ids;
        let drive = self.prepared(system, load, self.asked.seconds, block::warmup(self.asked.seconds))?;
        let (report, servers) = block::measured(self.cluster, ids, &drive)?;
        Ok(Block { round, system, load: load.clone(), calibration, report, servers })
    }

    fn members(&self, system: System) -> Result<&Members> {
        match system {
            System::Lockstep => Ok(&self.lockstep),
            System::Etcd => self.etcd.as_ref().context("etcd does not run"),
        }
    }

    fn drive(&self, system: System, load: &Load, seconds: u64, warmup: u64) -> Result<Report> {
        self.prepared(system, load, seconds, warmup)?.run(self.cluster)
    }

    /// Returns a run of the client. Reads that need no leader go to all nodes, and everything else
    /// to the leader, whoever it is by now.
    fn prepared<'a>(&self, system: System, load: &'a Load, seconds: u64, warmup: u64) -> Result<Drive<'a>> {
        let members = self.members(system)?;
        let addresses = if load.operation == "local_get" {
            members.addresses.clone()
        } else {
            let leader = match system {
                System::Lockstep => self.cluster.grpc_addr(&nodes::leader(self.cluster)?).to_owned(),
                System::Etcd => etcd::leader(members, self.cluster)?,
            };
            vec![leader]
        };
        Ok(Drive { system, addresses, load, keys: KEYS, rate: None, seconds, warmup, is_filled: true })
    }

    /// Writes all keys to each system, so that every block finds the same ones.
    fn fill(&self) -> Result<()> {
        step("Write the keys");
        // The client writes the keys that it reads, before it does.
        let load = Load { operation: "get".into(), clients: 1 };
        for system in System::ALL.into_iter().filter(|system| self.members(*system).is_ok()) {
            let drive = Drive { is_filled: false, ..self.prepared(system, &load, 1, 0)? };
            drive.run(self.cluster).with_context(|| format!("writing the keys, {}", system.name()))?;
            println!("  {:<9} has them", system.name());
        }
        Ok(())
    }

    /// Counts the syncs of each system while one client puts.
    fn syncs(&self) -> Vec<(System, Syncs)> {
        step("Count the syncs of each put of one client");
        let load = Load { operation: "put".into(), clients: 1 };
        let seconds = self.asked.seconds.min(SYNCS_SECONDS_MAX);
        let count = |system: System| {
            let members = self.members(system).ok()?;
            // Without a warm-up: strace would count the syncs of its puts, too.
            let put = || self.drive(system, &load, seconds, 0);
            let counted = syncs::count(self.cluster.directory(), &members.ids, put);
            println!("  {}", table::syncs_line(system, &counted));
            Some((system, counted))
        };
        System::ALL.into_iter().filter_map(count).collect()
    }

    /// Watches apply of our leader while the most clients put. A failure is told, and leaves out
    /// the figures: the comparison is there already.
    fn applied(&self) -> Option<Applied> {
        step("Watch apply while clients put");
        let clients = self.asked.clients.iter().copied().max()?;
        let load = Load { operation: "put".into(), clients };
        let watch = || {
            let leader = nodes::leader(self.cluster)?;
            let page = self.cluster.page_addr(&leader).context("the nodes serve no pages")?;
            let put = || self.drive(System::Lockstep, &load, self.asked.seconds, 0).map(drop);
            Applied::watch(page, load.clone(), put)
        };
        match watch() {
            Ok(applied) => {
                println!("  {}", table::applied_line(&applied));
                Some(applied)
            }
            Err(error) => {
                println!("  not measured: {error:#}");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_alternate() {
        let orders: Vec<System> = (0..2).flat_map(|pair| order(true, pair)).collect();
        assert_eq!(orders, [System::Lockstep, System::Etcd, System::Etcd, System::Lockstep]);
        assert_eq!(order(false, 1), [System::Lockstep]);
    }

    #[test]
    fn every_operation_meets_every_number_of_clients() {
        let asked = Bench { clients: vec![1, 64], operations: vec!["put", "get"], ..Bench::default() };
        let loads: Vec<String> = loads(&asked).iter().map(Load::to_string).collect();
        assert_eq!(loads, ["put, 1 client", "put, 64 clients", "get, 1 client", "get, 64 clients"]);
    }
}
