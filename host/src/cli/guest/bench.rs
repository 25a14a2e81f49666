//! `lockstep guest bench`: measures what a guest's commands cost on this machine, in time and in
//! fuel. It measures apply alone, as a node's apply thread does it: instance, guest, overlay,
//! commit to the state. It includes no consensus, no log and no network; `lockstep bench` measures
//! a cluster.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tonic::Code;

use super::blanks::FIRST_PASS;
use super::script::{self, ScriptCall};
use super::{admit_file, on_guest_stack};
use crate::api::status::reason_name;
use crate::cli::progress::Line;
use crate::cli::report::{Failure, code_name, print_line};
use crate::codec::Command;
use crate::guest::{ApplyInstance, Component, Verdict};
use crate::machine::{Replica, Reuse};
use crate::types::hex;
use lockstep_contract::Kind;

/// Numbers of commands in an entry. Each gets its own row.
const SIZES: [usize; 4] = [1, 16, 64, 1024];
/// Instances that are made to measure the cost of one.
const INSTANCES: u32 = 500;
const START_MS: u64 = 1_704_067_200_000;
/// Time between two updates of the progress line.
const PROGRESS_PAUSE: Duration = Duration::from_millis(100);
/// Most lines of the script that a warning names one by one.
const LINES_NAMED_MAX: usize = 8;

const AFTER_HELP: &str = "\
The commands of the script are taken in turn, over and over, on one thread; queries,
expectations and \"after\" are left out. Each row begins with an empty state, which is flushed as
often as a node flushes it. What a cluster does with them is measured by `lockstep bench`.

A command that is the same in each pass through the script may cost less from the second one on,
because its rows are there: it is named at the end. {{ n }} in it, the number of the pass, makes it a
new one each time, as in \"key\": \"a-{{ n }}\"; see `lockstep guest test --help`.

Examples:
  lockstep guest bench build/kv.wasm --script calls.jsonl
  lockstep guest bench build/kv.wasm --script calls.jsonl --seconds 5
  lockstep guest bench build/kv.wasm --script calls.jsonl --fuel";

/// Measure what commands cost.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct BenchArgs {
    /// A component, or a module with an embedded component type
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Calls as JSON lines; see `lockstep guest test --help`
    #[arg(long = "script", value_name = "FILE")]
    script: PathBuf,

    /// Length of each run
    #[arg(long = "seconds", value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,

    /// Measure no time: print the fuel of each command, by its line, and of each method
    #[arg(long = "fuel", conflicts_with = "seconds")]
    fuel: bool,
}

/// One run with entries of one size.
struct Row {
    commands: u64,
    took: Duration,
    replies: u64,
    /// Outcomes other than replies, and how often each came.
    others: BTreeMap<String, u64>,
}

/// Fuel of the commands of one method.
#[derive(Default)]
struct Fuel {
    calls: u64,
    sum: u64,
    least: u64,
    most: u64,
}

/// The commands of a script, pass after pass.
struct Commands<'a> {
    calls: &'a [&'a ScriptCall],
    taken: u64,
}

/// Shows the progress to people, in a line that is redrawn.
struct ProgressLine {
    line: Line,
    next: Instant,
}

/// Measures one guest.
pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    on_guest_stack(|| {
        let admitted = admit_file(&args.file)?;
        let calls = script::read(&args.script, &admitted.routes)?;
        let calls: Vec<&ScriptCall> = calls.iter().filter(|call| call.kind == Kind::Command).collect();
        if calls.is_empty() {
            return Err(Failure::usage(format!("{} has no commands to measure", args.script.display())).into());
        }
        if args.fuel {
            print_line(format!("component {}\n\nline          fuel  method", hex(&admitted.component.hash())))?;
            return print_fuel(&admitted.component, &calls, true);
        }
        print_conditions(args, &admitted.component, calls.len())?;
        let taken_max = print_times(args, &admitted.component, &calls)?;
        if let Some(warning) = repeats(&calls, taken_max) {
            print_line(format!("\n{warning}"))?;
        }
        print_fuel(&admitted.component, &calls, false)
    })
}

fn print_conditions(args: &BenchArgs, component: &Component, commands: usize) -> anyhow::Result<()> {
    print_line(format!("component {}", hex(&component.hash())))?;
    print_line(format!(
        "{commands} commands of {} in turn, {} s a row, on one thread; the state is in {};",
        args.script.display(),
        args.seconds,
        std::env::temp_dir().display()
    ))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    print_line(format!(
        "apply alone: no log, no fsync, no network. lockstep {}, {cores} cores\n",
        env!("CARGO_PKG_VERSION")
    ))
}

/// Prints the times, and returns how many commands the longest row took.
fn print_times(args: &BenchArgs, component: &Component, calls: &[&ScriptCall]) -> anyhow::Result<u64> {
    let began = Instant::now();
    for _ in 0..INSTANCES {
        drop(ApplyInstance::new(component)?);
    }
    print_line(format!("a fresh instance  {:>9.2} µs\n", micros(began.elapsed()) / f64::from(INSTANCES)))?;
    print_line("commands an entry  µs a command  commands a second  replies")?;
    let mut taken_max = 0;
    for size in SIZES {
        let row = measure(component, calls, size, Duration::from_secs(args.seconds))?;
        print_line(format!(
            "{size:>17}  {:>12.2}  {:>17.0}  {:>6.1}%{}",
            micros(row.took) / row.commands as f64,
            row.commands as f64 / row.took.as_secs_f64(),
            row.percent(row.replies),
            row.show_others(),
        ))?;
        taken_max = taken_max.max(row.commands);
    }
    Ok(taken_max)
}

fn measure(component: &Component, calls: &[&ScriptCall], size: usize, length: Duration) -> anyhow::Result<Row> {
    let place = tempfile::Builder::new().prefix("lockstep-guest-").tempdir()?;
    let mut replica = Replica::open(place.path(), component.clone())?;
    let mut commands = Commands { calls, taken: 0 };
    let mut row = Row { commands: 0, took: Duration::ZERO, replies: 0, others: BTreeMap::new() };
    let mut progress = ProgressLine::new();
    let mut time_ms = START_MS;
    while row.took < length {
        let entry = commands.take(size)?;
        time_ms += 1;
        let began = Instant::now();
        let applied = replica.apply(time_ms, entry, Reuse::Shared)?;
        row.took += began.elapsed();
        row.commands += size as u64;
        applied.verdicts.iter().for_each(|verdict| row.count(verdict));
        progress.show(|| {
            let (took, length) = (row.took.as_secs_f64(), length.as_secs());
            format!("{size} commands an entry: {took:.1} of {length} s, {} commands", row.commands)
        });
    }
    Ok(row)
}

/// Returns a warning if `taken` commands repeated lines of the script unchanged.
fn repeats(calls: &[&ScriptCall], taken: u64) -> Option<String> {
    let passes = taken.div_ceil(calls.len() as u64);
    let same: Vec<String> = calls.iter().filter(|call| !call.varies()).map(|call| call.line.to_string()).collect();
    if passes < 2 || same.is_empty() {
        return None;
    }
    let named = same[..same.len().min(LINES_NAMED_MAX)].join(", ");
    let more = same.len().saturating_sub(LINES_NAMED_MAX);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let lines = if same.len() == 1 { "line" } else { "lines" };
    Some(format!(
        "warning: the script was run through up to {passes} times, and {lines} {named}{more} had the same command each time: what was measured of \
         them is mostly a repeat, which finds what the first one left. {{{{n}}}} or {{{{uuid}}}} makes a command a new one, as in \
         \"key\": \"a-{{{{n}}}}\"; in a line that is meant to be repeated, all is well"
    ))
}

/// Runs one pass and prints the fuel. Each command gets its own instance, so its fuel does not
/// depend on other commands.
fn print_fuel(component: &Component, calls: &[&ScriptCall], each: bool) -> anyhow::Result<()> {
    let place = tempfile::Builder::new().prefix("lockstep-guest-").tempdir()?;
    let mut replica = Replica::open(place.path(), component.clone())?;
    let mut methods: BTreeMap<&str, Fuel> = BTreeMap::new();
    let mut progress = ProgressLine::new();
    for (done, (time_ms, call)) in (START_MS..).zip(calls).enumerate() {
        let applied = replica.apply(time_ms, vec![call.command()], Reuse::Never)?;
        if each {
            print_line(format!(
                "{:>4}  {:>12}  {}{}",
                call.line,
                applied.fuel[0],
                call.method,
                ended(&applied.verdicts[0]).map(|how| format!(", {how}")).unwrap_or_default()
            ))?;
        }
        methods.entry(&call.method).or_default().add(applied.fuel[0]);
        progress.show(|| format!("fuel of {done} of {} commands", calls.len()));
    }
    drop(progress);
    let width = methods.keys().map(|method| method.len()).max().unwrap_or(0).max("fuel".len());
    print_line(format!("\n{:<width$}     calls        mean         least          most", "fuel"))?;
    for (method, fuel) in methods {
        print_line(format!(
            "{method:<width$}  {:>8}  {:>10}  {:>12}  {:>12}",
            fuel.calls,
            fuel.sum / fuel.calls,
            fuel.least,
            fuel.most
        ))?;
    }
    let limits = component.engine().limits();
    print_line(format!("limits: {} a command, {} an entry", limits.fuel_per_command, limits.fuel_per_entry))
}

impl Commands<'_> {
    fn take(&mut self, count: usize) -> anyhow::Result<Vec<Command>> {
        let commands = (0..count).map(|_| {
            let length = self.calls.len() as u64;
            let (pass, at) = (FIRST_PASS + self.taken / length, self.taken % length);
            self.taken += 1;
            self.calls[at as usize].command_in(pass).map_err(|problem| Failure::usage(problem).into())
        });
        commands.collect()
    }
}

impl ProgressLine {
    fn new() -> ProgressLine {
        ProgressLine { line: Line::new(), next: Instant::now() + PROGRESS_PAUSE }
    }

    fn show(&mut self, text: impl FnOnce() -> String) {
        if self.line.is_shown() && Instant::now() >= self.next {
            self.line.draw(&text());
            self.next = Instant::now() + PROGRESS_PAUSE;
        }
    }
}

/// Returns how a command ended that did not reply, such as `refused with NOT_FOUND`.
fn ended(verdict: &Verdict) -> Option<String> {
    match verdict {
        Verdict::Reply(_) => None,
        Verdict::Refused(refusal) => {
            let code = Code::from_i32(i32::try_from(refusal.code).unwrap_or(0));
            Some(format!("refused with {}", code_name(code)))
        }
        Verdict::Failed(failure) => Some(format!("failed ({})", reason_name(failure.reason))),
    }
}

impl Row {
    fn count(&mut self, verdict: &Verdict) {
        match ended(verdict) {
            None => self.replies += 1,
            Some(other) => *self.others.entry(other).or_default() += 1,
        }
    }

    fn percent(&self, count: u64) -> f64 {
        100.0 * count as f64 / self.commands as f64
    }

    /// Returns, for example, `, 37.5% refused with NOT_FOUND`.
    fn show_others(&self) -> String {
        self.others.iter().map(|(other, count)| format!(", {:.1}% {other}", self.percent(*count))).collect()
    }
}

impl Fuel {
    fn add(&mut self, used: u64) {
        self.least = if self.calls == 0 { used } else { self.least.min(used) };
        self.most = self.most.max(used);
        self.sum += used;
        self.calls += 1;
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::{Failure, Reason, Status};

    #[test]
    fn a_row_says_what_came_instead_of_replies() {
        let mut row = Row { commands: 8, took: Duration::ZERO, replies: 0, others: BTreeMap::new() };
        let refused = Verdict::Refused(Status { code: 5, message: String::new(), details: Vec::new() });
        let failed = Verdict::Failed(Failure { reason: Reason::Fuel, detail: String::new() });
        for verdict in [Verdict::Reply(Default::default()), refused.clone(), refused, failed] {
            row.count(&verdict);
        }
        assert_eq!(
            (row.replies, row.show_others().as_str()),
            (1, ", 12.5% failed (fuel), 25.0% refused with NOT_FOUND")
        );
    }
}
