//! Finds out what answers at an address when a call fails there: a peer port, or a node that is in
//! no cluster yet or unfit. It only asks, and changes nothing.

use std::time::Duration;

use lockstep_client::{Unanswered, unanswered};
use prost_reflect::{DescriptorPool, DynamicMessage, Value};
use tonic::{Code, Status};

use super::client::{self, CallOptions, Client};
use super::credentials::{advice as advice_for, missing, speaks_tls};
use super::manager;
use super::report::Failure;
use super::status;

/// Longest wait for an answer. A port that does not answer in time is not one of Lockstep's.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Returns the failure for a gRPC error, with a hint. The hint says what to do if the address is a
/// port for nodes, or if no server is there any more.
pub(crate) async fn failure(server: &Client, status: Status) -> Failure {
    failure_described(server, status, None).await
}

/// Returns the failure like [`failure`] for a call that changes what the cluster has. It says if it
/// is not known whether the call did. `whether` is what it does, such as `the change was made`.
pub(crate) async fn failure_of_change(server: &Client, status: Status, whether: &str) -> Failure {
    let is_known = is_known(&status);
    let failure = failure(server, status).await;
    if is_known { failure } else { failure.not_known(whether) }
}

/// Tells whether a call that ended with this status surely changed nothing.
fn is_known(status: &Status) -> bool {
    match unanswered(status) {
        Some(unanswered) => matches!(unanswered, Unanswered::Unreachable | Unanswered::Refused),
        // A stream that broke has a source. A node that does not know it either says so.
        None => std::error::Error::source(status).is_none() && status.code() != Code::Unknown,
    }
}

/// Returns the failure like [`failure`], but also shows messages that the server describes.
pub(crate) async fn failure_described(server: &Client, status: Status, pool: Option<&DescriptorPool>) -> Failure {
    let failure = Failure::from_described(&status, pool);
    if let Some(hint) = about_tls(server, &status).await {
        return failure.hint(hint);
    }
    match unanswered(&status) {
        // The words say what is missing.
        Some(Unanswered::Refused) => return failure,
        Some(Unanswered::Unreachable) => {
            return failure.hint("no connection could be made: is the node still running? Any other node will do");
        }
        Some(Unanswered::Late) => {
            return failure.hint(
                "the node took the call and did not answer in time: it may have taken effect; any other node will do",
            );
        }
        _ => {}
    }
    // A status that a server sent has no source. A status that this side makes of a broken
    // connection has one, also when a stream broke.
    if std::error::Error::source(&status).is_some() {
        return failure
            .hint("the connection broke: is the node still running? What was on its way may have taken effect; any other node will do");
    }
    if status.code() != Code::Unimplemented {
        return failure;
    }
    match peer_port(server).await {
        Some(hint) => failure.hint(hint),
        None => failure.hint("is this the --grpc_addr of a node, and is the node of this version?"),
    }
}

/// Tells whether the node itself answered, and not the guest.
fn is_by_node(status: &Status) -> bool {
    status.metadata().get("lockstep-origin").is_some_and(|origin| origin == "host")
}

/// Returns what to do when one side speaks TLS and the other does not, when a certificate was
/// refused, and when the node does not know who calls.
async fn about_tls(server: &Client, status: &Status) -> Option<String> {
    match unanswered(status) {
        Some(Unanswered::Refused | Unanswered::Broken) if !server.is_encrypted() => {
            for address in server.addresses() {
                if speaks_tls(&address, ASK_TIMEOUT).await {
                    return Some(format!(
                        "{address} speaks TLS: give --tls_ca, and --tls_cert and --tls_key or --token_file"
                    ));
                }
            }
            None
        }
        Some(Unanswered::Refused) => advice_for(status.message(), server.has_identity()).map(str::to_owned),
        None if !is_by_node(status) => None,
        None if status.code() == Code::Unauthenticated => {
            Some(missing(server.has_identity(), server.has_token()).to_owned())
        }
        None if status.code() == Code::PermissionDenied => {
            Some("the policy of the node (--policy) says what each subject may do".to_owned())
        }
        _ => None,
    }
}

/// Returns the hint for a server that is the peer port of a node.
async fn peer_port(server: &Client) -> Option<String> {
    let service = manager::descriptors().get_service_by_name("lockstep.peer.v1.Peer")?;
    let identify = service.methods().find(|method| method.name() == "Identify")?;
    let options = CallOptions { timeout: Some(ASK_TIMEOUT), ..CallOptions::default() };
    let request = DynamicMessage::new(identify.input());
    let reply = client::unary(server, &identify, &request, &options).await.ok()?;
    let node = reply.get_field_by_name("node")?;
    let node = node.as_message()?;
    let text = |field| node.get_field_by_name(field).as_deref().and_then(Value::as_str).unwrap_or("?").to_owned();
    Some(format!(
        "this is the port of {} for other nodes, its --raft_addr; clients and operators use its --grpc_addr, {}",
        text("name"),
        text("grpc_addr")
    ))
}

/// Returns what to do about a node without a guest's services. Such a node is in no cluster yet, or
/// unfit. `None` for other nodes and for other servers.
pub(crate) async fn outside(server: &Client) -> Option<String> {
    advice(&status::ask(server, ASK_TIMEOUT).await.ok()?)
}

/// Returns the advice for a status object of `docs/status.md`.
fn advice(status: &serde_json::Value) -> Option<String> {
    let (name, addr) = (status["node_id"].as_str()?, status["addr"].as_str()?);
    match status["mode"].as_str()? {
        "catching-up" if status["nodes"].as_array()?.is_empty() => Some(format!(
            "{name} is in no cluster yet: add it with `lockstep admin <the leader's grpc_addr> add_voter {name} {addr}`, or let it begin a \
             cluster of its own: start it with --raft_bootstrap and --fsm"
        )),
        "unfit" => Some(format!("{name} is unfit: {}", status["mode_reason"].as_str()?)),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_without_a_cluster_is_told_how_to_enter_one() {
        let mut status = json!({ "mode": "catching-up", "nodes": [], "node_id": "nodeB", "addr": "localhost:50052" });
        assert!(advice(&status).unwrap().contains("add_voter nodeB localhost:50052"));
        status["nodes"] = json!([{ "id": "nodeB" }]);
        assert_eq!(advice(&status), None);
        status["nodes"] = json!([]);
        status["mode"] = json!("removed");
        assert_eq!(advice(&status), None);
    }

    #[test]
    fn only_a_broken_call_and_the_code_unknown_leave_a_change_open() {
        let broke = |why: Unanswered| {
            let mut status = Status::unknown("it broke");
            status.set_source(std::sync::Arc::new(why));
            status
        };
        assert!(is_known(&Status::failed_precondition("no")));
        assert!(is_known(&broke(Unanswered::Unreachable)) && is_known(&broke(Unanswered::Refused)));
        assert!(!is_known(&broke(Unanswered::Broken)) && !is_known(&broke(Unanswered::Late)));
        assert!(!is_known(&Status::unknown("the lead was lost")));
    }

    #[test]
    fn an_unfit_node_says_what_it_lacks() {
        let status = json!({
            "mode": "unfit", "mode_reason": "no component; bring it", "nodes": [], "node_id": "nodeB", "addr": "localhost:50052"
        });
        assert_eq!(advice(&status).as_deref(), Some("nodeB is unfit: no component; bring it"));
    }
}
