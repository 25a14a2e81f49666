//! `cargo xtask costs`: what a command costs, and where, on this machine. It measures the steps of
//! a call into a guest one by one, each with and without counting fuel, and the key-value guest
//! beside its native twin. One thread, apply alone: no log, no fsync, no network.
//!
//! Things that are compared run in turns, so that a machine that slows down slows both. Figures are
//! medians over the turns.

#[path = "parts/bed.rs"]
mod bed;
#[path = "parts/guests.rs"]
mod guests;
#[path = "parts/ladder.rs"]
mod ladder;
#[path = "costs/twin.rs"]
mod twin;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bed::{Bed, ROWS, add};
use guests::limits;
use ladder::{HeldRows, Rung, echo, one_call};
use lockstep::codec::Command;
use lockstep::guest::{ApplyInstance, CALLER_STACK_BYTES, Component, Engine, Rows};
use lockstep::machine::Instances;
use twin::Twins;

/// Number of measurements of each thing.
const TURNS: usize = 15;
/// Shortest time of one measurement.
const LENGTH: Duration = Duration::from_millis(100);
/// Numbers of commands in an entry.
const SIZES: [usize; 4] = [1, 16, 64, 1024];
/// Commands of one measurement of the key-value guest. They write [`ROWS`] rows in turn.
const COMMANDS: usize = 16 * 1024;

fn main() -> Result<()> {
    // Rust's own harness passes arguments like --bench; they are ignored.
    let worker = std::thread::Builder::new().stack_size(CALLER_STACK_BYTES).spawn(measure)?;
    worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn measure() -> Result<()> {
    let limits = limits();
    let (counting, not_counting) = (Engine::new(&limits)?, Engine::unmetered(&limits)?);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("lockstep {}, {cores} cores, one thread, medians of {TURNS} turns\n", env!("CARGO_PKG_VERSION"));
    println!("{:<54}{:>12}{:>12}{:>8}", "", "with fuel", "without", "ratio");
    let ladder = guests::ladder_wasm()?;
    ladder_rows(&load(&counting, &ladder)?, &load(&not_counting, &ladder)?)?;
    let kv = guests::kv_wasm()?;
    let (metered, unmetered) = (load(&counting, &kv)?, load(&not_counting, &kv)?);
    fuel_of_adds(&metered, &unmetered)?;
    twins(&metered)
}

fn load(engine: &Engine, wasm: &[u8]) -> Result<Component> {
    Ok(Component::load(engine, &Component::encode(wasm)?)?)
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
    let echo = echo();
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
    let (all, call_alone) = (call(&rung.request(times))?, call(&[])?);
    Ok((all - call_alone) / f64::from(times))
}

/// Measures what counting fuel costs the key-value guest, in entries of 64 commands.
fn fuel_of_adds(with: &Component, without: &Component) -> Result<()> {
    let commands = adds();
    let (mut one, mut other) = (Bed::new(with)?, Bed::new(without)?);
    let figures = in_turns(
        || run(&mut one, with, &commands, 64).map(|took| took * 1e3),
        || run(&mut other, without, &commands, 64).map(|took| took * 1e3),
    )?;
    row("Example/Add of kv.wasm, 64 an entry, state on disk", figures);
    ensure!(
        one.replica.standing()? == other.replica.standing()?,
        "with and without fuel the guest came to other states"
    );
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
            in_turns(|| run(&mut wasm, component, &commands, size), || run(&mut native, &twins, &commands, size))?;
        println!("{size:<20}{with:>10.2}{without:>10.2}{:>8.2}", with / without);
        ensure!(wasm.replica.standing()? == native.replica.standing()?, "the guest and its twin came to other states");
    }
    println!("The rolling hash and the rows of both were equal after every row of this table.");
    Ok(())
}

fn adds() -> Vec<Command> {
    (0..COMMANDS).map(add).collect()
}

/// Applies the commands in entries of `size`. Returns the microseconds of one command.
fn run(bed: &mut Bed, instances: &dyn Instances, commands: &[Command], size: usize) -> Result<f64> {
    let entries: Vec<Vec<Command>> = commands.chunks(size).map(<[Command]>::to_vec).collect();
    let began = Instant::now();
    for entry in entries {
        bed.apply(instances, entry)?;
    }
    Ok(began.elapsed().as_secs_f64() * 1e6 / commands.len() as f64)
}
