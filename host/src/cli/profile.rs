//! `lockstep admin <addr> profile` shows the limits of the machine, and the cluster's retention and
//! quotas, as tables, and `profile set` changes them. The leader decides and does all; this file
//! only asks.

use lockstep_proto::v1::admin_client::AdminClient;
use lockstep_proto::v1::upgrade_event::Step;
use lockstep_proto::v1::{ProfileResponse, SetProfileRequest, UpgradeEvent};
use serde_json::Value;

use super::leader;
use super::manager::text_field;
use super::report::Failure;
use super::rpcs::{Answered, Extra};
use super::upgrade::{
    Asked, MESSAGE_BYTES_MAX, REHEARSE_DEFAULT, REHEARSE_MAX, WHETHER, end_dry_run, failed, stopped_telling, tell,
};
use crate::config::{format_size, parse_size};

const USAGE: &str = "it is used as: profile set <key>=<value>... [dry_run] [rehearse=<count>] [allow_failing]";

/// The addition to the RPC.
pub(crate) const EXTRA: Extra = Extra {
    rpc: "lockstep.v1.Admin.Profile",
    about: "profile shows the limits, retention and quotas in force; profile set <key>=<value>... changes some, after every member has tried \
            it (retention and quotas: <key>=none takes a value back); more words: dry_run, rehearse=<count> (0: none), allow_failing. Exit code 3: not known whether the change was made.",
    answer: Some(answer),
    json: Some(|answered| Ok(text_field(answered.reply, "json").unwrap_or_default())),
    ..Extra::NONE
};

/// Returns the words after `profile set`, if these arguments change the profile.
pub(crate) fn set_words<'a>(rpc: &str, arguments: &'a [String]) -> Option<&'a [String]> {
    match arguments.split_first() {
        Some((first, rest)) if rpc == "profile" && first == "set" => Some(rest),
        _ => None,
    }
}

/// Has the leader change limits, and prints its steps.
pub(crate) async fn set(asked: Asked<'_>, words: &[String]) -> anyhow::Result<()> {
    let Asked { addr, credentials, timeout, json } = asked;
    let request = read(words)?;
    let whether = (!request.dry_run).then_some(WHETHER);
    let is_dry_run = request.dry_run;
    let manager = leader::find(addr, credentials, timeout).await?;
    let server = manager.server();
    let mut client = AdminClient::new(server.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let events = match client.set_profile(request).await {
        Ok(events) => events.into_inner(),
        Err(status) => return Err(failed(server, status, whether).await),
    };
    let mut is_rehearsed = false;
    let next = |event: Option<&UpgradeEvent>| {
        let event = event?;
        match event.step() {
            Step::Checked => {
                is_rehearsed = announces_rehearsal(event);
                Some("every member makes itself ready")
            }
            Step::Prepared if is_rehearsed => Some("every member rehearses what gets tighter"),
            _ => None,
        }
    };
    end(is_dry_run, json, tell(server, events, json, whether, next).await?)
}

/// Tells whether the leader has this change rehearsed. It has not if nothing gets tighter.
fn announces_rehearsal(checked: &UpgradeEvent) -> bool {
    serde_json::from_str(&checked.json).is_ok_and(|event: Value| event["rehearse"].as_u64().is_some_and(|n| n > 0))
}

/// Reads the words after `profile set`.
fn read(words: &[String]) -> Result<SetProfileRequest, Failure> {
    let mut request = SetProfileRequest { rehearse: REHEARSE_DEFAULT, ..SetProfileRequest::default() };
    for word in words {
        match (word.as_str(), word.split_once('=')) {
            ("dry_run", _) => request.dry_run = true,
            ("allow_failing", _) => request.allow_failing = true,
            (_, Some(("rehearse", count))) => {
                let count = count.parse::<u32>().ok().filter(|count| *count <= REHEARSE_MAX);
                request.rehearse = count.ok_or_else(|| {
                    Failure::usage(format!("profile set: {word:?}: the count is 0 to {REHEARSE_MAX}"))
                })?;
            }
            (_, Some((key, value))) if key.starts_with("methods_") || value == "none" => {
                request.set.push(format!("{key}={value}"));
            }
            (_, Some((key, value))) => {
                let value = parse_size(value).map_err(|_| {
                    let problem = format!(
                        "profile set: {word:?}: the value is a whole number, or one of KiB, MiB or GiB, or none"
                    );
                    Failure::usage(problem)
                })?;
                request.set.push(format!("{key}={value}"));
            }
            (_, None) => return Err(Failure::usage(format!("profile set: {word:?} is no key=value")).hint(USAGE)),
        }
    }
    if request.set.is_empty() {
        return Err(Failure::usage("profile set: no key=value was given").hint(USAGE));
    }
    Ok(request)
}

/// Says how the change ended, by its last step.
pub(super) fn end(is_dry_run: bool, json: bool, last: Option<UpgradeEvent>) -> anyhow::Result<()> {
    match last {
        Some(event) if event.step() == Step::Changed => Ok(()),
        Some(event) if event.step() == Step::NotChanged => {
            let failure = Failure::new(event.text);
            let worsens = serde_json::from_str(&event.json).is_ok_and(|event: Value| event["worsened"].is_array());
            Err(if worsens { failure.hint("if clients can bear that: allow_failing").into() } else { failure.into() })
        }
        _ if is_dry_run => end_dry_run(last.is_some_and(|event| event.step() != Step::Checked), json),
        _ => Err(stopped_telling(WHETHER, "`lockstep admin <addr> profile` shows what is in force")),
    }
}

/// Shows the limits, and retention and quotas, as tables.
fn answer(answered: &Answered<'_>) -> anyhow::Result<String> {
    let ProfileResponse { json } = answered.reply.transcode_to()?;
    let profile: Value = serde_json::from_str(&json)?;
    // A node of an earlier build has no such values.
    match profile["operation"].is_object() {
        true => Ok(format!("{}\n\n{}", table(&profile), operation_table(&profile["operation"]))),
        false => Ok(table(&profile)),
    }
}

fn operation_table(operation: &Value) -> String {
    let mut rows = vec![["retention or quota", "value", "from", "now", "range", "what it bounds"].map(str::to_owned)];
    for row in operation["values"].as_array().into_iter().flatten() {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let unit = text("unit");
        let number = |key: &str| row[key].as_u64().map(|value| worded(value, &unit));
        let value = match (number("value"), row["value"].as_str()) {
            (Some(value), _) if unit == "bytes" => value,
            (Some(value), _) => format!("{value} {unit}"),
            (None, methods) => methods.unwrap_or("none").to_owned(),
        };
        let range = number("min").zip(number("max")).map(|(min, max)| format!("{min} to {max}"));
        let range = range.unwrap_or_else(|| "patterns, with commas".to_owned());
        rows.push([text("key"), value, text("from"), number("now").unwrap_or_default(), range, text("about")]);
    }
    let head = match operation["index"].as_u64().unwrap_or(0) {
        0 => "retention and quotas: none was set for the cluster".to_owned(),
        index => format!("retention and quotas: set at entry {index} by {}", named(operation["by"].as_str())),
    };
    std::iter::once(head).chain(aligned(&rows)).collect::<Vec<_>>().join("\n")
}

fn named(by: Option<&str>) -> &str {
    by.filter(|by| !by.is_empty()).unwrap_or("an operator without a name")
}

/// Writes rows so that their columns stand below each other. The last column has no width.
fn aligned<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS - 1).map(width).collect();
    let line = |row: &[String; COLUMNS]| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}  "));
        format!("{}{}", cells.collect::<String>(), row[COLUMNS - 1])
    };
    rows.iter().map(line).collect()
}

fn table(profile: &Value) -> String {
    let mut rows = vec![["limit", "value", "default", "range", "what it bounds"].map(str::to_owned)];
    for row in ["limits", "derived"].iter().filter_map(|part| profile[part].as_array()).flatten() {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let unit = text("unit");
        let number = |key: &str| row[key].as_u64().map(|value| worded(value, &unit)).unwrap_or_default();
        let range = match (row["fixed"].as_str(), row["follows"].as_str()) {
            (Some(_), _) => "fixed".to_owned(),
            (None, Some(limit)) => format!("follows {limit}"),
            (None, None) => format!("{} to {}", number("min"), number("max")),
        };
        let value = if unit == "bytes" { number("value") } else { format!("{} {unit}", number("value")) };
        rows.push([text("key"), value, number("default"), range, text("about")]);
    }
    let head = format!(
        "in force since entry {}, with component {} and semantics {}",
        profile["index"],
        profile["component"].as_str().unwrap_or_default(),
        profile["semantics"]
    );
    std::iter::once(head).chain(aligned(&rows)).collect::<Vec<_>>().join("\n")
}

/// Writes a number as people do: bytes with their unit, and no limit as such.
fn worded(value: u64, unit: &str) -> String {
    match unit {
        _ if value == u64::MAX => "none".to_owned(),
        "bytes" => match format_size(value) {
            plain if plain.ends_with(|last: char| last.is_ascii_digit()) => format!("{plain}B"),
            size => size,
        },
        _ => value.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| word.to_string()).collect()
    }

    #[test]
    fn values_may_have_units_and_flags_are_words() {
        let request = read(&words(&["memory_bytes_max=32MiB", "fuel_per_command=7", "dry_run"])).unwrap();
        assert_eq!(request.set, ["memory_bytes_max=33554432", "fuel_per_command=7"]);
        assert_eq!((request.dry_run, request.rehearse, request.allow_failing), (true, REHEARSE_DEFAULT, false));
        let request = read(&words(&["a=1", "rehearse=0", "allow_failing"])).unwrap();
        assert_eq!((request.rehearse, request.allow_failing), (0, true));
        for wrong in [&[][..], &["dry_run"], &["memory"], &["a=b"], &["a=1", "rehearse=-1"], &["a=1", "rehearse=70000"]]
        {
            assert!(read(&words(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn only_profile_set_changes_limits() {
        let given = words(&["set", "a=1"]);
        assert_eq!(set_words("profile", &given), Some(&given[1..]));
        assert_eq!(set_words("profile", &[]), None);
        assert_eq!(set_words("status", &given), None);
    }

    #[test]
    fn a_rehearsal_is_told_only_if_something_gets_tighter() {
        let checked = |json: &str| UpgradeEvent { step: Step::Checked.into(), text: "said".into(), json: json.into() };
        assert!(announces_rehearsal(&checked(r#"{"rehearse": 1000}"#)));
        assert!(!announces_rehearsal(&checked(r#"{"rehearse": 0}"#)) && !announces_rehearsal(&checked("{}")));
    }

    #[test]
    fn the_table_has_a_row_for_each_limit() {
        let row = |key: &str, value: u64, fixed: Option<&str>| json!({ "key": key, "value": value, "default": 65_536, "unit": "bytes", "min": 0, "max": 1_048_576, "fixed": fixed, "about": "x" });
        let limits = [row("log_bytes_max", 5, None), row("wasm_stack_bytes", 65_536, Some("threads"))];
        let derived = [
            json!({ "key": "migrate_fuel", "value": 50, "default": 50, "unit": "fuel", "follows": "a_limit", "about": "y" }),
        ];
        let shown =
            table(&json!({ "index": 7, "component": "ab", "semantics": 4, "limits": limits, "derived": derived }));
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], "in force since entry 7, with component ab and semantics 4");
        assert!(lines[2].starts_with("log_bytes_max     5B       64KiB    0B to 1MiB       x"), "{shown}");
        assert!(lines[3].contains("64KiB    64KiB    fixed"), "{shown}");
        assert!(lines[4].starts_with("migrate_fuel      50 fuel  50       follows a_limit  y"), "{shown}");
    }

    #[test]
    fn a_quota_is_taken_back_by_none_and_methods_are_no_numbers() {
        let request = read(&words(&["state_bytes_max=none", "methods_over_quota=a.B/C*,d.E/F"])).unwrap();
        assert_eq!(request.set, ["state_bytes_max=none", "methods_over_quota=a.B/C*,d.E/F"]);
    }

    #[test]
    fn retention_and_quotas_say_where_they_come_from() {
        let row = |key: &str, value: Value, unit: &str, from: Option<&str>| json!({ "key": key, "value": value, "unit": unit, "from": from, "min": 0, "max": 1_024, "now": 7, "about": "x" });
        let methods = json!({ "key": "methods_over_quota", "value": "a.B/C", "unit": "methods", "from": "profile", "about": "y" });
        let values = [
            row("trailing_commands", json!(5), "commands", Some("--trailing_logs")),
            row("state_bytes_max", Value::Null, "bytes", None),
            methods,
        ];
        let shown = operation_table(&json!({ "index": 7, "by": "ann", "values": values }));
        let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0].join(" "), "retention and quotas: set at entry 7 by ann");
        assert_eq!(lines[2][..5], ["trailing_commands", "5", "commands", "--trailing_logs", "7"]);
        assert_eq!(lines[3][..3], ["state_bytes_max", "none", "7B"]);
        assert_eq!(lines[4][..4], ["methods_over_quota", "a.B/C", "profile", "patterns,"]);
        assert!(
            operation_table(&json!({ "index": 0, "values": [] })).starts_with("retention and quotas: none was set")
        );
    }

    #[test]
    fn the_end_is_told_by_the_last_step() {
        let event =
            |step: Step, json: &str| Some(UpgradeEvent { step: step.into(), text: "said".into(), json: json.into() });
        assert!(end(false, true, event(Step::Changed, "{}")).is_ok());
        assert!(
            end(true, true, event(Step::Rehearsed, "{}")).is_ok()
                && end(true, true, event(Step::Prepared, "{}")).is_ok()
        );
        assert!(end(false, true, event(Step::Rehearsed, "{}")).is_err() && end(false, true, None).is_err());
        let hint = |json| {
            format!("{:?}", end(false, true, event(Step::NotChanged, json)).unwrap_err().downcast_ref::<Failure>())
        };
        assert!(hint(r#"{"worsened": []}"#).contains("allow_failing"));
        assert!(!hint(r#"{"reason": "no"}"#).contains("allow_failing"));
    }
}
