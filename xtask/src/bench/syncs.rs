//! How often each process syncs a file to the disk while one client puts. strace counts it, in a
//! run of its own, because it slows the processes down.
//!
//! One client makes its next put when it has the answer to the last one. So a sync that makes one
//! put durable cannot serve another one, and puts that a majority of three nodes has on disk need
//! at least two syncs each. Fewer would show that a system answers too early.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lockstep_processes::{Output, Process, Signal};
use serde::Serialize;

use super::figures::Report;
use crate::setup;

/// Fewest syncs of three nodes together for a put of one client.
pub(super) const SYNCS_A_PUT_MIN: u64 = 2;
/// The calls that sync a file.
const CALLS: [&str; 2] = ["fsync", "fdatasync"];
/// Longest time until strace sees a process, and until it has let it go.
const PATIENCE: Duration = Duration::from_secs(20);

/// What strace has counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Syncs {
    /// The puts that were answered, and the syncs of each process.
    Counted { calls: u64, syncs: Vec<u64> },
    /// Why nothing was counted.
    NotCounted(String),
}

impl Syncs {
    /// Whether every put was on the disks of a majority, if that was counted.
    pub(super) fn are_durable(&self) -> Option<bool> {
        match self {
            Syncs::Counted { calls, syncs } => Some(syncs.iter().sum::<u64>() >= calls * SYNCS_A_PUT_MIN),
            Syncs::NotCounted(_) => None,
        }
    }
}

/// Counts the syncs of processes while a client puts. A failure ends the counting only: the figures
/// of the benchmark are there already.
pub(super) fn count(directory: &Path, ids: &[u32], put: impl FnOnce() -> Result<Report>) -> Syncs {
    if !setup::runs("strace", &["--version"]) {
        return Syncs::NotCounted("strace is not here: apt-get install strace".into());
    }
    try_count(directory, ids, put).unwrap_or_else(|error| Syncs::NotCounted(format!("{error:#}")))
}

fn try_count(directory: &Path, ids: &[u32], put: impl FnOnce() -> Result<Report>) -> Result<Syncs> {
    let mut tracers = ids.iter().map(|id| Tracer::attach(directory, *id)).collect::<Result<Vec<_>>>()?;
    let report = put()?;
    let syncs = tracers.iter_mut().map(Tracer::end).collect::<Result<Vec<u64>>>()?;
    // A put that failed may have been synced all the same.
    let failed: u64 = report.errors.values().sum();
    ensure!(failed == 0, "{failed} puts failed under strace");
    Ok(Syncs::Counted { calls: report.calls, syncs })
}

/// A strace that is attached to a process. It ends with that process at the latest.
struct Tracer {
    process: Process,
    summary: PathBuf,
}

impl Tracer {
    fn attach(directory: &Path, id: u32) -> Result<Tracer> {
        let (summary, said) = (directory.join(format!("syncs-{id}")), directory.join(format!("strace-{id}.log")));
        let mut command = Command::new("strace");
        command.args(["-f", "-c", "-e", &format!("trace={}", CALLS.join(",")), "-p", &id.to_string(), "-o"]);
        command.arg(&summary).stdin(Stdio::null());
        let output = Output::File(std::fs::File::create(&said)?);
        let mut process = Process::start("strace", &mut command, output).context("strace does not start")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = std::fs::read_to_string(&said)?;
            if text.contains(" attached") {
                return Ok(Tracer { process, summary });
            }
            if process.wait(Duration::from_millis(20))?.is_some() || Instant::now() > deadline {
                bail!("strace cannot watch process {id}: {}", std::fs::read_to_string(&said)?.trim());
            }
        }
    }

    /// Lets the process go, and returns how often it has synced.
    fn end(&mut self) -> Result<u64> {
        self.process.signal(Signal::SIGINT)?;
        self.process.wait(PATIENCE)?.context("strace does not let its process go")?;
        Ok(syncs_in(&std::fs::read_to_string(&self.summary)?))
    }
}

/// Returns the calls that the table of `strace -c` has. A call that never came is not in it.
fn syncs_in(summary: &str) -> u64 {
    let calls = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_sync = words.last().is_some_and(|name| CALLS.contains(name));
        is_sync.then(|| words.get(3)?.parse::<u64>().ok()).flatten()
    };
    summary.lines().filter_map(calls).sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_strace_is_read() {
        let summary = "% time     seconds  usecs/call     calls    errors syscall\n\
                       ------ ----------- ----------- --------- --------- ----------------\n\
                       90.00    0.009395          39       235           fdatasync\n\
                       10.00    0.000395          39         5         1 fsync\n\
                       ------ ----------- ----------- --------- --------- ----------------\n\
                       100.00    0.009790          39       240         1 total\n";
        assert_eq!(syncs_in(summary), 240);
        assert_eq!(syncs_in(""), 0);
    }

    #[test]
    fn a_put_needs_two_syncs_of_three_nodes() {
        let counted = |syncs: [u64; 3]| Syncs::Counted { calls: 100, syncs: syncs.into() };
        assert_eq!(counted([100, 100, 0]).are_durable(), Some(true));
        assert_eq!(counted([100, 60, 39]).are_durable(), Some(false));
        assert_eq!(Syncs::NotCounted("no strace".into()).are_durable(), None);
    }

    #[test]
    fn a_process_that_is_gone_is_not_counted() {
        let directory = tempfile::tempdir().unwrap();
        let counted = count(directory.path(), &[u32::MAX], || panic!("nothing may be put"));
        let Syncs::NotCounted(why) = counted else { panic!("{counted:?}") };
        assert!(why.contains("strace"), "{why}");
    }
}
