//! Tests tables: rows that are found by their content, and index entries that always match the
//! rows.

#![allow(clippy::unwrap_used, missing_docs)]

use std::cmp::Reverse;
use std::collections::BTreeMap;

use lockstep_guest::dispatch::Method;
use lockstep_guest::{Counter, Harness, Index, Machine, Map, Table, snapshot};
use proptest::prelude::*;

/// Finds words by each of their letters.
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

/// Finds words by their length, the longest first. The empty word has no entry.
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

/// Finds towns by their number of inhabitants.
struct ByInhabitants;

impl Index for ByInhabitants {
    type Key = (String, u8);
    type Value = u64;
    type By = u64;
    const TAG: u16 = 5;

    fn by(_: &(String, u8), inhabitants: &u64) -> Vec<u64> {
        vec![*inhabitants]
    }
}

lockstep_guest::state! {
    struct Words {
        words: Table<u32, String, (ByLetter, ByLength)> = 1,
        others: Counter = 3,
        towns: Table<(String, u8), u64, ByInhabitants> = 4,
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
        assert_eq!(state.words.by(ByLength).iter().keys().rev().collect::<Vec<_>>(), [3, 5, 2, 1]);
        assert_eq!(keys(state.words.by(ByLength).range(..Reverse(1))), [1, 2, 5]);
        assert_eq!(keys(state.words.by(ByLength).range(Reverse(3)..=Reverse(3))), [2, 5]);
        assert_eq!(keys(state.words.by(ByLetter).range('s'..)), [2, 5, 2, 5]);
        let rows: Vec<_> = state.words.by(ByLetter).find(&'u').collect();
        assert_eq!(rows, [(2, "bus".to_owned()), (5, "sub".to_owned())]);
    });
}

#[test]
fn an_index_is_read_in_pages() {
    run(|state| {
        let words: Vec<(u32, &str)> = (0..250).map(|key| (key, if key % 2 == 0 { "ac" } else { "b" })).collect();
        fill(state, &words);
        let (mut page, mut paged) = (keys_of(state.words.by(ByLetter).find(&'a')), Vec::new());
        while let Some(&last) = page.last() {
            paged.extend(page);
            // The row itself may be removed between two pages.
            state.words.remove(&last);
            page = keys_of(state.words.by(ByLetter).find_after(&'a', &last));
        }
        assert_eq!(paged, (0..250).step_by(2).collect::<Vec<u32>>());
        assert_eq!(keys(state.words.by(ByLetter).find_after(&'b', &243)), [245, 247, 249]);
        assert_eq!(keys(state.words.by(ByLetter).find_after(&'b', &u32::MAX)), [0_u32; 0]);
        assert_eq!(keys(state.words.by(ByLetter).find_range(&'b', 3..=6)), [3, 5]);
        assert_eq!(keys(state.words.by(ByLetter).find_range(&'b', 245..)), [245, 247, 249]);
        // The page continues from one group into the next, so the key alone does not say where it
        // starts.
        assert_eq!(state.words.by(ByLength).after(&Reverse(2), &u32::MAX).keys().next(), Some(1));
        assert_eq!(state.words.by(ByLength).after(&Reverse(1), &247).keys().collect::<Vec<_>>(), [249]);
        let first = state.words.by(ByLength).after(&Reverse(9), &0).keys().next();
        assert_eq!(first, state.words.by(ByLength).iter().keys().next());
    });
}

fn keys_of(found: lockstep_guest::Found<'_, ByLetter>) -> Vec<u32> {
    found.keys().take(20).collect()
}

#[test]
fn borrowed_keys_page_an_index_too() {
    run(|state| {
        for (name, part) in [("a", 1), ("a", 2), ("b", 1)] {
            state.towns.insert(&(name, part), &7);
        }
        let found = state.towns.by(ByInhabitants).find_after(&7, &("a", 1)).keys().collect::<Vec<_>>();
        assert_eq!(found, [("a".to_owned(), 2), ("b".to_owned(), 1)]);
        let found = state.towns.by(ByInhabitants).find_range(&7, ("a", 2)..).keys().collect::<Vec<_>>();
        assert_eq!(found, [("a".to_owned(), 2), ("b".to_owned(), 1)]);
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

#[test]
fn keys_are_borrowed_wherever_they_are_named() {
    run(|state| {
        let towns = &mut state.towns;
        assert_eq!(towns.insert(&("Bonn", 1), &3), None);
        assert_eq!(towns.insert(&("Bonn", 2), &4), None);
        assert_eq!(towns.update(&("Bonn", 1), |inhabitants| *inhabitants += 2), 5);
        assert_eq!(towns.by(ByInhabitants).find(&5).keys().collect::<Vec<_>>(), [("Bonn".to_owned(), 1)]);
        assert_eq!(towns.by(ByInhabitants).find(&3).count(), 0);
        assert!(towns.refresh(&("Bonn", 1)));
        assert_eq!(towns.remove(&("Bonn", 1)), Some(5));
        assert_eq!(towns.by(ByInhabitants).iter().count(), 1);
        assert_eq!(towns.remove_prefix(&("Bonn",)), 1);
        assert_eq!(towns.by(ByInhabitants).iter().count(), 0);
    });
}

#[test]
fn rows_that_are_taken_out_are_forgotten_by_the_indexes() {
    run(|state| {
        fill(state, &[(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "e"), (6, "f"), (7, "g")]);
        let words = &mut state.words;
        assert_eq!(words.keys().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(words.values().collect::<String>(), "abcdefg");
        assert_eq!(words.pop_first(), Some((1, "a".to_owned())));
        assert_eq!(words.pop_last(), Some((7, "g".to_owned())));
        assert_eq!(words.remove_range(..=2), 1);
        // The first row is iterated over, the second is not.
        assert_eq!(words.drain_range(3..5).take(1).collect::<Vec<_>>(), [(3, "c".to_owned())]);
        assert_eq!(words.by(ByLetter).iter().collect::<Vec<_>>(), [(5, "e".to_owned()), (6, "f".to_owned())]);
        drop(words.drain());
        assert_eq!((words.len(), words.by(ByLetter).iter().count(), words.by(ByLength).iter().count()), (0, 0, 0));
    });
}

/// The rows of a map with the same tag become those of a table without being rewritten, and
/// `reindex` adds the index entries.
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

/// An operation on a table and on its model.
#[derive(Clone, Debug)]
enum Step {
    Insert(u32, String),
    Append(u32, char),
    Remove(u32),
    RemoveFrom(u32),
    DrainFrom(u32),
    PopFirst,
    PopLast,
    /// Removes the words that end with the letter, and appends to the others of this length.
    Retain(char, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let letter = || prop::sample::select(vec!['a', 'b', 'c']);
    let step = prop_oneof![
        (0_u32..6, "[abc]{0,3}").prop_map(|(key, word)| Step::Insert(key, word)),
        (0_u32..6, letter()).prop_map(|(key, letter)| Step::Append(key, letter)),
        (0_u32..6).prop_map(Step::Remove),
        (3_u32..6).prop_map(Step::RemoveFrom),
        (3_u32..6).prop_map(Step::DrainFrom),
        Just(Step::PopFirst),
        Just(Step::PopLast),
        (letter(), 0_usize..3).prop_map(|(letter, len)| Step::Retain(letter, len)),
    ];
    proptest::collection::vec(step, 0..30)
}

fn take_step(words: &mut Table<u32, String, (ByLetter, ByLength)>, model: &mut BTreeMap<u32, String>, step: &Step) {
    match step {
        Step::Insert(key, word) => assert_eq!(words.insert(key, word), model.insert(*key, word.clone())),
        Step::Append(key, letter) => {
            let word = model.entry(*key).or_default();
            word.push(*letter);
            assert_eq!(&words.update(key, |word| word.push(*letter)), word);
        }
        Step::Remove(key) => assert_eq!(words.remove(key), model.remove(key)),
        Step::RemoveFrom(key) => assert_eq!(words.remove_range(key..), model.split_off(key).len() as u64),
        Step::DrainFrom(key) => assert_eq!(words.drain_range(key..).collect::<BTreeMap<_, _>>(), model.split_off(key)),
        Step::PopFirst => assert_eq!(words.pop_first(), model.pop_first()),
        Step::PopLast => assert_eq!(words.pop_last(), model.pop_last()),
        Step::Retain(letter, len) => {
            let keep = |_: &u32, word: &mut String| {
                let kept = !word.ends_with(*letter);
                if word.len() == *len {
                    word.push('x');
                }
                kept
            };
            words.retain(keep);
            model.retain(keep);
        }
    }
}

proptest! {
    /// After any operations, an index contains what its function returns for the existing rows.
    #[test]
    fn indexes_agree_with_the_rows(steps in steps()) {
        run(|state| {
            let mut model = BTreeMap::new();
            for step in &steps {
                take_step(&mut state.words, &mut model, step);
            }
            for letter in ['a', 'b', 'c', 'x'] {
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
