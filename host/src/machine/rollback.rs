//! Takes a change of the machine back without losing a command. A *shadow* stands beside the state
//! in use: the component before the change, on the checkpoint before it, runs every entry since
//! once more. An entry with a rollback puts the shadow in force. This module computes the effects
//! of that entry, and keeps the shadow; the apply thread puts it in force
//! (`apply/rolling_back.rs`).
//!
//! ```text
//! Machine::prepare_rollback ─► shadow: a thread ─► replay/history: entries, by the old component
//!                                               ─► another history: with the change, to compare
//! entry with a rollback ─► apply thread ─► takes the shadow's state ─► effects ─► in force
//! ```
//!
//! - The shadow's history is that of a cluster that never tried the change: entries with changes
//!   and rollbacks move log time alone. So it is equal on every node, whenever it was made.
//! - A shadow is local until the entry of the rollback. Nothing reads its state before that.
//! - One shadow exists at a time. It ends when nobody asks for it any more.

pub mod report;
pub(crate) mod shadow;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::timeout;

use super::Machine;
use super::entry::{self, Effects, Writes};
use super::profile::Profile;
use super::system::System;
use super::tried::{ChangeVerdict, Tried};
use crate::codec::{self, Rollback};
use crate::store::Checkpoints;
use crate::types::{LogId, NodeMode};
pub use report::RollbackReport;
use shadow::Shadow;
use shadow::thread::Plan;

/// Entries that a shadow may be behind and still counts as caught up: the entry of the rollback
/// waits for it to run these.
const BEHIND_MAX: u64 = 64;
/// Longest wait of a node for the entry of the change itself.
const APPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait of a node for the component of the entry that it is at. Fetching and compiling one
/// takes seconds.
const FIT_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between two looks at a shadow.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// What a node is asked to make ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RollbackTrial {
    /// Index of the entry of the change.
    pub change_index: u64,
    /// The entry behind which the hash is asked for; `None`: the newest that the shadow has run.
    pub at: Option<u64>,
}

/// Returns the profile of the change that an entry takes back. `None` when the entry changes
/// nothing: another profile is in force, or the probation has ended.
pub(crate) fn takes_back(before: &System, entry: &codec::entry::Entry, rollback: &Rollback) -> Option<Arc<Profile>> {
    let time_ms = before.time_ms.max(entry.time_ms);
    let profile = before.profile.as_ref()?;
    (profile.index == rollback.change_index && profile.is_on_probation(time_ms)).then(|| profile.clone())
}

/// Computes the effects of an entry whose rollback comes too late.
pub(crate) fn outdated(before: &System, log_id: LogId, entry: &codec::entry::Entry) -> (Effects, Tried) {
    let hash = |profile: &codec::Genesis| profile.component_hash.as_ref().try_into().unwrap_or_default();
    let tried = Tried {
        index: log_id.index,
        from: before.in_force().map(|(_, profile)| hash(profile)).unwrap_or_default(),
        to: before.profile.as_ref().map(|profile| hash(&profile.before.1)).unwrap_or_default(),
        verdict: ChangeVerdict::Outdated,
        rows: 0,
    };
    let system = System { change: Some(tried), ..entry::begin(before, log_id, entry) };
    (entry::finish(before, log_id, system, Writes::new(), entry::not_run_of(entry)), tried)
}

/// Computes the effects of an entry that takes `changed` back, over the shadow's state.
pub(crate) fn effects(
    shadow: &System,
    changed: &Profile,
    log_id: LogId,
    entry: &codec::entry::Entry,
) -> (Effects, Tried) {
    let profile = changed.taken_back(log_id.index);
    let hash = |profile: &codec::Genesis| profile.component_hash.as_ref().try_into().unwrap_or_default();
    let tried = Tried {
        index: log_id.index,
        from: hash(&changed.genesis),
        to: hash(&changed.before.1),
        verdict: ChangeVerdict::RolledBack,
        rows: 0,
    };
    let mut system = entry::begin(shadow, log_id, entry);
    system.profile = Some(profile.into());
    system.change = Some(tried);
    (entry::finish(shadow, log_id, system, Writes::new(), entry::not_run_of(entry)), tried)
}

/// Sets aside the checkpoints of a history that was taken back. Nobody may be sent one: whoever
/// starts from it could not follow.
pub(crate) fn abandon(checkpoints: &Checkpoints, system: &System) {
    let abandoned = system.profile.as_ref().map(|profile| profile.abandoned());
    if let Some(indexes) = abandoned.filter(|indexes| !indexes.is_empty()) {
        checkpoints.abandon(indexes);
    }
}

impl Machine {
    /// Makes this node ready to take a change back, and waits until its shadow has nearly caught
    /// up, or has run entry `at`. An error says in words for an operator why this node cannot.
    pub async fn prepare_rollback(&self, trial: RollbackTrial) -> Result<RollbackReport, String> {
        self.until_fit().await?;
        let profile = self.changed_by(trial.change_index).await?;
        // What clients have been told by now is compared before this answers.
        let wanted = trial.at.unwrap_or_else(|| self.applied_index());
        let shadow = self.shadow_of(profile).await?;
        loop {
            let found = shadow.look()?;
            let is_level = trial.at.is_some() || found + BEHIND_MAX >= self.applied_index();
            if found >= wanted && is_level {
                return shadow.report(trial.at);
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// Waits while this node lacks the component of the entry that it is at. A node that comes
    /// later runs the entries before a change by the component before it, and fetches that first.
    async fn until_fit(&self) -> Result<(), String> {
        let mut mode = self.shared.mode.subscribe();
        let fit = mode.wait_for(|mode| !matches!(mode, NodeMode::Unfit(_)));
        let found = match timeout(FIT_TIMEOUT, fit).await {
            Ok(Ok(mode)) => mode.clone(),
            Ok(Err(_)) | Err(_) => self.shared.mode.borrow().clone(),
        };
        match found {
            NodeMode::Serving | NodeMode::CatchingUp(_) => Ok(()),
            NodeMode::Unfit(why) => Err(format!(
                "it is at entry {}, and lacks the component that runs the next one: {why}. It fetches a component that another member has, \
                 and goes on; if it does not, start it with --fsm and that component. Run this again when its status says serving",
                self.applied_index()
            )),
            NodeMode::Quarantined(why) | NodeMode::Removed(why) | NodeMode::Disputed(why) => {
                Err(format!("this node takes nothing back: {why}"))
            }
        }
    }

    /// Returns the profile of the change of entry `index`, once that is applied here.
    async fn changed_by(&self, index: u64) -> Result<Arc<Profile>, String> {
        if timeout(APPLY_TIMEOUT, self.wait_applied(index)).await.is_err() {
            let applied = self.applied_index();
            return Err(format!("it has applied entry {applied}, and not yet the change at entry {index}"));
        }
        let time_ms = self.shared.position.borrow().time_ms;
        match self.shared.changed_profile().filter(|profile| profile.index == index) {
            Some(profile) if profile.is_on_probation(time_ms) => Ok(profile),
            Some(_) => Err(format!("the probation of the change at entry {index} has ended")),
            None => Err(format!("the change at entry {index} is not in force on this node")),
        }
    }

    async fn shadow_of(&self, profile: Arc<Profile>) -> Result<Arc<Shadow>, String> {
        // The store's share of descriptors is for the states of one of the two.
        if self.shared.rehearsing.load(Ordering::Acquire) {
            return Err("a rehearsal is under way on this node; run this again when that is done".to_owned());
        }
        let (shared, gate) = (self.shared.clone(), self.gate.clone());
        // It waits for the end of another shadow.
        let start = move || Shadow::find_or_start(&shared, &gate, Plan { profile, is_urgent: false });
        let started = tokio::task::spawn_blocking(start).await.map_err(|error| error.to_string())?;
        started.map_err(|why| why.to_string())
    }

    /// Returns a receiver that tells why this node cannot follow a rollback of the cluster: it
    /// lacks the checkpoint before the change, or the log since. Its state is then of no use any
    /// more.
    pub fn watch_left_behind(&self) -> tokio::sync::watch::Receiver<Option<String>> {
        self.shared.left_behind.subscribe()
    }

    /// Returns a receiver that tells the index of the last rollback that was put in force here; 0
    /// before the first of this run.
    pub fn watch_rolled_back(&self) -> tokio::sync::watch::Receiver<u64> {
        self.shared.rolled_back.subscribe()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "rollback_tests.rs"]
mod tests;
