//! Numbers for `/metrics`: calls of the guest's methods as they end, and gauges that are read from
//! Raft and the machine at each scrape. `metrics/sockets.rs` reads the numbers of the ports. Method
//! names come from routes, never from clients, so the label set is bounded.

mod sockets;

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tonic::Code;

use super::watch::places::Full;
use super::{Shared, status};
use crate::logs::stderr;
use crate::machine::MachineStatus;
use crate::raft::own_clock::OwnClock;
use crate::types::NodeMode;
use lockstep_contract::Kind;

/// Upper bounds of the histogram in seconds. They range from a local query to the default deadline.
const SECONDS_BOUNDS: [f64; 12] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

/// The registry, and the counters that calls increment.
pub(super) struct Metrics {
    registry: Mutex<Registry>,
    calls: Family<CallLabels, Counter>,
    seconds: Family<KindLabels, Histogram>,
    watches: WatchCounts,
}

/// Counters that watches increment.
#[derive(Default)]
struct WatchCounts {
    refused: Family<LimitLabels, Counter>,
    steps: Counter,
    held_back: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: Arc<str>,
    kind: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    limit: &'static str,
}

impl WatchCounts {
    fn register(&self, registry: &mut Registry) {
        let refused = "Watches refused because as many were open as the node, or their connection, may have";
        registry.register("watches_refused", refused, self.refused.clone());
        registry.register("watch_steps", "Steps of watches that the guest has run", self.steps.clone());
        let held_back = "Steps that waited because those before them ran again and again and sent nothing";
        registry.register("watch_steps_held_back", held_back, self.held_back.clone());
    }
}

impl Metrics {
    pub(super) fn new() -> Metrics {
        let calls = Family::default();
        let seconds = Family::new_with_constructor((|| Histogram::new(SECONDS_BOUNDS)) as fn() -> Histogram);
        let mut registry = Registry::with_prefix("lockstep");
        registry.register(
            "calls",
            "Ended calls of the guest's methods (a stream counts when it begins)",
            calls.clone(),
        );
        registry.register("call_seconds", "Seconds from headers to reply of the guest's methods", seconds.clone());
        let watches = WatchCounts::default();
        watches.register(&mut registry);
        Metrics { registry: Mutex::new(registry), calls, seconds, watches }
    }

    /// Registers the numbers that are read at each scrape.
    pub(super) fn watch(&self, shared: &Arc<Shared>) {
        let mut registry = self.registry.lock();
        registry.register_collector(Box::new(Gauges(Arc::downgrade(shared))));
        registry.register_collector(Box::new(sockets::OfSockets(shared.parts.sockets.clone())));
    }

    pub(super) fn call_ended(&self, method: &Arc<str>, kind: Kind, code: Code, took: Duration) {
        let kind = kind.name();
        self.calls.get_or_create(&CallLabels { method: method.clone(), kind, code: code_name(code) }).inc();
        self.seconds.get_or_create(&KindLabels { kind }).observe(took.as_secs_f64());
    }

    pub(super) fn watch_refused(&self, full: Full) {
        self.watches.refused.get_or_create(&LimitLabels { limit: full.name() }).inc();
    }

    pub(super) fn watch_stepped(&self) {
        self.watches.steps.inc();
    }

    pub(super) fn watch_held_back(&self) {
        self.watches.held_back.inc();
    }

    /// Returns the metrics as OpenMetrics text.
    pub(super) fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry.lock())?;
        Ok(text)
    }
}

/// Returns the name of a code as the gRPC specification writes it.
pub(super) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Reads Raft and the machine at each scrape.
struct Gauges(Weak<Shared>);

impl std::fmt::Debug for Gauges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gauges")
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(shared) = self.0.upgrade() else { return Ok(()) };
        let status = shared.status_now();
        let (raft, machine) = (&status.raft, &status.machine);
        let leads = status.leader.as_ref().is_some_and(|leader| leader.is_me);
        let transferred = machine.transfers.iter().map(|transfer| transfer.bytes).sum();
        let gauges = [
            ("raft_is_leader", "1 on the leader", u64::from(leads)),
            ("raft_has_leader", "1 while a leader is known", u64::from(status.leader.is_some())),
            ("raft_term", "Current term", raft.term),
            ("raft_last_log_index", "Last index in the log", raft.last_log_index),
            ("raft_commit_index", "Last index known to be committed", raft.commit_index),
            ("raft_snapshot_index", "Last index of the newest snapshot", raft.snapshot_index),
            ("raft_purged_index", "Last index purged from the log", raft.purged_index),
            ("raft_log_bytes", "About the bytes of the entries in the log", status.log.log_bytes),
            ("raft_log_over_quota", "1 while the log is larger than --log_quota", u64::from(status.log.over_quota)),
            ("snapshot_transfers", "Snapshots on their way to or from this node", machine.transfers.len() as u64),
            ("snapshot_transfer_bytes", "Bytes so far of those on their way", transferred),
            ("raft_servers", "Servers in the configuration in force", status.servers.len() as u64),
            ("applied_index", "Last index applied to the state", status.applied_index()),
            ("state_bytes", "Approximate bytes of the state on disk", machine.state_bytes),
            ("disk_free_bytes", "Bytes that are free on the disk of the data directory", machine.disk.free_bytes),
            (
                "disk_level",
                "0: there is room; 1: commands are refused; 2: also those of a leader",
                machine.disk.level as u64,
            ),
            ("serving", "1 while this node serves reads", u64::from(machine.mode == NodeMode::Serving)),
            ("commands_waiting", "Commands of this node whose outcome somebody waits for", machine.commands_waiting),
            ("watches_open", "Open watches", shared.watches.taken()),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        if let Some(clock) = &status.clock {
            encode_clock(&mut encoder, clock)?;
        }
        let counters = [
            (
                "commands_applied",
                "Commands that the cluster has run, as this node's state holds it",
                machine.commands_applied,
            ),
            ("commands_failed", "Of these, those that the guest refused or that failed", machine.commands_failed),
            ("entries_applied", "Entries applied by this process", machine.entries_applied),
            ("entries_undecodable", "Log entries that could not be decoded", machine.entries_undecodable),
            ("state_hash_mismatches", "Entries whose proposer had another state hash", machine.hash_mismatches),
            ("queries_failed", "Queries and steps of watches that failed in the guest", machine.queries_failed),
            ("state_flushes", "Flushes of the state", machine.flushes),
            ("state_disk_full", "Writes of the state that found the disk full", machine.disk_full),
            ("state_descriptors_short", "Writes of the state that found no descriptor left", machine.descriptors_short),
            ("snapshots", "Snapshots made", machine.snapshot_count),
            ("snapshots_failed", "Snapshots that could not be made", machine.snapshots_failed),
            ("snapshots_sent", "Snapshots sent to other nodes", machine.snapshots_sent),
            ("restores", "Snapshots installed", machine.restore_count),
            ("log_lines_lost", "Lines of this process's log that could not be written to stderr", stderr::lost()),
            (
                "copies_refused",
                "Second processes of a node's identity that this process refused or was told of",
                shared.parts.members.copies_refused(),
            ),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        encode_labelled(machine, &mut encoder)
    }
}

/// Encodes the numbers that have a label.
fn encode_labelled(machine: &MachineStatus, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
    // These failures are separate from the refusals in `commands_failed`, which are ordinary.
    if !machine.command_failures.is_empty() {
        let help = "Commands that failed in the guest, as this process applied them";
        let mut family = encoder.encode_descriptor("command_failures", help, None, MetricType::Counter)?;
        for (reason, count) in &machine.command_failures {
            let label = [("reason", status::reason_name(*reason))];
            ConstCounter::new(*count).encode(family.encode_family(&label)?)?;
        }
    }
    let mut family = encoder.encode_descriptor("mode", "1 for the mode of this node", None, MetricType::Gauge)?;
    ConstGauge::new(1_i64).encode(family.encode_family(&[("mode", machine.mode.words().0)])?)?;
    Ok(())
}

fn encode_clock(encoder: &mut DescriptorEncoder<'_>, clock: &OwnClock) -> Result<(), std::fmt::Error> {
    let help = "Seconds by which this node's clock is ahead of log time (negative: behind), while a leader says where that stands";
    let gauge = ConstGauge::new(clock.ahead_ms() as f64 / 1000.0);
    gauge.encode(encoder.encode_descriptor("clock_ahead_seconds", help, None, gauge.metric_type())?)
}
