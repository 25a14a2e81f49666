//! Shows and sets retention and quotas of the cluster, for the calls of `profile`. It says what a
//! value will do at once. `machine` knows which values there are, and `raft/upgrade` proposes the
//! entry.
//!
//! - Values that are in force already change nothing.
//! - A quota below what the leader has now needs a word for that: commands are refused at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use lockstep_proto::v1::upgrade_event::Step as Kind;
use lockstep_proto::v1::{SetProfileRequest, UpgradeEvent};
use serde_json::{Value, json};
use tonic::{Request, Response, Status};

use super::Events;
use super::telling::Telling;
use super::words::{event, stopped_at};
use crate::api::gate::caller_name;
use crate::api::read_only::covered;
use crate::api::{Shared, status};
use crate::machine::{Operation, OperationChange, OperationKey, OperationRange, STATE_QUOTA, WATCHES_QUOTA};
use crate::pattern::Pattern;
use crate::raft::retention::RetentionLimits;
use crate::raft::upgrade::{AtMember, Heard, Stopped};

/// Most bytes of the name of who set the values.
const NAME_BYTES_MAX: usize = 256;

/// The key of the methods that the quota on the size of the state lets through.
const METHODS_OVER_QUOTA: &str = "methods_over_quota";

/// Returns whether these words, each as key=value, are about retention and quotas. An error says
/// that some are and some are not.
pub(super) fn is_meant(words: &[String]) -> Result<bool, String> {
    let name = |word: &String| word.split_once('=').map_or(word.as_str(), |(name, _)| name).to_owned();
    let (meant, others): (Vec<String>, Vec<String>) =
        words.iter().map(name).partition(|name| OperationKey::find(name).is_some());
    if !meant.is_empty() && !others.is_empty() {
        return Err(format!(
            "limits of guests take the steps of an upgrade, and retention and quotas do not: set {} by one call, and {} by another",
            others.join(", "),
            meant.join(", ")
        ));
    }
    Ok(!meant.is_empty())
}

/// Adds to what is wrong with a limit which other values there are.
pub(super) fn or_values(problem: String) -> String {
    match problem.starts_with("there is no limit") {
        true => {
            let names: Vec<&str> = OperationKey::all().iter().map(|key| key.name).collect();
            format!("{problem}; retention and quotas are {}", names.join(", "))
        }
        false => problem,
    }
}

/// Returns the values in force on this node, and where each comes from.
pub(super) fn shown(shared: &Shared) -> Value {
    let (operation, watches) = (shared.parts.machine.operation(), shared.parts.calls.watch_figures());
    let now = |key: &str| match key {
        STATE_QUOTA => Some(shared.parts.machine.state_bytes()),
        WATCHES_QUOTA => Some(watches.open),
        "log_quota_bytes" => Some(shared.parts.retention.status().log_bytes),
        _ => None,
    };
    table(&operation, shared.parts.retention.own(), now)
}

fn table(operation: &Operation, own: &RetentionLimits, now: impl Fn(&str) -> Option<u64>) -> Value {
    let rows = OperationKey::all().iter().map(|key| {
        let (min, max) = match key.range {
            OperationRange::Within(min, max) => (Some(min), Some(max)),
            OperationRange::Methods => (None, None),
        };
        let set = operation.settings.get(key.name);
        let value = match key.range {
            OperationRange::Within(..) => operation.number(key.name).or_else(|| own.value(key.name)).map(Value::from),
            OperationRange::Methods => set.map(|methods| Value::from(methods.as_str())),
        };
        json!({
            "key": key.name, "value": value, "unit": key.unit, "from": set.map_or(key.flag, |_| Some("profile")),
            "min": min, "max": max, "now": now(key.name), "about": key.about,
        })
    });
    json!({
        "index": operation.index, "since_ms": operation.time_ms, "by": operation.by,
        "values": rows.collect::<Vec<_>>(), "unknown": operation.unknown(),
    })
}

/// Sets values, and tells of each step.
pub(super) async fn set(
    shared: &Arc<Shared>,
    call: Request<()>,
    request: SetProfileRequest,
) -> Result<Response<Events>, Status> {
    let values = request.set.iter().map(|word| read(word)).collect::<Result<Vec<_>, _>>();
    let values = values.map_err(Status::invalid_argument)?;
    shared.parts.calls.require_leader().await.map_err(|error| status::unmarked(&error))?;
    let before = shared.parts.machine.operation();
    let after = before.with(&values).map_err(Status::invalid_argument)?;
    let mut by = caller_name(call.extensions());
    by.truncate(by.floor_char_boundary(NAME_BYTES_MAX));
    let (telling, response) = Telling::begin(call);
    let change = Setting { shared: shared.clone(), request, by, before, after };
    // From the proposal on, it goes on to its end whoever listens.
    tokio::spawn(async move {
        let ended = change.take_steps(&telling).await;
        let what = format!("an operator's change of retention or quotas ({})", change.request.set.join(","));
        telling.end(&what, ended, stopped_at).await;
    });
    Ok(response)
}

/// Reads `key=value`.
fn read(word: &str) -> Result<(String, String), String> {
    let (name, value) = word.split_once('=').ok_or_else(|| format!("{word:?} is not written as key=value"))?;
    Ok((name.to_owned(), value.to_owned()))
}

/// One change of values.
struct Setting {
    shared: Arc<Shared>,
    request: SetProfileRequest,
    by: String,
    before: Arc<Operation>,
    after: BTreeMap<String, String>,
}

impl Setting {
    /// Takes all steps. Returns the event that tells the end; a dry run that went well has none.
    async fn take_steps(&self, telling: &Telling) -> Result<Option<UpgradeEvent>, Stopped> {
        let changes = self.before.changes_to(&self.after);
        if changes.is_empty() {
            return Ok(Some(already(self.before.index)));
        }
        let mut refuses = self.idle_methods(&changes);
        refuses.extend(self.refuses(&changes));
        telling.tell(checked(&changes, &refuses, self.before.index == 0)).await;
        if !refuses.is_empty() && !self.request.allow_failing {
            return Err(Stopped::Refuses(refuses));
        }
        let upgrades = &self.shared.parts.upgrades;
        let entry = self.before.entry(&self.after, self.by.clone());
        let heard = upgrades.check_operation(&entry).await?;
        telling.tell(prepared(&heard)).await;
        if !heard.objections.is_empty() && !self.request.allow_failing {
            return Err(Stopped::Objected(heard.objections));
        }
        if self.request.dry_run {
            return Ok(None);
        }
        let index = upgrades.set_operation(entry).await?;
        Ok(Some(made(index, &changes, &heard.unreached)))
    }

    /// Says what a quota that changes will refuse at once, by the sizes on this node, which leads.
    fn refuses(&self, changes: &[OperationChange]) -> Vec<String> {
        let set = |key: &str| changes.iter().find(|change| change.key.name == key)?.after.as_ref()?.parse::<u64>().ok();
        let parts = &self.shared.parts;
        beyond(set(STATE_QUOTA), parts.machine.state_bytes(), set(WATCHES_QUOTA), parts.calls.watch_figures().open)
    }

    /// Says which new patterns of methods match no command. A pattern that does not is a slip of
    /// the pen, or is for a guest that comes later.
    fn idle_methods(&self, changes: &[OperationChange]) -> Vec<String> {
        let is_new = changes.iter().any(|change| change.key.name == METHODS_OVER_QUOTA);
        let patterns = self.after.get(METHODS_OVER_QUOTA).filter(|_| is_new);
        let (Some(patterns), Some(routes)) = (patterns, self.shared.routes()) else { return Vec::new() };
        let patterns: Vec<Pattern> = patterns.split(',').map(Pattern::new).collect();
        covered(&routes, &patterns).err().into_iter().collect()
    }
}

fn beyond(state_max: Option<u64>, state_bytes: u64, watches_max: Option<u64>, watches: u64) -> Vec<String> {
    let state = state_max.filter(|max| state_bytes > *max).map(|max| {
        format!(
            "the state has {state_bytes} bytes, more than {STATE_QUOTA}={max}: commands are refused from the entry on"
        )
    });
    let watches = watches_max.filter(|max| watches > *max).map(|max| {
        format!("{watches} watches are open on the leader, more than {WATCHES_QUOTA}={max}: these stay, and new ones are refused")
    });
    state.into_iter().chain(watches).collect()
}

fn shown_value(value: Option<&String>) -> &str {
    value.map_or("none", String::as_str)
}

/// Tells what will change, and what that does at once. The first such entry is the end of the time
/// in which an earlier build can be put back.
fn checked(changes: &[OperationChange], refuses: &[String], is_first: bool) -> UpgradeEvent {
    let mut text = "checked:".to_owned();
    for OperationChange { key, before, after } in changes {
        let (before, after) = (shown_value(before.as_ref()), shown_value(after.as_ref()));
        text.push_str(&format!("\n  {}: {before} -> {after} ({})", key.name, key.unit));
    }
    for line in refuses {
        text.push_str(&format!("\n  {line}"));
    }
    if is_first {
        text.push_str(
            "\n  this is the first entry of retention and quotas: from it on, a build of Lockstep that does not know them cannot be put back",
        );
    }
    event(Kind::Checked, text, json!({ "changes": of_changes(changes), "refuses": refuses, "is_first": is_first }))
}

/// Tells what the members said.
fn prepared(heard: &Heard) -> UpgradeEvent {
    let Heard { unreached, objections } = heard;
    let mut text = match unreached.is_empty() {
        true => "prepared: every member knows these values".to_owned(),
        false => "prepared: every member that was reached knows these values".to_owned(),
    };
    for (what, members) in [("was not asked", unreached), ("objects", objections)] {
        for member in members {
            text.push_str(&format!("\n  {} {what}: {}", member.name, member.words));
        }
    }
    event(Kind::Prepared, text, json!({ "unreached": of_members(unreached), "objections": of_members(objections) }))
}

fn of_members(members: &[AtMember]) -> Vec<Value> {
    members.iter().map(|member| json!({ "name": member.name, "words": member.words })).collect()
}

/// Tells that the values are in force already.
fn already(index: u64) -> UpgradeEvent {
    let text = match index {
        0 => "nothing was changed: none of these values is set".to_owned(),
        index => format!("nothing was changed: these values are in force already, since entry {index} or before"),
    };
    event(Kind::Changed, text, json!({ "index": index, "already": true }))
}

/// Tells that the entry is applied here, and names the members of which nothing is known.
fn made(index: u64, changes: &[OperationChange], unreached: &[AtMember]) -> UpgradeEvent {
    let mut text = format!("changed at entry {index}: every node obeys these values once it has applied that entry");
    if !unreached.is_empty() {
        let names: Vec<&str> = unreached.iter().map(|member| member.name.as_str()).collect();
        text.push_str(&format!("; not reached, and not asked whether they can: {}", names.join(", ")));
    }
    let object = json!({ "index": index, "changes": of_changes(changes), "unreached": of_members(unreached) });
    event(Kind::Changed, text, object)
}

fn of_changes(changes: &[OperationChange]) -> Vec<Value> {
    let row = |change: &OperationChange| json!({ "key": change.key.name, "before": change.before, "after": change.after, "unit": change.key.unit });
    changes.iter().map(row).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    const OWN: RetentionLimits = RetentionLimits {
        interval: Duration::from_secs(120),
        threshold_commands: 1,
        threshold_bytes: 2,
        trailing_commands: 3,
        trailing_entries_min: 4,
        log_bytes_max: 5,
    };

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| word.to_string()).collect()
    }

    fn operation(settings: &[(&str, &str)]) -> Operation {
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Operation { index: 9, settings, ..Operation::default() }
    }

    #[test]
    fn limits_and_values_are_set_by_calls_of_their_own() {
        assert_eq!(is_meant(&words(&["trailing_commands=5", "state_bytes_max=none"])), Ok(true));
        assert_eq!(is_meant(&words(&["fuel_per_command=5"])), Ok(false));
        assert_eq!(is_meant(&words(&["stars_max=5"])), Ok(false));
        let mixed = is_meant(&words(&["fuel_per_command=5", "trailing_commands=5"])).unwrap_err();
        assert!(mixed.contains("set fuel_per_command by one call, and trailing_commands by another"), "{mixed}");
        assert!(or_values("there is no limit \"a\"".into()).contains("quotas are snapshot_interval_ms, "));
        assert_eq!(or_values("too small".into()), "too small");
    }

    #[test]
    fn each_value_is_shown_with_where_it_comes_from() {
        let shown = table(&operation(&[("trailing_commands", "7"), ("stars_max", "1")]), &OWN, |key| {
            (key == STATE_QUOTA).then_some(11)
        });
        let row = |key: &str| shown["values"].as_array().unwrap().iter().find(|row| row["key"] == key).unwrap().clone();
        let facts = |key: &str| (row(key)["value"].clone(), row(key)["from"].clone(), row(key)["now"].clone());
        assert_eq!(facts("trailing_commands"), (json!(7), json!("profile"), Value::Null));
        assert_eq!(facts("log_quota_bytes"), (json!(5), json!("--log_quota"), Value::Null));
        assert_eq!(facts("state_bytes_max"), (Value::Null, Value::Null, json!(11)));
        assert_eq!((&shown["index"], &shown["unknown"]), (&json!(9), &json!(["stars_max"])));
    }

    #[test]
    fn what_is_refused_at_once_is_said_before() {
        assert!(beyond(Some(10), 10, None, 9).is_empty());
        let found = beyond(Some(10), 11, Some(2), 3);
        assert!(found[0].contains("11 bytes, more than state_bytes_max=10") && found[1].contains("3 watches are open"));
        let changes = operation(&[]).changes_to(&operation(&[("state_bytes_max", "10")]).settings);
        let event = checked(&changes, &found, false);
        assert!(event.text.contains("state_bytes_max: none -> 10 (bytes)\n  the state has 11 bytes"), "{}", event.text);
        assert!(!event.text.contains("cannot be put back"), "{}", event.text);
        let first = checked(&changes, &[], true);
        assert!(first.text.contains("cannot be put back") && first.json.contains("\"is_first\":true"), "{first:?}");
        let stopped = stopped_at(&Stopped::Refuses(found));
        let object: Value = serde_json::from_str(&stopped.json).unwrap();
        assert_eq!((stopped.step(), object["worsened"].as_array().unwrap().len()), (Kind::NotChanged, 2));
    }

    #[test]
    fn members_that_were_not_asked_or_object_are_named() {
        let said = |words: &str| vec![AtMember { name: "nodeC".into(), words: words.into() }];
        assert_eq!(prepared(&Heard::default()).text, "prepared: every member knows these values");
        let event = prepared(&Heard { unreached: said("it is down"), objections: said("its flag") });
        assert!(event.text.contains("every member that was reached knows"), "{}", event.text);
        assert!(
            event.text.contains("\n  nodeC was not asked: it is down\n  nodeC objects: its flag"),
            "{}",
            event.text
        );
        let object: Value = serde_json::from_str(&event.json).unwrap();
        assert_eq!(object["unreached"][0]["name"], "nodeC");
        let stopped = stopped_at(&Stopped::Objected(said("its flag")));
        let object: Value = serde_json::from_str(&stopped.json).unwrap();
        assert_eq!(object["worsened"], json!(["nodeC: its flag"]));
    }

    #[test]
    fn the_end_names_the_entry() {
        let unreached = [AtMember { name: "nodeC".into(), words: "it is not reached".into() }];
        assert!(
            made(7, &[], &[])
                .text
                .ends_with("changed at entry 7: every node obeys these values once it has applied that entry")
        );
        assert!(made(7, &[], &unreached).text.ends_with("not asked whether they can: nodeC"));
        assert!(already(0).text.contains("none of these values is set"));
        assert!(already(7).text.contains("in force already, since entry 7"));
    }
}
