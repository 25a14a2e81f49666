//! What this node says about itself: the JSON object of `node.status` (and with it `Stat`), and hashicorp's keys for `Stats`.
//! Only reads numbers that others publish; never asks the disk or a peer.

use std::collections::HashMap;
use std::time::Duration;

use openraft::ServerState;
use openraft::metrics::RaftMetrics;
use serde_json::{Value, json};

use crate::machine::MachineStatus;
use crate::raft::{LeaderView, Server};
use crate::types::{LogId, Node, NodeMode, TypeConfig};

/// All that both forms are made of.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// This node, as the membership or its flags name it.
    pub node: Node,
    /// The leader, if one is known.
    pub leader: Option<LeaderView>,
    /// The configuration in force.
    pub servers: Vec<Server>,
    /// Log index that set it.
    pub servers_index: u64,
    /// Raft's own numbers.
    pub raft: RaftStatus,
    /// The machine's own numbers.
    pub machine: MachineStatus,
    /// What this node may do.
    pub mode: NodeMode,
}

/// Raft's numbers, in hashicorp's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaftStatus {
    /// `Follower`, `Candidate`, `Leader` or `Shutdown`.
    pub state: &'static str,
    /// Current term.
    pub term: u64,
    /// Last index in the log; 0 for none, as everywhere here.
    pub last_log_index: u64,
    /// Last index known to be committed.
    pub commit_index: u64,
    /// Last index Raft knows to be applied.
    pub applied_index: u64,
    /// Last index of the newest snapshot.
    pub snapshot_index: u64,
    /// Its term.
    pub snapshot_term: u64,
    /// Last index purged from the log.
    pub purged_index: u64,
}

impl RaftStatus {
    /// From openraft's metrics; none stands for a Raft instance that does not run.
    pub fn new(metrics: Option<&RaftMetrics<TypeConfig>>, stopping: bool) -> RaftStatus {
        let Some(metrics) = metrics else {
            return RaftStatus { state: "Shutdown", ..RaftStatus::default() };
        };
        let index = |log_id: &Option<LogId>| log_id.as_ref().map_or(0, |log_id| log_id.index);
        RaftStatus {
            state: if stopping || metrics.running_state.is_err() { "Shutdown" } else { state_name(metrics.state) },
            term: metrics.current_term,
            last_log_index: metrics.last_log_index.unwrap_or(0),
            commit_index: index(&metrics.local_committed).max(index(&metrics.cluster_committed)),
            applied_index: index(&metrics.last_applied),
            snapshot_index: index(&metrics.snapshot),
            snapshot_term: metrics.snapshot.as_ref().map_or(0, |log_id| log_id.committed_leader_id().term),
            purged_index: index(&metrics.purged),
        }
    }
}

/// hashicorp knows no learner state: a nonvoter follows.
fn state_name(state: ServerState) -> &'static str {
    match state {
        ServerState::Learner | ServerState::Follower => "Follower",
        ServerState::Candidate => "Candidate",
        ServerState::Leader => "Leader",
        ServerState::Shutdown => "Shutdown",
    }
}

/// As `/readyz` and the JSON name a mode.
pub fn mode_name(mode: &NodeMode) -> (&'static str, &str) {
    match mode {
        NodeMode::Serving => ("serving", ""),
        NodeMode::CatchingUp(why) => ("catching-up", why),
        NodeMode::Quarantined(why) => ("quarantined", why),
        NodeMode::Unfit(why) => ("unfit", why),
    }
}

impl NodeStatus {
    /// The JSON object. Numbers are JSON numbers; `leader` is an object with empty strings while none is known.
    pub fn to_json(&self) -> Value {
        let (mode, mode_reason) = mode_name(&self.mode);
        let leader = self.leader.as_ref().map(|leader| leader.node.clone()).unwrap_or_default();
        let nodes: Vec<Value> = self
            .servers
            .iter()
            .map(|server| json!({ "id": server.name, "addr": server.addr, "suffrage": server.suffrage.to_string() }))
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
            "last_applied_index": self.machine.applied_index,
            "fsm": self.fsm_json(),
        })
    }

    fn raft_json(&self) -> Value {
        json!({
            "state": self.raft.state,
            "term": self.raft.term,
            "last_log_index": self.raft.last_log_index,
            "commit_index": self.raft.commit_index,
            "applied_index": self.machine.applied_index,
            "last_snapshot_index": self.raft.snapshot_index,
            "last_snapshot_term": self.raft.snapshot_term,
            "purged_index": self.raft.purged_index,
            "latest_configuration_index": self.servers_index,
            "num_peers": self.peers(),
        })
    }

    fn fsm_json(&self) -> Value {
        let machine = &self.machine;
        json!({
            "fsm_index": machine.applied_index,
            "commands_applied": machine.commands_applied,
            "commands_failed": machine.commands_failed,
            "snapshot_count": machine.snapshot_count,
            "restore_count": machine.restore_count,
            "last_snapshot_index": machine.last_snapshot_index,
            "state_hash": format!("{:016x}", machine.state_hash),
            "state_bytes": machine.state_bytes,
        })
    }

    /// hashicorp's map for `Stats`. `last_log_term` and `last_contact` are what the caller asked Raft's core for.
    pub fn to_stats(&self, last_log_term: u64, last_contact: Contact) -> HashMap<String, String> {
        let raft = &self.raft;
        let pending = raft.commit_index.saturating_sub(self.machine.applied_index);
        [
            ("state", raft.state.to_owned()),
            ("term", raft.term.to_string()),
            ("last_log_index", raft.last_log_index.to_string()),
            ("last_log_term", last_log_term.to_string()),
            ("commit_index", raft.commit_index.to_string()),
            ("applied_index", self.machine.applied_index.to_string()),
            ("fsm_pending", pending.to_string()),
            ("last_snapshot_index", raft.snapshot_index.to_string()),
            ("last_snapshot_term", raft.snapshot_term.to_string()),
            ("latest_configuration", configuration_text(&self.servers)),
            ("latest_configuration_index", self.servers_index.to_string()),
            ("last_contact", last_contact.to_string()),
            ("num_peers", self.peers().to_string()),
            // The version of hashicorp's protocol whose membership rules we keep; it has no meaning on our wire.
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

    /// Other voters, when this node votes, as hashicorp counts.
    fn peers(&self) -> usize {
        let voters = || self.servers.iter().filter(|server| server.suffrage.is_voter());
        if voters().any(|server| server.name == self.node.name) { voters().count() - 1 } else { 0 }
    }
}

/// When this node last heard from a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    /// Not in this process's life.
    Never,
    /// So long ago; zero on the leader.
    Ago(Duration),
}

impl std::fmt::Display for Contact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Contact::Never => f.write_str("never"),
            Contact::Ago(Duration::ZERO) => f.write_str("0"),
            Contact::Ago(ago) => write!(f, "{ago:?}"),
        }
    }
}

/// As Go prints a slice of servers.
fn configuration_text(servers: &[Server]) -> String {
    let servers: Vec<String> = servers
        .iter()
        .map(|server| format!("{{Suffrage:{} ID:{} Address:{}}}", server.suffrage, server.name, server.addr))
        .collect();
    format!("[{}]", servers.join(" "))
}
