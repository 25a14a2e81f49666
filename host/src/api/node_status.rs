//! The status of this node: the JSON object of `node.status` (and so of `Stat`), and hashicorp's
//! keys for `Stats`. This file only reads numbers that other parts publish. It never reads the disk
//! or calls a peer.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::machine::{ChangeReport, MachineStatus, Operation, Probation, ReadOnly, TransferStatus};
use crate::net::{PortStatus, SocketsStatus};
use crate::pattern::Pattern;
use crate::raft::LeaderView;
use crate::raft::figures::{Contact, RaftStatus};
use crate::raft::membership::Server;
use crate::raft::retention::RetentionStatus;
use crate::raft::time::log_time::wall_ms;
use crate::raft::time::own_clock::OwnClock;
use crate::tls::Certificate;
use crate::types::{Addresses, hex};

/// All data that both forms contain.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// This node, as the membership or its flags name it.
    pub node: Addresses,
    /// The leader, if one is known.
    pub leader: Option<LeaderView>,
    /// The servers of the configuration in force.
    pub servers: Vec<Server>,
    /// Index of the log entry that set this configuration.
    pub servers_index: u64,
    /// The numbers of Raft.
    pub raft: RaftStatus,
    /// The numbers of the machine.
    pub machine: MachineStatus,
    /// The numbers of the log.
    pub log: RetentionStatus,
    /// The numbers of the ports, and the files and sockets that the process has open.
    pub sockets: SocketsStatus,
    /// This node's clock and log time. None while no leader has reported log time.
    pub clock: Option<OwnClock>,
}

impl NodeStatus {
    /// Returns the last applied index. 0 before the first.
    pub fn applied_index(&self) -> u64 {
        self.machine.applied.map_or(0, |log_id| log_id.index)
    }

    /// Returns the JSON object. Numbers are JSON numbers. While no leader is known, `leader` is an
    /// object with empty strings.
    pub fn to_json(&self) -> Value {
        let (mode, mode_reason) = self.machine.mode.words();
        let leader = self.leader.as_ref().map(|leader| leader.node.clone()).unwrap_or_default();
        let nodes: Vec<Value> = self
            .servers
            .iter()
            .map(
                |server| json!({ "id": server.node.name, "addr": server.node.raft_addr, "suffrage": suffrage(server) }),
            )
            .collect();
        json!({
            "node_id": self.node.name,
            "addr": self.node.raft_addr,
            "grpc_addr": self.node.grpc_addr,
            "leader": { "node_id": leader.name, "addr": leader.raft_addr, "grpc_addr": leader.grpc_addr },
            "nodes": nodes,
            "mode": mode,
            "mode_reason": mode_reason,
            "raft": self.raft_json(),
            "last_applied_index": self.applied_index(),
            "fsm": self.fsm_json(),
            "disk": {
                "state": self.machine.disk.level.name(),
                "free_bytes": self.machine.disk.free_bytes,
                "min_free_bytes": self.machine.disk.min_free_bytes,
            },
            "descriptors": {
                "max": self.sockets.descriptors_max,
                "open": self.sockets.descriptors_open,
            },
            "connections": self.sockets.ports.iter().map(port_json).collect::<Vec<_>>(),
            "clock": self.clock_json(),
            "transfers": self.machine.transfers.iter().map(transfer_json).collect::<Vec<_>>(),
        })
    }

    fn clock_json(&self) -> Value {
        json!({
            "now_ms": wall_ms(),
            "log_time_ms": self.clock.map(|clock| clock.log_ms),
            "voters_ms": self.clock.and_then(|clock| clock.median_ms),
            "ahead_ms": self.clock.map(|clock| clock.ahead_ms()),
            "problem": self.clock.and_then(|clock| clock.problem()).unwrap_or_default(),
        })
    }

    fn raft_json(&self) -> Value {
        json!({
            "state": self.raft.state,
            "term": self.raft.term,
            "last_log_index": self.raft.last_log_index,
            "commit_index": self.raft.commit_index,
            "applied_index": self.applied_index(),
            "last_snapshot_index": self.raft.snapshot_index,
            "last_snapshot_term": self.raft.snapshot_term,
            "purged_index": self.raft.purged_index,
            "log_bytes": self.log.log_bytes,
            "log_over_quota": self.log.over_quota,
            "archived_index": self.log.archive.archived_index,
            "archive_failures": self.log.archive.failures,
            "archive_gaps": self.log.archive.gaps,
            "archive_failing": self.log.archive.is_failing,
            "latest_configuration_index": self.servers_index,
            "num_peers": self.peers(),
        })
    }

    fn fsm_json(&self) -> Value {
        let machine = &self.machine;
        json!({
            "fsm_index": self.applied_index(),
            "commands_applied": machine.commands_applied,
            "commands_failed": machine.commands_failed,
            "commands_run": machine.commands_run,
            "commands_run_us": machine.commands_run_us,
            "queries_run": machine.queries_run,
            "queries_run_us": machine.queries_run_us,
            "queries_refused": machine.queries_refused,
            "queries_failed": machine.queries_failed,
            "snapshot_count": machine.snapshot_count,
            "restore_count": machine.restore_count,
            "last_snapshot_index": machine.last_snapshot_index,
            "commands_waiting": machine.commands_waiting,
            "log_time_ms": machine.time_ms,
            "state_hash": format!("{:016x}", machine.hash),
            "state_hash_index": machine.hash_index,
            "state_hash_mismatches": machine.hash_mismatches,
            "state_bytes": machine.state_bytes,
            "engine": machine.build,
            "component": machine.component.map(|hash| hex(&hash)),
            "version": machine.version,
            "profile_index": machine.profile_index,
            "semantics": machine.semantics,
            "semantics_oldest": machine.semantics_range.oldest,
            "semantics_newest": machine.semantics_range.newest,
            "probation": machine.probation.as_ref().map(probation_json),
            "last_change": machine.last_change.as_ref().map(change_json),
            "read_only": machine.read_only.as_ref().map(read_only_json),
            "operation": operation_json(&machine.operation),
        })
    }

    /// Returns hashicorp's map for `Stats`. The caller gets `last_log_term` and `last_contact` from
    /// Raft's core.
    pub fn to_stats(&self, last_log_term: u64, last_contact: Contact) -> HashMap<String, String> {
        let raft = &self.raft;
        let pending = raft.commit_index.saturating_sub(self.applied_index());
        let (mode, mode_reason) = self.machine.mode.words();
        [
            ("state", raft.state.to_owned()),
            ("term", raft.term.to_string()),
            ("last_log_index", raft.last_log_index.to_string()),
            ("last_log_term", last_log_term.to_string()),
            ("commit_index", raft.commit_index.to_string()),
            ("applied_index", self.applied_index().to_string()),
            ("fsm_pending", pending.to_string()),
            ("last_snapshot_index", raft.snapshot_index.to_string()),
            ("last_snapshot_term", raft.snapshot_term.to_string()),
            ("latest_configuration", configuration_text(&self.servers)),
            ("latest_configuration_index", self.servers_index.to_string()),
            ("last_contact", last_contact.to_string()),
            ("num_peers", self.peers().to_string()),
            // hashicorp has no mode. It is here because no guest can answer on a node that may do
            // nothing.
            ("mode", mode.to_owned()),
            ("mode_reason", mode_reason.to_owned()),
            // The version of hashicorp's protocol whose membership rules this host keeps. It has no
            // meaning on its wire.
            ("protocol_version", "3".into()),
            ("protocol_version_min", "0".into()),
            ("protocol_version_max", "3".into()),
            ("snapshot_version_min", "0".into()),
            ("snapshot_version_max", "1".into()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
    }

    /// Returns the number of other voters if this node votes, otherwise 0, as hashicorp counts.
    fn peers(&self) -> usize {
        let voters = || self.servers.iter().filter(|server| server.voter);
        if voters().any(|server| server.node.name == self.node.name) { voters().count() - 1 } else { 0 }
    }
}

fn probation_json(probation: &Probation) -> Value {
    json!({
        "change_index": probation.change_index,
        "until_ms": probation.until_ms,
        "before": hex(&probation.before),
        "checkpoint_index": probation.checkpoint_index,
        "has_checkpoint": probation.has_checkpoint,
    })
}

fn change_json(change: &ChangeReport) -> Value {
    json!({
        "index": change.index,
        "from": hex(&change.from),
        "to": hex(&change.to),
        "verdict": change.verdict.name(),
        "detail": change.detail,
        "rows": change.rows,
        "held_ms": change.held.as_millis() as u64,
    })
}

fn read_only_json(mode: &ReadOnly) -> Value {
    let methods: Vec<&str> = mode.methods.iter().map(Pattern::as_str).collect();
    json!({ "index": mode.index, "since_ms": mode.time_ms, "methods": methods, "by": mode.by })
}

/// Null before any value was set.
fn operation_json(operation: &Operation) -> Value {
    match operation.index {
        0 => Value::Null,
        index => {
            let Operation { time_ms, settings, by, .. } = operation;
            json!({ "index": index, "since_ms": time_ms, "settings": settings, "by": by })
        }
    }
}

fn port_json(port: &PortStatus) -> Value {
    json!({
        "port": port.name,
        "max": port.max,
        "open": port.open,
        "silent": port.silent,
        "accepted": port.accepted,
        "per_address_max": port.per_address_max,
        "of_one_address": port.of_one_address,
        "refused": port.refused,
        "refused_address": port.refused_address,
        "silent_closed": port.silent_closed,
        "accept_failures": port.accept_failures,
        "resets": port.resets,
        "slowed": port.slowed,
        "control_slowed": port.control_slowed,
        "control_closed": port.control_closed,
        "unread_closed": port.unread_closed,
        "idle_closed": port.idle_closed,
        "tls": port.tls.word(),
        "handshakes_failed": port.handshakes_failed,
        "handshakes": port.handshakes,
        "handshakes_delayed": port.handshakes_delayed,
        "certificate_expires": port.certificate_expires,
        "authorities": port.authorities.iter().map(authority_json).collect::<Vec<_>>(),
    })
}

fn authority_json(authority: &Certificate) -> Value {
    json!({ "names": authority.describe(), "fingerprint": authority.fingerprint })
}

fn transfer_json(transfer: &TransferStatus) -> Value {
    json!({
        "direction": transfer.direction.name(),
        "peer": transfer.peer,
        "index": transfer.index,
        "bytes": transfer.bytes,
        "rows": transfer.rows,
        "began_ms": transfer.began_ms,
        "seconds": transfer.elapsed.as_secs(),
    })
}

/// Returns `Voter` or `Nonvoter`, hashicorp's names.
pub fn suffrage(server: &Server) -> &'static str {
    if server.voter { "Voter" } else { "Nonvoter" }
}

/// Formats the servers as Go prints a slice of them.
fn configuration_text(servers: &[Server]) -> String {
    let servers: Vec<String> = servers
        .iter()
        .map(|server| {
            format!("{{Suffrage:{} ID:{} Address:{}}}", suffrage(server), server.node.name, server.node.raft_addr)
        })
        .collect();
    format!("[{}]", servers.join(" "))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "node_status_tests.rs"]
pub(super) mod tests;
