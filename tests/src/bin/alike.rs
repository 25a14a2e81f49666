//! `cargo xtask alike`: parses the command line, runs, and prints the verdict. The exit code is 0
//! when all nodes were alike, 1 when not, 2 for wrong arguments.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use lockstep_tests::alike::{Wanted, print, run};

const HELP: &str = "\
usage: cargo xtask alike [--commands N] [--seed S]

  --commands N   run N commands; ten million unless given, at least 10000
  --seed S       draw what they do from S; drawn from the clock and printed otherwise
";

const COMMANDS: u64 = 10_000_000;
const COMMANDS_MIN: u64 = 10_000;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| matches!(word.as_str(), "--help" | "-h")) {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let wanted = match parse(&words) {
        Ok(wanted) => wanted,
        Err(error) => {
            eprint!("error: {error:#}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    print(format!("{} commands, seed {}", wanted.commands, wanted.seed));
    match carry_out(wanted) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("alike failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(wanted: Wanted) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let summary = runtime.block_on(run(wanted, print))?;
    println!("{summary}");
    Ok(())
}

fn parse(words: &[String]) -> Result<Wanted> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).context("a clock before 1970")?;
    let seed = u64::try_from(clock.as_millis()).context("a clock far from now")?;
    let mut wanted = Wanted { commands: COMMANDS, seed };
    let mut words = words.iter();
    while let Some(flag) = words.next() {
        let mut number = || -> Result<u64> {
            let text = words.next().with_context(|| format!("{flag} needs a value"))?;
            text.parse().with_context(|| format!("{flag}: '{text}' is not a number"))
        };
        match flag.as_str() {
            "--commands" => wanted.commands = number()?,
            "--seed" => wanted.seed = number()?,
            _ => bail!("no flag '{flag}'"),
        }
    }
    ensure!(
        wanted.commands >= COMMANDS_MIN,
        "--commands: at least {COMMANDS_MIN}, or the nodes have no time to differ"
    );
    Ok(wanted)
}
