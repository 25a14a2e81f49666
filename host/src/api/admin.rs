//! lockstep.v1.Admin: what an operator asks of one node beside RaftManager. Translates; the frames of a backup are machine/'s.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::Shared;
use super::call::admin_server::Admin;
use super::call::{BackupRequest, BackupResponse, StatusRequest, StatusResponse};
use super::dynamic::DEADLINE_DEFAULT;
use crate::machine::SnapshotError;

/// The service. Cheap to clone.
#[derive(Clone)]
pub(super) struct AdminService(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl Admin for AdminService {
    type BackupStream = BoxStream<'static, Result<BackupResponse, Status>>;

    async fn backup(&self, request: Request<BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let peer = request.remote_addr().map_or_else(|| "an operator".into(), |address| address.to_string());
        if !request.into_inner().local {
            self.0.read_barrier(Instant::now() + DEADLINE_DEFAULT).await?;
        }
        let sending = self.0.parts.machine.snapshots().back_up(&peer).await.map_err(refusal)?;
        let frames = stream::unfold(sending, |mut sending| async move {
            let frame = sending.frames.recv().await?;
            Some((frame.map(|frame| BackupResponse { frame }).map_err(Status::internal), sending))
        });
        Ok(Response::new(frames.boxed()))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(StatusResponse { json: self.0.status_now().to_json().to_string() }))
    }
}

fn refusal(error: SnapshotError) -> Status {
    let text = error.to_string();
    match error {
        SnapshotError::BackingUp => Status::resource_exhausted(text),
        SnapshotError::Empty | SnapshotError::NoComponent | SnapshotError::Mode(_) => Status::failed_precondition(text),
        _ => Status::internal(text),
    }
}
