//! The one place that configures wasmtime. An engine serves commands and queries alike; what differs
//! between them (fuel, deadline, rights) is set per call. Settings that could make two replicas differ
//! are all set here, explicitly, and never left to a default that a patch may change.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use wasmtime::component::Linker;
use wasmtime::{
    Config, Enabled, InstanceAllocationStrategy, OperatorCost, OptLevel, PoolingAllocationConfig, WasmFeatures,
};

use super::build;
use super::imports::{self, State};
use super::limits::{CALLER_STACK_BYTES, Limits};
use super::load::LoadError;

/// Slots of the pool that queries never take: the instance that applies, the fresh one that replaces
/// it, a snapshot, a restore, and as many for a component that takes over.
const RESERVED_INSTANCES: u32 = 8;
/// Queries and watch steps that hold an instance at the same time, at most.
pub const QUERY_INSTANCES_MAX: u32 = 24;
/// Core instances in one component: a module, its shims, and what Python's linker makes.
const CORE_INSTANCES_PER_COMPONENT: u32 = 40;
pub(super) const TABLES_PER_COMPONENT: u32 = 8;
/// Linear memory that is cleaned in place and not given back to the kernel, in bytes a slot.
const MEMORY_KEEP_RESIDENT_BYTES: usize = 256 * 1024;
const TABLE_KEEP_RESIDENT_BYTES: usize = 16 * 1024;
/// Address space a memory, in bytes. All a 32-bit pointer can reach, so that accesses need no bounds
/// checks. It is reserved, not used: no memory and no swap stands behind it.
const MEMORY_RESERVATION_BYTES: u64 = 4 << 30;
const MEMORY_GUARD_BYTES: u64 = 32 << 20;
/// Length of an epoch: how exactly a query's deadline is kept.
const EPOCH_MS: u64 = 10;

/// Fuel of every operator. A complete table of our own, because the engine's defaults may change in a
/// patch release and fuel decides outcomes. An operator that is missing here is an error at start.
pub(super) const FUEL: &str = include_str!("fuel.json");

/// What the allow-list holds: what compilers emit today, minus everything whose result or cost depends
/// on the host. Not here, among others: threads, relaxed SIMD, GC, exceptions, 64-bit memories, several
/// memories, custom page sizes, stack switching, component-model async.
const FEATURES: WasmFeatures = WasmFeatures::MUTABLE_GLOBAL
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::REFERENCE_TYPES)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::SIMD)
    .union(WasmFeatures::FLOATS)
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::COMPONENT_MODEL);

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
    /// See [`Engine::build`]; once it is known.
    build: OnceLock<String>,
    query_instances: AtomicUsize,
    clock: Arc<Clock>,
    ticker: Thread,
}

impl Engine {
    /// Builds the engine. Fails when this machine cannot give what the limits promise.
    pub fn new(limits: &Limits) -> Result<Self, LoadError> {
        Self::make(limits, true)
    }

    /// An engine that counts no fuel, so that it can be measured what counting costs. Nothing ends a guest that loops.
    #[doc(hidden)]
    pub fn unmetered(limits: &Limits) -> Result<Self, LoadError> {
        Self::make(limits, false)
    }

    fn make(limits: &Limits, metered: bool) -> Result<Self, LoadError> {
        if limits.wasm_stack_bytes.saturating_mul(4) > CALLER_STACK_BYTES as u64 {
            let (asked, room) = (limits.wasm_stack_bytes, CALLER_STACK_BYTES / 4);
            return Err(LoadError::Engine(format!("a guest stack of {asked} bytes; this build has room for {room}")));
        }
        let unavailable = |error: wasmtime::Error| LoadError::Engine(format!("{error:#}"));
        let wasmtime =
            config(limits, metered).and_then(|config| wasmtime::Engine::new(&config)).map_err(unavailable)?;
        let mut linker = Linker::new(&wasmtime);
        imports::link(&mut linker).map_err(unavailable)?;
        let clock = Arc::new(Clock::default());
        let ticker = tick(wasmtime.weak(), clock.clone()).map_err(|error| LoadError::Engine(error.to_string()))?;
        let limits = Arc::new(limits.clone());
        let (build, query_instances) = (OnceLock::new(), AtomicUsize::new(0));
        let inner = Inner { wasmtime, linker, limits, metered, build, query_instances, clock, ticker };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The limits that every guest of this engine runs under.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// What of this build of the host may move the place at which a recursion of a guest ends, for nodes to compare: the version of
    /// wasmtime, the target, the host's own level of optimization, and how deep a recursion gets. The first time takes milliseconds.
    pub fn build(&self) -> Result<&str, LoadError> {
        if self.inner.build.get().is_none() {
            let text = build::describe(self).map_err(LoadError::Engine)?;
            // Whoever was first measured the same.
            let _ = self.inner.build.set(text);
        }
        Ok(self.inner.build.get().map_or("", String::as_str))
    }

    /// Takes one of the slots for queries, if one is free.
    pub(super) fn query_slot(&self) -> Option<QuerySlot> {
        let taken = self.inner.query_instances.fetch_update(Ordering::AcqRel, Ordering::Acquire, |held| {
            (held < QUERY_INSTANCES_MAX as usize).then_some(held + 1)
        });
        taken.ok().map(|_| QuerySlot(self.clone()))
    }

    /// Starts the clock that deadlines need, and says how many epochs `ms` are.
    pub(super) fn start_deadline(&self, ms: u32) -> (Deadline, u64) {
        if self.inner.clock.running.fetch_add(1, Ordering::AcqRel) == 0 {
            self.inner.ticker.unpark();
        }
        (Deadline(self.inner.clock.clone()), epochs(Duration::from_millis(ms.into())))
    }
}

/// In how many epochs so much time is over. One more, because the current epoch is already partly over.
pub(super) fn epochs(time: Duration) -> u64 {
    (time.as_millis() as u64).div_ceil(EPOCH_MS) + 1
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.clock.stopped.store(true, Ordering::Release);
        self.ticker.unpark();
    }
}

/// A query's place in the pool, given back on drop.
pub(super) struct QuerySlot(Engine);

impl Drop for QuerySlot {
    fn drop(&mut self) {
        self.0.inner.query_instances.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A call with a deadline is running until this is dropped.
pub(super) struct Deadline(Arc<Clock>);

impl Drop for Deadline {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

#[derive(Default)]
struct Clock {
    running: AtomicUsize,
    stopped: AtomicBool,
}

/// Advances the epoch while a call with a deadline runs; sleeps otherwise, so that an idle node is idle.
fn tick(engine: wasmtime::EngineWeak, clock: Arc<Clock>) -> std::io::Result<Thread> {
    let run = move || {
        while !clock.stopped.load(Ordering::Acquire) {
            if clock.running.load(Ordering::Acquire) == 0 {
                thread::park();
                continue;
            }
            thread::sleep(Duration::from_millis(EPOCH_MS));
            if let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
            }
        }
    };
    let handle = thread::Builder::new().name("guest-epochs".to_owned()).spawn(run)?;
    Ok(handle.thread().clone())
}

/// The code of an encoded component, as an engine of these limits makes it. Needs no pool, and no address space for one.
pub(super) fn code_of(limits: &Limits, encoded: &[u8]) -> Result<Vec<u8>, String> {
    let code = || wasmtime::Engine::new(&code_config(limits)?)?.precompile_component(encoded);
    code().map_err(|error| format!("{error:#}"))
}

fn config(limits: &Limits, metered: bool) -> wasmtime::Result<Config> {
    let mut config = code_config(limits)?;
    config.consume_fuel(metered);
    // What a node compiles in this process is small; components are compiled in one of their own, on all cores.
    config.parallel_compilation(false);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(limits)?));
    Ok(config)
}

/// Everything that decides the code.
fn code_config(limits: &Limits) -> wasmtime::Result<Config> {
    let mut config = Config::new();
    // The named target and not "this machine": what the CPU has beyond the baseline must not matter.
    config.target(TARGET)?;
    config.wasm_features(FEATURES.complement(), false);
    config.wasm_features(FEATURES, true);
    // A guest must not see which NaN the hardware made.
    config.cranelift_nan_canonicalization(true);
    // Commands are bounded by fuel alone; it stops every replica at the same instruction.
    config.consume_fuel(true);
    config.operator_cost(fuel_table()?);
    // Queries have a deadline, too. Commands run with one that no epoch reaches.
    config.epoch_interruption(true);
    // Part of the profile: where a recursion ends is an outcome.
    config.max_wasm_stack(usize::try_from(limits.wasm_stack_bytes)?);
    // Nothing here is async; a call without the bookkeeping costs a third.
    config.concurrency_support(false);
    config.cranelift_opt_level(OptLevel::Speed);
    // A fresh instance starts from a copy-on-write image of its memory.
    config.memory_init_cow(true);
    config.memory_reservation(MEMORY_RESERVATION_BYTES);
    config.memory_guard_size(MEMORY_GUARD_BYTES);
    Ok(config)
}

/// Slots are made once, so that a fresh instance for every entry costs microseconds.
fn pool(limits: &Limits) -> wasmtime::Result<PoolingAllocationConfig> {
    let slots = RESERVED_INSTANCES + QUERY_INSTANCES_MAX;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots);
    pool.total_core_instances(slots * CORE_INSTANCES_PER_COMPONENT);
    pool.max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT);
    // A component has one memory: else how many instances fit would depend on the guest.
    pool.total_memories(slots);
    pool.max_memories_per_component(1);
    pool.max_memories_per_module(1);
    pool.total_tables(slots * TABLES_PER_COMPONENT);
    pool.max_tables_per_component(TABLES_PER_COMPONENT);
    pool.max_tables_per_module(TABLES_PER_COMPONENT);
    pool.max_memory_size(usize::try_from(limits.memory_bytes_max)?);
    pool.table_elements(usize::try_from(limits.table_elements_max)?);
    pool.linear_memory_keep_resident(MEMORY_KEEP_RESIDENT_BYTES);
    pool.table_keep_resident(TABLE_KEEP_RESIDENT_BYTES);
    // Where the kernel can tell which pages were touched, only those are cleaned.
    pool.pagemap_scan(Enabled::Auto);
    Ok(pool)
}

fn fuel_table() -> wasmtime::Result<OperatorCost> {
    serde_json::from_str(FUEL).map_err(|error| wasmtime::format_err!("fuel.json does not fit this wasmtime: {error}"))
}

#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
pub(super) const TARGET: &str = "x86_64-unknown-linux-gnu";
#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "musl"))]
pub(super) const TARGET: &str = "x86_64-unknown-linux-musl";
#[cfg(all(target_os = "linux", target_arch = "aarch64", target_env = "gnu"))]
pub(super) const TARGET: &str = "aarch64-unknown-linux-gnu";
#[cfg(all(target_os = "linux", target_arch = "aarch64", target_env = "musl"))]
pub(super) const TARGET: &str = "aarch64-unknown-linux-musl";
#[cfg(all(target_os = "macos", target_arch = "x86_64"))]
pub(super) const TARGET: &str = "x86_64-apple-darwin";
#[cfg(all(target_os = "macos", target_arch = "aarch64"))]
pub(super) const TARGET: &str = "aarch64-apple-darwin";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuel_table_names_every_operator() {
        let ours: serde_json::Value = serde_json::from_str(FUEL).expect("fuel.json is JSON");
        let read = serde_json::to_value(fuel_table().expect("complete")).expect("a table is JSON");
        assert_eq!(ours, read, "fuel.json names an operator that the engine does not know");
    }
}
