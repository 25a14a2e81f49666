//! Tells the leader this node's addresses when the membership holds others. Records nothing itself:
//! `Members::set_addresses` does, on the leader.

use std::time::Duration;

use lockstep_proto::peer::SetAddressesRequest;

use super::{Members, Metrics, leader_node, metrics};
use crate::raft::link::Lane;
use crate::raft::wire;
use crate::types::Addresses;

/// Pause between attempts to have new addresses recorded.
const ANNOUNCE_PAUSE: Duration = Duration::from_secs(1);

/// Longest duration of one attempt to have new addresses recorded. The leader commits an entry
/// meanwhile.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(10);

impl Members {
    /// Asks the leader to record this node's addresses when the membership holds others. Returns
    /// once it holds these. Runs beside everything else, because a node that has moved may have to
    /// wait for a leader.
    pub async fn announce_addresses(&self) {
        let me = &self.0.me;
        loop {
            let Some(raft) = self.0.raft.get() else {
                tokio::time::sleep(ANNOUNCE_PAUSE).await;
                continue;
            };
            let now = metrics(&raft);
            match now.membership_config.get_node(&me.node_id) {
                Some(recorded) if *recorded == me.node => return,
                // There is no leader to tell yet.
                Some(_) if now.current_leader.is_none() => {}
                Some(recorded) => {
                    if let Err(reason) = self.announce(&now).await {
                        tracing::warn!(%recorded, now = %me.node, reason, "the leader has not recorded the new addresses yet");
                    }
                }
                None => {}
            }
            // The leader's entry reaches this node like any other.
            let recorded = |metrics: &Metrics| metrics.membership_config.get_node(&me.node_id) == Some(&me.node);
            if raft.wait(Some(ANNOUNCE_PAUSE)).metrics(recorded, "the new addresses are recorded").await.is_ok() {
                return;
            }
        }
    }

    async fn announce(&self, now: &Metrics) -> Result<(), String> {
        let (me, links) = (&self.0.me, &self.0.links);
        let leader = now.current_leader.ok_or("no leader is known")?;
        if leader == me.node_id {
            return self.set_addresses(leader, me.node.clone()).await.map(drop).map_err(|error| error.to_string());
        }
        let node: Addresses = leader_node(now).ok_or("the leader is not in the membership")?;
        let route = links.cluster().route(me.node_id, leader);
        let request = SetAddressesRequest { route, node: Some(wire::encode_node(&me.node)) };
        let link = links.to(leader, &node, Lane::Control);
        let mut client = link.client().map_err(|error| error.to_string())?;
        match tokio::time::timeout(ANNOUNCE_TIMEOUT, client.set_addresses(request)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => {
                links.cluster().note(&status);
                Err(status.message().to_owned())
            }
            Err(_) => Err(format!("no answer within {ANNOUNCE_TIMEOUT:?}")),
        }
    }
}
