//! The call of `lockstep.v1.Admin` that takes a change back, and tells of its steps. `raft/upgrade`
//! takes the steps. A rollback whose caller leaves ends, unless it was proposed already.

use std::sync::Arc;

use lockstep_contract::Contract;
use lockstep_proto::v1::{RollbackRequest, UpgradeEvent};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use super::answers::Answers;
use super::telling::{STEPS_WAITING_MAX, Telling};
use super::{Events, words};
use crate::api::gate::{apart, note};
use crate::api::{Shared, contract_of, status};
use crate::raft::upgrade::{Ended, RollbackPlan, Step, Stopped};

/// Most names of members that a call may have.
const NAMES_MAX: usize = 64;

/// Takes the last change back, and tells of each step.
pub(in crate::api) async fn roll_back(
    shared: &Arc<Shared>,
    request: Request<RollbackRequest>,
) -> Result<Response<Events>, Status> {
    let (call, request) = apart(request);
    note(&call, "dry_run", request.dry_run);
    note(&call, "without", request.without.join(","));
    if request.without.len() > NAMES_MAX {
        return Err(Status::invalid_argument(format!("at most {NAMES_MAX} members can be left out")));
    }
    shared.parts.calls.require_leader().await.map_err(|error| status::unmarked(&error))?;
    let (telling, response) = Telling::begin(call);
    let rollback = Rollback { shared: shared.clone(), request };
    // From the proposal on, it goes on to its end whoever listens.
    tokio::spawn(async move {
        let ended = rollback.take_steps(&telling).await;
        let words = |stopped: &Stopped| words::not_rolled_back(&stopped.to_string());
        telling.end("an operator's rollback of what the cluster runs", ended, words).await;
    });
    Ok(response)
}

/// One rollback.
struct Rollback {
    shared: Arc<Shared>,
    request: RollbackRequest,
}

impl Rollback {
    /// Takes all steps. Returns the event that tells the end; a dry run that went well has none.
    async fn take_steps(&self, telling: &Telling) -> Result<Option<UpgradeEvent>, Stopped> {
        let (steps, taken) = mpsc::channel(STEPS_WAITING_MAX);
        let RollbackRequest { dry_run, without, .. } = &self.request;
        let plan = RollbackPlan { is_dry_run: *dry_run, without: without.clone() };
        // The routes change with the rollback, so they are read before it.
        let (now, before) = (self.shared.routes(), self.contract_before());
        let now = now.as_deref();
        let of_step = |step: &Step| {
            let answers = Answers::new(now, before.as_ref().or(now)?, self.request.quiet);
            Some(words::of_step(step, &answers))
        };
        let upgrades = &self.shared.parts.upgrades;
        let (ended, ()) = tokio::join!(upgrades.roll_back(plan, steps), telling.tell_steps(taken, of_step));
        Ok(match ended? {
            Ended::Tried => None,
            Ended::Decided { report, behind } => Some(words::rollback_decided(&report, &behind)),
        })
    }

    /// Returns the contract of the component before the change, if this node has that component
    /// ready.
    fn contract_before(&self) -> Option<Contract> {
        let machine = &self.shared.parts.machine;
        contract_of(&machine.component_for(&machine.profile_before()?)?).ok()
    }
}
