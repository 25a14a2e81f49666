//! The service grpc.health.v1. `""` stands for the process and `quis.RaftLeader` for the leader
//! alone; each guest service is reported while this node serves. The process is healthy even
//! without a leader.

use std::sync::Arc;

use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::Shared;
use crate::types::NodeMode;

/// The service name by which `raftadmin --leader` finds the leader.
pub const LEADER_SERVICE: &str = "quis.RaftLeader";

/// Keeps the reported states current until the node stops. Then it reports every service as not
/// serving.
pub(super) async fn run(shared: Arc<Shared>, reporter: HealthReporter) {
    let mut leader = shared.parts.leader.clone();
    let mut stopping = shared.parts.calls.stopping();
    let mut mode = shared.parts.machine.watch_mode();
    let mut shutting_down = shared.shutting_down.subscribe();
    let mut component = shared.parts.machine.watch_component();
    let mut reported: Vec<(String, bool)> = Vec::new();
    loop {
        let closing = *stopping.borrow_and_update();
        let stops = closing || shared.is_shutting_down();
        let current = if stops { all_down(&reported) } else { states(&shared) };
        for (service, serves) in &current {
            if !reported.contains(&(service.clone(), *serves)) {
                reporter.set_service_status(service, serving(*serves)).await;
            }
        }
        reported = current;
        if closing {
            return;
        }
        tokio::select! {
            () = leader.changed() => {}
            // The senders live as long as the node, so these branches stay enabled that long.
            Ok(()) = mode.changed() => {}
            Ok(()) = component.changed() => {}
            Ok(()) = shutting_down.changed() => {}
            Ok(()) = stopping.changed() => {}
            else => return,
        }
    }
}

/// Returns the current state of every service.
fn states(shared: &Shared) -> Vec<(String, bool)> {
    let serves = shared.parts.machine.mode() == NodeMode::Serving;
    let leads = shared.parts.leader.current().is_some_and(|leader| leader.is_me);
    let mut states = vec![(String::new(), true), (LEADER_SERVICE.to_owned(), leads)];
    states.extend(["RaftManager", "RaftAdmin"].map(|service| (service.to_owned(), true)));
    if let Some(routes) = shared.routes() {
        states.extend(routes.services().iter().map(|service| (service.clone(), serves)));
    }
    states
}

fn all_down(reported: &[(String, bool)]) -> Vec<(String, bool)> {
    reported.iter().map(|(service, _)| (service.clone(), false)).collect()
}

fn serving(serves: bool) -> ServingStatus {
    if serves { ServingStatus::Serving } else { ServingStatus::NotServing }
}
