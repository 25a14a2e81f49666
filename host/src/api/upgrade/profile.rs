//! The calls of `lockstep.v1.Admin` that show and change the limits of the machine. A change of
//! limits is a change to the component that runs already, so it takes the steps of an upgrade.
//! `guest` knows which values there may be. `operation` shows and changes retention and quotas.
//!
//! - Values that are in force already change nothing.
//! - What gets tighter is rehearsed: if calls end otherwise, the change needs a word for that.

use std::sync::Arc;

use lockstep_proto::v1::upgrade_event::Step as Kind;
use lockstep_proto::v1::{ProfileResponse, SetProfileRequest, UpgradeEvent};
use serde_json::{Value, json};
use tonic::{Request, Response, Status};

use super::in_force::{InForce, run};
use super::telling::Telling;
use super::words::{decided, event, stopped_at};
use super::{Events, operation};
use crate::api::gate::{apart, note};
use crate::api::{Shared, status};
use crate::codec::Genesis;
use crate::guest::{LimitChange, LimitRange, Limits};
use crate::machine::{ChangeReport, ChangeVerdict};
use crate::raft::upgrade::{Ended, Plan, Stopped};
use crate::types::hex;

/// Most bytes of all words of one change.
const WORDS_BYTES_MAX: usize = 4 << 10;

/// Returns the limits in force.
pub(in crate::api) fn show(shared: &Shared) -> Result<ProfileResponse, Status> {
    let now = InForce::on(shared)?;
    let mut shown = shown(now.index, &now.profile, &now.limits);
    shown["operation"] = operation::shown(shared);
    Ok(ProfileResponse { json: shown.to_string() })
}

/// Changes limits, and tells of each step.
pub(in crate::api) async fn set(
    shared: &Arc<Shared>,
    request: Request<SetProfileRequest>,
) -> Result<Response<Events>, Status> {
    let (call, request) = apart(request);
    check_size(&request.set).map_err(Status::invalid_argument)?;
    note(&call, "set", request.set.join(","));
    note(&call, "dry_run", request.dry_run);
    note(&call, "rehearse", request.rehearse);
    note(&call, "allow_failing", request.allow_failing);
    if operation::is_meant(&request.set).map_err(Status::invalid_argument)? {
        return operation::set(shared, call, request).await;
    }
    let values = request.set.iter().map(|word| read(word)).collect::<Result<Vec<_>, _>>();
    let values = values.map_err(Status::invalid_argument)?;
    shared.parts.calls.require_leader().await.map_err(|error| status::unmarked(&error))?;
    let now = InForce::on(shared)?;
    let after = now.limits.with(&values).map_err(|problem| Status::invalid_argument(operation::or_values(problem)))?;
    let (telling, response) = Telling::begin(call);
    let change = Setting { shared: shared.clone(), request, now, after };
    // From the proposal on, it goes on to its end whoever listens.
    tokio::spawn(async move {
        let ended = change.take_steps(&telling).await;
        let what = format!("an operator's change of limits ({})", change.request.set.join(","));
        telling.end(&what, ended, stopped_at).await;
    });
    Ok(response)
}

/// Keeps what the audit and the log are told of it small.
fn check_size(set: &[String]) -> Result<(), String> {
    match set.iter().map(String::len).sum::<usize>() {
        0 => Err("no key=value was given".to_owned()),
        bytes if bytes > WORDS_BYTES_MAX => Err(format!("{bytes} bytes are more than all limits need")),
        _ => Ok(()),
    }
}

/// Reads `key=value`.
fn read(word: &str) -> Result<(String, u64), String> {
    let (name, value) = word.split_once('=').ok_or_else(|| format!("{word:?} is not written as key=value"))?;
    let value = value.parse().map_err(|_| format!("{word:?}: the value is a whole number from 0 up"))?;
    Ok((name.to_owned(), value))
}

fn shown(index: u64, profile: &Genesis, limits: &Limits) -> Value {
    let rows = Limits::keys().iter().map(|key| {
        let (min, max, fixed) = match key.range {
            LimitRange::Within(min, max) => (Some(min), Some(max), None),
            LimitRange::Fixed(why) => (None, None, Some(why)),
        };
        json!({
            "key": key.name, "value": limits.value(key), "unit": key.unit, "default": Limits::DEFAULT.value(key),
            "min": min, "max": max, "fixed": fixed, "about": key.about,
        })
    });
    json!({
        "index": index, "component": hex(&profile.component_hash), "semantics": profile.semantics,
        "limits": rows.collect::<Vec<_>>(), "derived": derived(limits),
    })
}

/// Lists what follows from limits and cannot be set by itself.
fn derived(limits: &Limits) -> Value {
    let row = |key: &str, of: fn(&Limits) -> u64, about: &str| {
        json!({
            "key": key, "value": of(limits), "unit": "fuel", "default": of(&Limits::DEFAULT),
            "follows": "fuel_per_command", "about": about,
        })
    };
    json!([
        row("migrate_fuel", Limits::migration_fuel, "fuel of one call of migrate"),
        row("migrate_fuel_per_entry", Limits::migration_fuel_of_entry, "fuel of all calls of migrate in one entry"),
    ])
}

/// One change of limits.
struct Setting {
    shared: Arc<Shared>,
    request: SetProfileRequest,
    now: InForce,
    after: Limits,
}

impl Setting {
    /// Takes all steps. Returns the event that tells the end; a dry run that went well has none.
    async fn take_steps(&self, telling: &Telling) -> Result<Option<UpgradeEvent>, Stopped> {
        let changes = self.now.limits.changes_to(&self.after);
        if changes.is_empty() {
            return Ok(Some(already(self.now.index)));
        }
        let is_tighter = changes.iter().any(LimitChange::is_tighter);
        let rehearse = if is_tighter { self.request.rehearse } else { 0 };
        telling.tell(checked(&changes, rehearse)).await;
        let plan = Plan {
            keeps_answers: !self.request.allow_failing,
            rehearse,
            is_dry_run: self.request.dry_run,
            ..self.now.plan(self.after.clone())?
        };
        Ok(match run(&self.shared, plan, telling).await? {
            Ended::Tried => None,
            Ended::Decided { report, behind } => Some(of_limits(&report, &behind, &changes)),
        })
    }
}

/// Tells what will change, and whether that is rehearsed.
fn checked(changes: &[LimitChange], rehearse: u32) -> UpgradeEvent {
    let mut text = "checked:".to_owned();
    for change in changes {
        let way = if change.is_tighter() { "tighter" } else { "wider" };
        text.push_str(&format!(
            "\n  {}: {} -> {} {}, {way}",
            change.key.name, change.before, change.after, change.key.unit
        ));
    }
    text.push_str(if rehearse == 0 { "\n  nothing is rehearsed" } else { "" });
    event(Kind::Checked, text, json!({ "changes": of_changes(changes), "rehearse": rehearse }))
}

/// Tells that the values are in force already.
fn already(index: u64) -> UpgradeEvent {
    let text = format!("nothing was changed: these values are in force already, since entry {index} or before");
    event(Kind::Changed, text, json!({ "index": index, "already": true }))
}

/// Tells how the change of limits ended that was in the log.
fn of_limits(report: &ChangeReport, behind: &[String], changes: &[LimitChange]) -> UpgradeEvent {
    if report.verdict != ChangeVerdict::Changed {
        return decided(report, behind);
    }
    let mut text = format!(
        "changed at entry {}: every node runs the component under these limits from there on; apply was held for {} ms",
        report.index,
        report.held.as_millis()
    );
    if !behind.is_empty() {
        text.push_str(&format!("; not yet applied by {}", behind.join(", ")));
    }
    let object = json!({
        "index": report.index, "verdict": report.verdict.name(), "changes": of_changes(changes), "behind": behind,
        "held_ms": report.held.as_millis() as u64,
    });
    event(Kind::Changed, text, object)
}

/// Lists the limits that change, for programs.
pub(super) fn of_changes(changes: &[LimitChange]) -> Vec<Value> {
    let row = |change: &LimitChange| {
        json!({
            "key": change.key.name, "before": change.before, "after": change.after, "unit": change.key.unit,
            "tighter": change.is_tighter(),
        })
    };
    changes.iter().map(row).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn changes() -> Vec<LimitChange> {
        let after = Limits::DEFAULT.with(&[("fuel_per_command".into(), 5_000_000), ("log_bytes_max".into(), 1 << 17)]);
        Limits::DEFAULT.changes_to(&after.unwrap())
    }

    fn object(event: &UpgradeEvent) -> Value {
        serde_json::from_str(&event.json).unwrap()
    }

    #[test]
    fn words_are_keys_and_values() {
        assert_eq!(read("log_bytes_max=7"), Ok(("log_bytes_max".to_owned(), 7)));
        for word in ["log_bytes_max", "log_bytes_max=", "log_bytes_max=-1", "log_bytes_max=1MiB"] {
            assert!(read(word).is_err(), "{word}");
        }
        assert!(check_size(&[]).is_err() && check_size(&["a".repeat(WORDS_BYTES_MAX + 1)]).is_err());
    }

    #[test]
    fn the_profile_is_shown_with_units_defaults_and_ranges() {
        let profile = Genesis { semantics: 4, component_hash: vec![1; 32].into(), ..Genesis::default() };
        let shown = shown(7, &profile, &Limits { log_bytes_max: 5, ..Limits::DEFAULT });
        let rows = shown["limits"].as_array().unwrap();
        assert_eq!((rows.len(), &shown["index"], &shown["semantics"]), (Limits::keys().len(), &json!(7), &json!(4)));
        let row = rows.iter().find(|row| row["key"] == "log_bytes_max").unwrap();
        let facts = (&row["value"], &row["default"], &row["unit"], &row["min"], &row["fixed"]);
        assert_eq!(facts, (&json!(5), &json!(65_536), &json!("bytes"), &json!(0), &Value::Null));
        assert!(rows.iter().any(|row| row["key"] == "wasm_stack_bytes" && row["fixed"].is_string()));
        let of_entry = &shown["derived"][1];
        let facts = (&of_entry["key"], &of_entry["value"], &of_entry["follows"]);
        let fuel = json!(Limits::DEFAULT.migration_fuel_of_entry());
        assert_eq!(facts, (&json!("migrate_fuel_per_entry"), &fuel, &json!("fuel_per_command")));
    }

    #[test]
    fn the_check_says_which_way_each_limit_goes() {
        let event = checked(&changes(), 0);
        assert!(event.text.contains("fuel_per_command: 100000000 -> 5000000 fuel, tighter"), "{}", event.text);
        assert!(event.text.contains("log_bytes_max: 65536 -> 131072 bytes, wider"), "{}", event.text);
        assert!(event.text.ends_with("nothing is rehearsed"), "{}", event.text);
        assert_eq!(object(&event)["changes"][0]["tighter"], json!(true));
    }

    #[test]
    fn the_end_names_the_entry_and_who_is_behind() {
        let verdict = ChangeVerdict::Changed;
        let (from, to, detail, held) = ([1; 32], [1; 32], String::new(), Duration::from_millis(3));
        let report = ChangeReport { index: 9, from, to, verdict, detail, rows: 0, held, ran_again: None };
        let event = of_limits(&report, &["nodeC".into()], &changes());
        assert!(event.text.contains("changed at entry 9") && event.text.contains("not yet applied by nodeC"));
        assert_eq!((event.step(), &object(&event)["behind"]), (Kind::Changed, &json!(["nodeC"])));
        let outdated = ChangeReport { verdict: ChangeVerdict::Outdated, ..report };
        assert_eq!(of_limits(&outdated, &[], &changes()).step(), Kind::NotChanged);
        assert_eq!(object(&already(4))["already"], json!(true));
        let worse = stopped_at(&Stopped::Worsened(vec!["nodeA: 2 of 9".into()]));
        assert_eq!((worse.step(), &object(&worse)["worsened"]), (Kind::NotChanged, &json!(["nodeA: 2 of 9"])));
    }
}
