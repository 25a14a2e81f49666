//! The rolling hash of everything that apply did. The last 8192 hashes are kept, so that a
//! proposer's hash can be compared with ours at the same index. This module reports a difference
//! but decides nothing.

use std::collections::VecDeque;

use xxhash_rust::xxh3::Xxh3;

use super::outcome::Parts;
use super::system::HashRecord;

/// How many past hashes are kept for comparison.
pub(crate) const HASHES_KEPT: usize = 8192;

/// A difference between the states of two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// The entry after which the states differ.
    pub index: u64,
    /// Our hash at that entry.
    pub ours: u64,
    /// The other node's hash at that entry.
    pub theirs: u64,
}

/// A write as the hash sees it: column, key, and value; the value is `None` if the key was removed.
pub(crate) struct Write<'a> {
    pub(crate) column: u8,
    pub(crate) key: &'a [u8],
    pub(crate) value: Option<&'a [u8]>,
}

/// `Write::column` of the guest's keys.
pub(crate) const DATA: u8 = 0;
/// `Write::column` of the host's records.
pub(crate) const SYSTEM: u8 = 1;

/// Computes `h' = xxh3(h, index, outcomes, sorted write set)`. Every part carries its length, so
/// that two different histories never give the same input.
pub(crate) fn next<'a>(
    before: HashRecord,
    index: u64,
    outcomes: impl ExactSizeIterator<Item = Parts<'a>>,
    writes: impl Iterator<Item = Write<'a>>,
) -> HashRecord {
    let mut hasher = Xxh3::new();
    hasher.update(&before.hash.to_le_bytes());
    hasher.update(&index.to_le_bytes());
    hasher.update(&(outcomes.len() as u64).to_le_bytes());
    for outcome in outcomes {
        hasher.update(&(outcome.len() as u64).to_le_bytes());
        outcome.each().into_iter().for_each(|part| hasher.update(part));
    }
    for write in writes {
        hasher.update(&[write.column, u8::from(write.value.is_some())]);
        update_bytes(&mut hasher, write.key);
        update_bytes(&mut hasher, write.value.unwrap_or_default());
    }
    HashRecord { index, hash: hasher.digest() }
}

fn update_bytes(hasher: &mut Xxh3, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

/// The newest hashes, of consecutive indexes. After a start and after an install it holds one hash;
/// earlier indexes cannot be compared.
#[derive(Debug, Default)]
pub(crate) struct Recent(VecDeque<HashRecord>);

impl Recent {
    pub(crate) fn push(&mut self, record: HashRecord) {
        // The first entry of a log has index 0, and so does the state before it.
        if self.0.back().is_some_and(|last| last.index + 1 != record.index) {
            self.0.clear();
        }
        if self.0.len() == HASHES_KEPT {
            self.0.pop_front();
        }
        self.0.push_back(record);
    }

    /// Begins anew at `record`: the state stands there, after a start or an install.
    pub(crate) fn begin(&mut self, record: HashRecord) {
        self.0.clear();
        self.0.push_back(record);
    }

    /// Returns our hash at `index`, if it is still known.
    pub(crate) fn at(&self, index: u64) -> Option<u64> {
        let first = self.0.front()?.index;
        let record = self.0.get(usize::try_from(index.checked_sub(first)?).ok()?)?;
        (record.index == index).then_some(record.hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(key: &'static [u8], value: Option<&'static [u8]>) -> Write<'static> {
        Write { column: DATA, key, value }
    }

    #[test]
    fn hash_is_frozen() {
        let before = HashRecord { index: 4, hash: 9 };
        let writes = vec![write(b"a", Some(b"1")), write(b"b", None)];
        let after = next(before, 5, [Parts::of_bytes(b"ok")].into_iter(), writes.into_iter());
        assert_eq!(after, HashRecord { index: 5, hash: after.hash });
        assert_eq!(after.hash, FROZEN);
    }
    /// Computed by the first version of this code. A change of it splits clusters of mixed builds.
    const FROZEN: u64 = 6_904_315_299_111_586_247;

    #[test]
    fn removing_differs_from_writing_nothing() {
        let start = HashRecord::default();
        let removed = next(start, 1, std::iter::empty(), std::iter::once(write(b"a", None)));
        let emptied = next(start, 1, std::iter::empty(), std::iter::once(write(b"a", Some(b""))));
        assert_ne!(removed.hash, emptied.hash);
    }

    #[test]
    fn what_comes_first_is_known_too() {
        let mut recent = Recent::default();
        recent.begin(HashRecord::default());
        for index in 0..3 {
            recent.push(HashRecord { index, hash: index + 7 });
        }
        assert_eq!([recent.at(0), recent.at(1), recent.at(2)], [Some(7), Some(8), Some(9)]);
        recent.begin(HashRecord { index: 20, hash: 1 });
        recent.push(HashRecord { index: 21, hash: 2 });
        assert_eq!([recent.at(2), recent.at(20), recent.at(21)], [None, Some(1), Some(2)]);
    }

    #[test]
    fn only_recent_hashes_are_known() {
        let mut recent = Recent::default();
        assert_eq!(recent.at(0), None);
        for index in 10..10 + HASHES_KEPT as u64 + 5 {
            recent.push(HashRecord { index, hash: index * 2 });
        }
        assert_eq!(recent.at(14), None);
        assert_eq!(recent.at(15), Some(30));
        assert_eq!(recent.at(10 + HASHES_KEPT as u64 + 5), None);
    }
}
