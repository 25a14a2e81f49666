//! Compares the engine build of this node with the builds of the other members. Warns of
//! differences and refuses no node: otherwise no cluster could be upgraded node by node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use openraft::async_runtime::WatchReceiver;
use tokio::time::MissedTickBehavior;

use super::join;
use super::join::Host;
use crate::raft::peers::dial::Dialer;
use crate::raft::{Me, Raft};
use crate::types::{Addresses, NodeId};

/// Time between two comparisons when nothing changes in the cluster. An upgraded member is noticed
/// by then.
const PAUSE: Duration = Duration::from_secs(60);

/// Asks the other members for as long as Raft runs. Warns once of each member's build that differs.
pub async fn compare(me: Me, dialer: Dialer, raft: Raft, host: Arc<dyn Host>) {
    let mut metrics = raft.server_metrics();
    let mut pause = tokio::time::interval(PAUSE);
    pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut warned = BTreeMap::new();
    loop {
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() { return },
            _ = pause.tick() => {}
        }
        let Some(ours) = host.build() else { continue };
        let members: Vec<(NodeId, Addresses)> = {
            let now = metrics.borrow_watched();
            now.membership_config.membership().nodes().map(|(id, node)| (*id, node.clone())).collect()
        };
        let others = members.into_iter().filter(|(id, _)| *id != me.node_id);
        let dialer = &dialer;
        let asked = others.map(|(id, node)| async move { (build_of(dialer, id, &node).await, id, node) });
        let answers = join_all(asked).await;
        for (theirs, id, node) in answers {
            if theirs.as_ref().is_some_and(|theirs| differs(&mut warned, id, theirs, &ours)) {
                tracing::warn!(
                    member = %node,
                    theirs,
                    ours,
                    "that node runs guests by another build of the engine; a guest that recurses until its stack is full may end elsewhere \
                     there, and the states then differ: give all nodes the same build of Lockstep"
                );
            }
        }
    }
}

/// Returns the engine build of a member. `None`: the member does not answer, another node now has
/// its address, or it runs no guest yet.
async fn build_of(dialer: &Dialer, id: NodeId, node: &Addresses) -> Option<String> {
    let found = join::identify(dialer, &node.raft_addr, Duration::ZERO).await.ok()?;
    (found.node_id == id && !found.build.is_empty()).then_some(found.build)
}

/// Returns whether to warn of a node's build: it differs from ours, and no warning has named it
/// yet.
fn differs(told: &mut BTreeMap<NodeId, String>, id: NodeId, theirs: &str, ours: &str) -> bool {
    if theirs == ours {
        told.remove(&id);
        return false;
    }
    told.insert(id, theirs.to_owned()).as_deref() != Some(theirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_difference_is_told_once() {
        let mut told = BTreeMap::new();
        let rows = [
            (7, "a", false),
            (7, "b", true),
            (7, "b", false),
            (8, "b", true),
            (7, "c", true),
            (7, "a", false),
            (7, "c", true),
        ];
        for (n, (id, theirs, tells)) in rows.into_iter().enumerate() {
            assert_eq!(differs(&mut told, id, theirs, "a"), tells, "row {n}");
        }
    }
}
