//! The table of all metrics: name, kind, labels, help, and where the value comes from. `/metrics`
//! and the page `docs/metrics.md` are both made of it. A number of the status becomes a metric
//! by one row here. A number that calls count also needs a field in `metrics.rs`. This file counts
//! nothing.

use prometheus_client::metrics::MetricType;

use super::row::{Read, Row, Scrape, Value, by, counter, gauge, row};
use crate::api::status;
use crate::logs::stderr;
use crate::net::PortStatus;
use crate::types::NodeMode;

use Value::One;

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
    "Watches refused because as many were open as the node, the cluster's quota, their client, or their connection allows",
    Read::Counted,
);

/// All metrics, in the order of the page.
pub(super) const ROWS: &[Row] = &[
    CALLS,
    CALL_SECONDS,
    gauge("watches_open", "Open watches", |now| One(now.watches.open)),
    gauge("watches_max", "Watches that may be open at a time", |now| One(now.watches.max)),
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
        "Calls and watches ended because nobody took their reply while memory was short, or, of reflection and health, for a minute",
        |now| One(now.replies_dropped),
    ),
    counter(
        "commands_offered_again",
        "Commands offered again because their log entry had no room for them, or too many large replies of their client were to come",
        |now| One(now.commands_offered_again),
    ),
    by(
        "limit",
        gauge("limit_used", "How much of each of these limits is in use (docs/limits.md says what they are)", |now| {
            Value::By("limit", now.limits.iter().map(|limit| (limit.name, limit.used)).collect())
        }),
    ),
    by(
        "limit",
        gauge("limit_max", "How much there may be of it", |now| {
            Value::By("limit", now.limits.iter().map(|limit| (limit.name, limit.max)).collect())
        }),
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
    gauge(
        "raft_log_over_quota",
        "1 while the log is larger than --log_quota, or log_quota_bytes of the profile",
        |now| One(u64::from(now.status.log.over_quota)),
    ),
    gauge("raft_archived_index", "Last index in the log archive; 0 without one", |now| {
        One(now.status.log.archive.archived_index)
    }),
    gauge("raft_archive_failing", "1 while the log archive cannot be written, so that the log is not purged", |now| {
        One(u64::from(now.status.log.archive.is_failing))
    }),
    counter("raft_archive_failures", "Attempts to write the log archive that failed", |now| {
        One(now.status.log.archive.failures)
    }),
    counter("raft_archive_gaps", "Times that entries had left the log before they were archived", |now| {
        One(now.status.log.archive.gaps)
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
    gauge("read_only", "1 while the cluster refuses commands, of all methods or of some", |now| {
        One(u64::from(now.status.machine.read_only.is_some()))
    }),
    by(
        "quota",
        gauge("quota", "The quotas of the machine that are set, by their keys", |now| {
            Value::By("quota", now.status.machine.operation.quotas())
        }),
    ),
    by(
        "quota",
        counter("quota_refused", "Commands that this node refused as the leader because of a quota", |now| {
            Value::By("quota", now.status.machine.quota.refused.clone())
        }),
    ),
    counter("commands_admitted", "Commands taken as the leader", |now| One(now.status.machine.quota.admitted)),
    gauge("profile_index", "Index of the entry that put the component and the limits in force", |now| {
        One(now.status.machine.profile_index)
    }),
    gauge("semantics", "The semantics of the cluster; 0 before it has any", |now| {
        One(now.status.machine.semantics.unwrap_or(0).into())
    }),
    gauge("semantics_newest", "The newest semantics that this build runs", |now| {
        One(now.status.machine.semantics_range.newest.into())
    }),
    by(
        "verdict",
        counter("changes", "Changes of the component or the limits, as this process applied them", |now| {
            Value::By("verdict", now.status.machine.changes.clone())
        }),
    ),
    gauge(
        "change_held_seconds",
        "How long the last change held apply on this node, if this process applied it",
        |now| {
            let change = now.status.machine.last_change.as_ref();
            change.map_or(Value::Unknown, |change| Value::Seconds(change.held.as_secs_f64()))
        },
    ),
    gauge(
        "probation_seconds",
        "How long, in log time, the last change may still be taken back; 0 when it may not",
        |now| {
            let machine = &now.status.machine;
            let left = machine.probation.map_or(0, |probation| probation.until_ms.saturating_sub(machine.time_ms));
            Value::Seconds(left as f64 / 1000.0)
        },
    ),
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
        "Bytes of large peer messages of which a part is here (at most 128 MiB)",
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
        gauge("connections_wide", "Open connections that may send more than 64 KiB before it is read", |now| {
            by_port(now, |port| port.wide as u64)
        }),
    ),
    by(
        "port",
        gauge("connections_calls_of_one", "Open calls of the connection that has most", |now| {
            by_port(now, |port| port.calls_of_one)
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
        "port",
        gauge("tls_handshakes", "Handshakes that are under way", |now| by_port(now, |port| port.handshakes as u64)),
    ),
    by("port", counter("connections_plain", "Connections without TLS", |now| by_port(now, |port| port.plain))),
    by(
        "port",
        counter("tls_handshakes_delayed", "Handshakes that had to wait for their turn", |now| {
            by_port(now, |port| port.handshakes_delayed)
        }),
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
    by(
        "proof",
        counter("calls_by_proof", "Calls and pages that were let in, by what proves who calls", |now| {
            Value::By("proof", now.trust.admitted.clone())
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
    gauge("policy_refused", "1 while the file of --policy cannot be used, and an older one is in force", |now| {
        One(u64::from(now.trust.policy_refused))
    }),
    gauge(
        "token_keys_refused",
        "1 while the file of --token_jwks cannot be used, and an older one is in force",
        |now| One(u64::from(now.trust.keys_refused)),
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
#[path = "table_tests.rs"]
mod tests;
