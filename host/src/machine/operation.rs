//! Retention and quotas: a record of the state with the values that hold on every node, set by an
//! entry. This module owns their names, their ranges and their bytes on disk. It enforces none:
//! `raft/retention` keeps the log by them, `quota` admits commands, and `calls` admits watches.
//!
//! - A value that is not set leaves each node to its own flag, or there is no such quota.
//! - No outcome of a command depends on a value, so apply only records them.

mod keys;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::Machine;
use crate::codec::{self, CodecError, decode_record, encode_record};
use crate::pattern::Pattern;

pub use keys::{OperationKey, OperationRange};

/// Entries about values that are remembered. Whoever proposed one asks as soon as it is applied.
const SET_LATELY_MAX: usize = 64;

/// The indexes of the newest entries that set values here, whether or not later ones set others.
#[derive(Debug, Default)]
pub(crate) struct SetLately(Mutex<VecDeque<u64>>);

impl SetLately {
    /// Notes that the entry at `index` has set values.
    pub(crate) fn note(&self, index: u64) {
        let mut indexes = self.0.lock();
        if indexes.len() >= SET_LATELY_MAX {
            indexes.pop_front();
        }
        indexes.push_back(index);
    }

    fn has(&self, index: u64) -> bool {
        self.0.lock().contains(&index)
    }
}

/// The values that the last entry about them has set. The default is before any were set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    /// Index of that entry; 0 before the first.
    pub index: u64,
    /// Log time of that entry, in milliseconds since 1970.
    pub time_ms: u64,
    /// Who set them; empty if nobody has shown a name.
    pub by: String,
    /// The values as they are written, by their keys.
    pub settings: BTreeMap<String, String>,
}

/// A value that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationChange {
    /// Which one.
    pub key: &'static OperationKey,
    /// What it was; `None` if it was not set.
    pub before: Option<String>,
    /// What it will be; `None` if it is set no more.
    pub after: Option<String>,
}

impl Operation {
    /// Returns the values that an entry sets.
    pub(crate) fn set_by(index: u64, time_ms: u64, entry: &codec::entry::Operation) -> Operation {
        let settings = entry.settings.iter().map(|setting| (setting.key.clone(), setting.value.clone()));
        Operation { index, time_ms, by: entry.by.clone(), settings: settings.collect() }
    }

    /// Returns the entry that sets `settings` in place of these.
    pub fn entry(&self, settings: &BTreeMap<String, String>, by: String) -> codec::entry::Operation {
        let setting =
            |(key, value): (&String, &String)| codec::entry::Setting { key: key.clone(), value: value.clone() };
        codec::entry::Operation { expected_index: self.index, settings: settings.iter().map(setting).collect(), by }
    }

    /// Returns a number; `None` if it is not set.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.settings.get(key)?.parse().ok()
    }

    /// Returns whether a command of this method is taken while the state is above its quota.
    pub fn frees_room(&self, method: &str) -> bool {
        let patterns = self.settings.get(keys::METHODS_OVER_QUOTA).map(String::as_str).unwrap_or_default();
        keys::patterns(patterns).any(|pattern| Pattern::new(pattern).matches(method))
    }

    /// Returns the quotas that are numbers and are set, by their keys.
    pub fn quotas(&self) -> Vec<(&'static str, u64)> {
        let quotas = OperationKey::all().iter().filter(|key| key.flag.is_none());
        quotas.filter_map(|key| Some((key.name, self.number(key.name)?))).collect()
    }

    /// Returns the keys that this build does not know.
    pub fn unknown(&self) -> Vec<&str> {
        self.settings.keys().map(String::as_str).filter(|key| OperationKey::find(key).is_none()).collect()
    }

    /// Returns these values with some of them set otherwise, each given as key and value. `none`
    /// sets a value no more. An error says what is wrong with one of them.
    pub fn with(&self, values: &[(String, String)]) -> Result<BTreeMap<String, String>, String> {
        let mut settings = self.settings.clone();
        for (name, value) in values {
            let key = OperationKey::find(name).ok_or_else(|| format!("there is no value {name:?}"))?;
            match value.as_str() {
                "none" => settings.remove(name),
                value => settings.insert(name.clone(), key.read(value)?),
            };
        }
        keys::check_together(&settings)?;
        Ok(settings)
    }

    /// Returns the values that are others in `after`.
    pub fn changes_to(&self, after: &BTreeMap<String, String>) -> Vec<OperationChange> {
        let of = |settings: &BTreeMap<String, String>, key: &OperationKey| settings.get(key.name).cloned();
        let change = |key: &'static OperationKey| OperationChange {
            key,
            before: of(&self.settings, key),
            after: of(after, key),
        };
        OperationKey::all().iter().map(change).filter(|change| change.before != change.after).collect()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let settings = self.settings.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        encode_record(&OperationRecord { index: self.index, time_ms: self.time_ms, settings, by: self.by.clone() })
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Operation, CodecError> {
        let OperationRecord { index, time_ms, settings, by } = decode_record(bytes)?;
        Ok(Operation { index, time_ms, by, settings: settings.into_iter().collect() })
    }
}

#[derive(Serialize, Deserialize)]
struct OperationRecord {
    index: u64,
    time_ms: u64,
    /// In the order of the keys.
    settings: Vec<(String, String)>,
    by: String,
}

impl Machine {
    /// Returns the retention and the quotas in force, as this node has applied them.
    pub fn operation(&self) -> Arc<Operation> {
        self.shared.operation.borrow().clone()
    }

    /// Returns whether the entry at `index` set its values when it was applied here, a moment ago.
    /// One that was made from other values than those in force did not.
    pub fn operation_was_set_by(&self, index: u64) -> bool {
        self.shared.operations_set.has(index)
    }

    /// Follows [`Machine::operation`].
    pub fn watch_operation(&self) -> watch::Receiver<Arc<Operation>> {
        self.shared.operation.subscribe()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::hex;

    fn pairs(values: &[(&str, &str)]) -> Vec<(String, String)> {
        values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn operation(values: &[(&str, &str)]) -> Operation {
        Operation { index: 9, time_ms: 7, by: "ann".into(), settings: pairs(values).into_iter().collect() }
    }

    #[test]
    fn record_bytes_are_frozen() {
        let word = |value: u8| format!("{value:02x}00000000000000");
        let text = |text: &str| word(text.len() as u8) + &hex(text.as_bytes());
        let operation = operation(&[("trailing_commands", "5")]);
        let wanted = ["01".to_owned() + &word(9), word(7), word(1), text("trailing_commands"), text("5"), text("ann")];
        assert_eq!(hex(&operation.encode()), wanted.concat());
        assert_eq!(Operation::decode(&operation.encode()).unwrap(), operation);
    }

    #[test]
    fn a_value_is_set_taken_back_and_the_others_stay() {
        let before = operation(&[("state_bytes_max", "1048576"), ("trailing_commands", "5")]);
        let after = before.with(&pairs(&[("state_bytes_max", "none"), ("snapshot_interval_ms", "500")])).unwrap();
        assert_eq!(after, pairs(&[("trailing_commands", "5"), ("snapshot_interval_ms", "500")]).into_iter().collect());
        let changes = before.changes_to(&after);
        let told: Vec<_> = changes.iter().map(|change| (change.key.name, change.after.as_deref())).collect();
        assert_eq!(told, [("snapshot_interval_ms", Some("500")), ("state_bytes_max", None)]);
        assert_eq!(before.with(&pairs(&[("state_bytes_max", "none")])).unwrap().len(), 1);
        assert!(before.with(&pairs(&[("stars_max", "1")])).unwrap_err().contains("there is no value \"stars_max\""));
    }

    #[test]
    fn the_newest_entries_are_remembered() {
        let lately = SetLately::default();
        (1..=100).for_each(|index| lately.note(index));
        assert_eq!([36, 37, 100, 101].map(|index| lately.has(index)), [false, true, true, false]);
    }

    #[test]
    fn methods_that_free_room_are_named_by_patterns() {
        let some = operation(&[("methods_over_quota", "a.B/Remove*,c.D/*")]);
        assert!(some.frees_room("a.B/RemoveAll") && some.frees_room("c.D/E"));
        assert!(!some.frees_room("a.B/Add") && !operation(&[]).frees_room("a.B/Remove"));
    }

    #[test]
    fn what_this_build_does_not_know_is_kept_and_named() {
        let newer = operation(&[("stars_max", "3"), ("trailing_commands", "5")]);
        assert_eq!(newer.unknown(), ["stars_max"]);
        assert_eq!(newer.with(&[]).unwrap(), newer.settings);
        assert_eq!(newer.number("trailing_commands"), Some(5));
    }
}
