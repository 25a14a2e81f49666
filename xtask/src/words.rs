//! The arguments of `cargo xtask`: what each command takes, and what is wrong with the typed words.
//! This is checked before anything is compiled, so that a typing error costs no build. This file
//! runs nothing.

use anyhow::{Context, Result, bail, ensure};

use crate::fuzz::Fuzz;

/// The list of commands.
pub(crate) const HELP: &str = "\
cargo xtask <command>

  demo      sets up and builds, then shows a three-node cluster: writes, reads, a watch, a killed leader, a restart
  test      sets up and builds, then checks format and lints and runs every test
  build     sets up and builds build/lockstep and the guests
  guests    builds every crate under guests/: build/kv.wasm and so on
  setup     installs what is missing, or names it
  torture   faults under load, every answer checked
  faults    how long clients wait for a write when a leader dies, is stopped, paused or cut off
  abuse     clients that mean harm, beside clients that do not: floods, bombs, silence
  alike     ten million commands on three nodes that live differently, and one hash at the end
  fuzz      bytes that break a parser, looked for by libFuzzer
  advisories  the locked dependencies against the advisories of RustSec
  bench     first throughput figures of a fresh three-node cluster on this machine
  costs     what a call into a guest costs, with and without fuel, and beside native code

cargo xtask <command> --help tells what a command takes.
";

const DEMO: &str = "\
cargo xtask demo

Sets up and builds, then starts three node processes, forms a cluster, writes, reads, watches, kills the leader, restarts
it, and stops everything. Leaves no process and no file behind. Takes no arguments.
";

const TEST: &str = "\
cargo xtask test [argument of cargo test ...]

Sets up and builds, checks format and lints, and runs every test, those of the guests a second time against their components. With
arguments it runs only what they choose, and leaves out format, lints and the second time:

  cargo xtask test --test scenarios first_hour
  cargo xtask test --package lockstep --lib config::
";

const BUILD: &str = "\
cargo xtask build

Sets up what is missing, and builds build/lockstep and the guests. Takes no arguments.
";

const GUESTS: &str = "\
cargo xtask guests

Builds every crate under guests/ for wasm32-unknown-unknown and puts it where `lockstep` looks: guests/kv becomes
build/kv.wasm. Takes no arguments.
";

const SETUP: &str = "\
cargo xtask setup

Installs what is missing (a C++ compiler, libclang, the wasm32-unknown-unknown target, rustfmt, clippy) where it may, and
otherwise names the command. Takes no arguments.
";

const TORTURE: &str = "\
cargo xtask torture [--seconds N] [--cycles N] [--seed S] [--nodes 3|5] [--faults LIST] [--plant TASK]

  --seconds N    begin no cycle after N seconds; 60 unless --cycles is given
  --cycles N     end after N cycles of load, fault, heal and verdict
  --seed S       draw faults and load from S; drawn from the clock and printed otherwise
  --nodes N      nodes of every cluster; three otherwise, and five in every fourth
  --plant TASK   a failpoint that every node has all the time, to see it found: read-skip-index=return(error)
  --faults LIST  only these, with commas: ";

const FAULTS: &str = "\
cargo xtask faults [rounds] [--seed N] [case ...]

Twenty rounds of every case, without anything said: nearly half an hour. The table goes to stdout, in Markdown.
Cases: ";

const ABUSE: &str = "\
cargo xtask abuse [--case NAME]... [--seconds N] [--program PATH] [--json FILE] [--list]

Attacks one of three real nodes in each case, and judges what honest clients of the others notice: 25 seconds a case, and twelve
minutes for all. docs/abuse.md describes the cases.

  --case NAME     run this case; all unless given
  --seconds N     attack for N seconds, 1 to 600; 10 unless given
  --program PATH  the node to judge; build/lockstep unless given
  --json FILE     write the figures to FILE, too
  --list          print the cases, and run nothing
";

const ALIKE: &str = "\
cargo xtask alike [--commands N] [--seed S]

Three nodes with other memory, caches, files, restarts and leaders run the same commands; their hashes and the bytes of their
backups must be equal. Ten million commands, unless N says otherwise; at least 10000. They go on until all kills and stops are done.
";

const FUZZ: &str = "\
cargo xtask fuzz [target ...] [--seconds N] [--keep]

Looks for bytes that break a parser: one target after the other, all of fuzz/fuzz_targets/ when none is named. Needs a nightly
compiler and cargo-fuzz, and installs both where they are missing. Takes RocksDB from the ordinary build.

  --seconds N    for each target; 600 otherwise
  --keep         add the fewest finds to fuzz/corpus/ that reach all code which was reached
";

const ADVISORIES: &str = "\
cargo xtask advisories [--db DIR]

Compares Cargo.lock with the advisories of RustSec, and fails when one of them hits a locked crate. They are in DIR, or where
LOCKSTEP_ADVISORY_DB says, or in ~/.cargo/advisory-db; otherwise git fetches them once a day. Where there are none, it says
\"not checked\" and passes. Exceptions are in .ci/advisories-ignored.toml.
";

const COSTS: &str = "\
cargo xtask costs

Sets up and builds, and measures on one thread what a call into a guest costs, what counting fuel adds, and the key-value guest
beside its native twin. A minute or two on a quiet machine. Takes no arguments.
";

const BENCH: &str = "\
cargo xtask bench [seconds]

Sets up and builds, forms three nodes, and drives them for 5 seconds a run, or as many as are given (1 to 600).
";

/// The faults of the torture. `tests/src/torture/plan.rs` makes them, and a test there compares the
/// names.
const TORTURE_FAULTS: [&str; 15] = [
    "kill-leader",
    "kill-follower",
    "kill-all",
    "cut-power",
    "kill-two",
    "stop-leader",
    "pause-leader",
    "pause-follower",
    "fall-behind",
    "grow-and-shrink",
    "cut-off-leader",
    "cut-off-follower",
    "cut-one-way",
    "crash",
    "sync-error",
];

/// The cases of `faults`. `tests/src/faults/cases.rs` makes them, and a test there compares the
/// names.
const FAULTS_CASES: [&str; 8] = ["kill", "stop", "pause", "kill-all", "rolling", "cut-off", "one-way", "refused"];

/// The cases of `abuse`. `tests/src/abuse/cases/mod.rs` has them, and a test compares the names.
const ABUSE_CASES: [&str; 24] = [
    "silent",
    "half-open",
    "connect-storm",
    "handshake-storm",
    "foreign",
    "pings",
    "settings",
    "rapid-reset",
    "continuation",
    "header-bombs",
    "slow-bodies",
    "oversized",
    "inflating",
    "padded-watches",
    "sleeping-watchers",
    "untaken-replies",
    "identify",
    "reflection",
    "sleeping-backups",
    "failing-commands",
    "query-flood",
    "big-replies",
    "bad-tokens",
    "planted",
];

/// Flags that are passed on to `cargo test`.
const TEST_FLAGS: [&str; 10] =
    ["--test", "--package", "-p", "--lib", "--bin", "--bins", "--doc", "--no-run", "--no-fail-fast", "--exclude"];

/// Fewest commands of `alike`, the same as in `tests/src/bin/alike.rs`.
const ALIKE_COMMANDS_MIN: u64 = 10_000;
/// Longest attack of `abuse`, the same as in `tests/src/bin/abuse.rs`.
const ABUSE_SECONDS_MAX: u64 = 600;
const FUZZ_SECONDS: u64 = 600;
const BENCH_SECONDS: u64 = 5;
const BENCH_SECONDS_MAX: u64 = 600;

/// The task that was asked for, checked as far as its words show.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Task<'a> {
    /// Print this text, and nothing else.
    Help(String),
    Demo,
    /// Run the tests, with these arguments of `cargo test`.
    Test(&'a [&'a str]),
    Build,
    Guests,
    Setup,
    /// Run the torture, with the words that its program takes.
    Torture(&'a [&'a str]),
    /// Run the faults, with the words that its program takes.
    Faults(&'a [&'a str]),
    /// Run the abuse, with the words that its program takes.
    Abuse(&'a [&'a str]),
    /// Run `alike`, with the words that its program takes.
    Alike(&'a [&'a str]),
    /// Run the benchmark, with this many seconds a run.
    Bench(u64),
    Costs,
    /// Look for bytes that break a parser.
    Fuzz(Fuzz<'a>),
    /// Check the locked dependencies, with the advisories of this directory.
    Advisories(Option<&'a str>),
}

/// What is wrong with the typed words, and which words are possible.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) problem: String,
    pub(crate) usage: String,
}

/// Reads the words of a command line.
pub(crate) fn parse<'a>(words: &'a [&'a str]) -> Result<Task<'a>, Refusal> {
    let [command, rest @ ..] = words else { return Ok(Task::Help(HELP.into())) };
    if let "help" | "--help" | "-h" = *command {
        return rest.first().map_or(Ok(HELP.into()), |command| help(command)).map(Task::Help);
    }
    let help = help(command)?;
    // Words after `--` belong to the tests' own programs.
    if rest.iter().take_while(|word| **word != "--").any(|word| matches!(*word, "--help" | "-h")) {
        return Ok(Task::Help(help));
    }
    let task = match *command {
        "demo" => nothing_behind(rest).map(|()| Task::Demo),
        "test" => check_test(rest).map(|()| Task::Test(rest)),
        "build" => nothing_behind(rest).map(|()| Task::Build),
        "guests" => nothing_behind(rest).map(|()| Task::Guests),
        "setup" => nothing_behind(rest).map(|()| Task::Setup),
        "torture" => check_torture(rest).map(|()| Task::Torture(rest)),
        "faults" => check_faults(rest).map(|()| Task::Faults(rest)),
        "abuse" => check_abuse(rest).map(|()| Task::Abuse(rest)),
        "alike" => check_alike(rest).map(|()| Task::Alike(rest)),
        "bench" => bench_seconds(rest).map(Task::Bench),
        "costs" => nothing_behind(rest).map(|()| Task::Costs),
        "fuzz" => read_fuzz(rest).map(Task::Fuzz),
        "advisories" => read_advisories(rest).map(Task::Advisories),
        unknown => unreachable!("{unknown} has help and no task"),
    };
    task.map_err(|error| Refusal { problem: error.to_string(), usage: help })
}

fn help(command: &str) -> Result<String, Refusal> {
    Ok(match command {
        "demo" => DEMO.into(),
        "test" => TEST.into(),
        "build" => BUILD.into(),
        "guests" => GUESTS.into(),
        "setup" => SETUP.into(),
        "torture" => format!("{TORTURE}{}\n", TORTURE_FAULTS.join(",")),
        "faults" => format!("{FAULTS}{}\n", FAULTS_CASES.join(" ")),
        "abuse" => ABUSE.into(),
        "alike" => ALIKE.into(),
        "bench" => BENCH.into(),
        "costs" => COSTS.into(),
        "fuzz" => FUZZ.into(),
        "advisories" => ADVISORIES.into(),
        unknown => {
            return Err(Refusal { problem: format!("there is no command '{unknown}'"), usage: HELP.into() });
        }
    })
}

fn nothing_behind(words: &[&str]) -> Result<()> {
    match words {
        [] => Ok(()),
        [first, ..] => bail!("'{first}' is unknown here: this command takes no arguments"),
    }
}

fn check_test(words: &[&str]) -> Result<()> {
    let own = words.iter().take_while(|word| **word != "--");
    for flag in own.filter(|word| word.starts_with('-')) {
        let name = flag.split('=').next().unwrap_or(flag);
        ensure!(
            TEST_FLAGS.contains(&name),
            "'{flag}' is no flag that is passed on to cargo test; there are {}",
            TEST_FLAGS.join(", ")
        );
    }
    Ok(())
}

fn check_torture(words: &[&str]) -> Result<()> {
    let mut words = words.iter();
    while let Some(flag) = words.next() {
        let mut value = || words.next().with_context(|| format!("{flag} needs a value"));
        match *flag {
            "--seconds" | "--cycles" | "--seed" => number(flag, value()?).map(drop)?,
            "--nodes" => ensure!(matches!(*value()?, "3" | "5"), "--nodes is 3 or 5"),
            "--plant" => drop(value()?),
            "--faults" => {
                for name in value()?.split(',') {
                    known("--faults: no fault", name, &TORTURE_FAULTS)?;
                }
            }
            _ => bail!("there is no flag '{flag}'"),
        }
    }
    Ok(())
}

fn check_faults(words: &[&str]) -> Result<()> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if *word == "--seed" {
            number("--seed", words.next().context("--seed needs a value")?)?;
        } else if !word.starts_with(|first: char| first.is_ascii_digit()) {
            known("no case", word, &FAULTS_CASES)?;
        } else {
            ensure!((1..=1000).contains(&number("rounds", word)?), "rounds must be 1 to 1000");
        }
    }
    Ok(())
}

fn check_abuse(words: &[&str]) -> Result<()> {
    let mut words = words.iter();
    while let Some(flag) = words.next() {
        let mut value = || words.next().with_context(|| format!("{flag} needs a value"));
        match *flag {
            "--case" => known("--case: no case", value()?, &ABUSE_CASES)?,
            "--seconds" => {
                let seconds = number(flag, value()?)?;
                ensure!((1..=ABUSE_SECONDS_MAX).contains(&seconds), "--seconds must be 1 to {ABUSE_SECONDS_MAX}");
            }
            "--program" | "--json" => drop(value()?),
            "--list" => {}
            _ => bail!("there is no flag '{flag}'"),
        }
    }
    Ok(())
}

fn check_alike(words: &[&str]) -> Result<()> {
    let mut words = words.iter();
    while let Some(flag) = words.next() {
        let value = words.next().with_context(|| format!("{flag} needs a value"));
        match *flag {
            "--commands" => {
                ensure!(number(flag, value?)? >= ALIKE_COMMANDS_MIN, "--commands is at least {ALIKE_COMMANDS_MIN}")
            }
            "--seed" => number(flag, value?).map(drop)?,
            _ => bail!("there is no flag '{flag}'"),
        }
    }
    Ok(())
}

fn read_fuzz<'a>(words: &'a [&'a str]) -> Result<Fuzz<'a>> {
    let mut fuzz = Fuzz { seconds: FUZZ_SECONDS, ..Fuzz::default() };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--seconds" => fuzz.seconds = number(word, words.next().context("--seconds needs a value")?)?,
            "--keep" => fuzz.keep = true,
            flag if flag.starts_with('-') => bail!("there is no flag '{flag}'"),
            target => fuzz.targets.push(target),
        }
    }
    // For libFuzzer, 0 seconds are for ever.
    ensure!(fuzz.seconds > 0, "--seconds is at least 1");
    Ok(fuzz)
}

fn read_advisories<'a>(words: &'a [&'a str]) -> Result<Option<&'a str>> {
    match words {
        [] => Ok(None),
        ["--db", directory] => Ok(Some(directory)),
        ["--db"] => bail!("--db needs a directory"),
        [first, ..] => bail!("'{first}' is unknown here; there is --db DIR"),
    }
}

fn bench_seconds(words: &[&str]) -> Result<u64> {
    let seconds = match words {
        [] => BENCH_SECONDS,
        [seconds] => number("seconds", seconds)?,
        [_, more, ..] => bail!("'{more}' is one argument too many"),
    };
    ensure!((1..=BENCH_SECONDS_MAX).contains(&seconds), "seconds must be 1 to {BENCH_SECONDS_MAX}");
    Ok(seconds)
}

fn number(what: &str, text: &str) -> Result<u64> {
    text.parse().ok().with_context(|| format!("{what}: '{text}' is not a number"))
}

fn known(what: &str, name: &str, names: &[&str]) -> Result<()> {
    ensure!(names.contains(&name), "{what} '{name}'; there are {}", names.join(", "));
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "words_tests.rs"]
mod tests;
