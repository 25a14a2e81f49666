//! Tests the rules of a canvass one by one.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::types::CommittedLeaderId;
use proptest::prelude::*;

const LEADER: NodeId = 9;

fn led(term: u64) -> Vote {
    Vote::new_committed(term, LEADER)
}

fn log(index: u64) -> Option<LogId> {
    Some(LogId::new(CommittedLeaderId { term: 1, node_id: LEADER }, index))
}

fn bereft(node: NodeId, index: u64) -> Opinion {
    Opinion { node, vote: led(5), last: log(index), leaderless: true }
}

fn voters(nodes: &[NodeId]) -> Vec<BTreeSet<NodeId>> {
    vec![nodes.iter().copied().collect()]
}

#[test]
fn one_refused_link_deposes_nobody() {
    let (me, three) = (bereft(1, 7), voters(&[1, 2, LEADER]));
    let hears_it = Opinion { leaderless: false, ..bereft(2, 7) };
    assert_eq!(verdict(&me, &[hears_it], &three, false), Decision::NoQuorum);
    assert_eq!(verdict(&me, &[], &three, false), Decision::NoQuorum);
    // Not even in a larger cluster, where two links are refused.
    let five = voters(&[1, 2, 3, 4, LEADER]);
    assert_eq!(verdict(&me, &[bereft(2, 7), hears_it], &five, false), Decision::NoQuorum);
}

#[test]
fn who_hears_the_leader_takes_no_part() {
    let me = Opinion { leaderless: false, ..bereft(1, 7) };
    assert_eq!(verdict(&me, &[bereft(2, 7), bereft(3, 7)], &voters(&[1, 2, 3]), true), Decision::Wait);
}

#[test]
fn the_greatest_log_stands_first_and_then_the_greatest_id() {
    let three = voters(&[1, 2, LEADER]);
    assert_eq!(verdict(&bereft(1, 8), &[bereft(2, 7)], &three, false), Decision::TakeOver(0));
    assert_eq!(verdict(&bereft(2, 7), &[bereft(1, 8)], &three, false), Decision::TakeOver(1));
    assert_eq!(verdict(&bereft(1, 7), &[bereft(2, 7)], &three, false), Decision::TakeOver(1));
    assert_eq!(verdict(&bereft(2, 7), &[bereft(1, 7)], &three, false), Decision::TakeOver(0));
    let later_term = Some(LogId::new(CommittedLeaderId { term: 2, node_id: 1 }, 3));
    let behind = Opinion { last: later_term, ..bereft(1, 0) };
    assert_eq!(verdict(&behind, &[bereft(2, 7)], &three, false), Decision::TakeOver(0), "term before index");
}

#[test]
fn the_others_follow_in_the_order_of_their_ids() {
    let five = voters(&[1, 2, 3, 4, LEADER]);
    let all = [bereft(1, 7), bereft(2, 7), bereft(3, 9), bereft(4, 7)];
    let ranks: Vec<Decision> = all
        .iter()
        .map(|me| {
            verdict(me, &all.iter().filter(|other| other.node != me.node).copied().collect::<Vec<_>>(), &five, false)
        })
        .collect();
    assert_eq!(ranks, [1, 2, 0, 3].map(Decision::TakeOver));
}

#[test]
fn other_votes_do_not_count_for_taking_over() {
    let three = voters(&[1, 2, LEADER]);
    for vote in [led(4), led(6), Vote::new(5, LEADER), Vote::new(6, 2)] {
        let other = Opinion { vote, ..bereft(2, 7) };
        assert_eq!(verdict(&bereft(1, 7), &[other], &three, false), Decision::NoQuorum, "{vote}");
        assert_eq!(verdict(&bereft(1, 8), &[other], &three, true), Decision::Stand(0), "{vote}");
    }
}

#[test]
fn an_uncommitted_vote_names_no_leader_to_replace() {
    let candidate = |node| Opinion { vote: Vote::new(5, LEADER), ..bereft(node, 7) };
    assert_eq!(verdict(&candidate(1), &[candidate(2)], &voters(&[1, 2, LEADER]), false), Decision::NoQuorum);
}

#[test]
fn the_leader_started_again_agrees_and_leaves_the_place_to_others() {
    let three = voters(&[1, 2, LEADER]);
    let again = bereft(LEADER, 99);
    assert_eq!(verdict(&bereft(1, 7), &[again], &three, false), Decision::TakeOver(0));
    assert_eq!(
        verdict(&again, &[bereft(1, 7)], &three, true),
        Decision::Stand(0),
        "asking first: a lease may still hold"
    );
    assert_eq!(verdict(&again, &[bereft(1, 7)], &three, false), Decision::NoQuorum);
}

#[test]
fn learners_and_strangers_do_not_count() {
    let three = voters(&[1, 2, LEADER]);
    assert_eq!(verdict(&bereft(1, 7), &[bereft(3, 7), bereft(4, 7)], &three, true), Decision::NoQuorum);
    assert_eq!(verdict(&bereft(3, 7), &[bereft(1, 7), bereft(2, 7)], &three, true), Decision::Wait);
    assert_eq!(verdict(&bereft(1, 7), &[], &[], true), Decision::Wait);
}

#[test]
fn a_joint_configuration_needs_a_quorum_of_both() {
    let joint = [voters(&[1, 2, LEADER]), voters(&[1, 3, 4])].concat();
    assert_eq!(verdict(&bereft(1, 7), &[bereft(2, 7)], &joint, true), Decision::NoQuorum);
    assert_eq!(verdict(&bereft(1, 8), &[bereft(2, 7), bereft(3, 7)], &joint, false), Decision::TakeOver(0));
}

proptest! {
    /// Two nodes that take over at once have different ranks, whatever each of them knows of the
    /// others.
    #[test]
    fn those_that_agree_have_ranks_of_their_own(logs in prop::collection::vec(0u64..4, 2..7)) {
        let all: Vec<Opinion> = logs.iter().enumerate().map(|(id, index)| bereft(id as u64, *index)).collect();
        let configs = voters(&all.iter().map(|opinion| opinion.node).collect::<Vec<_>>());
        let mut ranks: Vec<u32> = all
            .iter()
            .map(|me| {
                let others: Vec<Opinion> = all.iter().filter(|other| other.node != me.node).copied().collect();
                match verdict(me, &others, &configs, false) {
                    Decision::TakeOver(rank) => rank,
                    other => panic!("{other:?}"),
                }
            })
            .collect();
        ranks.sort_unstable();
        prop_assert_eq!(ranks, (0..all.len() as u32).collect::<Vec<_>>());
    }
}
