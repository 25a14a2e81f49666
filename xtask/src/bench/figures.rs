//! What the blocks of a benchmark have shown: medians, spreads, and the ratios of the two systems.
//! It measures nothing and prints nothing.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::applied::Applied;
use super::calibrate::Calibration;
use super::conditions::Conditions;
use super::syncs::Syncs;

/// One of the two that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum System {
    Lockstep,
    Etcd,
}

impl System {
    pub(super) const ALL: [System; 2] = [System::Lockstep, System::Etcd];

    /// Returns the word of `lockstep bench --system`.
    pub(super) fn name(self) -> &'static str {
        match self {
            System::Lockstep => "lockstep",
            System::Etcd => "etcd",
        }
    }
}

/// What the clients do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Load {
    pub(super) operation: String,
    pub(super) clients: u64,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clients = if self.clients == 1 { "client" } else { "clients" };
        write!(f, "{}, {} {clients}", self.operation, self.clients)
    }
}

/// What `lockstep bench --json` prints for one run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Report {
    pub(super) connections: u64,
    pub(super) value_bytes: u64,
    pub(super) seconds: f64,
    /// Calls a second that were asked for; none in a closed loop.
    pub(super) rate: Option<f64>,
    pub(super) calls: u64,
    /// How often each error came.
    pub(super) errors: BTreeMap<String, u64>,
    pub(super) calls_per_second: f64,
    pub(super) latency_us: Latency,
    /// Upper bound of each bucket in microseconds, and the calls in it.
    pub(super) histogram: Vec<(f64, u64)>,
    pub(super) client_cpu_us_per_call: Option<f64>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Latency {
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) max: f64,
}

/// What the three processes of a system used for a block.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Servers {
    /// Length of the part of the block that this was measured in.
    pub(super) window_seconds: f64,
    pub(super) cpu_us_per_call: f64,
    pub(super) bytes_written_per_call: f64,
    /// Resident memory of each process behind the block.
    pub(super) resident_bytes: Vec<u64>,
    /// The part of it that no file backs.
    pub(super) resident_anonymous_bytes: Vec<u64>,
}

/// One load on one system.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Block {
    pub(super) round: u64,
    pub(super) system: System,
    pub(super) load: Load,
    /// What the machine did just before.
    pub(super) calibration: Calibration,
    pub(super) report: Report,
    pub(super) servers: Servers,
}

/// Everything that a benchmark has shown.
#[derive(Debug)]
pub(super) struct Results {
    pub(super) conditions: Conditions,
    pub(super) loads: Vec<Load>,
    pub(super) blocks: Vec<Block>,
    pub(super) syncs: Vec<(System, Syncs)>,
    pub(super) applied: Option<Applied>,
}

/// A figure of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quantity {
    CallsPerSecond,
    P50,
    P99,
    Cpu,
    BytesWritten,
    Resident,
    ResidentAnonymous,
    ClientCpu,
}

impl Quantity {
    pub(super) const ALL: [Quantity; 8] = [
        Quantity::CallsPerSecond,
        Quantity::P50,
        Quantity::P99,
        Quantity::Cpu,
        Quantity::BytesWritten,
        Quantity::Resident,
        Quantity::ResidentAnonymous,
        Quantity::ClientCpu,
    ];

    pub(super) fn words(self) -> &'static str {
        match self {
            Quantity::CallsPerSecond => "calls/s",
            Quantity::P50 => "p50, ms",
            Quantity::P99 => "p99, ms",
            Quantity::Cpu => "server CPU a call, us",
            Quantity::BytesWritten => "bytes written a call",
            Quantity::Resident => "resident memory a node, MB",
            Quantity::ResidentAnonymous => "of it not backed by files, MB",
            Quantity::ClientCpu => "client CPU a call, us",
        }
    }

    /// Whether a larger ratio is better for Lockstep.
    pub(super) fn is_better_high(self) -> bool {
        self == Quantity::CallsPerSecond
    }

    pub(super) fn of(self, block: &Block) -> f64 {
        match self {
            Quantity::CallsPerSecond => block.report.calls_per_second,
            Quantity::P50 => block.report.latency_us.p50 / 1000.0,
            Quantity::P99 => block.report.latency_us.p99 / 1000.0,
            Quantity::Cpu => block.servers.cpu_us_per_call,
            Quantity::BytesWritten => block.servers.bytes_written_per_call,
            Quantity::Resident => megabytes_of_each(&block.servers.resident_bytes),
            Quantity::ResidentAnonymous => megabytes_of_each(&block.servers.resident_anonymous_bytes),
            Quantity::ClientCpu => block.report.client_cpu_us_per_call.unwrap_or(f64::NAN),
        }
    }
}

fn megabytes_of_each(bytes: &[u64]) -> f64 {
    bytes.iter().sum::<u64>() as f64 / bytes.len().max(1) as f64 / 1e6
}

/// A median and the ends around it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// Returns the spread of some figures, if there are any. Figures that are no numbers, such as
    /// the ratio to nothing, are left out.
    pub(super) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut sorted: Vec<f64> = figures.into_iter().filter(|figure| figure.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let upper = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[upper] } else { f64::midpoint(sorted[upper - 1], sorted[upper]) };
        Some(Spread { median, min, max })
    }
}

impl Results {
    /// Returns the blocks of a system for a load, by their rounds.
    pub(super) fn blocks_of(&self, system: System, load: &Load) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(move |block| block.system == system && block.load == *load)
    }

    /// Returns a figure of a system over the rounds.
    pub(super) fn spread(&self, system: System, load: &Load, quantity: Quantity) -> Option<Spread> {
        Spread::of(self.blocks_of(system, load).map(|block| quantity.of(block)))
    }

    /// Returns Lockstep's figure divided by etcd's, over the rounds. Only the two blocks of one
    /// round are divided: they are neighbours, so the machine was the same for both.
    pub(super) fn ratio(&self, load: &Load, quantity: Quantity) -> Option<Spread> {
        let ratio_to = |ours: &Block| {
            let theirs = self.blocks_of(System::Etcd, load).find(|block| block.round == ours.round)?;
            Some(quantity.of(ours) / quantity.of(theirs))
        };
        Spread::of(self.blocks_of(System::Lockstep, load).filter_map(ratio_to))
    }

    /// Returns how many calls failed in the blocks of a system.
    pub(super) fn errors(&self, system: System) -> u64 {
        let of_system = self.blocks.iter().filter(|block| block.system == system);
        of_system.flat_map(|block| block.report.errors.values()).sum()
    }

    /// Returns the latencies of all rounds together: upper bounds in microseconds, ascending, and
    /// the calls up to each.
    pub(super) fn histogram(&self, system: System, load: &Load) -> Vec<(f64, u64)> {
        let mut all: Vec<(f64, u64)> =
            self.blocks_of(system, load).flat_map(|block| block.report.histogram.iter().copied()).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        all.dedup_by(|next, kept| {
            let is_same = next.0 == kept.0;
            if is_same {
                kept.1 += next.1;
            }
            is_same
        });
        all
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "figures_tests.rs"]
pub(super) mod tests;
