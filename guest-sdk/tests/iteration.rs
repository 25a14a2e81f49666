//! Iterators go both ways over many pages, stop where the ends meet, and can read just one row.

#![allow(clippy::unwrap_used, missing_docs)]

use lockstep_guest::dispatch::Method;
use lockstep_guest::{Harness, Index, Machine, Map, Set, Table, snapshot};
use proptest::prelude::*;

/// Finds numbers by their last digit.
struct ByDigit;

impl Index for ByDigit {
    type Key = u32;
    type Value = String;
    type By = u32;
    const TAG: u16 = 4;

    fn by(number: &u32, _: &String) -> Vec<u32> {
        vec![number % 10]
    }
}

lockstep_guest::state! {
    struct Numbers {
        map: Map<u32, String> = 1,
        set: Set<u32> = 2,
        table: Table<u32, String, ByDigit> = 3,
    }
}

impl Machine for Numbers {
    type Snapshots = snapshot::AsItIs;
    const METHODS: &'static [&'static [Method<Self>]] = &[];
}

fn filled(count: u32, text: &str, code: impl FnOnce(&mut Numbers)) {
    Harness::<Numbers>::new().change(|state| {
        for n in 0..count {
            state.map.insert(&n, text);
            state.set.insert(&n);
            state.table.insert(&n, &text.to_owned());
        }
        code(state);
    });
}

/// Takes items from the ends in the order of `turns`, repeated until the iterator is empty.
/// Checks that it then stays empty.
fn woven<T>(mut items: impl DoubleEndedIterator<Item = T>, turns: &[bool]) -> Vec<T> {
    let (mut front, mut back) = (Vec::new(), Vec::new());
    for turn in turns.iter().cycle() {
        let taken = if *turn { items.next() } else { items.next_back() };
        match (taken, turn) {
            (Some(item), true) => front.push(item),
            (Some(item), false) => back.push(item),
            (None, _) => break,
        }
    }
    assert!(items.next().is_none() && items.next_back().is_none());
    front.into_iter().chain(back.into_iter().rev()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn both_ends_meet(count in 0_u32..400, turns in proptest::collection::vec(any::<bool>(), 1..8)) {
        filled(count, "", |state| {
            let all: Vec<u32> = (0..count).collect();
            assert_eq!(woven(state.map.iter().map(|(n, _)| n), &turns), all);
            assert_eq!(woven(state.map.keys(), &turns), all);
            assert_eq!(woven(state.set.iter(), &turns), all);
            assert_eq!(woven(state.table.keys(), &turns), all);
            let ended: Vec<u32> = all.iter().copied().filter(|n| n % 10 == 7).collect();
            assert_eq!(woven(state.table.by(ByDigit).find(&7).keys(), &turns), ended);
            assert_eq!(woven(state.table.by(ByDigit).find(&7).map(|(n, _)| n), &turns), ended);
            assert_eq!(woven(state.table.drain().map(|(n, _)| n), &turns), all);
            assert_eq!(woven(state.set.drain(), &turns), all);
            assert!(state.table.by(ByDigit).iter().next().is_none() && state.set.is_empty());
        });
    }
}

#[test]
fn halves_and_ends_of_a_range() {
    filled(100, "x", |state| {
        let from = |n: u32| state.map.range(n..);
        assert_eq!(from(98).keys().collect::<Vec<_>>(), [98, 99]);
        assert_eq!(from(98).values().collect::<String>(), "xx");
        assert_eq!((from(98).first(), from(98).last()), (Some((98, "x".to_owned())), Some((99, "x".to_owned()))));
        assert_eq!((from(100).first(), state.set.range(..50).last()), (None, Some(49)));
        let sevens = || state.table.by(ByDigit).find(&7);
        assert_eq!((sevens().first().unwrap().0, sevens().keys().last()), (7, Some(97)));
        let mut rest = from(97);
        rest.next();
        assert_eq!(rest.first().map(|(n, _)| n), Some(98), "of what is left");
        let mut count = 0;
        for (n, _) in &state.map {
            count += u32::from(n < 50);
        }
        for n in &state.set {
            count += u32::from(n < 50);
        }
        for (n, _) in &state.table {
            count += u32::from(n < 50);
        }
        assert_eq!(count, 150);
    });
}

/// A call may read 64 MiB: 300 rows of 16 KiB, but not 300 pages of 16 such rows.
#[test]
fn one_row_is_charged_as_one() {
    filled(20, &"x".repeat(16 * 1024), |state| {
        for _ in 0..300 {
            assert_eq!(state.map.range(3..).keys().first(), Some(3));
            assert_eq!(state.map.last().map(|(n, _)| n), Some(19));
            assert!(!state.table.is_empty());
        }
    });
}

#[test]
fn first_rows_of_a_range_are_removed_up_to_a_limit() {
    filled(10, "x", |state| {
        assert_eq!(state.map.remove_first(.., 0), 0);
        assert_eq!(state.map.remove_first(3.., 2), 2);
        assert_eq!(state.map.keys().collect::<Vec<_>>(), [0, 1, 2, 5, 6, 7, 8, 9]);
        assert_eq!(state.map.remove_first(.., 100), 8);
        assert_eq!((state.set.remove_first(..=5, 4), state.set.len()), (4, 6));
        assert_eq!((state.table.remove_first(1.., 3), state.table.len()), (3, 7));
        assert_eq!(state.table.by(ByDigit).iter().keys().collect::<Vec<_>>(), [0, 4, 5, 6, 7, 8, 9]);
    });
}
