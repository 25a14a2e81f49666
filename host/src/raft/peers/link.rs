//! Owns the connections to peers: one pooled channel for each peer and lane, and the settings of
//! every channel of this folder ([`endpoint`]). Knows no Raft messages. `forward` and `join` keep
//! channels outside the pool: to the leader and to a node that is joining.
//!
//! - A closed link looks its address up in the current membership before it dials again, so it
//!   finds a node that has moved.
//! - Each lane has its own channel, so a snapshot or a burst of entries never delays a heartbeat.
//! - A host name is tried at every address it resolves to (`localhost` is two).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_proto::peer::peer_client::PeerClient;
use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use tonic::transport::Channel;

use super::dial::{AddressError, client, endpoint};
use crate::raft::{ClusterCell, Raft, RaftCell};
use crate::types::{Addresses, NodeId};

/// The purpose of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// The append stream.
    Append,
    /// Heartbeats, votes and hand-overs: small and urgent.
    Control,
    /// Snapshots: large and not urgent. A component has a channel of its own, which `join` dials.
    Bulk,
}

/// All links of this node.
#[derive(Clone)]
pub struct Links(Arc<Pool>);

struct Pool {
    me: NodeId,
    cluster: ClusterCell,
    raft: RaftCell,
    silence_max: Duration,
    open: Mutex<HashMap<(NodeId, Lane), Arc<Link>>>,
}

impl Links {
    /// Creates a pool without links. A link is dialled anew when every call on it has timed out for
    /// `silence_max`.
    pub fn new(me: NodeId, cluster: ClusterCell, raft: RaftCell, silence_max: Duration) -> Self {
        Links(Arc::new(Pool { me, cluster, raft, silence_max, open: Mutex::default() }))
    }

    /// Returns the id of this node.
    pub fn me(&self) -> NodeId {
        self.0.me
    }

    /// Returns the cluster that messages on these links name.
    pub fn cluster(&self) -> &ClusterCell {
        &self.0.cluster
    }

    /// Returns the Raft instance that these links serve, while it runs.
    pub fn raft(&self) -> Option<Arc<Raft>> {
        self.0.raft.get()
    }

    /// Returns the link to a peer. The address in `node` is used while the membership does not know
    /// the peer.
    pub fn to(&self, target: NodeId, node: &Addresses, lane: Lane) -> Arc<Link> {
        assert_ne!(target, self.0.me, "a node never dials itself");
        let mut open = self.0.open.lock();
        let link = open.entry((target, lane)).or_insert_with(|| {
            Arc::new(Link {
                target,
                lane,
                raft: self.0.raft.clone(),
                silence_max: self.0.silence_max,
                state: Mutex::new(State { fallback: node.clone(), open: None, down: false }),
            })
        });
        link.state.lock().fallback = node.clone();
        let link = link.clone();
        // Nothing else holds the links of nodes that have left.
        if open.len() > LINKS_BEFORE_CLEANUP {
            open.retain(|_, link| Arc::strong_count(link) > 1);
        }
        link
    }
}

/// Number of links above which unused links are dropped. It is more than a large cluster has.
const LINKS_BEFORE_CLEANUP: usize = 64;

/// One channel to one peer.
pub struct Link {
    target: NodeId,
    lane: Lane,
    raft: RaftCell,
    silence_max: Duration,
    state: Mutex<State>,
}

struct State {
    fallback: Addresses,
    open: Option<Open>,
    /// Whether the operator was told that the peer is unreachable.
    down: bool,
}

struct Open {
    address: String,
    client: PeerClient<Channel>,
    heard: Instant,
}

impl Link {
    /// Returns a client on the open channel, or on a new one. The channel connects with the first
    /// call. A dropped call does not stop it from connecting, so short timeouts do not keep a
    /// distant peer unreachable for ever.
    pub fn client(&self) -> Result<PeerClient<Channel>, AddressError> {
        let current = self.address_in_membership();
        let mut state = self.state.lock();
        let address = current.unwrap_or_else(|| state.fallback.raft_addr.clone());
        if let Some(open) = state.open.as_ref().filter(|open| open.address == address) {
            return Ok(open.client.clone());
        }
        tracing::debug!(peer = format_args!("{:016x}", self.target), lane = ?self.lane, %address, "dialling");
        let client = client(endpoint(&address)?.connect_lazy());
        state.open = Some(Open { address, client: client.clone(), heard: Instant::now() });
        Ok(client)
    }

    /// Notes that a response came.
    pub fn heard(&self) {
        let mut state = self.state.lock();
        if let Some(open) = state.open.as_mut() {
            open.heard = Instant::now();
        }
        if std::mem::take(&mut state.down) {
            tracing::info!(peer = %state.fallback, "a peer is reachable again");
        }
    }

    /// Drops the channel after a failed call. Warns the operator once until the peer is heard
    /// again.
    pub fn broke(&self, reason: &str) {
        let mut state = self.state.lock();
        state.open = None;
        if self.lane == Lane::Control && !std::mem::replace(&mut state.down, true) {
            tracing::warn!(peer = %state.fallback, reason, "a peer is unreachable");
        }
    }

    /// Notes that a call had no answer in time. Closes a channel that stays silent: its connection
    /// may be broken.
    pub fn timed_out(&self) {
        let mut state = self.state.lock();
        state.open = state.open.take().filter(|open| open.heard.elapsed() < self.silence_max);
    }

    /// Drops the channel. The next call looks the address up and dials.
    pub fn close(&self) {
        self.state.lock().open = None;
    }

    fn address_in_membership(&self) -> Option<String> {
        recorded_address(&*self.raft.get()?, self.target)
    }
}

/// Returns a node's address in the membership.
pub fn recorded_address(raft: &Raft, node: NodeId) -> Option<String> {
    let metrics = raft.metrics();
    // Cloned at once: a borrow that is held would stop the core.
    let membership = metrics.borrow_watched().membership_config.clone();
    membership.get_node(&node).map(|node| node.raft_addr.clone())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn node(address: &str) -> Addresses {
        Addresses { raft_addr: address.into(), ..Addresses::default() }
    }

    fn links() -> Links {
        Links::new(1, ClusterCell::new(None), RaftCell::default(), Duration::from_secs(1))
    }

    fn opened_at(link: &Link) -> Option<String> {
        link.state.lock().open.as_ref().map(|open| open.address.clone())
    }

    #[tokio::test]
    async fn lanes_have_links_of_their_own_and_links_are_shared() {
        let links = links();
        let append = links.to(2, &node("a:1"), Lane::Append);
        assert!(Arc::ptr_eq(&append, &links.to(2, &node("a:1"), Lane::Append)));
        assert!(!Arc::ptr_eq(&append, &links.to(2, &node("a:1"), Lane::Control)));
    }

    #[tokio::test]
    async fn a_node_that_moved_is_dialled_at_its_new_address() {
        let links = links();
        let link = links.to(2, &node("a:1"), Lane::Append);
        link.client().unwrap();
        assert_eq!(opened_at(&link).as_deref(), Some("a:1"));
        links.to(2, &node("b:2"), Lane::Append).client().unwrap();
        assert_eq!(opened_at(&link).as_deref(), Some("b:2"));
    }

    #[tokio::test]
    async fn only_a_silent_link_is_given_up_on_timeout() {
        let link = links().to(2, &node("a:1"), Lane::Control);
        link.client().unwrap();
        link.timed_out();
        assert!(opened_at(&link).is_some(), "heard of just now");
        link.state.lock().open.as_mut().unwrap().heard -= Duration::from_secs(2);
        link.timed_out();
        assert_eq!(opened_at(&link), None);
    }

    #[tokio::test]
    async fn nonsense_addresses_are_errors() {
        let error = links().to(2, &node("no spaces allowed"), Lane::Append).client().unwrap_err();
        assert!(error.to_string().contains("no spaces allowed"));
    }
}
