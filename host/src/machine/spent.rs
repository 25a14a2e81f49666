//! What the commands of the newest entries took, kept for the node that chose which commands go
//! together. It is no part of the state, and decides nothing about it.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

/// How many entries are remembered. A proposer asks when it learns that its entry is applied, and
/// has only a few entries under way.
const ENTRIES_KEPT: usize = 16;

/// What one command took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Its fuel, with that of the instances that were made for it.
    pub fuel: u64,
    /// The bytes of what it answered.
    pub reply_bytes: u64,
    /// Whether it ended with anything but a reply. Then its instance is used no more, and it may
    /// have run twice.
    pub failed: bool,
}

/// What each command of an entry took. `None` if it was not run.
pub(crate) type CommandsSpent = Vec<Option<Spent>>;

/// What an entry took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntrySpent {
    /// What each command took, in order. `None` if it was not run.
    pub commands: Vec<Option<Spent>>,
    /// The time in which this node ran them.
    pub took: Duration,
}

/// What the commands of the newest entries took.
#[derive(Debug, Default)]
pub(crate) struct NewestSpent(Mutex<VecDeque<(u64, EntrySpent)>>);

impl NewestSpent {
    /// Remembers an entry. One without commands takes no room.
    pub(crate) fn note(&self, index: u64, spent: EntrySpent) {
        if spent.commands.is_empty() {
            return;
        }
        let mut newest = self.0.lock();
        if newest.len() == ENTRIES_KEPT {
            newest.pop_front();
        }
        newest.push_back((index, spent));
    }

    /// Takes what the commands of the entry took. Empty when the entry is not known.
    pub(crate) fn take(&self, index: u64) -> EntrySpent {
        let mut newest = self.0.lock();
        let place = newest.iter().position(|(at, _)| *at == index);
        place.and_then(|place| newest.remove(place)).map(|(_, spent)| spent).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_told_once_and_old_ones_are_forgotten() {
        let newest = NewestSpent::default();
        let one = |fuel| {
            let commands = vec![Some(Spent { fuel, ..Spent::default() }), None];
            EntrySpent { commands, took: Duration::from_millis(fuel) }
        };
        newest.note(1, EntrySpent::default());
        for index in 2..=ENTRIES_KEPT as u64 + 2 {
            newest.note(index, one(index));
        }
        assert_eq!(newest.take(2), EntrySpent::default(), "it was the oldest");
        assert_eq!(newest.take(3), one(3));
        assert_eq!(newest.take(3), EntrySpent::default());
    }
}
