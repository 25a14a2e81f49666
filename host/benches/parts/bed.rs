//! A replica of the key-value guest in a directory of its own, and the commands that the benchmarks
//! give it. Measures nothing.

use anyhow::{Result, ensure};
use lockstep::codec::Command;
use lockstep::guest::{Component, Verdict};
use lockstep::machine::{Instances, Replica};
use prost::Message;
use tempfile::TempDir;

use crate::guests::START_MS;

/// Rows that the commands write in turn.
pub const ROWS: usize = 4096;
/// Bytes of each value.
const VALUE_BYTES: usize = 256;

/// Returns the key that the command of this number writes.
pub fn key(number: usize) -> String {
    format!("key-{:08}", number % ROWS)
}

/// Returns an `Example/Add` of a value of 256 bytes.
pub fn add(number: usize) -> Command {
    let request = kv::AddRequest { key: key(number), val: "x".repeat(VALUE_BYTES) };
    Command { method: "Example/Add".into(), request: request.encode_to_vec().into(), ..Command::default() }
}

/// A replica in a directory of its own.
pub struct Bed {
    /// The replica.
    pub replica: Replica,
    time_ms: u64,
    _place: TempDir,
}

impl Bed {
    /// Makes a replica without rows.
    pub fn new(component: &Component) -> Result<Bed> {
        let place = tempfile::Builder::new().prefix("lockstep-costs-").tempdir()?;
        Ok(Bed { replica: Replica::open(place.path(), component.clone())?, time_ms: START_MS, _place: place })
    }

    /// Applies an entry of these commands, each of which must be answered with a reply.
    pub fn apply(&mut self, instances: &dyn Instances, commands: Vec<Command>) -> Result<()> {
        self.time_ms += 1;
        let verdicts = self.replica.apply_by(instances, self.time_ms, commands)?;
        ensure!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Reply(_))), "an Add failed");
        Ok(())
    }
}
