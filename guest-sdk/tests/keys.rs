//! Tests that rows are found by borrowed keys, in every kind of range and by prefixes, and compares
//! the results with a model in memory.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use lockstep_guest::dispatch::Method;
use lockstep_guest::key::{Begins, KeyRange};
use lockstep_guest::{Harness, Machine, Map, Set, snapshot};
use proptest::prelude::*;

type Pair = (String, i8);

lockstep_guest::state! {
    struct Ranges {
        pairs: Map<Pair, u8> = 1,
        names: Set<String> = 2,
        files: Map<(u32, String, u8), u8> = 3,
        // The collection with the next tag, which no range may touch.
        above: Set<String> = 4,
    }
}

impl Machine for Ranges {
    type Snapshots = snapshot::AsItIs;
    const METHODS: &'static [&'static [Method<Self>]] = &[];
}

fn run(code: impl FnOnce(&mut Ranges)) {
    Harness::<Ranges>::new().change(code);
}

#[test]
fn parts_of_a_tuple_are_borrowed() {
    run(|state| {
        let ann = "ann".to_owned();
        state.pairs.insert(&("ann", 5), &1);
        state.pairs.insert(&(&ann, 7), &2);
        assert_eq!(state.pairs.get(&("ann", 5)), Some(1));
        assert!(state.pairs.contains(&(ann, 7)));
        assert_eq!(state.pairs.range(("ann", 6)..).count(), 1);
        assert_eq!(state.pairs.range(..=&("ann", 5)).count(), 1);
        assert_eq!(state.pairs.range(..).count(), 2);
        assert_eq!(state.pairs.prefix(&("ann",)).count(), 2);
    });
}

#[test]
fn strings_are_borrowed_at_both_ends() {
    run(|state| {
        for name in ["a", "b", "ba", "c"] {
            state.names.insert(name);
        }
        let (from, to) = ("b".to_owned(), "c".to_owned());
        let between = |range: &dyn Fn(&Set<String>) -> usize| range(&state.names);
        assert_eq!(between(&|names| names.range("b".."c").count()), 2);
        assert_eq!(between(&|names| names.range(&from..&to).count()), 2);
        assert_eq!(between(&|names| names.range(from.as_str()..).count()), 3);
        assert_eq!(between(&|names| names.range((Bound::Excluded("b"), Bound::Included("c"))).count()), 2);
        assert_eq!(between(&|names| names.range(..to.clone()).count()), 3);
    });
}

#[test]
fn part_of_a_part_is_a_prefix() {
    run(|state| {
        for (tenant, path, part) in [(1, "a/x", 0), (1, "a/y", 1), (1, "ab", 0), (1, "b", 0), (2, "a/x", 0)] {
            state.files.insert(&(tenant, path, part), &1);
        }
        assert_eq!(state.files.prefix(&Begins((1,), "a/")).count(), 2);
        assert_eq!(state.files.prefix(&Begins((1,), "a")).count(), 3);
        assert_eq!(state.files.prefix(&(1, "a/x")).count(), 1);
        assert_eq!(state.files.prefix(&(1,)).count(), 4);
        assert_eq!(state.files.remove_prefix(&Begins((1,), "")), 4);
        assert_eq!(state.files.len(), 1);
    });
}

/// Compares one range of the map with the model.
fn check(
    pairs: &Map<Pair, u8>,
    model: &BTreeMap<Pair, u8>,
    range: impl KeyRange<Pair>,
    bounds: (Bound<Pair>, Bound<Pair>),
) {
    let inside = |pair: &Pair| {
        let after = match &bounds.0 {
            Bound::Included(start) => pair >= start,
            Bound::Excluded(start) => pair > start,
            Bound::Unbounded => true,
        };
        let before = match &bounds.1 {
            Bound::Included(end) => pair <= end,
            Bound::Excluded(end) => pair < end,
            Bound::Unbounded => true,
        };
        after && before
    };
    let expected: Vec<_> = model.iter().filter(|(pair, _)| inside(pair)).map(|(pair, n)| (pair.clone(), *n)).collect();
    assert_eq!(pairs.range(range).collect::<Vec<_>>(), expected, "{bounds:?}");
}

proptest! {
    #[test]
    fn every_kind_of_range_holds_what_a_model_holds(
        rows in proptest::collection::btree_map(("[ab\0ÿ]{0,2}", -1_i8..2), any::<u8>(), 0..20),
        a in ("[ab\0ÿ]{0,2}", -1_i8..2),
        b in ("[ab\0ÿ]{0,2}", -1_i8..2),
    ) {
        use Bound::{Excluded, Included, Unbounded};
        run(|state| {
            rows.iter().for_each(|(pair, n)| state.pairs.insert(pair, n));
            state.names.insert("");
            let pairs = &state.pairs;
            let (a, b) = (&a, &b);
            let borrowed = (a.0.as_str(), a.1);
            let (in_a, in_b) = (Included(a.clone()), Included(b.clone()));
            let (ex_a, ex_b) = (Excluded(a.clone()), Excluded(b.clone()));
            check(pairs, &rows, a..b, (in_a.clone(), ex_b.clone()));
            check(pairs, &rows, a..=b, (in_a.clone(), in_b.clone()));
            check(pairs, &rows, borrowed.., (in_a.clone(), Unbounded));
            check(pairs, &rows, ..b, (Unbounded, ex_b.clone()));
            check(pairs, &rows, ..=borrowed, (Unbounded, in_a));
            check(pairs, &rows, .., (Unbounded, Unbounded));
            check(pairs, &rows, (Excluded(a), Included(b)), (ex_a.clone(), in_b));
            check(pairs, &rows, (Excluded(a), Excluded(b)), (ex_a, ex_b));
        });
    }

    #[test]
    fn prefixes_hold_what_begins_so(
        names in proptest::collection::btree_set("[ab\0ÿ]{0,3}", 0..20),
        begin in "[ab\0ÿ]{0,2}",
    ) {
        run(|state| {
            for name in &names {
                state.names.insert(name);
                state.above.insert(name);
            }
            let expected: BTreeSet<_> = names.iter().filter(|name| name.starts_with(&begin)).cloned().collect();
            assert_eq!(state.names.prefix(&begin).collect::<BTreeSet<_>>(), expected);
            assert_eq!(state.names.remove_prefix(begin.as_str()), expected.len() as u64);
            assert_eq!(state.names.len(), names.len() - expected.len());
            assert_eq!(state.above.len(), names.len());
        });
    }
}
