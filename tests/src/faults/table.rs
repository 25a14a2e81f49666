//! Formats the figures as a Markdown table, with the conditions of the measurement. Measures
//! nothing.

use std::fmt::Write;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::Measured;
use crate::cases::Case;
use crate::round::Round;

pub(crate) fn conditions(rounds: u64, seed: u64, clients: usize) -> Result<String> {
    let cores = std::thread::available_parallelism()?;
    let load = machine_load();
    Ok(format!(
        "Commit {}, {cores} cores, load {load} before the start. 3 nodes with default timeouts (heartbeat 1 s, election 3 s), {} clients \
         pinned to them ({clients} each), closed loops of unary Add, no deadline of their own. {rounds} rounds a case, seed {seed}.\n",
        commit(),
        3 * clients
    ))
}

/// Returns the number of processes that ran or waited for a core over the last minute. Other work
/// on the machine affects every figure.
pub(crate) fn machine_load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().filter(|load| !load.is_empty()).unwrap_or("unknown").to_string()
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let name = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_else(|| "unknown".into());
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| !changes.is_empty());
    if changed { name + " with changes" } else { name }
}

pub(crate) fn rows(measured: &[Measured]) -> String {
    let mut table = String::from(
        "| what happened | rounds | longest time without an acknowledged write: median | worst | failed calls at nodes left alone | \
         failed calls at the victim | new leaders | terms | one client at a node left alone, worst | acknowledged writes lost, of reads |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for one in measured {
        let mut variants: Vec<Option<&str>> = one.rounds.iter().map(|round| round.variant).collect();
        variants.sort_unstable();
        variants.dedup();
        for variant in variants {
            let rounds: Vec<&Round> = one.rounds.iter().filter(|round| round.variant == variant).collect();
            let title = variant.unwrap_or(one.case.title());
            if one.case == Case::KillAll {
                let from_restart = rounds.iter().filter_map(|round| round.from_restart).collect();
                row(&mut table, title, &rounds, from_restart, one);
                row(&mut table, "the same, from the kill", &rounds, gaps(&rounds), one);
            } else {
                row(&mut table, title, &rounds, gaps(&rounds), one);
            }
        }
    }
    table
}

fn gaps(rounds: &[&Round]) -> Vec<Duration> {
    rounds.iter().map(|round| round.gap).collect()
}

fn row(table: &mut String, title: &str, rounds: &[&Round], mut times: Vec<Duration>, one: &Measured) {
    times.sort_unstable();
    let sum = |figure: fn(&Round) -> usize| rounds.iter().map(|round| figure(round)).sum::<usize>();
    let clients: Vec<Duration> = rounds.iter().filter_map(|round| round.client_gap).collect();
    writeln!(
        table,
        "| {title} | {} | {} | {} | {} | {} | {} | {} | {} | 0 of {} |",
        rounds.len(),
        seconds(median(&times)),
        seconds(times.last().copied()),
        sum(|round| round.failed_alone.len()),
        sum(|round| round.failed_touched.len()),
        sum(|round| usize::from(round.leader_changed)),
        sum(|round| round.terms as usize),
        seconds(clients.into_iter().max()),
        one.checked,
    )
    .expect("a string takes everything");
}

/// Returns the median of sorted times. With two middle ones, returns their mean.
fn median(times: &[Duration]) -> Option<Duration> {
    let upper = *times.get(times.len() / 2)?;
    let lower = times[(times.len() - 1) / 2];
    Some((lower + upper) / 2)
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or("-".into(), |time| format!("{:.3} s", time.as_secs_f64()))
}
