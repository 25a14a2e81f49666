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
//! - `upgrade`: changes what the cluster runs, step by step, at all members.
//! - `inquiry` asks all voters when two states differ. `retention` decides when to take a snapshot
//!   and how much log stays behind it. `figures` reads openraft's numbers. `planted` is a fault
//!   that a test plants.

pub mod archive;
pub mod figures;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod inquiry;
pub mod liveness;
pub mod log_source;
pub mod membership;
pub mod path;
pub mod peers;
mod planted;
pub mod retention;
pub mod time;
pub mod upgrade;

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use crate::machine;
use crate::types::{Addresses, NodeId, TypeConfig};

pub use archive::{Archive, ArchiveParts, ArchiveStatus};
pub use inquiry::Inquiry;
pub use liveness::canvass::Canvass;
pub use liveness::leader::{LeaderView, LeaderWatch};
pub use liveness::presence::Presence;
pub use liveness::timeouts::Timeouts;
pub use log_source::{LogSource, LogSourceParts};
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
pub use upgrade::Upgrades;

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
pub struct RaftCell {
    raft: Arc<ArcSwapOption<Raft>>,
    stands_back: Arc<Mutex<StandsBack>>,
}

/// What keeps this node from leading, though it votes and keeps the log.
#[derive(Default)]
struct StandsBack {
    /// It applies nothing any more.
    for_good: bool,
    /// It has not applied yet what its log held at the start.
    for_now: bool,
}

impl StandsBack {
    fn is_set(&self) -> bool {
        self.for_good || self.for_now
    }
}

impl RaftCell {
    /// Returns the instance to use for one call.
    pub fn get(&self) -> Option<Arc<Raft>> {
        self.raft.load_full()
    }

    /// Sets the instance.
    pub fn set(&self, raft: Raft) {
        self.raft.store(Some(Arc::new(raft)));
    }

    /// Removes the instance. From then on, peers are told that this node runs none.
    pub fn clear(&self) {
        self.raft.store(None);
    }

    /// Lets other voters lead, for the rest of this process's life: this node stands for no
    /// election and takes no lead over. It still votes, and keeps the log.
    pub fn stand_back(&self) {
        self.set_stands_back(|back| back.for_good = true);
    }

    /// Lets other voters lead until [`RaftCell::stand_now`].
    pub fn stand_later(&self) {
        self.set_stands_back(|back| back.for_now = true);
    }

    /// Ends [`RaftCell::stand_later`], unless this node stands back for good.
    pub fn stand_now(&self) {
        self.set_stands_back(|back| back.for_now = false);
    }

    /// Returns whether this node lets others lead.
    pub fn stands_back(&self) -> bool {
        self.stands_back.lock().is_set()
    }

    fn set_stands_back(&self, set: impl FnOnce(&mut StandsBack)) {
        let mut back = self.stands_back.lock();
        set(&mut back);
        if let Some(raft) = self.get() {
            raft.runtime_config().elect(!back.is_set());
        }
    }
}

#[cfg(test)]
mod cluster_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_stands_back_for_good_does_not_stand_later() {
        let cell = RaftCell::default();
        assert!(!cell.stands_back());
        cell.stand_later();
        assert!(cell.stands_back());
        cell.stand_now();
        assert!(!cell.stands_back());
        cell.stand_later();
        cell.stand_back();
        cell.stand_now();
        assert!(cell.stands_back());
    }
}
