//! Tests of the status, and a status for the tests of others.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::machine::{ChangeVerdict, QuotaStatus, SemanticsRange};
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
        commands_run: 3,
        commands_run_us: 60,
        commands_waiting: 0,
        entries_undecodable: 0,
        hash_index: applied,
        hash: 0xab,
        hash_mismatches: 0,
        command_failures: Vec::new(),
        queries_run: 7,
        queries_run_us: 70,
        queries_refused: 2,
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
        component: Some([0xcd; 32]),
        version: "2".into(),
        profile_index: 7,
        semantics: Some(4),
        semantics_range: SemanticsRange { oldest: 3, newest: 5 },
        probation: Some(Probation {
            change_index: 7,
            until_ms: 9_000,
            checkpoint_index: 6,
            has_checkpoint: true,
            before: [0xab; 32],
        }),
        last_change: Some(ChangeReport {
            index: 7,
            from: [0xab; 32],
            to: [0xcd; 32],
            verdict: ChangeVerdict::Changed,
            detail: String::new(),
            rows: 3,
            held: Duration::from_millis(40),
            ran_again: None,
        }),
        read_only: Some(ReadOnly {
            index: 8,
            time_ms: 900,
            on: true,
            methods: vec![Pattern::new("a.*/B")],
            by: "ann".into(),
        }),
        operation: Arc::new(Operation {
            index: 6,
            time_ms: 800,
            by: "ann".into(),
            settings: [("state_bytes_max".to_owned(), "65536".to_owned())].into(),
        }),
        quota: QuotaStatus { admitted: 2, refused: vec![("state_bytes_max", 1)] },
        changes: vec![("changed", 1)],
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
    let authority = Certificate {
        common_name: "ours".into(),
        uris: Vec::new(),
        dns_names: Vec::new(),
        not_after: std::time::UNIX_EPOCH,
        fingerprint: "ab12".into(),
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
        log: RetentionStatus { log_bytes: 500, over_quota: false, archive: crate::raft::ArchiveStatus::default() },
        sockets: SocketsStatus {
            descriptors_max: 1_024,
            descriptors_open: 40,
            ports: ["grpc", "raft", "http"].map(|name| PortStatus {
                name,
                max: 64,
                open: 3,
                authorities: Arc::new([authority.clone()]),
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
    let change = json!({
        "index": 7, "from": "ab".repeat(32), "to": "cd".repeat(32), "verdict": "changed", "detail": "", "rows": 3, "held_ms": 40
    });
    let component = (&json["fsm"]["component"], &json["fsm"]["version"], &json["fsm"]["profile_index"]);
    assert_eq!(component, (&json!("cd".repeat(32)), &json!("2"), &json!(7)));
    let numbers = ["semantics", "semantics_oldest", "semantics_newest"].map(|key| json["fsm"][key].clone());
    assert_eq!(numbers, [json!(4), json!(3), json!(5)]);
    assert_eq!(json["fsm"]["probation"]["change_index"], 7);
    assert_eq!(json["fsm"]["last_change"], change);
    let mode = json!({ "index": 8, "since_ms": 900, "methods": ["a.*/B"], "by": "ann" });
    assert_eq!(json["fsm"]["read_only"], mode);
    let operation = json!({ "index": 6, "since_ms": 800, "settings": { "state_bytes_max": "65536" }, "by": "ann" });
    assert_eq!(json["fsm"]["operation"], operation);
    let transfer = json!({
        "direction": "sending", "peer": "nodeC", "index": 6, "bytes": 70, "rows": 3, "began_ms": 1, "seconds": 9
    });
    assert_eq!(json["transfers"], json!([transfer]));
    assert_eq!(json["descriptors"], json!({ "max": 1_024, "open": 40 }));
    assert_eq!((&json["connections"][1]["port"], &json["connections"][1]["open"]), (&json!("raft"), &json!(3)));
    let authority = json!({ "names": "CN=ours", "fingerprint": "ab12" });
    assert_eq!(json["connections"][1]["authorities"], json!([authority]));
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
