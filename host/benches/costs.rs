//! `cargo xtask costs`: what a command costs, and where, on this machine. It measures the steps of
//! a call into a guest one by one, each with and without counting fuel, and the key-value guest
//! beside its native twin. One thread, apply alone: no log, no fsync, no network.
//!
//! Things that are compared run in turns, so that a machine that slows down slows both. Figures are
//! medians over the turns.

#[path = "costs/twin.rs"]
mod twin;

use std::any::Any;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lockstep::codec::Command;
use lockstep::guest::{
    ApplyInstance, CALLER_STACK_BYTES, Call, Component, Context, Engine, Limits, Page, Range, Rows, StoreFault, Verdict,
};
use lockstep::machine::{Instances, Replica, ReplicaDigest};
use prost::Message;
use twin::Twins;
use wit_component::StringEncoding;
use wit_parser::Resolve;

const LADDER: &str = include_str!("costs/ladder.wat");
const CONTRACT: &str = include_str!("../../wit/machine.wit");

/// Number of measurements of each thing.
const TURNS: usize = 15;
/// Shortest time of one measurement.
const LENGTH: Duration = Duration::from_millis(100);
/// Numbers of commands in an entry.
const SIZES: [usize; 4] = [1, 16, 64, 1024];
/// Commands of one measurement of the key-value guest. They write [`ROWS`] rows in turn.
const COMMANDS: usize = 16 * 1024;
const ROWS: usize = 4096;
const START_MS: u64 = 1_704_067_200_000;
/// Fuel for anything that is measured here.
const FUEL: u64 = 1 << 60;

/// The actions of `ladder.wat`.
#[derive(Clone, Copy)]
enum Rung {
    Nothing = 0,
    Get = 1,
    Put = 2,
    Scan = 3,
    Loop = 4,
    Echo = 5,
}

impl Rung {
    fn request(self, times: u32) -> Vec<u8> {
        [&[self as u8][..], &times.to_le_bytes()].concat()
    }
}

fn main() -> Result<()> {
    // Rust's own harness passes arguments like --bench; they are ignored.
    let worker = std::thread::Builder::new().stack_size(CALLER_STACK_BYTES).spawn(measure)?;
    worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn measure() -> Result<()> {
    // More fuel than any node gives, so that a measurement can be long.
    let limits =
        Limits { fuel_per_command: FUEL, fuel_per_entry: FUEL, store_calls_max: u64::MAX, ..Limits::default() };
    let limits = Limits { store_bytes_max: u64::MAX, write_bytes_per_command_max: u64::MAX, ..limits };
    let (counting, not_counting) = (Engine::new(&limits)?, Engine::unmetered(&limits)?);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("lockstep {}, {cores} cores, one thread, medians of {TURNS} turns\n", env!("CARGO_PKG_VERSION"));
    println!("{:<54}{:>12}{:>12}{:>8}", "", "with fuel", "without", "ratio");
    let ladder = typed_module()?;
    ladder_rows(&load(&counting, &ladder)?, &load(&not_counting, &ladder)?)?;
    let kv = kv_wasm()?;
    let (metered, unmetered) = (load(&counting, &kv)?, load(&not_counting, &kv)?);
    fuel_of_adds(&metered, &unmetered)?;
    twins(&metered)
}

fn load(engine: &Engine, wasm: &[u8]) -> Result<Component> {
    Ok(Component::load(engine, &Component::encode(wasm)?)?)
}

fn kv_wasm() -> Result<Vec<u8>> {
    let directory = std::env::var_os("LOCKSTEP_BUILD_DIR").context("cargo xtask costs says where build/kv.wasm is")?;
    let path = std::path::PathBuf::from(directory).join("kv.wasm");
    std::fs::read(&path).with_context(|| format!("reading {}", path.display()))
}

/// Builds the guest from its text, in the form that a compiler leaves.
fn typed_module() -> Result<Vec<u8>> {
    let mut module = wat::parse_str(LADDER)?;
    let mut resolve = Resolve::default();
    let package = resolve.push_str("machine.wit", CONTRACT)?;
    let world = resolve.select_world(&[package], Some("machine-guest"))?;
    wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    Ok(module)
}

/// Measures both in turns. Returns the median of each in nanoseconds.
fn in_turns(mut one: impl FnMut() -> Result<f64>, mut other: impl FnMut() -> Result<f64>) -> Result<(f64, f64)> {
    let (mut ones, mut others) = (Vec::new(), Vec::new());
    for turn in 0..TURNS {
        if turn % 2 == 0 {
            ones.push(one()?);
            others.push(other()?);
        } else {
            others.push(other()?);
            ones.push(one()?);
        }
    }
    Ok((median(ones), median(others)))
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Returns the nanoseconds of one `work`, repeated for [`LENGTH`].
fn each(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let began = Instant::now();
    let mut times = 0_u32;
    while began.elapsed() < LENGTH {
        for _ in 0..16 {
            work()?;
        }
        times += 16;
    }
    Ok(began.elapsed().as_secs_f64() * 1e9 / f64::from(times))
}

fn row(what: &str, (with, without): (f64, f64)) {
    println!("{what:<54}{:>12}{:>12}{:>8.2}", time(with), time(without), with / without);
}

fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        under if under < 1_000.0 => format!("{under:.1} ns"),
        over => format!("{:.2} µs", over / 1_000.0),
    }
}

fn ladder_rows(with: &Component, without: &Component) -> Result<()> {
    let fresh = |component: &Component| each(|| ApplyInstance::new(component).map(drop).map_err(Into::into));
    row("a fresh instance, made and dropped", in_turns(|| fresh(with), || fresh(without))?);
    let fresh_call = |component: &Component| {
        let mut store: Box<dyn Rows> = Box::new(HeldRows::default());
        each(|| {
            let mut instance = ApplyInstance::new(component)?;
            store = one_call(&mut instance, &[], std::mem::replace(&mut store, Box::new(HeldRows::default())))?;
            Ok(())
        })
    };
    row("a fresh instance and a call that does nothing", in_turns(|| fresh_call(with), || fresh_call(without))?);
    let echo = [&Rung::Echo.request(0)[..], &[7; 256]].concat();
    for (what, request) in [("a call that does nothing", &[][..]), ("a call that answers with its 261 bytes", &echo)] {
        row(what, in_turns(|| calls(with, request), || calls(without, request))?);
    }
    for (what, rung, times) in [
        ("store.get of a row of 64 bytes, in the call's store", Rung::Get, 1000),
        ("store.put of a row of 64 bytes", Rung::Put, 1000),
        ("store.scan of 16 rows of 64 bytes", Rung::Scan, 1000),
        ("a round of a loop: multiply, add, count, compare", Rung::Loop, 100_000),
    ] {
        row(what, in_turns(|| inside(with, rung, times), || inside(without, rung, times))?);
    }
    Ok(())
}

fn one_call(instance: &mut ApplyInstance, request: &[u8], store: Box<dyn Rows>) -> Result<Box<dyn Rows>> {
    let context = Context { index: 1, position: 0, time_ms: START_MS };
    let call = Call { context, method: "costs.Ladder/Climb", request, caller: "", fuel: FUEL };
    let (verdict, store) = instance.apply(call, store);
    let verdict = verdict?;
    ensure!(matches!(verdict, Verdict::Reply(_)), "the guest of the benchmark answered {verdict:?}");
    black_box(verdict);
    Ok(store)
}

/// Returns the nanoseconds of a call in an instance that has served others.
fn calls(component: &Component, request: &[u8]) -> Result<f64> {
    let mut instance = ApplyInstance::new(component)?;
    let mut store: Option<Box<dyn Rows>> = Some(Box::new(HeldRows::default()));
    each(|| {
        let taken = store.take().expect("each call gives it back");
        store = Some(one_call(&mut instance, request, taken)?);
        Ok(())
    })
}

/// Returns the nanoseconds of one of `times` actions within a call. The cost of the call itself is
/// subtracted.
fn inside(component: &Component, rung: Rung, times: u32) -> Result<f64> {
    let mut instance = ApplyInstance::new(component)?;
    let mut store: Option<Box<dyn Rows>> = Some(Box::new(HeldRows::filled()));
    let mut call = |request: &[u8]| {
        each(|| {
            let taken = store.take().expect("each call gives it back");
            store = Some(one_call(&mut instance, request, taken)?);
            Ok(())
        })
    };
    let (all, call_alone) = (call(&rung.request(times))?, call(&Rung::Nothing.request(0))?);
    Ok((all - call_alone) / f64::from(times))
}

/// Measures what counting fuel costs the key-value guest, in entries of 64 commands.
fn fuel_of_adds(with: &Component, without: &Component) -> Result<()> {
    let commands = adds();
    let (mut one, mut other) = (Bed::new(with)?, Bed::new(without)?);
    let figures = in_turns(
        || one.run(with, &commands, 64).map(|took| took * 1e3),
        || other.run(without, &commands, 64).map(|took| took * 1e3),
    )?;
    row("Example/Add of kv.wasm, 64 an entry, state on disk", figures);
    ensure!(one.standing()? == other.standing()?, "with and without fuel the guest came to other states");
    Ok(())
}

/// Measures the guest beside its native twin.
fn twins(component: &Component) -> Result<()> {
    let (commands, twins) = (adds(), Twins::new(component.engine().limits()));
    println!("\nExample/Add, 256-byte values, {ROWS} rows, µs a command, apply to the state included");
    println!("{:<20}{:>10}{:>10}{:>8}", "commands an entry", "wasm", "native", "ratio");
    for size in SIZES {
        let (mut wasm, mut native) = (Bed::new(component)?, Bed::new(component)?);
        let (with, without) =
            in_turns(|| wasm.run(component, &commands, size), || native.run(&twins, &commands, size))?;
        println!("{size:<20}{with:>10.2}{without:>10.2}{:>8.2}", with / without);
        ensure!(wasm.standing()? == native.standing()?, "the guest and its twin came to other states");
    }
    println!("The rolling hash and the rows of both were equal after every row of this table.");
    Ok(())
}

fn adds() -> Vec<Command> {
    let add = |number: usize| {
        let request = kv::AddRequest { key: format!("key-{:08}", number % ROWS), val: "x".repeat(256) };
        Command { method: "Example/Add".into(), request: request.encode_to_vec().into(), ..Command::default() }
    };
    (0..COMMANDS).map(add).collect()
}

/// A replica in a directory of its own.
struct Bed {
    replica: Replica,
    time_ms: u64,
    _place: tempfile::TempDir,
}

impl Bed {
    fn new(component: &Component) -> Result<Bed> {
        let place = tempfile::Builder::new().prefix("lockstep-costs-").tempdir()?;
        Ok(Bed { replica: Replica::open(place.path(), component.clone())?, time_ms: START_MS, _place: place })
    }

    /// Applies the commands in entries of `size`. Returns the microseconds of one command.
    fn run(&mut self, instances: &dyn Instances, commands: &[Command], size: usize) -> Result<f64> {
        let entries: Vec<Vec<Command>> = commands.chunks(size).map(<[Command]>::to_vec).collect();
        let began = Instant::now();
        for entry in entries {
            self.time_ms += 1;
            let verdicts = self.replica.apply_by(instances, self.time_ms, entry)?;
            ensure!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Reply(_))), "an Add failed");
        }
        Ok(began.elapsed().as_secs_f64() * 1e6 / commands.len() as f64)
    }

    fn standing(&self) -> Result<ReplicaDigest> {
        Ok(self.replica.standing()?)
    }
}

/// HeldRows in memory, to measure a store call without any disk.
#[derive(Default)]
struct HeldRows(BTreeMap<Vec<u8>, Vec<u8>>);

impl HeldRows {
    /// Makes the rows that `ladder.wat` reads.
    fn filled() -> HeldRows {
        let key = |number: u32| [b"row\0", &number.to_le_bytes()[..]].concat();
        HeldRows((0..1000).map(|number| (key(number), vec![0; 64])).collect())
    }
}

impl Rows for HeldRows {
    fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&mut self, range: Range<'_>, reverse: bool, limit: u32) -> Result<Page, StoreFault> {
        let mut page = Page::default();
        let end = range.end.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let rows = self.0.range::<[u8], _>((std::ops::Bound::Included(range.start), end));
        assert!(!reverse, "the benchmark scans forwards");
        for (count, (key, value)) in (0..).zip(rows) {
            page.more = limit != 0 && count == limit;
            if page.more || !page.push(key, value) {
                break;
            }
        }
        Ok(page)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreFault> {
        self.0.insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), StoreFault> {
        self.0.remove(key);
        Ok(())
    }

    fn remove_range(&mut self, _: Range<'_>, _: u64) -> Result<u64, StoreFault> {
        Err(StoreFault("the benchmark removes no ranges".to_owned()))
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
