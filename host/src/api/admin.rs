//! The service lockstep.v1.Admin: what an operator asks of one node beyond RaftManager. It only
//! translates requests and responses. `machine/` makes the frames of a backup, and `upgrade` has
//! the calls that change what the cluster runs.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use lockstep_proto::v1::admin_server::Admin;
use lockstep_proto::v1::{
    BackupRequest, BackupResponse, ImportRowsRequest, ImportRowsResponse, LogEntriesRequest, ProfileRequest,
    ProfileResponse, PutComponentRequest, PutComponentResponse, RaiseRequest, ReadOnlyRequest, ReadOnlyResponse,
    ResyncRequest, ResyncResponse, RollbackRequest, SetLogTimeRequest, SetLogTimeResponse, SetProfileRequest,
    StatusRequest, StatusResponse, UpgradeRequest,
};
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::gate::note;
use super::upgrade::{profile, raise};
use super::{Fetched, Shared, log_entries, read_only, rows, status, upgrade};
use crate::calls::DEADLINE_DEFAULT;
use crate::raft::path::state_source::refusal;
use crate::raft::peers::attended::{STALLED_AFTER, attended};
use crate::raft::time::own_clock::OwnClock;
use crate::types::{CLOCK_MAX_MS, date};

/// The service. Cheap to clone.
#[derive(Clone)]
pub(super) struct AdminService(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl Admin for AdminService {
    type BackupStream = BoxStream<'static, Result<BackupResponse, Status>>;

    async fn backup(&self, request: Request<BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let peer = request.remote_addr().map_or_else(|| "an operator".into(), |address| address.to_string());
        note(&request, "local", request.get_ref().local);
        if !request.into_inner().local {
            let barrier = self.0.parts.calls.read_barrier(Instant::now() + DEADLINE_DEFAULT).await;
            barrier.map_err(|error| status::ended(&error))?;
        }
        let sending = self.0.parts.machine.snapshots().back_up(&peer).await.map_err(refusal)?;
        let frames = attended(sending, peer, STALLED_AFTER);
        Ok(Response::new(frames.map(|frame| frame.map(|frame| BackupResponse { frame })).boxed()))
    }

    type LogEntriesStream = log_entries::Entries;

    async fn log_entries(
        &self,
        request: Request<LogEntriesRequest>,
    ) -> Result<Response<Self::LogEntriesStream>, Status> {
        log_entries::send(&self.0, request).await
    }

    async fn resync(&self, request: Request<ResyncRequest>) -> Result<Response<ResyncResponse>, Status> {
        note(&request, "from", &request.get_ref().from);
        let from = Some(request.into_inner().from).filter(|from| !from.is_empty());
        // Runs on its own task: if the client disconnects, a resync that has begun still completes.
        let resync = tokio::spawn((self.0.parts.resync)(from));
        let fetched = resync.await.map_err(|error| Status::internal(error.to_string()))?;
        let Fetched { from, index, rows } = fetched.map_err(Status::failed_precondition)?;
        Ok(Response::new(ResyncResponse { index, rows, from }))
    }

    async fn set_log_time(&self, request: Request<SetLogTimeRequest>) -> Result<Response<SetLogTimeResponse>, Status> {
        let SetLogTimeRequest { time_ms, sure } = *request.get_ref();
        note(&request, "time", date(time_ms));
        note(&request, "sure", sure);
        self.0.parts.calls.require_leader().await.map_err(|error| status::unmarked(&error))?;
        let now = self.0.parts.log_time.own_clock(true).expect("a leader knows where log time stands");
        refuse_time(now, time_ms, sure)?;
        let set = self.0.parts.calls.set_log_time(time_ms).await;
        let index = set.map_err(|error| status::unmarked(&error))?;
        tracing::warn!(index, from = date(now.log_ms), to = date(time_ms), "an operator moved log time ahead");
        Ok(Response::new(SetLogTimeResponse { index, before_ms: now.log_ms }))
    }

    async fn read_only(&self, request: Request<ReadOnlyRequest>) -> Result<Response<ReadOnlyResponse>, Status> {
        read_only::set(&self.0, request).await
    }

    async fn import_rows(
        &self,
        request: Request<Streaming<ImportRowsRequest>>,
    ) -> Result<Response<ImportRowsResponse>, Status> {
        rows::import(&self.0, request).await
    }

    async fn profile(&self, _: Request<ProfileRequest>) -> Result<Response<ProfileResponse>, Status> {
        profile::show(&self.0).map(Response::new)
    }

    type SetProfileStream = upgrade::Events;

    async fn set_profile(
        &self,
        request: Request<SetProfileRequest>,
    ) -> Result<Response<Self::SetProfileStream>, Status> {
        profile::set(&self.0, request).await
    }

    type RaiseStream = upgrade::Events;

    async fn raise(&self, request: Request<RaiseRequest>) -> Result<Response<Self::RaiseStream>, Status> {
        raise::raise(&self.0, request).await
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(StatusResponse { json: self.0.status_now().to_json().to_string() }))
    }

    async fn put_component(
        &self,
        request: Request<Streaming<PutComponentRequest>>,
    ) -> Result<Response<PutComponentResponse>, Status> {
        upgrade::put_component(&self.0, request).await
    }

    type UpgradeStream = upgrade::Events;

    async fn upgrade(&self, request: Request<UpgradeRequest>) -> Result<Response<Self::UpgradeStream>, Status> {
        upgrade::upgrade(&self.0, request).await
    }

    type RollbackStream = upgrade::Events;

    async fn rollback(&self, request: Request<RollbackRequest>) -> Result<Response<Self::RollbackStream>, Status> {
        upgrade::rollback::roll_back(&self.0, request).await
    }
}

/// Returns an error if log time may not be moved from `now` to `to_ms`.
fn refuse_time(now: OwnClock, to_ms: u64, sure: bool) -> Result<(), Status> {
    let (log, to) = (date(now.log_ms), date(to_ms));
    if to_ms <= now.log_ms {
        return Err(Status::failed_precondition(format!("log time is {log} and never goes back, so not to {to}")));
    }
    if to_ms > CLOCK_MAX_MS {
        let last = date(CLOCK_MAX_MS);
        return Err(Status::invalid_argument(format!(
            "{to} is no time that a right clock shows; the last one is {last}"
        )));
    }
    if sure {
        return Ok(());
    }
    let further = humantime::format_duration(Duration::from_secs((to_ms - now.log_ms) / 1000));
    let mut words = format!(
        "from {log} to {to} log time moves {further} ahead, and never back: every lease and timer that ends in that time ends at once"
    );
    if to_ms > now.own_ms.saturating_add(1_000) {
        let own = date(now.own_ms);
        words.push_str(&format!(
            ". That is ahead of this node's clock ({own}): until most voters' clocks have reached it log time stands still, and no \
             lease and no timer ends"
        ));
    }
    Err(Status::failed_precondition(format!("{words}. Nothing was done; say that you are sure")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_790_000_000_000;
    const HOUR_MS: u64 = 3_600_000;

    fn refused(log_ms: u64, to_ms: u64) -> String {
        let now = OwnClock { own_ms: NOW_MS, log_ms, median_ms: None };
        refuse_time(now, to_ms, false).unwrap_err().message().to_owned()
    }

    #[test]
    fn log_time_is_moved_ahead_by_who_knows_what_it_ends() {
        let behind = OwnClock { own_ms: NOW_MS, log_ms: NOW_MS - HOUR_MS, median_ms: None };
        assert!(refuse_time(behind, NOW_MS, true).is_ok());
        let text = refused(NOW_MS - HOUR_MS, NOW_MS);
        assert!(text.contains("moves 1h ahead, and never back: every lease and timer"), "{text}");
        assert!(text.contains("Nothing was done") && !text.contains("stands still"), "{text}");
        let text = refused(NOW_MS, NOW_MS + HOUR_MS);
        assert!(text.contains("stands still"), "{text}");
    }

    #[test]
    fn log_time_is_moved_neither_back_nor_out_of_this_world() {
        let now = OwnClock { own_ms: NOW_MS, log_ms: NOW_MS, median_ms: None };
        for to_ms in [0, NOW_MS - 1, NOW_MS, CLOCK_MAX_MS + 1, u64::MAX] {
            assert!(refuse_time(now, to_ms, true).is_err(), "{to_ms}");
        }
    }
}
