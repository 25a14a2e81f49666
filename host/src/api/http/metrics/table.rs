//! The table of all metrics: name, kind, labels, help, and where the value comes from. `/metrics`
//! and the page `docs/metrics.md` are both made of it. A number of [`NodeStatus`] becomes a metric
//! by one row here. A number that calls count also needs a field in `metrics.rs`. This file counts
//! nothing.

use prometheus_client::metrics::MetricType;

use crate::api::node_status::NodeStatus;
use crate::api::status;
use crate::calls::budget::BudgetFigures;
use crate::calls::{WATCHES_MAX, WatchFigures};
use crate::logs::stderr;
use crate::net::PortStatus;
use crate::raft::IntakeStatus;
use crate::trust::TrustFigures;
use crate::types::NodeMode;

/// One metric.
pub(super) struct Row {
    /// Its name, without the prefix `lockstep_` and without the `_total` that counters get.
    pub(super) name: &'static str,
    pub(super) kind: MetricType,
    /// Its labels, for the page. Empty if it has none.
    labels: &'static str,
    pub(super) help: &'static str,
    pub(super) read: Read,
}

/// Where the value of a metric comes from.
pub(super) enum Read {
    /// Calls count it as they end.
    Counted,
    /// It is read at each scrape.
    Now(fn(&Scrape) -> Value),
}

/// The numbers of one scrape.
pub(super) struct Scrape {
    pub(super) status: NodeStatus,
    pub(super) watches: WatchFigures,
    pub(super) memory: BudgetFigures,
    pub(super) replies_dropped: u64,
    pub(super) copies_refused: u64,
    pub(super) trust: TrustFigures,
    pub(super) peer_certificates_refused: u64,
    pub(super) intake: IntakeStatus,
}

/// The value of a metric at one scrape.
pub(super) enum Value {
    /// The node does not know it now.
    Unknown,
    One(u64),
    Seconds(f64),
    /// One value for each value of the label.
    By(&'static str, Vec<(&'static str, u64)>),
}

use Value::One;

const fn row(name: &'static str, kind: MetricType, labels: &'static str, help: &'static str, read: Read) -> Row {
    Row { name, kind, labels, help, read }
}

const fn gauge(name: &'static str, help: &'static str, read: fn(&Scrape) -> Value) -> Row {
    row(name, MetricType::Gauge, "", help, Read::Now(read))
}

const fn counter(name: &'static str, help: &'static str, read: fn(&Scrape) -> Value) -> Row {
    row(name, MetricType::Counter, "", help, Read::Now(read))
}

const fn by(label: &'static str, mut row: Row) -> Row {
    row.labels = label;
    row
}

pub(super) const CALLS: Row = row(
    "calls",
    MetricType::Counter,
    "method, kind, code",
    "Ended calls of the guest's methods (a stream counts when it begins)",
    Read::Counted,
);
pub(super) const CALL_SECONDS: Row = row(
    "call_seconds",
    MetricType::Histogram,
    "kind",
    "Seconds from headers to reply of the guest's methods",
    Read::Counted,
);
pub(super) const WATCHES_REFUSED: Row = row(
    "watches_refused",
    MetricType::Counter,
    "limit",
    "Watches refused because as many were open as the node, their client, or their connection may have",
    Read::Counted,
);

/// All metrics, in the order of the page.
pub(super) const ROWS: &[Row] = &[
    CALLS,
    CALL_SECONDS,
    gauge("watches_open", "Open watches", |now| One(now.watches.open)),
    gauge("watches_max", "Watches that may be open at a time", |_| One(WATCHES_MAX as u64)),
    gauge("watches_open_of_one", "Open watches of the client that has most (a quarter of all is its limit)", |now| {
        One(now.watches.open_of_one)
    }),
    WATCHES_REFUSED,
    counter("watch_steps", "Steps of watches that the guest has run", |now| One(now.watches.steps)),
    counter(
        "watch_steps_held_back",
        "Steps that waited because those before them ran again and again and sent nothing",
        |now| One(now.watches.held_back),
    ),
    gauge("client_memory_max_bytes", "Bytes that clients may make this node hold (--client_memory)", |now| {
        One(now.memory.max)
    }),
    by(
        "by",
        gauge(
            "client_memory_bytes",
            "Bytes that clients make this node hold: requests, replies that wait, what watches keep (half of all is the limit of watches)",
            |now| Value::By("by", vec![("calls", now.memory.by_calls), ("watches", now.memory.by_watches)]),
        ),
    ),
    counter(
        "client_memory_refused",
        "Calls, watches and parts of requests refused because the node, their address, their connection, or all watches held as much as they may",
        |now| One(now.memory.refused),
    ),
    counter(
        "replies_dropped",
        "Calls and watches ended because nobody took their reply while memory was short",
        |now| One(now.replies_dropped),
    ),
    gauge("serving", "1 while this node serves reads", |now| {
        One(u64::from(now.status.machine.mode == NodeMode::Serving))
    }),
    by(
        "mode",
        gauge("mode", "1 for the mode of this node", |now| {
            Value::By("mode", vec![(now.status.machine.mode.words().0, 1)])
        }),
    ),
    gauge("commands_waiting", "Commands of this node whose outcome a client waits for", |now| {
        One(now.status.machine.commands_waiting)
    }),
    gauge("raft_is_leader", "1 on the leader", |now| {
        One(u64::from(now.status.leader.as_ref().is_some_and(|leader| leader.is_me)))
    }),
    gauge("raft_has_leader", "1 while a leader is known", |now| One(u64::from(now.status.leader.is_some()))),
    gauge("raft_servers", "Servers in the configuration in force", |now| One(now.status.servers.len() as u64)),
    gauge("raft_term", "Current term", |now| One(now.status.raft.term)),
    gauge("raft_last_log_index", "Last index in the log", |now| One(now.status.raft.last_log_index)),
    gauge("raft_commit_index", "Last index known to be committed", |now| One(now.status.raft.commit_index)),
    gauge("raft_snapshot_index", "Last index of the newest snapshot", |now| One(now.status.raft.snapshot_index)),
    gauge("raft_purged_index", "Last index purged from the log", |now| One(now.status.raft.purged_index)),
    gauge("raft_log_bytes", "Approximate bytes of the entries in the log", |now| One(now.status.log.log_bytes)),
    gauge("raft_log_over_quota", "1 while the log is larger than --log_quota", |now| {
        One(u64::from(now.status.log.over_quota))
    }),
    gauge("applied_index", "Last index applied to the state", |now| One(now.status.applied_index())),
    counter("entries_applied", "Entries applied by this process", |now| One(now.status.machine.entries_applied)),
    counter("entries_undecodable", "Log entries that could not be decoded", |now| {
        One(now.status.machine.entries_undecodable)
    }),
    counter("commands_applied", "Commands that the cluster has run, as this node's state holds it", |now| {
        One(now.status.machine.commands_applied)
    }),
    counter("commands_failed", "Of these, those that the guest refused or that failed", |now| {
        One(now.status.machine.commands_failed)
    }),
    // These failures are separate from the refusals in `commands_failed`, which are ordinary.
    by(
        "reason",
        counter("command_failures", "Commands that failed in the guest, as this process applied them", |now| {
            let failures = now.status.machine.command_failures.iter();
            Value::By("reason", failures.map(|(reason, count)| (status::reason_name(*reason), *count)).collect())
        }),
    ),
    counter("queries_failed", "Queries and steps of watches that failed in the guest", |now| {
        One(now.status.machine.queries_failed)
    }),
    counter("state_hash_mismatches", "Entries whose proposer had another state hash", |now| {
        One(now.status.machine.hash_mismatches)
    }),
    counter(
        "copies_refused",
        "Second processes of a node's identity that this process refused or was told of",
        |now| One(now.copies_refused),
    ),
    counter(
        "peer_certificates_refused",
        "Messages and answers of peers that were refused because their certificate names another node, or none",
        |now| One(now.peer_certificates_refused),
    ),
    gauge(
        "peer_half_received_bytes",
        "Bytes of large peer messages of which a part is here (at most 256 MiB)",
        |now| One(now.intake.half_received_bytes),
    ),
    counter(
        "peer_messages_refused",
        "Calls of peers that were ended because a message was too large, or did not come whole in time",
        |now| One(now.intake.refused),
    ),
    gauge(
        "clock_ahead_seconds",
        "Seconds by which this node's clock is ahead of log time (negative: behind), while a leader reports log time",
        |now| {
            let clock = now.status.clock.as_ref();
            clock.map_or(Value::Unknown, |clock| Value::Seconds(clock.ahead_ms() as f64 / 1000.0))
        },
    ),
    gauge("state_bytes", "Approximate bytes of the state on disk", |now| One(now.status.machine.state_bytes)),
    counter("state_flushes", "Flushes of the state", |now| One(now.status.machine.flushes)),
    counter("state_disk_full", "Writes of the state that found the disk full", |now| One(now.status.machine.disk_full)),
    counter("state_descriptors_short", "Writes of the state that found no descriptor left", |now| {
        One(now.status.machine.descriptors_short)
    }),
    gauge("disk_free_bytes", "Bytes that are free on the disk of the data directory", |now| {
        One(now.status.machine.disk.free_bytes)
    }),
    gauge("disk_level", "0: there is room; 1: commands are refused; 2: also those of a leader", |now| {
        One(now.status.machine.disk.level as u64)
    }),
    counter("snapshots", "Snapshots made", |now| One(now.status.machine.snapshot_count)),
    counter("snapshots_failed", "Snapshots that could not be made", |now| One(now.status.machine.snapshots_failed)),
    counter("snapshots_sent", "Snapshots sent to other nodes", |now| One(now.status.machine.snapshots_sent)),
    counter("restores", "Snapshots installed", |now| One(now.status.machine.restore_count)),
    gauge("snapshot_transfers", "Snapshots on their way to or from this node", |now| {
        One(now.status.machine.transfers.len() as u64)
    }),
    gauge("snapshot_transfer_bytes", "Bytes so far of those on their way", |now| {
        One(now.status.machine.transfers.iter().map(|transfer| transfer.bytes).sum())
    }),
    by(
        "port",
        gauge("connections_max", "Connections that a port may have open at a time", |now| {
            by_port(now, |port| port.max as u64)
        }),
    ),
    by("port", gauge("connections_open", "Those that it has open", |now| by_port(now, |port| port.open as u64))),
    by(
        "port",
        gauge("connections_silent", "Of these, those that have not said what a client says first", |now| {
            by_port(now, |port| port.silent as u64)
        }),
    ),
    by(
        "port",
        counter("connections_accepted", "Connections that got a place", |now| by_port(now, |port| port.accepted)),
    ),
    by(
        "port",
        counter(
            "connections_refused",
            "Connections closed at once, because all that the port may have were in use",
            |now| by_port(now, |port| port.refused),
        ),
    ),
    by(
        "port",
        gauge("connections_per_address_max", "Connections that one address may have open to a port", |now| {
            by_port(now, |port| port.per_address_max as u64)
        }),
    ),
    by(
        "port",
        gauge("connections_of_one_address", "Those of the address that has most of them open", |now| {
            by_port(now, |port| port.of_one_address as u64)
        }),
    ),
    by(
        "port",
        counter(
            "connections_refused_address",
            "Of those closed at once, the ones whose address had all that one may have",
            |now| by_port(now, |port| port.refused_address),
        ),
    ),
    by(
        "port",
        counter(
            "connections_silent_closed",
            "Silent connections that were closed in time, or made room for new ones",
            |now| by_port(now, |port| port.silent_closed),
        ),
    ),
    by(
        "port",
        counter("connections_resets", "Calls that were reset, by the other side or because of what it sent", |now| {
            by_port(now, |port| port.resets)
        }),
    ),
    by(
        "port",
        counter("connections_slowed", "How often a connection was slowed down for resetting calls too fast", |now| {
            by_port(now, |port| port.slowed)
        }),
    ),
    by(
        "port",
        counter(
            "connections_control_slowed",
            "How often a connection was slowed down for PING, SETTINGS and other frames without a call",
            |now| by_port(now, |port| port.control_slowed),
        ),
    ),
    by(
        "port",
        counter("connections_control_closed", "Connections closed because they went on with such frames", |now| {
            by_port(now, |port| port.control_closed)
        }),
    ),
    by(
        "port",
        counter(
            "connections_unread_closed",
            "Connections closed because for a minute they took nothing of what was sent to them",
            |now| by_port(now, |port| port.unread_closed),
        ),
    ),
    by(
        "port",
        counter("connections_idle_closed", "Connections closed after --client_idle_timeout without a call", |now| {
            by_port(now, |port| port.idle_closed)
        }),
    ),
    by(
        "port",
        counter(
            "tls_handshakes_failed",
            "Connections that did not come about, because the ends do not agree on TLS",
            |now| by_port(now, |port| port.handshakes_failed),
        ),
    ),
    by(
        "use",
        gauge(
            "tls_certificate_expiry_timestamp_seconds",
            "When the certificate for clients or for peers expires, in seconds since 1970",
            |now| by_use(now, |port| port.certificate_expires),
        ),
    ),
    by(
        "use",
        gauge("tls_files_refused", "1 while new files of TLS cannot be used and the old ones stay in use", |now| {
            by_use(now, |port| port.certificate_expires.map(|_| u64::from(port.are_files_refused)))
        }),
    ),
    by(
        "port",
        counter("accept_failures", "Connections that the system could not hand over", |now| {
            by_port(now, |port| port.accept_failures)
        }),
    ),
    by(
        "reason",
        counter("calls_refused", "Calls and pages refused: nobody said who calls, it may not, or too often", |now| {
            Value::By("reason", now.trust.refused.clone())
        }),
    ),
    gauge("tokens_remembered", "Tokens that need not be checked again", |now| One(now.trust.tokens_remembered)),
    by(
        "file",
        counter("access_reloads", "New policies and keys of tokens that were taken", |now| {
            Value::By("file", now.trust.reloads.clone())
        }),
    ),
    by(
        "file",
        counter("access_reloads_refused", "New policies and keys of tokens that could not be used", |now| {
            Value::By("file", now.trust.reloads_refused.clone())
        }),
    ),
    counter("audit_lines_dropped", "Lines that did not get into --audit_file", |now| One(now.trust.audit_dropped)),
    gauge("descriptors_max", "Files and sockets that this process may have open at a time", |now| {
        One(now.status.sockets.descriptors_max)
    }),
    gauge("descriptors_open", "Those that it has open", |now| One(now.status.sockets.descriptors_open)),
    gauge("descriptors_unused", "Those that it may still open", |now| {
        let sockets = &now.status.sockets;
        One(sockets.descriptors_max.saturating_sub(sockets.descriptors_open))
    }),
    counter("log_lines_lost", "Lines of this process's log that could not be written to stderr", |_| {
        One(stderr::lost())
    }),
];

fn by_port(now: &Scrape, value: fn(&PortStatus) -> u64) -> Value {
    Value::By("port", now.status.sockets.ports.iter().map(|port| (port.name, value(port))).collect())
}

/// Returns a number of the certificates for clients and for peers, as far as there are any.
fn by_use(now: &Scrape, value: fn(&PortStatus) -> Option<u64>) -> Value {
    let uses = [("grpc", "client"), ("raft", "peer")];
    let of = |port: &PortStatus| uses.iter().find(|(name, _)| *name == port.name).map(|(_, used)| *used);
    let ports = now.status.sockets.ports.iter();
    Value::By("use", ports.filter_map(|port| Some((of(port)?, value(port)?))).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write;

    use super::*;

    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");

    fn page() -> String {
        let mut text = String::from(
            "# Metrics\n\n\
             A node serves these at `/metrics` of its `--http_addr`, as OpenMetrics text for Prometheus. Every\n\
             name begins with `lockstep_`, and the name of a counter ends with `_total`. A test compares this\n\
             page with the table that serves them.\n\n\
             | name | kind | labels | meaning |\n|---|---|---|---|\n",
        );
        for row in ROWS {
            let (kind, ending) = match row.kind {
                MetricType::Counter => ("counter", "_total"),
                MetricType::Histogram => ("histogram", ""),
                _ => ("gauge", ""),
            };
            writeln!(text, "| `lockstep_{}{ending}` | {kind} | {} | {} |", row.name, row.labels, row.help).unwrap();
        }
        text
    }

    /// With `LOCKSTEP_WRITE_PAGES=1` it writes the page instead of comparing it.
    #[test]
    fn the_page_is_the_table() {
        if std::env::var_os("LOCKSTEP_WRITE_PAGES").is_some() {
            std::fs::write(PAGE, page()).unwrap();
        }
        let found = std::fs::read_to_string(PAGE).unwrap_or_default();
        assert_eq!(found, page(), "LOCKSTEP_WRITE_PAGES=1 cargo xtask test --lib the_page_is_the_table writes it anew");
    }

    #[test]
    fn names_are_unique_and_help_is_one_line() {
        let names: BTreeSet<_> = ROWS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), ROWS.len());
        for row in ROWS {
            assert!(row.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{}", row.name);
            assert!(
                !row.help.is_empty() && !row.help.contains(['\n', '|']) && !row.help.ends_with('.'),
                "{}",
                row.name
            );
        }
    }
}
