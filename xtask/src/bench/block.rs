//! One block: a load on one system, and what the processes of that system used for it. It chooses
//! no load, and compares nothing.

use anyhow::Result;

use super::figures::{Report, Servers};
use super::measure;
use super::nodes::Drive;
use crate::demo_cluster::Cluster;

/// Longest load before the calls of a block count, in seconds. Otherwise it is half as long as the
/// block.
const WARMUP_SECONDS_MAX: u64 = 2;

/// Returns how many seconds of load come before a block of so many seconds.
pub(super) fn warmup(seconds: u64) -> u64 {
    (seconds / 2).min(WARMUP_SECONDS_MAX)
}

/// Runs the client to its end. Returns what it printed, and what the processes used meanwhile.
pub(super) fn measured(cluster: &Cluster, ids: &[u32], drive: &Drive<'_>) -> Result<(Report, Servers)> {
    let (report, samples) = measure::while_sampling(ids, || drive.run(cluster))?;
    let used = measure::used_in_the_last(&samples, report.seconds)?;
    let memory = ids.iter().map(|id| measure::memory(*id)).collect::<Result<Vec<_>>>()?;
    let calls = used.seconds * report.calls_per_second;
    let servers = Servers {
        window_seconds: used.seconds,
        cpu_us_per_call: used.cpu_seconds * 1e6 / calls,
        bytes_written_per_call: used.bytes_written as f64 / calls,
        resident_bytes: memory.iter().map(|memory| memory.resident_bytes).collect(),
        resident_anonymous_bytes: memory.iter().map(|memory| memory.resident_anonymous_bytes).collect(),
    };
    Ok((report, servers))
}
