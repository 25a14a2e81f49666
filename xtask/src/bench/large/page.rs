//! The files of a run: the page in Markdown and the raw results. It also judges: a figure that is
//! only known between two ends reaches a bound when both ends do. It computes no figure.

use std::path::Path;

use anyhow::Result;

use super::group::Filled;
use super::newcomer::{self, Newcomer};
use super::restart::End;
use super::results::{Block, Results, Size};
use super::stops::{Stop, Watched};
use crate::bench::figures::Spread;
use crate::bench::nodes::VALUE_BYTES;
use crate::bench::pages;
use crate::bench::table::{Bounds, conditions_table, number, spread};

const STOP_MS: Bounds = at_most(5.0, 1.0);
const RESTART_SECONDS: Bounds = at_most(3.0, 1.0);
const PUT_RATIO: Bounds = at_most(1.3, 1.1);
const SNAPSHOT_RATIO: Bounds = at_most(2.0, 1.2);

const fn at_most(must: f64, goal: f64) -> Bounds {
    Bounds { must, goal, is_better_high: false }
}

/// Writes the page and the raw results, and returns their names.
pub(super) fn write(results: &Results, out: &Path) -> Result<Vec<String>> {
    let stem = format!("{}-large", results.conditions.stem());
    let files = vec![(format!("{stem}.md"), page(results)), (format!("{stem}.json"), raw(results)?)];
    pages::write_all(files, out)
}

/// Returns everything as JSON, with a line for each block: a histogram has hundreds of numbers.
fn raw(results: &Results) -> Result<String> {
    Ok(format!(
        "{{\"conditions\":{},\n\"state_bytes\":{},\n\"few\":{},\n\"many\":{},\n\"state\":{},\n\"blocks\":{},\n\
         \"watched\":{},\n\"restarts\":{},\n\"joins\":{}}}\n",
        serde_json::to_string(&results.conditions)?,
        results.state_bytes,
        serde_json::to_string(&results.few)?,
        serde_json::to_string(&results.many)?,
        serde_json::to_string(&results.state)?,
        pages::lines(&results.blocks)?,
        pages::lines(&results.watched)?,
        pages::lines(&results.restarts)?,
        pages::lines(&results.joins)?,
    ))
}

fn page(results: &Results) -> String {
    let mut page = format!("# Lockstep with a large state, {}\n\n", results.conditions.date);
    page += "`cargo xtask bench-large` has made this page. `docs/benchmarks/README.md` says what its\n";
    page += "figures mean, and what they do not show.\n\n## Conditions\n\n";
    page += &conditions_table(&results.conditions);
    page += "\n## Figures\n\n";
    page += "Each figure is the median over the rounds, with the lowest and the highest. A stop of apply\n";
    page += "is the longest of its run, and lies between the two figures that are there.\n\n";
    page += &figures(results);
    page += &format!("\nCalls that failed in all blocks and runs: {}.\n", results.errors());
    page += "\n## States\n\n";
    page += &states(results);
    page += "\n## Stops of apply\n\n";
    page += &stops(results);
    page += "\n## Restarts\n\n";
    page += &restarts(results);
    page += "\n## Puts\n\n";
    page += &puts(results);
    page += "\n## New nodes\n\n";
    page += &joins(results);
    page
}

/// Returns the table of the figures that have bounds.
pub(super) fn figures(results: &Results) -> String {
    let mut table = "| figure | Lockstep | against | result | must | goal | reached |\n".to_owned();
    table += "|---|---|---|---|---|---|---|\n";
    for watched in &results.watched {
        let stop = watched.stops.of_either();
        let result = format!("{} ms", ends(stop));
        let name = format!("longest stop of apply by a flush or a snapshot; {}", load(watched));
        table += &alone(&name, &result, (stop.at_least_ms, stop.at_most_ms), STOP_MS);
    }
    for end in End::ALL {
        let seconds = results.restart_seconds(end);
        let name = format!("restart behind {end} until ready");
        table += &alone(&name, &format!("{} s", spread(seconds)), median(seconds), RESTART_SECONDS);
    }
    let times: [(&str, Figure<Block>); 2] = [
        ("during the load", |block| block.servers.cpu_us_per_call),
        ("until the nodes are quiet", |block| block.cpu_us_until_quiet),
    ];
    for (when, time) in times {
        let (many, few) = (results.many.rows, results.few.rows);
        let name = format!("server CPU of a put among {many} keys against {few}, {when}");
        let of = |size: Size| format!("{} us", spread(results.spread(size, time)));
        table += &compared(&name, [&of(Size::Many), &of(Size::Few)], results.ratio(time), PUT_RATIO);
    }
    let copy = format!("{} s", spread(results.copy_seconds()));
    let times: [(&str, Figure<Newcomer>); 2] = [
        ("snapshot received and installed, against a copy of a file", |newcomer| newcomer.transfer_seconds),
        ("a new node from its start until ready, against that copy", |newcomer| newcomer.ready_seconds),
    ];
    for (name, time) in times {
        let (seconds, ratio) = results.joined(time);
        table += &compared(name, [&format!("{} s", spread(seconds)), &copy], ratio, SNAPSHOT_RATIO);
    }
    table
}

/// Takes a figure out of a measurement.
type Figure<T> = fn(&T) -> f64;

/// Returns the row of a figure that lies between two ends.
fn alone(name: &str, result: &str, ends: (f64, f64), bounds: Bounds) -> String {
    row(name, ["", "", result], ends, bounds)
}

/// Returns the row of a ratio, with the two figures that it divides.
fn compared(name: &str, [ours, against]: [&str; 2], ratio: Option<Spread>, bounds: Bounds) -> String {
    row(name, [ours, against, &spread(ratio)], median(ratio), bounds)
}

fn row(name: &str, cells: [&str; 3], ends: (f64, f64), bounds: Bounds) -> String {
    let (cells, Bounds { must, goal, .. }) = (cells.join(" | "), bounds);
    format!("| {name} | {cells} | <= {must} | <= {goal} | {} |\n", reached(ends, bounds))
}

/// Says which bound a figure reaches that is better the smaller it is, and lies between two ends.
fn reached((at_least, at_most): (f64, f64), bounds: Bounds) -> &'static str {
    match (bounds.reached_by(at_least), bounds.reached_by(at_most)) {
        ("no", _) => "no",
        (_, "no") => "not resolved",
        (_, worst) => worst,
    }
}

/// Returns the ends of a figure that is known: both are its median.
fn median(spread: Option<Spread>) -> (f64, f64) {
    let median = spread.map_or(f64::NAN, |spread| spread.median);
    (median, median)
}

fn ends(stop: Stop) -> String {
    format!("{} to {}", number(stop.at_least_ms), number(stop.at_most_ms))
}

fn load(watched: &Watched) -> String {
    match watched.rate {
        Some(rate) => format!("{} at {rate} calls/s", watched.load),
        None => format!("{} as fast as they go", watched.load),
    }
}

fn states(results: &Results) -> String {
    let mut text = format!(
        "An import of rows fills each state with values of {VALUE_BYTES} bytes. The bytes are the leader's\n\
         estimate, once no node writes any more.\n\n"
    );
    text += "| for | rows | import, s | state, MB |\n|---|---|---|---|\n";
    let purposes = [
        ("puts among few keys", results.few),
        ("puts among many keys", results.many),
        ("stops, restarts and new nodes", results.state),
    ];
    for (purpose, Filled { rows, seconds, state_bytes }) in purposes {
        text += &format!("| {purpose} | {rows} | {} | {} |\n", number(seconds), megabytes(state_bytes));
    }
    let whole = megabytes(results.state_bytes);
    text + &format!("\nThe last state was to have {whole} MB of keys and values.\n")
}

fn stops(results: &Results) -> String {
    let mut text = "Clients put while the leader makes snapshots, and its page `/metrics` is read again and again.\n\
                    Apply stood still at least from the first look that found committed entries waiting to the\n\
                    last look that found none of them applied, and at most from the look before to the look\n\
                    behind. Looks that were far apart make the second figure large. Each figure is the longest\n\
                    of its kind. What comes with neither a flush nor a snapshot shows how exact the others are.\n\n"
        .to_owned();
    text += "| load | looks | from look to look, ms | flushes | near a flush, ms | snapshots | in a snapshot, ms \
             | with neither, ms | p99 of a put, ms | slowest put, ms |\n|---|---|---|---|---|---|---|---|---|---|\n";
    for watched in &results.watched {
        let Watched { looks, flushes, snapshots, stops, report, .. } = watched;
        text += &format!(
            "| {} | {looks} | {} | {flushes} | {} | {snapshots} | {} | {} | {} | {} |\n",
            load(watched),
            spread(watched.look_ms),
            ends(stops.near_flushes),
            ends(stops.in_snapshots),
            ends(stops.otherwise),
            number(report.latency_us.p99 / 1000.0),
            number(report.latency_us.max / 1000.0),
        );
    }
    text
}

fn restarts(results: &Results) -> String {
    let mut text = "A follower ends behind a second of puts and is started again. The time goes from the start of\n\
                    the process to the first `/readyz` that is well.\n\n"
        .to_owned();
    text += "| ended by | s | entries in the log | applied again |\n|---|---|---|---|\n";
    for restart in &results.restarts {
        let (seconds, end) = (number(restart.seconds), restart.end);
        text += &format!("| {end} | {seconds} | {} | {} |\n", restart.log_entries, restart.applied_again);
    }
    text
}

fn puts(results: &Results) -> String {
    let mut text = "64 clients put, in the one cluster and in the other, block by block. Until quiet means: with\n\
                    what the nodes compact behind the load. Before each block, 256 bytes are written and synced,\n\
                    and sent over loopback and back, again and again.\n\n"
        .to_owned();
    text += "| round | keys | calls/s | p99, ms | server CPU a call, us | the same until quiet, us | bytes written a call \
             | fdatasync, us | echo, us |\n|---|---|---|---|---|---|---|---|---|\n";
    for block in &results.blocks {
        let keys = match block.size {
            Size::Few => results.few.rows,
            Size::Many => results.many.rows,
        };
        let (report, servers, machine) = (&block.report, &block.servers, &block.calibration);
        let figures = [
            report.calls_per_second,
            report.latency_us.p99 / 1000.0,
            servers.cpu_us_per_call,
            block.cpu_us_until_quiet,
            servers.bytes_written_per_call,
            machine.fdatasync_us.p50,
            machine.echo_us.p50,
        ];
        let cells: String = figures.map(|figure| format!(" {} |", number(figure))).concat();
        text += &format!("| {} | {keys} |{cells}\n", block.round + 1);
    }
    text
}

fn joins(results: &Results) -> String {
    let mut text = format!(
        "A node with an empty directory joins as a learner and gets a snapshot. Its pages are read every\n\
         {} ms. The nodes send snapshots as fast as they can (`--snapshot_rate_limit=0`). The copy is of a\n\
         file with as many bytes as the keys and values of the state, with a sync at its end.\n\n",
        newcomer::LOOK_PAUSE.as_millis(),
    );
    text += "| round | copy, s | received and installed, s | from the start until ready, s | MB seen received |\n\
             |---|---|---|---|---|\n";
    for (round, join) in results.joins.iter().enumerate() {
        let Newcomer { ready_seconds, transfer_seconds, bytes_seen } = join.newcomer;
        text += &format!(
            "| {} | {} | {} | {} | {} |\n",
            round + 1,
            number(join.copy_seconds),
            number(transfer_seconds),
            number(ready_seconds),
            megabytes(bytes_seen),
        );
    }
    text
}

fn megabytes(bytes: u64) -> String {
    number(bytes as f64 / 1e6)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "page_tests.rs"]
mod tests;
