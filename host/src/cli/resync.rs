//! What `resync` has beyond other RPCs on the command line: `lockstep admin <addr> resync` makes a
//! node in quarantine replace its state by another node's. The node does the work.

use lockstep_proto::v1::ResyncResponse;

use super::report::Failure;
use super::rpcs::{Answered, Argument, Extra};

/// The addition to the RPC.
pub(crate) const EXTRA: Extra = Extra {
    rpc: "lockstep.v1.Admin.Resync",
    about: "resync makes a node in quarantine anew, from the member with the grpc_addr, raft_addr or raft_id `from`, or from any voter.",
    arguments: &[Argument { field: "from", name: "from", is_optional: true, read: None }],
    refuse_leader: Some(refuse_leader),
    answer: Some(answer),
    ..Extra::NONE
};

fn refuse_leader() -> Failure {
    Failure::usage("resync is asked of the node in quarantine itself, which never leads")
        .hint("leave --leader out and give that node's grpc_addr")
}

/// Says what the node has. The other node's state is on its disk by then.
fn answer(answered: &Answered<'_>) -> anyhow::Result<String> {
    let ResyncResponse { index, rows, from } = answered.reply.transcode_to()?;
    let addr = answered.addr;
    Ok(format!("{addr} has the state of {from} as of index {index}, {rows} rows, and starts again with it"))
}
