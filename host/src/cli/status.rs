//! Asks a node for its status object, which `docs/status.md` describes. It only asks: its callers
//! read what they need.

use std::time::Duration;

use lockstep_proto::v1::StatusRequest;
use lockstep_proto::v1::admin_client::AdminClient;
use serde_json::Value;
use tonic::{Request, Status};

use super::client::Client;

/// Returns the status of the node that answers. Waits for at most `timeout`.
pub(super) async fn ask(server: &Client, timeout: Duration) -> Result<Value, Status> {
    let mut request = Request::new(StatusRequest {});
    request.set_timeout(timeout);
    let status = AdminClient::new(server.clone()).status(request).await?.into_inner();
    serde_json::from_str(&status.json)
        .map_err(|error| Status::internal(format!("the status of the node cannot be read: {error}")))
}
