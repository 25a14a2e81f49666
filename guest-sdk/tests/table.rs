//! Tables: rows that are found by what is in them, and index entries that never go their own way.

#![allow(clippy::unwrap_used, missing_docs)]

use std::cmp::Reverse;
use std::collections::BTreeMap;

use lockstep_guest::dispatch::Method;
use lockstep_guest::{Counter, Harness, Index, Machine, Map, Table, snapshot};
use proptest::prelude::*;

/// Words by their letters, each of them.
struct ByLetter;

impl Index for ByLetter {
    type Key = u32;
    type Value = String;
    type By = char;
    const TAG: u16 = 2;

    fn by(_: &u32, word: &String) -> Vec<char> {
        word.chars().collect()
    }
}

/// Words by their length, the longest first; the empty one is not in it.
struct ByLength;

impl Index for ByLength {
    type Key = u32;
    type Value = String;
    type By = Reverse<u32>;
    const TAG: u16 = 300;

    fn by(_: &u32, word: &String) -> Vec<Reverse<u32>> {
        let len = u32::try_from(word.len()).unwrap();
        if len == 0 { Vec::new() } else { vec![Reverse(len)] }
    }
}

lockstep_guest::state! {
    struct Words {
        words: Table<u32, String, (ByLetter, ByLength)> = 1,
        others: Counter = 3,
    }
}

impl Machine for Words {
    type Snapshots = snapshot::AsItIs;
    const METHODS: &'static [&'static [Method<Self>]] = &[];
}

fn run(code: impl FnOnce(&mut Words)) {
    Harness::<Words>::new().change(code);
}

fn fill(words: &mut Words, list: &[(u32, &str)]) {
    for (key, word) in list {
        words.words.insert(key, &(*word).to_owned());
    }
}

fn keys(found: lockstep_guest::Found<'_, impl Index<Key = u32>>) -> Vec<u32> {
    found.keys().collect()
}

#[test]
fn rows_are_found_by_each_index_in_its_order() {
    run(|state| {
        fill(state, &[(1, "abba"), (2, "bus"), (3, "a"), (4, ""), (5, "sub")]);
        assert_eq!(keys(state.words.by(ByLetter).find(&'b')), [1, 2, 5]);
        assert_eq!(keys(state.words.by(ByLength).iter()), [1, 2, 5, 3]);
        assert_eq!(keys(state.words.by(ByLength).iter().descending()), [3, 5, 2, 1]);
        assert_eq!(keys(state.words.by(ByLength).range(..Reverse(1))), [1, 2, 5]);
        assert_eq!(keys(state.words.by(ByLength).range(Reverse(3)..=Reverse(3))), [2, 5]);
        assert_eq!(keys(state.words.by(ByLetter).range('s'..)), [2, 5, 2, 5]);
        let rows: Vec<_> = state.words.by(ByLetter).find(&'u').collect();
        assert_eq!(rows, [(2, "bus".to_owned()), (5, "sub".to_owned())]);
    });
}

#[test]
fn entries_follow_their_row() {
    run(|state| {
        fill(state, &[(1, "ab"), (2, "b")]);
        assert_eq!(state.words.insert(&1, &"bc".to_owned()).as_deref(), Some("ab"));
        assert_eq!(keys(state.words.by(ByLetter).find(&'a')), [0_u32; 0]);
        assert_eq!(keys(state.words.by(ByLetter).find(&'c')), [1]);
        assert_eq!(state.words.update(&2, |word| word.push('c')), "bc");
        assert_eq!(keys(state.words.by(ByLetter).find(&'c')), [1, 2]);
        assert_eq!(state.words.remove(&1).as_deref(), Some("bc"));
        assert_eq!(state.words.remove(&1), None);
        assert_eq!(keys(state.words.by(ByLetter).find(&'c')), [2]);
        state.words.retain(|_, word| word.is_empty());
        assert_eq!(keys(state.words.by(ByLetter).iter()), [0_u32; 0]);
        fill(state, &[(7, "x")]);
        state.others.add(1);
        assert_eq!(state.words.clear(), 1);
        assert_eq!(keys(state.words.by(ByLength).iter()), [0_u32; 0]);
        assert_eq!(state.others.get(), 1, "what is no index stays");
    });
}

/// The rows of a map with the same tag: they become a table without being touched, and `reindex` finds them.
#[test]
fn map_becomes_a_table() {
    lockstep_guest::state! {
        struct Before {
            words: Map<u32, String> = 1,
        }
    }
    run(|state| {
        let mut before = <Before as lockstep_guest::State>::open();
        before.words.insert(&1, "ab");
        before.words.insert(&2, "b");
        assert_eq!(state.words.get(&1).as_deref(), Some("ab"));
        assert_eq!(keys(state.words.by(ByLetter).find(&'b')), [0_u32; 0]);
        assert!(state.words.refresh(&2));
        assert!(!state.words.refresh(&3));
        assert_eq!(keys(state.words.by(ByLetter).find(&'b')), [2]);
        state.words.reindex();
        assert_eq!(keys(state.words.by(ByLetter).find(&'b')), [1, 2]);
    });
}

proptest! {
    /// Whatever is done, an index holds what its function says of the rows that are there.
    #[test]
    fn indexes_agree_with_the_rows(steps in proptest::collection::vec((0_u32..4, "[abc]{0,3}", any::<bool>()), 0..30)) {
        run(|state| {
            let mut model = BTreeMap::new();
            for (key, word, remove) in &steps {
                if *remove {
                    assert_eq!(state.words.remove(key), model.remove(key));
                } else {
                    assert_eq!(state.words.insert(key, word), model.insert(*key, word.clone()));
                }
            }
            for letter in ['a', 'b', 'c'] {
                let found: BTreeMap<_, _> = state.words.by(ByLetter).find(&letter).collect();
                let expected = model.iter().filter(|(_, word)| word.contains(letter));
                assert_eq!(found, expected.map(|(key, word)| (*key, word.clone())).collect());
            }
            let mut by_length: Vec<_> = model.iter().filter(|(_, word)| !word.is_empty()).collect();
            by_length.sort_by_key(|(key, word)| (Reverse(word.len()), **key));
            assert_eq!(keys(state.words.by(ByLength).iter()), by_length.iter().map(|(key, _)| **key).collect::<Vec<_>>());
        });
    }
}
