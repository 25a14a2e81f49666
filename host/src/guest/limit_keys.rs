//! The limits of a profile one by one, as operators see and change them: name, unit, meaning, and
//! the range in which a running cluster takes a value. It enforces none of them; `limits` does.
//!
//! - A range bounds what an operator may set. A value that a cluster was founded with stays valid.
//! - The greatest fuel of a command keeps the worst one under a second; see docs/limits.md.

use super::limits::{Limits, WASM_STACK_BYTES_MAX};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Bytes of a page of linear memory.
const PAGE_BYTES: u64 = 64 * KIB;

/// What an operator may do with a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitRange {
    /// Any value from the first to the second.
    Within(u64, u64),
    /// Nothing, for this reason.
    Fixed(&'static str),
}

/// One limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitKey {
    /// Its name, as in the profile.
    pub name: &'static str,
    /// What its value counts.
    pub unit: &'static str,
    /// What an operator may set it to.
    pub range: LimitRange,
    /// What it bounds.
    pub about: &'static str,
}

/// A limit whose value changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitChange {
    /// The limit.
    pub key: &'static LimitKey,
    /// Its value before.
    pub before: u64,
    /// Its value after.
    pub after: u64,
}

impl LimitChange {
    /// Returns whether a call may fail after the change that did not fail before.
    pub fn is_tighter(&self) -> bool {
        match self.key.name {
            // A price, and no ceiling.
            "fuel_per_reply_byte" => self.after > self.before,
            _ => self.after < self.before,
        }
    }
}

const fn key(name: &'static str, unit: &'static str, min: u64, max: u64, about: &'static str) -> LimitKey {
    LimitKey { name, unit, range: LimitRange::Within(min, max), about }
}

/// All limits, in the order of [`Limits`].
const KEYS: &[LimitKey] = &[
    key("fuel_per_command", "fuel", 1_000_000, 125_000_000, "one command, with its calls into the host"),
    key("fuel_per_entry", "fuel", 1_000_000, 500_000_000, "the commands of one log entry"),
    key("fuel_per_query", "fuel", 1_000_000, 100_000_000_000, "one query, and one step of a watch"),
    key("fuel_per_instantiation", "fuel", 1_000_000, 25_000_000, "the start functions of an instance"),
    key("fuel_per_snapshot", "fuel", 1_000_000_000, 1_000_000_000_000_000, "one whole snapshot or restore"),
    key("query_deadline_ms", "ms", 100, 60_000, "time of one query, and of one step of a watch"),
    key("memory_bytes_max", "bytes", PAGE_BYTES, 256 * MIB, "linear memory of an instance, in pages of 64 KiB"),
    LimitKey {
        name: "wasm_stack_bytes",
        unit: "bytes",
        range: LimitRange::Fixed(
            "the place where a recursion ends follows from it, and the threads of every node were started with room for this much",
        ),
        about: "stack of an instance",
    },
    key("table_elements_max", "elements", 1_024, 262_144, "elements of one table"),
    key("key_bytes_max", "bytes", 64, 16 * KIB, "a key"),
    key("value_bytes_max", "bytes", KIB, 4 * MIB, "a value"),
    key("write_bytes_per_command_max", "bytes", 64 * KIB, 32 * MIB, "keys and values that a command writes"),
    key("store_calls_max", "calls", 100, 1_000_000, "calls of the store by a command or query"),
    key("store_bytes_max", "bytes", 64 * KIB, 256 * MIB, "keys and values that a command or query reads and writes"),
    key("keys_removed_max", "keys", 1, 1_000_000, "keys that a command removes by ranges"),
    key("fuel_per_reply_byte", "fuel", 0, 1_000, "price of a byte of a command's reply"),
    key("reply_bytes_per_entry_max", "bytes", 64 * KIB, 64 * MIB, "replies of the commands of one log entry"),
    key("reply_bytes_max", "bytes", KIB, 4 * MIB - 64 * KIB, "a reply, and each reply of a step of a watch"),
    key("watch_replies_bytes_max", "bytes", KIB, 16 * MIB, "all replies of a step of a watch"),
    key("watch_memo_bytes_max", "bytes", 0, 16 * KIB, "the memo of a watch"),
    key("status_message_bytes_max", "bytes", 64, KIB, "the message of a refusal; a longer one is cut"),
    key("status_details_bytes_max", "bytes", 0, 4 * KIB, "the details of a refusal"),
    key("snapshot_chunk_bytes_max", "bytes", 64 * KIB, MIB, "one chunk of a snapshot"),
    key("log_bytes_max", "bytes", 0, MIB, "log lines of a call; the rest is dropped"),
];

impl Limits {
    /// Returns all limits, in the order of the profile.
    pub fn keys() -> &'static [LimitKey] {
        KEYS
    }

    /// Returns the value of a limit.
    pub fn value(&self, key: &LimitKey) -> u64 {
        let limits = serde_json::to_value(self).expect("limits are numbers");
        limits[key.name].as_u64().expect("the table has the names of the limits")
    }

    /// Returns the same limits with other values for some, each given as name and value. An error
    /// says what is wrong with one of them, and names the range.
    pub fn with(&self, values: &[(String, u64)]) -> Result<Limits, String> {
        let mut limits = serde_json::to_value(self).expect("limits are numbers");
        for (name, value) in values {
            let key = KEYS.iter().find(|key| key.name == name);
            let key = key.ok_or_else(|| {
                let names: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
                format!("there is no limit {name:?}; the limits are {}", names.join(", "))
            })?;
            if self.value(key) != *value {
                key.check(*value)?;
            }
            limits[key.name] = (*value).into();
        }
        let limits: Limits = serde_json::from_value(limits).map_err(|error| error.to_string())?;
        let limits = Limits { semantics: self.semantics, ..limits };
        limits.check_together(self)?;
        Ok(limits)
    }

    /// Returns the limits that have another value in `after`.
    pub fn changes_to(&self, after: &Limits) -> Vec<LimitChange> {
        let change = |key: &'static LimitKey| LimitChange { key, before: self.value(key), after: after.value(key) };
        KEYS.iter().map(change).filter(|change| change.before != change.after).collect()
    }

    /// Checks the limits that bound each other, as far as they were set now.
    fn check_together(&self, before: &Limits) -> Result<(), String> {
        for (now, before) in self.pairs().into_iter().zip(before.pairs()) {
            let Pair { large, small } = now;
            if now != before && large.1 < small.1 {
                return Err(format!(
                    "{} is {} then, and must be at least {}, which is {}",
                    large.0, large.1, small.0, small.1
                ));
            }
        }
        Ok(())
    }

    fn pairs(&self) -> [Pair; 5] {
        let pair = |large, small| Pair { large, small };
        let command = ("fuel_per_command", self.fuel_per_command);
        let row = u64::from(self.key_bytes_max) + u64::from(self.value_bytes_max);
        let written = ("write_bytes_per_command_max", self.write_bytes_per_command_max);
        let reply = ("reply_bytes_max", self.reply_bytes_max.into());
        [
            pair(("fuel_per_entry", self.fuel_per_entry), command),
            pair(written, ("key_bytes_max + value_bytes_max", row)),
            pair(("store_bytes_max", self.store_bytes_max), written),
            pair(("reply_bytes_per_entry_max", self.reply_bytes_per_entry_max), reply),
            pair(("watch_replies_bytes_max", self.watch_replies_bytes_max.into()), reply),
        ]
    }
}

/// Two limits, or sums of some, of which one must not be below the other. Each has its name.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Pair {
    large: (&'static str, u64),
    small: (&'static str, u64),
}

impl LimitKey {
    fn check(&self, value: u64) -> Result<(), String> {
        let LimitKey { name, unit, range, .. } = self;
        match *range {
            LimitRange::Fixed(why) => Err(format!("{name} cannot be changed while a cluster runs: {why}")),
            LimitRange::Within(min, max) if !(min..=max).contains(&value) => {
                Err(format!("{name} is {min} to {max} {unit}, not {value}"))
            }
            LimitRange::Within(..) if *name == "memory_bytes_max" && !value.is_multiple_of(PAGE_BYTES) => {
                Err(format!("{name} is a multiple of {PAGE_BYTES} {unit}, a page, and {value} is none"))
            }
            LimitRange::Within(..) => Ok(()),
        }
    }
}

// The default stack fits the threads, and stays as it is.
const _: () = assert!(Limits::DEFAULT.wasm_stack_bytes <= WASM_STACK_BYTES_MAX);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn set(name: &str, value: u64) -> Result<Limits, String> {
        Limits::DEFAULT.with(&[(name.to_owned(), value)])
    }

    #[test]
    fn the_table_has_every_limit_and_the_defaults_are_in_range() {
        let limits = serde_json::to_value(Limits::DEFAULT).unwrap();
        let mut known: Vec<&str> = limits.as_object().unwrap().keys().map(String::as_str).collect();
        let mut listed: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
        known.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, known);
        for key in KEYS {
            let is_fixed = matches!(key.range, LimitRange::Fixed(_));
            assert!(is_fixed || key.check(Limits::DEFAULT.value(key)).is_ok(), "{}", key.name);
        }
    }

    #[test]
    fn a_value_is_set_and_the_others_stay() {
        let limits = set("fuel_per_command", 50_000_000).unwrap();
        assert_eq!(limits, Limits { fuel_per_command: 50_000_000, ..Limits::DEFAULT });
        let changes = Limits::DEFAULT.changes_to(&limits);
        let told: Vec<_> = changes.iter().map(|change| (change.key.name, change.before, change.after)).collect();
        assert_eq!(told, [("fuel_per_command", 100_000_000, 50_000_000)]);
        assert!(changes[0].is_tighter());
        assert!(Limits::DEFAULT.changes_to(&Limits::DEFAULT).is_empty());
    }

    #[test]
    fn a_price_is_tighter_when_it_rises() {
        let limits = set("fuel_per_reply_byte", 2).unwrap();
        assert!(Limits::DEFAULT.changes_to(&limits)[0].is_tighter());
        let limits = set("key_bytes_max", 8 * KIB).unwrap();
        assert!(!Limits::DEFAULT.changes_to(&limits)[0].is_tighter());
    }

    #[test]
    fn what_is_out_of_range_is_refused_with_the_range() {
        let rows = [
            ("fuel_per_command", 125_000_001, "fuel_per_command is 1000000 to 125000000 fuel, not 125000001"),
            ("memory_bytes_max", 512 * MIB, "memory_bytes_max is 65536 to 268435456 bytes"),
            ("memory_bytes_max", MIB + 1, "a multiple of 65536"),
            ("wasm_stack_bytes", MIB, "cannot be changed while a cluster runs: the place where a recursion ends"),
            ("stars_max", 1, "there is no limit \"stars_max\"; the limits are fuel_per_command, "),
            ("fuel_per_entry", 1_000_000, "fuel_per_entry is 1000000 then, and must be at least fuel_per_command"),
            ("reply_bytes_per_entry_max", MIB, "must be at least reply_bytes_max"),
        ];
        for (name, value, words) in rows {
            let refused = set(name, value).unwrap_err();
            assert!(refused.contains(words), "{name}: {refused}");
        }
    }

    /// A cluster of an earlier build has values that nobody may set.
    #[test]
    fn what_a_cluster_was_founded_with_stays() {
        let before = Limits { reply_bytes_per_entry_max: u64::MAX, ..Limits::DEFAULT };
        let same = [("reply_bytes_per_entry_max".to_owned(), u64::MAX), ("wasm_stack_bytes".to_owned(), 2 * MIB)];
        assert_eq!(before.with(&same).unwrap(), before);
        let before = Limits { semantics: 3, ..before };
        let after = before.with(&[("key_bytes_max".to_owned(), 128)]).unwrap();
        assert_eq!((after.reply_bytes_per_entry_max, after.semantics), (u64::MAX, 3));
    }
}
