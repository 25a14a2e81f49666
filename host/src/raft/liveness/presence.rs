//! Records which nodes stream appends to this one, by connection. The kernel shows that a leader is
//! gone before any timeout does. Knows no votes and decides nothing about a node: `canvass` does.
//!
//! - A node is present while at least one of its append streams is open here. A stream opens with
//!   its first message. It ends with its connection, its process, or its sender's wish; the
//!   receiver cannot tell which.
//! - The boot number of the process that streamed last is kept after the stream has ended.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::types::NodeId;

/// Number of senders above which those without a stream are forgotten. It is more than a large
/// cluster has.
const SENDERS_BEFORE_CLEANUP: usize = 64;

/// Shared by the canvass and the peer port, which fills it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Presence(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    senders: Mutex<HashMap<NodeId, Sender>>,
    /// Counts the changes.
    changes: watch::Sender<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sender {
    boot: u64,
    open_streams: usize,
}

impl Default for Presence {
    fn default() -> Self {
        Presence(Arc::new(Inner { senders: Mutex::default(), changes: watch::channel(0).0 }))
    }
}

impl Presence {
    /// Notes that a stream from `node` is open for as long as the returned value lives.
    pub fn opened(&self, node: NodeId, boot: u64) -> Stream {
        {
            let mut senders = self.0.senders.lock();
            if senders.len() > SENDERS_BEFORE_CLEANUP {
                senders.retain(|_, sender| sender.open_streams > 0);
            }
            let sender = senders.entry(node).or_default();
            // A stream of the previous process may still be open here and end later.
            sender.boot = sender.boot.max(boot);
            sender.open_streams += 1;
        }
        self.changed();
        Stream { presence: self.clone(), node }
    }

    /// Returns whether a stream from `node` is open.
    pub fn is_open(&self, node: NodeId) -> bool {
        self.0.senders.lock().get(&node).is_some_and(|sender| sender.open_streams > 0)
    }

    /// Returns the latest boot of `node` that has streamed to this process.
    pub fn boot(&self, node: NodeId) -> Option<u64> {
        self.0.senders.lock().get(&node).map(|sender| sender.boot)
    }

    /// Returns a receiver that wakes with each stream that opens or ends.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    fn changed(&self) {
        self.0.changes.send_modify(|changes| *changes += 1);
    }
}

/// One open append stream.
#[derive(Debug)]
pub struct Stream {
    presence: Presence,
    node: NodeId,
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(sender) = self.presence.0.senders.lock().get_mut(&self.node) {
            sender.open_streams -= 1;
        }
        self.presence.changed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_present_while_one_of_its_streams_is() {
        let presence = Presence::default();
        let mut changes = presence.watch();
        assert!(!presence.is_open(7));
        let first = presence.opened(7, 3);
        let second = presence.opened(7, 4);
        assert!(changes.has_changed().is_ok_and(|changed| changed));
        drop(first);
        assert!(presence.is_open(7));
        changes.mark_unchanged();
        drop(second);
        assert!(!presence.is_open(7));
        assert!(changes.has_changed().is_ok_and(|changed| changed));
        assert_eq!((presence.boot(7), presence.boot(8)), (Some(4), None));
    }

    #[test]
    fn senders_without_a_stream_are_forgotten_when_they_are_many() {
        let presence = Presence::default();
        let _held = presence.opened(1_000, 1);
        for node in 0..200 {
            drop(presence.opened(node, 1));
        }
        assert!(presence.0.senders.lock().len() <= SENDERS_BEFORE_CLEANUP + 1);
        assert!(presence.is_open(1_000));
    }
}
