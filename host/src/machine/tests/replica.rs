//! Tests of a replica driven by its caller: it does what a node does, and it finds guests that
//! nodes could not run with equal results.

use super::guest_text::{faithful, forgetful, request};
use crate::codec::Command;
use crate::guest::{Reason, Verdict};
use crate::machine::{Replica, ReplicaError, Reuse, SnapshotError};

fn put(key: &str, value: &str) -> Command {
    Command { method: "Test/Put".into(), request: request(key, value).into(), ..Command::default() }
}

fn reply(verdict: &Verdict) -> Option<&[u8]> {
    match verdict {
        Verdict::Reply(bytes) => Some(bytes),
        Verdict::Refused(_) | Verdict::Failed(_) => None,
    }
}

#[test]
fn commands_and_queries_are_answered_across_restarts_and_snapshots() {
    let place = tempfile::tempdir().unwrap();
    let mut replica = Replica::open(place.path(), faithful()).unwrap();
    let applied = replica.apply(1000, vec![put("a", "1"), put("b", ""), put("c", "3")], Reuse::Shared).unwrap();
    assert_eq!(applied.index, 2, "the genesis entry is the first");
    let replies: Vec<_> = applied.verdicts.iter().map(reply).collect();
    assert_eq!(replies, [Some(&b"1"[..]), None, Some(b"3")]);
    assert!(matches!(&applied.verdicts[1], Verdict::Failed(failure) if failure.reason == Reason::Trap));
    assert!(applied.fuel.iter().all(|fuel| *fuel > 0));
    let before = replica.standing().unwrap();
    assert_eq!((before.index, before.rows), (2, 2));
    let mut replica = replica.reopen().unwrap();
    assert_eq!(replica.standing().unwrap(), before);
    replica.snapshot_restore().unwrap();
    assert_eq!(replica.standing().unwrap(), before);
    let verdict = replica.query("Test/Get", &request("c", ""), "", Reuse::Never).unwrap();
    assert_eq!(verdict, Verdict::Reply(bytes::Bytes::from_static(b"3")));
    assert_eq!(replica.apply(0, Vec::new(), Reuse::Shared).unwrap().index, 3);
}

#[test]
fn an_instance_for_each_command_ends_where_one_for_all_does() {
    let standing = |reuse| {
        let place = tempfile::tempdir().unwrap();
        let mut replica = Replica::open(place.path(), faithful()).unwrap();
        let commands = vec![put("a", "1"), put("b", "2"), put("a", "")];
        replica.apply(1000, commands, reuse).unwrap();
        replica.standing().unwrap()
    };
    assert_eq!(standing(Reuse::Shared), standing(Reuse::Never));
}

/// Otherwise `guest bench` would measure rows that were removed long ago, and that a node has
/// compacted away.
#[test]
fn the_state_is_flushed_as_a_node_flushes_it() {
    let place = tempfile::tempdir().unwrap();
    let mut replica = Replica::open(place.path(), faithful()).unwrap();
    let tables = || {
        let (mut open, mut tables) = (vec![place.path().to_owned()], 0);
        while let Some(path) = open.pop() {
            match path.is_dir() {
                true => open.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path())),
                false => tables += usize::from(path.extension().is_some_and(|extension| extension == "sst")),
            }
        }
        tables
    };
    // More entries than a node leaves unflushed, at any speed of the clock.
    for time_ms in 0..5_000 {
        replica.apply(time_ms, Vec::new(), Reuse::Shared).unwrap();
    }
    assert!(tables() > 0, "5,000 entries are in memory alone");
    let before = replica.standing().unwrap();
    assert_eq!(replica.reopen().unwrap().standing().unwrap(), before);
}

#[test]
fn a_restore_that_forgets_is_found() {
    let place = tempfile::tempdir().unwrap();
    let mut replica = Replica::open(place.path(), forgetful()).unwrap();
    replica.apply(1000, vec![put("a", "1")], Reuse::Shared).unwrap();
    let error = replica.snapshot_restore().unwrap_err();
    assert!(matches!(error, ReplicaError::Restore(SnapshotError::Unfaithful(_))), "{error}");
    assert_eq!(replica.standing().unwrap().rows, 1, "the state in force is as it was");
}
