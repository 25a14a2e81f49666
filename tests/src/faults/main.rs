//! Measures how long clients wait for a write during a fault of the cluster.
//! Usage: `faults [rounds] [--seed N] [case...]`. The table goes to stdout as Markdown, progress to
//! stderr. It judges only one thing: what was acknowledged must be there at the end.

mod cases;
mod round;
mod table;

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use lockstep_tests::torture::plan::Random;
use lockstep_tests::{Cluster, Load, Network, formed, formed_in};

use crate::cases::Case;
use crate::round::Round;

/// Clients at each of the three nodes.
const CLIENTS: usize = 4;
/// Rounds of each case if the command line gives no number.
const ROUNDS: u64 = 20;
/// Most time that a case may take per round. Every wait within a round has a shorter limit.
const ROUND_MAX: Duration = Duration::from_secs(90);

struct Arguments {
    rounds: u64,
    seed: u64,
    cases: Vec<Case>,
}

/// Result of one case.
pub(crate) struct Measured {
    pub(crate) case: Case,
    pub(crate) took: Duration,
    pub(crate) rounds: Vec<Round>,
    /// Keys that were read back, over all nodes, and had what was acknowledged.
    pub(crate) checked: usize,
}

fn main() -> ExitCode {
    match arguments().and_then(|arguments| measure(&arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn arguments() -> Result<Arguments> {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
    let mut arguments = Arguments { rounds: ROUNDS, seed, cases: Vec::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--seed" {
            let seed = words.next().context("--seed needs a number")?;
            arguments.seed = seed.parse().with_context(|| format!("--seed: '{seed}' is not a number"))?;
        } else if let Ok(rounds) = word.parse() {
            arguments.rounds = rounds;
        } else {
            let known = || Case::ALL.map(Case::name).join(", ");
            let case = Case::ALL.into_iter().find(|case| case.name() == word);
            arguments.cases.push(case.with_context(|| format!("no case '{word}'; there are {}", known()))?);
        }
    }
    ensure!((1..=1000).contains(&arguments.rounds), "rounds must be 1 to 1000");
    if arguments.cases.is_empty() {
        arguments.cases = Case::ALL.to_vec();
    }
    Ok(arguments)
}

/// Runs the cases and prints the table. Returns whether every case could be measured.
fn measure(arguments: &Arguments) -> Result<bool> {
    println!("{}", table::conditions(arguments.rounds, arguments.seed, CLIENTS)?);
    let (networked, plain): (Vec<Case>, Vec<Case>) =
        arguments.cases.iter().copied().partition(|case: &Case| case.needs_network());
    let mut measured = Vec::new();
    let mut notes = Vec::new();
    let mut done = Ok(());
    for (cases, control) in [(plain, Case::NoFault), (networked, Case::NoFaultInNetwork)] {
        done = done.and_then(|()| measure_some(arguments, &cases, control, &mut measured, &mut notes));
    }
    // An interrupted run also prints what it has measured.
    println!("{}\nLoad {} at the end.", table::rows(&measured), table::machine_load());
    notes.iter().for_each(|note| println!("{note}"));
    done.map(|()| notes.is_empty())
}

/// Runs the cases of one kind, then the case without a fault.
/// The latter takes as long as the longest of the others.
fn measure_some(
    arguments: &Arguments,
    cases: &[Case],
    control: Case,
    measured: &mut Vec<Measured>,
    notes: &mut Vec<String>,
) -> Result<()> {
    if let (true, Some(Err(reason))) = (control.needs_network(), cases.first().map(|_| Network::available())) {
        eprintln!("SKIPPED, because it needs network namespaces: {}: {reason}", names(cases));
        println!("Skipped, because it needs network namespaces: {}: {reason}\n", names(cases));
        return Ok(());
    }
    let mut longest = Duration::ZERO;
    for case in cases.iter().copied().chain([control]) {
        // The control comes last and has as many rounds.
        let calm = longest / arguments.rounds as u32;
        if case == control && calm.is_zero() {
            continue;
        }
        match run(case, arguments.rounds, arguments.seed, calm) {
            Ok(Some(one)) => {
                longest = longest.max(one.took);
                measured.push(one);
            }
            Ok(None) => bail!("interrupted"),
            Err(error) => {
                eprintln!("{}: {error:#}", case.name());
                notes.push(format!("Not measured: {}: {}", case.title(), first_line(&format!("{error:#}"))));
            }
        }
    }
    Ok(())
}

fn names(cases: &[Case]) -> String {
    cases.iter().map(|case| case.name()).collect::<Vec<_>>().join(", ")
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Runs one case on a cluster of its own. Returns `None` when it was interrupted.
fn run(case: Case, rounds: u64, seed: u64, calm: Duration) -> Result<Option<Measured>> {
    eprintln!("{}: {rounds} rounds", case.title());
    let limit = (ROUND_MAX + calm) * rounds as u32;
    let work = |cluster| async move {
        tokio::select! {
            done = tokio::time::timeout(limit, rounds_of(case, rounds, seed, calm, cluster)) => {
                done.with_context(|| format!("not done within {limit:?}"))?.map(Some)
            }
            interrupted = interrupted() => interrupted.map(|()| None),
        }
    };
    if case.needs_network() {
        Network::run(|network| async move { work(formed_in(network, 3, &[]).await?).await })
    } else {
        tokio::runtime::Runtime::new()?.block_on(async { work(formed(3, &[]).await?).await })
    }
}

/// Waits for SIGINT or SIGTERM.
async fn interrupted() -> Result<()> {
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
        _ = term.recv() => Ok(()),
    }
}

async fn rounds_of(case: Case, rounds: u64, seed: u64, calm: Duration, mut cluster: Cluster) -> Result<Measured> {
    let load = Load::start(&cluster, CLIENTS)?;
    let mut random = Random::new(seed);
    let began = Instant::now();
    round::all_well(&cluster, &load).await?;
    let mut done = Vec::new();
    for number in 1..=rounds {
        let round = round::run(case, &mut cluster, &load, &mut random, calm)
            .await
            .with_context(|| format!("round {number} of {rounds}"))?;
        eprintln!("{} {number}/{rounds}: {round}", case.name());
        done.push(round);
    }
    let took = began.elapsed();
    let checked = load.finish(&cluster).await?;
    Ok(Measured { case, took, rounds: done, checked })
}
