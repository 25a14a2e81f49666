//! What the readers of peers' messages promise, for the fuzz targets. Runs no Raft.

use std::collections::BTreeSet;
use std::fmt::Debug;

use http::{HeaderMap, HeaderName, HeaderValue};
use lockstep_proto::peer;
use openraft::raft::StreamAppendError;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::liveness::canvass::verdict::{Decision, Opinion, verdict};
use super::membership::builds::Build;
use super::membership::removal;
use super::path::wire as path_wire;
use super::peers::bounds::{INDEX_END, TERM_END, check_term};
use super::peers::process::Original;
use super::peers::wire;
use super::{ClusterCell, GroupCell, Process};
use crate::codec::{Command, Genesis};
use crate::machine::{RehearsalReport, RollbackReport, SEMANTICS, limits_of};
use crate::types::{Cluster, LogId, Origin, Vote};

/// This node and the sender, in the routes of messages.
const ME: u64 = 2;
const CLUSTER: Cluster = Cluster { id: [1; 16], incarnation: 3, component_hash: [9; 32] };

/// Reads a message. The first byte says of which kind.
pub fn peer(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    match kind {
        0 => append(body),
        1 => same_again(body, |message: peer::AppendResponse| {
            Some(wire::encode_stream_result(&wire::decode_stream_result(message).ok()?))
        }),
        2 => vote(body),
        3 => same_again(body, |message: peer::VoteResponse| {
            Some(wire::encode_vote_response(&wire::decode_vote_response(message).ok()?))
        }),
        4 => same_again(body, |message: peer::TransferLeaderRequest| {
            Some(wire::encode_transfer(peer::Route::default(), &wire::decode_transfer(message).ok()?))
        }),
        5 => same_again(body, |message: peer::TransferLeaderResponse| {
            Some(wire::encode_transfer_response(&wire::decode_transfer_response(message).ok()?))
        }),
        6 => snapshot(body),
        7 => forward(body),
        8 => same_again(body, |message: peer::ForwardResponse| {
            let result = path_wire::encode_end(path_wire::decode_end(message.result));
            Some(peer::ForwardResponse { result, ..message })
        }),
        9 => join(body),
        10 => {
            if let Ok(found) = peer::IdentifyResponse::decode(body) {
                drop(Build::of(&found).check(SEMANTICS));
                drop(found.node.map(wire::decode_node));
            }
        }
        11 => drop(peer::IdentifyRequest::decode(body)),
        12 => {
            if let Ok(route) = peer::Route::decode(body) {
                route_of(Some(&route));
            }
        }
        13 => canvass(body),
        14 => heartbeat_answer(body),
        15 => prepare(body),
        16 => trial(body),
        17 => rollback(body),
        18 => addresses(body),
        19 => report::<RehearsalReport>(body),
        20 => report::<RollbackReport>(body),
        21 => questions(body),
        _ => {}
    }
}

/// Whatever passes means the same once it was sent on. `through` decodes and encodes.
fn same_again<M: Message + Default + PartialEq + std::fmt::Debug>(body: &[u8], through: impl Fn(M) -> Option<M>) {
    let Some(once) = M::decode(body).ok().and_then(&through) else { return };
    let sent = M::decode(&*once.encode_to_vec()).expect("what was encoded is read");
    let twice = through(sent).expect("what passed once passes again");
    assert!(twice == once, "{twice:?} instead of {once:?}");
}

/// A message of the own cluster names its sender; every other one is refused.
fn route_of(route: Option<&peer::Route>) -> Option<u64> {
    let cell = GroupCell::new(ClusterCell::new(Some(CLUSTER)), 0);
    let from = cell.check(route, ME).ok()?;
    let route = route.expect("a message without a route is refused");
    assert!(route.cluster_id[..] == CLUSTER.id && route.incarnation == CLUSTER.incarnation);
    assert!(route.to == ME && route.from != ME && route.group == 0);
    let answer = cell.route(ME, from).expect("this node is in a cluster");
    assert_eq!(cell.check(Some(&answer), from), Ok(ME));
    assert!(Process::of(route).boot == route.boot);
    Some(from)
}

fn append(body: &[u8]) {
    same_again(body, |message: peer::AppendRequest| {
        let telling = wire::telling_of(&message);
        let (route, boot) = (message.route.clone().unwrap_or_default(), message.boot);
        let request = wire::decode_append(message).ok()?;
        let encoded = wire::encode_append(route, &request);
        Some(peer::AppendRequest { boot, ..wire::with_telling(encoded, telling) })
    });
    let Ok(message) = peer::AppendRequest::decode(body) else { return };
    let from = route_of(message.route.as_ref()).unwrap_or_default();
    let Ok(request) = wire::decode_append(message) else { return };
    assert!(request.vote.leader_id.term < TERM_END);
    if wire::check_append(from, &request).is_err() {
        return;
    }
    // openraft subtracts and adds here.
    let first = request.prev_log_id.map_or(0, |prev: LogId| prev.index + 1);
    for (index, entry) in (first..).zip(&request.entries) {
        assert_eq!(entry.log_id.index, index);
        assert!(entry.log_id.index < INDEX_END && entry.log_id.leader_id.term <= request.vote.leader_id.term);
    }
    let term = request.vote.leader_id.term;
    assert!(check_term(term, term).is_ok(), "a node's own term is no leap");
}

fn vote(body: &[u8]) {
    same_again(body, |message: peer::VoteRequest| {
        let route = message.route.clone().unwrap_or_default();
        Some(wire::encode_vote_request(route, &wire::decode_vote_request(message).ok()?))
    });
    if let Ok(message) = peer::VoteRequest::decode(body)
        && let Some(from) = route_of(message.route.as_ref())
        && let Ok(request) = wire::decode_vote_request(message)
        && wire::check_vote(from, &request.vote).is_ok()
    {
        assert_eq!(request.vote.leader_id.node_id, from);
    }
}

fn snapshot(body: &[u8]) {
    let Ok(message) = peer::SnapshotRequest::decode(body) else { return };
    let Some(peer::snapshot_request::Part::Header(header)) = message.part else { return };
    let from = route_of(header.route.as_ref()).unwrap_or_default();
    let Ok((vote, meta)) = wire::decode_snapshot_header(header) else { return };
    if wire::check_snapshot(from, &vote, &meta).is_ok() {
        assert_eq!(vote.leader_id.node_id, from);
    }
    let membership = meta.last_membership.membership();
    let again = wire::decode_membership(wire::encode_membership(membership));
    assert_eq!(again.as_ref(), Ok(membership));
    for voter in membership.voter_ids() {
        assert!(membership.get_node(&voter).is_some(), "a voter whose address nobody knows");
    }
}

fn forward(body: &[u8]) {
    let Ok(message) = peer::ForwardRequest::decode(body) else { return };
    route_of(message.route.as_ref());
    if let Ok(command) = Command::decode(message.command) {
        assert_eq!(Command::decode(&*command.encode_to_vec()).ok().as_ref(), Some(&command));
        let origin = command.origin.as_ref();
        assert_eq!(origin.map(|origin| Origin::from(origin).into()), command.origin);
    }
}

fn join(body: &[u8]) {
    let Ok(message) = peer::JoinRequest::decode(body) else { return };
    route_of(message.route.as_ref());
    let genesis = Genesis { semantics: SEMANTICS, limits_json: message.limits_json, ..Genesis::default() };
    drop(limits_of(&genesis));
    drop(message.leader.map(wire::decode_node));
}

/// What one voter says of itself elects nobody unless it agrees.
fn canvass(body: &[u8]) {
    let Ok(message) = peer::CanvassResponse::decode(body) else { return };
    let (vote, last) = (wire::decode_vote(message.vote), wire::decode_place("last", message.last.as_ref()));
    let (Ok(vote), Ok(last)) = (vote, last) else { return };
    let other = Opinion { node: 3, vote, last, leaderless: message.leaderless };
    let me = Opinion { node: ME, vote: Vote::new_committed(2, 1), last: None, leaderless: true };
    let voters = [BTreeSet::from([1, ME, 3])];
    for starting in [false, true] {
        let (alone, found) = (verdict(&me, &[], &voters, starting), verdict(&me, &[other], &voters, starting));
        assert!(other.leaderless || found == alone, "{found:?} by one who hears the leader");
        match found {
            Decision::TakeOver(rank) => assert!(other.vote == me.vote && rank < 2, "turn {rank} of {other:?}"),
            Decision::Stand(rank) => assert!(starting && rank < 2, "turn {rank} of {other:?}"),
            Decision::Wait | Decision::NoQuorum => {}
        }
    }
}

fn heartbeat_answer(body: &[u8]) {
    same_again(body, |message: peer::AppendResponse| {
        let sent = match wire::decode_stream_result(message).ok()? {
            Ok(flushed) => flushed,
            Err(StreamAppendError::Conflict(at)) => Some(at),
            Err(StreamAppendError::HigherVote(_)) => None,
        };
        Some(wire::encode_heartbeat_response(wire::decode_heartbeat_response(message).ok()?, sent))
    });
}

fn prepare(body: &[u8]) {
    let Ok(message) = peer::PrepareChangeRequest::decode(body) else { return };
    route_of(message.route.as_ref());
    drop(message.holder.map(wire::decode_node));
    let Ok(change) = wire::decode_change(&message.change) else { return };
    assert_eq!(change.component_hash.len(), CLUSTER.component_hash.len());
    assert_eq!(wire::decode_change(&change.encode_to_vec()).as_ref(), Ok(&change));
    let profile = Genesis { semantics: SEMANTICS, limits_json: change.limits_json, ..Genesis::default() };
    drop(limits_of(&profile));
}

fn trial(body: &[u8]) {
    same_again(body, |message: peer::RehearseChangeRequest| {
        route_of(message.route.as_ref());
        let trial = wire::decode_trial(&message).ok()?;
        assert!(trial.first <= trial.index && trial.index < INDEX_END);
        Some(wire::encode_trial(message.route.unwrap_or_default(), &trial))
    });
}

fn rollback(body: &[u8]) {
    same_again(body, |message: peer::PrepareRollbackRequest| {
        route_of(message.route.as_ref());
        let trial = wire::decode_rollback(&message).ok()?;
        assert!(trial.change_index < INDEX_END && trial.at.is_none_or(|at| 0 < at && at < INDEX_END));
        Some(wire::encode_rollback(message.route.unwrap_or_default(), trial))
    });
}

fn addresses(body: &[u8]) {
    same_again(body, |message: peer::SetAddressesRequest| {
        route_of(message.route.as_ref());
        Some(peer::SetAddressesRequest { node: Some(wire::encode_node(&wire::decode_node(message.node?))), ..message })
    });
}

/// What a member reports as JSON says the same when it is written again.
fn report<T: Serialize + DeserializeOwned + PartialEq + Debug>(body: &[u8]) {
    let Some(report) = std::str::from_utf8(body).ok().and_then(|text| serde_json::from_str::<T>(text).ok()) else {
        return;
    };
    let again = serde_json::to_string(&report).expect("a report is JSON");
    assert_eq!(serde_json::from_str::<T>(&again).ok(), Some(report));
}

/// Messages of a route and at most a few numbers. Whichever they are taken for, they name one
/// sender.
fn questions(body: &[u8]) {
    let from = |route: Option<peer::Route>| route_of(route.as_ref());
    let found = [
        peer::ReadIndexRequest::decode(body).map(|message| from(message.route)),
        peer::PassTimeRequest::decode(body).map(|message| from(message.route)),
        peer::StateHashRequest::decode(body).map(|message| from(message.route)),
        peer::StandingRequest::decode(body).map(|message| from(message.route)),
        peer::CanvassRequest::decode(body).map(|message| from(message.route)),
        peer::FetchComponentRequest::decode(body).map(|message| from(message.route)),
        peer::FetchStateRequest::decode(body).map(|message| from(message.route)),
    ];
    let mut senders = found.into_iter().flatten();
    let first = senders.next();
    assert!(senders.all(|sender| Some(sender) == first), "the same bytes name two senders");
}

/// Reads the headers of an answer: lines of a name, a colon and a value.
pub fn refusal(bytes: &[u8]) {
    let headers = headers(bytes);
    let signed = MetadataMap::from_headers(headers.clone());
    if let Some(process) = Process::that_signed(&signed) {
        let mut again = MetadataMap::new();
        process.sign(&mut again);
        assert!(process.nonce == 0 || Process::that_signed(&again) == Some(process));
    }
    let Some(status) = Status::from_header_map(&headers) else { return };
    let cell = GroupCell::new(ClusterCell::new(Some(CLUSTER)), 0);
    cell.note(&status);
    if let Some(index) = removal::told(&status) {
        let told = *cell.removals().borrow();
        assert_eq!(told.is_some(), index < INDEX_END, "an index that no log reaches counts");
    }
    for mine in [Process::default(), Process { boot: 1, nonce: 1 }] {
        if let Some(original) = Original::named_by(&status, mine) {
            assert!(original.process != mine, "a process that is told to be its own original");
        }
    }
}

fn headers(bytes: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(64) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = parts.next().and_then(|name| HeaderName::from_bytes(name).ok());
        let value = parts.next().and_then(|value| HeaderValue::from_bytes(value).ok());
        if let (Some(name), Some(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}
