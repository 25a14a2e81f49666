//! RaftAdmin, the older name of RaftManager: another wire format of the same implementation. It
//! only translates the four replies that differ. [`Manager`] handles every call and makes every
//! error.

use lockstep_proto::manager as pb;
use lockstep_proto::manager::raft_admin_get_configuration_response::{Server, server::Suffrage};
use lockstep_proto::manager::raft_admin_server::RaftAdmin;
use lockstep_proto::manager::raft_admin_state_response::State;
use lockstep_proto::manager::raft_manager_server::RaftManager;
use tonic::Request;

use super::manager::{Manager, Reply};

/// The service. Cheap to clone.
#[derive(Clone)]
pub(super) struct Admin(pub(super) Manager);

/// Converts a state name of [`super::node_status`]. A name that is not known here becomes
/// `Follower`, which is close enough for a tool of this kind.
fn state(name: &str) -> State {
    match name {
        "Leader" => State::Leader,
        "Candidate" => State::Candidate,
        "Shutdown" => State::Shutdown,
        _ => State::Follower,
    }
}

fn suffrage(name: &str) -> Suffrage {
    match name {
        "Voter" => Suffrage::Voter,
        "Staging" => Suffrage::Staging,
        _ => Suffrage::Nonvoter,
    }
}

#[tonic::async_trait]
impl RaftAdmin for Admin {
    async fn get_configuration(
        &self,
        request: Request<pb::GetConfigurationRequest>,
    ) -> Reply<pb::RaftAdminGetConfigurationResponse> {
        Ok(self.0.get_configuration(request).await?.map(|configuration| {
            let server = |server: pb::get_configuration_response::Server| Server {
                suffrage: suffrage(&server.suffrage).into(),
                id: server.id,
                address: server.address,
            };
            let servers = configuration.servers.into_iter().map(server).collect();
            pb::RaftAdminGetConfigurationResponse { servers }
        }))
    }

    async fn last_contact(&self, request: Request<pb::LastContactRequest>) -> Reply<pb::RaftAdminLastContactResponse> {
        let response = self.0.last_contact(request).await?;
        Ok(response.map(|contact| pb::RaftAdminLastContactResponse { unix_nano: contact.unix_nano }))
    }

    async fn leader(&self, request: Request<pb::LeaderRequest>) -> Reply<pb::RaftAdminLeaderResponse> {
        let response = self.0.leader(request).await?;
        Ok(response.map(|leader| pb::RaftAdminLeaderResponse { address: leader.address }))
    }

    async fn state(&self, request: Request<pb::StateRequest>) -> Reply<pb::RaftAdminStateResponse> {
        let response = self.0.state(request).await?;
        Ok(response.map(|found| pb::RaftAdminStateResponse { state: state(&found.state).into() }))
    }

    async fn add_nonvoter(&self, request: Request<pb::AddNonvoterRequest>) -> Reply<pb::Future> {
        self.0.add_nonvoter(request).await
    }

    async fn add_voter(&self, request: Request<pb::AddVoterRequest>) -> Reply<pb::Future> {
        self.0.add_voter(request).await
    }

    async fn applied_index(&self, request: Request<pb::AppliedIndexRequest>) -> Reply<pb::AppliedIndexResponse> {
        self.0.applied_index(request).await
    }

    async fn apply_log(&self, request: Request<pb::ApplyLogRequest>) -> Reply<pb::Future> {
        self.0.apply_log(request).await
    }

    async fn barrier(&self, request: Request<pb::BarrierRequest>) -> Reply<pb::Future> {
        self.0.barrier(request).await
    }

    async fn demote_voter(&self, request: Request<pb::DemoteVoterRequest>) -> Reply<pb::Future> {
        self.0.demote_voter(request).await
    }

    async fn last_index(&self, request: Request<pb::LastIndexRequest>) -> Reply<pb::LastIndexResponse> {
        self.0.last_index(request).await
    }

    async fn leadership_transfer(&self, request: Request<pb::LeadershipTransferRequest>) -> Reply<pb::Future> {
        self.0.leadership_transfer(request).await
    }

    async fn leadership_transfer_to_server(
        &self,
        request: Request<pb::LeadershipTransferToServerRequest>,
    ) -> Reply<pb::Future> {
        self.0.leadership_transfer_to_server(request).await
    }

    async fn remove_server(&self, request: Request<pb::RemoveServerRequest>) -> Reply<pb::Future> {
        self.0.remove_server(request).await
    }

    async fn shutdown(&self, request: Request<pb::ShutdownRequest>) -> Reply<pb::Future> {
        self.0.shutdown(request).await
    }

    async fn snapshot(&self, request: Request<pb::SnapshotRequest>) -> Reply<pb::Future> {
        self.0.snapshot(request).await
    }

    async fn stats(&self, request: Request<pb::StatsRequest>) -> Reply<pb::StatsResponse> {
        self.0.stats(request).await
    }

    async fn verify_leader(&self, request: Request<pb::VerifyLeaderRequest>) -> Reply<pb::Future> {
        self.0.verify_leader(request).await
    }

    async fn r#await(&self, request: Request<pb::Future>) -> Reply<pb::AwaitResponse> {
        self.0.r#await(request).await
    }

    async fn forget(&self, request: Request<pb::Future>) -> Reply<pb::ForgetResponse> {
        self.0.forget(request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_the_numbers_of_raftadmin() {
        let states = ["Follower", "Candidate", "Leader", "Shutdown"].map(|name| state(name) as i32);
        assert_eq!(states, [0, 1, 2, 3]);
        let suffrages = ["Voter", "Nonvoter", "Staging"].map(|name| suffrage(name) as i32);
        assert_eq!(suffrages, [0, 1, 2]);
    }
}
