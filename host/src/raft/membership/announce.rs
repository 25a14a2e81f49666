//! Tells the leader this node's addresses when the membership holds others. Records nothing itself:
//! `Members::set_addresses` does, on the leader.

use std::time::Duration;

use lockstep_proto::peer::SetAddressesRequest;

use super::{Members, Metrics, metrics};
use crate::raft::figures;
use crate::raft::peers::link::Lane;
use crate::raft::peers::wire;
use crate::types::{Addresses, NodeId};

/// Pause between attempts to have new addresses recorded.
const ANNOUNCE_PAUSE: Duration = Duration::from_secs(1);

/// Rounds without a word of a leader after which a node asks although its membership has its
/// addresses. That membership may be older than the one in force.
const SILENT_ROUNDS_MAX: u32 = 3;

/// Longest duration of one attempt to have new addresses recorded. The leader commits an entry
/// meanwhile.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(10);

impl Members {
    /// Has this node's addresses recorded when the membership holds others. Returns once a leader
    /// was heard at these addresses: the membership that this node knows may be older than the one
    /// in force. Runs beside everything else, because a node that has moved may have to wait for a
    /// leader.
    pub async fn announce_addresses(&self) {
        let me = &self.0.me;
        let Some(raft) = self.0.raft.get() else { return };
        let since = <figures::Moment as openraft::Instant>::now();
        let mut silent_rounds = 0;
        let mut told = String::new();
        // The cell is empty once Raft stops.
        while self.0.raft.get().is_some() {
            let now = metrics(&raft);
            let recorded = now.membership_config.get_node(&me.node_id);
            let is_recorded = recorded == Some(&me.node);
            let leads = now.current_leader == Some(me.node_id);
            if is_recorded && (leads || figures::has_heard_leader(&raft, since).await) {
                return;
            }
            silent_rounds += u32::from(is_recorded);
            // A node that did not move hears its leader within a few rounds.
            if let Some(recorded) = recorded.filter(|_| !is_recorded || silent_rounds > SILENT_ROUNDS_MAX) {
                match self.announce(&now).await {
                    Ok(()) => silent_rounds = 0,
                    Err(reason) if is_recorded => tracing::debug!(reason, "no leader has taken this node's addresses"),
                    Err(reason) if reason == told => {}
                    Err(reason) => {
                        tracing::warn!(%recorded, now = %me.node, reason, "the leader has not recorded the new addresses yet");
                        told = reason;
                    }
                }
            }
            // The leader's entry reaches this node like any other.
            tokio::time::sleep(ANNOUNCE_PAUSE).await;
        }
    }

    /// Asks the leader, as far as it is known, and then every other member: one of them leads.
    async fn announce(&self, now: &Metrics) -> Result<(), String> {
        let me = &self.0.me;
        if now.current_leader == Some(me.node_id) {
            let recorded = self.set_addresses(me.node_id, me.node.clone()).await;
            return recorded.map(drop).map_err(|error| error.to_string());
        }
        let mut others: Vec<(NodeId, Addresses)> = now
            .membership_config
            .nodes()
            .map(|(id, node)| (*id, node.clone()))
            .filter(|(id, _)| *id != me.node_id)
            .collect();
        others.sort_by_key(|(id, _)| now.current_leader != Some(*id));
        let mut reason = "there is no other member".to_owned();
        for (id, node) in others {
            match self.announce_to(id, &node).await {
                Ok(()) => return Ok(()),
                Err(refusal) => reason = refusal,
            }
        }
        Err(reason)
    }

    async fn announce_to(&self, to: NodeId, node: &Addresses) -> Result<(), String> {
        let (me, links) = (&self.0.me, &self.0.links);
        let route = links.cluster().route(me.node_id, to);
        let request = SetAddressesRequest { route, node: Some(wire::encode_node(&me.node)) };
        let link = links.to(to, node, Lane::Control);
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
