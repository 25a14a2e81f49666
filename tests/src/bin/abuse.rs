//! `cargo xtask abuse`: parses the command line, runs, and prints the table. The exit code is 0
//! when every case has passed, 1 when one has failed, 2 for wrong arguments. With the first word
//! `attack` it is the attacker of such a run.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lockstep_tests::abuse::{ATTACK, Case, Judging, Options, attack_by_words, json, list, named, rows, run, shown};
use lockstep_tests::lockstep_binary;

const HELP: &str = "\
usage: cargo xtask abuse [--case NAME]... [--seconds N] [--program PATH] [--json FILE] [--list]

  --case NAME     run this case; all unless given
  --seconds N     attack for N seconds, 1 to 600; 10 unless given
  --program PATH  the node to judge; build/lockstep unless given
  --json FILE     write the figures to FILE, too
  --list          print the cases, and run nothing
";

/// Length of the baseline, and of the time after an attack.
const CALM: Duration = Duration::from_secs(5);
/// Length of an attack.
const ATTACK_TIME: Duration = Duration::from_secs(10);
/// Longest attack, in seconds.
const SECONDS_MAX: u64 = 600;

/// The words of the command line.
struct Wanted {
    cases: Vec<&'static Case>,
    attack: Duration,
    program: Option<PathBuf>,
    json: Option<PathBuf>,
    list: bool,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == ATTACK) {
        return code(attack_by_words(&words[1..]).map(|()| true));
    }
    if words.iter().any(|word| matches!(word.as_str(), "--help" | "-h")) {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    match parse(&words) {
        Ok(wanted) if wanted.list => {
            print!("{}", list());
            ExitCode::SUCCESS
        }
        Ok(wanted) => code(carry_out(&wanted)),
        Err(error) => {
            eprint!("error: {error:#}\n\n{HELP}");
            ExitCode::from(2)
        }
    }
}

fn code(passed: Result<bool>) -> ExitCode {
    match passed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("abuse failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(wanted: &Wanted) -> Result<bool> {
    let options = Options {
        program: wanted.program.clone().unwrap_or_else(lockstep_binary),
        attacker: std::env::current_exe()?,
        calm: CALM,
        attack: wanted.attack,
        judging: Judging::All,
    };
    let judged = run(&wanted.cases, &options, |one| {
        let verdict = if one.verdict.passed() { "passed".into() } else { one.verdict.wrong.join("; ") };
        eprintln!("{}: {verdict}", one.case);
    })?;
    print!("{}", rows(&judged));
    if let Some(path) = &wanted.json {
        let text = format!("{:#}\n", json(&judged));
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(judged.iter().all(|one| one.verdict.passed()))
}

fn parse(words: &[String]) -> Result<Wanted> {
    let mut wanted = Wanted { cases: Vec::new(), attack: ATTACK_TIME, program: None, json: None, list: false };
    let mut words = words.iter();
    while let Some(flag) = words.next() {
        let mut value = || words.next().with_context(|| format!("{flag} needs a value"));
        match flag.as_str() {
            "--case" => {
                let name = value()?;
                wanted.cases.push(named(name).with_context(|| format!("--case: there is no case '{name}'"))?);
            }
            "--seconds" => wanted.attack = Duration::from_secs(seconds(value()?)?),
            "--program" => wanted.program = Some(program(value()?)?),
            "--json" => wanted.json = Some(value()?.into()),
            "--list" => wanted.list = true,
            _ => bail!("there is no flag '{flag}'"),
        }
    }
    if wanted.cases.is_empty() {
        wanted.cases = shown();
    }
    Ok(wanted)
}

fn seconds(text: &str) -> Result<u64> {
    let seconds = text.parse().with_context(|| format!("--seconds: '{text}' is not a number"))?;
    ensure!((1..=SECONDS_MAX).contains(&seconds), "--seconds must be 1 to {SECONDS_MAX}");
    Ok(seconds)
}

fn program(text: &str) -> Result<PathBuf> {
    let path = std::path::absolute(text)?;
    ensure!(path.is_file(), "--program: there is no file {text}");
    Ok(path)
}
