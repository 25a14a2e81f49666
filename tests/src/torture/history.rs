//! What clients saw: operations with monotonic times, what came of each, and their form in a file. Judges nothing.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::chain_pb;

/// Place of a write: log index and position in the entry. No two writes share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Log index.
    pub index: u64,
    /// Position in the entry.
    pub position: u32,
}

/// What a key held, as a node said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// The value: every write of a run has another.
    pub token: u64,
    /// Where it was written.
    pub stamp: Stamp,
    /// How many writes the key had seen, this one included.
    pub version: u64,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Writes this token.
    Put(u64),
    /// Reads what is true now.
    Get,
    /// Reads what the node has applied, perhaps old.
    GetLocal,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged: what was written, and what it replaced.
    Wrote(Record, Option<Record>),
    /// What was there.
    Read(Option<Record>),
    /// A write that may have happened, or may yet.
    Maybe,
    /// A write that certainly never happens: the node said so.
    Refused,
}

/// One call of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who called; calls of one client do not overlap.
    pub client: u32,
    /// The node that was called.
    pub node: u32,
    /// Number of the key.
    pub key: u32,
    /// What it does.
    pub kind: Kind,
    /// Nanoseconds of the run's clock before the call.
    pub invoked: u64,
    /// The same, after the answer.
    pub returned: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// The run's clock: monotonic, one for all clients.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Begins at 0 now.
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    /// Nanoseconds since its start.
    pub fn now(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).expect("a run ends within centuries")
    }
}

impl Record {
    /// From the wire. An error when the node answers what no guest of ours writes.
    pub fn decode(record: &chain_pb::Record) -> Result<Record> {
        let token = record.value.parse().with_context(|| format!("a value that nobody wrote: {:?}", record.value))?;
        ensure!(record.version > 0 && record.index > 0, "a record without a place: {record:?}");
        let stamp = Stamp { index: record.index, position: record.position };
        Ok(Record { token, stamp, version: record.version })
    }
}

/// How many operations ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All.
    pub operations: u64,
    /// Acknowledged writes.
    pub writes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes of unknown outcome.
    pub maybes: u64,
    /// Writes that certainly did not happen.
    pub refused: u64,
}

impl Counts {
    /// Of a history.
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

    /// Both together.
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

/// One operation in words.
pub fn describe(operation: &Operation) -> String {
    let mut text = format!("client {} at node {}, key {}: ", operation.client, operation.node, operation.key);
    let (from, to) = (operation.invoked as f64 / 1e9, operation.returned as f64 / 1e9);
    let ended = write!(text, "{:?} from {from:.6} s to {to:.6} s: {:?}", operation.kind, operation.outcome);
    ended.expect("a string takes all");
    text
}

/// Writes one JSON object a line, for people and scripts that look into a failure.
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
