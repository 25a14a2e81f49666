//! The run: first a cluster with few keys and one with many, block by block, then a cluster with
//! the large state. It starts the nodes, fills them, has each figure measured, and hands the
//! results to the page. It judges nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::copied::Original;
use super::group::{Filled, Flag, Group, LAST, PURGED};
use super::restart::{self, End, Restart};
use super::results::{Block, Join, Results, Size};
use super::stops::{self, Watched};
use super::{Large, disk, newcomer, page, rows};
use crate::bench::block;
use crate::bench::calibrate::calibrate;
use crate::bench::conditions::{self, Conditions};
use crate::bench::figures::Load;
use crate::bench::nodes::KEYS;
use crate::bench::{measure, pages, table};
use crate::demo::step;
use crate::demo_cluster::Cluster;

/// Clients of all loads.
const CLIENTS: u64 = 64;
/// Puts a second of the run that leaves the processors time for everything else. A run at full load
/// follows.
const PACED_RATE: u64 = 2_000;
/// Nodes of a cluster.
const VOTERS: usize = 3;
/// Nodes of the three clusters.
const NODES: usize = 3 * VOTERS;
/// Fewest entries a second that are waited for.
const ENTRIES_A_SECOND_MIN: u64 = 50;

/// Measures what was asked for, and writes the page about it.
pub(crate) fn bench_large(asked: &Large<'_>) -> Result<()> {
    // Before the build, so that a small disk costs no time.
    disk::check(&std::env::temp_dir(), asked)?;
    crate::build()?;
    let out = pages::directory(asked.out)?;
    let count = u16::try_from(NODES as u64 + asked.rounds).context("so many nodes have no ports")?;
    let cluster = Cluster::plan_with_pages(count)?;
    let measured = measure_all(asked, &cluster)
        .map_err(|error| error.context(format!("the benchmark failed{}", cluster.last_words())));
    let results = measured?;
    step("Figures");
    print!("{}", page::figures(&results));
    println!("\nFiles in {}:", out.display());
    for name in page::write(&results, &out)? {
        println!("  {name}");
    }
    cluster.stop()
}

fn measure_all(asked: &Large<'_>, cluster: &Cluster) -> Result<Results> {
    let mut conditions = Conditions::of(cluster.directory(), None, asked.seconds, asked.rounds)?;
    conditions.warn_of_memory(cluster.directory());
    let names = cluster.names();
    let (compared, others) = names.split_at(2 * VOTERS);
    let (voters, newcomers) = others.split_at(VOTERS);
    let run = Run { asked, cluster, load: Load { operation: "put".into(), clients: CLIENTS } };
    let (few, many, blocks) = run.compare_puts(compared)?;

    step("Start three nodes for a large state, and fill it");
    let mut group = Group::form(cluster, voters, run.flags())?;
    let state = group.fill(rows::rows_in(asked.state_bytes))?;
    let filled_to = group.metrics(&group.leader()?)?.number(LAST)?;
    let watched = run.watch_stops(&group)?;
    run.lengthen_log(&group, filled_to)?;
    let restarts = run.restarts(&group)?;
    let joins = run.joins(&group, newcomers)?;
    conditions.load_average_after = conditions::load_average();
    let state_bytes = asked.state_bytes;
    Ok(Results { conditions, state_bytes, few, many, state, blocks, watched, restarts, joins })
}

struct Run<'a> {
    asked: &'a Large<'a>,
    cluster: &'a Cluster,
    load: Load,
}

impl Run<'_> {
    /// Returns the flags of the nodes with the large state. The log keeps as many entries as were
    /// asked for, and nothing slows down a snapshot. One is made when this program wants it.
    fn flags(&self) -> Vec<Flag> {
        vec![
            ("trailing_entries_min", self.asked.entries.to_string()),
            ("trailing_logs", "0".to_owned()),
            ("snapshot_interval", "24h".to_owned()),
            ("snapshot_rate_limit", "0".to_owned()),
        ]
    }

    /// Compares puts in a cluster with few keys and in one with many. Both run all the time.
    fn compare_puts(&self, names: &[String]) -> Result<(Filled, Filled, Vec<Block>)> {
        let (of_few, of_many) = names.split_at(VOTERS);
        step(&format!("Start three nodes for {KEYS} keys"));
        let mut few = Group::form(self.cluster, of_few, Vec::new())?;
        let filled_few = few.fill(KEYS)?;
        step(&format!("Start three nodes for {} keys", self.asked.keys));
        let mut many = Group::form(self.cluster, of_many, Vec::new())?;
        let filled_many = many.fill(self.asked.keys)?;
        step("Put among few keys and among many, in turn");
        let mut blocks = Vec::new();
        for round in 0..self.asked.rounds {
            for size in order(round) {
                let group = if size == Size::Few { &few } else { &many };
                let block = self.block(round, size, group).with_context(|| format!("round {}", round + 1))?;
                println!(
                    "  round {}, {:>9} keys: {} calls/s, CPU {} us a call",
                    round + 1,
                    group.rows,
                    table::number(block.report.calls_per_second),
                    table::number(block.servers.cpu_us_per_call)
                );
                blocks.push(block);
            }
        }
        few.discard()?;
        many.discard()?;
        Ok((filled_few, filled_many, blocks))
    }

    fn block(&self, round: u64, size: Size, group: &Group<'_>) -> Result<Block> {
        let calibration = calibrate(self.cluster.directory())?;
        // Without a warm-up, whose calls nobody counts.
        let drive = group.drive(&self.load, None, self.asked.seconds, 0)?;
        let ids = group.members()?.ids;
        let before = measure::cpu_seconds(&ids)?;
        let (report, servers) = block::measured(self.cluster, &ids, &drive)?;
        // What a block leaves to be compacted is paid for by this block, and not by the next one.
        group.settle()?;
        let cpu_us_until_quiet = (measure::cpu_seconds(&ids)? - before) * 1e6 / report.calls as f64;
        Ok(Block { round, size, calibration, report, servers, cpu_us_until_quiet })
    }

    /// Watches apply at a pace, and as fast as the clients go.
    fn watch_stops(&self, group: &Group<'_>) -> Result<Vec<Watched>> {
        step("Watch apply while clients put and snapshots are made");
        let seconds = self.asked.seconds * self.asked.rounds;
        let mut watched = Vec::new();
        for rate in [Some(PACED_RATE), None] {
            let seen = stops::watch(group, self.load.clone(), rate, seconds)?;
            let longest = seen.stops.of_either();
            let pace = rate.map_or("full load".to_owned(), |rate| format!("{rate} calls/s"));
            println!(
                "  {pace}: {} flushes, {} snapshots; the longest stop was {} to {} ms",
                seen.flushes,
                seen.snapshots,
                table::number(longest.at_least_ms),
                table::number(longest.at_most_ms)
            );
            watched.push(seen);
            group.settle()?;
        }
        Ok(watched)
    }

    /// Puts until the log has as many entries as were asked for, behind those of the import. Then
    /// snapshots let the nodes purge what comes before.
    fn lengthen_log(&self, group: &Group<'_>, filled_to: u64) -> Result<()> {
        step(&format!("Put until the log has {} entries", self.asked.entries));
        let began = Instant::now();
        let limit = Duration::from_secs(60 + self.asked.entries / ENTRIES_A_SECOND_MIN);
        let leader = group.leader()?;
        loop {
            let entries = group.metrics(&leader)?.number(LAST)?.saturating_sub(filled_to);
            println!("  {entries} entries");
            if entries >= self.asked.entries {
                break;
            }
            ensure!(began.elapsed() < limit, "there are {entries} entries after {limit:?}");
            group.drive(&self.load, None, self.asked.seconds, 0)?.run(self.cluster)?;
        }
        group.settle()?;
        for name in group.names {
            group.admin(name, &["snapshot"])?;
            self.cluster.eventually(&format!("{name} purges the log before"), || {
                let purged = group.metrics(name)?.number(PURGED)?;
                ensure!(purged > 0, "its log begins with the first entry");
                Ok(())
            })?;
        }
        Ok(())
    }

    fn restarts(&self, group: &Group<'_>) -> Result<Vec<Restart>> {
        step("Restart a follower, killed and stopped in turn");
        let mut restarts = Vec::new();
        for _ in 0..self.asked.rounds {
            for end in End::ALL {
                let restart = restart::restart(group, end, &self.load)?;
                println!("  ready {} s after its start behind {end}", table::number(restart.seconds));
                restarts.push(restart);
            }
        }
        Ok(restarts)
    }

    /// Has a new node join in each round, behind a copy of a file of the same length.
    fn joins(&self, group: &Group<'_>, names: &[String]) -> Result<Vec<Join>> {
        step("Copy a file over loopback, and have a new node join, in turn");
        let original = Original::write(self.cluster.directory(), self.asked.state_bytes)?;
        group.settle()?;
        let mut joins = Vec::new();
        for name in names {
            let copy_seconds = original.copy()?;
            let newcomer = newcomer::join(group, name, self.asked.state_bytes)?;
            println!(
                "  copied in {} s; {name} had the snapshot in {} s, and was ready {} s after its start",
                table::number(copy_seconds),
                table::number(newcomer.transfer_seconds),
                table::number(newcomer.ready_seconds)
            );
            joins.push(Join { copy_seconds, newcomer });
        }
        Ok(joins)
    }
}

/// Returns the clusters in the order of their blocks: one is not always the first.
fn order(round: u64) -> [Size; 2] {
    if round.is_multiple_of(2) { [Size::Few, Size::Many] } else { [Size::Many, Size::Few] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_alternate() {
        assert_eq!([order(0), order(1)].concat(), [Size::Few, Size::Many, Size::Many, Size::Few]);
    }
}
