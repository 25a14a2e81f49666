//! Owns openraft and the peers: proposals, replication, votes, membership. Never runs a guest and
//! never writes to the disk: it uses `machine`, openraft's log store, and the traits that
//! `node/admission.rs` implements for that. Only `retention` looks into `store::Log`, at how many
//! bytes were written.
//!
//! - `path`: commands and reads, from the node that takes one to the leader's log.
//! - `peers`: connections and messages to other nodes, and who may speak as whom.
//! - `membership`: adds and removes nodes, hands leadership over. It invites new nodes through
//!   `join`. A removed node learns of it in `standing`. `builds` compares how members run guests.
//! - `liveness`: who leads, and who follows a leader that died.
//! - `time`: the clock that guests see.
//! - `inquiry` asks all voters when two states differ. `retention` decides when to take a snapshot
//!   and how much log stays behind it. `figures` reads openraft's numbers. `planted` is a fault
//!   that a test plants.

pub mod figures;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod inquiry;
pub mod liveness;
pub mod membership;
pub mod path;
pub mod peers;
mod planted;
pub mod retention;
pub mod time;

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::machine;
use crate::types::{Addresses, NodeId, TypeConfig};

pub use inquiry::Inquiry;
pub use liveness::canvass::Canvass;
pub use liveness::leader::{LeaderView, LeaderWatch};
pub use liveness::presence::Presence;
pub use liveness::timeouts::Timeouts;
pub use membership::standing::Standing;
pub use membership::{Configuration, Members, MembershipError, Server};
pub use path::core::RaftCore;
pub use path::forward::Forward;
pub use path::forwarded::Forwarded;
pub use path::proposer::{Propose, Proposer};
pub use path::read::{ReadError, ReadIndex};
pub use path::ticket::NotProposed;
pub use peers::bounded::{Intake, IntakeStatus};
pub use peers::cluster::{Claim, ClusterCell, GroupCell};
pub use peers::network::NetworkFactory;
pub use peers::process::Process;
pub use peers::processes::Processes;
pub use peers::service::PeerService;
pub use retention::Retention;
pub use time::clock::Clock;
pub use time::log_time::LogTime;

/// openraft over our state machine.
pub type Raft = openraft::Raft<TypeConfig, machine::StateMachine>;

/// This node, as others know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Me {
    /// The node id, minted with the data directory.
    pub node_id: NodeId,
    /// Name and advertised addresses.
    pub node: Addresses,
}

/// The running Raft instance. Empty before the node has started it and after the node stops it. Set
/// once, cleared once.
#[derive(Clone, Default)]
pub struct RaftCell(Arc<ArcSwapOption<Raft>>);

impl RaftCell {
    /// Returns the instance to use for one call.
    pub fn get(&self) -> Option<Arc<Raft>> {
        self.0.load_full()
    }

    /// Sets the instance.
    pub fn set(&self, raft: Raft) {
        self.0.store(Some(Arc::new(raft)));
    }

    /// Removes the instance. From then on, peers are told that this node runs none.
    pub fn clear(&self) {
        self.0.store(None);
    }
}

#[cfg(test)]
mod cluster_tests;
