//! What the peer port asks of the modules that answer its messages. It has no code of its own but
//! that of the machine's hashes.

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use lockstep_proto::peer;
use tonic::Status;

use crate::codec::{Change, entry};
use crate::machine::{Machine, RollbackTrial};
use crate::types::{Addresses, NodeId};

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

/// Makes this node ready for a change of what the cluster runs, and tries the change out. An error
/// is a text for the operator who makes the change.
pub trait ChangeHandler: Send + Sync + 'static {
    /// Fetches the component from `holder`, which is node `from`, if it is not here; compiles and
    /// keeps it. It goes on to its end, even if the caller does not wait for it.
    fn prepare(
        &self,
        from: NodeId,
        change: Change,
        holder: Addresses,
    ) -> BoxFuture<'static, Result<PreparedChange, String>>;
    /// Tries the change out and returns the report as JSON. Ends when it is dropped.
    fn rehearse(&self, trial: Trial) -> BoxFuture<'static, Result<String, String>>;
    /// Makes this node ready to take a change back and returns the report as JSON.
    fn prepare_rollback(&self, trial: RollbackTrial) -> BoxFuture<'static, Result<String, String>>;
    /// Says what speaks against these values of retention and quotas on this node. `None` if
    /// nothing does.
    fn object(&self, values: &entry::Operation) -> Option<String>;
}

/// What a member that is ready for a change says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedChange {
    /// Facts about its build.
    pub build: String,
    /// The first index that its log has.
    pub log_first: u64,
}

/// What a member tries out.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// The change.
    pub change: Change,
    /// The name of the checkpoint on which it is tried.
    pub mark: [u8; 16],
    /// Index of the marked entry.
    pub index: u64,
    /// The first entry whose commands are run again; `index` if none are.
    pub first: u64,
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
