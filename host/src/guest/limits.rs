//! What a guest may use: the limits of the cluster's profile, and the counters that enforce them.
//! Limits are replicated. Their units are counted alike on every replica (fuel, bytes, calls,
//! rows); they never depend on time or on this machine's free resources. The only exception is the
//! query deadline, and queries change nothing.
//!
//! Bulk operators (`memory.copy`, `memory.fill`, `table.init`, ...) cost more for each further 64
//! bytes or 8 elements (`depth/sizes.rs`), so that fuel bounds them too. Before semantics 6 the
//! engine charged them per byte or element, as `fuel.json` says. The worst case for fuel is a chain
//! of loads that all miss the cache: 100 to 250 ns each, hundreds of times an addition. Loads are
//! therefore expensive, and `fuel_per_command` is chosen so that even such a chain ends within
//! about a second. Multiplications, divisions and roots of floats are expensive because processors
//! handle numbers next to zero (denormals) slowly, in microcode.

use serde::{Deserialize, Serialize};
use wasmtime::ResourceLimiter;

use super::failure::{Ended, Reason};

/// Version of the meaning of fuel, limits and verdicts. It is raised with every change that could
/// make two builds disagree on an outcome. Neither a new version of wasmtime nor another
/// architecture is such a change, as long as the golden corpus is the same there.
///
/// What 4 added is in the limits: the fuel of a reply's bytes, and the replies of one entry. Since
/// 5 the guest's own code meters how deep it recurses (`depth`). Since 6 it also pays for the sizes
/// of bulk operators, which the engine charged before: some versions of wasmtime do that when the
/// operator is done.
pub const SEMANTICS: u32 = 6;

/// The first version in which the guest's own code meters how deep it recurses. Before, the frames
/// of the compiler decided.
const DEPTH_METERED_SINCE: u32 = 5;
/// The first version in which the guest's own code pays for the sizes of operators. What went
/// before means the same only with a wasmtime that charges sizes before the operator runs.
pub const SIZES_METERED_SINCE: u32 = 6;

/// Stack of a thread that calls guests, in bytes: the largest native stack of a guest, and 15 MiB
/// for the host functions under it. It is address space until it is used.
pub const CALLER_STACK_BYTES: usize = 48 << 20;
/// Most bytes of a guest's stack that a profile may have.
pub(super) const WASM_STACK_BYTES_MAX: u64 = 2 * MIB;
/// Native bytes for each metered byte of a guest's stack. A compiler's frames are seldom larger
/// than the metered ones, since these count every value that a compiler could keep. All instances
/// of modules of one component have four stacks together, so a metered byte has at least four
/// native ones.
const NATIVE_STACK_FACTOR: u64 = 16;
/// Native bytes for what is not metered: the last frame, and the calls into the guest and out of
/// it.
const NATIVE_STACK_SPARE_BYTES: u64 = 256 * KIB;
const _: () = assert!(
    WASM_STACK_BYTES_MAX * NATIVE_STACK_FACTOR + NATIVE_STACK_SPARE_BYTES + 15 * MIB <= CALLER_STACK_BYTES as u64
);

/// All calls of `migrate` in one entry may use as much fuel together as this many such calls. An
/// entry that is committed runs to its end, and all clients wait for it.
const MIGRATION_CALLS: u64 = 10;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// A call of `migrate` may use as much fuel, and as much of the store's budget, as this many
/// commands.
const MIGRATION_COMMANDS: u64 = 50;
/// Most bytes of keys and values that one call of `migrate` writes. It is eight commands' worth:
/// the writes of all calls of one entry are held in memory until the entry is done.
const MIGRATION_WRITE_BYTES_MAX: u64 = 64 * MIB;
/// Most bytes of the cursor that one call of `migrate` hands to the next.
pub(super) const MIGRATION_CURSOR_BYTES_MAX: u32 = 4 * KIB as u32;

/// Bytes that a `restore` may write, however little it has read.
const RESTORE_WRITE_BYTES_FREE: u64 = 64 * MIB;
/// Bytes that a `restore` may write beside these for each byte that it has read. A guest may make
/// more rows than it sends, such as those of an index. A copy of its rows takes a factor of at most
/// eight. A dense set that is sent as a bitmap, eight rows for a byte, takes one of more than 512.
/// The host compresses the stream, so that no guest has to.
const RESTORE_WRITE_BYTES_PER_BYTE: u64 = 1024;
/// Bytes that each write of a `restore` counts beside its key and value: a row costs the store more
/// than its bytes.
const RESTORE_WRITE_OVERHEAD_BYTES: u64 = 64;

/// The profile's limits. They are equal on every node of a cluster, because outcomes depend on
/// them.
///
/// A unit of fuel is about one simple instruction, 0.3 to 1 ns; a load from memory costs 16.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The version of [`SEMANTICS`] in which the limits are meant. It is no limit: the profile has
    /// it beside the limits, and their JSON does not have it.
    #[serde(skip, default = "newest")]
    pub semantics: u32,
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
    /// Bytes of stack of an instance, as its own code counts them: 64 for each call, 8 for each
    /// parameter, local and operand, 1 for each operator of the function. The modules of a
    /// component of more than four instances share four such stacks. Before semantics 5, bytes of
    /// the compiler's frames.
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
        semantics: SEMANTICS,
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

    /// Returns the fuel of all calls of `migrate` in one entry, together.
    pub fn migration_fuel_of_entry(&self) -> u64 {
        self.migration_fuel().saturating_mul(MIGRATION_CALLS)
    }

    /// Returns the fuel of one call of `migrate`.
    pub fn migration_fuel(&self) -> u64 {
        self.fuel_per_command.saturating_mul(MIGRATION_COMMANDS)
    }

    /// Returns whether the guest's own code meters how deep it recurses.
    pub(super) fn meters_depth(&self) -> bool {
        self.semantics >= DEPTH_METERED_SINCE
    }

    /// Returns whether the guest's own code pays for the sizes of operators.
    pub(super) fn meters_sizes(&self) -> bool {
        self.semantics >= SIZES_METERED_SINCE
    }

    /// Returns the bytes of native stack that a call of a guest may use. Where the depth is metered
    /// it is so much that the metered stack is used up first.
    pub(super) fn native_stack_bytes(&self) -> u64 {
        match self.meters_depth() {
            true => self.wasm_stack_bytes.saturating_mul(NATIVE_STACK_FACTOR).saturating_add(NATIVE_STACK_SPARE_BYTES),
            false => self.wasm_stack_bytes,
        }
    }
}

fn newest() -> u32 {
    SEMANTICS
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
    /// Bytes that each write counts beside its key and value; 0 except in a restore.
    write_overhead_bytes: u64,
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
            write_overhead_bytes: 0,
            keys_removed_left: limits.keys_removed_max,
            log_bytes_left: limits.log_bytes_max.into(),
        }
    }

    /// Makes the budget of a snapshot. Its work grows with the state, and fuel bounds it.
    pub(super) fn of_snapshot(limits: &Limits) -> Self {
        Self {
            calls_left: u64::MAX,
            bytes_left: u64::MAX,
            write_bytes_left: u64::MAX,
            write_overhead_bytes: 0,
            keys_removed_left: u64::MAX,
            log_bytes_left: limits.log_bytes_max.into(),
        }
    }

    /// Makes the budget of a restore, which has read nothing yet. It may write more and more as it
    /// reads: neither time nor fuel would end a restore that writes for ever before it has filled
    /// the disk.
    pub(super) fn of_restore(limits: &Limits) -> Self {
        Self {
            write_bytes_left: RESTORE_WRITE_BYTES_FREE,
            write_overhead_bytes: RESTORE_WRITE_OVERHEAD_BYTES,
            ..Self::of_snapshot(limits)
        }
    }

    /// Makes the budget of one call of `migrate`. It reads and writes as much as many commands,
    /// because it may have to touch every row. More rows than one call may touch take more calls.
    pub(super) fn of_migration(limits: &Limits) -> Self {
        let as_many = |of_one: u64| of_one.saturating_mul(MIGRATION_COMMANDS);
        Self {
            calls_left: as_many(limits.store_calls_max),
            bytes_left: as_many(limits.store_bytes_max),
            write_bytes_left: MIGRATION_WRITE_BYTES_MAX,
            write_overhead_bytes: 0,
            keys_removed_left: as_many(limits.keys_removed_max),
            log_bytes_left: limits.log_bytes_max.into(),
        }
    }

    pub(super) fn take_call(&mut self) -> Result<(), Ended> {
        take(&mut self.calls_left, 1, Reason::StoreBudget, "store calls of one call")
    }

    pub(super) fn take_bytes(&mut self, bytes: u64) -> Result<(), Ended> {
        take(&mut self.bytes_left, bytes, Reason::StoreBudget, "store bytes of one call")
    }

    pub(super) fn take_write(&mut self, bytes: u64) -> Result<(), Ended> {
        let what = match self.write_overhead_bytes {
            0 => "bytes written by one call",
            _ => "bytes written by a restore for those that it has read",
        };
        let counted = bytes.saturating_add(self.write_overhead_bytes);
        take(&mut self.write_bytes_left, counted, Reason::LimitExceeded, what)?;
        self.take_bytes(bytes)
    }

    /// Lets a restore write more, because it has read `bytes`.
    pub(super) fn earn_writes(&mut self, bytes: u64) {
        let earned = bytes.saturating_mul(RESTORE_WRITE_BYTES_PER_BYTE);
        self.write_bytes_left = self.write_bytes_left.saturating_add(earned);
    }

    pub(super) fn take_removed(&mut self, keys: u64) -> Result<(), Ended> {
        take(&mut self.keys_removed_left, keys, Reason::StoreBudget, "keys removed by one call")
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
        None => Err(Ended::guest(reason, format!("the limit on {what} was reached"))),
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
