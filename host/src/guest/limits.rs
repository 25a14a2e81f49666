//! What a guest may use: the limits of the cluster's profile, and the counters that enforce them.
//! Limits are replicated and counted in units that every replica counts alike (fuel, bytes, calls,
//! rows), never in time or in what this machine has left. The query deadline is the one exception,
//! and queries change nothing.
//!
//! Bulk operators (`memory.copy`, `memory.fill`, `table.init`, ...) are charged per byte or element by
//! the engine, as `fuel.json` says, so that fuel bounds them like everything else. What fuel bounds worst
//! is a chain of loads that all miss the cache: 100 to 250 ns each, hundreds of times an addition. Hence loads are
//! dear, and `fuel_per_command` is such that even that chain ends within about a second. Multiplications, divisions and roots of floats are
//! dear because processors do them slowly, by microcode, when a number is next to zero (denormal).

use serde::{Deserialize, Serialize};
use wasmtime::ResourceLimiter;

use super::outcome::{Ended, Reason};

/// Stack of a thread that calls guests: four times the guest's own of the default profile, for the host functions under it.
pub const CALLER_STACK_BYTES: usize = 16 << 20;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// The profile's limits: equal on every node of a cluster, because outcomes depend on them.
///
/// A unit of fuel is about one simple instruction, 0.3 to 1 ns; a load from memory is 16.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Fuel of one command, calls into the host included.
    pub fuel_per_command: u64,
    /// Fuel of the commands of one log entry; enforced by whoever applies entries. A command starts while `fuel_per_command` of it
    /// is left, and one that fails beside neighbours runs again: by default an entry may use five times a command's fuel.
    pub fuel_per_entry: u64,
    /// Fuel of one query, and of one step of a watch.
    pub fuel_per_query: u64,
    /// Fuel of the start functions that run when an instance is made. What they use counts against the log entry.
    pub fuel_per_instantiation: u64,
    /// Fuel of one whole `snapshot` or `restore`.
    pub fuel_per_snapshot: u64,
    /// Time after which a query, or a step of a watch, is ended, in milliseconds.
    pub query_deadline_ms: u32,
    /// Linear memory of an instance, in bytes.
    pub memory_bytes_max: u64,
    /// Stack of an instance, in bytes. Threads that call guests need four times as much.
    pub wasm_stack_bytes: u64,
    /// Elements of one table.
    pub table_elements_max: u32,
    /// Length of a key, in bytes.
    pub key_bytes_max: u32,
    /// Length of a value, in bytes.
    pub value_bytes_max: u32,
    /// Keys and values written by one command, in bytes; a removed key counts as its length.
    pub write_bytes_per_command_max: u64,
    /// Calls of `store` by one command or query.
    pub store_calls_max: u64,
    /// Keys and values read and written by one command or query, in bytes.
    pub store_bytes_max: u64,
    /// Keys that one command removes with `remove-range`.
    pub keys_removed_max: u64,
    /// A reply, in bytes; each reply of a watch step.
    pub reply_bytes_max: u32,
    /// All replies of one watch step, in bytes.
    pub watch_replies_bytes_max: u32,
    /// The memo of a watch, in bytes.
    pub watch_memo_bytes_max: u32,
    /// Message of a refusal, in bytes; a longer one is cut.
    pub status_message_bytes_max: u32,
    /// Details of a refusal, in bytes.
    pub status_details_bytes_max: u32,
    /// One chunk of a snapshot, in bytes, written or read.
    pub snapshot_chunk_bytes_max: u32,
    /// Log lines of one call, in bytes; the rest is dropped.
    pub log_bytes_max: u32,
}

impl Limits {
    /// The default profile.
    pub const DEFAULT: Self = Self {
        fuel_per_command: 100_000_000,
        fuel_per_entry: 400_000_000,
        fuel_per_query: 1_000_000_000,
        fuel_per_instantiation: 20_000_000,
        fuel_per_snapshot: 100_000_000_000_000,
        query_deadline_ms: 5_000,
        memory_bytes_max: 64 * MIB,
        wasm_stack_bytes: 2 * MIB,
        table_elements_max: 65_536,
        key_bytes_max: 4 * KIB as u32,
        value_bytes_max: MIB as u32,
        write_bytes_per_command_max: 8 * MIB,
        store_calls_max: 100_000,
        store_bytes_max: 64 * MIB,
        keys_removed_max: 100_000,
        reply_bytes_max: (4 * MIB - 64 * KIB) as u32,
        watch_replies_bytes_max: 16 * MIB as u32,
        watch_memo_bytes_max: 4 * KIB as u32,
        status_message_bytes_max: KIB as u32,
        status_details_bytes_max: 4 * KIB as u32,
        snapshot_chunk_bytes_max: MIB as u32,
        log_bytes_max: 64 * KIB as u32,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Fuel that work in the host costs, so that no call is a way around the fuel limit. Replicated
/// semantics, like `fuel.json`: a change of a number changes outcomes.
pub(super) mod fuel {
    pub(crate) const GET: u64 = 4_000;
    pub(crate) const SCAN: u64 = 8_000;
    pub(crate) const PUT: u64 = 1_000;
    pub(crate) const REMOVE: u64 = 1_000;
    pub(crate) const REMOVE_RANGE: u64 = 8_000;
    /// A row that `scan` returns or `remove-range` removes, or that either passes over because this entry has removed it.
    pub(crate) const ROW: u64 = 400;
    /// Any other import.
    pub(crate) const CALL: u64 = 500;
    /// A byte that crosses the boundary in an import.
    pub(crate) const BYTE: u64 = 1;
}

/// What is left of the store budget of the call being served.
#[derive(Debug, Default)]
pub(super) struct Budget {
    calls_left: u64,
    bytes_left: u64,
    write_bytes_left: u64,
    keys_removed_left: u64,
    log_bytes_left: u64,
}

impl Budget {
    /// The budget of one command or query.
    pub(super) fn of_call(limits: &Limits) -> Self {
        Self {
            calls_left: limits.store_calls_max,
            bytes_left: limits.store_bytes_max,
            write_bytes_left: limits.write_bytes_per_command_max,
            keys_removed_left: limits.keys_removed_max,
            log_bytes_left: limits.log_bytes_max.into(),
        }
    }

    /// The budget of a snapshot or restore: its work grows with the state, and fuel bounds it.
    pub(super) fn of_snapshot(limits: &Limits) -> Self {
        Self {
            calls_left: u64::MAX,
            bytes_left: u64::MAX,
            write_bytes_left: u64::MAX,
            keys_removed_left: u64::MAX,
            log_bytes_left: limits.log_bytes_max.into(),
        }
    }

    pub(super) fn take_call(&mut self) -> Result<(), Ended> {
        take(&mut self.calls_left, 1, Reason::StoreBudget, "store calls of one command")
    }

    pub(super) fn take_bytes(&mut self, bytes: u64) -> Result<(), Ended> {
        take(&mut self.bytes_left, bytes, Reason::StoreBudget, "store bytes of one command")
    }

    pub(super) fn take_write(&mut self, bytes: u64) -> Result<(), Ended> {
        take(&mut self.write_bytes_left, bytes, Reason::LimitExceeded, "bytes written by one command")?;
        self.take_bytes(bytes)
    }

    pub(super) fn take_removed(&mut self, keys: u64) -> Result<(), Ended> {
        take(&mut self.keys_removed_left, keys, Reason::StoreBudget, "keys removed by one command")
    }

    /// One more than may be removed, so that going past the limit shows.
    pub(super) fn removable(&self) -> u64 {
        self.keys_removed_left.saturating_add(1)
    }

    /// Whether a log line of this length may still be written.
    pub(super) fn take_log(&mut self, bytes: u64) -> bool {
        let left = self.log_bytes_left.checked_sub(bytes);
        self.log_bytes_left = left.unwrap_or(0);
        left.is_some()
    }
}

fn take(left: &mut u64, amount: u64, reason: Reason, what: &str) -> Result<(), Ended> {
    match left.checked_sub(amount) {
        Some(rest) => {
            *left = rest;
            Ok(())
        }
        None => Err(Ended::guest(reason, format!("the profile's limit on {what} was reached"))),
    }
}

/// Decides growth of memories and tables: by the profile alone, so that every replica decides alike.
/// Growth that was allowed and then failed is a fault of this host and never shown to the guest.
#[derive(Debug)]
pub(super) struct Growth {
    memory_bytes_max: u64,
    memory_bytes_left: u64,
    table_elements_max: u64,
    denied: bool,
}

impl Growth {
    /// What wasmtime says when a guest asks for more than its memory's type can hold. It asks no
    /// limiter in that case; the answer is the same on every node.
    const BEYOND_TYPE: &str = "memory growth exceeds memory type's limits";

    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            memory_bytes_max: limits.memory_bytes_max,
            memory_bytes_left: limits.memory_bytes_max,
            table_elements_max: limits.table_elements_max.into(),
            denied: false,
        }
    }

    pub(super) fn start_call(&mut self) {
        self.denied = false;
    }

    /// Linear memory that the instance has, in bytes.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_bytes_max - self.memory_bytes_left
    }

    /// Whether this call asked for more than the profile gives.
    pub(super) fn denied(&self) -> bool {
        self.denied
    }
}

impl ResourceLimiter for Growth {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current) as u64;
        let allowed = more <= self.memory_bytes_left && maximum.is_none_or(|maximum| desired <= maximum);
        if allowed {
            self.memory_bytes_left -= more;
        }
        self.denied |= !allowed;
        Ok(allowed)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        if error.to_string() == Self::BEYOND_TYPE {
            self.denied = true;
            return Ok(());
        }
        Err(Ended::Host(format!("memory within the limit could not be had: {error:#}")).into())
    }

    fn table_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let allowed = desired as u64 <= self.table_elements_max && maximum.is_none_or(|maximum| desired <= maximum);
        self.denied |= !allowed;
        Ok(allowed)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(Ended::Host(format!("a table within the limit could not grow: {error:#}")).into())
    }
}
