//! Unary calls over the client port, without a cluster. A real group and the real API serve on the
//! loopback; its Raft was stopped, so it takes no command, and answers queries that need no leader.
//! One client calls, one call after the other.
//!
//! ```text
//! client ── HTTP/2 over TCP ──► net ──► face ──► gate, bodies ──► calls ──► query thread ──► guest
//! ```
//!
//! Port, API and client share one thread; the guest has a thread of its own, as on a node. Counted
//! are both halves of HTTP/2, all checks of a call, the guest, and the reply. Not covered are TLS,
//! tokens and policies, the read barrier, and the path of a command through Raft.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Uri, header};
use lockstep::api::{Api, ApiParts, Stop};
use lockstep::calls::budget::Budget;
use lockstep::codec::{Change, Genesis};
use lockstep::group::{Group, Lent, Opened, Settings};
use lockstep::guest::Component;
use lockstep::machine::{Executor, Pace, QueryPool};
use lockstep::net::{Descriptors, Port, Sockets};
use lockstep::raft::membership::join::{ComponentId, Host, JoinOffer};
use lockstep::raft::peers::groups::Groups;
use lockstep::raft::peers::link::Channels;
use lockstep::raft::retention::RetentionLimits;
use lockstep::raft::{ClusterCell, Intake, Me, Timeouts};
use lockstep::store::{DataDir, LogDisk, Space};
use lockstep::threads::Handles;
use lockstep::trust::{Trust, TrustSettings};
use lockstep::types::{Addresses, Fatal, GROUP, NodeMode};
use lockstep_proto::peer::Route;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::task::JoinHandle;

/// Bytes that the client may make the port hold.
const CLIENT_BYTES: u64 = 64 << 20;
/// Connections of a port, and queries that may wait.
const WAITING_MAX: usize = 16;
/// Longer than any run, so that nothing happens by the clock.
const QUIET: Duration = Duration::from_secs(3600);
/// Why the group does nothing of what members do.
const ALONE: &str = "a benchmark has no cluster";

/// Serves the component, and calls its method so many times. Each call must succeed.
pub fn serve_calls(component: Component, method: &str, request: &[u8], times: u32) -> Result<()> {
    let place = tempfile::Builder::new().prefix("lockstep-instructions-").tempdir()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let served = Served::start(place.path(), component).await?;
        call(served.address, method, request, times).await?;
        served.stop().await
    })
}

/// Makes the calls over one connection.
async fn call(address: SocketAddr, method: &str, request: &[u8], times: u32) -> Result<()> {
    let (mut client, connection) = h2::client::handshake(TcpStream::connect(address).await?).await?;
    let connection = tokio::spawn(connection);
    let uri: Uri = format!("http://{address}/{method}").parse()?;
    let message = framed(request);
    for _ in 0..times {
        client = client.ready().await?;
        let head = Request::post(uri.clone()).header(header::CONTENT_TYPE, "application/grpc");
        let (response, mut sent) = client.send_request(head.header(header::TE, "trailers").body(())?, false)?;
        sent.send_data(message.clone(), true)?;
        let (head, mut reply) = response.await?.into_parts();
        while let Some(data) = reply.data().await {
            let bytes = data?.len();
            reply.flow_control().release_capacity(bytes)?;
        }
        let trailers = reply.trailers().await?.unwrap_or_default();
        let is_ok = trailers.get("grpc-status").is_some_and(|code| code == "0");
        ensure!(is_ok, "a call of {method} ended with {:?} {trailers:?}", head.headers);
    }
    connection.abort();
    Ok(())
}

/// Returns a message as gRPC frames it: a flag, four bytes of length, and the message.
fn framed(message: &[u8]) -> Bytes {
    [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat().into()
}

/// A client port and what is behind it.
struct Served {
    api: Api,
    group: Group,
    disk: LogDisk,
    address: SocketAddr,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Served {
    async fn start(place: &Path, component: Component) -> Result<Served> {
        let lent = lent(place)?;
        let opened = Opened::open(&lent, GROUP, settings())?;
        opened.machine.set_component(component);
        // A group that is held has no running Raft. Then it is told to serve all the same.
        let group = opened.start(Arc::new(Alone), Some(&NodeMode::Disputed(ALONE.to_owned()))).await?;
        group.machine.set_mode(NodeMode::Serving);
        let api = Api::new(parts(&lent, &group)?)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (server, threads) = (api.clone(), Handles { clients: Handle::current(), ports: Handle::current() });
        let serving = tokio::spawn(async move { server.serve(&threads, vec![listener], Vec::new()).await });
        Ok(Served { api, group, disk: lent.disk, address, serving })
    }

    /// Ends all threads, so that the process ends cleanly.
    async fn stop(self) -> Result<()> {
        self.api.stop();
        self.serving.await?.context("the port did not close")?;
        self.group.close().await?;
        self.disk.close();
        Ok(())
    }
}

/// Opens what a process lends to its groups.
fn lent(place: &Path) -> Result<Lent> {
    let directory = Arc::new(DataDir::open(place)?);
    let space = Space::open(&directory, 0)?;
    let fatal = Fatal::default();
    Ok(Lent {
        me: Me { node_id: 1, node: Addresses::default() },
        boot: 1,
        disk: LogDisk::open(&directory, fatal.clone())?,
        directory,
        space,
        cluster: ClusterCell::new(None),
        channels: Channels::default(),
        groups: Groups::default(),
        intake: Intake::default(),
        queries: QueryPool::start(1, WAITING_MAX)?,
        executor: Executor::default(),
        budget: Budget::new(CLIENT_BYTES),
        log_archive: None,
        snapshot_pace: Pace::default(),
        fatal,
    })
}

fn settings() -> Settings {
    let retention = RetentionLimits {
        interval: QUIET,
        threshold_commands: u64::MAX,
        threshold_bytes: 0,
        trailing_commands: 1,
        trailing_entries_min: 1,
        log_bytes_max: 0,
    };
    let timeouts = Timeouts { heartbeat: QUIET, election: QUIET };
    Settings { timeouts, catch_up_timeout: QUIET, retention, restores_snapshot: true }
}

/// Joins the API to a group. Nobody asks it for what only a node can do.
fn parts(lent: &Lent, group: &Group) -> Result<ApiParts> {
    let port = |name| Port::new(name, WAITING_MAX);
    Ok(ApiParts {
        node: lent.me.node.clone(),
        raft: group.running.clone(),
        machine: group.machine.clone(),
        calls: group.calls.clone(),
        log_time: group.log_time.clone(),
        members: group.members.clone(),
        leader: group.leader.clone(),
        election_timeout: QUIET,
        retention: group.retention.clone(),
        log_source: group.log_source.clone(),
        sockets: Sockets {
            clients: port("grpc"),
            peers: port("raft"),
            http: port("http"),
            descriptors: Descriptors::raise(),
        },
        trust: Trust::open(TrustSettings::default()).map_err(|error| anyhow!("{error:?}"))?,
        intake: lent.intake.clone(),
        stop: Stop { raft: Arc::new(refuse::<()>), exit: Arc::new(|| ()) },
        resync: Arc::new(|_| refuse()),
        keep: Arc::new(|_| refuse()),
        upgrades: group.upgrades.clone(),
    })
}

/// Refuses what needs a cluster.
fn refuse<T: Send + 'static>() -> BoxFuture<'static, Result<T, String>> {
    Box::pin(async { Err(ALONE.to_owned()) })
}

/// What members would ask a node: there are none.
struct Alone;

impl Host for Alone {
    fn boot(&self) -> u64 {
        1
    }

    fn component(&self) -> Option<ComponentId> {
        None
    }

    fn profile(&self) -> Option<(u64, Genesis)> {
        None
    }

    fn load_component(&self, _: &[u8; 32]) -> Result<Option<Vec<u8>>, String> {
        Ok(None)
    }

    fn adopt(&self, _: JoinOffer) -> BoxFuture<'static, Result<(), String>> {
        refuse()
    }

    fn prepare(&self, _: Change, _: Option<(Addresses, Route)>) -> BoxFuture<'static, Result<String, String>> {
        refuse()
    }
}
