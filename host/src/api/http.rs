//! Plain HTTP for operators of the process: `/livez`, `/readyz`, `/metrics`, `/status`. Liveness
//! checks whether the process makes progress, never whether there is a leader. Readiness lists the
//! reasons why the node is not ready. Both are open to everybody; `gate` decides about the others.
//!
//! - Nothing here runs on the threads of Raft, and pages that take time are made beside the threads
//!   that serve connections.
//! - A page is made once for all who ask for it while another one is being made (`http/fresh.rs`).

mod fresh;
pub(super) mod metrics;

use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::time::Instant;

use super::node_status::NodeStatus;
use super::{LIMITS, Shared, gate};
use crate::net;
use crate::raft::figures::Contact;
use crate::types::NodeMode;
use fresh::Fresh;

/// How long committed entries may wait without any being applied before the process counts as
/// stuck.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// Time between two checks of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Most committed entries that a ready node may have left to apply.
const LAG_MAX: u64 = 1024;

/// The pages as they were made last.
#[derive(Default)]
pub(super) struct Pages {
    /// The reasons why the node is not ready, and why it takes no commands.
    readyz: Fresh<Arc<Readiness>>,
    metrics: Fresh<Result<Bytes, String>>,
    status: Fresh<Result<Bytes, String>>,
}

/// What `/readyz` says.
struct Readiness {
    /// Why the node should get no traffic. Empty when it is ready.
    reasons: Vec<String>,
    /// Why a ready node takes no commands.
    disk: Option<String>,
}

/// Serves the four pages until the node stops.
pub(super) async fn serve(shared: Arc<Shared>, listeners: Vec<StdListener>) -> std::io::Result<()> {
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .with_state(shared.clone());
    net::serve(
        &shared.parts.sockets.http,
        listeners,
        LIMITS,
        move |remote| router.clone().layer(axum::Extension(remote)),
        shared.stopped(),
    )
    .await
}

/// Records when the machine last made progress, until the node stops.
pub(super) async fn observe_progress(shared: Arc<Shared>) {
    let mut interval = tokio::time::interval(PROGRESS_INTERVAL);
    let stopped = shared.stopped();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            () = &mut stopped => return,
            _ = interval.tick() => {}
        }
        let applied = shared.parts.machine.applied_index();
        let committed = shared.raft_status().commit_index;
        shared.progress.lock().observe(applied, committed, Instant::now());
    }
}

/// When the machine last made progress.
#[derive(Debug)]
pub(super) struct ApplyProgress {
    applied: u64,
    at: Instant,
}

impl ApplyProgress {
    pub(super) fn new() -> ApplyProgress {
        ApplyProgress { applied: 0, at: Instant::now() }
    }

    fn observe(&mut self, applied: u64, committed: u64, now: Instant) {
        if applied >= committed || applied != self.applied {
            *self = ApplyProgress { applied, at: now };
        }
    }

    fn stuck_for(&self, now: Instant) -> Option<Duration> {
        Some(now.saturating_duration_since(self.at)).filter(|elapsed| *elapsed > STUCK_AFTER)
    }
}

async fn livez(State(shared): State<Arc<Shared>>) -> Response {
    // An unfit or quarantined node does not apply on purpose; a restart would not help it.
    let applies = matches!(shared.parts.machine.mode(), NodeMode::Serving | NodeMode::CatchingUp(_));
    match shared.progress.lock().stuck_for(Instant::now()).filter(|_| applies) {
        None => (StatusCode::OK, "ok\n").into_response(),
        Some(stuck) => {
            let text = format!("no committed entry was applied for {} s\n", stuck.as_secs());
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let readiness = shared.pages.readyz.get(|| look_whether_ready(&shared)).await;
    let Readiness { reasons, disk } = &*readiness;
    if reasons.is_empty() {
        let text = disk.as_ref().map_or("ok\n".to_owned(), |disk| format!("ok\n{disk}\n"));
        return (StatusCode::OK, text).into_response();
    }
    let text = reasons.iter().map(|reason| format!("{reason}\n")).collect::<String>();
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn look_whether_ready(shared: &Shared) -> Arc<Readiness> {
    let contact = shared.last_contact().await;
    let status = shared.status_now();
    let reasons = unready(&status, contact, shared.parts.election_timeout, shared.is_shutting_down());
    // The node serves reads, and forwards commands to a leader that may have disk space.
    let disk = shared.parts.machine.space().refuses_commands();
    Arc::new(Readiness { reasons, disk })
}

/// Returns the reasons why this node should get no traffic. Empty when it is ready.
fn unready(status: &NodeStatus, contact: Contact, silence_max: Duration, stopping: bool) -> Vec<String> {
    let mut reasons = Vec::new();
    if stopping {
        reasons.push("this node is stopping".into());
    }
    if status.machine.mode != NodeMode::Serving {
        let (mode, reason) = status.machine.mode.words();
        reasons.push(format!("mode is {mode}: {reason}"));
    }
    match (&status.leader, contact) {
        (None, _) => reasons.push("no leader is known".into()),
        (Some(leader), Contact::Ago(ago)) if ago > silence_max && leader.is_me => {
            reasons.push(format!(
                "this node leads, but no majority of the voters has answered it for {ago:?}: commands and linearizable reads fail \
                 until one does"
            ));
        }
        (Some(leader), Contact::Ago(ago)) if ago > silence_max => {
            reasons.push(format!("nothing was heard from the leader, {}, for {ago:?}", leader.node.name));
        }
        (Some(leader), Contact::Never) => {
            reasons.push(format!("nothing was heard from the leader, {}, yet", leader.node.name));
        }
        (Some(_), Contact::Ago(_)) => {}
    }
    let lag = status.raft.commit_index.saturating_sub(status.applied_index());
    if lag > LAG_MAX {
        reasons.push(format!("{lag} committed entries are not applied yet"));
    }
    reasons
}

async fn metrics(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    if let Some(refused) = gate::refused_page(&shared, &request) {
        return refused;
    }
    let made = shared.clone();
    let make = || beside(move || made.metrics.encode().map_err(|error| error.to_string()));
    page("application/openmetrics-text; version=1.0.0; charset=utf-8", shared.pages.metrics.get(make).await)
}

async fn status(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    if let Some(refused) = gate::refused_page(&shared, &request) {
        return refused;
    }
    let made = shared.clone();
    let make = || beside(move || Ok(made.status_now().to_json().to_string()));
    page("application/json", shared.pages.status.get(make).await)
}

/// Makes a page beside the threads that serve connections, so that the other pages need not wait.
async fn beside(make: impl FnOnce() -> Result<String, String> + Send + 'static) -> Result<Bytes, String> {
    let made = tokio::task::spawn_blocking(make).await;
    made.unwrap_or_else(|error| Err(error.to_string())).map(Bytes::from)
}

fn page(content_type: &'static str, made: Result<Bytes, String>) -> Response {
    match made {
        Ok(text) => ([(header::CONTENT_TYPE, content_type)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::node_status::tests::{machine, status};
    use super::*;
    use crate::raft::LeaderView;

    const SILENCE_MAX: Duration = Duration::from_secs(3);
    const HEARD: Contact = Contact::Ago(Duration::from_millis(10));

    #[test]
    fn a_node_that_follows_closely_is_ready() {
        assert!(unready(&status(), HEARD, SILENCE_MAX, false).is_empty());
    }

    #[test]
    fn readiness_says_why_not() {
        let far = NodeStatus { machine: machine(1), ..status() };
        let far = NodeStatus { raft: crate::raft::figures::RaftStatus { commit_index: 5_000, ..far.raft }, ..far };
        let mut behind = status();
        behind.machine.mode = NodeMode::CatchingUp("applying".into());
        let leads = status().leader.map(|leader| LeaderView { is_me: true, ..leader });
        let alone = "this node leads, but no majority of the voters has answered it for 9s: commands and linearizable reads \
                     fail until one does";
        let rows = [
            (NodeStatus { leader: leads, ..status() }, Contact::Ago(Duration::from_secs(9)), false, alone),
            (NodeStatus { leader: None, ..status() }, HEARD, false, "no leader is known"),
            (status(), Contact::Ago(Duration::from_secs(9)), false, "nothing was heard from the leader, nodeA, for 9s"),
            (status(), Contact::Never, false, "nothing was heard from the leader, nodeA, yet"),
            (behind, HEARD, false, "mode is catching-up: applying"),
            (far, HEARD, false, "4999 committed entries are not applied yet"),
            (status(), HEARD, true, "this node is stopping"),
        ];
        for (status, contact, stopping, expected) in rows {
            assert_eq!(unready(&status, contact, SILENCE_MAX, stopping), [expected]);
        }
    }

    #[test]
    fn a_machine_is_stuck_when_committed_entries_wait_for_a_minute() {
        let mut progress = ApplyProgress::new();
        let begin = Instant::now();
        let later = begin + STUCK_AFTER + Duration::from_secs(1);
        progress.observe(5, 9, begin);
        progress.observe(5, 9, later);
        assert!(progress.stuck_for(later).is_some());
        progress.observe(6, 9, later);
        assert!(progress.stuck_for(later).is_none());
        let much_later = later + STUCK_AFTER * 2;
        progress.observe(9, 9, much_later);
        assert!(progress.stuck_for(much_later).is_none(), "idle is not stuck");
    }
}
