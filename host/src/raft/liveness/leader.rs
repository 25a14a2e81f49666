//! Keeps who leads, as far as this node knows: one small watch that commands, reads and health
//! share, fed from openraft's metrics. Does not judge whether that leader is alive, and never holds
//! openraft's metrics across an await.

use std::future::Future;

use openraft::async_runtime::WatchReceiver;
use openraft::storage::RaftStateMachine;
use openraft::vote::RaftLeaderId;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::types::{Addresses, CommittedLeaderId, NodeId, TypeConfig};

/// The leader of a term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderView {
    /// The term in which it leads.
    pub term: u64,
    /// Its node id.
    pub node_id: NodeId,
    /// Its addresses, from the membership in force.
    pub node: Addresses,
    /// Whether the leader is this node.
    pub is_me: bool,
}

impl LeaderView {
    /// Returns the leader id that its entries carry.
    pub fn id(&self) -> CommittedLeaderId {
        CommittedLeaderId { term: self.term, node_id: self.node_id }
    }
}

/// A watch of the leader. Cheap to clone; each clone sees changes on its own.
#[derive(Clone, Debug)]
pub struct LeaderWatch(watch::Receiver<Option<LeaderView>>);

impl LeaderWatch {
    /// Creates a watch over a view that the sender of `receiver` publishes.
    pub fn new(receiver: watch::Receiver<Option<LeaderView>>) -> LeaderWatch {
        LeaderWatch(receiver)
    }

    /// Creates a watch fed from `raft`, and the task that feeds it. The task ends when Raft does,
    /// and leaves "no leader" behind.
    pub fn start<SM>(raft: &openraft::Raft<TypeConfig, SM>) -> (LeaderWatch, impl Future<Output = ()> + Send + use<SM>)
    where
        SM: RaftStateMachine<TypeConfig> + Send + 'static,
    {
        let mut metrics = raft.server_metrics();
        let view = |metrics: &ServerMetrics| view(metrics);
        let (sender, receiver) = watch::channel(view(&metrics.borrow_watched()));
        let feed = async move {
            while metrics.changed().await.is_ok() {
                let next = view(&metrics.borrow_watched());
                publish(&sender, next);
            }
            publish(&sender, None);
        };
        (LeaderWatch(receiver), feed)
    }

    /// Returns the leader now, if one is known.
    pub fn current(&self) -> Option<LeaderView> {
        self.0.borrow().clone()
    }

    /// Returns the leader now. Only a change after this call wakes [`LeaderWatch::changed`].
    pub fn seen(&mut self) -> Option<LeaderView> {
        self.0.borrow_and_update().clone()
    }

    /// Returns whether this node leads in `term`.
    pub fn leads(&self, term: u64) -> bool {
        self.0.borrow().as_ref().is_some_and(|leader| leader.is_me && leader.term == term)
    }

    /// Completes when the view differs from the last one seen through this handle. Never completes
    /// once Raft has ended.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns the leader, or the next one that becomes known before `until`.
    pub async fn wait(&mut self, until: Instant) -> Option<LeaderView> {
        match timeout_at(until, self.0.wait_for(Option::is_some)).await {
            Ok(Ok(leader)) => leader.clone(),
            // The feed has ended: no leader will ever be known.
            Ok(Err(_)) | Err(_) => None,
        }
    }
}

type ServerMetrics = openraft::metrics::RaftServerMetrics<TypeConfig>;

fn view(metrics: &ServerMetrics) -> Option<LeaderView> {
    let node_id = metrics.current_leader?;
    // The vote is the last flushed one. For a moment it may be behind the leader, whose term is
    // then not known.
    if metrics.vote.leader_id.node_id != node_id || !metrics.vote.committed {
        return None;
    }
    // A leader that left the membership has no address. It hands over as soon as that membership is
    // committed.
    let node = metrics.membership_config.membership().get_node(&node_id)?.clone();
    let term = metrics.vote.leader_id.term();
    Some(LeaderView { term, node_id, node, is_me: node_id == metrics.id })
}

fn publish(sender: &watch::Sender<Option<LeaderView>>, next: Option<LeaderView>) {
    sender.send_if_modified(|view| {
        let differs = *view != next;
        if differs {
            announce(next.as_ref());
            *view = next;
        }
        differs
    });
}

/// Logs the change of leader that an operator looks for when clients paused.
fn announce(leader: Option<&LeaderView>) {
    match leader {
        Some(leader) if leader.is_me => tracing::info!(term = leader.term, "this node leads"),
        Some(leader) => tracing::info!(leader = %leader.node.name, term = leader.term, "another node leads"),
        None => tracing::info!("no leader is known"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn leader(term: u64, is_me: bool) -> LeaderView {
        LeaderView { term, node_id: 1, node: Addresses::default(), is_me }
    }

    #[tokio::test]
    async fn waits_for_a_leader_and_no_longer_than_told() {
        let (sender, receiver) = watch::channel(None);
        let mut watch = LeaderWatch::new(receiver);
        let until = Instant::now() + Duration::from_millis(50);
        assert_eq!(watch.wait(until).await, None);
        assert!(Instant::now() >= until);
        publish(&sender, Some(leader(4, true)));
        assert_eq!(watch.wait(Instant::now()).await, Some(leader(4, true)));
    }

    #[tokio::test]
    async fn leads_only_in_its_own_term() {
        let (sender, receiver) = watch::channel(Some(leader(4, true)));
        let watch = LeaderWatch::new(receiver);
        assert!(watch.leads(4));
        assert!(!watch.leads(3));
        publish(&sender, Some(leader(4, false)));
        assert!(!watch.leads(4));
    }

    #[tokio::test]
    async fn equal_views_wake_nobody() {
        let (sender, receiver) = watch::channel(Some(leader(4, true)));
        let mut watch = LeaderWatch::new(receiver);
        publish(&sender, Some(leader(4, true)));
        assert!(futures::FutureExt::now_or_never(watch.changed()).is_none());
        publish(&sender, None);
        watch.changed().await;
        assert_eq!(watch.current(), None);
    }
}
