//! The arguments of `cargo xtask`: what each command takes, and what is wrong with the typed words.
//! This is checked before anything is compiled, so that a typing error costs no build. This file
//! runs nothing.

mod usage;

use anyhow::{Context, Result, bail, ensure};

use crate::bench::{Bench, Large, OPERATIONS};
use crate::corpus::Corpus;
use crate::fuzz::Fuzz;
use crate::instructions::Instructions;
use crate::setup::AARCH64;
use usage::{
    ABUSE, ADVISORIES, ALIKE, BENCH, BENCH_LARGE, BUILD, CHANGES, CORPUS, COSTS, DEMO, FAULTS, FUZZ, GUESTS, HELP,
    INSTRUCTIONS, ROLLING, SETUP, TEST, TORTURE,
};

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

/// Most MiB of rows of the guest `locks` in `changes`: one migration writes at most 256 MiB.
const MIGRATED_MIB_MAX: u64 = 200;

/// The guests of `changes`. `tests/src/changes/guest.rs` has them, and a test compares the names.
const CHANGES_GUESTS: [&str; 3] = ["kv", "locks", "orders"];

/// The cases of `faults`. `tests/src/faults/cases.rs` makes them, and a test there compares the
/// names.
const FAULTS_CASES: [&str; 8] = ["kill", "stop", "pause", "kill-all", "rolling", "cut-off", "one-way", "refused"];

/// The cases of `abuse`. `tests/src/abuse/cases/mod.rs` has them, and a test compares the names.
const ABUSE_CASES: [&str; 40] = [
    "silent",
    "half-open",
    "connect-storm",
    "handshake-storm",
    "handshake-flood",
    "foreign",
    "pings",
    "settings",
    "rapid-reset",
    "continuation",
    "header-bombs",
    "pings-peers",
    "pings-http",
    "settings-peers",
    "settings-http",
    "rapid-reset-peers",
    "rapid-reset-http",
    "continuation-peers",
    "continuation-http",
    "header-bombs-peers",
    "header-bombs-http",
    "slow-bodies",
    "dripped-requests",
    "oversized",
    "inflating",
    "padded-watches",
    "sleeping-watchers",
    "busy-watches",
    "untaken-replies",
    "held-windows",
    "identify",
    "half-peers",
    "reflection",
    "sleeping-backups",
    "busy-backups",
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
/// Most targets of `fuzz` that run at a time.
const FUZZ_JOBS_MAX: u64 = 64;
const BENCH_SECONDS_MAX: u64 = 600;
const BENCH_ROUNDS_MAX: u64 = 100;
const BENCH_CLIENTS_MAX: u64 = 1000;
/// GiB of the large state, at least and at most.
const LARGE_GIB: std::ops::RangeInclusive<f64> = 0.001..=64.0;
/// Most keys of `lockstep bench`.
const LARGE_KEYS_MAX: u64 = 100_000_000;
const LARGE_ENTRIES_MAX: u64 = 1_000_000;
/// Each round needs a node of its own.
const LARGE_ROUNDS_MAX: u64 = 10;

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
    /// Run the changes, with the words that their program takes.
    Changes(&'a [&'a str]),
    /// Run the faults, with the words that its program takes.
    Faults(&'a [&'a str]),
    /// Run the abuse, with the words that its program takes.
    Abuse(&'a [&'a str]),
    /// Run `alike`, with the words that its program takes.
    Alike(&'a [&'a str]),
    /// Replace the binary of this commit, or of the last one that touched the host.
    Rolling(Option<&'a str>),
    /// Measure Lockstep beside etcd.
    Bench(Bench<'a>),
    /// Measure Lockstep with a large state.
    BenchLarge(Large<'a>),
    Costs,
    /// Count the instructions of hot pieces.
    Instructions(Instructions<'a>),
    /// Look for bytes that break a parser.
    Fuzz(Fuzz<'a>),
    /// Run the golden corpus on another build.
    Corpus(Corpus<'a>),
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
        "changes" => check_changes(rest).map(|()| Task::Changes(rest)),
        "faults" => check_faults(rest).map(|()| Task::Faults(rest)),
        "abuse" => check_abuse(rest).map(|()| Task::Abuse(rest)),
        "alike" => check_alike(rest).map(|()| Task::Alike(rest)),
        "rolling" => read_rolling(rest).map(Task::Rolling),
        "bench" => read_bench(rest).map(Task::Bench),
        "bench-large" => read_bench_large(rest).map(Task::BenchLarge),
        "costs" => nothing_behind(rest).map(|()| Task::Costs),
        "instructions" => read_instructions(rest).map(Task::Instructions),
        "fuzz" => read_fuzz(rest).map(Task::Fuzz),
        "corpus" => read_corpus(rest).map(Task::Corpus),
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
        "changes" => CHANGES.into(),
        "faults" => format!("{FAULTS}{}\n", FAULTS_CASES.join(" ")),
        "abuse" => ABUSE.into(),
        "alike" => ALIKE.into(),
        "rolling" => ROLLING.into(),
        "bench" => BENCH.into(),
        "bench-large" => BENCH_LARGE.into(),
        "costs" => COSTS.into(),
        "instructions" => INSTRUCTIONS.into(),
        "fuzz" => FUZZ.into(),
        "corpus" => CORPUS.into(),
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
            "--seconds" | "--cycles" | "--seed" | "--verify_entries" => number(flag, value()?).map(drop)?,
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

fn check_changes(words: &[&str]) -> Result<()> {
    let (mut state_mib, mut has_locks) = (0, false);
    let mut words = words.iter();
    while let Some(flag) = words.next() {
        let value = words.next().with_context(|| format!("{flag} needs a value"));
        match *flag {
            "--seconds" | "--legs" | "--seed" | "--verify_entries" => number(flag, value?).map(drop)?,
            "--clients" => ensure!((3..=300).contains(&number(flag, value?)?), "--clients must be 3 to 300"),
            "--state_mib" => {
                state_mib = number(flag, value?)?;
                ensure!((1..=4096).contains(&state_mib), "--state_mib must be 1 to 4096");
            }
            "--guests" => {
                for name in value?.split(',') {
                    known("--guests: no guest", name, &CHANGES_GUESTS)?;
                    has_locks |= name == "locks";
                }
            }
            _ => bail!("there is no flag '{flag}'"),
        }
    }
    ensure!(
        !has_locks || state_mib <= MIGRATED_MIB_MAX,
        "--state_mib: locks migrates all rows at once, so at most {MIGRATED_MIB_MAX} for it"
    );
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
    let mut fuzz = Fuzz { seconds: FUZZ_SECONDS, jobs: 1, ..Fuzz::default() };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--seconds" => fuzz.seconds = number(word, words.next().context("--seconds needs a value")?)?,
            "--jobs" => fuzz.jobs = number_up_to(FUZZ_JOBS_MAX, word, words.next().context("--jobs needs a value")?)?,
            "--keep" => fuzz.keep = true,
            flag if flag.starts_with('-') => bail!("there is no flag '{flag}'"),
            target => fuzz.targets.push(target),
        }
    }
    // For libFuzzer, 0 seconds are for ever.
    ensure!(fuzz.seconds > 0, "--seconds is at least 1");
    Ok(fuzz)
}

/// Which pieces there are, only the benchmark knows.
fn read_instructions<'a>(words: &'a [&'a str]) -> Result<Instructions<'a>> {
    let mut instructions = Instructions::default();
    for word in words {
        match *word {
            "--record" => instructions.record = true,
            flag if flag.starts_with('-') => bail!("there is no flag '{flag}'"),
            piece => instructions.pieces.push(piece),
        }
    }
    Ok(instructions)
}

fn read_rolling<'a>(words: &'a [&'a str]) -> Result<Option<&'a str>> {
    match words {
        [] => Ok(None),
        // git would take it for a flag.
        ["--from", commit] if !commit.starts_with('-') && !commit.is_empty() => Ok(Some(commit)),
        ["--from", ..] => bail!("--from needs a commit, and takes one"),
        [first, ..] => bail!("'{first}' is unknown here; there is --from COMMIT"),
    }
}

fn read_corpus<'a>(words: &'a [&'a str]) -> Result<Corpus<'a>> {
    let mut corpus = Corpus::default();
    let mut words = words.iter();
    while let Some(flag) = words.next() {
        let mut value = || words.next().copied().with_context(|| format!("{flag} needs a value"));
        match *flag {
            "--wasmtime" => {
                let version = value()?;
                ensure!(
                    semver::Version::parse(version).is_ok(),
                    "--wasmtime: '{version}' is no version such as 48.0.8"
                );
                corpus.wasmtime = Some(version);
            }
            "--toolchain" => corpus.toolchain = Some(value()?),
            "--profile" => {
                let profile = value()?;
                known("--profile: no profile", profile, &["dev", "release"])?;
                corpus.is_dev = profile == "dev";
            }
            "--target" => {
                known("--target: no target", value()?, &[AARCH64])?;
                corpus.is_aarch64 = true;
            }
            _ => bail!("there is no flag '{flag}'"),
        }
    }
    Ok(corpus)
}

fn read_advisories<'a>(words: &'a [&'a str]) -> Result<Option<&'a str>> {
    match words {
        [] => Ok(None),
        ["--db", directory] => Ok(Some(directory)),
        ["--db"] => bail!("--db needs a directory"),
        [first, ..] => bail!("'{first}' is unknown here; there is --db DIR"),
    }
}

fn read_bench<'a>(words: &'a [&'a str]) -> Result<Bench<'a>> {
    let mut bench = Bench::default();
    let mut words = words.iter();
    while let Some(flag) = words.next() {
        let mut value = || words.next().copied().with_context(|| format!("{flag} needs a value"));
        match *flag {
            "--seconds" => bench.seconds = number_up_to(BENCH_SECONDS_MAX, flag, value()?)?,
            "--rounds" => bench.rounds = number_up_to(BENCH_ROUNDS_MAX, flag, value()?)?,
            "--clients" => {
                let clients = value()?.split(',').map(|clients| number_up_to(BENCH_CLIENTS_MAX, flag, clients));
                bench.clients = distinct(flag, clients.collect::<Result<_>>()?)?;
            }
            "--only" => {
                let operations: Vec<&str> = value()?.split(',').collect();
                for operation in &operations {
                    known("--only: no operation", operation, &OPERATIONS)?;
                }
                bench.operations = distinct(flag, operations)?;
            }
            "--etcd" => bench.etcd = Some(value()?),
            "--out" => bench.out = Some(value()?),
            _ => bail!("there is no flag '{flag}'"),
        }
    }
    Ok(bench)
}

fn read_bench_large<'a>(words: &'a [&'a str]) -> Result<Large<'a>> {
    let mut large = Large::default();
    let mut words = words.iter();
    while let Some(flag) = words.next() {
        let value = words.next().copied().with_context(|| format!("{flag} needs a value"));
        match *flag {
            "--gib" => large.state_bytes = gibibytes(flag, value?)?,
            "--keys" => large.keys = number_up_to(LARGE_KEYS_MAX, flag, value?)?,
            "--entries" => large.entries = number_up_to(LARGE_ENTRIES_MAX, flag, value?)?,
            "--seconds" => large.seconds = number_up_to(BENCH_SECONDS_MAX, flag, value?)?,
            "--rounds" => large.rounds = number_up_to(LARGE_ROUNDS_MAX, flag, value?)?,
            "--out" => large.out = Some(value?),
            _ => bail!("there is no flag '{flag}'"),
        }
    }
    Ok(large)
}

/// Returns the bytes of a number of GiB, such as 1 or 0.01.
fn gibibytes(flag: &str, text: &str) -> Result<u64> {
    let gib: f64 = text.parse().ok().with_context(|| format!("{flag}: '{text}' is not a number"))?;
    ensure!(LARGE_GIB.contains(&gib), "{flag} must be {} to {}", LARGE_GIB.start(), LARGE_GIB.end());
    Ok((gib * (1_u64 << 30) as f64) as u64)
}

/// Refuses a list that names something twice.
fn distinct<T: Copy + PartialEq + std::fmt::Display>(flag: &str, list: Vec<T>) -> Result<Vec<T>> {
    for (position, element) in list.iter().enumerate() {
        ensure!(!list[..position].contains(element), "{flag}: {element} is there twice");
    }
    Ok(list)
}

fn number_up_to(max: u64, flag: &str, text: &str) -> Result<u64> {
    let value = number(flag, text)?;
    ensure!((1..=max).contains(&value), "{flag} must be 1 to {max}");
    Ok(value)
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
