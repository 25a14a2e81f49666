//! The host's side of `wit/machine.wit`: the imports of guests, the cost of each, and the calls
//! that may use it. An import that cannot do its work ends the call; the guest never sees a
//! failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use wasmtime::component::{ComponentType, Lift, Linker, LinkerInstance, Lower, WasmList, WasmStr};
use wasmtime::{Result, StoreContextMut};

use super::epochs::epochs;
use super::failure::{Ended, Reason};
use super::limits::{Budget, Growth, Limits, fuel};
use super::outcome::cut;
use super::{LogLine, Page, Range, Rows, SnapshotSink, SnapshotSource, StatusSource, StoreFault};
use crate::faults;
use crate::logs::{Bounded, Foreign};

/// The package whose interfaces a guest may import and must export.
pub(super) const PACKAGE: &str = "lockstep:machine";
/// The contract's version in this host. Guests that were built for an older or newer minor version
/// of the same major version are linked by their types.
pub(super) const VERSION: &str = "1.0.0";
/// Interfaces of the package that may be imported (`types` has no functions).
pub(super) const INTERFACES: [&str; 7] = ["types", "store", "call", "log", "node", "snapshot-sink", "snapshot-source"];

/// The kind of the current call. It decides what the imports may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// No call: only start functions run now, and they may use no import.
    Idle,
    Apply,
    Query,
    Watch,
    Snapshot,
    Restore,
    Migrate,
}

impl Mode {
    fn writes(self) -> bool {
        matches!(self, Self::Apply | Self::Restore | Self::Migrate)
    }
}

/// The data of an instance. The fields from `mode` on belong to the current call.
pub(super) struct State {
    pub(super) limits: Arc<Limits>,
    /// Whether fuel is counted.
    metered: bool,
    pub(super) growth: Growth,
    pub(super) mode: Mode,
    pub(super) store: Option<Box<dyn Rows>>,
    pub(super) budget: Budget,
    pub(super) caller: String,
    pub(super) node_status: Option<StatusSource>,
    pub(super) sink: Option<Box<dyn SnapshotSink>>,
    pub(super) source: Option<Box<dyn SnapshotSource>>,
    /// The lines that the guest has logged, if they are kept instead of written.
    pub(super) lines: Option<Vec<LogLine>>,
    /// Only for a snapshot or a restore: how long the guest may still compute.
    pub(super) quiet: Option<Quiet>,
}

/// How long the guest of a snapshot or a restore may compute without moving its stream. Time that
/// the host spends on a call (on a slow disk, or waiting for a sender that digests) does not count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quiet {
    limit: Duration,
    until: Instant,
}

impl Quiet {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, until: Instant::now() + limit }
    }
}

impl State {
    pub(super) fn new(limits: Arc<Limits>, metered: bool) -> Self {
        Self {
            growth: Growth::new(&limits),
            limits,
            metered,
            mode: Mode::Idle,
            store: None,
            budget: Budget::default(),
            caller: String::new(),
            node_status: None,
            sink: None,
            source: None,
            lines: None,
            quiet: None,
        }
    }
}

type Guest<'a> = StoreContextMut<'a, State>;

/// `store.page` of the contract.
#[derive(ComponentType, Lower)]
#[component(record)]
struct PageOfRows {
    rows: Vec<u8>,
    more: bool,
}

/// `log.level` of the contract.
#[allow(dead_code, reason = "made by lifting only")]
#[derive(Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
enum Level {
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
}

/// Limits the log lines of guests, over all calls.
static LINES: Bounded = Bounded::new();

/// Whether the limit of [`LINES`] is off.
static EVERY_LINE: AtomicBool = AtomicBool::new(false);

/// Makes this process write every line that a guest logs. For an author's tools, which run the
/// guest to read them.
pub fn write_every_line() {
    EVERY_LINE.store(true, Ordering::Relaxed);
}

/// Defines every import of the contract, and nothing else.
pub(super) fn link(linker: &mut Linker<State>) -> Result<()> {
    let store = &mut interface(linker, "store")?;
    store.func_wrap("get", get)?;
    store.func_wrap("scan", scan)?;
    store.func_wrap("put", put)?;
    store.func_wrap("remove", remove)?;
    store.func_wrap("remove-range", remove_range)?;
    interface(linker, "call")?.func_wrap("caller", caller)?;
    let log = &mut interface(linker, "log")?;
    log.func_wrap("write", log_write)?;
    log.func_wrap("abort", log_abort)?;
    interface(linker, "node")?.func_wrap("status", node_status)?;
    interface(linker, "snapshot-sink")?.func_wrap("write", sink_write)?;
    interface(linker, "snapshot-source")?.func_wrap("read", source_read)
}

fn interface<'a>(linker: &'a mut Linker<State>, name: &str) -> Result<LinkerInstance<'a, State>> {
    linker.instance(&format!("{PACKAGE}/{name}@{VERSION}"))
}

fn get(mut guest: Guest<'_>, (key,): (WasmList<u8>,)) -> Result<(Option<Vec<u8>>,)> {
    enter_store(&mut guest, fuel::GET, key.len())?;
    check_key(&guest, &key)?;
    let value = with_store(&mut guest, |store, guest| store.get(key.as_le_slice(guest)))?;
    charge_bytes(&mut guest, value.as_ref().map_or(0, Vec::len))?;
    Ok((value,))
}

type Bounds = (WasmList<u8>, Option<WasmList<u8>>, bool, u32);

fn scan(mut guest: Guest<'_>, (start, end, reverse, limit): Bounds) -> Result<(PageOfRows,)> {
    enter_store(&mut guest, fuel::SCAN, start.len() + end.as_ref().map_or(0, WasmList::len))?;
    check_bounds(&guest, &start, end.as_ref())?;
    let Page { rows, more } = with_store(&mut guest, |store, guest| {
        let range = range(guest, &start, end.as_ref());
        if range.is_empty() {
            return Ok(Page::default());
        }
        store.scan(range, reverse, limit)
    })?;
    charge_rows(&mut guest, count_rows(&rows))?;
    charge_bytes(&mut guest, rows.len())?;
    Ok((PageOfRows { rows, more },))
}

fn put(mut guest: Guest<'_>, (key, value): (WasmList<u8>, WasmList<u8>)) -> Result<()> {
    enter_write(&mut guest, fuel::PUT, key.len() + value.len())?;
    check_key(&guest, &key)?;
    let limit = guest.data().limits.value_bytes_max;
    check_length("value", value.len(), limit)?;
    with_store(&mut guest, |store, guest| {
        let (key, value) = (key.as_le_slice(guest), value.as_le_slice(guest));
        if faults::is_set("guest-diverge") {
            return store.put(key, &[value, b"?"].concat());
        }
        store.put(key, value)
    })
}

fn remove(mut guest: Guest<'_>, (key,): (WasmList<u8>,)) -> Result<()> {
    enter_write(&mut guest, fuel::REMOVE, key.len())?;
    check_key(&guest, &key)?;
    with_store(&mut guest, |store, guest| store.remove(key.as_le_slice(guest)))
}

fn remove_range(
    mut guest: Guest<'_>,
    (start, end, limit): (WasmList<u8>, Option<WasmList<u8>>, u32),
) -> Result<(u64,)> {
    enter_write(&mut guest, fuel::REMOVE_RANGE, start.len() + end.as_ref().map_or(0, WasmList::len))?;
    check_bounds(&guest, &start, end.as_ref())?;
    // Neither the remaining budget nor the remaining fuel allows it to remove more than this.
    let fuel = if guest.data().metered { guest.get_fuel()? } else { u64::MAX };
    let affordable = (fuel / fuel::ROW).saturating_add(1).min(guest.data().budget.removable());
    let limit = if limit == 0 { affordable } else { affordable.min(limit.into()) };
    let removed = with_store(&mut guest, |store, guest| {
        let range = range(guest, &start, end.as_ref());
        if range.is_empty() { Ok(0) } else { store.remove_range(range, limit) }
    })?;
    guest.data_mut().budget.take_removed(removed)?;
    charge_rows(&mut guest, removed)?;
    Ok((removed,))
}

fn caller(mut guest: Guest<'_>, (): ()) -> Result<(String,)> {
    let caller = guest.data().caller.clone();
    enter(&mut guest, fuel::CALL, caller.len())?;
    if guest.data().mode == Mode::Idle {
        return Err(forbidden("call.caller", "outside a call"));
    }
    Ok((caller,))
}

fn log_write(mut guest: Guest<'_>, (level, message): (Level, WasmStr)) -> Result<()> {
    let bytes = message.to_str(&guest)?.len();
    enter(&mut guest, fuel::CALL, bytes)?;
    // Lines are counted by length alone, whether or not the operator's log level shows them.
    if !guest.data_mut().budget.take_log(bytes as u64) {
        return Ok(());
    }
    if guest.data().lines.is_some() {
        let text = message.to_str(&guest)?.into_owned();
        guest.data_mut().lines.get_or_insert_default().push(LogLine { level: level.name(), text });
        return Ok(());
    }
    if !is_enabled(level) {
        return Ok(());
    }
    // A client can make any number of calls, and all clients wait for the thread that applies.
    let taken = if EVERY_LINE.load(Ordering::Relaxed) { Some(0) } else { LINES.take(bytes) };
    let Some(left_out) = taken else { return Ok(()) };
    if left_out > 0 {
        tracing::warn!(target: "guest", left_out, "lines of the guest were left out, because there were too many");
    }
    let message = message.to_str(&guest)?;
    let message = Foreign(&message);
    match level {
        Level::Debug => tracing::debug!(target: "guest", "{message}"),
        Level::Info => tracing::info!(target: "guest", "{message}"),
        Level::Warn => tracing::warn!(target: "guest", "{message}"),
        Level::Error => tracing::error!(target: "guest", "{message}"),
    }
    Ok(())
}

/// Whether the operator listens to this level.
fn is_enabled(level: Level) -> bool {
    match level {
        Level::Debug => tracing::enabled!(target: "guest", tracing::Level::DEBUG),
        Level::Info => tracing::enabled!(target: "guest", tracing::Level::INFO),
        Level::Warn => tracing::enabled!(target: "guest", tracing::Level::WARN),
        Level::Error => tracing::enabled!(target: "guest", tracing::Level::ERROR),
    }
}

fn log_abort(guest: Guest<'_>, (message,): (WasmStr,)) -> Result<()> {
    let mut message = message.to_str(&guest)?.into_owned();
    cut(&mut message, guest.data().limits.status_message_bytes_max as usize);
    Err(Ended::guest(Reason::Aborted, message).into())
}

fn node_status(mut guest: Guest<'_>, (): ()) -> Result<(String,)> {
    enter(&mut guest, fuel::CALL, 0)?;
    let state = guest.data();
    let (Mode::Query, Some(status)) = (state.mode, &state.node_status) else {
        return Err(forbidden("node.status", "outside a query"));
    };
    let status = status();
    charge_bytes(&mut guest, status.len())?;
    Ok((status,))
}

fn sink_write(mut guest: Guest<'_>, (chunk,): (WasmList<u8>,)) -> Result<()> {
    enter(&mut guest, fuel::CALL, chunk.len())?;
    let limit = guest.data().limits.snapshot_chunk_bytes_max;
    check_length("snapshot chunk", chunk.len(), limit)?;
    let Some(mut sink) = guest.data_mut().sink.take() else {
        return Err(forbidden("snapshot-sink.write", "outside a snapshot"));
    };
    let began = began(&guest);
    let written = sink.write(chunk.as_le_slice(&guest));
    guest.data_mut().sink = Some(sink);
    give_back(&mut guest, began, chunk.len());
    written.map_err(|error| Ended::guest(Reason::Stream, error).into())
}

fn source_read(mut guest: Guest<'_>, (bytes_max,): (u32,)) -> Result<(Vec<u8>,)> {
    enter(&mut guest, fuel::CALL, 0)?;
    // At least one byte is requested, because an empty answer means the end.
    let bytes_max = bytes_max.clamp(1, guest.data().limits.snapshot_chunk_bytes_max) as usize;
    let began = began(&guest);
    let Some(source) = guest.data_mut().source.as_mut() else {
        return Err(forbidden("snapshot-source.read", "outside a restore"));
    };
    let bytes = source.read(bytes_max).map_err(|error| Ended::guest(Reason::Stream, error))?;
    give_back(&mut guest, began, bytes.len());
    if bytes.len() > bytes_max {
        return Err(Ended::Host("a snapshot source returned more than was asked for".to_owned()).into());
    }
    charge(&mut guest, bytes.len() as u64 * fuel::BYTE)?;
    guest.data_mut().budget.earn_writes(bytes.len() as u64);
    Ok((bytes,))
}

/// Returns the time at which the host's part of a call begins, if a quiet deadline applies.
fn began(guest: &Guest<'_>) -> Option<Instant> {
    guest.data().quiet.map(|_| Instant::now())
}

/// Extends the guest's deadline by the time that the host took since `began`. If the stream moved,
/// the full time begins anew: a transfer may take long, but it may not stand still.
fn give_back(guest: &mut Guest<'_>, began: Option<Instant>, moved_bytes: usize) {
    let (Some(began), Some(quiet)) = (began, guest.data_mut().quiet.as_mut()) else { return };
    let now = Instant::now();
    quiet.until = if moved_bytes > 0 { now + quiet.limit } else { quiet.until + (now - began) };
    let left = quiet.until.saturating_duration_since(now);
    // With no time left, the guest ends when it continues. `epochs` rounds up, so without this case
    // the call would never end.
    let ticks = if left.is_zero() { 0 } else { epochs(left) };
    guest.set_epoch_deadline(ticks);
}

/// Charges the price of an import before it does anything. Every import except `log.abort` begins
/// with this.
fn enter(guest: &mut Guest<'_>, cost: u64, bytes: usize) -> Result<()> {
    charge(guest, cost.saturating_add(bytes as u64 * fuel::BYTE))
}

fn enter_store(guest: &mut Guest<'_>, cost: u64, bytes: usize) -> Result<()> {
    enter(guest, cost, bytes)?;
    if guest.data().store.is_none() {
        return Err(forbidden("store", "outside a call"));
    }
    let budget = &mut guest.data_mut().budget;
    budget.take_call()?;
    Ok(budget.take_bytes(bytes as u64)?)
}

fn enter_write(guest: &mut Guest<'_>, cost: u64, bytes: usize) -> Result<()> {
    enter(guest, cost, bytes)?;
    if !guest.data().mode.writes() || guest.data().store.is_none() {
        return Err(forbidden("a write to store", "outside apply, migrate and restore"));
    }
    let budget = &mut guest.data_mut().budget;
    budget.take_call()?;
    Ok(budget.take_write(bytes as u64)?)
}

fn charge(guest: &mut Guest<'_>, amount: u64) -> Result<()> {
    if !guest.data().metered {
        return Ok(());
    }
    match guest.get_fuel()?.checked_sub(amount) {
        Some(left) => guest.set_fuel(left),
        None => {
            guest.set_fuel(0)?;
            Err(Ended::guest(Reason::Fuel, "the fuel of the call was used up by a call into the host").into())
        }
    }
}

/// Charges rows that were returned or removed, and rows that were passed over.
fn charge_rows(guest: &mut Guest<'_>, rows: u64) -> Result<()> {
    let passed_over = guest.data_mut().store.as_mut().map_or(0, |store| store.passed_over());
    charge(guest, rows.saturating_add(passed_over).saturating_mul(fuel::ROW))
}

/// Charges bytes that the store returned.
fn charge_bytes(guest: &mut Guest<'_>, bytes: usize) -> Result<()> {
    charge(guest, bytes as u64 * fuel::BYTE)?;
    Ok(guest.data_mut().budget.take_bytes(bytes as u64)?)
}

/// Runs `work` with access to the store and to the guest's memory. Keys and values need not be
/// copied then.
fn with_store<T>(
    guest: &mut Guest<'_>,
    work: impl FnOnce(&mut dyn Rows, &Guest<'_>) -> std::result::Result<T, StoreFault>,
) -> Result<T> {
    let mut store = guest.data_mut().store.take().expect("checked on entry");
    let began = began(guest);
    let done = work(store.as_mut(), guest);
    guest.data_mut().store = Some(store);
    give_back(guest, began, 0);
    done.map_err(|StoreFault(fault)| Ended::Host(fault).into())
}

fn range<'a>(guest: &'a Guest<'_>, start: &WasmList<u8>, end: Option<&WasmList<u8>>) -> Range<'a> {
    Range { start: start.as_le_slice(guest), end: end.map(|end| end.as_le_slice(guest)) }
}

fn check_key(guest: &Guest<'_>, key: &WasmList<u8>) -> Result<()> {
    if key.len() == 0 {
        return Err(Ended::guest(Reason::LimitExceeded, "a key has at least one byte").into());
    }
    check_length("key", key.len(), guest.data().limits.key_bytes_max)
}

/// Checks the bounds of a range. A bound may be one byte longer than a key: the last key and a zero
/// byte.
fn check_bounds(guest: &Guest<'_>, start: &WasmList<u8>, end: Option<&WasmList<u8>>) -> Result<()> {
    let limit = guest.data().limits.key_bytes_max.saturating_add(1);
    check_length("start of the range", start.len(), limit)?;
    check_length("end of the range", end.map_or(0, WasmList::len), limit)
}

fn check_length(what: &str, bytes: usize, bytes_max: u32) -> Result<()> {
    if bytes <= bytes_max as usize {
        return Ok(());
    }
    let detail = format!("the {what} has {bytes} bytes, the limit is {bytes_max}");
    Err(Ended::guest(Reason::LimitExceeded, detail).into())
}

fn forbidden(what: &str, place: &str) -> wasmtime::Error {
    Ended::guest(Reason::Forbidden, format!("{what} may not be used {place}")).into()
}

/// Counts rows in the contract's framing.
fn count_rows(mut rows: &[u8]) -> u64 {
    let mut count = 0;
    while let Some((key, rest)) = rows.split_first_chunk::<4>() {
        let Some((value, rest)) = rest.split_first_chunk::<4>() else {
            break;
        };
        let row = u32::from_le_bytes(*key) as usize + u32::from_le_bytes(*value) as usize;
        rows = rest.get(row..).unwrap_or_default();
        count += 1;
    }
    count
}
