//! The call of `lockstep.v1.Admin` that raises the semantics of the cluster. It is a change to the
//! component that runs already, under a higher number, so it takes the steps of an upgrade.
//! `machine/semantics` knows what a number brings.
//!
//! - A number is never lowered, and a raise is never on probation: a rollback would lower it.
//! - A number that is in force already changes nothing.
//! - It is rehearsed: if calls end otherwise, the raise needs a word for that.

use std::sync::Arc;

use lockstep_proto::v1::upgrade_event::Step as Kind;
use lockstep_proto::v1::{RaiseRequest, UpgradeEvent};
use serde_json::json;
use tonic::{Request, Response, Status};

use super::Events;
use super::in_force::{InForce, run};
use super::profile::of_changes;
use super::telling::Telling;
use super::words::{decided, event, stopped_at};
use crate::api::gate::{apart, note};
use crate::api::{Shared, status};
use crate::guest::{LimitChange, Limits};
use crate::machine::{ChangeReport, ChangeVerdict, Probation, SemanticsRange, raised_limits};
use crate::raft::upgrade::{Ended, Plan, Stopped};

/// Raises the number, and tells of each step.
pub(in crate::api) async fn raise(
    shared: &Arc<Shared>,
    request: Request<RaiseRequest>,
) -> Result<Response<Events>, Status> {
    let (call, request) = apart(request);
    note(&call, "to", request.to);
    note(&call, "dry_run", request.dry_run);
    note(&call, "rehearse", request.rehearse);
    note(&call, "allow_failing", request.allow_failing);
    shared.parts.calls.require_leader().await.map_err(|error| status::unmarked(&error))?;
    let now = InForce::on(shared)?;
    let from = now.profile.semantics;
    let to = target(request.to, from, SemanticsRange::of_this_build()).map_err(Status::failed_precondition)?;
    let after = raised_limits(&now.limits, from, to).map_err(Status::failed_precondition)?;
    let (telling, response) = Telling::begin(call);
    let raise = Raise { shared: shared.clone(), request, now, to, after };
    // From the proposal on, it goes on to its end whoever listens.
    tokio::spawn(async move {
        let ended = raise.take_steps(&telling).await;
        let what = format!("an operator's raise of semantics to {to}");
        telling.end(&what, ended, stopped_at).await;
    });
    Ok(response)
}

/// Returns the number to raise to. An error says why the leader cannot.
fn target(asked: u32, now: u32, own: SemanticsRange) -> Result<u32, String> {
    let to = if asked == 0 { own.newest } else { asked };
    if to < now {
        return Err(format!(
            "the cluster has semantics {now}, and that is never lowered, so not to {to}: entries since may have been applied by it"
        ));
    }
    if to > own.newest {
        return Err(format!(
            "the build of this node runs semantics {own}, and not {to}; start every node with a build that runs {to}, one after the \
             other, and run this again"
        ));
    }
    Ok(to)
}

/// One raise.
struct Raise {
    shared: Arc<Shared>,
    request: RaiseRequest,
    now: InForce,
    to: u32,
    after: Limits,
}

impl Raise {
    /// Takes all steps. Returns the event that tells the end; a dry run that went well has none.
    async fn take_steps(&self, telling: &Telling) -> Result<Option<UpgradeEvent>, Stopped> {
        let from = self.now.profile.semantics;
        if from == self.to {
            return Ok(Some(already(from, self.now.index)));
        }
        let changes = self.now.limits.changes_to(&self.after);
        let probation = self.shared.parts.machine.probation();
        telling.tell(checked((from, self.to), &changes, self.request.rehearse, probation)).await;
        let plan = Plan {
            semantics: Some(self.to),
            keeps_answers: !self.request.allow_failing,
            rehearse: self.request.rehearse,
            is_dry_run: self.request.dry_run,
            ..self.now.plan(self.after.clone())?
        };
        Ok(match run(&self.shared, plan, telling).await? {
            Ended::Tried => None,
            Ended::Decided { report, behind } => Some(raised(&report, &behind, (from, self.to))),
        })
    }
}

/// Tells what will change: the number, the limits that come with it, and what ends.
fn checked(
    (from, to): (u32, u32),
    changes: &[LimitChange],
    rehearse: u32,
    probation: Option<Probation>,
) -> UpgradeEvent {
    let mut text = format!("checked: semantics {from} -> {to}");
    for change in changes {
        let LimitChange { key, before, after } = change;
        let before = if *before == u64::MAX { "none".to_owned() } else { before.to_string() };
        text.push_str(&format!(
            "\n  {}: {before} -> {after} {}, the default of a limit that is new",
            key.name, key.unit
        ));
    }
    if let Some(probation) = &probation {
        text.push_str(&format!("\n  the change of entry {} can not be taken back after this", probation.change_index));
    }
    text.push_str(if rehearse == 0 { "\n  nothing is rehearsed" } else { "" });
    let ends = probation.map(|probation| probation.change_index);
    let object = json!({
        "from": from, "to": to, "changes": of_changes(changes), "rehearse": rehearse, "ends_probation_of": ends,
    });
    event(Kind::Checked, text, object)
}

/// Tells that the number is in force already.
fn already(semantics: u32, index: u64) -> UpgradeEvent {
    let text =
        format!("nothing was changed: the cluster has semantics {semantics} already, since entry {index} or before");
    event(Kind::Changed, text, json!({ "index": index, "semantics": semantics, "already": true }))
}

/// Tells how the raise ended that was in the log.
fn raised(report: &ChangeReport, behind: &[String], (from, to): (u32, u32)) -> UpgradeEvent {
    if report.verdict != ChangeVerdict::Changed {
        return decided(report, behind);
    }
    let mut text = format!(
        "changed at entry {}: the cluster has semantics {to} from there on, and no build that does not run it can be a member any more; \
         apply was held for {} ms",
        report.index,
        report.held.as_millis()
    );
    if !behind.is_empty() {
        text.push_str(&format!("; not yet applied by {}", behind.join(", ")));
    }
    let object = json!({
        "index": report.index, "verdict": report.verdict.name(), "from": from, "semantics": to, "behind": behind,
        "held_ms": report.held.as_millis() as u64,
    });
    event(Kind::Changed, text, object)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use serde_json::Value;

    use super::*;

    const OWN: SemanticsRange = SemanticsRange { oldest: 3, newest: 5 };

    fn object(event: &UpgradeEvent) -> Value {
        serde_json::from_str(&event.json).unwrap()
    }

    #[test]
    fn a_number_is_raised_as_far_as_the_build_goes_and_never_lowered() {
        assert_eq!(target(0, 3, OWN), Ok(5));
        assert_eq!(target(4, 3, OWN), Ok(4));
        assert_eq!(target(4, 4, OWN), Ok(4));
        assert!(target(3, 4, OWN).is_err_and(|words| words.contains("never lowered, so not to 3")));
        assert!(target(6, 4, OWN).is_err_and(|words| words.contains("runs semantics 3 to 5, and not 6")));
    }

    #[test]
    fn the_check_tells_new_limits_and_what_can_not_be_taken_back() {
        let before = Limits { fuel_per_reply_byte: 0, reply_bytes_per_entry_max: u64::MAX, ..Limits::DEFAULT };
        let changes = before.changes_to(&raised_limits(&before, 3, 4).unwrap());
        let probation =
            Probation { change_index: 9, until_ms: 1, checkpoint_index: 8, has_checkpoint: true, before: [1; 32] };
        let event = checked((3, 4), &changes, 0, Some(probation));
        for words in [
            "checked: semantics 3 -> 4",
            "fuel_per_reply_byte: 0 -> 1 fuel, the default of a limit that is new",
            "reply_bytes_per_entry_max: none -> 16777216 bytes",
            "the change of entry 9 can not be taken back after this",
            "nothing is rehearsed",
        ] {
            assert!(event.text.contains(words), "{words:?} is not in {}", event.text);
        }
        assert_eq!((&object(&event)["to"], &object(&event)["ends_probation_of"]), (&json!(4), &json!(9)));
    }

    #[test]
    fn the_end_names_the_number_the_entry_and_who_is_behind() {
        let verdict = ChangeVerdict::Changed;
        let (from, to, detail, held) = ([1; 32], [1; 32], String::new(), Duration::from_millis(3));
        let report = ChangeReport { index: 9, from, to, verdict, detail, rows: 0, held, ran_again: None };
        let event = raised(&report, &["nodeC".into()], (4, 5));
        assert!(event.text.contains("changed at entry 9: the cluster has semantics 5"), "{}", event.text);
        assert!(event.text.ends_with("not yet applied by nodeC"), "{}", event.text);
        assert_eq!((event.step(), &object(&event)["semantics"]), (Kind::Changed, &json!(5)));
        let outdated = ChangeReport { verdict: ChangeVerdict::Outdated, ..report };
        assert_eq!(raised(&outdated, &[], (4, 5)).step(), Kind::NotChanged);
        assert_eq!(object(&already(5, 4))["already"], json!(true));
    }
}
