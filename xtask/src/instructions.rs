//! `cargo xtask instructions`: counts the instructions of the hot pieces of a node under valgrind,
//! and compares them with the record. Unlike a time, a count is the same on a busy machine. It
//! measures nothing itself: `host/benches/instructions.rs` has the pieces, and `record` judges.

mod record;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{guests::guests, setup};
use record::Counts;

/// The benchmark that has the pieces.
const BENCH: &str = "instructions";
/// The record, from the checkout.
const RECORD: &str = "host/benches/instructions.txt";
/// The system and the architecture of the record.
const RECORDED: (&str, &str) = ("linux", "x86_64");
/// The tool of valgrind that counts instructions in the least time: cachegrind without caches.
const TOOL: [&str; 3] = ["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"];
/// Has the C library copy and fill by vectors. Otherwise it uses the instructions that repeat
/// themselves, and valgrind counts one for each byte.
const TUNABLES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-ERMS");

/// What to count.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Instructions<'a> {
    /// Whether the record is written instead of compared.
    pub(crate) record: bool,
    /// The pieces; all when there are none.
    pub(crate) pieces: Vec<&'a str>,
}

/// A piece of the benchmark.
struct Piece {
    name: String,
    /// Times that are enough to count it.
    times: u64,
}

/// Sets up valgrind, where this machine counts.
pub(crate) fn set_up() -> Result<()> {
    if why_not().is_none() { setup::valgrind() } else { Ok(()) }
}

/// Sets up, builds, counts, and compares with the record or writes it.
pub(crate) fn instructions(asked: &Instructions<'_>) -> Result<()> {
    if let Some(why) = why_not() {
        ensure!(!asked.record, "the record is not written: {why}");
        println!("NOT COUNTED: the instructions of the hot pieces: {why}");
        return Ok(());
    }
    setup::all()?;
    set_up()?;
    guests()?;
    let program = build()?;
    let pieces = chosen(pieces(&program)?, &asked.pieces)?;
    let path = crate::root().join(RECORD);
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let mut recorded = record::read(&text).with_context(|| RECORD.to_owned())?;
    let counted = count_all(&program, &pieces, &recorded)?;
    if asked.record {
        // A piece that was not counted keeps its record.
        if asked.pieces.is_empty() {
            recorded.clear();
        }
        recorded.extend(counted);
        std::fs::write(&path, record::write(&recorded)).with_context(|| format!("writing {}", path.display()))?;
        println!("{RECORD} is written; the commit says why a piece costs more than before");
        return Ok(());
    }
    recorded.retain(|name, _| asked.pieces.is_empty() || asked.pieces.contains(&name.as_str()));
    let verdict = record::compare(&recorded, &counted);
    for advice in &verdict.advice {
        println!("{advice}");
    }
    if !verdict.failures.is_empty() {
        bail!("the instructions are not as {RECORD} has them:\n  {}", verdict.failures.join("\n  "));
    }
    Ok(())
}

/// Returns why this machine's counts have no record to be compared with, if that is so.
fn why_not() -> Option<String> {
    let (system, architecture) = (std::env::consts::OS, std::env::consts::ARCH);
    let is_recorded = (system, architecture) == RECORDED;
    (!is_recorded)
        .then(|| format!("the record is of {} on {}, not of {system} on {architecture}", RECORDED.0, RECORDED.1))
}

/// Builds the benchmark as the tests are built, and returns its program.
fn build() -> Result<PathBuf> {
    let words = ["build", "--locked", "--release", "--workspace", "--bench", BENCH];
    println!("$ cargo {}", words.join(" "));
    let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(words)
        .arg("--message-format=json-render-diagnostics")
        .current_dir(crate::root())
        .env("CARGO_TARGET_DIR", crate::target_dir()?)
        .stderr(Stdio::inherit())
        .output()
        .context("cargo does not start")?;
    ensure!(built.status.success(), "cargo build failed");
    let messages = String::from_utf8_lossy(&built.stdout);
    messages.lines().find_map(program).context("cargo does not say where the benchmark is")
}

/// Returns the program of the benchmark, if a message of cargo is about it.
fn program(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let target = message.get("target")?;
    let is_bench = target.get("kind")?.as_array()?.iter().any(|kind| kind == "bench");
    let is_ours = is_bench && target.get("name")? == BENCH;
    message.get("executable")?.as_str().filter(|_| is_ours).map(PathBuf::from)
}

/// Asks the benchmark for its pieces.
fn pieces(program: &Path) -> Result<Vec<Piece>> {
    let listed = succeeded(Command::new(program).arg("list"))?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let piece = |line: &str| {
        let (name, times) = line.split_once(' ')?;
        let times: u64 = times.parse().ok()?;
        (times > 0).then(|| Piece { name: name.to_owned(), times })
    };
    listed.lines().map(|line| piece(line).with_context(|| format!("'{line}' is no piece and its times"))).collect()
}

/// Returns those of the pieces that were asked for.
fn chosen(pieces: Vec<Piece>, asked: &[&str]) -> Result<Vec<Piece>> {
    for name in asked {
        let names: Vec<&str> = pieces.iter().map(|piece| piece.name.as_str()).collect();
        ensure!(names.contains(name), "there is no piece '{name}'; there are {}", names.join(", "));
    }
    Ok(pieces.into_iter().filter(|piece| asked.is_empty() || asked.contains(&piece.name.as_str())).collect())
}

/// Counts pieces, one after the other, and prints each beside its record.
fn count_all(program: &Path, pieces: &[Piece], recorded: &Counts) -> Result<Counts> {
    println!("{:<20}{:>16}{:>16}", "instructions a time", "now", "recorded");
    let mut counted = Counts::new();
    for piece in pieces {
        let now = count(program, piece).with_context(|| piece.name.clone())?;
        let before = recorded.get(&piece.name).map_or_else(|| "-".to_owned(), |count| record::grouped(*count));
        println!("{:<20}{:>16}{before:>16}", piece.name, record::grouped(now));
        counted.insert(piece.name.clone(), now);
    }
    Ok(counted)
}

/// Returns the instructions of one time.
fn count(program: &Path, piece: &Piece) -> Result<u64> {
    let words = |times: u64| [piece.name.clone(), times.to_string()];
    // This leaves the compiled code of the guest for the others, and shows that the piece works.
    succeeded(with_build_dir(Command::new(program).args(words(1))))?;
    let run = |times: u64| {
        let mut command = Command::new("valgrind");
        command.args(TOOL).arg(program).args(words(times)).env(TUNABLES.0, TUNABLES.1);
        let ran = succeeded(with_build_dir(&mut command))?;
        let said = String::from_utf8_lossy(&ran.stderr);
        record::instructions_in(&said).with_context(|| format!("valgrind tells no instructions:\n{said}"))
    };
    // Both at a time: a count does not depend on what else runs.
    let (once, thrice) = std::thread::scope(|scope| {
        let [once, thrice] = [1, 3].map(|times| scope.spawn(move || run(times * piece.times)));
        (once.join(), thrice.join())
    });
    let counted =
        |joined: std::thread::Result<Result<u64>>| joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    record::a_time(counted(once)?, counted(thrice)?, piece.times)
}

/// Tells the benchmark where the guests are, and where it may keep their code.
fn with_build_dir(command: &mut Command) -> &mut Command {
    command.env("LOCKSTEP_BUILD_DIR", crate::build_dir())
}

/// Runs a program to its end, and returns what it said. Fails with its own words.
fn succeeded(command: &mut Command) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{name} does not start"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} ended with {}:\n{}", output.status, said.trim());
    Ok(output)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_that_of_the_benchmark() {
        let message = |kind: &str, name: &str, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["{kind}"],"name":"{name}"}},"executable":{executable}}}"#
            )
        };
        assert_eq!(program(&message("bench", BENCH, r#""/t/instructions-1""#)), Some("/t/instructions-1".into()));
        assert_eq!(program(&message("bench", "costs", r#""/t/costs-1""#)), None);
        assert_eq!(program(&message("lib", BENCH, "null")), None);
        assert_eq!(program(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(program("not JSON"), None);
    }

    #[test]
    fn only_pieces_that_exist_can_be_asked_for() {
        let pieces =
            || -> Vec<Piece> { ["call", "query"].map(|name| Piece { name: name.to_owned(), times: 1 }).into() };
        let names = |chosen: Vec<Piece>| chosen.into_iter().map(|piece| piece.name).collect::<Vec<_>>();
        assert_eq!(names(chosen(pieces(), &[]).unwrap()), ["call", "query"]);
        assert_eq!(names(chosen(pieces(), &["query"]).unwrap()), ["query"]);
        let Err(refusal) = chosen(pieces(), &["qeury"]) else { panic!("there is no such piece") };
        assert_eq!(refusal.to_string(), "there is no piece 'qeury'; there are call, query");
    }
}
