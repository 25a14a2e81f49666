//! A change to the component that runs already, under other limits or a higher number: what is in
//! force, what the plans of both have in common, and their steps. It finds no words for how one
//! ended.

use tokio::sync::mpsc;
use tonic::Status;

use super::answers::Answers;
use super::telling::{STEPS_WAITING_MAX, Telling};
use super::words::of_step;
use crate::api::Shared;
use crate::codec::Genesis;
use crate::guest::Limits;
use crate::machine::limits_of;
use crate::raft::upgrade::{Ended, Plan, Step, Stopped};

/// What is in force on this node.
pub(super) struct InForce {
    /// Index of the entry that put the profile in force.
    pub(super) index: u64,
    pub(super) profile: Genesis,
    /// The limits of the profile.
    pub(super) limits: Limits,
}

impl InForce {
    /// Returns what is in force. FAILED_PRECONDITION if there is nothing yet, or if this build
    /// cannot read it.
    pub(super) fn on(shared: &Shared) -> Result<InForce, Status> {
        let found = shared.parts.machine.profile();
        let (index, profile) = found.ok_or_else(|| Status::failed_precondition(Stopped::NoProfile.to_string()))?;
        let limits = limits_of(&profile).map_err(Status::failed_precondition)?;
        Ok(InForce { index, profile, limits })
    }

    /// Returns the plan to run the same component under `limits`, if nothing else has been put in
    /// force meanwhile. There is no way back from it, and it rehearses nothing by itself.
    pub(super) fn plan(&self, limits: Limits) -> Result<Plan, Stopped> {
        let hash = |bytes: &[u8]| <[u8; 32]>::try_from(bytes).map_err(|_| Stopped::NoProfile);
        Ok(Plan {
            component: hash(&self.profile.component_hash)?,
            source: hash(&self.profile.source_hash)?,
            expected_index: Some(self.index),
            limits: Some(limits),
            semantics: None,
            keeps_answers: true,
            rehearse: 0,
            is_dry_run: false,
            probation_ms: 0,
        })
    }
}

/// Takes all steps of a plan, and tells of each.
pub(super) async fn run(shared: &Shared, plan: Plan, telling: &Telling) -> Result<Ended, Stopped> {
    let (steps, taken) = mpsc::channel(STEPS_WAITING_MAX);
    let words = |step: &Step| {
        let routes = shared.routes()?;
        // Whoever may make such a change need not be one who may read the guest's data.
        Some(of_step(step, &Answers::new(Some(&*routes), &routes, true)))
    };
    let (ended, ()) = tokio::join!(shared.parts.upgrades.run(plan, steps), telling.tell_steps(taken, words));
    ended
}
