//! Tests of a replay: it comes to the hashes of a node through changes and rollbacks, finds what
//! another component answers differently, and shows what an entry did.

use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;

use super::super::replay::{Base, Landmark, Place, Replay, StoreCall, Supply};
use super::super::system::System;
use super::super::{change_to, genesis_of};
use super::guest_text::{faithful, short};
use super::harness::*;
use super::logged::Logged;
use crate::codec::{self, Rollback};
use crate::guest::{CALLER_STACK_BYTES, Component, Verdict};
use crate::types::{Entry, NodeMode};

fn change(index: u64, component: &Component, expected: u64, probation_ms: u64) -> Entry {
    let change = change_to(&genesis_of([7; 16], component, [9; 32]), expected, probation_ms);
    normal(1, index, &codec::entry::Entry { time_ms: 3000, change: Some(change), ..Default::default() })
}

fn rollback(index: u64, change_index: u64) -> Entry {
    let rollback = Some(Rollback { change_index });
    normal(1, index, &codec::entry::Entry { time_ms: 4000, rollback, ..Default::default() })
}

/// Has a node apply the entries. Returns the log, and the hash behind it.
async fn lived(entries: Vec<Entry>) -> (Arc<Logged>, u64) {
    let log = Arc::<Logged>::default();
    let mut node = start_in(tempfile::tempdir().unwrap(), log.clone());
    node.machine.set_component(faithful());
    node.machine.offer_component(short());
    node.machine.set_mode(NodeMode::Serving);
    for entry in entries {
        log.0.lock().push(entry.clone());
        node.apply(vec![entry]).await;
    }
    let hash = System::read(&*node.options.state.current()).unwrap().hash.hash;
    (log, hash)
}

fn supply() -> Supply {
    let mut supply = Supply::default();
    [faithful(), short()].iter().for_each(|component| supply.add(component.encoded().clone()));
    supply
}

/// Runs `work` over a replay from the empty state, on a thread that can call guests.
fn replayed<T: Send + 'static>(log: Arc<Logged>, work: impl FnOnce(&mut Replay<'_>) -> T + Send + 'static) -> T {
    let run = move || {
        let root: TempDir = tempfile::tempdir().unwrap();
        let place = Place::open(root.path()).unwrap();
        work(&mut Replay::begin(&place, &*log, supply(), &Base::Empty).unwrap())
    };
    std::thread::Builder::new().stack_size(CALLER_STACK_BYTES).spawn(run).unwrap().join().unwrap()
}

fn landmark(index: u64, hash: u64) -> Landmark {
    Landmark { index, hash, told_by: "the node's state".into() }
}

fn history() -> Vec<Entry> {
    vec![
        membership(0),
        genesis(1, &faithful()),
        puts(2, &[("a", "11")]),
        change(3, &short(), 1, 6000),
        puts(4, &[("b", "22")]),
        puts(5, &[("c", "33"), ("d", "")]),
        rollback(6, 3),
        puts(7, &[("e", "55")]),
        change(8, &short(), 6, 0),
        rollback(9, 8),
        puts(10, &[("f", "66")]),
    ]
}

#[tokio::test]
async fn it_comes_to_the_hash_of_a_node_through_changes_and_rollbacks() {
    let (log, hash) = lived(history()).await;
    let found = replayed(log.clone(), move |replay| replay.verify(10, &[landmark(10, hash)], &mut |_| {}).unwrap());
    assert_eq!((found.entries, found.commands, found.hashes, found.agreed_index), (11, 6, 1, Some(10)));
    assert_eq!(found.difference, None);
    let found = replayed(log, move |replay| replay.verify(10, &[landmark(10, hash ^ 1)], &mut |_| {}).unwrap());
    let difference = found.difference.unwrap();
    assert_eq!((difference.after_index, difference.index), (0, 10));
}

#[tokio::test]
async fn a_candidate_that_answers_differently_is_found_and_the_commands_up_to_it_are_kept() {
    let entries = vec![
        membership(0),
        genesis(1, &faithful()),
        puts(2, &[("a", "1"), ("b", "2")]),
        puts(3, &[("c", "3"), ("d", "44"), ("e", "5")]),
        puts(4, &[("f", "66")]),
    ];
    let (log, _) = lived(entries).await;
    let compare = |breaks: bool, from: u64| {
        move |replay: &mut Replay<'_>| {
            replay.keep_commands();
            if from > 0 {
                replay.run_to(from - 1, &mut |_| {}).unwrap();
            }
            let encoded: Bytes = short().encoded().clone();
            let found = replay.compare(&encoded, 4, breaks, &mut |_| {}).unwrap();
            let kept = replay.kept().unwrap().commands();
            (found, kept.map(|command| (command.index, command.position)).collect::<Vec<_>>())
        }
    };
    let (found, _) = replayed(log.clone(), compare(false, 0));
    assert_eq!((found.entries, found.commands, found.different, found.is_broken_off), (5, 6, 2, false));
    let places: Vec<_> = found.differences.iter().map(|found| (found.index, found.position)).collect();
    assert_eq!(places, [(Some(3), 1), (Some(4), 0)]);
    assert!(found.old.fuel > 0 && found.new.fuel > 0 && found.old.hash != found.new.hash);
    let (found, kept) = replayed(log.clone(), compare(true, 0));
    assert_eq!((found.last_index, found.different, found.is_broken_off), (3, 1, true));
    assert_eq!(kept, [(2, 0), (2, 1), (3, 0), (3, 1)]);
    // From the middle on, the candidate takes over the state that history had made.
    let (found, _) = replayed(log, compare(false, 4));
    assert_eq!((found.first_index, found.commands, found.different), (4, 1, 1));
}

#[tokio::test]
async fn an_entry_is_shown_with_the_calls_of_its_commands_and_the_rows_that_changed() {
    let (log, _) = lived(history()).await;
    let (verdicts, calls, rows, kind) = replayed(log.clone(), |replay| {
        let shown = replay.show(5, &mut |_| {}).unwrap();
        let verdicts: Vec<Verdict> = shown.commands.iter().map(|command| command.verdict.clone()).collect();
        let attempts: Vec<usize> = shown.commands.iter().map(|command| command.attempts.len()).collect();
        assert_eq!(attempts, [1, 2], "a failure behind another command is run again, alone");
        (verdicts, shown.commands[0].attempts[0].calls.clone(), shown.rows, shown.kind)
    });
    assert!(matches!(&verdicts[..], [Verdict::Reply(reply), Verdict::Failed(_)] if &reply[..] == b"3"), "{verdicts:?}");
    assert!(
        matches!(&calls[..], [StoreCall::Put { key, value }] if key.kept == b"c" && value.kept == b"3"),
        "{calls:?}"
    );
    assert_eq!((rows.len(), &rows[0].key[..], rows[0].before.clone()), (1, &b"c"[..], None));
    assert_eq!(kind, "commands");
    let (verdict, found) = replayed(log, |replay| {
        let shown = replay.show(6, &mut |_| {}).unwrap();
        let mut found = Vec::new();
        let mut row = |key: &[u8], value: &[u8]| {
            found.push((key.to_vec(), value.to_vec()));
            std::ops::ControlFlow::Continue(())
        };
        replay.rows(&mut row).unwrap();
        (shown.change.map(|change| change.verdict.name()), found)
    });
    assert_eq!(verdict, Some("rolled-back"));
    assert!(found.contains(&(b"b".to_vec(), b"22".to_vec())), "the old component ran it again: {found:?}");
}
