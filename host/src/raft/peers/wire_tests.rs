//! Tests the promises of `wire.rs`: every message survives encoding and decoding, foreign bytes are
//! refused, and the bytes of an append do not change.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::types::hex;

fn route() -> peer::Route {
    peer::Route { cluster_id: vec![7; 16].into(), incarnation: 1, group: 0, from: 1, to: 2, ..Default::default() }
}

fn log_id(term: u64, node: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId { term, node_id: node }, index)
}

fn log_ids() -> impl Strategy<Value = LogId> {
    (0..TERM_END, any::<u64>(), 0..INDEX_END).prop_map(|(term, node, index)| log_id(term, node, index))
}

fn votes() -> impl Strategy<Value = Vote> {
    (0..TERM_END, any::<u64>(), any::<bool>()).prop_map(|(term, node, committed)| match committed {
        true => Vote::new_committed(term, node),
        false => Vote::new(term, node),
    })
}

fn memberships() -> impl Strategy<Value = Membership> {
    prop::collection::btree_map(any::<u64>(), "[a-z]{1,4}", 1..6).prop_flat_map(|names| {
        let ids: Vec<u64> = names.keys().copied().collect();
        let sets = prop::collection::btree_set(prop::sample::select(ids), 1..4);
        prop::collection::vec(sets, 1..3).prop_map(move |configs| {
            let nodes: BTreeMap<_, _> = names
                .iter()
                .map(|(&id, name)| {
                    (
                        id,
                        Addresses {
                            name: name.clone(),
                            raft_addr: format!("{name}:1"),
                            grpc_addr: format!("{name}:2"),
                        },
                    )
                })
                .collect();
            Membership::new(configs, nodes).unwrap()
        })
    })
}

fn entries() -> impl Strategy<Value = Entry> {
    let payload = prop_oneof![
        Just(EntryPayload::Blank),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| EntryPayload::Normal(EntryData(bytes.into()))),
        memberships().prop_map(EntryPayload::Membership),
    ];
    (log_ids(), payload).prop_map(|(log_id, payload)| Entry { log_id, payload })
}

fn over_the_wire<M: Message + Default>(message: M) -> M {
    M::decode(Bytes::from(message.encode_to_vec())).unwrap()
}

#[test]
fn append_bytes_are_frozen() {
    let request = AppendEntriesRequest::<TypeConfig> {
        vote: Vote::new_committed(3, 1),
        prev_log_id: Some(log_id(2, 1, 8)),
        entries: vec![Entry {
            log_id: log_id(3, 1, 9),
            payload: EntryPayload::Normal(EntryData(Bytes::from_static(b"ab"))),
        }],
        leader_commit: None,
    };
    assert_eq!(
        hex(&encode_append(route(), &request).encode_to_vec()),
        format!(
            "{}{}{}{}",
            // Route: cluster id, incarnation, from, to (group 0 takes no bytes).
            "0a26 0a10 07070707070707070707070707070707 1001 21 0100000000000000 29 0200000000000000".replace(' ', ""),
            "120d 0803 11 0100000000000000 1801".replace(' ', ""),
            "1a0d 0802 11 0100000000000000 1808".replace(' ', ""),
            "2213 0a0d 0803 11 0100000000000000 1809 1a02 6162".replace(' ', ""),
        )
    );
}

#[test]
fn what_a_heartbeat_says_of_time_survives_and_an_older_one_says_nothing() {
    let append = peer::AppendRequest::default();
    for telling in [Telling { log_ms: 5, median_ms: Some(4) }, Telling { log_ms: 5, median_ms: None }] {
        assert_eq!(telling_of(&over_the_wire(with_telling(append.clone(), telling))), telling);
    }
    assert_eq!(telling_of(&append), Telling { log_ms: 0, median_ms: None });
}

#[test]
fn messages_without_their_fields_are_refused_by_name() {
    assert_eq!(decode_append(peer::AppendRequest::default()).unwrap_err(), WireError::Missing("vote"));
    assert_eq!(decode_entry(peer::Entry::default()), Err(WireError::Missing("log id of an entry")));
    let empty = peer::Entry { log_id: Some(encode_log_id(&log_id(1, 1, 1))), payload: None };
    assert_eq!(decode_entry(empty), Err(WireError::Missing("payload of an entry")));
    assert!(decode_stream_result(peer::AppendResponse::default()).is_err());
    assert!(decode_snapshot_header(peer::SnapshotHeader::default()).is_err());
}

#[test]
fn a_voter_without_a_node_is_refused() {
    let membership = peer::Membership { configs: vec![peer::VoterSet { voters: vec![1] }], nodes: vec![] };
    assert!(matches!(decode_membership(membership), Err(WireError::Membership(_))));
}

#[test]
fn the_empty_membership_of_a_fresh_node_survives() {
    let empty = Membership::default();
    assert_eq!(decode_membership(over_the_wire(encode_membership(&empty))).unwrap(), empty);
}

#[test]
fn a_heartbeat_conflict_names_the_place_that_was_asked_about() {
    let wire = encode_heartbeat_response(AppendEntriesResponse::Conflict, Some(log_id(1, 2, 3)));
    assert_eq!(decode_stream_result(wire).unwrap(), Err(StreamAppendError::Conflict(log_id(1, 2, 3))));
    assert_eq!(decode_heartbeat_response(wire).unwrap(), AppendEntriesResponse::Conflict);
}

#[test]
fn refused_transfers_say_why() {
    let refusals = [
        Ok(()),
        Err(TransferLeaderError::VoteChanged { expected: Vote::new(1, 2), actual: Vote::new_committed(3, 4) }),
        Err(TransferLeaderError::LogNotFlushed { expected: Some(log_id(1, 2, 3)), actual: None }),
    ];
    for refusal in refusals {
        assert_eq!(decode_transfer_response(over_the_wire(encode_transfer_response(&refusal))).unwrap(), refusal);
    }
}

proptest! {
    #[test]
    fn appends_survive(
        vote in votes(), prev_log_id in prop::option::of(log_ids()), leader_commit in prop::option::of(log_ids()),
        entries in prop::collection::vec(entries(), 0..5),
    ) {
        let request = AppendEntriesRequest::<TypeConfig> { vote, prev_log_id, entries, leader_commit };
        let back = decode_append(over_the_wire(encode_append(route(), &request))).unwrap();
        prop_assert_eq!(back.vote, request.vote);
        prop_assert_eq!(back.prev_log_id, request.prev_log_id);
        prop_assert_eq!(back.entries, request.entries);
        prop_assert_eq!(back.leader_commit, request.leader_commit);
    }

    #[test]
    fn append_answers_survive(flushed in prop::option::of(log_ids()), at in log_ids(), vote in votes()) {
        for answer in [Ok(flushed), Err(StreamAppendError::Conflict(at)), Err(StreamAppendError::HigherVote(vote))] {
            prop_assert_eq!(decode_stream_result(over_the_wire(encode_stream_result(&answer))).unwrap(), answer);
        }
    }

    #[test]
    fn votes_survive(vote in votes(), last_log_id in prop::option::of(log_ids()), leadership_transfer: bool, granted: bool) {
        let request = VoteRequest::<TypeConfig> { vote, last_log_id, leadership_transfer };
        prop_assert_eq!(decode_vote_request(over_the_wire(encode_vote_request(route(), &request))).unwrap(), request);
        let response = VoteResponse::<TypeConfig>::new(vote, last_log_id, granted);
        prop_assert_eq!(decode_vote_response(over_the_wire(encode_vote_response(&response))).unwrap(), response);
        let transfer = TransferLeaderRequest::<TypeConfig>::new(vote, 9, last_log_id);
        prop_assert_eq!(decode_transfer(over_the_wire(encode_transfer(route(), &transfer))).unwrap(), transfer);
    }

    #[test]
    fn snapshot_headers_survive(
        vote in votes(), last_log_id in prop::option::of(log_ids()), at in prop::option::of(log_ids()), set in memberships(),
    ) {
        let meta = SnapshotMetaOf::<TypeConfig> { last_log_id, last_membership: StoredMembership::new(at, set) };
        let snapshot = SnapshotOf::<TypeConfig, ()> { meta: meta.clone(), snapshot: () };
        let header = over_the_wire(encode_snapshot_header(route(), &vote, &snapshot));
        prop_assert_eq!(decode_snapshot_header(header).unwrap(), (vote, meta));
    }

    #[test]
    fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        if let Ok(message) = peer::AppendRequest::decode(bytes.clone()) { drop(decode_append(message)); }
        if let Ok(message) = peer::SnapshotHeader::decode(bytes) { drop(decode_snapshot_header(message)); }
    }
}

#[test]
fn entries_that_no_leader_has_in_a_row_are_refused() {
    let append = |from: u64, prev: Option<LogId>, ids: &[LogId]| {
        let entries = ids.iter().map(|log_id| Entry { log_id: *log_id, payload: EntryPayload::Blank }).collect();
        let vote = Vote { leader_id: CommittedLeaderId { term: 3, node_id: 1 }, committed: true };
        check_append(from, &AppendEntriesRequest { vote, prev_log_id: prev, entries, leader_commit: None })
    };
    let id = |term, index| log_id(term, 1, index);
    assert_eq!(append(1, None, &[]), Ok(()));
    assert_eq!(append(1, None, &[id(1, 0), id(1, 1), id(3, 2)]), Ok(()));
    assert_eq!(append(1, Some(id(2, 5)), &[id(2, 6), id(3, 7)]), Ok(()));
    for (prev, ids) in [
        (None, &[id(1, 1)][..]),
        (Some(id(2, 5)), &[id(2, 7)]),
        (Some(id(2, 5)), &[id(2, 5)]),
        (Some(id(2, 5)), &[id(1, 6)]),
        (Some(id(2, 5)), &[id(2, 6), id(2, 8)]),
        (Some(id(2, 5)), &[id(2, 6), id(2, 6)]),
    ] {
        assert!(matches!(append(1, prev, ids), Err(WireError::Gap { .. })), "{prev:?} {ids:?}");
    }
    let error = append(2, None, &[]).unwrap_err().to_string();
    assert!(error.contains("from node 0000000000000002") && error.contains("0000000000000001"), "{error}");
}

fn trial() -> Trial {
    let change = Change { expected_index: 3, component_hash: vec![5; 32].into(), ..Change::default() };
    Trial { change, mark: [6; 16], index: 90, first: 40 }
}

#[test]
fn what_a_member_tries_out_survives_the_wire() {
    assert_eq!(decode_trial(&encode_trial(route(), &trial())), Ok(trial()));
    assert!(encode_trial(route(), &trial()).encode_to_vec().len() < 1 << 10, "it is a small message");
}

#[test]
fn what_no_member_can_try_out_is_refused() {
    let good = || encode_trial(route(), &trial());
    for (request, unreadable) in [
        (peer::RehearseChangeRequest { mark: vec![6; 15].into(), ..good() }, "mark"),
        (peer::RehearseChangeRequest { change: vec![0xff].into(), ..good() }, "change"),
        (peer::RehearseChangeRequest { change: Bytes::new(), ..good() }, "hash of a component"),
        (peer::RehearseChangeRequest { first: 91, ..good() }, "range of entries"),
        (peer::RehearseChangeRequest { index: INDEX_END, ..good() }, "range of entries"),
    ] {
        assert_eq!(decode_trial(&request), Err(WireError::Unreadable(unreadable)));
    }
}
