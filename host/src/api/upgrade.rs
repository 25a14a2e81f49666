//! The calls of `lockstep.v1.Admin` that change what the cluster runs: takes in a component, says
//! how its contract differs, and tells of the steps of a change. `raft/upgrade` takes the steps,
//! and the node keeps the component. `words` says each step for people and for programs.
//!
//! - One component is taken in at a time. Its bytes count among those of clients as far as those of
//!   one connection may.
//! - A change whose caller leaves ends, unless it was proposed already.

mod answers;
mod in_force;
mod operation;
pub(super) mod profile;
pub(super) mod raise;
pub(super) mod rollback;
mod state;
mod telling;
mod words;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use lockstep_contract::{Contract, Difference, Method, differences};
use lockstep_proto::v1::{ContractDifference, PutComponentRequest, PutComponentResponse, UpgradeEvent, UpgradeRequest};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};

use super::gate::{apart, note};
use super::{Shared, status};
use crate::calls::budget::{Budget, Lease, Use};
use crate::guest::Verdict;
use crate::machine::is_not_run;
use crate::raft::upgrade::{Ended, Plan, Step, Stopped};
use crate::types::{COMPONENT_BYTES_MAX, hex};
pub(crate) use answers::Answers;
use telling::{STEPS_WAITING_MAX, Telling};

/// Longest time in which a component may arrive.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(300);

/// Most differences between two contracts that are told. Those that break clients come first.
const DIFFERENCES_MAX: usize = 1_000;

/// A component that this node keeps for a change.
#[derive(Clone)]
pub struct Kept {
    /// BLAKE3 hash of the encoded component.
    pub hash: [u8; 32],
    /// BLAKE3 hash of the file that it was encoded from.
    pub source: [u8; 32],
    /// The version that it declares; empty if it declares none.
    pub version: String,
    /// Whether it changes the state of its predecessor.
    pub has_migrator: bool,
    /// What it says of its state: the section `lockstep.state`.
    pub state: Option<Vec<u8>>,
    /// What it serves.
    pub contract: Arc<Contract>,
}

/// Encodes, compiles and stores a component under the profile in force. An error is a text for
/// operators.
pub type Keep = Arc<dyn Fn(Bytes) -> BoxFuture<'static, Result<Kept, String>> + Send + Sync>;

/// The component that this node has taken in last.
#[derive(Default)]
pub(super) struct Uploads {
    turn: Arc<tokio::sync::Mutex<()>>,
    kept: Mutex<Option<Kept>>,
}

/// The steps of one change, as they are told.
pub(super) type Events = BoxStream<'static, Result<UpgradeEvent, Status>>;

/// Takes in a component. It is checked, compiled and kept, and not run.
pub(super) async fn put_component(
    shared: &Shared,
    request: Request<Streaming<PutComponentRequest>>,
) -> Result<Response<PutComponentResponse>, Status> {
    let (call, mut chunks) = apart(request);
    shared.parts.calls.require_leader().await.map_err(|error| status::unmarked(&error))?;
    let turn = shared.uploads.turn.clone().try_lock_owned();
    let turn = turn.map_err(|_| {
        Status::resource_exhausted("this node is taking in another component; send this one after that")
    })?;
    let received = timeout(UPLOAD_TIMEOUT, receive(&mut chunks, shared.parts.calls.budget())).await;
    let (file, lease) = received.map_err(|_| {
        Status::deadline_exceeded(format!("the component did not arrive whole within {UPLOAD_TIMEOUT:?}"))
    })??;
    note(&call, "bytes", file.len());
    let keep = (shared.parts.keep)(file);
    // Compiling cannot be ended, so it has its turn and its bytes until it has ended.
    let keeping = tokio::spawn(async move {
        let _until_the_end = (turn, lease);
        keep.await
    });
    let kept = keeping.await.map_err(|error| Status::internal(error.to_string()))?;
    let kept = kept.map_err(Status::invalid_argument)?;
    note(&call, "component", hex(&kept.hash));
    let differences = shared.differences(&kept);
    let answer = encode_kept(&kept, &differences);
    *shared.uploads.kept.lock() = Some(kept);
    Ok(Response::new(answer))
}

/// Reads the file of a component, and counts its bytes before they arrive.
async fn receive(chunks: &mut Streaming<PutComponentRequest>, budget: &Budget) -> Result<(Bytes, Lease), Status> {
    let first = chunks.message().await?.ok_or_else(|| Status::invalid_argument("nothing was sent"))?;
    let size = usize::try_from(first.bytes).unwrap_or(usize::MAX);
    if !(1..=COMPONENT_BYTES_MAX).contains(&size) {
        return Err(Status::invalid_argument(format!(
            "a component has 1 to {COMPONENT_BYTES_MAX} bytes, and the first message says {}",
            first.bytes
        )));
    }
    // By force, and beside its connection, which must be able to hold the messages. There is one
    // such lease at a time, and operators with the role admin alone can bring it about.
    let lease = budget.share().force(Use::Call, first.bytes.min(budget.connection_max()));
    let mut file = Vec::with_capacity(size);
    let mut next = Some(first);
    while let Some(message) = next {
        if file.len() + message.chunk.len() > size {
            return Err(Status::invalid_argument(format!("more than the {size} bytes of the first message came")));
        }
        file.extend_from_slice(&message.chunk);
        next = chunks.message().await?;
    }
    match file.len() == size {
        true => Ok((file.into(), lease)),
        false => Err(Status::invalid_argument(format!("{} of {size} bytes came", file.len()))),
    }
}

/// Changes what the cluster runs, and tells of each step.
pub(super) async fn upgrade(
    shared: &Arc<Shared>,
    request: Request<UpgradeRequest>,
) -> Result<Response<Events>, Status> {
    let (call, request) = apart(request);
    note(&call, "component", hex(&request.component_hash));
    note(&call, "dry_run", request.dry_run);
    note(&call, "allow_breaking", request.allow_breaking);
    note(&call, "rehearse", request.rehearse);
    note(&call, "probation_ms", request.probation_ms);
    shared.parts.calls.require_leader().await.map_err(|error| status::unmarked(&error))?;
    let kept = shared.uploads.kept.lock().clone().filter(|kept| kept.hash[..] == request.component_hash[..]);
    let kept = kept.ok_or_else(|| {
        Status::failed_precondition(format!(
            "this node has not taken in component {}, or another one after it; send it with PutComponent",
            hex(&request.component_hash)
        ))
    })?;
    let (telling, response) = Telling::begin(call);
    let upgrade = Upgrade { shared: shared.clone(), request, kept };
    // From the proposal on, it goes on to its end whoever listens.
    tokio::spawn(async move {
        let ended = upgrade.take_steps(&telling).await;
        let what = format!("an operator's change to component {}", hex(&upgrade.kept.hash));
        let words = |stopped: &Stopped| words::not_changed(&stopped.to_string());
        telling.end(&what, ended, words).await;
    });
    Ok(response)
}

/// One change.
struct Upgrade {
    shared: Arc<Shared>,
    request: UpgradeRequest,
    kept: Kept,
}

impl Upgrade {
    /// Takes all steps. Returns the event that tells the end; a dry run that went well has none.
    /// The file that runs already is the same guest, also when this version has encoded it
    /// otherwise: its migration must not run over its own state.
    async fn take_steps(&self, telling: &Telling) -> Result<Option<UpgradeEvent>, Stopped> {
        let shared = &self.shared;
        if let Some((index, profile)) = shared.parts.machine.profile()
            && (profile.component_hash[..] == self.kept.hash || profile.source_hash[..] == self.kept.source)
        {
            return Ok(Some(words::already(&self.kept, &profile.component_hash, index)));
        }
        let differences = shared.differences(&self.kept);
        telling.tell(words::checked(&self.kept, &differences)).await;
        if differences.iter().any(|difference| difference.breaks) && !self.request.allow_breaking {
            return Ok(Some(words::breaking(&differences)));
        }
        let (steps, taken) = mpsc::channel(STEPS_WAITING_MAX);
        let plan = Plan {
            component: self.kept.hash,
            source: self.kept.source,
            expected_index: None,
            limits: None,
            semantics: None,
            keeps_answers: false,
            rehearse: self.request.rehearse,
            is_dry_run: self.request.dry_run,
            probation_ms: self.request.probation_ms,
        };
        let of_step = |step: &Step| {
            let answers = Answers::new(shared.routes().as_deref(), &self.kept.contract, self.request.quiet);
            Some(words::of_step(step, &answers))
        };
        let (ended, ()) = tokio::join!(shared.parts.upgrades.run(plan, steps), telling.tell_steps(taken, of_step));
        Ok(match ended? {
            Ended::Tried => None,
            Ended::Decided { report, behind } => Some(words::decided(&report, &behind)),
        })
    }
}

impl Shared {
    /// Returns the component in force if it ran a call although it has no such method: the method
    /// was there when the call came. `index` is that of the state that the call saw. A command that
    /// was not run may be sent again, and is refused then before it is proposed.
    pub(super) fn component_without(&self, method: &Method, verdict: &Verdict, index: u64) -> Option<String> {
        if matches!(verdict, Verdict::Reply(_)) || is_not_run(verdict) {
            return None;
        }
        // Nearly every refusal is one of a method that is still served, and ends here.
        let is_served = self.routes()?.method(&method.name).is_some_and(|now| now.kind == method.kind);
        let (in_force, profile) = self.parts.machine.profile().filter(|_| !is_served)?;
        (index >= in_force).then(|| hex(&profile.component_hash))
    }

    /// Says why a method is not served. After a change of the component, also one that was taken
    /// back, it says what the cluster runs, and since when.
    pub(super) fn explain_unknown(&self, routes: &Contract, method: &str) -> String {
        let unknown = routes.explain_unknown(method);
        let machine = &self.parts.machine;
        let Some((index, profile)) = machine.profile() else { return unknown };
        // A rollback leads back to the component of the genesis entry, or to one before the last.
        let earlier = [machine.genesis(), machine.profile_before()];
        match earlier.iter().flatten().any(|earlier| earlier.component_hash != profile.component_hash) {
            true => {
                format!("{unknown}; the cluster runs component {} since index {index}", hex(&profile.component_hash))
            }
            false => unknown,
        }
    }

    /// Returns how what a component keeps and serves differs from the one in force. Those that
    /// break come first.
    fn differences(&self, kept: &Kept) -> Vec<Difference> {
        let in_force = self.parts.machine.component();
        let mut found = state::differences(in_force.as_ref().and_then(|component| component.state()), kept);
        found.extend(self.routes().map_or_else(Vec::new, |old| differences(&old, &kept.contract)));
        if found.len() > DIFFERENCES_MAX {
            let left_out = found.len() - DIFFERENCES_MAX;
            let breaks = found[DIFFERENCES_MAX].breaks;
            found.truncate(DIFFERENCES_MAX);
            found.push(Difference { breaks, subject: "…".into(), words: format!("{left_out} more differences") });
        }
        found
    }
}

fn encode_kept(kept: &Kept, differences: &[Difference]) -> PutComponentResponse {
    PutComponentResponse {
        component_hash: kept.hash.to_vec().into(),
        source_hash: kept.source.to_vec().into(),
        version: kept.version.clone(),
        has_migrator: kept.has_migrator,
        differences: differences.iter().map(encode_difference).collect(),
    }
}

fn encode_difference(difference: &Difference) -> ContractDifference {
    ContractDifference { text: difference.to_string(), breaking: difference.breaks }
}
