//! Three nodes that are one cluster: how they are formed, filled with rows, driven, and waited for
//! until they are quiet. It measures nothing apart from how long the filling took.

use std::fs::File;
use std::io::BufWriter;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::rows;
use crate::bench::figures::{Load, System};
use crate::bench::measure;
use crate::bench::metrics::Metrics;
use crate::bench::nodes::{Drive, Members};
use crate::demo;
use crate::demo_cluster::Cluster;

/// Longest time of a command that sends no rows.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(60);
/// Slowest import that is waited for, in rows a second.
const IMPORT_RATE_MIN: u64 = 5_000;
/// Time between two looks at what the nodes write. A node puts off a flush for two seconds.
const QUIET_PAUSE: Duration = Duration::from_secs(3);
/// Most bytes that quiet nodes write in that time, all together.
const QUIET_BYTES_MAX: u64 = 1 << 20;
/// Longest wait until the nodes are quiet.
const QUIET_TIME_MAX: Duration = Duration::from_secs(600);

pub(super) const APPLIED: &str = "lockstep_applied_index";
pub(super) const LAST: &str = "lockstep_raft_last_log_index";
pub(super) const PURGED: &str = "lockstep_raft_purged_index";
const STATE_BYTES: &str = "lockstep_state_bytes";

/// A flag of a node, and its value.
pub(super) type Flag = (&'static str, String);

/// Three nodes of a plan that are one cluster.
pub(super) struct Group<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) names: &'a [String],
    flags: Vec<Flag>,
    /// Rows that it was filled with.
    pub(super) rows: u64,
}

/// How a state was filled.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Filled {
    pub(super) rows: u64,
    /// How long the import took.
    pub(super) seconds: f64,
    /// Bytes of the state by the leader's estimate, once the nodes were quiet.
    pub(super) state_bytes: u64,
}

impl<'a> Group<'a> {
    /// Starts nodes with these flags, and forms a cluster of them, which the first one founds.
    pub(super) fn form(cluster: &'a Cluster, names: &'a [String], flags: Vec<Flag>) -> Result<Group<'a>> {
        let group = Group { cluster, names, flags, rows: 0 };
        let (founder, others) = names.split_first().context("a cluster has nodes")?;
        // The data of other clusters of this run lies in the same directory.
        let founding = [group.flags.clone(), vec![("raft_bootstrap", "force".to_owned())]].concat();
        cluster.start_with(founder, &founding)?;
        others.iter().try_for_each(|name| group.start(name))?;
        others.iter().try_for_each(|name| demo::add_voter(cluster, founder, name))?;
        Ok(group)
    }

    /// Starts a node with the flags of the group.
    pub(super) fn start(&self, name: &str) -> Result<()> {
        self.cluster.start_with(name, &self.flags)
    }

    /// Returns the name of the leader.
    pub(super) fn leader(&self) -> Result<String> {
        demo::leader_of(self.cluster, self.names)
    }

    pub(super) fn members(&self) -> Result<Members> {
        Members::of(self.cluster, self.names)
    }

    /// Returns where a node serves its pages.
    pub(super) fn page_addr(&self, name: &str) -> Result<&'a str> {
        self.cluster.page_addr(name).with_context(|| format!("{name} serves no pages"))
    }

    pub(super) fn metrics(&self, name: &str) -> Result<Metrics> {
        Metrics::read(self.page_addr(name)?)
    }

    /// Calls an operation of a node, and waits for its end.
    pub(super) fn admin(&self, name: &str, words: &[&str]) -> Result<()> {
        let words = [&["admin", self.cluster.grpc_addr(name)][..], words].concat();
        self.cluster.within(COMMAND_TIME_MAX, &words).map(drop)
    }

    /// Returns a run of the client that calls the leader. Its puts draw from all rows.
    pub(super) fn drive<'l>(&self, load: &'l Load, rate: Option<u64>, seconds: u64, warmup: u64) -> Result<Drive<'l>> {
        let addresses = vec![self.cluster.grpc_addr(&self.leader()?).to_owned()];
        Ok(Drive { system: System::Lockstep, addresses, load, keys: self.rows, rate, seconds, warmup, is_filled: true })
    }

    /// Fills the empty state by an import, which needs no call for each row. Waits until the nodes
    /// are quiet.
    pub(super) fn fill(&mut self, rows: u64) -> Result<Filled> {
        let file = self.cluster.directory().join("rows.jsonl");
        let path = file.to_str().context("the directory for temporary files has a name in UTF-8")?;
        let leader = self.leader()?;
        let address = self.cluster.grpc_addr(&leader);
        self.cluster.within(COMMAND_TIME_MAX, &["rows", "export", address, "--out", path])?;
        let exported = std::fs::read_to_string(&file)?;
        rows::write(&exported, rows, BufWriter::new(File::create(&file)?))?;
        self.admin(&leader, &["read_only", "on"])?;
        let limit = COMMAND_TIME_MAX + Duration::from_secs(rows / IMPORT_RATE_MIN);
        let began = Instant::now();
        self.cluster.within(limit, &["rows", "import", address, path])?;
        let seconds = began.elapsed().as_secs_f64();
        self.admin(&leader, &["read_only", "off"])?;
        std::fs::remove_file(&file)?;
        self.rows = rows;
        self.settle()?;
        let state_bytes = self.metrics(&leader)?.number(STATE_BYTES)?;
        println!("  {rows} rows in {seconds:.1} s; the state has {:.2} GB", state_bytes as f64 / 1e9);
        Ok(Filled { rows, seconds, state_bytes })
    }

    /// Waits until all nodes have applied the whole log, and hardly write anything: what came
    /// before is compacted then, and costs nothing any more.
    pub(super) fn settle(&self) -> Result<()> {
        let ids = self.members()?.ids;
        let deadline = Instant::now() + QUIET_TIME_MAX;
        let mut before = measure::bytes_written(&ids)?;
        loop {
            std::thread::sleep(QUIET_PAUSE);
            let now = measure::bytes_written(&ids)?;
            if now.saturating_sub(before) <= QUIET_BYTES_MAX && self.is_even()? {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the nodes were not quiet within {QUIET_TIME_MAX:?}");
            before = now;
        }
    }

    /// Waits until all nodes have applied the whole log.
    pub(super) fn catch_up(&self) -> Result<()> {
        self.cluster.eventually("all nodes apply the whole log", || {
            ensure!(self.is_even()?, "a node is behind");
            Ok(())
        })
    }

    /// Returns whether all nodes have applied what the leader's log has.
    fn is_even(&self) -> Result<bool> {
        let last = self.metrics(&self.leader()?)?.number(LAST)?;
        let applied = self.names.iter().map(|name| self.metrics(name)?.number(APPLIED));
        Ok(applied.collect::<Result<Vec<u64>>>()?.into_iter().all(|applied| applied >= last))
    }

    /// Kills the nodes, and removes their data.
    pub(super) fn discard(self) -> Result<()> {
        self.names.iter().try_for_each(|name| self.cluster.discard(name))
    }
}
