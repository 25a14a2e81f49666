//! The receiving side of a snapshot: frames into `machine`, then the finished state into openraft. Restores nothing itself.
//!
//! - One install at a time: a second snapshot that arrives while the first is being installed can panic openraft's core
//!   (openraft issue 2116). The gate opens again only once the installed position is applied.
//! - An install that has begun runs to its end even when the sender hangs up.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::async_runtime::WatchReceiver;
use openraft::raft::SnapshotResponse;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tonic::Status;

use crate::machine::{Machine, SnapshotData, SnapshotError};
use crate::raft::peer::{SnapshotHeader, SnapshotRequest, snapshot_request::Part};
use crate::raft::{Raft, peer, wire};
use crate::types::{TypeConfig, Vote};

/// Between two frames of a sender. It may be restoring nothing meanwhile, only reading its disk.
const FRAME_TIMEOUT: Duration = Duration::from_secs(60);

/// The frames that follow the header.
pub type Frames = BoxStream<'static, Result<SnapshotRequest, Status>>;

/// What `service` does with a snapshot whose route it has checked.
pub trait SnapshotHandler: Send + Sync + 'static {
    /// Installs it, or says why not; nothing has changed then.
    fn install(
        &self,
        raft: Arc<Raft>,
        header: SnapshotHeader,
        frames: Frames,
    ) -> BoxFuture<'static, Result<peer::SnapshotResponse, Status>>;
}

/// The one that is used.
pub struct Installer {
    machine: Machine,
    gate: Arc<Mutex<()>>,
}

impl Installer {
    /// For one group.
    pub fn new(machine: Machine) -> Self {
        Installer { machine, gate: Arc::default() }
    }
}

impl SnapshotHandler for Installer {
    fn install(
        &self,
        raft: Arc<Raft>,
        header: SnapshotHeader,
        frames: Frames,
    ) -> BoxFuture<'static, Result<peer::SnapshotResponse, Status>> {
        let machine = self.machine.clone();
        let gate = self.gate.clone();
        Box::pin(async move {
            let guard = gate.try_lock_owned().map_err(|_| {
                Status::failed_precondition("this node is installing another snapshot; try again later")
            })?;
            let (vote, meta) = wire::decode_snapshot_header(header)?;
            if let Some(newer) = newer_vote(&raft, &vote) {
                return Ok(wire::encode_snapshot_response(&SnapshotResponse::new(newer)));
            }
            let data = receive(&machine, frames).await?;
            let install = finish(machine, raft, vote, SnapshotOf::<TypeConfig, _> { meta, snapshot: data }, guard);
            let response = tokio::spawn(install).await.map_err(|error| Status::internal(error.to_string()))??;
            Ok(wire::encode_snapshot_response(&response))
        })
    }
}

/// The vote that outdates the sender's, before anything is received in vain. openraft checks again.
fn newer_vote(raft: &Raft, vote: &Vote) -> Option<Vote> {
    let ours = raft.metrics().borrow_watched().vote;
    (ours > *vote).then_some(ours)
}

async fn receive(machine: &Machine, mut frames: Frames) -> Result<SnapshotData, Status> {
    let receiving = machine.snapshots().receive().map_err(refuse)?;
    loop {
        let frame = tokio::time::timeout(FRAME_TIMEOUT, frames.next())
            .await
            .map_err(|_| Status::deadline_exceeded(format!("no snapshot frame within {FRAME_TIMEOUT:?}")))?;
        match frame.transpose()?.map(|message| message.part) {
            Some(Some(Part::Frame(frame))) => receiving.push(frame).await,
            Some(_) => return Err(Status::invalid_argument("a snapshot has one header, then frames")),
            None => break,
        }
    }
    receiving.finish().await.map_err(refuse)
}

/// DATA_LOSS has a meaning between peers: what the guest restored is not what was sent, and the sender must ship the rows itself.
fn refuse(error: SnapshotError) -> Status {
    let text = format!("cannot restore the snapshot: {error}");
    match error.is_unfaithful() {
        true => Status::data_loss(text),
        false => Status::failed_precondition(text),
    }
}

async fn finish(
    machine: Machine,
    raft: Arc<Raft>,
    vote: Vote,
    snapshot: SnapshotOf<TypeConfig, SnapshotData>,
    guard: OwnedMutexGuard<()>,
) -> Result<SnapshotResponse<TypeConfig>, Status> {
    let index = last_index(&snapshot.meta);
    let response = raft
        .install_full_snapshot(vote, snapshot)
        .await
        .map_err(|error| Status::unavailable(format!("Raft has stopped: {error}")))?;
    if response.vote == vote {
        machine.wait_applied(index).await;
    }
    drop(guard);
    Ok(response)
}

fn last_index(meta: &SnapshotMetaOf<TypeConfig>) -> u64 {
    meta.last_log_id.map_or(0, |id| id.index)
}
