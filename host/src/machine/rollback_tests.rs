//! Tests of the effects of a rollback.

use openraft::vote::RaftLeaderId;

use super::super::log_position::LogPosition;
use super::*;
use crate::codec::{Change, Command, Genesis, entry::Entry};
use crate::machine::outcome::is_not_run;
use crate::types::CommittedLeaderId;

fn log_id(index: u64) -> LogId {
    LogId { leader_id: CommittedLeaderId::new(3, 1), index }
}

fn profile(byte: u8) -> Genesis {
    Genesis { component_hash: vec![byte; 32].into(), ..Genesis::default() }
}

/// A change at index 5, which may be taken back until log time 100.
fn changed() -> Profile {
    Profile {
        index: 5,
        genesis: profile(2),
        before: (1, profile(1)),
        probation_until_ms: 100,
        checkpoint: LogPosition { term: 3, leader: 1, index: 4 },
    }
}

fn in_use() -> System {
    System {
        genesis: Some((1, profile(1)).into()),
        profile: Some(changed().into()),
        applied: Some(log_id(8)),
        time_ms: 60,
        ..System::default()
    }
}

fn entry(time_ms: u64, change_index: u64) -> Entry {
    Entry { time_ms, rollback: Some(Rollback { change_index }), ..Entry::default() }
}

fn is_taken_back(before: &System, entry: &Entry) -> bool {
    takes_back(before, entry, &entry.rollback.unwrap()).is_some()
}

#[test]
fn only_the_change_in_force_is_taken_back_and_only_on_probation() {
    let before = in_use();
    assert!(is_taken_back(&before, &entry(0, 5)) && is_taken_back(&before, &entry(99, 5)));
    for late in [entry(100, 5), entry(0, 4), entry(0, 0)] {
        assert!(!is_taken_back(&before, &late), "{late:?}");
        let (effects, tried) = outdated(&before, log_id(9), &late);
        assert_eq!((tried.index, tried.verdict, tried.from, tried.to), (9, ChangeVerdict::Outdated, [2; 32], [1; 32]));
        assert_eq!((effects.system.profile, effects.system.change), (before.profile.clone(), Some(tried)));
    }
    assert!(!is_taken_back(&System { profile: None, ..in_use() }, &entry(0, 5)));
}

#[test]
fn the_profile_before_the_change_is_in_force_behind_it() {
    let shadow = System { profile: None, time_ms: 60, ..in_use() };
    let (effects, tried) = effects(&shadow, &changed(), log_id(9), &entry(70, 5));
    let after = &effects.system;
    assert_eq!(after.in_force(), Some((9, &profile(1))));
    assert_eq!((after.change, after.applied, after.time_ms), (Some(tried), Some(log_id(9)), 70));
    assert_eq!((tried.verdict, tried.from, tried.to), (ChangeVerdict::RolledBack, [2; 32], [1; 32]));
    let recorded = after.profile.as_ref().unwrap();
    assert_eq!(recorded.abandoned(), 5..9);
    assert!(!is_taken_back(after, &entry(0, 9)), "a rollback is not taken back");
    assert_eq!(changed().abandoned(), 0..0);
    assert!(effects.writes.is_empty());
}

#[test]
fn in_its_history_changes_and_rollbacks_move_time_alone() {
    let before = System { change: None, ..in_use() };
    let change = Entry { change: Some(Change::default()), commands: vec![Command::default()], ..entry(80, 5) };
    for passed in [change, entry(80, 5)] {
        let effects = entry::passed_over(&before, log_id(9), &passed);
        let after = &effects.system;
        assert_eq!((after.time_ms, after.change, &after.profile), (80, None, &before.profile));
        assert!(effects.outcomes.iter().all(|(_, verdict)| is_not_run(verdict)));
    }
}
