//! `lockstep admin <addr> resync`: makes a node in quarantine replace its state by another node's.
//! The node does the work.

use std::time::Duration;

use lockstep_proto::v1::ResyncRequest;
use lockstep_proto::v1::admin_client::AdminClient;

use super::client::{self, CONNECT_PATIENCE};
use super::report::{Failure, print_line};

/// Usage, as the list of RPCs shows it.
pub(crate) const USAGE: &str = "resync [from]";

/// Sends the request, and waits until the other node's state is on that node's disk.
pub(crate) fn run(addr: &str, arguments: &[String], timeout: Option<Duration>) -> anyhow::Result<()> {
    let from = match arguments {
        [] => String::new(),
        [from] => from.clone(),
        _ => return Err(Failure::usage(format!("{USAGE}: too many arguments")).into()),
    };
    super::client_runtime()?.block_on(async {
        let server = client::connect(addr, CONNECT_PATIENCE).await?;
        let mut request = tonic::Request::new(ResyncRequest { from });
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        let done = AdminClient::new(server).resync(request).await.map_err(|status| Failure::from_status(&status))?;
        let done = done.into_inner();
        print_line(format!(
            "{addr} has the state of {} as of index {}, {} rows, and starts again with it",
            done.from, done.index, done.rows
        ))
    })
}
