//! RaftManager, the admin service of raft-example. Every node serves it. Operations that change the
//! cluster run only on the leader. On another node, the operation's error names the leader. This
//! file translates requests and starts operations; `raft/` makes the changes.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lockstep_proto::manager::raft_manager_server::RaftManager;
use lockstep_proto::manager::{self as pb, Future as Token};
use lockstep_proto::v1::Call as EncodedCall;
use prost::Message;
use tonic::{Request, Response, Status};

use super::gate::{caller_name, note};
use super::node_status::suffrage;
use super::operations::{Done, OperationError};
use super::{Shared, status};
use crate::calls::budget::Share;
use crate::calls::{Call, Connection};
use crate::raft::figures::Contact;
use lockstep_contract::Kind;

/// How long the token of a Shutdown still answers after the Raft group has stopped, unless it is
/// forgotten before.
const SHUTDOWN_LINGER: Duration = Duration::from_secs(1);

/// The last moment that LastContact can express, in the year 2262.
const LAST_NANO: Duration = Duration::from_nanos(i64::MAX.unsigned_abs());

/// The service. Cheap to clone.
#[derive(Clone)]
pub(super) struct Manager(pub(super) Arc<Shared>);

pub(super) type Reply<T> = Result<Response<T>, Status>;

impl Manager {
    fn start(&self, work: impl Future<Output = Result<u64, String>> + Send + 'static) -> Reply<Token> {
        self.start_done(async move { work.await.into() })
    }

    fn start_done(&self, work: impl Future<Output = Done> + Send + 'static) -> Reply<Token> {
        token_reply(self.0.operations.start(work))
    }

    /// Starts `work` if this node leads. Otherwise the operation's error names the leader.
    fn start_on_leader<F>(&self, work: impl FnOnce(Arc<Shared>) -> F + Send + 'static) -> Reply<Token>
    where
        F: Future<Output = Result<u64, String>> + Send + 'static,
    {
        let shared = self.0.clone();
        self.start_done(async move {
            match shared.parts.calls.require_leader().await {
                Ok(_) => work(shared).await.into(),
                Err(error) => status::operation(Err(error)),
            }
        })
    }
}

fn token_reply(token: Result<String, OperationError>) -> Reply<Token> {
    let token = token.map_err(|error| Status::resource_exhausted(error.to_string()))?;
    Ok(Response::new(Token { operation_token: token }))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[tonic::async_trait]
impl RaftManager for Manager {
    async fn add_voter(&self, request: Request<pb::AddVoterRequest>) -> Reply<Token> {
        note_server(&request, &request.get_ref().id, &request.get_ref().address);
        let pb::AddVoterRequest { id, address, previous_index } = request.into_inner();
        self.start_on_leader(move |shared| async move {
            shared.parts.members.add_voter(&id, &address, previous_index).await.map_err(text)
        })
    }

    async fn add_nonvoter(&self, request: Request<pb::AddNonvoterRequest>) -> Reply<Token> {
        note_server(&request, &request.get_ref().id, &request.get_ref().address);
        let pb::AddNonvoterRequest { id, address, previous_index } = request.into_inner();
        self.start_on_leader(move |shared| async move {
            shared.parts.members.add_learner(&id, &address, previous_index).await.map_err(text)
        })
    }

    async fn demote_voter(&self, request: Request<pb::DemoteVoterRequest>) -> Reply<Token> {
        note_server(&request, &request.get_ref().id, "");
        let pb::DemoteVoterRequest { id, previous_index } = request.into_inner();
        self.start_on_leader(move |shared| async move {
            shared.parts.members.demote(&id, previous_index).await.map_err(text)
        })
    }

    async fn remove_server(&self, request: Request<pb::RemoveServerRequest>) -> Reply<Token> {
        note_server(&request, &request.get_ref().id, "");
        let pb::RemoveServerRequest { id, previous_index } = request.into_inner();
        self.start_on_leader(move |shared| async move {
            shared.parts.members.remove(&id, previous_index).await.map_err(text)
        })
    }

    async fn leadership_transfer(&self, _: Request<pb::LeadershipTransferRequest>) -> Reply<Token> {
        self.start_on_leader(|shared| async move {
            shared.parts.members.transfer_leadership().await.map_err(text)?;
            Ok(shared.parts.machine.applied_index())
        })
    }

    async fn leadership_transfer_to_server(
        &self,
        request: Request<pb::LeadershipTransferToServerRequest>,
    ) -> Reply<Token> {
        note_server(&request, &request.get_ref().id, &request.get_ref().address);
        let pb::LeadershipTransferToServerRequest { id, address } = request.into_inner();
        self.start_on_leader(move |shared| async move {
            shared.check_address(&id, &address)?;
            shared.parts.members.transfer_leadership_to(&id).await.map_err(text)?;
            Ok(shared.parts.machine.applied_index())
        })
    }

    async fn apply_log(&self, request: Request<pb::ApplyLogRequest>) -> Reply<Token> {
        let caller = caller_name(request.extensions());
        let connection: Connection = request.extensions().get().cloned().unwrap_or_default();
        let call = self.0.decode_call(&request.get_ref().data, caller, connection.share().clone())?;
        note(&request, "command", &call.method.name);
        let calls = self.0.parts.calls.clone();
        self.start_done(async move { status::applied_log(calls.command_on_leader(call).await) })
    }

    async fn barrier(&self, _: Request<pb::BarrierRequest>) -> Reply<Token> {
        let calls = self.0.parts.calls.clone();
        self.start_done(async move { status::operation(calls.barrier().await) })
    }

    async fn verify_leader(&self, _: Request<pb::VerifyLeaderRequest>) -> Reply<Token> {
        let calls = self.0.parts.calls.clone();
        self.start_done(async move { status::operation(calls.verify_leader().await) })
    }

    // A snapshot changes nothing for other nodes, so every node takes its own, as the original
    // does.
    async fn snapshot(&self, _: Request<pb::SnapshotRequest>) -> Reply<Token> {
        let shared = self.0.clone();
        self.start(async move { shared.parts.retention.take_now().await })
    }

    async fn shutdown(&self, _: Request<pb::ShutdownRequest>) -> Reply<Token> {
        let shared = self.0.clone();
        token_reply(self.0.operations.start_with(|forgotten| async move {
            shared.shutting_down.send_replace(true);
            let stopped = (shared.parts.stop.raft)().await;
            let exit = shared.parts.stop.exit.clone();
            tokio::spawn(async move {
                // A timeout is normal for a client that does not forget the token.
                let _timed_out = tokio::time::timeout(SHUTDOWN_LINGER, forgotten.wait()).await;
                exit();
            });
            stopped.map(|()| 0).into()
        }))
    }

    async fn applied_index(&self, _: Request<pb::AppliedIndexRequest>) -> Reply<pb::AppliedIndexResponse> {
        Ok(Response::new(pb::AppliedIndexResponse { index: self.0.parts.machine.applied_index() }))
    }

    async fn last_index(&self, _: Request<pb::LastIndexRequest>) -> Reply<pb::LastIndexResponse> {
        Ok(Response::new(pb::LastIndexResponse { index: self.0.raft_status().last_log_index }))
    }

    async fn last_contact(&self, _: Request<pb::LastContactRequest>) -> Reply<pb::LastContactResponse> {
        Ok(Response::new(match self.0.last_contact().await {
            Contact::Never => pb::LastContactResponse { unix_nano: 0, time_format: "never".into() },
            Contact::Ago(ago) => {
                // A time before 1970 by this machine's clock counts as 1970. Neither field can
                // express it.
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                let since_1970 = now.saturating_sub(ago).min(LAST_NANO);
                pb::LastContactResponse {
                    unix_nano: i64::try_from(since_1970.as_nanos()).unwrap_or(i64::MAX),
                    time_format: humantime::format_rfc3339_nanos(SystemTime::UNIX_EPOCH + since_1970).to_string(),
                }
            }
        }))
    }

    async fn leader(&self, _: Request<pb::LeaderRequest>) -> Reply<pb::LeaderResponse> {
        let node = self.0.parts.leader.current().map(|leader| leader.node).unwrap_or_default();
        Ok(Response::new(pb::LeaderResponse { address: node.raft_addr, server_id: node.name }))
    }

    async fn state(&self, _: Request<pb::StateRequest>) -> Reply<pb::StateResponse> {
        Ok(Response::new(pb::StateResponse { state: self.0.raft_status().state.into() }))
    }

    async fn stats(&self, _: Request<pb::StatsRequest>) -> Reply<pb::StatsResponse> {
        let (last_log_term, contact) = (self.0.last_log_term().await, self.0.last_contact().await);
        Ok(Response::new(pb::StatsResponse { stats: self.0.status_now().to_stats(last_log_term, contact) }))
    }

    async fn get_configuration(&self, _: Request<pb::GetConfigurationRequest>) -> Reply<pb::GetConfigurationResponse> {
        let configuration = self.0.configuration();
        let servers = configuration.servers.into_iter().map(|server| pb::get_configuration_response::Server {
            suffrage: suffrage(&server).into(),
            id: server.node.name,
            address: server.node.raft_addr,
            leader: server.leader,
        });
        Ok(Response::new(pb::GetConfigurationResponse { servers: servers.collect(), index: configuration.index }))
    }

    async fn r#await(&self, request: Request<Token>) -> Reply<pb::AwaitResponse> {
        let Done { index, error } =
            self.0.operations.wait(&request.get_ref().operation_token).await.map_err(unknown_token)?;
        if !error.is_empty() {
            note(&request, "error", &error);
        }
        Ok(Response::new(pb::AwaitResponse { error, index }))
    }

    async fn forget(&self, request: Request<Token>) -> Reply<pb::ForgetResponse> {
        self.0.operations.forget(&request.into_inner().operation_token).map_err(unknown_token)?;
        Ok(Response::new(pb::ForgetResponse {}))
    }
}

/// Notes the server that a call is about, for the audit.
fn note_server<T>(request: &Request<T>, id: &str, address: &str) {
    note(request, "raft_id", id);
    if !address.is_empty() {
        note(request, "raft_addr", address);
    }
}

fn unknown_token(error: OperationError) -> Status {
    Status::not_found(error.to_string())
}

impl Shared {
    /// Returns an error if `name` is a server, but not at the address that the operator gave.
    fn check_address(&self, name: &str, address: &str) -> Result<(), String> {
        let servers = self.configuration().servers;
        match servers.iter().find(|server| server.node.name == name) {
            Some(server) if !address.is_empty() && server.node.raft_addr != address => {
                Err(format!("{name} is at {}, not at {address}", server.node.raft_addr))
            }
            // For an unknown name, the transfer itself returns an error.
            Some(_) | None => Ok(()),
        }
    }

    /// Decodes the data of ApplyLog and checks that it names a command. Nothing else is ever
    /// proposed.
    fn decode_call(&self, data: &[u8], caller: String, share: Share) -> Result<Call, Status> {
        let call = EncodedCall::decode(data)
            .map_err(|error| Status::invalid_argument(format!("data is no encoded lockstep.v1.Call: {error}")))?;
        let not_serving = self.parts.calls.not_serving();
        let routes = self.routes().ok_or_else(|| status::unrouted(&self.parts.calls.no_component()))?;
        let found = routes.method(&call.method);
        let is_command = found.is_some_and(|method| method.kind == Kind::Command);
        if let Some(error) = not_serving.filter(|_| !is_command) {
            return Err(status::unrouted(&error));
        }
        match found {
            Some(method) if method.kind == Kind::Command => {
                let (method, request) = (method.clone(), call.request);
                Ok(Call { method, request, caller, deadline: None, share })
            }
            Some(method) => Err(Status::invalid_argument(format!(
                "{} is a {}; ApplyLog takes commands only",
                call.method,
                method.kind.name()
            ))),
            None => Err(Status::invalid_argument(format!(
                "data names no command: {} (the method is written package.Service/Method)",
                routes.explain_unknown(&call.method)
            ))),
        }
    }
}
