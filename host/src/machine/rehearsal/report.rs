//! What a rehearsal found on one node, as it travels and as programs read it. Every number has its
//! unit in its name. This module runs nothing and decides nothing about a change.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::guest::{Component, Reason};
use crate::machine::change::migration::MigrationEnd;
use crate::types::hex;

/// What a rehearsal found on one node. It travels as JSON. [`RehearsalReport::equal_part`] must be
/// equal on all nodes; the rest may differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RehearsalReport {
    /// Index of the checkpoint.
    pub index: u64,
    /// The component in force.
    pub old: ComponentReport,
    /// The component of the change.
    pub new: ComponentReport,
    /// The migration of the state.
    pub migration: MigrationReport,
    /// Snapshot and restore of the result, by the new component. `None` if there was no result.
    pub snapshot: Option<SnapshotReport>,
    /// The commands that both machines ran. `None` if there was no result.
    pub commands: Option<CommandsReport>,
    /// The queries that both machines answered. `None` if there was no result.
    pub queries: Option<QueriesReport>,
    /// The first answers that differ. `commands` and `queries` have the number of all.
    pub differences: Vec<AnswerDifference>,
    /// What the new machine did differently when it did the same twice. `None` if nothing.
    pub not_deterministic: Option<String>,
    /// How long apply was held for the checkpoint of the marked entry: a flush of what is in
    /// memory, and the checkpoint. Before the change the same is done again. 0 if that has no
    /// probation.
    pub checkpoint_ms: u64,
    /// About how long the change will hold apply: `checkpoint_ms`, and migration, commit and flush,
    /// as measured here while apply went on.
    pub hold_ms: u64,
    /// How long the whole rehearsal took.
    pub elapsed_ms: u64,
}

/// A component.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ComponentReport {
    /// Its BLAKE3 hash, in hex.
    pub hash: String,
    /// The version that it declares; empty if it declares none.
    pub version: String,
}

impl ComponentReport {
    /// Describes `component`.
    pub(in crate::machine) fn of(component: &Component) -> ComponentReport {
        ComponentReport { hash: hex(&component.hash()), version: component.version().to_owned() }
    }
}

/// What becomes of the state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MigrationKind {
    /// The new component has no migrator, or runs already: it gets the state as it is.
    #[default]
    Kept,
    /// The new component migrates it within the entry of the change.
    Migrated,
    /// The new component refuses the change.
    Refused,
    /// A call of `migrate` fails.
    Failed,
    /// The migration needs more calls, writes more bytes, or uses more fuel than one entry may.
    TooLarge,
}

/// The migration of the state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MigrationReport {
    /// What becomes of the state.
    pub kind: MigrationKind,
    /// Why there is no result, in words; empty otherwise. It may differ between nodes.
    pub detail: String,
    /// Why a call failed, if one did.
    pub reason: Option<Reason>,
    /// Rows of the guest before it.
    pub rows_before: u64,
    /// Rows of the guest after it.
    pub rows_after: u64,
    /// Rows that it writes.
    pub rows_written: u64,
    /// Rows that it removes.
    pub rows_removed: u64,
    /// Bytes of keys and values that its calls write.
    pub bytes_written: u64,
    /// Calls of `migrate`.
    pub calls: u32,
    /// Fuel of these calls.
    pub fuel: u64,
    /// How long these calls took.
    pub migrate_ms: u64,
    /// How long it took to put the result in the state, and to flush that.
    pub store_ms: u64,
    /// BLAKE3 hash of the guest's rows before it, in hex.
    pub digest_before: String,
    /// BLAKE3 hash of the guest's rows after it, in hex; empty if there is no result.
    pub digest_after: String,
}

impl MigrationReport {
    /// Returns whether there is a state of the new component.
    pub fn has_result(&self) -> bool {
        matches!(self.kind, MigrationKind::Kept | MigrationKind::Migrated)
    }

    /// Returns what its author can do, if one call did more than a call may.
    pub fn hint(&self) -> Option<&'static str> {
        match self.reason? {
            Reason::Fuel | Reason::Memory | Reason::StoreBudget | Reason::LimitExceeded => Some(
                "if the call is to change all rows, let each call change some and return a cursor for the next, or migrate lazily",
            ),
            _ => None,
        }
    }

    /// Notes how a migration ended that was needed. Its calls, bytes and fuel are noted already.
    pub(in crate::machine) fn end(&mut self, end: &MigrationEnd) {
        self.reason = match end {
            MigrationEnd::Failed(failure) => Some(failure.reason),
            _ => None,
        };
        (self.kind, self.detail) = match end {
            MigrationEnd::Done => (MigrationKind::Migrated, String::new()),
            MigrationEnd::Refused(status) => (MigrationKind::Refused, status.message.clone()),
            MigrationEnd::Failed(failure) => {
                (MigrationKind::Failed, format!("{:?}: {}", failure.reason, failure.detail))
            }
            MigrationEnd::TooLarge => {
                let (calls, bytes, fuel) = (self.calls, self.bytes_written, self.fuel);
                let detail = format!(
                    "{calls} calls wrote {bytes} bytes of keys and values, used {fuel} fuel, and were too much or not done"
                );
                (MigrationKind::TooLarge, detail)
            }
        };
    }
}

/// Returns the time in whole milliseconds, rounded up: no work takes no time.
pub(in crate::machine) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

/// Snapshot and restore of the result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotReport {
    /// What is wrong with them. `None` if the restored state equals the one before.
    pub problem: Option<String>,
    /// How long both took.
    pub elapsed_ms: u64,
}

/// Commands that both machines ran.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CommandsReport {
    /// Index of the first entry.
    pub first_index: u64,
    /// Index of the last entry.
    pub last_index: u64,
    /// Number of commands.
    pub commands: u64,
    /// Commands that one of the machines did not run, because the replies before them in their
    /// entry were too large together. They are not compared.
    pub not_compared: u64,
    /// Commands that the machines answered differently.
    pub different: u64,
    /// What the old machine did.
    pub old: SideReport,
    /// What the new machine did.
    pub new: SideReport,
}

/// Queries that both machines answered, of those that this node was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueriesReport {
    /// Number of queries.
    pub queries: u64,
    /// Queries that the machines answered differently.
    pub different: u64,
    /// What the old machine did.
    pub old: SideReport,
    /// What the new machine did.
    pub new: SideReport,
}

/// What one machine did with commands or queries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SideReport {
    /// Calls that were refused.
    pub refused: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Fuel of all calls.
    pub fuel: u64,
    /// Time of all calls, in microseconds.
    pub elapsed_us: u64,
    /// The rolling hash of outcomes and writes after the commands, in hex; empty for queries.
    pub hash: String,
}

/// Most differences in one report.
pub const DIFFERENCES_MAX: usize = 100;

/// A command or query that the machines answered differently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerDifference {
    /// Index of the command's entry in the log; `None` for a query.
    pub index: Option<u64>,
    /// The command's place in its entry; the query's place in the sample.
    pub position: u32,
    /// The method, as `package.Service/Method`.
    pub method: String,
    /// The authenticated client; empty if there is none.
    pub caller: String,
    /// The request.
    pub request: Body,
    /// What the old machine answered.
    pub old: AnswerReport,
    /// What the new machine answered.
    pub new: AnswerReport,
}

/// How a command or query ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerReport {
    /// The guest replied.
    Reply(Body),
    /// The guest refused.
    Refused {
        /// The gRPC code.
        code: u32,
        /// The message for people.
        message: String,
        /// An encoded `google.rpc.Status`.
        details: Body,
    },
    /// The guest failed.
    Failed {
        /// Why.
        reason: Reason,
        /// A text for people.
        detail: String,
    },
}

/// Bytes of a request or of a reply.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// How many they are.
    pub bytes: u64,
    /// The bytes in base64. `None` when they are left out, because there are too many of them.
    pub base64: Option<String>,
}

impl Body {
    /// Returns the bytes, unless they were left out.
    pub fn decode(&self) -> Option<Vec<u8>> {
        STANDARD.decode(self.base64.as_ref()?).ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::guest::{Failure, Status, Verdict};
    use crate::machine::answered::{AnsweredTwice, Differences};

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let reply = Verdict::Reply(bytes::Bytes::from_static(b"ab"));
        let refused = Verdict::Refused(Status { code: 5, message: "no".into(), details: vec![1] });
        let failed = Verdict::Failed(Failure { reason: Reason::Fuel, detail: "spent".into() });
        let mut differences = Differences::default();
        let (index, position) = (Some(7), 1);
        let twice =
            |old, new| AnsweredTwice { index, position, method: "S/M", caller: "alice", request: b"x", old, new };
        assert!(differences.compare(&twice(&reply, &refused)));
        assert!(differences.compare(&twice(&refused, &failed)));
        let report = RehearsalReport {
            index: 9,
            snapshot: Some(SnapshotReport::default()),
            commands: Some(CommandsReport { commands: 3, ..CommandsReport::default() }),
            differences: differences.into_list(),
            not_deterministic: Some("it differs".into()),
            ..RehearsalReport::default()
        };
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<RehearsalReport>(&json).unwrap(), report);
        assert!(json.contains(r#""old":{"reply":{"bytes":2,"base64":"YWI="}}"#), "{json}");
        assert!(json.contains(r#"{"failed":{"reason":"Fuel","detail":"spent"}}"#), "{json}");
        let AnswerReport::Reply(body) = &report.differences[0].old else { panic!("a reply") };
        assert_eq!(body.decode().unwrap(), b"ab");
    }

    #[test]
    fn a_report_of_another_build_is_read_as_far_as_it_is_known() {
        let report: RehearsalReport = serde_json::from_str(r#"{"index":4,"colour":"red"}"#).unwrap();
        assert_eq!(report, RehearsalReport { index: 4, ..RehearsalReport::default() });
    }
}
