//! A change that was tried: how it ended, what every node records of that, and what one node
//! reports beyond it. This file owns the bytes of the record. It tries no change.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Machine;
use crate::codec::{CodecError, decode_record, encode_record};
use crate::guest::Reason;

/// How a change ended. It is recorded, and equal on every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeVerdict {
    /// The new profile is in force.
    Changed,
    /// Another profile than the expected one was in force.
    Outdated,
    /// The new component's `migrate` refused, with this gRPC code.
    Refused(u32),
    /// The new component's `migrate` failed.
    Failed(Reason),
    /// The migration needed more calls, or wrote more bytes, than one entry may.
    TooLarge,
    /// The profile before a change is in force again. `from` and `to` of the report are the
    /// components of that change, in turn.
    RolledBack,
}

impl ChangeVerdict {
    /// The names of all verdicts, for status and metrics.
    pub const NAMES: [&'static str; 6] = ["changed", "outdated", "refused", "failed", "too-large", "rolled-back"];

    /// Returns the name of the verdict.
    pub fn name(&self) -> &'static str {
        ChangeVerdict::NAMES[self.place()]
    }

    /// Returns the place of its name in [`ChangeVerdict::NAMES`].
    pub(crate) fn place(&self) -> usize {
        match self {
            ChangeVerdict::Changed => 0,
            ChangeVerdict::Outdated => 1,
            ChangeVerdict::Refused(_) => 2,
            ChangeVerdict::Failed(_) => 3,
            ChangeVerdict::TooLarge => 4,
            ChangeVerdict::RolledBack => 5,
        }
    }
}

/// A change that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeReport {
    /// Index of its entry.
    pub index: u64,
    /// BLAKE3 hash of the component that was in force before.
    pub from: [u8; 32],
    /// BLAKE3 hash of the component that it names.
    pub to: [u8; 32],
    /// How it ended.
    pub verdict: ChangeVerdict,
    /// What this node knows beyond that, for people. It may differ between nodes.
    pub detail: String,
    /// Rows that the migration wrote or removed.
    pub rows: u64,
    /// How long its entry held apply on this node.
    pub held: Duration,
    /// What this node ran once more, if the change was taken back here.
    pub ran_again: Option<RanAgain>,
}

/// The commands that a component ran once more when the change after it was taken back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RanAgain {
    /// How many they were.
    pub commands: u64,
    /// How many of them it answered differently than clients were told.
    pub different: u64,
}

impl ChangeReport {
    /// Joins what all nodes know of a change with what this one knows.
    pub(crate) fn new(tried: &Tried, detail: String, held: Duration) -> ChangeReport {
        let Tried { index, from, to, verdict, rows } = *tried;
        ChangeReport { index, from, to, verdict, detail, rows, held, ran_again: None }
    }
}

/// A change that was tried, as every node records it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tried {
    /// Index of its entry.
    pub(crate) index: u64,
    /// BLAKE3 hash of the component that was in force; zeros when there was none.
    pub(crate) from: [u8; 32],
    /// BLAKE3 hash of the component that it names.
    pub(crate) to: [u8; 32],
    pub(crate) verdict: ChangeVerdict,
    /// Rows that the migration wrote or removed.
    pub(crate) rows: u64,
}

// Tags of verdicts. Frozen.
const CHANGED: u8 = 1;
const OUTDATED: u8 = 2;
const REFUSED: u8 = 3;
const FAILED: u8 = 4;
const TOO_LARGE: u8 = 5;
const ROLLED_BACK: u8 = 6;

impl Tried {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (verdict, code) = match self.verdict {
            ChangeVerdict::Changed => (CHANGED, 0),
            ChangeVerdict::Outdated => (OUTDATED, 0),
            ChangeVerdict::Refused(code) => (REFUSED, code),
            ChangeVerdict::Failed(reason) => (FAILED, u32::from(reason as u8)),
            ChangeVerdict::TooLarge => (TOO_LARGE, 0),
            ChangeVerdict::RolledBack => (ROLLED_BACK, 0),
        };
        let Tried { index, from, to, rows, .. } = *self;
        encode_record(&ChangeRecord { index, from, to, verdict, code, rows })
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Tried, CodecError> {
        let ChangeRecord { index, from, to, verdict, code, rows } = decode_record(bytes)?;
        let reason = || u8::try_from(code).ok().and_then(Reason::from_u8);
        let verdict = match verdict {
            CHANGED => Some(ChangeVerdict::Changed),
            OUTDATED => Some(ChangeVerdict::Outdated),
            REFUSED => Some(ChangeVerdict::Refused(code)),
            FAILED => reason().map(ChangeVerdict::Failed),
            TOO_LARGE => Some(ChangeVerdict::TooLarge),
            ROLLED_BACK => Some(ChangeVerdict::RolledBack),
            _ => None,
        };
        let verdict = verdict.ok_or_else(|| CodecError::Damaged("unknown verdict on a change".into()))?;
        Ok(Tried { index, from, to, verdict, rows })
    }
}

#[derive(Serialize, Deserialize)]
struct ChangeRecord {
    index: u64,
    from: [u8; 32],
    to: [u8; 32],
    verdict: u8,
    /// A gRPC code or a reason; 0 with other verdicts.
    code: u32,
    rows: u64,
}

impl Machine {
    /// Returns the last change that was tried, whether it was made or not.
    pub fn last_change(&self) -> Option<ChangeReport> {
        self.shared.last_change()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::hex;

    fn tried(verdict: ChangeVerdict) -> Tried {
        Tried { index: 9, from: [1; 32], to: [2; 32], verdict, rows: 5 }
    }

    #[test]
    fn record_bytes_are_frozen() {
        let word = |value: u8| format!("{value:02x}00000000000000");
        let wanted = |verdict: &str| {
            ["01".to_string() + &word(9), "01".repeat(32), "02".repeat(32), verdict.to_string(), word(5)].concat()
        };
        for (verdict, bytes) in [
            (ChangeVerdict::Changed, "0100000000"),
            (ChangeVerdict::Outdated, "0200000000"),
            (ChangeVerdict::Refused(9), "0309000000"),
            (ChangeVerdict::Failed(Reason::Fuel), "0402000000"),
            (ChangeVerdict::TooLarge, "0500000000"),
        ] {
            assert_eq!(hex(&tried(verdict).encode()), wanted(bytes), "{verdict:?}");
        }
    }

    #[test]
    fn records_survive_the_disk() {
        for verdict in [ChangeVerdict::Changed, ChangeVerdict::Refused(9), ChangeVerdict::Failed(Reason::Trap)] {
            assert_eq!(Tried::decode(&tried(verdict).encode()).unwrap(), tried(verdict));
        }
        let mut foreign = tried(ChangeVerdict::Changed).encode();
        foreign[73] = 9;
        assert!(Tried::decode(&foreign).is_err());
    }
}
