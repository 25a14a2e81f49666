//! Converts openraft's types to and from the messages of `peer.proto`. Holds all conversions and
//! nothing else. Never does IO.
//!
//! Encoding cannot fail. A received message can lack a field or carry an impossible value; it is
//! then refused as a [`WireError`] before it reaches Raft. A decoded normal payload shares the
//! message's bytes.

use std::collections::{BTreeMap, BTreeSet};

use lockstep_proto::peer;
use openraft::EntryPayload;
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use prost::Message;

use super::bounds::{INDEX_END, TERM_END};
use super::handlers::Trial;
use super::wire_error::WireError;
use crate::codec::{Change, entry};
use crate::machine::RollbackTrial;
use crate::raft::time::log_time::Telling;
use crate::types::{
    Addresses, CommittedLeaderId, Entry, EntryData, LogId, Membership, NodeId, StoredMembership, TypeConfig, Vote,
};

/// Bytes of a component's BLAKE3.
const COMPONENT_HASH_BYTES: usize = 32;

/// Encodes a node, as membership and introductions carry it.
pub fn encode_node(node: &Addresses) -> peer::Node {
    peer::Node { name: node.name.clone(), raft_addr: node.raft_addr.clone(), grpc_addr: node.grpc_addr.clone() }
}

/// Decodes what [`encode_node`] encoded.
pub fn decode_node(node: peer::Node) -> Addresses {
    Addresses { name: node.name, raft_addr: node.raft_addr, grpc_addr: node.grpc_addr }
}

/// Encodes a log id.
pub fn encode_log_id(id: &LogId) -> peer::LogId {
    peer::LogId { term: id.leader_id.term, leader: id.leader_id.node_id, index: id.index }
}

/// Decodes what [`encode_log_id`] encoded. `what` names the field.
pub fn decode_log_id(what: &'static str, id: &peer::LogId) -> Result<LogId, WireError> {
    let log_id = LogId::new(CommittedLeaderId { term: id.term, node_id: id.leader }, id.index);
    match id.term < TERM_END && id.index < INDEX_END {
        true => Ok(log_id),
        false => Err(WireError::BeyondEnd { what, found: log_id.to_string() }),
    }
}

pub(in crate::raft) fn decode_place(what: &'static str, id: Option<&peer::LogId>) -> Result<Option<LogId>, WireError> {
    id.map(|id| decode_log_id(what, id)).transpose()
}

/// Encodes a vote.
pub fn encode_vote(vote: &Vote) -> peer::Ballot {
    peer::Ballot { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
}

/// Decodes what [`encode_vote`] encoded.
pub fn decode_vote(ballot: Option<peer::Ballot>) -> Result<Vote, WireError> {
    let ballot = ballot.ok_or(WireError::Missing("vote"))?;
    // This function does not know this node's own vote. `bounds` checks how far a vote may be ahead
    // of it.
    if ballot.term >= TERM_END {
        return Err(WireError::BeyondEnd { what: "the vote", found: format!("of term {}", ballot.term) });
    }
    Ok(match ballot.committed {
        true => Vote::new_committed(ballot.term, ballot.node),
        false => Vote::new(ballot.term, ballot.node),
    })
}

/// Encodes voter sets and nodes.
pub fn encode_membership(membership: &Membership) -> peer::Membership {
    peer::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|voters| peer::VoterSet { voters: voters.iter().copied().collect() })
            .collect(),
        nodes: membership.nodes().map(|(&id, node)| peer::Member { id, node: Some(encode_node(node)) }).collect(),
    }
}

/// Decodes what [`encode_membership`] encoded.
pub fn decode_membership(membership: peer::Membership) -> Result<Membership, WireError> {
    let configs = membership.configs.into_iter().map(|set| set.voters.into_iter().collect::<BTreeSet<_>>()).collect();
    let nodes = membership
        .nodes
        .into_iter()
        .map(|member| Ok((member.id, decode_node(member.node.ok_or(WireError::Missing("node of a member"))?))))
        .collect::<Result<BTreeMap<_, _>, WireError>>()?;
    Membership::new(configs, nodes).map_err(|error| WireError::Membership(error.to_string()))
}

/// Encodes a log entry.
pub fn encode_entry(entry: &Entry) -> peer::Entry {
    use peer::entry::Payload;
    peer::Entry {
        log_id: Some(encode_log_id(&entry.log_id)),
        payload: Some(match &entry.payload {
            EntryPayload::Blank => Payload::Blank(true),
            EntryPayload::Normal(data) => Payload::Normal(data.0.clone()),
            EntryPayload::Membership(membership) => Payload::Membership(encode_membership(membership)),
        }),
    }
}

/// Decodes what [`encode_entry`] encoded.
pub fn decode_entry(entry: peer::Entry) -> Result<Entry, WireError> {
    use peer::entry::Payload;
    let log_id = decode_log_id("an entry", &entry.log_id.ok_or(WireError::Missing("log id of an entry"))?)?;
    let payload = match entry.payload.ok_or(WireError::Missing("payload of an entry"))? {
        Payload::Blank(_) => EntryPayload::Blank,
        Payload::Normal(bytes) => EntryPayload::Normal(EntryData(bytes)),
        Payload::Membership(membership) => EntryPayload::Membership(decode_membership(membership)?),
    };
    Ok(Entry { log_id, payload })
}

/// Encodes entries, or a heartbeat when there are none.
pub fn encode_append(route: peer::Route, request: &AppendEntriesRequest<TypeConfig>) -> peer::AppendRequest {
    peer::AppendRequest {
        route: Some(route),
        vote: Some(encode_vote(&request.vote)),
        prev: request.prev_log_id.as_ref().map(encode_log_id),
        entries: request.entries.iter().map(encode_entry).collect(),
        leader_commit: request.leader_commit.as_ref().map(encode_log_id),
        boot: 0,
        log_time_ms: 0,
        voters_clock_ms: 0,
    }
}

/// Adds the leader's statement of log time to a heartbeat.
pub fn with_telling(append: peer::AppendRequest, telling: Telling) -> peer::AppendRequest {
    let Telling { log_ms, median_ms } = telling;
    peer::AppendRequest { log_time_ms: log_ms, voters_clock_ms: median_ms.unwrap_or(0), ..append }
}

/// Returns what [`with_telling`] added.
pub fn telling_of(append: &peer::AppendRequest) -> Telling {
    let median_ms = Some(append.voters_clock_ms).filter(|clock_ms| *clock_ms != 0);
    Telling { log_ms: append.log_time_ms, median_ms }
}

/// Decodes what [`encode_append`] encoded. The route is checked elsewhere.
pub fn decode_append(request: peer::AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>, WireError> {
    Ok(AppendEntriesRequest {
        vote: decode_vote(request.vote)?,
        prev_log_id: decode_place("prev", request.prev.as_ref())?,
        entries: request.entries.into_iter().map(decode_entry).collect::<Result<_, _>>()?,
        leader_commit: decode_place("leader_commit", request.leader_commit.as_ref())?,
    })
}

/// Checks what every append of a leader fulfils: it carries the leader's own vote and nothing of a
/// later one, and its entries follow each other and `prev`. openraft relies on that.
pub fn check_append(from: NodeId, request: &AppendEntriesRequest<TypeConfig>) -> Result<(), WireError> {
    check_vote(from, &request.vote)?;
    let last = request.entries.last().map(|entry| entry.log_id);
    for (what, log_id) in [("prev", request.prev_log_id), ("leader_commit", request.leader_commit), ("an entry", last)]
    {
        check_before(what, log_id, &request.vote)?;
    }
    let mut before = request.prev_log_id;
    for entry in &request.entries {
        let index = before.map_or(0, |before| before.index + 1);
        let leader = before.map(|before| before.leader_id);
        if entry.log_id.index != index || Some(entry.log_id.leader_id) < leader {
            let before = before.map_or("the beginning".to_owned(), |before| before.to_string());
            return Err(WireError::Gap { before, found: entry.log_id.to_string() });
        }
        before = Some(entry.log_id);
    }
    Ok(())
}

/// Checks that the receiver of a request that ended at `sent` can have flushed that much: it counts
/// toward a commit.
pub(in crate::raft) fn check_flushed(flushed: Option<LogId>, sent: Option<LogId>) -> Result<(), WireError> {
    match flushed > sent {
        true => Err(WireError::BeyondRequest { found: flushed, sent }),
        false => Ok(()),
    }
}

/// Checks that a log id can be in the log of a leader or candidate with this vote.
fn check_before(what: &'static str, log_id: Option<LogId>, vote: &Vote) -> Result<(), WireError> {
    let leader = CommittedLeaderId { term: vote.leader_id.term, node_id: vote.leader_id.node_id };
    match log_id.filter(|log_id| log_id.leader_id > leader) {
        None => Ok(()),
        Some(later) => Err(WireError::BeyondVote { what, found: later.to_string(), vote: vote.to_string() }),
    }
}

/// Checks that the vote is the sender's own.
pub fn check_vote(from: NodeId, vote: &Vote) -> Result<(), WireError> {
    if vote.leader_id.node_id == from {
        Ok(())
    } else {
        Err(WireError::OthersVote { from, of: vote.leader_id.node_id })
    }
}

/// Encodes one answer on the append stream.
pub fn encode_stream_result(result: &StreamAppendResult<TypeConfig>) -> peer::AppendResponse {
    use peer::append_response::Result as Answer;
    let (answer, flushed) = match result {
        Ok(flushed) => (Answer::Success(true), flushed.as_ref().map(encode_log_id)),
        Err(StreamAppendError::Conflict(at)) => (Answer::Conflict(encode_log_id(at)), None),
        Err(StreamAppendError::HigherVote(vote)) => (Answer::HigherVote(encode_vote(vote)), None),
    };
    peer::AppendResponse { result: Some(answer), flushed, clock_ms: 0 }
}

/// Decodes what [`encode_stream_result`] encoded.
pub fn decode_stream_result(response: peer::AppendResponse) -> Result<StreamAppendResult<TypeConfig>, WireError> {
    use peer::append_response::Result as Answer;
    Ok(match response.result.ok_or(WireError::Missing("result of an append"))? {
        Answer::Success(_) => Ok(decode_place("flushed", response.flushed.as_ref())?),
        Answer::Conflict(at) => Err(StreamAppendError::Conflict(decode_log_id("conflict", &at)?)),
        Answer::HigherVote(vote) => Err(StreamAppendError::HigherVote(decode_vote(Some(vote))?)),
    })
}

/// Encodes the answer to a heartbeat whose request had `prev`. A heartbeat carries no entries, so
/// it cannot succeed in part.
pub fn encode_heartbeat_response(
    response: AppendEntriesResponse<TypeConfig>,
    prev: Option<LogId>,
) -> peer::AppendResponse {
    encode_stream_result(&match response {
        AppendEntriesResponse::Success => Ok(prev),
        AppendEntriesResponse::PartialSuccess(flushed) => Ok(flushed),
        AppendEntriesResponse::Conflict => match prev {
            Some(at) => Err(StreamAppendError::Conflict(at)),
            // Nothing precedes the first entry, so nothing can contradict it.
            None => Ok(None),
        },
        AppendEntriesResponse::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote)),
    })
}

/// Decodes what [`encode_heartbeat_response`] encoded.
pub fn decode_heartbeat_response(
    response: peer::AppendResponse,
) -> Result<AppendEntriesResponse<TypeConfig>, WireError> {
    Ok(decode_stream_result(response)?.into())
}

/// Encodes a request for a vote or pre-vote.
pub fn encode_vote_request(route: peer::Route, request: &VoteRequest<TypeConfig>) -> peer::VoteRequest {
    peer::VoteRequest {
        route: Some(route),
        vote: Some(encode_vote(&request.vote)),
        last: request.last_log_id.as_ref().map(encode_log_id),
        leadership_transfer: request.leadership_transfer,
    }
}

/// Decodes what [`encode_vote_request`] encoded.
pub fn decode_vote_request(request: peer::VoteRequest) -> Result<VoteRequest<TypeConfig>, WireError> {
    Ok(VoteRequest {
        vote: decode_vote(request.vote)?,
        last_log_id: decode_place("last", request.last.as_ref())?,
        leadership_transfer: request.leadership_transfer,
    })
}

/// Encodes the answer to a vote or pre-vote.
pub fn encode_vote_response(response: &VoteResponse<TypeConfig>) -> peer::VoteResponse {
    peer::VoteResponse {
        vote: Some(encode_vote(&response.vote)),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(encode_log_id),
    }
}

/// Decodes what [`encode_vote_response`] encoded.
pub fn decode_vote_response(response: peer::VoteResponse) -> Result<VoteResponse<TypeConfig>, WireError> {
    let last = decode_place("last", response.last.as_ref())?;
    Ok(VoteResponse::new(decode_vote(response.vote)?, last, response.granted))
}

/// Encodes the request of a leader that hands over.
pub fn encode_transfer(route: peer::Route, request: &TransferLeaderRequest<TypeConfig>) -> peer::TransferLeaderRequest {
    peer::TransferLeaderRequest {
        route: Some(route),
        from_leader: Some(encode_vote(request.from_leader())),
        to: *request.to_node_id(),
        last: request.last_log_id().map(encode_log_id),
    }
}

/// Decodes what [`encode_transfer`] encoded.
pub fn decode_transfer(request: peer::TransferLeaderRequest) -> Result<TransferLeaderRequest<TypeConfig>, WireError> {
    let last = decode_place("last", request.last.as_ref())?;
    Ok(TransferLeaderRequest::new(decode_vote(request.from_leader)?, request.to, last))
}

/// Encodes whether the receiver accepted the hand-over.
pub fn encode_transfer_response(response: &TransferLeaderResponse<TypeConfig>) -> peer::TransferLeaderResponse {
    use peer::transfer_leader_response::{LogNotFlushed, Refusal, VoteChanged};
    peer::TransferLeaderResponse {
        refusal: response.as_ref().err().map(|error| match error {
            TransferLeaderError::VoteChanged { expected, actual } => Refusal::VoteChanged(VoteChanged {
                expected: Some(encode_vote(expected)),
                actual: Some(encode_vote(actual)),
            }),
            TransferLeaderError::LogNotFlushed { expected, actual } => Refusal::LogNotFlushed(LogNotFlushed {
                expected: expected.as_ref().map(encode_log_id),
                actual: actual.as_ref().map(encode_log_id),
            }),
        }),
    }
}

/// Decodes what [`encode_transfer_response`] encoded.
pub fn decode_transfer_response(
    response: peer::TransferLeaderResponse,
) -> Result<TransferLeaderResponse<TypeConfig>, WireError> {
    use peer::transfer_leader_response::Refusal;
    Ok(match response.refusal {
        None => Ok(()),
        Some(Refusal::VoteChanged(refusal)) => Err(TransferLeaderError::VoteChanged {
            expected: decode_vote(refusal.expected)?,
            actual: decode_vote(refusal.actual)?,
        }),
        Some(Refusal::LogNotFlushed(refusal)) => Err(TransferLeaderError::LogNotFlushed {
            expected: decode_place("expected", refusal.expected.as_ref())?,
            actual: decode_place("actual", refusal.actual.as_ref())?,
        }),
    })
}

/// Encodes the header that precedes the frames of a snapshot.
pub fn encode_snapshot_header<D: Send + 'static>(
    route: peer::Route,
    vote: &Vote,
    snapshot: &SnapshotOf<TypeConfig, D>,
) -> peer::SnapshotHeader {
    let membership = &snapshot.meta.last_membership;
    peer::SnapshotHeader {
        route: Some(route),
        vote: Some(encode_vote(vote)),
        last: snapshot.meta.last_log_id.as_ref().map(encode_log_id),
        membership_log_id: membership.log_id().as_ref().map(encode_log_id),
        membership: Some(encode_membership(membership.membership())),
    }
}

/// Decodes what [`encode_snapshot_header`] encoded.
pub fn decode_snapshot_header(header: peer::SnapshotHeader) -> Result<(Vote, SnapshotMetaOf<TypeConfig>), WireError> {
    let membership = decode_membership(header.membership.ok_or(WireError::Missing("membership"))?)?;
    let vote = decode_vote(header.vote)?;
    let last_log_id = decode_place("last", header.last.as_ref())?;
    let membership_log_id = decode_place("membership_log_id", header.membership_log_id.as_ref())?;
    let last_membership = StoredMembership::new(membership_log_id, membership);
    Ok((vote, SnapshotMetaOf::<TypeConfig> { last_log_id, last_membership }))
}

/// Checks what the header of every leader's snapshot fulfils: it carries the leader's own vote and
/// nothing of a later one.
pub fn check_snapshot(from: NodeId, vote: &Vote, meta: &SnapshotMetaOf<TypeConfig>) -> Result<(), WireError> {
    check_vote(from, vote)?;
    check_before("last", meta.last_log_id, vote)?;
    check_before("membership_log_id", *meta.last_membership.log_id(), vote)
}

/// Decodes a change of what the cluster runs.
pub fn decode_change(bytes: &[u8]) -> Result<Change, WireError> {
    let change = Change::decode(bytes).map_err(|_| WireError::Unreadable("change"))?;
    match change.component_hash.len() {
        COMPONENT_HASH_BYTES => Ok(change),
        _ => Err(WireError::Unreadable("hash of a component")),
    }
}

/// Decodes values of retention and quotas.
pub fn decode_operation(bytes: &[u8]) -> Result<entry::Operation, WireError> {
    entry::Operation::decode(bytes).map_err(|_| WireError::Unreadable("values"))
}

/// Encodes what a member is to try out.
pub fn encode_trial(route: peer::Route, trial: &Trial) -> peer::RehearseChangeRequest {
    peer::RehearseChangeRequest {
        route: Some(route),
        change: trial.change.encode_to_vec().into(),
        mark: trial.mark.to_vec().into(),
        index: trial.index,
        first: trial.first,
    }
}

/// Decodes what [`encode_trial`] encoded.
pub fn decode_trial(request: &peer::RehearseChangeRequest) -> Result<Trial, WireError> {
    let change = decode_change(&request.change)?;
    let mark = request.mark.as_ref().try_into().map_err(|_| WireError::Unreadable("mark"))?;
    let &peer::RehearseChangeRequest { index, first, .. } = request;
    match first <= index && index < INDEX_END {
        true => Ok(Trial { change, mark, index, first }),
        false => Err(WireError::Unreadable("range of entries")),
    }
}

/// Encodes what a member is to make ready for.
pub fn encode_rollback(route: peer::Route, trial: RollbackTrial) -> peer::PrepareRollbackRequest {
    let RollbackTrial { change_index, at } = trial;
    peer::PrepareRollbackRequest { route: Some(route), change_index, at: at.unwrap_or(0) }
}

/// Decodes what [`encode_rollback`] encoded.
pub fn decode_rollback(request: &peer::PrepareRollbackRequest) -> Result<RollbackTrial, WireError> {
    let &peer::PrepareRollbackRequest { change_index, at, .. } = request;
    match change_index.max(at) < INDEX_END {
        true => Ok(RollbackTrial { change_index, at: Some(at).filter(|at| *at > 0) }),
        false => Err(WireError::Unreadable("index of an entry")),
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
