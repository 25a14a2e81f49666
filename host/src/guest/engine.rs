//! The only module that configures wasmtime. An engine serves commands and queries alike; their
//! differences (fuel, deadline, rights) are set per call. All settings that could make two replicas
//! differ are set here explicitly, and never left to a default that a patch release may change.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::Value;
use wasmtime::component::Linker;
use wasmtime::{
    Config, Enabled, Inlining, InstanceAllocationStrategy, OperatorCost, OptLevel, PoolingAllocationConfig,
};

use super::build::{self, TARGET};
use super::depth;
use super::epochs::{Deadline, Ticker, epochs};
use super::features::FEATURES;
use super::imports::{self, State};
use super::limits::{Limits, WASM_STACK_BYTES_MAX};
use super::load_error::LoadError;

/// Slots of the pool for commands and migrations: the instance that applies, the fresh one that
/// replaces it, the same two for a component that takes over, and the same four for a rehearsal and
/// for a rollback. Nothing else uses these slots, because apply must never find the pool full.
const APPLY_INSTANCES_MAX: u32 = 12;
/// Most instances that queries and steps of watches hold at the same time. A thread keeps one
/// between calls.
pub const QUERY_INSTANCES_MAX: u32 = 24;
/// Most snapshots that guests write at the same time. Another one waits.
pub const SNAPSHOT_INSTANCES_MAX: u32 = 4;
/// Most restores that guests run at the same time. Another one waits.
pub const RESTORE_INSTANCES_MAX: u32 = 2;
/// Slots of the pool, for all uses together.
const SLOTS: u32 = if cfg!(feature = "corpus") {
    FEW_SLOTS
} else {
    APPLY_INSTANCES_MAX + QUERY_INSTANCES_MAX + SNAPSHOT_INSTANCES_MAX + RESTORE_INSTANCES_MAX
};
/// Slots of the corpus, and of [`Engine::narrow`]. Both run one call at a time. An emulator of
/// another architecture, or valgrind, may not have the address space for more. No outcome depends
/// on their number.
const FEW_SLOTS: u32 = 4;
/// Most core instances in one component: a module, its shims, and those that Python's linker makes.
const CORE_INSTANCES_PER_COMPONENT: u32 = 40;
// The instances of a component share its metered stack, and their number decides the shares.
const _: () = assert!(CORE_INSTANCES_PER_COMPONENT <= depth::INSTANCES_MAX);
pub(super) const TABLES_PER_COMPONENT: u32 = 8;
/// Bytes of linear memory per slot that are cleaned in place instead of being returned to the
/// kernel.
const MEMORY_KEEP_RESIDENT_BYTES: usize = 256 * 1024;
const TABLE_KEEP_RESIDENT_BYTES: usize = 16 * 1024;
/// Bytes of address space per memory: everything a 32-bit pointer can reach, so that accesses need
/// no bounds checks. It is only reserved; no memory or swap backs it.
const MEMORY_RESERVATION_BYTES: u64 = 4 << 30;
const MEMORY_GUARD_BYTES: u64 = 32 << 20;
/// Most frames of a trap's backtrace.
const BACKTRACE_FRAMES_MAX: usize = 20;
/// Fuel of every operator. This is a complete table of our own, because fuel decides outcomes and
/// the engine's defaults may change in a patch release. A missing operator is an error at start.
/// Its prices of operators with a size are those before semantics 6.
pub(super) const FUEL: &str = include_str!("fuel.json");

/// Compiles and runs guests under one set of limits. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) wasmtime: wasmtime::Engine,
    pub(super) linker: Linker<State>,
    pub(super) limits: Arc<Limits>,
    /// Whether fuel is counted; see [`Engine::unmetered`].
    pub(super) metered: bool,
    /// The text of [`Engine::build`], once it is known.
    build: OnceLock<String>,
    queries: Arc<Slots>,
    snapshots: Arc<Slots>,
    restores: Arc<Slots>,
    ticker: Ticker,
}

impl Engine {
    /// Builds the engine. Fails when this machine cannot provide what the limits promise.
    pub fn new(limits: &Limits) -> Result<Self, LoadError> {
        Self::make(limits, true, &Pool::OF_NODE)
    }

    /// Builds an engine that counts no fuel, to measure the cost of counting. Nothing ends a guest
    /// that loops.
    #[doc(hidden)]
    pub fn unmetered(limits: &Limits) -> Result<Self, LoadError> {
        Self::make(limits, false, &Pool::OF_NODE)
    }

    /// Builds an engine of few slots, for a program that runs one call at a time while valgrind
    /// counts its instructions. It cleans memory in the same way on every kernel.
    #[doc(hidden)]
    pub fn narrow(limits: &Limits) -> Result<Self, LoadError> {
        Self::make(limits, true, &Pool::NARROW)
    }

    fn make(limits: &Limits, metered: bool, pool: &Pool) -> Result<Self, LoadError> {
        let asked = limits.wasm_stack_bytes;
        if asked > WASM_STACK_BYTES_MAX {
            let reason = format!("a guest stack of {asked} bytes; this build has room for {WASM_STACK_BYTES_MAX}");
            return Err(LoadError::Engine(reason));
        }
        let unavailable = |error: wasmtime::Error| LoadError::Engine(format!("{error:#}"));
        let wasmtime =
            config(limits, metered, pool).and_then(|config| wasmtime::Engine::new(&config)).map_err(unavailable)?;
        let mut linker = Linker::new(&wasmtime);
        imports::link(&mut linker).map_err(unavailable)?;
        let ticker = Ticker::start(wasmtime.weak()).map_err(|error| LoadError::Engine(error.to_string()))?;
        let limits = Arc::new(limits.clone());
        let inner = Inner {
            wasmtime,
            linker,
            limits,
            metered,
            build: OnceLock::new(),
            queries: Slots::new(QUERY_INSTANCES_MAX),
            snapshots: Slots::new(SNAPSHOT_INSTANCES_MAX),
            restores: Slots::new(RESTORE_INSTANCES_MAX),
            ticker,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Returns the limits of every guest of this engine.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// Returns the properties of this build that may change where a guest's recursion ends.
    ///
    /// Nodes compare them: the version of wasmtime and the target; before semantics 5 also the
    /// host's own optimization level and the depth of a recursion, whose measuring takes
    /// milliseconds in the first call.
    pub fn build(&self) -> Result<&str, LoadError> {
        if self.inner.build.get().is_none() {
            let text = build::describe(&self.inner.wasmtime, self.inner.metered, &self.inner.limits)
                .map_err(LoadError::Engine)?;
            // If another thread was first, it measured the same.
            let _ = self.inner.build.set(text);
        }
        Ok(self.inner.build.get().map_or("", String::as_str))
    }

    /// Takes one of the slots for queries, if one is free.
    pub(super) fn query_slot(&self) -> Option<Slot> {
        self.inner.queries.take()
    }

    /// Takes one of the slots for snapshots, if one is free.
    pub(super) fn snapshot_slot(&self) -> Option<Slot> {
        self.inner.snapshots.take()
    }

    /// Takes one of the slots for restores, if one is free.
    pub(super) fn restore_slot(&self) -> Option<Slot> {
        self.inner.restores.take()
    }

    /// Starts the clock that deadlines need, and returns the number of epochs in `ms`.
    pub(super) fn start_deadline(&self, ms: u32) -> (Deadline, u64) {
        (self.inner.ticker.run(), epochs(Duration::from_millis(ms.into())))
    }
}

/// How the pools of engines differ. No outcome depends on it.
struct Pool {
    slots: u32,
    /// Whether the kernel is asked which pages were touched, so that only those are cleaned.
    pagemap_scan: Enabled,
}

impl Pool {
    const OF_NODE: Pool = Pool { slots: SLOTS, pagemap_scan: Enabled::Auto };
    const NARROW: Pool = Pool { slots: FEW_SLOTS, pagemap_scan: Enabled::No };
}

/// Counts the instances of one use in the pool.
struct Slots {
    taken: AtomicUsize,
    max: usize,
}

impl Slots {
    fn new(max: u32) -> Arc<Self> {
        Arc::new(Self { taken: AtomicUsize::new(0), max: max as usize })
    }

    fn take(self: &Arc<Self>) -> Option<Slot> {
        let taken = self
            .taken
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| (taken < self.max).then_some(taken + 1));
        taken.ok().map(|_| Slot(self.clone()))
    }
}

/// An instance's slot in the pool. Dropping it gives the slot back.
pub struct Slot(Arc<Slots>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Compiles an encoded component as an engine with these limits does. It needs no pool, nor address
/// space for one.
pub(super) fn code_of(limits: &Limits, encoded: &[u8]) -> Result<Vec<u8>, String> {
    let form = depth::compiled_form(limits, encoded)?;
    let code = || without_pool(limits)?.precompile_component(&form);
    code().map_err(|error| format!("{error:#}"))
}

/// Makes an engine of wasmtime's that compiles the same code and has no slots of a given size.
pub(super) fn without_pool(limits: &Limits) -> wasmtime::Result<wasmtime::Engine> {
    wasmtime::Engine::new(&code_config(limits)?)
}

fn config(limits: &Limits, metered: bool, pool: &Pool) -> wasmtime::Result<Config> {
    let mut config = code_config(limits)?;
    config.consume_fuel(metered);
    // This process compiles only small modules. Components are compiled in a separate process, on
    // all cores.
    config.parallel_compilation(false);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool_config(limits, pool)?));
    Ok(config)
}

/// Sets everything that decides the compiled code.
fn code_config(limits: &Limits) -> wasmtime::Result<Config> {
    let mut config = Config::new();
    // The target is named instead of detected: CPU features beyond the baseline must not matter.
    config.target(TARGET)?;
    config.wasm_features(FEATURES.complement(), false);
    config.wasm_features(FEATURES, true);
    // A guest must not see which NaN the hardware produced.
    config.cranelift_nan_canonicalization(true);
    // Commands are bounded by fuel alone; it stops every replica at the same instruction.
    config.consume_fuel(true);
    config.operator_cost(fuel_table(limits)?);
    // Queries have a deadline as well. Commands run with a deadline that no epoch reaches.
    config.epoch_interruption(true);
    // The stack size is part of the profile, because the place where a recursion ends is an
    // outcome. Where the guest's own code meters the depth, the native stack is larger than that.
    let native_stack_bytes = usize::try_from(limits.native_stack_bytes())?;
    config.max_wasm_stack(native_stack_bytes);
    // Nothing runs on such a stack, but it may not be smaller.
    config.async_stack_size(native_stack_bytes);
    // The innermost frame of a trap tells whether the metered stack is used up.
    config.wasm_backtrace_max_frames(NonZeroUsize::new(BACKTRACE_FRAMES_MAX));
    // That frame must be one of the function that trapped. Code that was moved into its caller has
    // none, and another version of wasmtime may do this by default.
    config.compiler_inlining(Inlining::No);
    // Nothing here is async. Without this bookkeeping, a call costs a third of its price with it.
    config.concurrency_support(false);
    config.cranelift_opt_level(OptLevel::Speed);
    // A fresh instance starts from a copy-on-write image of its memory.
    config.memory_init_cow(true);
    config.memory_reservation(MEMORY_RESERVATION_BYTES);
    config.memory_guard_size(MEMORY_GUARD_BYTES);
    Ok(config)
}

/// Configures the pool. Its slots are made once, so that a fresh instance for every entry costs
/// microseconds.
fn pool_config(limits: &Limits, pool: &Pool) -> wasmtime::Result<PoolingAllocationConfig> {
    let mut config = PoolingAllocationConfig::new();
    config.total_component_instances(pool.slots);
    config.total_core_instances(pool.slots * CORE_INSTANCES_PER_COMPONENT);
    config.max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT);
    // A component has one memory, or the number of instances that fit would depend on the guest.
    config.total_memories(pool.slots);
    config.max_memories_per_component(1);
    config.max_memories_per_module(1);
    config.total_tables(pool.slots * TABLES_PER_COMPONENT);
    config.max_tables_per_component(TABLES_PER_COMPONENT);
    config.max_tables_per_module(TABLES_PER_COMPONENT);
    config.max_memory_size(usize::try_from(limits.memory_bytes_max)?);
    config.table_elements(usize::try_from(limits.table_elements_max)?);
    config.linear_memory_keep_resident(MEMORY_KEEP_RESIDENT_BYTES);
    config.table_keep_resident(TABLE_KEEP_RESIDENT_BYTES);
    config.pagemap_scan(pool.pagemap_scan);
    Ok(config)
}

fn fuel_table(limits: &Limits) -> wasmtime::Result<OperatorCost> {
    let read = || -> serde_json::Result<OperatorCost> {
        let ours: Value = serde_json::from_str(FUEL)?;
        let ours = if limits.meters_sizes() { without_sizes(ours) } else { ours };
        let table = if cfg!(feature = "corpus") { over_defaults(ours)? } else { ours };
        serde_json::from_value(table)
    };
    read().map_err(|error| wasmtime::format_err!("fuel.json does not fit this wasmtime: {error}"))
}

/// Sets the prices to 0 that the guest's own code pays. The engine would look at the fuel beside
/// such an operator, in one version before it and in another one behind it.
fn without_sizes(mut table: Value) -> Value {
    for name in depth::OPERATORS_WITH_A_SIZE {
        table[name] = 0.into();
    }
    for price in table["variable"].as_object_mut().into_iter().flat_map(|prices| prices.values_mut()) {
        *price = 0.into();
    }
    table
}

/// Completes the table for another version of wasmtime, which may have operators that ours lacks.
/// Only the corpus on such a version needs this. The version that recorded the corpus does not know
/// these operators, so no case has one, and their price does not matter.
fn over_defaults(ours: Value) -> serde_json::Result<Value> {
    let mut table = serde_json::to_value(OperatorCost::default())?;
    set_known(&mut table, ours);
    Ok(table)
}

/// Sets what both have, at every depth.
fn set_known(table: &mut Value, ours: Value) {
    match (table, ours) {
        (Value::Object(table), Value::Object(ours)) => {
            for (name, ours) in ours {
                if let Some(price) = table.get_mut(&name) {
                    set_known(price, ours);
                }
            }
        }
        (price, ours) => *price = ours,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_function_is_moved_into_its_caller() {
        let engine = without_pool(&Limits::default()).expect("an engine");
        assert_eq!(engine.get_compiler_inlining(), Inlining::No);
    }

    #[test]
    fn fuel_table_names_every_operator() {
        let ours: Value = serde_json::from_str(FUEL).expect("fuel.json is JSON");
        let of = |semantics: u32| {
            let limits = Limits { semantics, ..Limits::default() };
            serde_json::to_value(fuel_table(&limits).expect("complete")).expect("a table is JSON")
        };
        assert_eq!(of(5), ours, "fuel.json names an operator that the engine does not know");
        let newest = of(6);
        let names = ours.as_object().expect("a table").keys();
        let changed: BTreeSet<&str> =
            names.filter(|name| newest[name.as_str()] != ours[name.as_str()]).map(String::as_str).collect();
        let wanted = depth::OPERATORS_WITH_A_SIZE.into_iter().chain(["variable"]).collect();
        assert_eq!(changed, wanted, "the prices that the guest's own code pays");
    }

    #[test]
    fn a_completed_table_has_our_prices_and_the_names_of_the_engine() {
        let ours: Value = serde_json::from_str(FUEL).expect("fuel.json is JSON");
        assert_eq!(over_defaults(ours.clone()).expect("complete"), ours);
        let mut other = ours.clone();
        let names = other.as_object_mut().expect("a table");
        names.remove("Call").expect("a price");
        names.insert("Unknown".to_owned(), 9.into());
        let completed = over_defaults(other).expect("complete");
        let engines = serde_json::to_value(OperatorCost::default()).expect("a table is JSON");
        assert_eq!((&completed["Call"], completed.get("Unknown")), (&engines["Call"], None));
        assert_eq!(completed["CallIndirect"], ours["CallIndirect"]);
        assert_eq!(completed["variable"], ours["variable"]);
    }
}
