//! The seeds of the targets that read what peers send.

use bytes::Bytes;
use lockstep_proto::peer;
use prost::Message;

use super::{Seed, command, genesis, kind, log_id, membership, seed};
use crate::codec::Change;
use crate::raft::peers::wire;
use crate::types::{Addresses, Vote};

fn route() -> peer::Route {
    peer::Route {
        cluster_id: vec![1; 16].into(),
        incarnation: 3,
        group: 0,
        from: 1,
        to: 2,
        nonce: 5,
        boot: 1,
        from_name: "nodeA".into(),
    }
}

fn append() -> peer::AppendRequest {
    use peer::entry::Payload;
    let entry =
        |index, payload| peer::Entry { log_id: Some(wire::encode_log_id(&log_id(index))), payload: Some(payload) };
    peer::AppendRequest {
        route: Some(route()),
        vote: Some(ballot()),
        prev: Some(wire::encode_log_id(&log_id(4))),
        entries: vec![
            entry(5, Payload::Blank(true)),
            entry(6, Payload::Normal(Bytes::from_static(b"abc"))),
            entry(7, Payload::Membership(wire::encode_membership(&membership()))),
        ],
        leader_commit: Some(wire::encode_log_id(&log_id(4))),
        boot: 1,
        log_time_ms: 1000,
        voters_clock_ms: 1001,
    }
}

fn ballot() -> peer::Ballot {
    wire::encode_vote(&Vote::new_committed(2, 1))
}

pub(super) fn messages() -> Vec<Seed> {
    let last = || Some(wire::encode_log_id(&log_id(5)));
    let vote =
        peer::VoteRequest { route: Some(route()), vote: Some(ballot()), last: last(), leadership_transfer: true };
    let granted = peer::VoteResponse { vote: Some(ballot()), granted: true, last: last() };
    let transfer =
        peer::TransferLeaderRequest { route: Some(route()), from_leader: Some(ballot()), to: 2, last: last() };
    let not_flushed = peer::transfer_leader_response::LogNotFlushed { expected: last(), actual: None };
    let refusal = Some(peer::transfer_leader_response::Refusal::LogNotFlushed(not_flushed));
    let header = peer::SnapshotHeader {
        route: Some(route()),
        vote: Some(ballot()),
        last: last(),
        membership_log_id: last(),
        membership: Some(wire::encode_membership(&membership())),
    };
    let snapshot = peer::SnapshotRequest { part: Some(peer::snapshot_request::Part::Header(header)) };
    let forward = peer::ForwardRequest {
        route: Some(route()),
        leader_term: 2,
        command: command(b"ab").encode_to_vec().into(),
        timeout_ms: 5000,
        client: 0,
        waited_ms: 0,
    };
    let node = || Some(wire::encode_node(&Addresses { name: "a".into(), ..Addresses::default() }));
    let join = peer::JoinRequest {
        route: Some(route()),
        component_hash: vec![4; 32].into(),
        source_hash: vec![4; 32].into(),
        leader: node(),
        limits_json: genesis().limits_json,
        semantics: genesis().semantics,
    };
    let conflict = Some(peer::append_response::Result::Conflict(wire::encode_log_id(&log_id(5))));
    let answer = peer::AppendResponse { result: conflict, flushed: None, clock_ms: 1000 };
    let of_the_log = vec![
        seed("peer", "append", kind(0, append().encode_to_vec())),
        seed("peer", "append-answer", kind(1, answer.encode_to_vec())),
        seed("peer", "vote", kind(2, vote.encode_to_vec())),
        seed("peer", "vote-answer", kind(3, granted.encode_to_vec())),
        seed("peer", "transfer", kind(4, transfer.encode_to_vec())),
        seed("peer", "transfer-answer", kind(5, peer::TransferLeaderResponse { refusal }.encode_to_vec())),
        seed("peer", "snapshot", kind(6, snapshot.encode_to_vec())),
        seed("peer", "forward", kind(7, forward.encode_to_vec())),
        seed("peer", "outcome", kind(8, outcome().encode_to_vec())),
        seed("peer", "join", kind(9, join.encode_to_vec())),
        seed("peer", "route", kind(12, route().encode_to_vec())),
    ];
    [of_the_log, of_changes(), of_the_cluster()].concat()
}

/// What a leader asks of members before it changes what the cluster runs, and what they answer.
fn of_changes() -> Vec<Seed> {
    let change = Change {
        expected_index: 1,
        component_hash: vec![4; 32].into(),
        source_hash: vec![4; 32].into(),
        semantics: 4,
        limits_json: "{}".into(),
        probation_ms: 1000,
    };
    let change = Bytes::from(change.encode_to_vec());
    let holder = wire::encode_node(&Addresses { name: "a".into(), ..Addresses::default() });
    let prepare =
        peer::PrepareChangeRequest { route: Some(route()), change: change.clone(), holder: Some(holder.clone()) };
    let mark = Bytes::from(vec![5; 16]);
    let trial = peer::RehearseChangeRequest { route: Some(route()), change, mark, index: 9, first: 7 };
    let rollback = peer::PrepareRollbackRequest { route: Some(route()), change_index: 7, at: 9 };
    let answer = r#"{"reply":{"bytes":2,"base64":"YWI="}}"#;
    let refused = r#"{"refused":{"code":5,"message":"no","details":{"bytes":0,"base64":null}}}"#;
    let difference = format!(
        r#"{{"index":7,"position":1,"method":"S/M","caller":"","request":{{"bytes":0,"base64":""}},"old":{answer},"new":{refused}}}"#
    );
    let rehearsal = format!(
        r#"{{"index":9,"old":{{"hash":"1f"}},"migration":{{"kind":"migrated","calls":1}},"snapshot":{{"problem":null}},"commands":{{"commands":3}},"queries":{{"queries":1}},"differences":[{difference}]}}"#
    );
    let shadow = format!(r#"{{"change_index":7,"index":9,"hash":"1f","different":1,"differences":[{difference}]}}"#);
    vec![
        seed("peer", "prepare", kind(15, prepare.encode_to_vec())),
        seed("peer", "trial", kind(16, trial.encode_to_vec())),
        seed("peer", "rollback", kind(17, rollback.encode_to_vec())),
        seed("peer", "rehearsal-report", kind(19, rehearsal)),
        seed("peer", "rollback-report", kind(20, shadow)),
    ]
}

/// What members ask each other beside the log.
fn of_the_cluster() -> Vec<Seed> {
    let last = Some(wire::encode_log_id(&log_id(5)));
    let opinion = peer::CanvassResponse { leaderless: true, vote: Some(ballot()), last };
    let flushed = Some(peer::append_response::Result::Success(true));
    let heard = peer::AppendResponse { result: flushed, flushed: last, clock_ms: 1000 };
    let node = wire::encode_node(&Addresses { name: "a".into(), ..Addresses::default() });
    let moved = peer::SetAddressesRequest { route: Some(route()), node: Some(node.clone()) };
    let hash = peer::StateHashRequest { route: Some(route()), index: 5, hash: 6 };
    let found = peer::IdentifyResponse {
        node_id: 1,
        node: Some(node),
        semantics_oldest: 1,
        semantics_newest: 4,
        version: "1.0".into(),
        ..peer::IdentifyResponse::default()
    };
    vec![
        seed("peer", "identity", kind(10, found.encode_to_vec())),
        seed("peer", "opinion", kind(13, opinion.encode_to_vec())),
        seed("peer", "heartbeat-answer", kind(14, heard.encode_to_vec())),
        seed("peer", "addresses", kind(18, moved.encode_to_vec())),
        seed("peer", "state-hash", kind(21, hash.encode_to_vec())),
    ]
}

/// Bodies of requests in gRPC's frames.
pub(super) fn framings() -> Vec<Seed> {
    let framed = |bytes: &[u8]| [&[0][..], &(bytes.len() as u32).to_be_bytes(), bytes].concat();
    let append = peer::AppendRequest { route: Some(route()), ..peer::AppendRequest::default() }.encode_to_vec();
    let header = peer::SnapshotHeader { route: Some(route()), ..peer::SnapshotHeader::default() };
    let part = Some(peer::snapshot_request::Part::Header(header));
    let snapshot = peer::SnapshotRequest { part }.encode_to_vec();
    let small = [framed(b"ab"), framed(b""), framed(&[7; 101])].concat();
    let judged = [framed(&append), framed(&[7; 101])].concat();
    let deep = [framed(&snapshot), framed(&[7; 101])].concat();
    vec![
        seed("framing", "small", kind(0, kind(1, small))),
        seed("framing", "half-of-a-large-one", kind(1, kind(0, b"\0\0\x02\0\0abc"))),
        seed("framing", "append", kind(2, kind(0, judged))),
        seed("framing", "snapshot", kind(3, kind(5, deep))),
        seed("framing", "first-field", kind(4, route().encode_to_vec())),
        seed("framing", "metadata", kind(5, b"CgEB")),
    ]
}

fn outcome() -> peer::ForwardResponse {
    let verdict = Bytes::from_static(b"\x01ab");
    let outcome = peer::Outcome { index: 5, position: 1, term: 2, verdict, detail: String::new() };
    let result = Some(peer::forward_response::Result::Outcome(outcome));
    peer::ForwardResponse { counter: 9, leader_term: 2, result }
}

pub(super) fn refusals() -> Vec<Seed> {
    let copy = "grpc-status:9\nlockstep-copy:0000000000000001 1, 0000000000000002 2, a:1\nlockstep-process:01 1";
    vec![
        seed("refusal", "removed", "grpc-status:9\ngrpc-message:was%20removed\nlockstep-removed-at:42"),
        seed("refusal", "copy", copy),
    ]
}
