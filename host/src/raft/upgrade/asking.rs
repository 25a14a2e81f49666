//! Sends the steps of a change to other members over their peer ports, each over a channel of its
//! own, and says in words why a member did not take one. It decides nothing.

use std::time::Duration;

use lockstep_proto::peer;
use lockstep_proto::peer::peer_client::PeerClient;
use prost::Message;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::codec::{Change, entry};
use crate::machine::{RehearsalReport, RollbackReport, RollbackTrial};
use crate::raft::GroupCell;
use crate::raft::membership::Server;
use crate::raft::membership::builds::Build;
use crate::raft::peers::dial::{Expect, small_client};
use crate::raft::peers::handlers::{PreparedChange, Trial};
use crate::raft::peers::network::describe;
use crate::raft::peers::wire;
use crate::types::{Addresses, NodeId};

/// Longest time for a member to make itself ready: it fetches the component and compiles it.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(180);

/// Longest time for a rehearsal. A member ends its own before that.
const REHEARSE_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Longest time for a member to run all commands since a change once more.
pub(super) const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Longest wait for one answer to the question whether a member has applied an entry.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause before a member is asked that again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Another member, with the way to it.
pub(super) struct Asked {
    me: NodeId,
    cell: GroupCell,
    server: Server,
}

impl Asked {
    pub(super) fn new(me: NodeId, cell: &GroupCell, server: &Server) -> Asked {
        Asked { me, cell: cell.clone(), server: server.clone() }
    }

    /// Has the member fetch the component from `holder`, this node, and compile it.
    pub(super) async fn prepare(&self, change: &Change, holder: &Addresses) -> Result<PreparedChange, String> {
        let mut client = self.client()?;
        let request = peer::PrepareChangeRequest {
            route: Some(self.route()?),
            change: change.encode_to_vec().into(),
            holder: Some(wire::encode_node(holder)),
        };
        let asked = timeout(PREPARE_TIMEOUT, client.prepare_change(request)).await;
        let answer = asked.map_err(|_| format!("it was not ready within {PREPARE_TIMEOUT:?}"))?;
        let peer::PrepareChangeResponse { build, log_first } = self.heard(answer)?;
        Ok(PreparedChange { build, log_first })
    }

    /// Has the member try the change out.
    pub(super) async fn rehearse(&self, trial: &Trial) -> Result<RehearsalReport, String> {
        let mut client = self.client()?;
        let request = wire::encode_trial(self.route()?, trial);
        let asked = timeout(REHEARSE_TIMEOUT, client.rehearse_change(request)).await;
        let answer = asked.map_err(|_| format!("the rehearsal took longer than {REHEARSE_TIMEOUT:?}"))?;
        let report = self.heard(answer)?.report_json;
        serde_json::from_str(&report).map_err(|error| format!("its report cannot be read: {error}"))
    }

    /// Has the member make itself ready to take a change back.
    pub(super) async fn prepare_rollback(&self, trial: RollbackTrial) -> Result<RollbackReport, String> {
        let mut client = self.client()?;
        let request = wire::encode_rollback(self.route()?, trial);
        let asked = timeout(ROLLBACK_TIMEOUT, client.prepare_rollback(request)).await;
        let answer = asked.map_err(|_| format!("it was not ready within {ROLLBACK_TIMEOUT:?}"))?;
        let report = self.heard(answer)?.report_json;
        serde_json::from_str(&report).map_err(|error| format!("its report cannot be read: {error}"))
    }

    /// Waits until the member has applied entry `index`, with `hash` behind it here, and tells
    /// whether it has by `until`. A difference of the states raises a doubt there.
    pub(super) async fn has_applied(&self, index: u64, hash: u64, until: Instant) -> bool {
        let Ok(mut client) = self.client() else { return false };
        while Instant::now() < until {
            if timeout(ANSWER_TIMEOUT, self.applied(&mut client, index, hash)).await == Ok(true) {
                return true;
            }
            sleep(ASK_AGAIN).await;
        }
        false
    }

    async fn applied(&self, client: &mut PeerClient<Channel>, index: u64, hash: u64) -> bool {
        let Ok(route) = self.route() else { return false };
        let request = peer::StateHashRequest { route: Some(route), index, hash };
        let answer = client.state_hash(request).await.ok();
        if answer.is_some_and(|answer| answer.into_inner().hash.is_some()) {
            return true;
        }
        // A member that took the change in with a snapshot, or has restarted, has no hash of it.
        let found = client.identify(peer::IdentifyRequest::default()).await.ok();
        found.is_some_and(|found| found.get_ref().profile_index >= index)
    }

    /// Returns the level of entries that the member's build applies.
    pub(super) async fn entry_field(&self) -> Result<u32, String> {
        Ok(self.identify(peer::IdentifyRequest::default()).await?.entry_field)
    }

    /// Returns the level of entries that the member's build applies, and what it says against these
    /// values. A build that knows no values says nothing.
    pub(super) async fn object(&self, values: &entry::Operation) -> Result<(u32, Option<String>), String> {
        let request = peer::IdentifyRequest { operation: values.encode_to_vec().into(), ..Default::default() };
        let found = self.identify(request).await?;
        Ok((found.entry_field, Some(found.objection).filter(|words| !words.is_empty())))
    }

    /// Returns the build of the member.
    pub(super) async fn build(&self) -> Result<Build, String> {
        self.identify(peer::IdentifyRequest::default()).await.map(|found| Build::of(&found))
    }

    async fn identify(&self, request: peer::IdentifyRequest) -> Result<peer::IdentifyResponse, String> {
        let mut client = self.client()?;
        let asked = timeout(ANSWER_TIMEOUT, client.identify(request)).await;
        let answer = asked.unwrap_or_else(|_| Err(Status::unavailable("no answer came")));
        let found = answer.map_err(|status| words(&status, &self.server.node.name))?.into_inner();
        match found.node_id == self.server.id {
            true => Ok(found),
            false => Err("another node answers at its address".to_owned()),
        }
    }

    fn client(&self) -> Result<PeerClient<Channel>, String> {
        let node = &self.server.node;
        let channel = self.cell.dialer().lazy(&node.raft_addr, Expect::of(node));
        Ok(small_client(channel.map_err(|error| error.to_string())?))
    }

    fn route(&self) -> Result<peer::Route, String> {
        self.cell.route(self.me, self.server.id).ok_or_else(|| "this node is in no cluster".to_owned())
    }

    /// Takes an answer of the process that takes part.
    fn heard<T>(&self, answer: Result<Response<T>, Status>) -> Result<T, String> {
        let heard = answer.and_then(|answer| {
            self.cell.processes().answered(self.server.id, answer.metadata())?;
            Ok(answer.into_inner())
        });
        heard.map_err(|status| {
            self.cell.note(&status);
            words(&status, &self.server.node.name)
        })
    }
}

/// Says why a member did not take a step, and what to do about it.
fn words(status: &Status, name: &str) -> String {
    match (status.code(), status.message()) {
        (Code::Unimplemented, _) => {
            "its build of Lockstep cannot change what a running cluster runs; start it with the build of the leader"
                .to_owned()
        }
        (Code::Unavailable, _) => format!(
            "it is not reached ({}); wait until it runs, or remove it from the cluster: remove_server {name}",
            describe(status)
        ),
        (code, "") => format!("it refused without a word: {}", code.description()),
        (_, message) => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_takes_no_step_is_told_with_what_to_do() {
        let rows = [
            (Status::new(Code::Unimplemented, ""), "start it with the build of the leader"),
            (Status::unavailable("refused"), "remove_server nodeB"),
            (Status::new(Code::Internal, ""), "Internal error"),
            (Status::failed_precondition("no room on its disk"), "no room on its disk"),
        ];
        for (status, expected) in rows {
            assert!(words(&status, "nodeB").contains(expected), "{status}");
        }
    }
}
