//! Compares the transaction with a plain map: after the same operations, both must give the same
//! answers.

use super::*;
use proptest::prelude::*;

/// A base that is a map.
#[derive(Clone, Default)]
struct Stored(BTreeMap<Vec<u8>, Vec<u8>>);

impl Read for Stored {
    fn get(&self, _: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(
        &self,
        _: Column,
        start: &[u8],
        end: Option<&[u8]>,
        reverse: bool,
        row: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let rows = in_range(&self.0, Range { start, end }, reverse);
        let _stopped = rows.iter().try_for_each(|(key, value)| row(key, value));
        Ok(())
    }
}

fn in_range(map: &BTreeMap<Vec<u8>, Vec<u8>>, range: Range<'_>, reverse: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    let inside = |key: &[u8]| key >= range.start && range.end.is_none_or(|end| key < end);
    let mut rows: Vec<_> = map.iter().filter(|(key, _)| inside(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
    if reverse {
        rows.reverse();
    }
    rows
}

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<u8>, Vec<u8>),
    Remove(Vec<u8>),
    RemoveRange(Vec<u8>, Option<Vec<u8>>, u64),
    Savepoint,
    Rollback,
    Scan(Vec<u8>, Option<Vec<u8>>, bool, u32),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0u8..3, 1..4)
}

fn step() -> impl Strategy<Value = Step> {
    let end = || prop::option::of(key());
    prop_oneof![
        (key(), prop::collection::vec(any::<u8>(), 0..4)).prop_map(|(key, value)| Step::Put(key, value)),
        key().prop_map(Step::Remove),
        (key(), end(), 0u64..4).prop_map(|(start, end, limit)| Step::RemoveRange(start, end, limit)),
        Just(Step::Savepoint),
        Just(Step::Rollback),
        (key(), end(), any::<bool>(), 0u32..5).prop_map(|(s, e, reverse, limit)| Step::Scan(s, e, reverse, limit)),
    ]
}

fn page_of(rows: Vec<(Vec<u8>, Vec<u8>)>, limit: u32) -> Page {
    let mut pager = Pager::new(limit);
    let _stopped = rows.iter().try_for_each(|(key, value)| pager.row(key, value));
    pager.page
}

proptest! {
    #[test]
    fn transaction_answers_like_a_map(
        stored in prop::collection::btree_map(key(), prop::collection::vec(any::<u8>(), 0..4), 0..12),
        steps in prop::collection::vec(step(), 0..40),
    ) {
        let mut transaction = Transaction::new(Stored(stored.clone()));
        let (mut model, mut saved) = (stored.clone(), stored.clone());
        for step in steps {
            match step {
                Step::Put(key, value) => {
                    transaction.put(&key, &value).unwrap();
                    model.insert(key, value);
                }
                Step::Remove(key) => {
                    transaction.remove(&key).unwrap();
                    model.remove(&key);
                }
                Step::RemoveRange(start, end, limit) => {
                    let range = Range { start: &start, end: end.as_deref() };
                    let wanted = if limit == 0 { usize::MAX } else { limit as usize };
                    let keys: Vec<_> = in_range(&model, range, false).into_iter().take(wanted).collect();
                    prop_assert_eq!(transaction.remove_range(range, limit).unwrap(), keys.len() as u64);
                    keys.iter().for_each(|(key, _)| drop(model.remove(key)));
                }
                Step::Savepoint => {
                    transaction.savepoint();
                    saved = model.clone();
                }
                Step::Rollback => {
                    transaction.rollback();
                    model = saved.clone();
                }
                Step::Scan(start, end, reverse, limit) => {
                    let range = Range { start: &start, end: end.as_deref() };
                    let page = transaction.scan(range, reverse, limit).unwrap();
                    prop_assert_eq!(page, page_of(in_range(&model, range, reverse), limit));
                }
            }
        }
        for (key, value) in &model {
            prop_assert_eq!(transaction.get(key).unwrap(), Some(value.clone()));
        }
        let mut written = stored;
        for (key, value) in transaction.into_writes() {
            match value {
                Some(value) => drop(written.insert(key, value)),
                None => drop(written.remove(&key)),
            }
        }
        prop_assert_eq!(written, model);
    }
}

#[test]
fn page_ends_at_its_size_and_says_so() {
    let big = vec![0; crate::guest::PAGE_BYTES_MAX / 2];
    let stored = Stored((0u8..3).map(|n| (vec![n], big.clone())).collect());
    let mut transaction = Transaction::new(stored);
    let page = transaction.scan(Range { start: b"", end: None }, false, 0).unwrap();
    assert!(page.more);
    assert_eq!(page.rows.len(), 8 + 1 + big.len());
}

#[test]
fn removed_keys_that_a_scan_passes_over_are_counted_alike_in_both_directions() {
    let rows = (0u8..10).map(|n| (vec![n], vec![])).collect();
    let mut transaction = Transaction::new(Stored(rows));
    let everything = Range { start: b"", end: None };
    assert_eq!(transaction.remove_range(Range { start: &[2], end: Some(&[6]) }, 0).unwrap(), 4);
    assert_eq!(transaction.passed_over(), 0, "they were there");
    // One key that never existed, and one that is written again.
    transaction.remove(&[20]).unwrap();
    transaction.put(&[3], b"again").unwrap();
    for reverse in [false, true] {
        transaction.scan(everything, reverse, 0).unwrap();
        assert_eq!((transaction.passed_over(), transaction.passed_over()), (4, 0), "2, 4, 5 and 20");
    }
    // A scan counts only the keys that it reaches: none before row 1; then 2, 4 and 5 before row 6.
    transaction.scan(everything, false, 1).unwrap();
    assert_eq!(transaction.passed_over(), 0);
    transaction.scan(everything, false, 3).unwrap();
    assert_eq!(transaction.passed_over(), 3);
    assert_eq!(transaction.remove_range(Range { start: &[4], end: Some(&[7]) }, 0).unwrap(), 1);
    assert_eq!(transaction.passed_over(), 2);
}

#[test]
fn each_write_counts_for_more_than_its_bytes() {
    let mut transaction = Transaction::new(Stored::default());
    transaction.put(b"key", b"value").unwrap();
    transaction.put(b"key", b"other").unwrap();
    transaction.remove(b"key").unwrap();
    assert_eq!((transaction.written_bytes(), transaction.held_bytes()), (19, 19 + 3 * WRITE_OVERHEAD_BYTES));
}
