//! `cargo xtask fuzz`: builds the programs of `fuzz/` with a nightly compiler and cargo-fuzz, runs
//! one after the other, or some at a time, and says what they found. It installs both where they
//! are missing. It takes the RocksDB that the ordinary build has made, which would be compiled once
//! more otherwise.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// The version that is installed where there is none.
const CARGO_FUZZ: &str = "0.13.2";
/// Most bytes of an input. A header block that no filter looks at is larger than all other limits
/// within a parser, and has 144 KiB; a megabyte would only make the runs slow.
const INPUT_BYTES_MAX: usize = 64 << 10;
/// Most seconds that one input may take.
const INPUT_SECONDS_MAX: usize = 10;
/// Most memory of a program, in MiB.
const MEMORY_MIB_MAX: usize = 2048;
/// Last lines of a program that are shown when it has found something.
const LINES_SHOWN: usize = 40;

/// What to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Fuzz<'a> {
    /// The targets; all when there are none.
    pub(crate) targets: Vec<&'a str>,
    /// Seconds for each target.
    pub(crate) seconds: u64,
    /// How many targets run at a time.
    pub(crate) jobs: u64,
    /// Whether inputs that reach new code are added to `fuzz/corpus/`.
    pub(crate) keep: bool,
}

/// Runs the targets. Fails when one of them has found something.
pub(crate) fn fuzz(asked: &Fuzz<'_>) -> Result<()> {
    let targets = targets()?;
    for target in &asked.targets {
        let all = targets.join(", ");
        ensure!(targets.iter().any(|known| known == target), "there is no target '{target}'; there are {all}");
    }
    install()?;
    let tool = Tool { rocksdb: rocksdb()? };
    // Its packages are those of the checkout, in the same versions.
    std::fs::copy(crate::root().join("Cargo.lock"), directory().join("Cargo.lock")).context("fuzz/Cargo.lock")?;
    tool.succeed(&["build", "-O"])?;
    let is_chosen = |target: &String| asked.targets.is_empty() || asked.targets.contains(&target.as_str());
    let chosen: Vec<String> = targets.into_iter().filter(is_chosen).collect();
    let (runs, errors) = run_all(&tool, &chosen, asked);
    print!("{}", table(runs.iter().map(|(place, run)| (&chosen[*place], run))));
    verdict(runs.iter().flat_map(|(_, run)| &run.inputs), &errors)
}

/// Fails with all that was found, and then with all that went wrong.
fn verdict<'a>(found: impl Iterator<Item = &'a PathBuf>, errors: &[String]) -> Result<()> {
    let found: Vec<String> = found.map(|input| input.display().to_string()).collect();
    let mut problems = Vec::new();
    if !found.is_empty() {
        problems.push(format!(
            "these inputs break a parser:\n  {}\nCopy one to fuzz/corpus/<target>/, and `cargo xtask test --package lockstep --lib fuzzing::` shows it",
            found.join("\n  ")
        ));
    }
    if !errors.is_empty() {
        problems.push(format!("these did not run to their end:\n  {}", errors.join("\n  ")));
    }
    if problems.is_empty() { Ok(()) } else { bail!("{}", problems.join("\n")) }
}

/// Runs targets, so many at a time. Returns what each printed, with its place and in their order,
/// and the errors. An error of one target ends no other.
fn run_all(tool: &Tool, targets: &[String], asked: &Fuzz<'_>) -> (Vec<(usize, Run)>, Vec<String>) {
    let next = AtomicUsize::new(0);
    let (runs, errors) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let failed = |target: &str, problem: &str| held(&errors).push(format!("{target}: {problem}"));
    let work = || {
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(target) = targets.get(place) else { return };
            match tool.run(target, asked.seconds) {
                Ok(run) => {
                    println!("{}", run.line(target));
                    held(&runs).push((place, run));
                }
                Err(error) => {
                    failed(target, &format!("{error:#}"));
                    continue;
                }
            }
            if asked.keep
                && let Err(error) = tool.keep(target)
            {
                failed(target, &format!("{error:#}"));
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..asked.jobs).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            if worker.join().is_err() {
                failed("a worker", "a panic: see above");
            }
        }
    });
    let mut runs = std::mem::take(&mut *held(&runs));
    runs.sort_by_key(|(place, _)| *place);
    let errors = std::mem::take(&mut *held(&errors));
    (runs, errors)
}

/// Locks a list. One that a worker held when it panicked is still whole.
fn held<T>(list: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns a table of all that ran.
fn table<'a>(runs: impl Iterator<Item = (&'a String, &'a Run)>) -> String {
    let mut table = format!("{:<12} {:>12} {:>8} {:>8} {:>6}\n", "target", "executions", "edges", "inputs", "finds");
    for (target, run) in runs {
        let Run { executions, edges, inputs_kept, inputs, .. } = run;
        table += &format!("{target:<12} {executions:>12} {edges:>8} {inputs_kept:>8} {:>6}\n", inputs.len());
    }
    table
}

fn directory() -> PathBuf {
    crate::root().join("fuzz")
}

/// Returns the names of the programs, sorted.
fn targets() -> Result<Vec<String>> {
    let programs = std::fs::read_dir(directory().join("fuzz_targets")).context("fuzz/fuzz_targets")?;
    let name = |path: PathBuf| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let mut names: Vec<String> =
        programs.map(|entry| Ok(name(entry?.path()))).filter_map(Result::transpose).collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

/// Installs the nightly compiler and cargo-fuzz, where they are missing.
fn install() -> Result<()> {
    if !crate::setup::runs("rustc", &["+nightly", "--version"]) {
        crate::setup::rustup(&["toolchain", "install", "nightly", "--profile", "minimal"])?;
    }
    if !crate::setup::runs("cargo", &["fuzz", "--version"]) {
        crate::cargo(&["install", "--locked", "cargo-fuzz", "--version", CARGO_FUZZ])?;
    }
    Ok(())
}

/// Returns the directory of the RocksDB that was built last. Builds it if there is none.
fn rocksdb() -> Result<PathBuf> {
    let find = || -> Result<Option<PathBuf>> {
        let Ok(builds) = std::fs::read_dir(crate::target_dir()?.join("release/build")) else { return Ok(None) };
        let outs = builds.flatten().filter(|build| build.file_name().to_string_lossy().starts_with("librocksdb-sys-"));
        let libraries = outs.map(|build| build.path().join("out/librocksdb.a"));
        let built = |library: PathBuf| Some((library.metadata().ok()?.modified().ok()?, library));
        let newest = libraries.filter_map(built).max();
        Ok(newest.and_then(|(_, library)| library.parent().map(Path::to_path_buf)))
    };
    if let Some(found) = find()? {
        return Ok(found);
    }
    crate::build()?;
    find()?.context("the build has left no librocksdb.a")
}

/// cargo-fuzz, with what it needs to build.
struct Tool {
    rocksdb: PathBuf,
}

impl Tool {
    fn command(&self, words: &[&str]) -> Result<Command> {
        println!("$ cargo +nightly fuzz {}", words.join(" "));
        // Not the compiler of the task that runs now: rustup chooses it anew.
        let mut command = Command::new("cargo");
        command.args(["+nightly", "fuzz"]).args(words).current_dir(crate::root());
        command.env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
        command.env("ROCKSDB_STATIC", "1").env("ROCKSDB_LIB_DIR", &self.rocksdb);
        command.env("CARGO_TARGET_DIR", crate::target_dir()?.join("fuzz"));
        Ok(command)
    }

    fn succeed(&self, words: &[&str]) -> Result<()> {
        let status = self.command(words)?.status().context("cargo fuzz does not start")?;
        ensure!(status.success(), "cargo fuzz {} failed", words.first().unwrap_or(&""));
        Ok(())
    }

    /// Runs one target. Its own finds go to a directory outside of git; the corpus in git is only
    /// read.
    fn run(&self, target: &str, seconds: u64) -> Result<Run> {
        let (finds, corpus) = (finds(target)?, format!("fuzz/corpus/{target}"));
        std::fs::create_dir_all(&finds)?;
        let finds = finds.display().to_string();
        let limits = [
            format!("-max_total_time={seconds}"),
            format!("-max_len={INPUT_BYTES_MAX}"),
            format!("-timeout={INPUT_SECONDS_MAX}"),
            format!("-rss_limit_mb={MEMORY_MIB_MAX}"),
            "-print_final_stats=1".to_owned(),
        ];
        let mut words = vec!["run", "-O", target, &finds, &corpus, "--"];
        words.extend(limits.iter().map(String::as_str));
        let began = Instant::now();
        let mut child = self.command(&words)?.stderr(Stdio::piped()).spawn().context("cargo fuzz does not start")?;
        let output = BufReader::new(child.stderr.take().context("its output is piped")?);
        let mut run = Run::default();
        for line in output.lines() {
            run.read(&line.context("the output of a target")?);
        }
        run.is_good = child.wait()?.success();
        run.ran_for = began.elapsed();
        if !run.is_good {
            run.last.iter().for_each(|line| eprintln!("{line}"));
            ensure!(!run.inputs.is_empty(), "{target} failed, and left no input: see above");
        }
        Ok(run)
    }

    /// Adds the fewest of the inputs that were found to the corpus in git that reach all code which
    /// the finds reach, however often they reach it.
    fn keep(&self, target: &str) -> Result<()> {
        let (finds, corpus) = (finds(target)?.display().to_string(), format!("fuzz/corpus/{target}"));
        self.succeed(&["run", "-O", target, &corpus, &finds, "--", "-set_cover_merge=1", "-use_counters=0"])
    }
}

fn finds(target: &str) -> Result<PathBuf> {
    Ok(crate::target_dir()?.join("fuzz/finds").join(target))
}

/// What a program printed.
#[derive(Debug, Default)]
struct Run {
    /// A target ends early when it has found something.
    ran_for: Duration,
    executions: u64,
    /// Edges of the code that were reached.
    edges: u64,
    /// Inputs that are kept because each reached something new.
    inputs_kept: u64,
    /// Files with inputs that break the parser.
    inputs: Vec<PathBuf>,
    last: VecDeque<String>,
    is_good: bool,
}

impl Run {
    /// Reads a line of libFuzzer.
    fn read(&mut self, line: &str) {
        if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            self.executions = count.trim().parse().unwrap_or(self.executions);
        }
        if let Some((_, input)) = line.split_once("Test unit written to ") {
            self.inputs.push(input.trim().into());
        }
        let mut words = line.split_whitespace();
        while let Some(word) = words.next() {
            match word {
                "cov:" => self.edges = words.next().and_then(|count| count.parse().ok()).unwrap_or(self.edges),
                "corp:" => {
                    let count = words.next().and_then(|count| count.split('/').next());
                    self.inputs_kept = count.and_then(|count| count.parse().ok()).unwrap_or(self.inputs_kept);
                }
                _ => {}
            }
        }
        self.last.push_back(line.to_owned());
        if self.last.len() > LINES_SHOWN {
            self.last.pop_front();
        }
    }

    fn line(&self, target: &str) -> String {
        let Run { executions, edges, inputs_kept, .. } = self;
        let end = match self.inputs.len() {
            0 => "nothing found".to_owned(),
            found => format!("{found} inputs break it"),
        };
        let seconds = self.ran_for.as_secs();
        format!("{target:<12} {seconds} s, {executions} executions, {edges} edges, {inputs_kept} inputs: {end}")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_libfuzzer_prints_becomes_a_line() {
        let mut run = Run { ran_for: Duration::from_secs(9), ..Run::default() };
        for line in [
            "INFO: Seed: 1",
            "#2048\tpulse  cov: 312 ft: 700 corp: 31/4096b lim: 21 exec/s: 1024 rss: 60Mb",
            "#4096\tREDUCE cov: 320 ft: 712 corp: 33/4100b lim: 21 exec/s: 1024 rss: 60Mb L: 7/20 MS: 1 CrossOver-",
            "stat::number_of_executed_units: 5000",
        ] {
            run.read(line);
        }
        assert_eq!(run.line("entry"), "entry        9 s, 5000 executions, 320 edges, 33 inputs: nothing found");
        run.read("artifact_prefix='fuzz/artifacts/entry/'; Test unit written to fuzz/artifacts/entry/crash-00");
        assert!(run.line("entry").ends_with(": 1 inputs break it"), "{}", run.line("entry"));
        assert_eq!(run.inputs, [PathBuf::from("fuzz/artifacts/entry/crash-00")]);
        let table = table([(&"entry".to_owned(), &run)].into_iter());
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "target         executions    edges   inputs  finds");
        assert_eq!(lines[1], "entry                5000      320       33      1");
    }

    #[test]
    fn what_was_found_is_told_also_where_something_went_wrong() {
        let found = [PathBuf::from("crash-00")];
        let said = verdict(found.iter(), &["entry: no disk".to_owned()]).unwrap_err().to_string();
        assert!(said.find("crash-00").unwrap() < said.find("entry: no disk").unwrap(), "{said}");
        assert!(verdict(found.iter(), &[]).is_err() && verdict([].iter(), &["a".to_owned()]).is_err());
        assert!(verdict([].iter(), &[]).is_ok());
    }

    #[test]
    fn the_targets_are_the_programs() {
        let targets = targets().unwrap();
        assert!(targets.len() > 5 && targets.iter().any(|target| target == "peer"), "{targets:?}");
    }
}
