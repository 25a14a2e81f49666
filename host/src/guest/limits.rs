//! What a guest may use: the limits of the cluster's profile, and the counters that enforce them.
//! Limits are replicated. Their units are counted alike on every replica (fuel, bytes, calls,
//! rows); they never depend on time or on this machine's free resources. The only exception is the
//! query deadline, and queries change nothing.
//!
//! The engine charges bulk operators (`memory.copy`, `memory.fill`, `table.init`, ...) per byte or
//! element, as `fuel.json` says, so that fuel bounds them too. The worst case for fuel is a chain
//! of loads that all miss the cache: 100 to 250 ns each, hundreds of times an addition. Loads are
//! therefore expensive, and `fuel_per_command` is chosen so that even such a chain ends within
//! about a second. Multiplications, divisions and roots of floats are expensive because processors
//! handle numbers next to zero (denormals) slowly, in microcode.

use serde::{Deserialize, Serialize};
use wasmtime::ResourceLimiter;

use super::failure::{Ended, Reason};

/// Stack of a thread that calls guests, in bytes. It is eight times the guest's own stack in the
/// default profile; the rest is for the host functions under it.
pub const CALLER_STACK_BYTES: usize = 16 << 20;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// The profile's limits. They are equal on every node of a cluster, because outcomes depend on
/// them.
///
/// A unit of fuel is about one simple instruction, 0.3 to 1 ns; a load from memory costs 16.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Fuel of one command, including its calls into the host.
    pub fuel_per_command: u64,
    /// Fuel of the commands of one log entry; the code that applies entries enforces it. A command
    /// starts while `fuel_per_command` is left, and a command that fails in a used instance runs
    /// again. So by default an entry may use five times a command's fuel.
    pub fuel_per_entry: u64,
    /// Fuel of one query, and of one step of a watch.
    pub fuel_per_query: u64,
    /// Fuel of the start functions that run when an instance is made. It counts against the log
    /// entry.
    pub fuel_per_instantiation: u64,
    /// Fuel of one whole `snapshot` or `restore`.
    pub fuel_per_snapshot: u64,
    /// Milliseconds after which a query or a step of a watch is ended.
    pub query_deadline_ms: u32,
    /// Most bytes of linear memory of an instance.
    pub memory_bytes_max: u64,
    /// Bytes of stack of an instance. Threads that call guests need four times as much.
    pub wasm_stack_bytes: u64,
    /// Most elements of one table.
    pub table_elements_max: u32,
    /// Most bytes of a key.
    pub key_bytes_max: u32,
    /// Most bytes of a value.
    pub value_bytes_max: u32,
    /// Most bytes of keys and values that one command writes. A removed key counts as its length.
    pub write_bytes_per_command_max: u64,
    /// Most calls of `store` by one command or query.
    pub store_calls_max: u64,
    /// Most bytes of keys and values that one command or query reads and writes.
    pub store_bytes_max: u64,
    /// Most keys that one command removes with `remove-range`.
    pub keys_removed_max: u64,
    /// Fuel that each byte of a command's reply costs. Every replica holds all replies of a log
    /// entry. A profile of semantics 3 does not have it, and its replies cost nothing.
    #[serde(default)]
    pub fuel_per_reply_byte: u64,
    /// Bytes of the replies of one log entry after which its other commands are not run. The code
    /// that applies entries enforces it, and the first command always runs. A profile of semantics
    /// 3 does not have it, and its entries have no such limit.
    #[serde(default = "without_limit")]
    pub reply_bytes_per_entry_max: u64,
    /// Most bytes of a reply, and of each reply of a watch step.
    pub reply_bytes_max: u32,
    /// Most bytes of all replies of one watch step.
    pub watch_replies_bytes_max: u32,
    /// Most bytes of the memo of a watch.
    pub watch_memo_bytes_max: u32,
    /// Most bytes of the message of a refusal; a longer one is cut.
    pub status_message_bytes_max: u32,
    /// Most bytes of the details of a refusal.
    pub status_details_bytes_max: u32,
    /// Most bytes of one chunk of a snapshot, written or read.
    pub snapshot_chunk_bytes_max: u32,
    /// Most bytes of log lines of one call; the rest is dropped.
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
        fuel_per_reply_byte: 1,
        reply_bytes_per_entry_max: 16 * MIB,
        reply_bytes_max: (4 * MIB - 64 * KIB) as u32,
        watch_replies_bytes_max: 16 * MIB as u32,
        watch_memo_bytes_max: 4 * KIB as u32,
        status_message_bytes_max: KIB as u32,
        status_details_bytes_max: 4 * KIB as u32,
        snapshot_chunk_bytes_max: MIB as u32,
        log_bytes_max: 64 * KIB as u32,
    };
}

fn without_limit() -> u64 {
    u64::MAX
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Fuel that work in the host costs, so that no call evades the fuel limit. These numbers are
/// replicated semantics, like `fuel.json`: changing one changes outcomes.
pub(super) mod fuel {
    pub(crate) const GET: u64 = 4_000;
    pub(crate) const SCAN: u64 = 8_000;
    pub(crate) const PUT: u64 = 1_000;
    pub(crate) const REMOVE: u64 = 1_000;
    pub(crate) const REMOVE_RANGE: u64 = 8_000;
    /// A row that `scan` returns, that `remove-range` removes, or that either passes over because
    /// this entry has removed it.
    pub(crate) const ROW: u64 = 400;
    /// Any other import.
    pub(crate) const CALL: u64 = 500;
    /// A byte that crosses the boundary in an import.
    pub(crate) const BYTE: u64 = 1;
}

/// What is left of the budgets of the current call.
#[derive(Debug, Default)]
pub(super) struct Budget {
    calls_left: u64,
    bytes_left: u64,
    write_bytes_left: u64,
    keys_removed_left: u64,
    log_bytes_left: u64,
}

impl Budget {
    /// Makes the budget of one command or query.
    pub(super) fn of_call(limits: &Limits) -> Self {
        Self {
            calls_left: limits.store_calls_max,
            bytes_left: limits.store_bytes_max,
            write_bytes_left: limits.write_bytes_per_command_max,
            keys_removed_left: limits.keys_removed_max,
            log_bytes_left: limits.log_bytes_max.into(),
        }
    }

    /// Makes the budget of a snapshot or restore. Its work grows with the state, and fuel bounds
    /// it.
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

    /// Returns one more key than may be removed, so that exceeding the limit is noticed.
    pub(super) fn removable(&self) -> u64 {
        self.keys_removed_left.saturating_add(1)
    }

    /// Returns whether a log line of this length may still be written, and charges it.
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

/// Decides on growth of memories and tables by the profile alone, so that every replica decides
/// alike. A growth that was allowed and then failed is a fault of this host; the guest never sees
/// it.
#[derive(Debug)]
pub(super) struct Growth {
    memory_bytes_max: u64,
    memory_bytes_left: u64,
    table_elements_max: u64,
    denied: bool,
}

impl Growth {
    /// wasmtime's error when a guest asks for more memory than the memory's type can hold. wasmtime
    /// asks no limiter in that case; the answer is the same on every node.
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

    /// Returns the bytes of linear memory that the instance has.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_bytes_max - self.memory_bytes_left
    }

    /// Returns whether this call asked for more than the profile allows.
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
