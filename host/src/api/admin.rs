//! lockstep.v1.Admin: what an operator asks of one node beside RaftManager. Translates; the frames of a backup are machine/'s.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::Shared;
use super::call::admin_server::Admin;
use super::call::{BackupRequest, BackupResponse, ResyncRequest, ResyncResponse, StatusRequest, StatusResponse};
use super::dynamic::DEADLINE_DEFAULT;
use super::fetch::Fetched;
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

    async fn resync(&self, request: Request<ResyncRequest>) -> Result<Response<ResyncResponse>, Status> {
        let from = Some(request.into_inner().from).filter(|from| !from.is_empty());
        // On a task of its own: whoever asked may go, and what was begun is finished all the same.
        let resync = tokio::spawn((self.0.parts.resync)(from));
        let fetched = resync.await.map_err(|error| Status::internal(error.to_string()))?;
        let Fetched { from, index, rows } = fetched.map_err(Status::failed_precondition)?;
        Ok(Response::new(ResyncResponse { index, rows, from }))
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
