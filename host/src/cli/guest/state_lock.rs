//! The part of `lockstep guest check` that compares a guest's state with the record of it, the file
//! `state.lock`, and writes that file. The crate `contract` decides what differs. The SDK puts the
//! description of the state into the guest.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;
use lockstep_contract::{StateDifference, StateLock};
use serde_json::{Value, json};

use crate::cli::report::{Failure, print_line};
use crate::guest;

#[derive(Debug, clap::Args)]
pub(super) struct StateArgs {
    /// A state.lock: say how the state differs from it, and fail if it does
    #[arg(long = "lock", value_name = "FILE", conflicts_with = "write_lock")]
    lock: Option<PathBuf>,

    /// Write a state.lock: add new tags, take over new types, retire tags that are gone
    #[arg(long = "write_lock", value_name = "FILE")]
    write_lock: Option<PathBuf>,
}

/// The result of a comparison.
pub(super) struct Compared {
    file: PathBuf,
    differences: Vec<StateDifference>,
    /// Whether the file now says what the guest says.
    is_written: bool,
}

impl StateArgs {
    /// Compares the state of an encoded component with the record, or writes the record, if one of
    /// them was asked for.
    pub(super) fn apply(&self, encoded: &[u8]) -> anyhow::Result<Option<Compared>> {
        let (file, is_written) = match (&self.lock, &self.write_lock) {
            (Some(file), _) => (file, false),
            (None, Some(file)) => (file, true),
            (None, None) => return Ok(None),
        };
        let state = described(encoded)?;
        let record = match std::fs::read_to_string(file) {
            Ok(text) => parse(&text, file)?,
            Err(error) if is_written && error.kind() == ErrorKind::NotFound => StateLock::default(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
        };
        if is_written {
            let text = record.followed_by(&state).to_file();
            std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(Some(Compared { file: file.clone(), differences: record.differences(&state), is_written }))
    }
}

impl Compared {
    /// Prints the differences, those first that make old rows unreadable.
    pub(super) fn print(&self) -> anyhow::Result<()> {
        let file = self.file.display();
        match (self.is_written, self.differences.is_empty()) {
            (false, true) => return print_line(format!("  state      that of {file}")),
            (true, true) => return print_line(format!("{file} stays as it is")),
            (true, false) => print_line(format!("{file} is written; the state differed"))?,
            (false, false) => print_line(format!("differences from {file}"))?,
        }
        self.differences.iter().try_for_each(|difference| {
            let mark = if difference.breaks { "CHANGED" } else { "fine" };
            print_line(format!("  {mark:<9}  {difference}"))
        })
    }

    /// Returns the comparison as JSON.
    pub(super) fn json(&self) -> Value {
        let one = |difference: &StateDifference| json!({ "tag": difference.tag, "what": difference.words, "breaks": difference.breaks });
        let differences: Vec<Value> = self.differences.iter().map(one).collect();
        json!({ "file": self.file.display().to_string(), "written": self.is_written, "differences": differences })
    }

    /// Fails if the record was to be compared and says something else.
    pub(super) fn verdict(&self) -> anyhow::Result<()> {
        if self.is_written || self.differences.is_empty() {
            return Ok(());
        }
        let file = self.file.display();
        let failure = match self.differences.iter().filter(|difference| difference.breaks).count() {
            0 => Failure::new(format!("{file} is not up to date")).hint(format!("write it with --write_lock {file}")),
            count => {
                let tags = if count == 1 { "1 tag has".into() } else { format!("{count} tags have") };
                Failure::new(format!("{tags} rows of another type than {file} says")).hint(format!(
                    "take new tags, or let a migration rewrite the rows and then write the record with --write_lock {file}"
                ))
            }
        };
        Err(failure.into())
    }
}

/// Returns what an encoded component says about its state. A component that says nothing is an
/// error.
fn described(encoded: &[u8]) -> anyhow::Result<StateLock> {
    let failure = || {
        let failure = Failure::new("the guest does not describe its state");
        failure.hint("the SDK of this version describes it, by `state!` and `export!`").into()
    };
    find(encoded)?.ok_or_else(failure)
}

/// Returns what an encoded component says about its state, if it says anything.
pub(in crate::cli) fn find(encoded: &[u8]) -> anyhow::Result<Option<StateLock>> {
    let Some(text) = guest::described_state(encoded)? else { return Ok(None) };
    let text = String::from_utf8(text).context("the description of the state is not text")?;
    StateLock::parse(&text).context("the description of the state cannot be read").map(Some)
}

fn parse(text: &str, file: &Path) -> anyhow::Result<StateLock> {
    StateLock::parse(text).with_context(|| format!("cannot read {}", file.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn component(state: &str) -> Vec<u8> {
        wat::parse_str(format!(r#"(component (core module (@custom "lockstep.state" "{state}")))"#)).unwrap()
    }

    #[test]
    fn a_record_is_written_and_compared() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("state.lock");
        let first = component(r"1 names: Set<String>\0a2 ages: Map<String, u8>\0a");
        let writes = StateArgs { lock: None, write_lock: Some(file.clone()) };
        assert_eq!(writes.apply(&first).unwrap().unwrap().differences.len(), 2);
        let compares = StateArgs { lock: Some(file.clone()), write_lock: None };
        let same = compares.apply(&first).unwrap().unwrap();
        assert!(same.verdict().is_ok() && same.differences.is_empty());
        let second = component(r"1 names: Set<u64>\0a3 years: Map<String, u8>\0a");
        let told = compares.apply(&second).unwrap().unwrap().verdict().unwrap_err().to_string();
        assert!(told.starts_with("1 tag has rows of another type than"), "{told}");
        assert!(writes.apply(&second).unwrap().unwrap().verdict().is_ok());
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.ends_with("1 names: Set<u64>\n3 years: Map<String, u8>\nretired 2: Map<String, u8>\n"), "{text}");
        let less = component(r"1 names: Set<u64>\0a");
        let told = compares.apply(&less).unwrap().unwrap().verdict().unwrap_err().to_string();
        assert!(told.ends_with("is not up to date"), "{told}");
    }

    #[test]
    fn a_guest_without_a_description_is_told_so() {
        let plain = wat::parse_str("(component)").unwrap();
        let args = StateArgs { lock: Some(PathBuf::from("state.lock")), write_lock: None };
        let told = args.apply(&plain).err().unwrap().to_string();
        assert_eq!(told, "the guest does not describe its state");
        assert!(StateArgs { lock: None, write_lock: None }.apply(&plain).unwrap().is_none());
    }
}
