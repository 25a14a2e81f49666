//! The values of retention and quotas one by one, as operators see and change them: name, unit,
//! meaning, and what may be set. It knows which values contradict each other, and enforces none.

use std::collections::BTreeMap;

use crate::pattern::Pattern;
use crate::store::STATE_MEMTABLE_BYTES;

/// Smallest quota on the size of the state. The size counts what RocksDB holds in memory, also of
/// rows that were removed, so a smaller quota could be used up by that alone.
const STATE_BYTES_MIN: u64 = 2 * STATE_MEMTABLE_BYTES as u64;

/// Greatest number of what has no other bound. It is more than any disk or log holds.
const COUNT_MAX: u64 = 1 << 50;
/// Longest interval, in milliseconds: 30 days, as of the flag.
const INTERVAL_MS_MAX: u64 = 30 * 24 * 3600 * 1000;

/// Most patterns of methods. Each command is compared with all of them while there is no room.
const METHODS_MAX: usize = 64;
/// Most bytes of one pattern.
const METHOD_BYTES_MAX: usize = 256;

/// The key of the methods that are taken while the state is above its quota.
pub(super) const METHODS_OVER_QUOTA: &str = "methods_over_quota";

/// What may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationRange {
    /// Any number from the first to the second.
    Within(u64, u64),
    /// Patterns of methods, with commas between them.
    Methods,
}

/// One value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationKey {
    /// Its name.
    pub name: &'static str,
    /// What it counts.
    pub unit: &'static str,
    /// What it may be set to.
    pub range: OperationRange,
    /// The flag of a node that it overrides; `None` for a quota of the machine.
    pub flag: Option<&'static str>,
    /// What it bounds.
    pub about: &'static str,
}

const fn retention(
    name: &'static str,
    unit: &'static str,
    range: (u64, u64),
    flag: &'static str,
    about: &'static str,
) -> OperationKey {
    OperationKey { name, unit, range: OperationRange::Within(range.0, range.1), flag: Some(flag), about }
}

const fn quota(name: &'static str, unit: &'static str, range: (u64, u64), about: &'static str) -> OperationKey {
    OperationKey { name, unit, range: OperationRange::Within(range.0, range.1), flag: None, about }
}

const KEYS: &[OperationKey] = &[
    retention(
        "snapshot_interval_ms",
        "ms",
        (1, INTERVAL_MS_MAX),
        "--snapshot_interval",
        "time between two looks whether a snapshot is worth it",
    ),
    retention(
        "snapshot_threshold_commands",
        "commands",
        (0, COUNT_MAX),
        "--snapshot_threshold",
        "commands after which a snapshot is worth it",
    ),
    retention(
        "snapshot_threshold_bytes",
        "bytes",
        (0, COUNT_MAX),
        "--snapshot_threshold_bytes",
        "bytes of log after which a snapshot is worth it; 0: never",
    ),
    retention(
        "trailing_commands",
        "commands",
        (0, COUNT_MAX),
        "--trailing_logs",
        "commands in the log behind the newest snapshot",
    ),
    retention(
        "trailing_entries_min",
        "entries",
        (0, COUNT_MAX),
        "--trailing_entries_min",
        "entries in the log in any case",
    ),
    retention(
        "log_quota_bytes",
        "bytes",
        (0, COUNT_MAX),
        "--log_quota",
        "bytes of log above which a node keeps only what it must; 0: never",
    ),
    quota(
        "state_bytes_max",
        "bytes",
        (STATE_BYTES_MIN, COUNT_MAX),
        "bytes of the state on the leader, above which commands are refused",
    ),
    quota("commands_per_second_max", "commands", (1, 1_000_000_000), "commands that the leader takes in a second"),
    quota("watches_per_node_max", "watches", (1, 4096), "open watches of one node"),
    OperationKey {
        name: METHODS_OVER_QUOTA,
        unit: "methods",
        range: OperationRange::Methods,
        flag: None,
        about: "commands that are taken above state_bytes_max, because they free room",
    },
];

impl OperationKey {
    /// Returns all of them: those of retention, then the quotas.
    pub fn all() -> &'static [OperationKey] {
        KEYS
    }

    /// Returns the one of that name.
    pub fn find(name: &str) -> Option<&'static OperationKey> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// Reads a value, and returns it as it is recorded. An error names the range.
    pub(super) fn read(&self, value: &str) -> Result<String, String> {
        let OperationKey { name, unit, range, .. } = self;
        match *range {
            OperationRange::Within(min, max) => match value.parse::<u64>() {
                Ok(number) if (min..=max).contains(&number) => Ok(number.to_string()),
                _ => Err(format!("{name} is {min} to {max} {unit}, or none; not {value:?}")),
            },
            OperationRange::Methods => read_methods(value).map_err(|problem| format!("{name}: {problem}")),
        }
    }
}

/// Returns the patterns in a value.
pub(super) fn patterns(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').filter(|pattern| !pattern.is_empty())
}

fn read_methods(value: &str) -> Result<String, String> {
    let found: Vec<&str> = value.split(',').collect();
    if found.len() > METHODS_MAX {
        return Err(format!("{} patterns are more than the {METHODS_MAX} that there may be", found.len()));
    }
    if let Some(long) = found.iter().find(|pattern| pattern.len() > METHOD_BYTES_MAX) {
        return Err(format!("a pattern has at most {METHOD_BYTES_MAX} bytes, and one has {}", long.len()));
    }
    for pattern in &found {
        Pattern::of_methods(pattern).map_err(|problem| format!("{pattern:?}: {problem}"))?;
    }
    Ok(found.join(","))
}

/// Checks the values that bound each other, or make no sense alone.
pub(super) fn check_together(settings: &BTreeMap<String, String>) -> Result<(), String> {
    let number = |key: &str| settings.get(key).and_then(|value| value.parse::<u64>().ok());
    if let (Some(quota), Some(threshold)) = (number("log_quota_bytes"), number("snapshot_threshold_bytes"))
        && quota != 0
        && threshold > quota
    {
        return Err(format!(
            "snapshot_threshold_bytes is {threshold} then, and must not be above log_quota_bytes, which is {quota}: every snapshot would \
             come with the alarm of a log above its quota"
        ));
    }
    if settings.contains_key(METHODS_OVER_QUOTA) && number("state_bytes_max").is_none() {
        return Err(format!("{METHODS_OVER_QUOTA} says nothing without state_bytes_max; set both, or set it to none"));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(name: &str, value: &str) -> Result<String, String> {
        OperationKey::find(name).unwrap().read(value)
    }

    #[test]
    fn what_is_out_of_range_is_refused_with_the_range() {
        assert_eq!(read("trailing_commands", "007").unwrap(), "7");
        let rows = [
            ("snapshot_interval_ms", "0", "snapshot_interval_ms is 1 to 2592000000 ms, or none; not \"0\""),
            ("state_bytes_max", "1", "state_bytes_max is 33554432 to"),
            ("watches_per_node_max", "5000", "1 to 4096 watches"),
            ("trailing_commands", "many", "not \"many\""),
            ("methods_over_quota", "a.B/C,", "a method has a name"),
            ("methods_over_quota", "/a.B/C", "without a / before it"),
        ];
        for (name, value, words) in rows {
            let refused = read(name, value).unwrap_err();
            assert!(refused.contains(words), "{name}: {refused}");
        }
        assert!(read("methods_over_quota", &vec!["a"; METHODS_MAX + 1].join(",")).is_err());
        assert!(read("methods_over_quota", &"a".repeat(METHOD_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn values_that_contradict_each_other_are_refused() {
        let check = |values: &[(&str, &str)]| {
            let settings = values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            check_together(&settings.collect())
        };
        assert!(check(&[("log_quota_bytes", "5"), ("snapshot_threshold_bytes", "6")]).is_err());
        assert!(check(&[("log_quota_bytes", "0"), ("snapshot_threshold_bytes", "6")]).is_ok());
        assert!(check(&[("methods_over_quota", "*")]).unwrap_err().contains("without state_bytes_max"));
        assert!(check(&[("methods_over_quota", "*"), ("state_bytes_max", "67108864")]).is_ok());
    }
}
