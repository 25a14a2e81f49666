//! Owns openraft and the peers: proposals, replication, votes, membership. Never runs a guest and
//! never writes to the disk: it uses `machine`, openraft's log store, and the traits that
//! `node/admission.rs` implements for that. Only `retention` looks into `store::Log`, at how many
//! bytes were written.
//!
//! - Out: `network` (openraft's view of a peer; `stream` pipelines its appends) → `link` (one
//!   pooled channel per peer and lane) → the peer port of another node.
//! - Commands: `proposer` makes the leader's commands into entries (`packing` chooses which go
//!   together). `forward` sends the commands of other nodes to the leader (`forwarded` is the
//!   leader's side). `ticket` joins the waiting caller and the proposer.
//! - Reads: `read`. Reads and commands both use `leader`; `core` implements their traits with
//!   openraft.
//! - In: `net` (accepts connections) → `only_grpc` → `service` → `gate` (`cluster`: is this for
//!   this node, from its cluster?) → `wire` → openraft. A snapshot goes through `install`.
//! - Operators: `membership`, which invites new nodes through `join`. A removed node learns of it
//!   in `standing`.
//! - A leader that died: `presence` (which nodes stream to this one), `probe` (is the leader's
//!   process gone), `canvass` (do the other voters agree, and who takes over).
//! - Checks of peers: `processes` knows which process of each node takes part, and refuses a second
//!   one. `bounds` limits how far ahead a peer's numbers may be. `inquiry` asks all voters when two
//!   states differ.
//! - Log time: `log_time` collects the voters' clocks and stamps entries, `log_clock` limits what a
//!   stamp may do, `own_clock` reports how this node's clock differs, `clock` lets time pass on an
//!   idle cluster.
//! - Others: `builds` compares how members run guests, `timeouts` makes openraft's configuration,
//!   `retention` decides when to take a snapshot and how much log stays behind it, `planted` is a
//!   fault that a test plants.

pub mod bounds;
pub mod builds;
pub mod canvass;
pub mod clock;
pub mod clock_warning;
pub mod cluster;
pub mod core;
pub mod dial;
pub mod figures;
pub mod forward;
pub mod forwarded;
mod gate;
pub mod inquiry;
pub mod install;
pub mod join;
pub mod leader;
pub mod link;
pub mod log_clock;
pub mod log_time;
pub mod membership;
pub mod network;
mod only_grpc;
pub mod own_clock;
pub mod packing;
mod planted;
pub mod presence;
pub mod probe;
pub mod process;
pub mod processes;
pub mod proposer;
pub mod read;
mod removal;
pub mod retention;
pub mod service;
pub mod standing;
mod stream;
pub mod ticket;
pub mod timeouts;
pub mod wire;
pub mod wire_error;

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::machine;
use crate::types::{Addresses, NodeId, TypeConfig};

pub use self::core::RaftCore;
pub use canvass::Canvass;
pub use clock::Clock;
pub use cluster::{Claim, ClusterCell};
pub use forward::Forward;
pub use forwarded::Forwarded;
pub use inquiry::Inquiry;
pub use leader::{LeaderView, LeaderWatch};
pub use log_time::LogTime;
pub use membership::{Configuration, Members, MembershipError, Server};
pub use network::NetworkFactory;
pub use presence::Presence;
pub use process::Process;
pub use processes::Processes;
pub use proposer::{Propose, Proposer};
pub use read::{ReadError, ReadIndex};
pub use retention::Retention;
pub use service::PeerService;
pub use standing::Standing;
pub use ticket::NotProposed;
pub use timeouts::Timeouts;

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
