//! Tests of a backup whose state the log behind it brings forward: to the same state as on a node,
//! to an index or a time, through changes and rollbacks, and not at all past a rollback of a change
//! before it or by another log.

use std::io::Cursor;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::super::backup::{Forward, ForwardError, Forwarded, Founded, Unfounded, Until};
use super::super::replay::{Place, Supply};
use super::super::{change_to, genesis_of};
use super::backup::{backup, founder};
use super::guest_text::{faithful, short};
use super::harness::*;
use super::logged::Logged;
use crate::codec::{self, Rollback};
use crate::guest::{CALLER_STACK_BYTES, Component, Verdict};
use crate::types::{Entry, NodeMode};

/// Makes an entry whose proposer had the state that `node` has now.
fn told_by(node: &TestNode, index: u64, time_ms: u64, rows: &[(&str, &str)]) -> Entry {
    let status = node.machine.status();
    let (hash_index, hash) = (status.hash_index, status.hash);
    normal(1, index, &codec::entry::Entry { time_ms, hash_index, hash, ..commands(rows) })
}

/// Makes an entry whose change may be taken back until log time 65000.
fn change(index: u64, component: &Component, expected_index: u64) -> Entry {
    let change = change_to(&genesis_of([7; 16], component, [9; 32]), expected_index, 60_000);
    normal(1, index, &codec::entry::Entry { time_ms: 5000, change: Some(change), ..Default::default() })
}

fn rollback(index: u64, time_ms: u64, change_index: u64) -> Entry {
    let rollback = Some(Rollback { change_index });
    normal(1, index, &codec::entry::Entry { time_ms, rollback, ..Default::default() })
}

/// The log behind the backup, and what came of it on the node that wrote it.
struct Course {
    file: Vec<u8>,
    log: Vec<Entry>,
    /// The hash of the state behind each entry.
    hashes: Vec<u64>,
}

/// Runs a node. Its backup stands at index 3, behind the entries `before`, and the log goes on to
/// index `last`.
async fn course_of(before: Vec<Entry>, last: u64, entry: impl Fn(&TestNode, u64) -> Entry) -> Course {
    let gate = Arc::<Logged>::default();
    let mut old = start_in(tempfile::tempdir().unwrap(), gate.clone());
    old.machine.set_component(faithful());
    old.machine.offer_component(short());
    old.machine.set_mode(NodeMode::Serving);
    gate.0.lock().extend(before.iter().cloned());
    old.apply(before).await;
    let file = backup(&old).await;
    let (mut log, mut hashes) = (Vec::new(), Vec::new());
    for index in 4..=last {
        let entry = entry(&old, index);
        gate.0.lock().push(entry.clone());
        old.apply(vec![entry.clone()]).await;
        hashes.push(old.machine.status().hash);
        log.push(entry);
    }
    Course { file, log, hashes }
}

fn beginning() -> Vec<Entry> {
    vec![genesis(1, &faithful()), membership(2), puts(3, &[("a", "1"), ("b", "2")])]
}

/// Runs a node whose log has a change, and one that is outdated.
async fn course() -> Course {
    let entry = |old: &TestNode, index: u64| match index {
        4 => told_by(old, 4, 3000, &[("c", "33")]),
        5 => told_by(old, 5, 4000, &[("d", "44"), ("a", "11")]),
        6 => change(6, &short(), 1),
        // It expects a profile that is not in force any more.
        7 => change(7, &faithful(), 1),
        _ => told_by(old, 8, 6000, &[("e", "55")]),
    };
    course_of(beginning(), 8, entry).await
}

/// Brings the state forward in a new node's directory, with the component `short` at hand.
async fn forwarded(course: &Course, until: Until) -> (TestNode, Result<(Forwarded, Founded), ForwardError>) {
    let (file, entries) = (course.file.clone(), Logged(Mutex::new(course.log.clone())));
    let new = start();
    let (state, checkpoints) = (new.options.state.clone(), new.options.checkpoints.clone());
    let work = move || -> Result<(Forwarded, Founded), ForwardError> {
        let mut read = Unfounded::read(&state, Cursor::new(file)).unwrap();
        let root = tempfile::tempdir().unwrap();
        let place = Place::open(root.path()).unwrap();
        let mut components = Supply::default();
        components.add(short().encoded().clone());
        let done = read.forward(Forward {
            until,
            entries: &entries,
            components,
            place: &place,
            state: &state,
            tell: &|_, _| {},
        })?;
        Ok((done, read.found(&state, &checkpoints, &founder()).unwrap()))
    };
    let running = std::thread::Builder::new().stack_size(CALLER_STACK_BYTES).spawn(work).unwrap();
    let done = running.join().unwrap();
    (new, done)
}

/// Returns the hash of the state that was made.
async fn hash_of(new: TestNode) -> (u64, u64) {
    let new = start_in(new.stop().await, Arc::new(Open));
    let status = new.machine.status();
    (status.hash_index, status.hash)
}

#[tokio::test]
async fn the_log_makes_the_state_that_the_node_had_at_every_entry() {
    let course = course().await;
    for index in 3..=8 {
        let (new, done) = forwarded(&course, Until::Index(index)).await;
        let (done, founded) = done.unwrap();
        assert_eq!((done.index, done.entries, founded.applied.index), (index, index - 3, index));
        if let Some(at) = index.checked_sub(4) {
            assert_eq!(hash_of(new).await, (index, course.hashes[at as usize]), "at {index}");
        }
    }
    let (_, done) = forwarded(&course, Until::End).await;
    let (done, founded) = done.unwrap();
    assert_eq!((done.index, done.commands, done.changes, done.hashes), (8, 4, 1, 3));
    assert_eq!(founded.component, short().encoded().to_vec());
    // Four keys of the guest before, and one since; the rest is the host's.
    assert!(founded.rows > 5, "{}", founded.rows);
}

#[tokio::test]
async fn a_time_ends_at_the_last_entry_that_is_not_later() {
    let course = course().await;
    for (time_ms, index) in [(2000, 3), (2999, 3), (3000, 4), (4999, 5), (5000, 7), (u64::MAX, 8)] {
        let (_, done) = forwarded(&course, Until::TimeMs(time_ms)).await;
        assert_eq!(done.unwrap().0.index, index, "{time_ms}");
    }
}

#[tokio::test]
async fn another_log_is_known_by_its_hashes() {
    let mut course = course().await;
    let other = normal(1, 4, &commands(&[("c", "3")]));
    course.log[0] = other;
    let (new, done) = forwarded(&course, Until::End).await;
    let Err(ForwardError::OtherState(difference)) = done else { panic!("{done:?}") };
    assert_eq!((difference.index, difference.told_by.as_str()), (4, "the leader's record in entry 5"));
    assert_eq!(new.state_rows(), 0, "nothing is in force");
}

#[tokio::test]
async fn a_change_without_its_component_is_named() {
    let mut course = course().await;
    let third = genesis_of([7; 16], &faithful(), [9; 32]);
    let unknown = codec::Genesis { component_hash: vec![5; 32].into(), ..third };
    let change = codec::entry::Entry { change: Some(change_to(&unknown, 1, 0)), ..Default::default() };
    course.log[2] = normal(1, 6, &change);
    let (_, done) = forwarded(&course, Until::End).await;
    assert!(matches!(done, Err(ForwardError::NoComponent { index: 6, .. })), "{done:?}");
    assert!(forwarded(&course, Until::Index(5)).await.1.is_ok());
}

#[tokio::test]
async fn a_rollback_is_passed_and_its_state_comes_into_force() {
    let entry = |old: &TestNode, index: u64| match index {
        4 => told_by(old, 4, 3000, &[("c", "33")]),
        5 => change(5, &short(), 1),
        6 => told_by(old, 6, 6000, &[("d", "44")]),
        7 => rollback(7, 7000, 5),
        8 => told_by(old, 8, 8000, &[("e", "55")]),
        9 => change(9, &short(), 7),
        _ => told_by(old, 10, 9000, &[("f", "66")]),
    };
    let course = course_of(beginning(), 10, entry).await;
    for (last, component, d) in [(6, short(), "4"), (7, faithful(), "44"), (8, faithful(), "44"), (10, short(), "44")] {
        let (new, done) = forwarded(&course, Until::Index(last)).await;
        let (done, founded) = done.unwrap();
        assert_eq!((done.index, done.rollbacks), (last, u64::from(last > 6)), "{last}");
        assert_eq!(founded.component, component.encoded().to_vec(), "{last}");
        let new = start_in(new.stop().await, Arc::new(Open));
        new.machine.set_component(component);
        new.machine.set_mode(NodeMode::Serving);
        let status = new.machine.status();
        assert_eq!((status.hash_index, status.hash), (last, course.hashes[last as usize - 4]), "{last}");
        assert_eq!(new.get("d").await.verdict, Verdict::Reply(Bytes::copy_from_slice(d.as_bytes())), "{last}");
    }
    let done = forwarded(&course, Until::End).await.1.unwrap().0;
    assert_eq!((done.entries, done.commands, done.changes, done.rollbacks, done.hashes), (7, 4, 2, 1, 4));
}

#[tokio::test]
async fn a_rollback_of_a_change_before_the_backup_is_named() {
    let before = vec![genesis(1, &faithful()), change(2, &short(), 1), puts(3, &[("a", "11")])];
    let mut course = course_of(before, 3, |_, _| unreachable!("the log ends at the backup")).await;
    course.log = vec![puts(4, &[("b", "22")]), rollback(5, 6000, 2)];
    let (_, done) = forwarded(&course, Until::End).await;
    assert!(matches!(done, Err(ForwardError::RolledBack { index: 5, change: 2 })), "{done:?}");
    assert!(forwarded(&course, Until::Index(4)).await.1.is_ok());
    // One that comes too late changes nothing.
    course.log[1] = rollback(5, 65_000, 2);
    let (_, done) = forwarded(&course, Until::Index(5)).await;
    let done = done.unwrap().0;
    assert_eq!((done.index, done.rollbacks), (5, 0));
}
