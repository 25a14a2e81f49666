//! The faces for clients and operators: the guest's services, RaftManager, health, reflection, and
//! plain HTTP for operators of the process. This room knows gRPC and the texts for people. It
//! leaves the calls to `calls/`, consensus to `raft/` and state to `machine/`, and it never touches
//! the disk.
//!
//! ```text
//! net (HTTP/2) ──► face ─┬─ a plain unary call of the guest ──► calls/: command, query
//!                        └─ gate ──► bodies ──► router ─┬─ operators ──► manager, admin
//!                                                       ├─ health, reflection
//!                                                       └─ dynamic ──► calls/: all kinds
//! face: passes the same gate and counts the same bytes (`message` reads the request)
//! routes: the unary methods of the component
//! gate: who calls, and whether that is allowed (`rights` says what a method needs; `trust` decides)
//! bodies: the bytes of both bodies are counted, and bounded
//! operators: their work is done where Raft runs, so many calls at a time
//! upgrade: a component is taken in, limits are set, and the steps of a change are told
//! log_entries: entries are sent to whoever keeps them
//! read_only: the mode in which commands are refused is set
//! status: how a call ended, in gRPC's words
//! ```

mod admin;
mod bodies;
mod dynamic;
mod face;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gate;
mod health;
mod http;
mod log_entries;
mod manager;
mod message;
mod node_status;
mod operations;
mod operators;
mod raft_admin;
mod read_only;
mod reflection;
mod rights;
mod routes;
mod rows;
pub mod status;
mod trailers;
mod upgrade;
mod wire;

use std::convert::Infallible;
use std::future::Future;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::response::IntoResponse;
use futures::future::BoxFuture;
use lockstep_contract::{Contract, ContractError};
use lockstep_proto::{manager as manager_proto, v1};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch as watch_channel;
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic_health::server::HealthReporter;

use crate::calls::{Calls, Connection, MESSAGE_BYTES_MAX, WATCHES_PER_CONNECTION_MAX};
use crate::guest::Component;
use crate::machine::Machine;
use crate::net::{self, Http2Limits, RESETS_AT_ONCE_MAX, Remote, Sockets, WindowLimits, Windows, media};
use crate::raft::figures::{self, Contact, RaftStatus};
use crate::raft::membership::Configuration;
use crate::raft::{Intake, LeaderWatch, LogSource, LogTime, Members, RaftCell, Retention, Upgrades};
use crate::threads::Handles;
use crate::trust::Trust;
use crate::types::Addresses;
use node_status::NodeStatus;
use operators::{Apart, Places};

pub use crate::calls::DEADLINE_DEFAULT;
pub use health::LEADER_SERVICE;
pub(crate) use upgrade::Answers;
pub use upgrade::{Keep, Kept};

/// Most calls that one connection may have open at a time. A client library queues further calls.
pub const CONCURRENT_STREAMS_MAX: u32 = RESETS_AT_ONCE_MAX;

// A client library silently queues a call while its connection is full, so watches alone must never
// fill one.
const _: () = assert!(WATCHES_PER_CONNECTION_MAX < CONCURRENT_STREAMS_MAX as usize);

/// Most bytes of a message of an operator. The largest row fits, which has a value of 4 MiB.
const ADMIN_MESSAGE_BYTES_MAX: usize = 2 * MESSAGE_BYTES_MAX;

/// Limits for the connections of clients. What is in the windows is counted only when a service
/// reads it, so they are small, and few are wide: those of one address hold 16 MiB, beside 64 KiB
/// for each of its other connections. A call that does not read leaves half of them to the others.
const LIMITS: Http2Limits = Http2Limits {
    streams_max: CONCURRENT_STREAMS_MAX,
    windows: WindowLimits {
        wide: Windows { stream_bytes: 256 << 10, connection_bytes: 512 << 10 },
        wide_max: 128,
        wide_per_address_max: 32,
        proven: None,
    },
    keepalive_interval: Duration::from_secs(20),
    keepalive_timeout: Duration::from_secs(20),
};

/// The parts of the node that the API uses.
pub struct ApiParts {
    /// This node's name and advertised addresses.
    pub node: Addresses,
    /// The running Raft instance, if any.
    pub raft: RaftCell,
    /// The state machine.
    pub machine: Machine,
    /// Runs the calls of the guest's methods.
    pub calls: Calls,
    /// Compares this node's clock with log time.
    pub log_time: LogTime,
    /// Changes membership and leadership.
    pub members: Members,
    /// Shows who leads.
    pub leader: LeaderWatch,
    /// `--election_timeout`. A node that has heard no leader for this long is not ready.
    pub election_timeout: Duration,
    /// Makes snapshots.
    pub retention: Retention,
    /// Reads the log for others to keep.
    pub log_source: LogSource,
    /// The open connections of each port, and their limits.
    pub sockets: Sockets,
    /// Who a client is, and what it may do.
    pub trust: Trust,
    /// The room for peers' messages of which a part is here.
    pub intake: Intake,
    /// The parts of the process that Shutdown needs.
    pub stop: Stop,
    /// Makes this node fetch its state from that member, or from any voter, and then restart. An
    /// error is a text for operators.
    pub resync: Resync,
    /// Keeps a component for a change.
    pub keep: Keep,
    /// Changes what the cluster runs.
    pub upgrades: Upgrades,
}

/// A fetched state that is now on this node's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The member that sent the state, by its name and its raft_addr.
    pub from: String,
    /// The last log index that the state holds.
    pub index: u64,
    /// Rows of the guest and of the host together.
    pub rows: u64,
}

/// See [`ApiParts::resync`].
pub type Resync = Arc<dyn Fn(Option<String>) -> BoxFuture<'static, Result<Fetched, String>> + Send + Sync>;

/// The parts of the process that Shutdown needs.
#[derive(Clone)]
pub struct Stop {
    /// Hands leadership over and stops the Raft group. The listeners stay open. It may be called
    /// more than once.
    pub raft: Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>,
    /// Lets the process end with exit code 0. It is called when the operation's token is forgotten,
    /// at most a second after the group stopped.
    pub exit: Arc<dyn Fn() + Send + Sync>,
}

/// The API, as `node.rs` holds it. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    shared: Arc<Shared>,
    served: Arc<ArcSwap<Served>>,
    health: HealthReporter,
}

/// The services of this port, with those of the component that `routes` describe.
struct Served {
    routes: Option<Arc<Contract>>,
    router: Router,
}

/// State that all services of the API share.
struct Shared {
    parts: ApiParts,
    /// Where calls of operators run, and how many may.
    operators: Places,
    /// What is served of the machine's component.
    routes: ArcSwap<routes::Routes>,
    operations: operations::Operations,
    uploads: upgrade::Uploads,
    metrics: http::metrics::Metrics,
    progress: Mutex<http::ApplyProgress>,
    bodies: bodies::Bodies,
    pages: http::Pages,
    /// Set by Shutdown, while the listeners stay open.
    shutting_down: watch_channel::Sender<bool>,
}

/// Why a component cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The component's services cannot be served.
    #[error(transparent)]
    Contract(#[from] ContractError),
    /// The component's descriptor cannot be served by reflection.
    #[error("the component's descriptor cannot be served by reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Reads a component's services, or returns why they cannot be served. Called before a component is
/// accepted.
pub fn admit(component: &Component) -> Result<Contract, ServeError> {
    let contract = contract_of(component)?;
    reflection::check(&contract)?;
    Ok(contract)
}

fn contract_of(component: &Component) -> Result<Contract, ContractError> {
    Contract::new(component.descriptor(), component.has_watcher())
}

impl Api {
    /// Creates an API that serves the host's own services, and those of the component that the
    /// machine has when a call comes. Must be called inside the runtime in which Raft runs.
    pub fn new(parts: ApiParts) -> Result<Api, ServeError> {
        let shared = Arc::new(Shared {
            parts,
            operators: Places::new(&Handle::current()),
            routes: ArcSwap::from_pointee(routes::Routes::new(0, None)),
            operations: operations::Operations::default(),
            uploads: upgrade::Uploads::default(),
            metrics: http::metrics::Metrics::new(),
            progress: Mutex::new(http::ApplyProgress::new()),
            bodies: bodies::Bodies::new(),
            pages: http::Pages::default(),
            shutting_down: watch_channel::channel(false).0,
        });
        shared.metrics.watch(&shared);
        let health = HealthReporter::new();
        let router = router(&shared, &health, None)?;
        let served = Arc::new(ArcSwap::from_pointee(Served { routes: None, router }));
        Ok(Api { shared, served, health })
    }

    /// Returns the router for one call. Makes another one when the component has changed.
    fn router(&self) -> Router {
        let (served, routes) = (self.served.load(), self.shared.routes());
        if served.routes.as_ref().map(Arc::as_ptr) == routes.as_ref().map(Arc::as_ptr) {
            return served.router.clone();
        }
        // Admission has checked it.
        let refused = |error: &tonic_reflection::server::Error| {
            tracing::error!(%error, "the component's services cannot be served");
        };
        let router = router(&self.shared, &self.health, routes.as_deref()).inspect_err(refused);
        let router = router.unwrap_or_else(|_| served.router.clone());
        self.served.store(Arc::new(Served { routes, router: router.clone() }));
        router
    }

    /// Serves clients on `grpc`, and operators of the process on `http`, each in a runtime of its
    /// own, until [`Api::stop`]. Open calls then get a moment to end.
    pub async fn serve(
        &self,
        threads: &Handles,
        grpc: Vec<StdListener>,
        http: Vec<StdListener>,
    ) -> std::io::Result<()> {
        let background = [
            tokio::spawn(health::run(self.shared.clone(), self.health.clone())),
            tokio::spawn(http::observe_progress(self.shared.clone())),
            tokio::spawn(self.shared.bodies.clone().keep_room(self.shared.parts.calls.budget().clone())),
            tokio::spawn(self.shared.bodies.clone().end_unread_streams()),
        ];
        let api = self.clone();
        let connection = move |remote: Remote| {
            let client = Arc::new(face::Client::new(api.clone(), remote));
            net::handler(move |request| face::answer(client.clone(), request))
        };
        let (port, stopped) = (self.shared.parts.sockets.clients.clone(), self.shared.stopped());
        let grpc = threads.clients.spawn(async move { net::serve(&port, grpc, LIMITS, connection, stopped).await });
        let http = threads.ports.spawn(http::serve(self.shared.clone(), http));
        let grpc = async { grpc.await.unwrap_or_else(|error| Err(std::io::Error::other(error))) };
        let http = async { http.await.unwrap_or_else(|error| Err(std::io::Error::other(error))) };
        let served = tokio::try_join!(grpc, http);
        for task in background {
            task.abort();
        }
        served.map(|_| ())
    }

    /// Ends open watches and closes the listeners.
    pub fn stop(&self) {
        self.shared.parts.calls.stop();
    }
}

/// Serves one call that `face` leaves. Checks the request and its caller before any service gets
/// it, counts the bytes of both bodies, and fits the size of the response's status.
async fn call_router(api: &Api, mut request: axum::extract::Request) -> axum::response::Response {
    if let Some(refusal) = media::refusal(request.method(), request.version(), request.headers()) {
        dynamic::drain(request.into_body()).await;
        return refusal.into_response();
    }
    let admitted = match gate::admit(&api.shared, &mut request) {
        Ok(admitted) => admitted,
        Err(status) => {
            dynamic::drain(request.into_body()).await;
            return dynamic::into_http(status);
        }
    };
    let connection = request.extensions().get::<Connection>().cloned().unwrap_or_default();
    let bodies = &api.shared.bodies;
    let (request, held) = match bodies.received(request) {
        Ok(received) => received,
        Err((body, refusal)) => {
            admitted.refused(&refusal);
            dynamic::drain(body).await;
            return dynamic::into_http(refusal);
        }
    };
    match api.router().call(request).await {
        Ok(response) => bodies.sent(trailers::fitted(admitted.accompany(response)), &connection, held),
        Err(never) => match never {},
    }
}

/// Builds the router. The host's own services come first, so that no guest can shadow one; the
/// guest's come after them.
fn router(
    shared: &Arc<Shared>,
    health: &HealthReporter,
    routes: Option<&Contract>,
) -> Result<Router, tonic_reflection::server::Error> {
    let manager = manager_proto::raft_manager_server::RaftManagerServer::new(manager::Manager(shared.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .accept_compressed(tonic::codec::CompressionEncoding::Gzip);
    let admin = v1::admin_server::AdminServer::new(admin::AdminService(shared.clone()))
        .max_decoding_message_size(ADMIN_MESSAGE_BYTES_MAX)
        .accept_compressed(tonic::codec::CompressionEncoding::Gzip);
    let health = tonic_health::pb::health_server::HealthServer::new(
        tonic_health::server::HealthService::from_health_reporter(health.clone()),
    );
    let raft_admin = raft_admin::Admin(manager::Manager(shared.clone()));
    let raft_admin = manager_proto::raft_admin_server::RaftAdminServer::new(raft_admin)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .accept_compressed(tonic::codec::CompressionEncoding::Gzip);
    let places = &shared.operators;
    let services = mount(mount(Router::new(), Apart::new(manager, places)), Apart::new(raft_admin, places));
    // Health reads what is known, so a flood of it needs nothing of the threads of Raft.
    let services = mount(mount(services, Apart::new(admin, places)), health);
    let shared = shared.clone();
    Ok(reflection::add(services, routes)?
        .fallback(move |request: axum::extract::Request| dynamic::serve(shared.clone(), request)))
}

/// Adds a generated service under its own name.
fn mount<S>(router: Router, service: S) -> Router
where
    S: Service<axum::extract::Request, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
    S::Response: IntoResponse,
    S::Future: Send + 'static,
{
    router.route_service(&format!("/{}/{{*method}}", S::NAME), service)
}

impl Shared {
    fn is_shutting_down(&self) -> bool {
        *self.shutting_down.borrow()
    }

    /// Completes once [`Api::stop`] was called.
    fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut receiver = self.parts.calls.stopping();
        async move {
            // An error means that the sender is gone, and with it everything to serve.
            drop(receiver.wait_for(|stopping| *stopping).await);
        }
    }

    /// Returns the leader's client address, when a leader is known.
    fn leader_address(&self) -> Option<String> {
        self.parts.leader.current().map(|leader| leader.node.grpc_addr)
    }

    /// Returns the function that answers `node.status` for a query.
    fn node_status(self: &Arc<Self>) -> crate::guest::StatusSource {
        let shared = self.clone();
        Arc::new(move || shared.status_now().to_json().to_string())
    }

    fn raft_status(&self) -> RaftStatus {
        RaftStatus::of(&self.parts.raft, self.is_shutting_down())
    }

    fn status_now(&self) -> NodeStatus {
        let configuration = self.configuration();
        let leader = self.parts.leader.current();
        let leads = leader.as_ref().is_some_and(|leader| leader.is_me);
        NodeStatus {
            node: self.parts.node.clone(),
            clock: self.parts.log_time.own_clock(leads),
            leader,
            servers: configuration.servers,
            servers_index: configuration.index,
            raft: self.raft_status(),
            machine: self.parts.machine.status(),
            log: self.parts.retention.status(),
            sockets: self.parts.sockets.status(),
        }
    }

    /// Returns the configuration in force. Empty while Raft does not run.
    fn configuration(&self) -> Configuration {
        self.parts.members.configuration().unwrap_or(Configuration { index: 0, servers: Vec::new() })
    }

    /// Returns when this node last heard from a leader.
    async fn last_contact(&self) -> Contact {
        let leads = self.parts.leader.current().is_some_and(|leader| leader.is_me);
        match self.parts.raft.get() {
            Some(raft) if leads => figures::leader_contact(&raft, self.parts.election_timeout),
            Some(raft) => figures::follower_contact(&raft).await,
            None => Contact::Never,
        }
    }

    /// Returns the term of the last entry in the log. 0 if there is none, or nobody knows it.
    async fn last_log_term(&self) -> u64 {
        match self.parts.raft.get() {
            Some(raft) => figures::last_log_term(&raft).await,
            None => 0,
        }
    }
}

/// Returns the contract of the default guest, for tests.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
fn example_contract() -> Contract {
    let protos = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto");
    let mut compiler = protox::Compiler::new([protos]).unwrap();
    compiler.include_imports(true).open_file("example.proto").unwrap();
    Contract::new(Some(&compiler.encode_file_descriptor_set()), true).unwrap()
}
