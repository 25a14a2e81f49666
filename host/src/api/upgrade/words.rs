//! What is told of the steps of a change: a text for people, and an object for programs. It decides
//! nothing.

use lockstep_contract::Difference;
use lockstep_proto::v1::UpgradeEvent;
use lockstep_proto::v1::upgrade_event::Step as Kind;
use serde_json::{Value, json};
use tonic::Code;

use super::answers::Answers;
use super::{Kept, state};
use crate::api::http::metrics::code_name;
use crate::api::status::reason_name;
use crate::machine::{ChangeReport, ChangeVerdict, RehearsalReport, RollbackReport, rehearsal};
use crate::raft::upgrade::{Step, Stopped};
use crate::types::hex;

/// Tells that the component was checked, and how its contract differs from the one in force.
pub(super) fn checked(kept: &Kept, differences: &[Difference]) -> UpgradeEvent {
    let (of_state, served): (Vec<&Difference>, Vec<&Difference>) =
        differences.iter().partition(|difference| state::is_of_state(difference));
    let breaking = served.iter().filter(|difference| difference.breaks).count();
    let mut text = format!("checked: component {}{}, ", hex(&kept.hash), version(kept));
    text.push_str(match kept.has_migrator {
        true => "which migrates the state",
        false => "which takes the state as it is",
    });
    text.push_str(&match (served.len(), breaking) {
        (0, _) => "; it serves what is served now".to_owned(),
        (all, 0) => format!("; {all} differences of what it serves, none of which breaks clients"),
        (all, breaking) => format!("; {all} differences of what it serves, {breaking} of which break clients"),
    });
    if !of_state.is_empty() {
        text.push_str(&format!("; it would misread the rows of {} tags", of_state.len()));
    }
    text.push_str(&lines(differences));
    let object = json!({
        "component": hex(&kept.hash), "source": hex(&kept.source), "version": kept.version, "has_migrator": kept.has_migrator,
        "differences": of_differences(differences),
    });
    event(Kind::Checked, text, object)
}

/// Tells of a step that was taken.
pub(super) fn of_step(step: &Step, answers: &Answers) -> UpgradeEvent {
    match step {
        Step::Prepared(members) => {
            let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
            let said: Vec<Value> =
                members.iter().map(|member| json!({ "name": member.name, "build": member.words })).collect();
            let text = format!("prepared: {} have compiled it", names.join(", "));
            event(Kind::Prepared, text, json!({ "members": said }))
        }
        Step::Rehearsed { index, first, reports } => {
            let mut text = "rehearsed: ".to_owned();
            text.push_str(&rehearsal::words::lines(reports).join("\n  "));
            text.push_str(&answers.lines(reports));
            let of_member = |(name, report): &(String, RehearsalReport)| json!({ "name": name, "report": answers.shown(report, &report.differences) });
            let reports: Vec<Value> = reports.iter().map(of_member).collect();
            event(Kind::Rehearsed, text, json!({ "index": index, "first": first, "reports": reports }))
        }
        Step::ReadyToRollBack { change_index, reports } => ready_to_roll_back(*change_index, reports, answers),
    }
}

/// Tells what a rollback would do.
fn ready_to_roll_back(change_index: u64, reports: &[(String, RollbackReport)], answers: &Answers) -> UpgradeEvent {
    let names: Vec<&str> = reports.iter().map(|(name, _)| name.as_str()).collect();
    // All have run the same; the one that went furthest has seen the most.
    let widest = reports.iter().map(|(_, report)| report).max_by_key(|report| report.commands);
    let (commands, different) = widest.map_or((0, 0), |report| (report.commands, report.different));
    let mut text = format!(
        "prepared: the old component has run {commands} commands since entry {change_index} once more on {}, with the same result; ",
        names.join(", ")
    );
    text.push_str(&match different {
        0 => "it answers all of them as clients were told".to_owned(),
        different => format!("it answers {different} of them differently than clients were told"),
    });
    text.push_str(&answers.lines_of(widest.into_iter().flat_map(|report| &report.differences)));
    let of_member = |(name, report): &(String, RollbackReport)| json!({ "name": name, "report": answers.shown(report, &report.differences) });
    let reports: Vec<Value> = reports.iter().map(of_member).collect();
    let object = json!({
        "change_index": change_index, "commands": commands, "different": different, "reports": reports,
    });
    event(Kind::Prepared, text, object)
}

/// Tells how a rollback ended that was in the log.
pub(super) fn rollback_decided(report: &ChangeReport, behind: &[String]) -> UpgradeEvent {
    let ChangeReport { index, from, to, verdict, detail, held, ran_again, .. } = report;
    if *verdict != ChangeVerdict::RolledBack {
        let reason = "another change was made or taken back before it, or the probation ended";
        return not_rolled_back(&format!("at entry {index}: {reason}. The cluster runs what it ran"));
    }
    let held_ms = held.as_millis() as u64;
    let mut text = format!(
        "rolled back at entry {index}: component {} runs now; apply was held for {held_ms} ms; {detail}",
        hex(to)
    );
    if !behind.is_empty() {
        text.push_str(&format!("; not yet applied by {}", behind.join(", ")));
    }
    let object = json!({
        "index": index, "from": hex(from), "to": hex(to), "verdict": verdict.name(), "detail": detail,
        "commands": ran_again.map(|ran| ran.commands), "different": ran_again.map(|ran| ran.different),
        "held_ms": held_ms, "behind": behind,
    });
    event(Kind::RolledBack, text, object)
}

/// Tells that nothing was taken back, and why.
pub(super) fn not_rolled_back(reason: &str) -> UpgradeEvent {
    event(Kind::NotRolledBack, format!("not rolled back: {reason}"), json!({ "reason": reason }))
}

/// Tells how a change ended that was in the log.
pub(super) fn decided(report: &ChangeReport, behind: &[String]) -> UpgradeEvent {
    let ChangeReport { index, from, to, verdict, detail, rows, held, .. } = report;
    let mut object = json!({
        "index": index, "from": hex(from), "to": hex(to), "verdict": verdict.name(), "rows": rows,
        "held_ms": held.as_millis() as u64,
    });
    if *verdict != ChangeVerdict::Changed {
        let reason = not_made(*verdict, detail);
        object["reason"] = json!(reason);
        return event(Kind::NotChanged, format!("not changed at entry {index}: {reason}"), object);
    }
    object["behind"] = json!(behind);
    let mut text = format!(
        "changed at entry {index}: component {} runs now; {rows} rows were written, and apply was held for {} ms",
        hex(to),
        held.as_millis()
    );
    if !behind.is_empty() {
        text.push_str(&format!("; not yet applied by {}", behind.join(", ")));
    }
    event(Kind::Changed, text, object)
}

/// Tells that the cluster runs the component already. `in_force` is the hash of its own encoding.
pub(super) fn already(kept: &Kept, in_force: &[u8], index: u64) -> UpgradeEvent {
    let in_force = hex(in_force);
    let text = format!("the cluster runs component {in_force}{} already, since entry {index}", version(kept));
    event(Kind::Changed, text, json!({ "index": index, "to": in_force, "already": true }))
}

/// Tells that clients would break, which was not allowed.
pub(super) fn breaking(differences: &[Difference]) -> UpgradeEvent {
    let breaking: Vec<Difference> = differences.iter().filter(|difference| difference.breaks).cloned().collect();
    let reason = match breaking.iter().any(state::is_of_state) {
        true => "the new component would misread rows of the state, and clients would get wrong replies",
        false => "clients of what is served now would fail, or misread replies",
    };
    let reason = format!("{reason}:{}", lines(&breaking));
    let object = json!({ "reason": reason, "differences": of_differences(&breaking) });
    event(Kind::NotChanged, format!("not changed: {reason}"), object)
}

/// Tells that nothing was changed, and why.
pub(super) fn not_changed(reason: &str) -> UpgradeEvent {
    event(Kind::NotChanged, format!("not changed: {reason}"), json!({ "reason": reason }))
}

/// Tells that nothing was changed, and why. Programs see whether calls would end otherwise.
pub(super) fn stopped_at(stopped: &Stopped) -> UpgradeEvent {
    let worsened: Vec<String> = match stopped {
        Stopped::Worsened(worsened) | Stopped::Refuses(worsened) => worsened.clone(),
        Stopped::Objected(members) => members.iter().map(ToString::to_string).collect(),
        _ => return not_changed(&stopped.to_string()),
    };
    let reason = stopped.to_string();
    event(Kind::NotChanged, format!("not changed: {reason}"), json!({ "reason": reason, "worsened": worsened }))
}

/// Makes the event of a step. The object gets the name of the step.
pub(super) fn event(step: Kind, text: String, mut object: Value) -> UpgradeEvent {
    object["step"] = json!(step.as_str_name().to_lowercase());
    UpgradeEvent { step: step.into(), text, json: object.to_string() }
}

fn version(kept: &Kept) -> String {
    if kept.version.is_empty() { String::new() } else { format!(" (version {})", kept.version) }
}

fn lines(differences: &[Difference]) -> String {
    let mark = |difference: &Difference| if difference.breaks { "BREAKS" } else { "fine" };
    let line = |difference: &Difference| format!("\n  {:<9}  {difference}", mark(difference));
    differences.iter().map(line).collect()
}

fn of_differences(differences: &[Difference]) -> Vec<Value> {
    differences.iter().map(|found| json!({ "text": found.to_string(), "breaking": found.breaks })).collect()
}

/// Says why a change was not made, and that nothing came of it.
fn not_made(verdict: ChangeVerdict, detail: &str) -> String {
    let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
    let why = match verdict {
        ChangeVerdict::Outdated => return "another change was made before it; run this one again".to_owned(),
        ChangeVerdict::Changed => return "it was made".to_owned(),
        ChangeVerdict::RolledBack => return "it was taken back".to_owned(),
        ChangeVerdict::Refused(code) => {
            let code = code_name(Code::from_i32(i32::try_from(code).unwrap_or(0)));
            format!("migrate of the new component refused with {code}{detail}")
        }
        ChangeVerdict::Failed(reason) => {
            format!("migrate of the new component failed ({}){detail}", reason_name(reason))
        }
        ChangeVerdict::TooLarge => {
            "the migration needs more calls, writes more, or uses more fuel, than one entry may; let the new component migrate rows when it touches them"
                .to_owned()
        }
    };
    format!("{why}. The old component goes on over the state as it was, on every node")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::api::example_contract;
    use crate::guest::Reason;
    use crate::machine::RanAgain;
    use crate::raft::upgrade::AtMember;

    fn kept() -> Kept {
        Kept {
            hash: [1; 32],
            source: [2; 32],
            version: "2".into(),
            has_migrator: true,
            state: None,
            contract: Arc::new(example_contract()),
        }
    }

    /// The hash of the file was left out of the answer once, although its field is never taken
    /// away.
    #[test]
    fn whoever_sends_a_file_is_told_both_hashes() {
        let answer = super::super::encode_kept(&kept(), &[difference(true)]);
        assert_eq!((&answer.component_hash[..], &answer.source_hash[..]), (&[1; 32][..], &[2; 32][..]));
        assert_eq!((answer.version.as_str(), answer.has_migrator, answer.differences.len()), ("2", true, 1));
    }

    fn difference(breaks: bool) -> Difference {
        Difference { breaks, subject: "S/A".into(), words: if breaks { "it is gone" } else { "it is new" }.into() }
    }

    fn object(event: &UpgradeEvent) -> Value {
        serde_json::from_str(&event.json).unwrap()
    }

    fn report(verdict: ChangeVerdict) -> ChangeReport {
        ChangeReport {
            index: 9,
            from: [3; 32],
            to: [1; 32],
            verdict,
            detail: "a row was in the way".into(),
            rows: 7,
            held: Duration::from_millis(12),
            ran_again: None,
        }
    }

    #[test]
    fn the_check_lists_differences_with_a_mark_for_those_that_break() {
        let misread = Difference { breaks: true, subject: "state tag 1".into(), words: "was a, and is b now".into() };
        let event = checked(&kept(), &[misread.clone(), difference(true)]);
        assert!(event.text.contains("1 of which break clients; it would misread the rows of 1 tags"), "{}", event.text);
        let stopped = breaking(&[misread]);
        assert!(stopped.text.contains("would misread rows of the state") && stopped.text.ends_with("is b now"));
        let event = checked(&kept(), &[difference(true), difference(false)]);
        assert!(event.text.contains("(version 2), which migrates the state"), "{}", event.text);
        assert!(event.text.contains("2 differences of what it serves, 1 of which break clients"), "{}", event.text);
        assert!(event.text.ends_with("\n  BREAKS     S/A: it is gone\n  fine       S/A: it is new"), "{}", event.text);
        let object = object(&event);
        assert_eq!((&object["step"], &object["differences"][0]["breaking"]), (&json!("checked"), &json!(true)));
        assert_eq!(breaking(&[difference(true), difference(false)]).text.matches("S/A").count(), 1);
    }

    #[test]
    fn each_verdict_has_words() {
        let rows = [
            (ChangeVerdict::Outdated, "outdated", "another change was made before it"),
            (ChangeVerdict::Refused(9), "refused", "refused with FAILED_PRECONDITION: a row was in the way"),
            (ChangeVerdict::Failed(Reason::Trap), "failed", "failed (trap): a row was in the way"),
            (ChangeVerdict::TooLarge, "too-large", "than one entry may"),
        ];
        for (verdict, name, words) in rows {
            let event = decided(&report(verdict), &[]);
            assert_eq!((event.step(), &object(&event)["verdict"]), (Kind::NotChanged, &json!(name)));
            assert!(event.text.starts_with("not changed at entry 9: ") && event.text.contains(words), "{}", event.text);
        }
    }

    #[test]
    fn a_change_names_who_is_behind() {
        let event = decided(&report(ChangeVerdict::Changed), &["nodeC".into()]);
        assert!(event.text.contains("held for 12 ms; not yet applied by nodeC"), "{}", event.text);
        assert_eq!((event.step(), &object(&event)["behind"]), (Kind::Changed, &json!(["nodeC"])));
        assert_eq!(object(&already(&kept(), &[9; 32], 4))["already"], json!(true));
    }

    #[test]
    fn a_rollback_tells_what_clients_were_told_otherwise() {
        let answers = Answers::new(None, &example_contract(), true);
        let ready = |different| {
            let report = RollbackReport { commands: 9, different, ..RollbackReport::default() };
            let reports = vec![("nodeA".to_owned(), report.clone()), ("nodeB".to_owned(), report)];
            of_step(&Step::ReadyToRollBack { change_index: 4, reports }, &answers)
        };
        let event = ready(0);
        assert!(event.text.contains("9 commands since entry 4 once more on nodeA, nodeB"), "{}", event.text);
        assert!(event.text.ends_with("all of them as clients were told"), "{}", event.text);
        let event = ready(2);
        assert!(event.text.ends_with("it answers 2 of them differently than clients were told"), "{}", event.text);
        assert_eq!((event.step(), &object(&event)["different"]), (Kind::Prepared, &json!(2)));
        let ran_again = Some(RanAgain { commands: 9, different: 2 });
        let back = ChangeReport { ran_again, ..report(ChangeVerdict::RolledBack) };
        let event = rollback_decided(&back, &["nodeC".into()]);
        assert_eq!((&object(&event)["commands"], &object(&event)["different"]), (&json!(9), &json!(2)));
        assert!(event.text.starts_with("rolled back at entry 9: component 0101"), "{}", event.text);
        assert_eq!((event.step(), &object(&event)["behind"]), (Kind::RolledBack, &json!(["nodeC"])));
        let event = rollback_decided(&report(ChangeVerdict::Outdated), &[]);
        assert_eq!(event.step(), Kind::NotRolledBack);
        assert!(object(&event)["reason"].as_str().unwrap().contains("the probation ended"));
    }

    #[test]
    fn prepared_members_are_named_with_their_builds() {
        let members = vec![AtMember { name: "nodeA".into(), words: "wasmtime 48".into() }];
        let event = of_step(&Step::Prepared(members), &Answers::new(None, &example_contract(), false));
        assert_eq!(event.text, "prepared: nodeA have compiled it");
        assert_eq!(object(&event)["members"], json!([{ "name": "nodeA", "build": "wasmtime 48" }]));
    }
}
