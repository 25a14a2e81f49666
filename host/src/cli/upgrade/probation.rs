//! Watches over a change while it is on probation: asks the leader for its figures now and then,
//! says when they pass a threshold, and has the change taken back if that is wanted. The figures
//! are the node's; `windows` compares them.
//!
//! - The shares of commands and of queries that were refused or failed are compared with those
//!   before the change.
//! - The times that the guest takes for them are compared with those of the same node before the
//!   change, since its process began.
//! - Nothing is watched any longer once this process ends. The change stands then.
//! - The leader is found again when another node leads. A rollback that was not made is tried until
//!   the probation ends.

mod windows;

use std::time::Duration;

use lockstep_proto::v1::RollbackRequest;
use lockstep_proto::v1::upgrade_event::Step;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::cli::client::Client;
use crate::cli::credentials::Credentials;
use crate::cli::report::{Failure, print_line};
use crate::cli::{door, leader, rollback, status};
use windows::{Tally, Windows};

/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_secs(2);
/// Longest wait for one answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two tries of a rollback.
const TRY_PAUSE: Duration = Duration::from_secs(10);
/// Longest time for which no leader may be found.
const SILENT_MAX: Duration = Duration::from_secs(60);

/// What is watched, and what comes of it.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Watching {
    /// Stay during the probation, and take the change back as soon as a threshold is passed. Once
    /// this command ends, by Ctrl-C for example, nobody watches
    #[arg(long = "auto_rollback")]
    auto_rollback: bool,

    /// Threshold: by how much the share of commands, or of queries, that are refused or fail may
    /// rise; implies that this command stays during the probation [default: 1%]
    #[arg(long = "max_failed", value_name = "PERCENT", value_parser = percent)]
    max_failed: Option<f64>,

    /// Threshold: how many times as long the guest may take for a command, or for a query; implies
    /// that this command stays during the probation [default: 2x]
    #[arg(long = "max_slower", value_name = "TIMES", value_parser = times)]
    max_slower: Option<f64>,
}

/// By how much figures may differ from those before the change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Thresholds {
    /// Percentage points.
    failed: f64,
    slower: f64,
}

/// The figures of one node.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Figures {
    node: String,
    leads: bool,
    applied_index: u64,
    /// Commands of the cluster, and those that were refused or failed.
    commands_failed: Tally,
    /// Commands of the node's process, and their microseconds.
    commands_us: Tally,
    /// Queries and steps of watches of the node's process, and those that were refused or failed.
    queries_failed: Tally,
    /// The same, and their microseconds.
    queries_us: Tally,
    /// The entry of the change on probation; `None` if there is none.
    change_index: Option<u64>,
    /// The entry that took the last change back, and the component of that change; `None` if the
    /// last change was not taken back.
    rolled_back: Option<(u64, String)>,
}

impl Figures {
    /// Asks a node.
    pub(super) async fn ask(server: &Client) -> anyhow::Result<Figures> {
        match status::ask(server, ASK_TIMEOUT).await {
            Ok(status) => Ok(Figures::read(&status)),
            Err(status) => Err(door::failure(server, status).await.into()),
        }
    }

    fn read(status: &Value) -> Figures {
        let fsm = &status["fsm"];
        let number = |name: &str| fsm[name].as_u64().unwrap_or(0);
        let last = &fsm["last_change"];
        let is_rolled_back = last["verdict"] == "rolled-back";
        Figures {
            node: status["node_id"].as_str().unwrap_or_default().to_owned(),
            leads: status["raft"]["state"] == "Leader",
            applied_index: number("fsm_index"),
            commands_failed: Tally { calls: number("commands_applied"), sum: number("commands_failed") },
            commands_us: Tally { calls: number("commands_run"), sum: number("commands_run_us") },
            queries_failed: Tally {
                calls: number("queries_run"),
                sum: number("queries_refused").saturating_add(number("queries_failed")),
            },
            queries_us: Tally { calls: number("queries_run"), sum: number("queries_run_us") },
            change_index: fsm["probation"]["change_index"].as_u64(),
            rolled_back: last["index"]
                .as_u64()
                .filter(|_| is_rolled_back)
                .zip(last["from"].as_str().map(str::to_owned)),
        }
    }
}

impl Watching {
    /// Returns the thresholds; `None` if nothing is watched.
    pub(super) fn thresholds(&self) -> Option<Thresholds> {
        let is_watched = self.auto_rollback || self.max_failed.is_some() || self.max_slower.is_some();
        is_watched
            .then(|| Thresholds { failed: self.max_failed.unwrap_or(1.0), slower: self.max_slower.unwrap_or(2.0) })
    }

    /// Watches until the probation ends. `before` are the figures from before the change.
    pub(super) async fn watch(&self, place: Place<'_>, server: &Client, before: Figures) -> anyhow::Result<()> {
        let Some(thresholds) = self.thresholds() else { return Ok(()) };
        let mut watch = Watch {
            leader: server.clone(),
            is_auto: self.auto_rollback,
            place,
            thresholds,
            before,
            windows: Windows::default(),
            told: Vec::new(),
            wanted: None,
            is_open: false,
        };
        watch.run().await
    }
}

/// The change that is watched.
pub(super) struct Place<'a> {
    /// The nodes through which the leader is found, separated by commas.
    pub(super) addrs: &'a str,
    pub(super) credentials: &'a Credentials,
    /// Index of its entry.
    pub(super) change_index: u64,
    /// Hash of the component that it put in force, in hexadecimal.
    pub(super) component: String,
    pub(super) json: bool,
    pub(super) quiet: bool,
}

/// A rollback that is wanted.
struct Wanted {
    /// The thresholds that are passed, in words.
    why: String,
    /// Why the last try did not make it.
    refused: String,
    next_try: Instant,
}

/// What is known while a change is watched.
struct Watch<'a> {
    place: Place<'a>,
    /// The node that led when it was last asked.
    leader: Client,
    is_auto: bool,
    thresholds: Thresholds,
    before: Figures,
    /// What came lately, since the first look.
    windows: Windows,
    /// Names of the thresholds that were told.
    told: Vec<&'static str>,
    wanted: Option<Wanted>,
    /// Whether it is not known how the last try of a rollback ended.
    is_open: bool,
}

impl Watch<'_> {
    async fn run(&mut self) -> anyhow::Result<()> {
        let mut heard = Instant::now();
        loop {
            match self.look().await {
                Ok(now) if now.change_index != Some(self.place.change_index) => return self.ended(&now),
                Ok(now) => {
                    self.judge(&now)?;
                    self.take_back().await?;
                    heard = Instant::now();
                }
                Err(_) if heard.elapsed() < SILENT_MAX => {}
                Err(error) => return Err(self.lost(&error)),
            }
            sleep(LOOK_PAUSE).await;
        }
    }

    /// Asks the leader. If it does not answer, or leads no longer, the leader is found again.
    async fn look(&mut self) -> anyhow::Result<Figures> {
        if let Ok(now) = self.ask().await {
            return Ok(now);
        }
        let found = leader::find(self.place.addrs, self.place.credentials, Some(ASK_TIMEOUT)).await?;
        self.leader = found.server().clone();
        self.ask().await
    }

    async fn ask(&self) -> anyhow::Result<Figures> {
        let now = Figures::ask(&self.leader).await?;
        if !now.leads {
            return Err(Failure::new(format!("{} does not lead any more", now.node)).into());
        }
        if now.applied_index < self.place.change_index {
            return Err(Failure::new(format!("{} has not applied the change yet", now.node)).into());
        }
        Ok(now)
    }

    /// Compares the figures, and tells of the thresholds that are passed.
    fn judge(&mut self, now: &Figures) -> anyhow::Result<()> {
        let passed = self.windows.look(Instant::now(), now, &self.before, self.thresholds);
        for (name, words) in &passed {
            if self.told.contains(name) {
                continue;
            }
            self.told.push(*name);
            say(self.place.json, json!({ "step": "threshold", "passed": name, "text": words }), words)?;
        }
        if self.is_auto && self.wanted.is_none() && !passed.is_empty() {
            let words: Vec<String> = passed.into_iter().map(|(_, words)| words).collect();
            let wanted = Wanted { why: words.join("; "), refused: String::new(), next_try: Instant::now() };
            self.wanted = Some(wanted);
        }
        Ok(())
    }

    /// Tries to take the change back if that is wanted. If it was not made, a later look tries
    /// again.
    async fn take_back(&mut self) -> anyhow::Result<()> {
        let Some(wanted) = self.wanted.as_mut().filter(|wanted| wanted.next_try <= Instant::now()) else {
            return Ok(());
        };
        let request = RollbackRequest { dry_run: false, without: Vec::new(), quiet: self.place.quiet };
        let (is_open, refused) = match rollback::ask(&self.leader, request, self.place.json).await {
            Ok(Some(event)) if event.step() == Step::RolledBack => {
                return Err(Failure::new(format!("the change was made and taken back: {}", wanted.why)).into());
            }
            Ok(Some(event)) if event.step() == Step::NotRolledBack => (false, event.text),
            Ok(_) => (true, "the node stopped telling of the rollback".to_owned()),
            Err(error) => (true, format!("{error:#}")),
        };
        self.is_open = is_open;
        wanted.next_try = Instant::now() + TRY_PAUSE;
        if wanted.refused != refused {
            let words = format!("the change stands so far, and is to be taken back: {refused}");
            wanted.refused = refused;
            say(self.place.json, json!({ "step": "to_be_taken_back", "text": words }), &words)?;
        }
        Ok(())
    }

    /// Says how it ended. `now` are figures in which the change is not on probation any more.
    fn ended(&self, now: &Figures) -> anyhow::Result<()> {
        let Place { change_index, ref component, json, .. } = self.place;
        if let Some((index, from)) = &now.rolled_back
            && *index > change_index
            && from == component
        {
            let failure = Failure::new(format!("the change was made and taken back at entry {index}"));
            return Err(self.wanted.iter().fold(failure, |failure, wanted| failure.note(wanted.why.clone())).into());
        }
        let (object, words) = match now.change_index {
            None => (json!({ "step": "probation_ended" }), "the probation has ended".to_owned()),
            Some(index) => (
                json!({ "step": "probation_ended", "change_index": index }),
                format!("another change was made at entry {index}; this one is watched no longer"),
            ),
        };
        match &self.wanted {
            None => say(json, object, &words),
            Some(wanted) => {
                let failure = Failure::new(format!("the change stands: {words}"));
                Err(failure.note(wanted.why.clone()).note(wanted.refused.clone()).into())
            }
        }
    }

    /// Returns the failure for a cluster whose leader cannot be found any more.
    fn lost(&self, error: &anyhow::Error) -> anyhow::Error {
        let failure = match self.is_open {
            true => Failure::new("no leader was found").not_known("the change stands or was taken back"),
            false => Failure::new("the change stands, and is watched no longer"),
        };
        let failure = self.wanted.iter().fold(failure, |failure, wanted| failure.note(wanted.why.clone()));
        failure.note(format!("{error:#}")).into()
    }
}

fn say(json: bool, object: Value, words: &str) -> anyhow::Result<()> {
    if json { print_line(object) } else { print_line(words) }
}

fn percent(text: &str) -> Result<f64, String> {
    number(text.trim_end_matches('%'), 0.0..=100.0).ok_or_else(|| "a share from 0% to 100%, such as 1%".to_owned())
}

fn times(text: &str) -> Result<f64, String> {
    number(text.trim_end_matches('x'), 1.0..=1e6).ok_or_else(|| "a number of times from 1x on, such as 2x".to_owned())
}

fn number(text: &str, range: std::ops::RangeInclusive<f64>) -> Option<f64> {
    text.parse().ok().filter(|number| range.contains(number))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_the_status() {
        let status = json!({ "node_id": "nodeA", "raft": { "state": "Leader" }, "fsm": {
            "fsm_index": 12, "commands_applied": 5, "commands_failed": 1, "commands_run": 4, "commands_run_us": 80,
            "queries_run": 7, "queries_run_us": 70, "queries_refused": 2, "queries_failed": 1,
            "probation": { "change_index": 9 }, "last_change": { "index": 9, "verdict": "changed" },
        } });
        let now = Figures::read(&status);
        assert_eq!((now.node.as_str(), now.leads, now.applied_index), ("nodeA", true, 12));
        let tally = |calls, sum| Tally { calls, sum };
        assert_eq!((now.commands_failed, now.commands_us), (tally(5, 1), tally(4, 80)));
        assert_eq!((now.queries_failed, now.queries_us), (tally(7, 3), tally(7, 70)));
        assert_eq!((now.change_index, now.rolled_back.clone()), (Some(9), None));
        assert_eq!(Figures::read(&json!({})), Figures::default());
        let taken_back = json!({ "fsm": { "last_change": { "index": 15, "verdict": "rolled-back", "from": "ab" } } });
        assert_eq!(Figures::read(&taken_back).rolled_back, Some((15, "ab".to_owned())));
    }

    #[test]
    fn thresholds_have_units() {
        assert_eq!((percent("2%"), percent("0.5"), times("3x"), times("1.5")), (Ok(2.0), Ok(0.5), Ok(3.0), Ok(1.5)));
        for wrong in ["", "x", "101%", "-1", "nan"] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
        assert!(times("0.5x").is_err());
        assert_eq!(Watching::default().thresholds(), None);
        let watching = Watching { max_slower: Some(3.0), ..Watching::default() };
        assert_eq!(watching.thresholds(), Some(Thresholds { failed: 1.0, slower: 3.0 }));
    }
}
