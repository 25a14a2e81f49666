//! `cargo xtask torture`: parses the command line, runs, and prints the verdict. The exit code is 0
//! when nothing was wrong, 1 when something was, 2 for wrong arguments.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use lockstep_tests::torture::plan::FaultKind;
use lockstep_tests::torture::run::{Options, VERIFY_ENTRIES, run};

const HELP: &str = "\
usage: cargo xtask torture [--seconds N] [--cycles N] [--seed S] [--nodes 3|5] [--faults LIST] [--plant TASK]
                    [--verify_entries N]

  --seconds N    begin no cycle after N seconds; 60 unless --cycles is given
  --cycles N     end after N cycles of load, fault, heal and verdict
  --seed S       draw faults and load from S; drawn from the clock and printed otherwise
  --nodes N      nodes of every cluster; three otherwise, and five in every fourth
  --plant TASK   a failpoint that every node has all the time, to see it found: read-skip-index=return(error)
  --verify_entries N
                 run again at most N entries of each cluster's log when it ends, and compare hashes: 20000 otherwise, 0 for none
  --faults LIST  only these, with commas: ";

fn help() -> String {
    format!("{HELP}{}\n", FaultKind::ALL.map(FaultKind::name).join(","))
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| matches!(word.as_str(), "--help" | "-h")) {
        print!("{}", help());
        return ExitCode::SUCCESS;
    }
    let options = match parse(&words) {
        Ok(options) => options,
        Err(error) => {
            eprint!("error: {error:#}\n\n{}", help());
            return ExitCode::from(2);
        }
    };
    println!("torture: seed {}", options.seed);
    match run(&options) {
        Ok(summary) => {
            println!("torture: seed {}\n{summary}", options.seed);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("torture failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse(words: &[String]) -> Result<Options> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).context("a clock before 1970")?;
    let mut options = Options {
        seed: u64::try_from(clock.as_millis()).context("a clock far from now")?,
        time: None,
        cycles: None,
        kinds: FaultKind::ALL.to_vec(),
        nodes: None,
        planted: Vec::new(),
        verify_entries: VERIFY_ENTRIES,
    };
    let mut words = words.iter();
    while let Some(flag) = words.next() {
        let mut value = || words.next().with_context(|| format!("{flag} needs a value"));
        match flag.as_str() {
            "--seconds" => options.time = Some(Duration::from_secs(number(flag, value()?)?)),
            "--cycles" => options.cycles = Some(number(flag, value()?)?),
            "--seed" => options.seed = number(flag, value()?)?,
            "--nodes" => options.nodes = Some(nodes(value()?)?),
            "--verify_entries" => options.verify_entries = number(flag, value()?)?,
            "--plant" => options.planted.push(value()?.clone()),
            "--faults" => options.kinds = kinds(value()?)?,
            _ => bail!("no flag '{flag}'"),
        }
    }
    if options.cycles.is_none() && options.time.is_none() {
        options.time = Some(Duration::from_secs(60));
    }
    Ok(options)
}

fn number(flag: &str, text: &str) -> Result<u64> {
    text.parse().with_context(|| format!("{flag}: '{text}' is not a number"))
}

fn nodes(text: &str) -> Result<usize> {
    match text {
        "3" => Ok(3),
        "5" => Ok(5),
        _ => bail!("--nodes: '{text}' is neither 3 nor 5"),
    }
}

fn kinds(text: &str) -> Result<Vec<FaultKind>> {
    let known = |name| FaultKind::named(name).with_context(|| format!("--faults: no fault '{name}'"));
    text.split(',').map(known).collect()
}
