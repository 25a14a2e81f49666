//! What the peer port asks of the modules that answer its messages. It has no code of its own but
//! that of the machine's hashes.

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use lockstep_proto::peer;
use tonic::Status;

use crate::machine::Machine;
use crate::types::NodeId;

/// A node that forwards commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarder {
    /// The node.
    pub node: NodeId,
    /// Whether its certificate has shown that it is this node. Only then it is believed who the
    /// callers of its commands are.
    pub is_proven: bool,
}

/// Handles the commands that other nodes took for this leader.
pub trait ForwardHandler: Send + Sync + 'static {
    /// Answers requests, whose routes are checked, in any order. The answers end after the requests
    /// have ended and all of them are answered.
    fn forward(
        &self,
        from: Forwarder,
        requests: BoxStream<'static, Result<peer::ForwardRequest, Status>>,
    ) -> BoxStream<'static, Result<peer::ForwardResponse, Status>>;
}

/// Handles the other requests to the leader, besides commands. FAILED_PRECONDITION when this node
/// does not lead.
pub trait LeaderHandler: Send + Sync + 'static {
    /// Returns the index that a linearizable read must wait for.
    fn read_index(&self, from: NodeId) -> BoxFuture<'static, Result<u64, Status>>;
    /// Returns the index at which log time is `until_ms`, or as near as it can be.
    fn pass_time(&self, from: NodeId, until_ms: u64) -> BoxFuture<'static, Result<u64, Status>>;
}

/// Hands this node's state to a member in quarantine.
pub trait StateSource: Send + Sync + 'static {
    /// Returns the frames of a backup. It holds all that was acknowledged before the call.
    fn fetch_state(&self, from: NodeId) -> BoxFuture<'static, Result<StateFrames, Status>>;
}

/// The frames of a backup.
pub type StateFrames = BoxStream<'static, Result<Bytes, Status>>;

/// The rolling state hash of this node. [`Machine`] implements it.
pub trait StateHashes: Send + Sync + 'static {
    /// Returns this node's hash after entry `index`, if it is known.
    fn hash_at(&self, index: u64) -> Option<u64>;
    /// Compares another node's hash with ours. A difference raises a doubt here, too.
    fn compare_hash(&self, index: u64, theirs: u64);
}

impl StateHashes for Machine {
    fn hash_at(&self, index: u64) -> Option<u64> {
        Machine::hash_at(self, index)
    }

    fn compare_hash(&self, index: u64, theirs: u64) {
        Machine::compare_hash(self, index, theirs);
    }
}
