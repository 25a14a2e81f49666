//! The types that every module uses: openraft's type configuration, node, cluster and origin. Has
//! no behaviour and never does IO.

mod plain;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use plain::{COMPONENT_BYTES_MAX, hex};

/// A node's identity in Raft: random, minted once per data directory. A wiped disk makes another
/// node.
pub type NodeId = u64;

/// A replicated state machine within a process. Keys on disk and peer messages carry it.
pub type GroupId = u32;

/// The group that every process has from its start. Its files stand in the data directory itself.
pub const GROUP: GroupId = 0;

/// Earliest time that a right clock can show, in milliseconds since 1970: 14 April 2026.
///
/// It is the date of the compiler that builds this program (`rustc -V`; `rust-toolchain.toml` pins
/// the version). So it is the same for every build of these sources, whenever it is made.
pub const CLOCK_MIN_MS: u64 = 1_776_124_800_000;
/// Latest time that a right clock can show, in milliseconds since 1970: ten years after
/// [`CLOCK_MIN_MS`].
pub const CLOCK_MAX_MS: u64 = 2_091_744_000_000;

/// A node's addresses and its operator's name for it, as the membership holds them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// The operator's `--raft_id`.
    pub name: String,
    /// `host:port` of the peer port, as other nodes dial it.
    pub raft_addr: String,
    /// `host:port` of the client port, as clients and other nodes dial it.
    pub grpc_addr: String,
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (raft {}, grpc {})", self.name, self.raft_addr, self.grpc_addr)
    }
}

/// An encoded `lockstep.entry.v1.Entry`: opaque to Raft, read by the apply thread. Clones share the
/// bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryData(pub Bytes);

impl fmt::Debug for EntryData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryData({} bytes)", self.0.len())
    }
}

impl fmt::Display for EntryData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// The result that openraft returns for an applied entry: nothing.
///
/// Outcomes travel through `machine::Waiters`, because the node that took a command answers it, and
/// that is often not the leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied;

openraft::declare_raft_types!(
    /// openraft's type configuration.
    pub TypeConfig:
        D = EntryData,
        R = Applied,
        NodeId = NodeId,
        Node = Addresses,
);

/// A log entry's id: its leader's term and node, and its index. An alias for [`TypeConfig`].
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
/// A vote: term, node, committed.
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
/// The leader of a term, as committed log ids name it.
pub type CommittedLeaderId = openraft::alias::CommittedLeaderIdOf<TypeConfig>;
/// A log entry.
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
/// Makes an entry without a payload, for tests of modules that do not know openraft.
#[cfg(test)]
pub(crate) fn blank_entry(log_id: LogId) -> Entry {
    Entry { log_id, payload: openraft::EntryPayload::Blank }
}
/// A membership with the log id that set it.
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
/// Sets of voters, and nodes.
pub type Membership = openraft::Membership<NodeId, Addresses>;

/// The cluster that a node belongs to. It is recorded on its disk and carried in every peer
/// message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Random, minted by the bootstrap node.
    pub id: [u8; 16],
    /// Raised by a recovery from a lost majority, which fences the old members off.
    pub incarnation: u32,
    /// BLAKE3 of the encoded component that the genesis entry records.
    pub component_hash: [u8; 32],
}

impl Cluster {
    /// Returns the id in hex, as operators see it.
    pub fn id_hex(&self) -> String {
        hex(&self.id)
    }
}

/// Formats milliseconds since 1970 as a date in UTC. A time after the year 9999 is shown as that
/// year's last second.
pub fn date(ms: u64) -> String {
    const LAST_SECOND: u64 = 253_402_300_799;
    let since = Duration::from_secs((ms / 1000).min(LAST_SECOND));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

/// The identity recorded in a data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Minted with the directory.
    pub node_id: NodeId,
    /// The operator's `--raft_id` at that time. A start under another name is refused.
    pub name: String,
    /// `None` until the node has bootstrapped or joined.
    pub cluster: Option<Cluster>,
    /// How many times a process has opened this directory. Together with `node_id` it makes origins
    /// unique.
    pub boot: u64,
}

/// The node that took a command and will answer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The node that took it.
    pub node: NodeId,
    /// The node's boot number at that time.
    pub boot: u64,
    /// Counts the commands of that boot.
    pub counter: u64,
}

/// The channel on which the whole process reports errors that it cannot survive.
///
/// The first reason wins. The node then stops and exits non-zero.
#[derive(Clone, Debug)]
pub struct Fatal(Arc<watch::Sender<Option<String>>>);

impl Default for Fatal {
    fn default() -> Self {
        Fatal(Arc::new(watch::channel(None).0))
    }
}

impl Fatal {
    /// Ends the node with this reason. Returns at once.
    pub fn raise(&self, reason: impl Into<String>) {
        let reason = reason.into();
        tracing::error!(%reason, "fatal: this node stops");
        self.0.send_if_modified(|slot| {
            let first = slot.is_none();
            if first {
                *slot = Some(reason);
            }
            first
        });
    }

    /// Completes with the reason once raised.
    pub async fn raised(&self) -> String {
        let mut receiver = self.0.subscribe();
        let reason = receiver.wait_for(Option::is_some).await.expect("the sender lives as long as self");
        reason.clone().expect("waited for Some")
    }

    /// Returns whether it was raised.
    pub fn is_raised(&self) -> bool {
        self.0.borrow().is_some()
    }
}

/// What this node may do. Reads, watches, snapshots and health all check it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeMode {
    /// It has applied everything it had committed before its last stop, and serves.
    Serving,
    /// It has not applied that yet, or is in no cluster yet. The text says which.
    CatchingUp(String),
    /// The cluster has removed it. It serves nothing, and runs until it is stopped. The text says
    /// when it was removed, and what to do.
    Removed(String),
    /// Its state differs from the majority's.
    Quarantined(String),
    /// Another process has its identity, or another cluster takes it for a member. The text says
    /// which, and what to do.
    Disputed(String),
    /// Its component or profile is not the cluster's, or its component is missing. The text says
    /// which, and what to do.
    Unfit(String),
}

impl NodeMode {
    /// Returns the mode's name, and the reason, which is empty while the node serves.
    pub fn words(&self) -> (&'static str, &str) {
        match self {
            NodeMode::Serving => ("serving", ""),
            NodeMode::CatchingUp(why) => ("catching-up", why),
            NodeMode::Removed(why) => ("removed", why),
            NodeMode::Quarantined(why) => ("quarantined", why),
            NodeMode::Disputed(why) => ("disputed", why),
            NodeMode::Unfit(why) => ("unfit", why),
        }
    }
}

impl std::fmt::Display for NodeMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.words() {
            (name, "") => f.write_str(name),
            (name, why) => write!(f, "{name}: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A newer compiler in `rust-toolchain.toml` needs its date here (`rustc -V`): no right clock
    /// is before it.
    #[test]
    fn the_date_of_the_program_is_that_of_its_compiler() {
        assert!(include_str!("../../rust-toolchain.toml").contains("channel = \"1.95.0\""));
        assert_eq!(date(CLOCK_MIN_MS), "2026-04-14T00:00:00Z");
        assert_eq!(date(CLOCK_MAX_MS), "2036-04-14T00:00:00Z");
    }

    #[test]
    fn every_moment_has_a_date() {
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
