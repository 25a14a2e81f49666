//! Shows one entry: its commands and how they ended, what they did, and the rows that changed. It
//! shows messages by the guest's descriptor, and rows by what the guest says about its state.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use lockstep_contract::Contract;
use prost_reflect::{DescriptorPool, MessageDescriptor, MethodDescriptor};
use serde_json::{Value, json};
use tonic::Code;

use super::{ReplayArgs, component, create};
use crate::api::status::reason_name;
use crate::cli::json::{Tree, show_bytes};
use crate::cli::report::{code_name, print_line, print_notice};
use crate::cli::rows::{RowShapes, write_state};
use crate::guest::Verdict;
use crate::machine::replay::{Attempt, Cut, Replay, RowChange, ShownCommand, ShownEntry, StoreCall, Tell};
use crate::types::{date, hex};

/// Most characters of one value in a line for people.
const SHOWN_MAX: usize = 160;

/// Runs the entries up to one, and shows that.
pub(super) fn show(args: &ReplayArgs, replay: &mut Replay<'_>, index: u64, tell: Tell<'_>) -> anyhow::Result<()> {
    let entry = replay.show(index, tell)?;
    let shown = Shower::new(&entry).entry(&entry, args.quiet);
    match args.json {
        true => print_line(&shown)?,
        false => lines(&shown).into_iter().try_for_each(print_line)?,
    }
    match &args.rows {
        Some(path) => write_rows(replay, path),
        None => Ok(()),
    }
}

/// Writes all rows of the state as it is now.
fn write_rows(replay: &Replay<'_>, path: &Path) -> anyhow::Result<()> {
    let file = create(path)?;
    let encoded = replay.component().encoded().clone();
    let written = write_state(replay.index(), &encoded, &file, &mut |row| {
        let mut failed: io::Result<()> = Ok(());
        replay.rows(&mut |key, value| {
            failed = row(key, value);
            if failed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        failed?;
        Ok(())
    })?;
    file.sync_all()?;
    print_notice(format_args!("wrote {written} rows as of entry {} to {}", replay.index(), path.display()));
    Ok(())
}

/// Shows what belongs to one guest.
struct Shower {
    pool: Option<DescriptorPool>,
    rows: RowShapes,
}

impl Shower {
    fn new(entry: &ShownEntry) -> Shower {
        let guest = &entry.component;
        let contract = Contract::new(guest.descriptor(), guest.has_watcher()).ok();
        let pool = contract.and_then(|contract| DescriptorPool::decode(contract.encoded()).ok());
        Shower { pool, rows: RowShapes::of(guest.encoded()) }
    }

    /// Shows an entry as JSON. With `quiet`, nothing of requests, replies and rows.
    fn entry(&self, entry: &ShownEntry, quiet: bool) -> Value {
        let mut shown = json!({
            "index": entry.index,
            "term": entry.term,
            "kind": entry.kind,
            "log_time_ms": entry.time_ms,
            "component": hex(&entry.component.hash()),
            "version": entry.component.version(),
            "hash": format!("{:016x}", entry.hash),
            "commands": entry.commands.iter().map(|command| self.command(command, quiet)).collect::<Vec<_>>(),
            "rows_changed": entry.rows.len() as u64 + entry.rows_left_out,
        });
        if let Some(change) = &entry.change {
            shown["change"] = json!({
                "verdict": change.verdict.name(),
                "from": hex(&change.from),
                "to": hex(&change.to),
                "rows": change.rows,
                "detail": change.detail,
            });
        }
        if !quiet {
            shown["rows"] = entry.rows.iter().map(|row| self.row(row)).collect();
            shown["rows_left_out"] = entry.rows_left_out.into();
        }
        shown
    }

    fn command(&self, command: &ShownCommand, quiet: bool) -> Value {
        let method = self.method(&command.method);
        let mut shown = json!({ "position": command.position, "method": command.method, "caller": command.caller });
        let fuel = command.attempts.iter().fold(0u64, |sum, attempt| sum.saturating_add(attempt.fuel));
        shown["fuel"] = fuel.into();
        if quiet {
            shown["outcome"] = json!({ outcome_name(&command.verdict): null });
            return shown;
        }
        shown["request"] = message(&command.request, method.as_ref().map(MethodDescriptor::input));
        shown["outcome"] = match &command.verdict {
            Verdict::Reply(reply) => json!({ "reply": message(reply, method.as_ref().map(MethodDescriptor::output)) }),
            Verdict::Refused(status) => {
                let code = code_name(Code::from_i32(i32::try_from(status.code).unwrap_or_default()));
                json!({ "refused": code, "message": status.message })
            }
            Verdict::Failed(failure) => json!({ "failed": reason_name(failure.reason), "detail": failure.detail }),
        };
        shown["attempts"] = command.attempts.iter().map(|attempt| self.attempt(attempt)).collect();
        shown
    }

    fn attempt(&self, attempt: &Attempt) -> Value {
        let line = |line: &crate::guest::LogLine| json!({ "level": line.level, "text": line.text });
        json!({
            "fuel": attempt.fuel,
            "log": attempt.lines.iter().map(line).collect::<Vec<_>>(),
            "calls": attempt.calls.iter().map(|call| self.call(call)).collect::<Vec<_>>(),
            "calls_left_out": attempt.calls_left_out,
        })
    }

    fn call(&self, call: &StoreCall) -> Value {
        match call {
            StoreCall::Get { key, value: None } => json!({ "call": "get", "row": self.key(key), "found": false }),
            StoreCall::Get { key, value: Some(value) } => json!({ "call": "get", "row": self.pair(key, value) }),
            StoreCall::Put { key, value } => json!({ "call": "put", "row": self.pair(key, value) }),
            StoreCall::Remove { key } => json!({ "call": "remove", "row": self.key(key) }),
            StoreCall::Scan { start, end, reverse, limit, rows, more } => json!({
                "call": "scan", "start": bytes(start), "end": end.as_ref().map(bytes), "reverse": reverse,
                "limit": limit, "rows": rows, "more": more,
            }),
            StoreCall::RemoveRange { start, end, removed } => json!({
                "call": "remove_range", "start": bytes(start), "end": end.as_ref().map(bytes), "removed": removed,
            }),
        }
    }

    fn row(&self, row: &RowChange) -> Value {
        let shown = |value: &Option<Vec<u8>>| value.as_ref().map(|value| self.rows.row(&row.key, value).to_value());
        let before = shown(&row.before);
        match shown(&row.after) {
            Some(put) => json!({ "put": put, "before": before }),
            None => json!({ "removed": self.rows.key(&row.key).to_value(), "before": before }),
        }
    }

    /// Shows a row of which all bytes were kept. Of any other one the beginning is shown.
    fn pair(&self, key: &Cut, value: &Cut) -> Value {
        match key.is_whole() && value.is_whole() {
            true => self.rows.row(&key.kept, &value.kept).to_value(),
            false => json!({ "key": self.key(key), "value": bytes(value) }),
        }
    }

    fn key(&self, key: &Cut) -> Value {
        if key.is_whole() { self.rows.key(&key.kept).to_value() } else { bytes(key) }
    }

    fn method(&self, name: &str) -> Option<MethodDescriptor> {
        let (service, method) = name.split_once('/')?;
        self.pool.as_ref()?.get_service_by_name(service)?.methods().find(|found| found.name() == method)
    }
}

fn outcome_name(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Reply(_) => "reply",
        Verdict::Refused(_) => "refused",
        Verdict::Failed(_) => "failed",
    }
}

/// Shows a message; one of a method that the guest does not describe, as bytes.
fn message(bytes: &[u8], descriptor: Option<MessageDescriptor>) -> Value {
    let tree = match descriptor {
        Some(descriptor) => show_bytes(&descriptor, bytes).json,
        None => Tree::text(bytes.escape_ascii().to_string()),
    };
    tree.to_value()
}

/// Shows bytes that stand for no whole row. Says how many there are, if not all were kept.
fn bytes(cut: &Cut) -> Value {
    let shown = cut.kept.escape_ascii().to_string();
    if cut.is_whole() { shown.into() } else { format!("{shown}… ({} bytes)", cut.bytes).into() }
}

/// Returns the lines for people.
fn lines(shown: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let time = date(shown["log_time_ms"].as_u64().unwrap_or_default());
    let mut lines = vec![
        format!("entry {} of term {}: {}, log time {time}", shown["index"], shown["term"], text(&shown["kind"])),
        format!("run by {}", component(&text(&shown["version"]), &text(&shown["component"]))),
    ];
    for command in list(&shown["commands"]) {
        lines.extend(command_lines(command));
    }
    if shown["change"].is_object() {
        lines.push(format!("change {}", short(&shown["change"])));
    }
    for row in list(&shown["rows"]) {
        let before =
            if row["before"].is_null() { String::new() } else { format!(", before {}", short(&row["before"])) };
        match row.get("put") {
            Some(put) => lines.push(format!("row put {}{before}", short(put))),
            None => lines.push(format!("row removed {}{before}", short(&row["removed"]))),
        }
    }
    if shown["rows_left_out"].as_u64().is_some_and(|left_out| left_out > 0) {
        lines.push(format!("{} more rows changed", shown["rows_left_out"]));
    }
    lines.push(format!("{} rows changed; the hash behind it is {}", shown["rows_changed"], text(&shown["hash"])));
    lines
}

fn command_lines(command: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let caller = match text(&command["caller"]).as_str() {
        "" => String::new(),
        caller => format!(" by {caller}"),
    };
    let (position, method, fuel) = (&command["position"], text(&command["method"]), &command["fuel"]);
    let mut lines = vec![format!("command {position}: {method}{caller}, {fuel} fuel")];
    if !command["request"].is_null() {
        lines.push(format!("  request {}", command["request"]));
    }
    lines.push(format!("  outcome {}", command["outcome"]));
    let attempts = list(&command["attempts"]);
    for (number, attempt) in (1..).zip(attempts) {
        if attempts.len() > 1 {
            lines.push(format!("  run {number}, {} fuel", attempt["fuel"]));
        }
        for line in list(&attempt["log"]) {
            lines.push(format!("  log {} {}", text(&line["level"]), line["text"]));
        }
        lines.extend(list(&attempt["calls"]).iter().map(|call| format!("  {}", short(call))));
        if attempt["calls_left_out"].as_u64().is_some_and(|left_out| left_out > 0) {
            lines.push(format!("  {} more calls", attempt["calls_left_out"]));
        }
    }
    lines
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Returns a value in one line, shortened.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_told_in_lines() {
        let shown = json!({
            "index": 7, "term": 2, "kind": "commands", "log_time_ms": 0, "component": "ab".repeat(32), "version": "1",
            "hash": "0f", "rows_changed": 1, "rows_left_out": 0,
            "rows": [{ "put": { "in": "locks", "key": "a", "value": 1 }, "before": null }],
            "commands": [{
                "position": 0, "method": "S/M", "caller": "ann", "fuel": 9, "request": { "a": 1 }, "outcome": { "reply": {} },
                "attempts": [{
                    "fuel": 9, "calls_left_out": 2, "log": [{ "level": "info", "text": "hello" }],
                    "calls": [{ "call": "get", "found": false, "row": { "in": "locks", "key": "a" } }],
                }],
            }],
        });
        let said = lines(&shown).join("\n");
        for expected in [
            "entry 7 of term 2: commands, log time 1970-01-01T00:00:00Z",
            "run by version 1 (abababababab)",
            "command 0: S/M by ann, 9 fuel",
            "log info \"hello\"",
            "\"call\":\"get\"",
            "2 more calls",
            "row put {\"in\":\"locks\"",
            "1 rows changed; the hash behind it is 0f",
        ] {
            assert!(said.contains(expected), "{expected} is not in:\n{said}");
        }
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        let long = Value::from("ü".repeat(SHOWN_MAX * 2));
        assert_eq!(short(&long).chars().count(), SHOWN_MAX + 1);
        let cut = Cut { kept: b"ab\x00".to_vec(), bytes: 9 };
        assert_eq!(bytes(&cut), Value::from("ab\\x00… (9 bytes)"));
    }
}
