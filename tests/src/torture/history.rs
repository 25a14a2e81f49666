//! What clients saw: operations with monotonic times and their outcomes, and their form in a file.
//! Judges nothing.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::chain_pb;

/// Place of a write: log index and position in the entry. No two writes share a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Log index.
    pub index: u64,
    /// Position in the entry.
    pub position: u32,
}

/// Content of a key, as a node reported it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// The value. Every write of a run has a different one.
    pub token: u64,
    /// Place of the write.
    pub stamp: Stamp,
    /// Number of writes to the key, including this one.
    pub version: u64,
}

/// Kind of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Writes this token.
    Put(u64),
    /// Reads linearizably.
    Get,
    /// Reads what the node has applied, which may be old.
    GetLocal,
}

/// Outcome of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An acknowledged write: the new record and the one that it replaced.
    Wrote(Record, Option<Record>),
    /// The record that was read.
    Read(Option<Record>),
    /// A write that may have been applied, or may still be.
    Maybe,
    /// A write that will certainly never be applied, because the node said so.
    Refused,
}

/// One call of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The client. Calls of one client do not overlap.
    pub client: u32,
    /// The node that was called.
    pub node: u32,
    /// Number of the key.
    pub key: u32,
    /// Kind of the operation.
    pub kind: Kind,
    /// Time of the run's clock before the call, in nanoseconds.
    pub invoked: u64,
    /// Time of the run's clock after the response, in nanoseconds.
    pub returned: u64,
    /// Outcome of the operation.
    pub outcome: Outcome,
}

/// The run's monotonic clock, which all clients share.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts a clock at 0.
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    /// Returns the nanoseconds since the start.
    pub fn now(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).expect("a run ends within centuries")
    }
}

impl Record {
    /// Decodes a record of a response. Fails when the node returns something that the test guest
    /// never writes.
    pub fn decode(record: &chain_pb::Record) -> Result<Record> {
        let token = record.value.parse().with_context(|| format!("a value that nobody wrote: {:?}", record.value))?;
        ensure!(record.version > 0 && record.index > 0, "a record without a place: {record:?}");
        let stamp = Stamp { index: record.index, position: record.position };
        Ok(Record { token, stamp, version: record.version })
    }
}

/// Number of operations by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All operations.
    pub operations: u64,
    /// Acknowledged writes.
    pub writes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes of unknown outcome.
    pub maybes: u64,
    /// Writes that were certainly not applied.
    pub refused: u64,
}

impl Counts {
    /// Counts the operations of a history.
    pub fn of(history: &[Operation]) -> Counts {
        let mut counts = Counts::default();
        for operation in history {
            counts.operations += 1;
            *match operation.outcome {
                Outcome::Wrote(..) => &mut counts.writes,
                Outcome::Read(_) => &mut counts.reads,
                Outcome::Maybe => &mut counts.maybes,
                Outcome::Refused => &mut counts.refused,
            } += 1;
        }
        counts
    }

    /// Returns the sum of both.
    pub fn plus(self, other: Counts) -> Counts {
        Counts {
            operations: self.operations + other.operations,
            writes: self.writes + other.writes,
            reads: self.reads + other.reads,
            maybes: self.maybes + other.maybes,
            refused: self.refused + other.refused,
        }
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Counts { operations, writes, reads, maybes, refused } = self;
        write!(
            out,
            "{operations} operations ({writes} acknowledged writes, {reads} reads, {maybes} of unknown outcome, {refused} refused)"
        )
    }
}

/// Describes one operation in words.
pub fn describe(operation: &Operation) -> String {
    let mut text = format!("client {} at node {}, key {}: ", operation.client, operation.node, operation.key);
    let (from, to) = (operation.invoked as f64 / 1e9, operation.returned as f64 / 1e9);
    let ended = write!(text, "{:?} from {from:.6} s to {to:.6} s: {:?}", operation.kind, operation.outcome);
    ended.expect("a string takes all");
    text
}

/// Writes one JSON object a line, for people and scripts that examine a failure.
pub fn save(history: &[Operation], path: &Path) -> io::Result<()> {
    let mut file = io::BufWriter::new(std::fs::File::create(path)?);
    for operation in history {
        writeln!(file, "{}", as_json(operation))?;
    }
    file.flush()
}

fn as_json(operation: &Operation) -> Value {
    let record = |record: &Record| {
        let Stamp { index, position } = record.stamp;
        json!({ "token": record.token, "index": index, "position": position, "version": record.version })
    };
    let (kind, token) = match operation.kind {
        Kind::Put(token) => ("put", Some(token)),
        Kind::Get => ("get", None),
        Kind::GetLocal => ("get-local", None),
    };
    let outcome = match &operation.outcome {
        Outcome::Wrote(written, previous) => {
            json!({ "written": record(written), "previous": previous.as_ref().map(record) })
        }
        Outcome::Read(found) => json!({ "read": found.as_ref().map(record) }),
        Outcome::Maybe => json!("maybe"),
        Outcome::Refused => json!("refused"),
    };
    json!({
        "client": operation.client, "node": operation.node, "key": operation.key, "kind": kind, "token": token,
        "invoked_ns": operation.invoked, "returned_ns": operation.returned, "outcome": outcome,
    })
}
