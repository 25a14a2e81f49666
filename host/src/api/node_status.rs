//! The status of this node: the JSON object of `node.status` (and so of `Stat`), and hashicorp's
//! keys for `Stats`. This file only reads numbers that other parts publish. It never reads the disk
//! or calls a peer.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::machine::{MachineStatus, TransferStatus};
use crate::net::{PortStatus, SocketsStatus};
use crate::raft::LeaderView;
use crate::raft::figures::{Contact, RaftStatus};
use crate::raft::membership::Server;
use crate::raft::retention::RetentionStatus;
use crate::raft::time::log_time::wall_ms;
use crate::raft::time::own_clock::OwnClock;
use crate::types::Addresses;

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
        "certificate_expires": port.certificate_expires,
    })
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
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::{Level, SpaceStatus};
    use crate::types::CommittedLeaderId;
    use crate::types::LogId;

    pub(crate) fn machine(applied: u64) -> MachineStatus {
        let leader_id = CommittedLeaderId { term: 2, node_id: 1 };
        MachineStatus {
            mode: crate::types::NodeMode::Serving,
            applied: Some(LogId { leader_id, index: applied }),
            time_ms: 1_000,
            entries_applied: 5,
            commands_applied: 4,
            commands_failed: 1,
            commands_waiting: 0,
            entries_undecodable: 0,
            hash_index: applied,
            hash: 0xab,
            hash_mismatches: 0,
            command_failures: Vec::new(),
            queries_failed: 0,
            flushes: 1,
            disk_full: 0,
            descriptors_short: 0,
            disk: SpaceStatus { free_bytes: 1 << 30, min_free_bytes: 1 << 29, level: Level::Ample },
            state_bytes: 100,
            snapshot_count: 3,
            snapshots_failed: 0,
            snapshots_sent: 0,
            restore_count: 0,
            last_snapshot_index: 6,
            last_snapshot_term: 1,
            build: "wasmtime 1.2.3".into(),
            transfers: vec![TransferStatus {
                direction: crate::machine::Direction::Sending,
                peer: "nodeC".into(),
                node: Some(50_053),
                index: 6,
                bytes: 70,
                rows: 3,
                began_ms: 1,
                elapsed: Duration::from_secs(9),
            }],
        }
    }

    fn node(name: &str, port: u16) -> Addresses {
        Addresses {
            name: name.into(),
            raft_addr: format!("localhost:{port}"),
            grpc_addr: format!("localhost:{}", port - 10_000),
        }
    }

    pub(crate) fn status() -> NodeStatus {
        let server = |name: &str, port: u16, voter: bool| Server {
            id: u64::from(port),
            node: node(name, port),
            voter,
            leader: port == 50_051,
        };
        NodeStatus {
            node: node("nodeB", 50_052),
            leader: Some(LeaderView { term: 2, node_id: 50_051, node: node("nodeA", 50_051), is_me: false }),
            servers: vec![server("nodeA", 50_051, true), server("nodeB", 50_052, true), server("nodeC", 50_053, false)],
            servers_index: 4,
            raft: RaftStatus {
                state: "Follower",
                term: 2,
                last_log_index: 9,
                commit_index: 9,
                applied_index: 8,
                snapshot_index: 6,
                snapshot_term: 1,
                purged_index: 0,
            },
            machine: machine(8),
            log: RetentionStatus { log_bytes: 500, over_quota: false },
            sockets: SocketsStatus {
                descriptors_max: 1_024,
                descriptors_open: 40,
                ports: ["grpc", "raft", "http"].map(|name| PortStatus {
                    name,
                    max: 64,
                    open: 3,
                    ..PortStatus::default()
                }),
            },
            clock: Some(OwnClock { own_ms: 70_000, log_ms: 1_070_000, median_ms: Some(70_000) }),
        }
    }

    #[test]
    fn the_json_has_the_documented_fields_and_numbers_are_numbers() {
        let json = status().to_json();
        assert_eq!(json["node_id"], "nodeB");
        assert_eq!(json["addr"], "localhost:50052");
        assert_eq!(json["leader"]["node_id"], "nodeA");
        assert_eq!(json["leader"]["addr"], "localhost:50051");
        assert_eq!(json["nodes"][2], json!({ "id": "nodeC", "addr": "localhost:50053", "suffrage": "Nonvoter" }));
        assert_eq!(json["raft"]["state"], "Follower");
        assert_eq!(json["raft"]["commit_index"], 9);
        assert_eq!(json["raft"]["last_log_index"], 9);
        assert_eq!(json["last_applied_index"], 8);
        assert_eq!(json["fsm"]["fsm_index"], 8);
        assert_eq!(json["fsm"]["snapshot_count"], 3);
        assert_eq!((&json["raft"]["log_bytes"], &json["raft"]["log_over_quota"]), (&json!(500), &json!(false)));
        let transfer = json!({
            "direction": "sending", "peer": "nodeC", "index": 6, "bytes": 70, "rows": 3, "began_ms": 1, "seconds": 9
        });
        assert_eq!(json["transfers"], json!([transfer]));
        assert_eq!(json["descriptors"], json!({ "max": 1_024, "open": 40 }));
        assert_eq!((&json["connections"][1]["port"], &json["connections"][1]["open"]), (&json!("raft"), &json!(3)));
    }

    #[test]
    fn a_clock_is_compared_where_log_time_is_known() {
        let json = status().to_json();
        let clock = &json["clock"];
        assert_eq!((&clock["log_time_ms"], &clock["ahead_ms"]), (&json!(1_070_000), &json!(-1_000_000)));
        assert!(clock["problem"].as_str().unwrap().contains("16m 40s behind log time"), "{clock}");
        let json = NodeStatus { clock: None, ..status() }.to_json();
        assert_eq!((&json["clock"]["ahead_ms"], &json["clock"]["problem"]), (&Value::Null, &json!("")));
        assert!(json["clock"]["now_ms"].is_u64());
    }

    #[test]
    fn without_a_leader_the_fields_stay_and_are_empty() {
        let json = NodeStatus { leader: None, ..status() }.to_json();
        assert_eq!(json["leader"]["node_id"], "");
        assert_eq!(json["leader"]["addr"], "");
    }

    #[test]
    fn stats_use_the_keys_of_hashicorp() {
        let stats = status().to_stats(2, Contact::Ago(Duration::from_millis(12)));
        let rows = [
            ("state", "Follower"),
            ("term", "2"),
            ("last_log_index", "9"),
            ("last_log_term", "2"),
            ("commit_index", "9"),
            ("applied_index", "8"),
            ("fsm_pending", "1"),
            ("last_snapshot_index", "6"),
            ("last_snapshot_term", "1"),
            ("latest_configuration_index", "4"),
            ("last_contact", "12ms"),
            ("num_peers", "1"),
            ("protocol_version", "3"),
            ("mode", "serving"),
        ];
        for (key, value) in rows {
            assert_eq!(stats[key], value, "{key}");
        }
        assert!(stats["latest_configuration"].starts_with("[{Suffrage:Voter ID:nodeA Address:localhost:50051} "));
        assert_eq!(Contact::Never.to_string(), "never");
        assert_eq!(Contact::Ago(Duration::ZERO).to_string(), "0");
    }
}
