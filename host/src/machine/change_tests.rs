//! Tests of the effects of a change, without a guest.

use std::collections::BTreeMap;

use openraft::vote::RaftLeaderId;

use super::*;
use crate::codec::{Command, Genesis};
use crate::guest::{Failure, Reason, Status};
use crate::machine::outcome::is_not_run;
use crate::types::CommittedLeaderId;

const OLD: [u8; 32] = [1; 32];
const NEW: [u8; 32] = [2; 32];

fn log_id(index: u64) -> LogId {
    LogId { leader_id: CommittedLeaderId::new(3, 1), index }
}

fn profile(hash: [u8; 32]) -> Genesis {
    Genesis { cluster_id: vec![7; 16].into(), component_hash: hash.to_vec().into(), ..Genesis::default() }
}

/// Returns the records of a cluster whose genesis entry has index 1, at index 4 and log time 100.
fn before() -> System {
    System { genesis: Some((1, profile(OLD)).into()), applied: Some(log_id(4)), time_ms: 100, ..System::default() }
}

fn change(expected_index: u64, probation_ms: u64) -> Change {
    super::super::profile::change_to(&profile(NEW), expected_index, probation_ms)
}

fn entry(change: &Change) -> codec::entry::Entry {
    codec::entry::Entry { time_ms: 90, change: Some(change.clone()), ..Default::default() }
}

fn run_of(end: MigrationEnd, keys: &[&str]) -> MigrationRun {
    let writes: BTreeMap<_, _> = keys.iter().map(|key| (key.as_bytes().to_vec(), Some(b"new".to_vec()))).collect();
    MigrationRun { end, calls: 1, fuel: 9, written_bytes: 0, writes }
}

/// Applies `change` at index 5. Its migration ends as `run` says.
fn apply(before: &System, change: &Change, run: MigrationRun) -> Attempt {
    let migrate = |context: Context, from| {
        assert_eq!((context.index, context.position, context.time_ms, from), (5, 0, 100, OLD));
        Ok(run)
    };
    effects(before, log_id(5), &entry(change), change, Some(migrate)).unwrap()
}

fn no_component() -> Option<impl FnOnce(Context, [u8; 32]) -> Result<MigrationRun, HostFault>> {
    Some(|_, _| panic!("nothing is migrated")).filter(|_| false)
}

#[test]
fn a_change_puts_its_profile_in_force() {
    let attempt = apply(&before(), &change(1, 50), run_of(MigrationEnd::Done, &["a", "b"]));
    assert!(attempt.is_made());
    let after = &attempt.effects.system;
    assert_eq!(after.in_force(), Some((5, &profile(NEW))));
    assert_eq!(after.genesis, before().genesis, "who the cluster is does not change");
    let recorded = after.profile.as_ref().unwrap();
    assert_eq!(recorded.before, (1, profile(OLD)));
    assert_eq!((recorded.probation_until_ms, recorded.checkpoint), (150, LogPosition { term: 3, leader: 1, index: 4 }));
    let wanted = Tried { index: 5, from: OLD, to: NEW, verdict: ChangeVerdict::Changed, rows: 2 };
    assert_eq!((after.change, attempt.tried), (Some(wanted), Some(wanted)));
    assert_eq!((attempt.effects.writes.len(), after.applied, after.time_ms), (2, Some(log_id(5)), 100));
    let attempt = apply(&before(), &change(1, 0), run_of(MigrationEnd::Done, &[]));
    assert_eq!(attempt.effects.system.profile.unwrap().probation_until_ms, 0);
}

#[test]
fn a_change_of_another_profile_than_expected_needs_no_component_and_changes_nothing() {
    let nothing = System::default();
    for (before, expected_index, from) in [(before(), 2, OLD), (nothing, 0, [0; 32])] {
        let change = change(expected_index, 50);
        assert!(!needs_component(&before, &change));
        let attempt = effects(&before, log_id(5), &entry(&change), &change, no_component()).unwrap();
        let wanted = Tried { index: 5, from, to: NEW, verdict: ChangeVerdict::Outdated, rows: 0 };
        assert_eq!(attempt.effects.system.change, Some(wanted));
        assert_eq!(attempt.effects.system.profile, None);
        assert!(attempt.effects.writes.is_empty());
    }
}

#[test]
fn a_migration_that_does_not_end_well_leaves_its_verdict_alone() {
    let status = Status { code: 9, message: "not yet".into(), details: Vec::new() };
    let failure = Failure { reason: Reason::Fuel, detail: "here".into() };
    for (end, verdict, detail) in [
        (MigrationEnd::Refused(status), ChangeVerdict::Refused(9), "not yet"),
        (MigrationEnd::Failed(failure), ChangeVerdict::Failed(Reason::Fuel), "here"),
        (MigrationEnd::TooLarge, ChangeVerdict::TooLarge, ""),
    ] {
        let attempt = apply(&before(), &change(1, 50), run_of(end, &[]));
        let after = &attempt.effects.system;
        assert_eq!((after.change.unwrap().verdict, attempt.detail.as_str()), (verdict, detail));
        assert_eq!((after.in_force(), attempt.is_made()), (Some((1, &profile(OLD))), false));
    }
}

/// Texts and fuel may differ between nodes.
#[test]
fn the_hash_covers_the_verdict_and_not_the_words() {
    let refused = |code, message: &str| {
        let status = Status { code, message: message.into(), details: Vec::new() };
        apply(&before(), &change(1, 0), run_of(MigrationEnd::Refused(status), &[])).effects.system.hash
    };
    assert_eq!(refused(9, "one"), refused(9, "two"));
    assert_ne!(refused(9, "one"), refused(10, "one"));
}

#[test]
fn commands_of_an_entry_with_a_change_are_not_run() {
    let change = change(1, 0);
    let entry = codec::entry::Entry { commands: vec![Command::default()], ..entry(&change) };
    let migrate = |_: Context, _: [u8; 32]| Ok(run_of(MigrationEnd::Done, &[]));
    let attempt = effects(&before(), log_id(5), &entry, &change, Some(migrate)).unwrap();
    assert!(attempt.is_made() && is_not_run(&attempt.effects.outcomes[0].1));
    assert_eq!(attempt.effects.system.counters.commands, 0);
}

#[test]
fn a_change_that_names_no_component_is_left_out() {
    let change = Change { component_hash: vec![1; 31].into(), ..change(1, 0) };
    let attempt = effects(&before(), log_id(5), &entry(&change), &change, no_component()).unwrap();
    assert_eq!((attempt.tried, attempt.effects.system.change), (None, None));
    assert_eq!(attempt.effects.system.applied, Some(log_id(5)));
}

#[test]
fn a_change_in_the_genesis_entry_comes_too_early() {
    let change = change(5, 0);
    let entry = codec::entry::Entry { genesis: Some(profile(OLD)), ..entry(&change) };
    let attempt = effects(&System::default(), log_id(5), &entry, &change, no_component()).unwrap();
    assert_eq!(attempt.tried.unwrap().verdict, ChangeVerdict::Outdated);
    assert_eq!(attempt.effects.system.in_force(), Some((5, &profile(OLD))));
}
