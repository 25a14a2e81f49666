//! `cargo xtask <command>`: the tasks of this project. Each command first sets up what it needs. It
//! uses the network only to install what is missing, and never leaves a process behind.

mod advisories;
mod bench;
mod clients;
mod corpus;
mod demo;
mod demo_cluster;
mod demo_directory;
mod fuzz;
mod guests;
mod instructions;
mod rolling;
mod setup;
mod words;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use guests::guests;
use instructions::Instructions;
use words::{Refusal, Task};

/// Arguments that build one program. They name the whole workspace, although it is one program.
/// Otherwise cargo chooses other features of its dependencies than for the tests, and compiles them
/// and the host once more.
pub(crate) const PROGRAM: [&str; 5] = ["build", "--locked", "--release", "--workspace", "--bin"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // Checked before anything is built, so that a typing error costs no time.
    let task = match words::parse(&words) {
        Ok(task) => task,
        Err(Refusal { problem, usage }) => {
            eprint!("error: {problem}\n\n{usage}");
            return ExitCode::from(2);
        }
    };
    match run_task(&task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_task(task: &Task<'_>) -> Result<()> {
    match task {
        Task::Help(text) => {
            print!("{text}");
            Ok(())
        }
        Task::Demo => build().and_then(|()| demo::demo()),
        Task::Test(filter) => test(filter),
        Task::Build => build(),
        Task::Guests => setup::wasm_target().and_then(|()| guests()),
        Task::Setup => setup::all().and_then(|()| instructions::set_up()),
        Task::Torture(options) => torture(options),
        Task::Changes(options) => changes(options),
        Task::Faults(words) => build().and_then(|()| run("faults", words)),
        Task::Abuse(words) => abuse(words),
        Task::Alike(words) => {
            setup::all().and_then(|()| test_programs()).and_then(|()| build()).and_then(|()| run("alike", words))
        }
        Task::Rolling(from) => rolling::rolling(*from),
        Task::Fuzz(asked) => fuzz::fuzz(asked),
        Task::Corpus(asked) => corpus::corpus(asked),
        Task::Advisories(database) => advisories::check(database.map(Path::new)),
        Task::Costs => build().and_then(|()| cargo(&["bench", "--locked", "--workspace", "--bench", "costs"])),
        Task::Instructions(asked) => instructions::instructions(asked),
        Task::Bench(asked) => bench::bench(asked),
        Task::BenchLarge(asked) => bench::bench_large(asked),
    }
}

/// Returns the directory of the checkout.
pub(crate) fn root() -> PathBuf {
    // Uses what cargo tells the program that it runs: two checkouts that share a target directory
    // share this program, too.
    let own = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    own.parent().expect("xtask/ lies in the checkout").to_path_buf()
}

/// Returns the directory for finished files, such as `build/lockstep` and `build/kv.wasm`.
pub(crate) fn build_dir() -> PathBuf {
    root().join("build")
}

/// Returns the directory in which cargo builds. It is outside the checkout, so that all clones on a
/// machine share one build of RocksDB.
pub(crate) fn target_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("CARGO_TARGET_DIR") {
        return Ok(std::path::absolute(dir)?);
    }
    let cache = match std::env::var_os("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").context("neither CARGO_TARGET_DIR nor HOME is set: set one")?)
            .join(".cache"),
    };
    Ok(cache.join("lockstep/target"))
}

/// Runs cargo in the checkout, with the shared target directory.
pub(crate) fn cargo(arguments: &[&str]) -> Result<()> {
    cargo_with(&[], arguments)
}

pub(crate) fn cargo_with(variables: &[(&str, &Path)], arguments: &[&str]) -> Result<()> {
    cargo_in(&root(), variables, arguments)
}

/// Runs cargo in a checkout, with the shared target directory.
pub(crate) fn cargo_in(checkout: &Path, variables: &[(&str, &Path)], arguments: &[&str]) -> Result<()> {
    let set: String = variables.iter().map(|(name, path)| format!("{name}={} ", path.display())).collect();
    println!("$ {set}cargo {}", arguments.join(" "));
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(arguments)
        .envs(variables.iter().copied())
        .current_dir(checkout)
        .env("CARGO_TARGET_DIR", target_dir()?)
        .env("LOCKSTEP_BUILD_DIR", build_dir())
        // A failed test says what was wrong, and forty stack frames below that would hide it. A
        // panic still shows its frames.
        .env("RUST_LIB_BACKTRACE", "0")
        .status()
        .context("cargo does not start")?;
    if !status.success() {
        bail!("cargo {} failed", arguments.first().unwrap_or(&""));
    }
    Ok(())
}

pub(crate) fn build() -> Result<()> {
    setup::all()?;
    guests()?;
    let binary = target_dir()?.join("release/lockstep");
    if !binary.exists() {
        println!("The first build compiles RocksDB and wasmtime: 20 to 60 minutes on two cores, once per machine.");
    }
    program("lockstep", &[])?;
    place("release/lockstep", "lockstep")?;
    program("kv-client", &[])?;
    place("release/kv-client", "kv-client")
}

/// Copies a finished file out of cargo's directory. It uses a rename, so that a running node keeps
/// the file that it has open.
pub(crate) fn place(from: &str, name: &str) -> Result<()> {
    let from = target_dir()?.join(from);
    let to = build_dir().join(name);
    std::fs::create_dir_all(build_dir())?;
    let temporary = build_dir().join(format!(".{name}.{}", std::process::id()));
    std::fs::copy(&from, &temporary).with_context(|| format!("copying {}", from.display()))?;
    std::fs::rename(&temporary, &to)?;
    println!("{} is ready", to.strip_prefix(root()).unwrap_or(&to).display());
    Ok(())
}

fn program(name: &str, options: &[&str]) -> Result<()> {
    cargo(&[&PROGRAM[..], &[name], options].concat())
}

/// Builds one of the tests' programs, and runs it.
fn run(name: &str, words: &[&str]) -> Result<()> {
    program(name, &[])?;
    let status = Command::new(target_dir()?.join("release").join(name))
        .args(words)
        .current_dir(root())
        .env("LOCKSTEP_BUILD_DIR", build_dir())
        .status()
        .with_context(|| format!("{name} does not start"))?;
    if !status.success() {
        bail!("{name} failed");
    }
    Ok(())
}

/// The tests' guests. The answers of `chain` tell its history; those with numbers replace each
/// other in a running cluster; `statics` does what no guest may.
const TEST_GUESTS: [&str; 14] = [
    "chain",
    "kv-1",
    "kv-2",
    "kv-3",
    "kv-planted",
    "locks-1",
    "locks-2",
    "locks-3",
    "medley",
    "names",
    "orders-1",
    "orders-2",
    "orders-3",
    "statics",
];

/// Builds what only tests run: the tests' guests, and the node with its failpoints. The failpoints
/// can crash the node between two steps.
pub(crate) fn test_programs() -> Result<()> {
    guests::build(&TEST_GUESTS.map(String::from))?;
    program("lockstep", &["--features", "lockstep/failpoints"])?;
    place("release/lockstep", "lockstep-failpoints")
}

fn torture(options: &[&str]) -> Result<()> {
    setup::all()?;
    test_programs()?;
    run("torture", options)
}

/// Builds the node and its twin with failpoints: the one is what an operator types, the other runs.
fn changes(options: &[&str]) -> Result<()> {
    setup::all()?;
    test_programs()?;
    build()?;
    run("changes", options)
}

/// Builds only what the words need: nothing for a list, and no node beside one that is given.
fn abuse(words: &[&str]) -> Result<()> {
    if words.contains(&"--program") {
        setup::all().and_then(|()| guests())?;
    } else if !words.contains(&"--list") {
        build()?;
    }
    run("abuse", words)
}

fn test(filter: &[&str]) -> Result<()> {
    setup::all()?;
    if filter.is_empty() {
        instructions::set_up()?;
    }
    let left_out = if clients::are_needed(filter)? { clients::set_up()? } else { clients::left_out() };
    tell_left_out(&left_out);
    test_programs()?;
    build()?;
    if filter.is_empty() {
        advisories::check(None)?;
        cargo(&["fmt", "--all", "--check"])?;
        cargo(&["clippy", "--locked", "--release", "--workspace", "--all-targets", "--", "--deny", "warnings"])?;
    }
    let mut arguments = vec!["test", "--locked", "--release", "--workspace"];
    arguments.extend_from_slice(filter);
    cargo_with(&[(clients::LEFT_OUT, Path::new(&left_out))], &arguments)?;
    if filter.is_empty() {
        test_components()?;
        instructions::instructions(&Instructions::default())?;
    }
    tell_left_out(&left_out);
    Ok(())
}

/// Says which clients are not tested with. It stands before the tests and behind them.
fn tell_left_out(languages: &str) {
    if !languages.is_empty() {
        println!(
            "NOT TESTED: clients in {languages}. Install Go 1.24 or newer, and python3 with venv, to test with them."
        );
    }
}

/// Runs the tests of the guests once more, each against its component. The tests are chosen by name
/// out of the whole workspace, so that nothing is compiled again. A guest's tests are
/// `tests/<package>.rs`.
fn test_components() -> Result<()> {
    let program = build_dir().join("lockstep");
    for guest in guests::with_tests()? {
        let component = build_dir().join(format!("{guest}.wasm"));
        let variables = [("LOCKSTEP", program.as_path()), ("LOCKSTEP_COMPONENT", component.as_path())];
        cargo_with(&variables, &["test", "--locked", "--release", "--workspace", "--test", &guest])?;
    }
    Ok(())
}
