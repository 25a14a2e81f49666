//! openraft's types to and from the messages of `peer.proto`: all conversions, and nothing else. Never does IO.
//!
//! Sending cannot fail; a received message can lack a field or carry an impossible value, and is then refused as a [`WireError`]
//! before it reaches Raft. A decoded normal payload shares the message's bytes.

use std::collections::{BTreeMap, BTreeSet};

use openraft::EntryPayload;
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};

use crate::raft::log_time::Telling;
use crate::raft::peer;
use crate::types::{
    CommittedLeaderId, Entry, EntryData, LogId, Membership, Node, NodeId, StoredMembership, TypeConfig, Vote,
};

/// A peer sent something that this version cannot mean.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field that must be there is not.
    #[error("the message has no {0}")]
    Missing(&'static str),
    /// Voter sets and nodes contradict each other.
    #[error("impossible membership: {0}")]
    Membership(String),
    /// A vote speaks for the node that sends it.
    #[error("the message is from node {from:016x} and carries the vote of node {of:016x}")]
    OthersVote {
        /// The sender.
        from: NodeId,
        /// Whom the vote is for.
        of: NodeId,
    },
    /// Entries that no leader's log can hold.
    #[error("entry {found} does not follow {before}")]
    Gap {
        /// What comes before it in the message, as a log id.
        before: String,
        /// The entry's log id.
        found: String,
    },
}

impl From<WireError> for tonic::Status {
    fn from(error: WireError) -> Self {
        tonic::Status::invalid_argument(error.to_string())
    }
}

/// A node, as membership and introductions carry it.
pub fn encode_node(node: &Node) -> peer::Node {
    peer::Node { name: node.name.clone(), raft_addr: node.raft_addr.clone(), grpc_addr: node.grpc_addr.clone() }
}

/// The opposite of [`encode_node`].
pub fn decode_node(node: peer::Node) -> Node {
    Node { name: node.name, raft_addr: node.raft_addr, grpc_addr: node.grpc_addr }
}

/// A log id.
pub fn encode_log_id(id: &LogId) -> peer::LogId {
    peer::LogId { term: id.leader_id.term, leader: id.leader_id.node_id, index: id.index }
}

/// The opposite of [`encode_log_id`].
pub fn decode_log_id(id: &peer::LogId) -> LogId {
    LogId::new(CommittedLeaderId { term: id.term, node_id: id.leader }, id.index)
}

/// A vote.
pub fn encode_vote(vote: &Vote) -> peer::Ballot {
    peer::Ballot { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
}

/// The opposite of [`encode_vote`].
pub fn decode_vote(ballot: Option<peer::Ballot>) -> Result<Vote, WireError> {
    let ballot = ballot.ok_or(WireError::Missing("vote"))?;
    Ok(match ballot.committed {
        true => Vote::new_committed(ballot.term, ballot.node),
        false => Vote::new(ballot.term, ballot.node),
    })
}

/// Voter sets and nodes.
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

/// The opposite of [`encode_membership`].
pub fn decode_membership(membership: peer::Membership) -> Result<Membership, WireError> {
    let configs = membership.configs.into_iter().map(|set| set.voters.into_iter().collect::<BTreeSet<_>>()).collect();
    let nodes = membership
        .nodes
        .into_iter()
        .map(|member| Ok((member.id, decode_node(member.node.ok_or(WireError::Missing("node of a member"))?))))
        .collect::<Result<BTreeMap<_, _>, WireError>>()?;
    Membership::new(configs, nodes).map_err(|error| WireError::Membership(error.to_string()))
}

/// A log entry.
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

/// The opposite of [`encode_entry`].
pub fn decode_entry(entry: peer::Entry) -> Result<Entry, WireError> {
    use peer::entry::Payload;
    let log_id = decode_log_id(&entry.log_id.ok_or(WireError::Missing("log id of an entry"))?);
    let payload = match entry.payload.ok_or(WireError::Missing("payload of an entry"))? {
        Payload::Blank(_) => EntryPayload::Blank,
        Payload::Normal(bytes) => EntryPayload::Normal(EntryData(bytes)),
        Payload::Membership(membership) => EntryPayload::Membership(decode_membership(membership)?),
    };
    Ok(Entry { log_id, payload })
}

/// Entries, or a heartbeat when there are none.
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

/// Adds to a heartbeat what its leader says of log time.
pub fn with_telling(append: peer::AppendRequest, telling: Telling) -> peer::AppendRequest {
    let Telling { log_ms, median_ms } = telling;
    peer::AppendRequest { log_time_ms: log_ms, voters_clock_ms: median_ms.unwrap_or(0), ..append }
}

/// The opposite of [`with_telling`].
pub fn telling_of(append: &peer::AppendRequest) -> Telling {
    let median_ms = Some(append.voters_clock_ms).filter(|clock_ms| *clock_ms != 0);
    Telling { log_ms: append.log_time_ms, median_ms }
}

/// The opposite of [`encode_append`]; the route is checked elsewhere.
pub fn decode_append(request: peer::AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>, WireError> {
    Ok(AppendEntriesRequest {
        vote: decode_vote(request.vote)?,
        prev_log_id: request.prev.as_ref().map(decode_log_id),
        entries: request.entries.into_iter().map(decode_entry).collect::<Result<_, _>>()?,
        leader_commit: request.leader_commit.as_ref().map(decode_log_id),
    })
}

/// What a leader's append always has: its own vote, and entries that follow each other and `prev`. openraft takes that for granted.
pub fn check_append(from: NodeId, request: &AppendEntriesRequest<TypeConfig>) -> Result<(), WireError> {
    check_vote(from, &request.vote)?;
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

/// Whether the vote is the sender's own.
pub fn check_vote(from: NodeId, vote: &Vote) -> Result<(), WireError> {
    if vote.leader_id.node_id == from {
        Ok(())
    } else {
        Err(WireError::OthersVote { from, of: vote.leader_id.node_id })
    }
}

/// One answer on the append stream.
pub fn encode_stream_result(result: &StreamAppendResult<TypeConfig>) -> peer::AppendResponse {
    use peer::append_response::Result as Answer;
    let (answer, flushed) = match result {
        Ok(flushed) => (Answer::Success(true), flushed.as_ref().map(encode_log_id)),
        Err(StreamAppendError::Conflict(at)) => (Answer::Conflict(encode_log_id(at)), None),
        Err(StreamAppendError::HigherVote(vote)) => (Answer::HigherVote(encode_vote(vote)), None),
    };
    peer::AppendResponse { result: Some(answer), flushed, clock_ms: 0 }
}

/// The opposite of [`encode_stream_result`].
pub fn decode_stream_result(response: peer::AppendResponse) -> Result<StreamAppendResult<TypeConfig>, WireError> {
    use peer::append_response::Result as Answer;
    Ok(match response.result.ok_or(WireError::Missing("result of an append"))? {
        Answer::Success(_) => Ok(response.flushed.as_ref().map(decode_log_id)),
        Answer::Conflict(at) => Err(StreamAppendError::Conflict(decode_log_id(&at))),
        Answer::HigherVote(vote) => Err(StreamAppendError::HigherVote(decode_vote(Some(vote))?)),
    })
}

/// The answer to a heartbeat whose request had `prev`. A heartbeat carries no entries, so it cannot succeed in part.
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

/// The opposite of [`encode_heartbeat_response`].
pub fn decode_heartbeat_response(
    response: peer::AppendResponse,
) -> Result<AppendEntriesResponse<TypeConfig>, WireError> {
    Ok(decode_stream_result(response)?.into())
}

/// A vote or pre-vote.
pub fn encode_vote_request(route: peer::Route, request: &VoteRequest<TypeConfig>) -> peer::VoteRequest {
    peer::VoteRequest {
        route: Some(route),
        vote: Some(encode_vote(&request.vote)),
        last: request.last_log_id.as_ref().map(encode_log_id),
        leadership_transfer: request.leadership_transfer,
    }
}

/// The opposite of [`encode_vote_request`].
pub fn decode_vote_request(request: peer::VoteRequest) -> Result<VoteRequest<TypeConfig>, WireError> {
    Ok(VoteRequest {
        vote: decode_vote(request.vote)?,
        last_log_id: request.last.as_ref().map(decode_log_id),
        leadership_transfer: request.leadership_transfer,
    })
}

/// The answer to a vote or pre-vote.
pub fn encode_vote_response(response: &VoteResponse<TypeConfig>) -> peer::VoteResponse {
    peer::VoteResponse {
        vote: Some(encode_vote(&response.vote)),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(encode_log_id),
    }
}

/// The opposite of [`encode_vote_response`].
pub fn decode_vote_response(response: peer::VoteResponse) -> Result<VoteResponse<TypeConfig>, WireError> {
    Ok(VoteResponse::new(decode_vote(response.vote)?, response.last.as_ref().map(decode_log_id), response.granted))
}

/// A leader that hands over.
pub fn encode_transfer(route: peer::Route, request: &TransferLeaderRequest<TypeConfig>) -> peer::TransferLeaderRequest {
    peer::TransferLeaderRequest {
        route: Some(route),
        from_leader: Some(encode_vote(request.from_leader())),
        to: *request.to_node_id(),
        last: request.last_log_id().map(encode_log_id),
    }
}

/// The opposite of [`encode_transfer`].
pub fn decode_transfer(request: peer::TransferLeaderRequest) -> Result<TransferLeaderRequest<TypeConfig>, WireError> {
    let last = request.last.as_ref().map(decode_log_id);
    Ok(TransferLeaderRequest::new(decode_vote(request.from_leader)?, request.to, last))
}

/// Whether the receiver agreed to be told about the hand-over.
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

/// The opposite of [`encode_transfer_response`].
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
            expected: refusal.expected.as_ref().map(decode_log_id),
            actual: refusal.actual.as_ref().map(decode_log_id),
        }),
    })
}

/// What precedes the frames of a snapshot.
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

/// The opposite of [`encode_snapshot_header`].
pub fn decode_snapshot_header(header: peer::SnapshotHeader) -> Result<(Vote, SnapshotMetaOf<TypeConfig>), WireError> {
    let membership = decode_membership(header.membership.ok_or(WireError::Missing("membership"))?)?;
    let meta = SnapshotMetaOf::<TypeConfig> {
        last_log_id: header.last.as_ref().map(decode_log_id),
        last_membership: StoredMembership::new(header.membership_log_id.as_ref().map(decode_log_id), membership),
    };
    Ok((decode_vote(header.vote)?, meta))
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
