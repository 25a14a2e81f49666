//! `cargo xtask changes`: parses the command line, runs, and prints the verdict. The exit code is 0
//! when nothing was wrong, 1 when something was, 2 for wrong arguments.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use lockstep_tests::changes::guest::Guest;
use lockstep_tests::changes::run::{Options, VERIFY_ENTRIES, run};

const HELP: &str = "usage: cargo xtask changes [--seconds N] [--legs N] [--seed S] [--clients N] [--guests LIST] \
[--state_mib N] [--verify_entries N]\n`cargo xtask changes --help` says more\n";

/// Most MiB of rows of a guest that migrates all of them: one migration writes at most 256 MiB, and
/// the rows have keys and other fields, too.
const MIGRATED_MIB_MAX: u64 = 200;

/// Clients unless said otherwise.
const CLIENTS: u64 = 64;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let options = match parse(&words) {
        Ok(options) => options,
        Err(error) => {
            eprint!("error: {error:#}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    println!("changes: seed {}", options.seed);
    match run(&options) {
        Ok(summary) => {
            println!("changes: seed {}\n{summary}", options.seed);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("changes failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse(words: &[String]) -> Result<Options> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).context("a clock before 1970")?;
    let mut seed = u64::try_from(clock.as_millis()).context("a clock far from now")?;
    let (mut time, mut legs, mut state_mib, mut named, mut clients) = (None, None, None, None, CLIENTS);
    let mut verify_entries = VERIFY_ENTRIES;
    let mut words = words.iter();
    while let Some(flag) = words.next() {
        let value = words.next().with_context(|| format!("{flag} needs a value"));
        match flag.as_str() {
            "--seconds" => time = Some(Duration::from_secs(number(flag, value?)?)),
            "--legs" => legs = Some(number(flag, value?)?),
            "--seed" => seed = number(flag, value?)?,
            "--clients" => clients = number(flag, value?)?,
            "--state_mib" => state_mib = Some(number(flag, value?)?),
            "--verify_entries" => verify_entries = number(flag, value?)?,
            "--guests" => named = Some(guests(value?)?),
            _ => bail!("no flag '{flag}'"),
        }
    }
    ensure!((3..=300).contains(&clients), "--clients must be 3 to 300");
    let guests = match (named, state_mib) {
        (Some(guests), Some(mib)) => {
            ensure!(
                !guests.contains(&Guest::Orders),
                "--state_mib: an owner of 16 KiB is no key of an index of orders"
            );
            ensure!(
                mib <= MIGRATED_MIB_MAX || !guests.contains(&Guest::Locks),
                "--state_mib: locks migrates all rows, and one migration writes at most 256 MiB: at most \
                 {MIGRATED_MIB_MAX} MiB for it, or kv alone"
            );
            guests
        }
        (None, Some(_)) => vec![Guest::Kv],
        (named, None) => named.unwrap_or(Guest::ALL.to_vec()),
    };
    if legs.is_none() && state_mib.is_none() && time.is_none() {
        time = Some(Duration::from_secs(60));
    }
    let clients = u32::try_from(clients).context("at most 300")?;
    Ok(Options { seed, time, legs, guests, clients, state_mib, verify_entries })
}

fn number(flag: &str, text: &str) -> Result<u64> {
    text.parse().with_context(|| format!("{flag}: '{text}' is not a number"))
}

fn guests(text: &str) -> Result<Vec<Guest>> {
    let known = |name| Guest::named(name).with_context(|| format!("--guests: no guest '{name}'"));
    text.split(',').map(known).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &str) -> Result<Options> {
        parse(&words.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn a_state_that_cannot_be_migrated_at_once_is_refused() {
        let refused = parsed("--guests kv,locks --state_mib 201");
        assert!(refused.is_err_and(|error| error.to_string().contains("at most 200 MiB")));
        assert!(parsed("--guests locks --state_mib 200").is_ok());
        assert!(parsed("--state_mib 1024").is_ok_and(|options| options.guests == [Guest::Kv]));
        assert!(parsed("--guests orders --state_mib 10").is_err());
    }
}
