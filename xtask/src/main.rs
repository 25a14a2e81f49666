//! `cargo xtask <command>`: what this project does with itself. Each command sets up what it needs first.
//! Never touches the network beyond installing what is missing, and never leaves a process behind.

mod demo;
mod demo_cluster;
mod setup;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

const HELP: &str = "\
cargo xtask <command>

  demo     sets up and builds, then shows a three-node cluster: writes, reads, a watch, a killed leader, a restart
  test     sets up and builds, then checks format and lints and runs every test
  build    sets up and builds build/lockstep and the guests
  guests   builds the guests only: build/kv.wasm
  setup    installs what is missing, or names it
  torture  [--seconds N] [--cycles N] [--seed S] [--faults LIST]  faults under load, every answer checked; --help tells more
  faults   [rounds] [--seed N] [case...]  how long clients wait for a write when a leader dies, is stopped, paused or cut off, when
           all die, when all are restarted in turn: a table in Markdown. Cases: kill stop pause kill-all rolling cut-off one-way refused
  bench    [seconds]  first throughput figures of a fresh three-node cluster on this machine
";

/// How a program is built. Of the whole workspace, although it is one: else cargo chooses other features of its dependencies than for
/// the tests, and compiles them and the host once more.
const PROGRAM: [&str; 5] = ["build", "--locked", "--release", "--workspace", "--bin"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["demo"] => build().and_then(|()| demo::demo()),
        ["test", filter @ ..] => test(filter),
        ["build"] => build(),
        ["guests"] => setup::wasm_target().and_then(|()| guests()),
        ["setup"] => setup::all(),
        ["torture", options @ ..] => torture(options),
        ["faults", words @ ..] => build().and_then(|()| run("faults", words)),
        ["bench"] => build().and_then(|()| demo::bench(5)),
        ["bench", seconds] => parse_seconds(seconds).and_then(|seconds| build().and_then(|()| demo::bench(seconds))),
        [] | ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            Ok(())
        }
        [unknown, ..] => {
            eprint!("error: no command '{unknown}'\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse_seconds(text: &str) -> Result<u64> {
    text.parse().with_context(|| format!("'{text}' is not a number of seconds"))
}

/// The checkout.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask/ lies in the checkout").to_path_buf()
}

/// Where finished things are put: `build/lockstep`, `build/kv.wasm`.
pub(crate) fn build_dir() -> PathBuf {
    root().join("build")
}

/// Where cargo builds: outside the checkout, so that every clone on a machine shares one build of RocksDB.
fn target_dir() -> Result<PathBuf> {
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

/// cargo, in the checkout, with our target directory.
fn cargo(arguments: &[&str]) -> Result<()> {
    println!("$ cargo {}", arguments.join(" "));
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(arguments)
        .current_dir(root())
        .env("CARGO_TARGET_DIR", target_dir()?)
        .env("LOCKSTEP_BUILD_DIR", build_dir())
        .status()
        .context("cargo does not start")?;
    if !status.success() {
        bail!("cargo {} failed", arguments.first().unwrap_or(&""));
    }
    Ok(())
}

fn guests() -> Result<()> {
    cargo(&["build", "--locked", "--profile", "guest", "--target", "wasm32-unknown-unknown", "--package", "kv"])?;
    place("wasm32-unknown-unknown/guest/kv.wasm", "kv.wasm")
}

fn build() -> Result<()> {
    setup::all()?;
    guests()?;
    let binary = target_dir()?.join("release/lockstep");
    if !binary.exists() {
        println!("The first build compiles RocksDB and wasmtime: about 20 minutes on two cores, once per machine.");
    }
    program("lockstep", &[])?;
    place("release/lockstep", "lockstep")
}

/// Copies a finished thing out of cargo's directory, by rename, so that a running node keeps the file it has open.
fn place(from: &str, name: &str) -> Result<()> {
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

/// What only tests run: the node with its failpoints, which can be made to crash between two steps, the guest whose answers
/// tell their history, and the one that does what no guest may.
fn test_programs() -> Result<()> {
    program("lockstep", &["--features", "lockstep/failpoints"])?;
    place("release/lockstep", "lockstep-failpoints")?;
    for guest in ["chain", "statics"] {
        cargo(&["build", "--locked", "--profile", "guest", "--target", "wasm32-unknown-unknown", "--package", guest])?;
        place(&format!("wasm32-unknown-unknown/guest/{guest}.wasm"), &format!("{guest}.wasm"))?;
    }
    Ok(())
}

fn torture(options: &[&str]) -> Result<()> {
    setup::all()?;
    test_programs()?;
    run("torture", options)
}

fn test(filter: &[&str]) -> Result<()> {
    setup::all()?;
    test_programs()?;
    build()?;
    if filter.is_empty() {
        cargo(&["fmt", "--all", "--check"])?;
        cargo(&["clippy", "--locked", "--release", "--workspace", "--all-targets", "--", "--deny", "warnings"])?;
    }
    let mut arguments = vec!["test", "--locked", "--release", "--workspace"];
    arguments.extend_from_slice(filter);
    cargo(&arguments)
}
