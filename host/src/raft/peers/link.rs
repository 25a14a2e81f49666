//! Owns the connections to peers: one channel for each peer, address and lane, which all groups
//! of the process share. Knows no Raft messages. `forward`, `join` and `probe` keep channels
//! outside the pool.
//!
//! - A link looks its address up in the current membership at each call, so it finds a node that
//!   has moved.
//! - Each lane has its own channel, so a snapshot or a burst of entries never delays a heartbeat.
//! - A host name is tried at every address it resolves to (`localhost` is two).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lockstep_proto::peer::peer_client::PeerClient;
use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tonic::transport::Channel;

use super::dial::{AddressError, Dialer, Expect, client};
use crate::raft::{GroupCell, Raft, RaftCell};
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

/// The channels of a process to its peers: one for each peer, address and lane, whichever groups
/// use it. A channel that no link uses any more is closed when the next one is made.
#[derive(Clone, Default)]
pub struct Channels(Arc<Mutex<Lines>>);

/// The channels, by peer, address and lane. Two nodes at one address, of which one is gone, share
/// none: what one of them refuses is nothing to the other.
type Lines = HashMap<(NodeId, String, Lane), Arc<Line>>;

impl Channels {
    fn to(&self, peer: NodeId, address: &str, lane: Lane) -> Arc<Line> {
        let mut lines = self.0.lock();
        lines.retain(|_, line| Arc::strong_count(line) > 1);
        let line = lines.entry((peer, address.to_owned(), lane));
        line.or_insert_with(|| Arc::new(Line { address: address.to_owned(), open: Mutex::default() })).clone()
    }
}

/// Most heartbeat streams on one channel. Each group has one at each peer, and a peer takes 256
/// calls at a time from one connection. The others are left for calls that end.
pub const HEARTBEAT_STREAMS_MAX: usize = 128;

/// An open channel, as a call gets it.
#[derive(Clone)]
pub struct Dialled {
    /// What makes calls on it.
    pub client: PeerClient<Channel>,
    /// The places for heartbeat streams on it. Each channel has its own, by which it is told from
    /// the one before.
    pub streams: Arc<Semaphore>,
}

/// One channel, open or not.
struct Line {
    address: String,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    channel: Option<Dialled>,
    /// When something was heard on it. It begins when the channel does.
    heard: Option<Instant>,
    /// Counts the channels that this line had. A link closes only the one that it used.
    number: u64,
}

/// The channel that a link used last.
struct Used {
    line: Arc<Line>,
    number: u64,
}

/// The links of one group to its other members.
#[derive(Clone)]
pub struct Links(Arc<Pool>);

struct Pool {
    me: NodeId,
    cluster: GroupCell,
    raft: RaftCell,
    silence_max: Duration,
    channels: Channels,
    open: Mutex<HashMap<(NodeId, Lane), Arc<Link>>>,
}

impl Links {
    /// Creates a pool without links. A link is dialled anew when every call on it has timed out for
    /// `silence_max`.
    pub fn new(me: NodeId, cluster: GroupCell, raft: RaftCell, channels: Channels, silence_max: Duration) -> Self {
        Links(Arc::new(Pool { me, cluster, raft, silence_max, channels, open: Mutex::default() }))
    }

    /// Returns the id of this node.
    pub fn me(&self) -> NodeId {
        self.0.me
    }

    /// Returns the cluster and the group that messages on these links name.
    pub fn cluster(&self) -> &GroupCell {
        &self.0.cluster
    }

    /// Returns the Raft instance that these links serve, while it runs.
    pub fn raft(&self) -> Option<Arc<Raft>> {
        self.0.raft.get()
    }

    /// Returns the heartbeat streams on the channel that has most.
    pub fn heartbeat_streams(&self) -> usize {
        let lines: Vec<_> = self.0.channels.0.lock().values().cloned().collect();
        let on = |line: &Arc<Line>| {
            let open = line.open.lock();
            open.channel.as_ref().map_or(0, |dialled| HEARTBEAT_STREAMS_MAX - dialled.streams.available_permits())
        };
        lines.iter().map(on).max().unwrap_or(0)
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
                channels: self.0.channels.clone(),
                dialer: self.0.cluster.dialer().clone(),
                fallback: Mutex::new(node.clone()),
                used: Mutex::default(),
                down: AtomicBool::new(false),
            })
        });
        *link.fallback.lock() = node.clone();
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

/// The way to one peer, by the channel at its address.
pub struct Link {
    target: NodeId,
    lane: Lane,
    raft: RaftCell,
    silence_max: Duration,
    channels: Channels,
    dialer: Dialer,
    fallback: Mutex<Addresses>,
    used: Mutex<Option<Used>>,
    /// Whether the operator was told that the peer is unreachable.
    down: AtomicBool,
}

impl Link {
    /// Returns a client on the channel that [`Link::dialled`] returns.
    pub fn client(&self) -> Result<PeerClient<Channel>, AddressError> {
        Ok(self.dialled()?.client)
    }

    /// Returns the open channel, or a new one. The channel connects with the first call. A dropped
    /// call does not stop it from connecting, so short timeouts do not keep a distant peer
    /// unreachable for ever.
    pub fn dialled(&self) -> Result<Dialled, AddressError> {
        let node = self.node_in_membership().unwrap_or_else(|| self.fallback.lock().clone());
        let address = node.raft_addr.clone();
        let mut used = self.used.lock();
        let line = match used.take().filter(|used| used.line.address == address) {
            Some(used) => used.line,
            None => self.channels.to(self.target, &address, self.lane),
        };
        let mut open = line.open.lock();
        let channel = match &open.channel {
            Some(channel) => channel.clone(),
            None => {
                tracing::debug!(peer = format_args!("{:016x}", self.target), lane = ?self.lane, %address, "dialling");
                let client = client(self.dialer.lazy(&address, Expect::of(&node))?);
                let channel = Dialled { client, streams: Arc::new(Semaphore::new(HEARTBEAT_STREAMS_MAX)) };
                *open = Open { channel: Some(channel.clone()), heard: Some(Instant::now()), number: open.number + 1 };
                channel
            }
        };
        let number = open.number;
        drop(open);
        *used = Some(Used { line, number });
        Ok(channel)
    }

    /// Notes that a response came.
    pub fn heard(&self) {
        if let Some(used) = &*self.used.lock() {
            let mut open = used.line.open.lock();
            if open.number == used.number {
                open.heard = Some(Instant::now());
            }
        }
        if self.down.swap(false, Ordering::Relaxed) {
            tracing::info!(peer = %self.fallback.lock(), "a peer is reachable again");
        }
    }

    /// Drops the channel after a failed call. Warns the operator once until the peer is heard
    /// again.
    pub fn broke(&self, reason: &str) {
        self.close();
        if self.lane == Lane::Control && !self.down.swap(true, Ordering::Relaxed) {
            tracing::warn!(peer = %self.fallback.lock(), reason, "a peer is unreachable");
        }
    }

    /// Notes that a call had no answer in time. Closes a channel that stays silent: its connection
    /// may be broken.
    pub fn timed_out(&self) {
        self.close_if(|open| open.heard.is_none_or(|heard| heard.elapsed() >= self.silence_max));
    }

    /// Drops the channel. The next call looks the address up and dials.
    pub fn close(&self) {
        self.close_if(|_| true);
    }

    /// Drops the channel that this link used, if nobody has opened another one since.
    fn close_if(&self, is_over: impl FnOnce(&Open) -> bool) {
        let Some(used) = &*self.used.lock() else { return };
        let mut open = used.line.open.lock();
        if open.number == used.number && is_over(&open) {
            open.channel = None;
        }
    }

    fn node_in_membership(&self) -> Option<Addresses> {
        recorded_node(&*self.raft.get()?, self.target)
    }
}

/// Returns a node's name and addresses in the membership.
pub fn recorded_node(raft: &Raft, node: NodeId) -> Option<Addresses> {
    // These metrics change seldom, so the core does not write them meanwhile.
    let metrics = raft.server_metrics();
    // Cloned at once: a borrow that is held would stop the core.
    let membership = metrics.borrow_watched().membership_config.clone();
    membership.get_node(&node).cloned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::raft::ClusterCell;
    use crate::types::GroupId;

    fn node(address: &str) -> Addresses {
        Addresses { raft_addr: address.into(), ..Addresses::default() }
    }

    fn links() -> Links {
        links_of(0, &Channels::default())
    }

    fn links_of(group: GroupId, channels: &Channels) -> Links {
        let cell = GroupCell::new(ClusterCell::new(None), group);
        Links::new(1, cell, RaftCell::default(), channels.clone(), Duration::from_secs(1))
    }

    fn opened_at(link: &Link) -> Option<String> {
        let used = link.used.lock();
        let line = &used.as_ref()?.line;
        let is_open = line.open.lock().channel.is_some();
        is_open.then(|| line.address.clone())
    }

    fn line(link: &Link) -> Arc<Line> {
        link.used.lock().as_ref().unwrap().line.clone()
    }

    /// A node that lost its disk and the one that took its address are two peers.
    #[tokio::test]
    async fn what_one_node_refuses_closes_no_channel_to_another_at_its_address() {
        let links = links();
        let (gone, new) = (links.to(2, &node("a:1"), Lane::Control), links.to(3, &node("a:1"), Lane::Control));
        gone.client().unwrap();
        new.client().unwrap();
        gone.broke("another node is there");
        assert_eq!((opened_at(&gone), opened_at(&new).as_deref()), (None, Some("a:1")));
    }

    #[tokio::test]
    async fn a_link_closes_no_channel_that_another_group_has_opened_since() {
        let channels = Channels::default();
        let (first, second) = (links_of(0, &channels), links_of(1, &channels));
        let (one, other) = (first.to(2, &node("a:1"), Lane::Append), second.to(2, &node("a:1"), Lane::Append));
        one.client().unwrap();
        other.client().unwrap();
        one.broke("first");
        one.client().unwrap();
        other.broke("late news of the channel before");
        assert_eq!(opened_at(&one).as_deref(), Some("a:1"));
    }

    #[tokio::test]
    async fn groups_share_the_channels_and_the_last_one_closes_them() {
        let channels = Channels::default();
        let (first, second) = (links_of(0, &channels), links_of(1, &channels));
        let (one, other) = (first.to(2, &node("a:1"), Lane::Append), second.to(2, &node("a:1"), Lane::Append));
        one.client().unwrap();
        other.client().unwrap();
        assert!(Arc::ptr_eq(&line(&one), &line(&other)));
        drop((second, other));
        first.to(3, &node("b:2"), Lane::Append).client().unwrap();
        assert_eq!(channels.0.lock().len(), 2, "the first group uses both");
        drop((first, one));
        let third = links_of(2, &channels);
        third.to(4, &node("c:3"), Lane::Append).client().unwrap();
        assert_eq!(channels.0.lock().len(), 1);
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

    /// A stream that stays open is told by them from one on an earlier channel.
    #[tokio::test]
    async fn each_channel_has_places_of_its_own() {
        let links = links();
        let link = links.to(2, &node("a:1"), Lane::Control);
        let first = link.dialled().unwrap().streams;
        assert!(Arc::ptr_eq(&first, &link.dialled().unwrap().streams), "the channel is the same");
        link.close();
        let second = link.dialled().unwrap().streams;
        assert!(!Arc::ptr_eq(&first, &second), "the channel was given up");
        links.to(2, &node("b:2"), Lane::Control);
        assert!(!Arc::ptr_eq(&second, &link.dialled().unwrap().streams), "the peer has moved");
    }

    #[tokio::test]
    async fn only_a_silent_link_is_given_up_on_timeout() {
        let link = links().to(2, &node("a:1"), Lane::Control);
        link.client().unwrap();
        link.timed_out();
        assert!(opened_at(&link).is_some(), "heard of just now");
        line(&link).open.lock().heard = Instant::now().checked_sub(Duration::from_secs(2));
        link.timed_out();
        assert_eq!(opened_at(&link), None);
    }

    #[tokio::test]
    async fn nonsense_addresses_are_errors() {
        let error = links().to(2, &node("no spaces allowed"), Lane::Append).client().unwrap_err();
        assert!(error.to_string().contains("no spaces allowed"));
    }
}
