//! Compares the hashes of a replay with those that history recorded. Each entry of a leader has the
//! hash of an earlier one, and a node's directory has those of its states. This file runs nothing.
//!
//! - A hash covers every outcome and every write up to its entry. So the first that differs says
//!   that an entry behind the last equal one ended differently.

use std::collections::BTreeMap;

use serde::Serialize;

use super::history::Content;
use crate::machine::hash::Recent;
use crate::machine::system::HashRecord;

/// A hash that was recorded beside the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Landmark {
    /// The entry behind which it stood.
    pub index: u64,
    /// The hash.
    pub hash: u64,
    /// What has it, in words.
    pub told_by: String,
}

/// What a comparison of hashes found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The first entry that was run.
    pub first_index: u64,
    /// The last entry that was run.
    pub last_index: u64,
    /// Entries that were run.
    pub entries: u64,
    /// Commands that were run.
    pub commands: u64,
    /// Hashes that were compared.
    pub hashes: u64,
    /// The last entry whose hash is the recorded one.
    pub agreed_index: Option<u64>,
    /// The first difference. The replay ended there.
    pub difference: Option<HashDifference>,
    /// The rolling hash behind the last entry, in hex.
    pub hash: String,
}

/// A hash that is not the recorded one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HashDifference {
    /// An entry from this one on, up to `index`, ended differently.
    pub after_index: u64,
    /// The entry behind which the hashes differ.
    pub index: u64,
    /// The hash of the replay, in hex.
    pub replayed: String,
    /// The recorded hash, in hex.
    pub recorded: String,
    /// What has the recorded hash.
    pub told_by: String,
}

/// Compares the hashes of a course as it goes on.
pub(crate) struct Comparison {
    recent: Recent,
    landmarks: BTreeMap<u64, Landmark>,
    pub(crate) verified: Verified,
}

impl Comparison {
    /// Begins behind an entry.
    pub(super) fn begin(at: HashRecord, first_index: u64, landmarks: &[Landmark]) -> Comparison {
        let mut recent = Recent::default();
        recent.begin(at);
        let landmarks = landmarks.iter().map(|landmark| (landmark.index, landmark.clone())).collect();
        Comparison { recent, landmarks, verified: Verified { first_index, ..Verified::default() } }
    }

    /// Compares the hash that an entry carries, before it is run.
    pub(super) fn carried(&mut self, index: u64, content: &Content) {
        let Some(entry) = content.entry().filter(|entry| entry.hash_index != 0) else { return };
        if let Some(ours) = self.recent.at(entry.hash_index) {
            self.compare(entry.hash_index, ours, entry.hash, || format!("the leader's record in entry {index}"));
        }
    }

    /// Notes an entry that was run, and compares its hash if that is recorded. `is_rolled_back`
    /// says that the history before it is another one from now on.
    pub(super) fn ran(&mut self, at: HashRecord, commands: u64, is_rolled_back: bool) {
        match is_rolled_back {
            true => self.recent.begin(at),
            false => self.recent.push(at),
        }
        self.verified.last_index = at.index;
        self.verified.entries += 1;
        self.verified.commands += commands;
        self.verified.hash = format!("{:016x}", at.hash);
        if let Some(landmark) = self.landmarks.remove(&at.index) {
            self.compare(at.index, at.hash, landmark.hash, || landmark.told_by);
        }
    }

    /// Returns whether a hash differs.
    pub(crate) fn differs(&self) -> bool {
        self.verified.difference.is_some()
    }

    fn compare(&mut self, index: u64, ours: u64, theirs: u64, told_by: impl FnOnce() -> String) {
        if self.differs() {
            return;
        }
        self.verified.hashes += 1;
        if ours == theirs {
            self.verified.agreed_index = self.verified.agreed_index.max(Some(index));
            return;
        }
        let after = self.verified.agreed_index.map_or(self.verified.first_index, |agreed| agreed + 1);
        self.verified.difference = Some(HashDifference {
            after_index: after.min(index),
            index,
            replayed: format!("{ours:016x}"),
            recorded: format!("{theirs:016x}"),
            told_by: told_by(),
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::codec::entry::Entry;

    fn at(index: u64, hash: u64) -> HashRecord {
        HashRecord { index, hash }
    }

    fn carrying(hash_index: u64, hash: u64) -> Content {
        Content::Commands(Box::new(Entry { hash_index, hash, ..Entry::default() }))
    }

    fn landmark(index: u64, hash: u64) -> Landmark {
        Landmark { index, hash, told_by: format!("the checkpoint at entry {index}") }
    }

    #[test]
    fn the_first_hash_that_differs_is_told_with_the_last_that_does_not() {
        let mut found = Comparison::begin(at(4, 40), 5, &[landmark(6, 60), landmark(8, 1)]);
        found.carried(5, &carrying(4, 40));
        for index in 5..=8 {
            found.ran(at(index, index * 10), 2, false);
            assert_eq!(found.differs(), index == 8, "{index}");
        }
        found.carried(9, &carrying(7, 1));
        let verified = found.verified;
        assert_eq!((verified.entries, verified.commands, verified.hashes, verified.agreed_index), (4, 8, 3, Some(6)));
        let difference = verified.difference.unwrap();
        assert_eq!((difference.after_index, difference.index), (7, 8));
        assert_eq!(
            (difference.told_by.as_str(), difference.recorded.as_str()),
            ("the checkpoint at entry 8", "0000000000000001")
        );
    }

    #[test]
    fn hashes_of_a_history_that_was_taken_back_are_not_compared() {
        let mut found = Comparison::begin(at(4, 40), 5, &[]);
        found.ran(at(5, 50), 0, false);
        found.ran(at(6, 600), 0, true);
        found.carried(7, &carrying(5, 1));
        assert!(!found.differs());
        found.carried(7, &carrying(6, 600));
        assert_eq!((found.verified.hashes, found.verified.agreed_index), (1, Some(6)));
        found.carried(8, &carrying(6, 601));
        assert!(found.verified.difference.unwrap().told_by.contains("in entry 8"));
    }
}
