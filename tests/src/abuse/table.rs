//! Writes the results of a run: a table for people, and JSON for programs. Judges nothing.

use std::time::Duration;

use serde_json::{Value, json};

use super::attacker::Did;
use super::judge::Times;
use super::run::Judged;

/// Returns the table in Markdown, with what is wrong below it.
pub fn rows(judged: &[Judged]) -> String {
    let mut table = String::from(
        "| case | verdict | put p99, ms: before, during, factor | get p99 | put p99, attacked node | \
         get p99, attacked node | failed calls: others | attacked node | growth, MiB | back after, s | elections | \
         processors: node, attacker | what the attacker did |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    table.extend(judged.iter().map(row));
    for one in judged.iter().filter(|one| !one.verdict.passed()) {
        table.push_str(&format!("\n{} failed:\n", one.case));
        table.extend(one.verdict.wrong.iter().map(|wrong| format!("* {wrong}\n")));
        table.extend(one.kept.iter().map(|kept| format!("* the nodes' data and logs are in {}\n", kept.display())));
    }
    table
}

fn row(one: &Judged) -> String {
    let figures = &one.figures;
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} of {} | {} | {} | {} | {:.2}, {:.2} | {} |\n",
        one.case,
        if one.verdict.passed() { "passed" } else { "FAILED" },
        times(&figures.puts),
        times(&figures.gets),
        times(&figures.puts_at_attacked),
        times(&figures.gets_at_attacked),
        figures.errors.len(),
        figures.at_attacked.0,
        figures.at_attacked.1,
        figures.growth_bytes >> 20,
        figures.back.map_or("never".into(), |back| format!("{:.1}", back.as_secs_f64())),
        figures.elections,
        figures.node_processors,
        figures.attacker_processors,
        figures.did,
    )
}

/// Returns the times and the factor as it was measured.
fn times(times: &Times) -> String {
    let (baseline, attack) = (milliseconds(times.baseline), milliseconds(times.attack));
    format!("{baseline:.1}, {attack:.1}, {:.1}", times.raw_factor())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Returns what an attacker did, in words.
pub(super) fn deeds(did: &Did) -> String {
    let mut words: Vec<String> = did.counts.iter().map(|(what, number)| format!("{number} {what}")).collect();
    if let Some(failure) = &did.last_failure {
        words.push(format!("the last failure: {}", failure.replace(['|', '\n'], " ")));
    }
    if words.is_empty() { "nothing".into() } else { words.join(", ") }
}

/// Returns the results as JSON: a list with one object for each case.
pub fn json(judged: &[Judged]) -> Value {
    judged.iter().map(object).collect()
}

fn object(one: &Judged) -> Value {
    let figures = &one.figures;
    let times = |times: &Times| {
        json!({
            "baseline_ms": milliseconds(times.baseline),
            "attack_ms": milliseconds(times.attack),
            "after_ms": milliseconds(times.after),
            "factor": times.raw_factor(),
            "factor_judged": times.factor(),
            "failed": times.failed,
        })
    };
    json!({
        "case": one.case,
        "passed": one.verdict.passed(),
        "wrong": one.verdict.wrong,
        "put_p99": times(&figures.puts),
        "get_p99": times(&figures.gets),
        "put_p99_at_attacked": times(&figures.puts_at_attacked),
        "get_p99_at_attacked": times(&figures.gets_at_attacked),
        "promised_at_attacked": format!("{:?}", figures.promised),
        "calls": figures.calls,
        "errors": figures.errors.len(),
        "errors_at_attacked": figures.at_attacked.0,
        "calls_at_attacked": figures.at_attacked.1,
        "growth_bytes": figures.growth_bytes,
        "stopped_early": figures.stopped,
        "back_seconds": figures.back.map(|back| back.as_secs_f64()),
        "processes_ended": figures.ended.len(),
        "elections": figures.elections,
        "node_processors": figures.node_processors,
        "attacker_processors": figures.attacker_processors,
        "did": figures.did,
    })
}
