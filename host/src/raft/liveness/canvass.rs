//! Replaces a leader at once when its process has ended. Heartbeats find a leader that is silent; a
//! refused connection shows that its process is gone. This module uses no timeout for that
//! decision, and no node decides alone: a single broken link between leader and follower causes no
//! election.
//!
//! - When a voter's append stream from the leader ends, the voter probes the leader's peer port. If
//!   every address refuses, or a later process answers, the voter asks the other voters. Each of
//!   them then checks its own stream and makes its own probe.
//! - When a quorum agrees, under one vote of that leader, the best of these voters takes over as if
//!   the leader had handed over to it. If it fails, the others follow one by one. Each node does
//!   this once for each vote. If none succeeds, the ordinary election timer decides.
//! - A node that has just started asks as well. When a quorum has no leader, it stands for
//!   election, with a pre-vote.
//! - A node that stands back (`RaftCell::stand_back`) answers others and never stands itself.
//! - A takeover overrides the leader's lease. Nothing here relies on the lease: reads ask a quorum.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use lockstep_proto::peer;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use openraft::raft::TransferLeaderRequest;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::presence::Presence;
use crate::raft::peers::link::{Lane, Links};
use crate::raft::peers::network::describe;
use crate::raft::peers::probe::{Found, Suspect, probe};
use crate::raft::peers::wire;
use crate::raft::{Raft, RaftCell, Timeouts};
use crate::types::{Addresses, NodeId, TypeConfig, Vote};

pub(in crate::raft) mod verdict;

use verdict::{Decision, Opinion, leader_of, verdict};

/// Time between the turns of two voters that agree.
const TURN: Duration = Duration::from_millis(50);

/// Longest wait for this node's stream to end. One voter may see its stream end a little later than
/// another.
const STREAM_END_GRACE: Duration = Duration::from_millis(50);

/// First pause between two rounds. It doubles, up to a quarter of the heartbeat timeout.
const ROUND_PAUSE: Duration = Duration::from_millis(20);

type Metrics = RaftServerMetrics<TypeConfig>;

/// Both sides of a canvass: asking and answering. Cheap to clone.
#[derive(Clone)]
pub struct Canvass(Arc<Parts>);

struct Parts {
    raft: RaftCell,
    links: Links,
    presence: Presence,
    timeouts: Timeouts,
}

impl Canvass {
    /// Creates a canvass. It asks nobody before [`Canvass::run`].
    pub fn new(raft: RaftCell, links: Links, presence: Presence, timeouts: Timeouts) -> Canvass {
        Canvass(Arc::new(Parts { raft, links, presence, timeouts }))
    }

    /// Returns the record of the nodes that stream to this node. The peer port keeps it up to date.
    pub fn presence(&self) -> &Presence {
        &self.0.presence
    }

    /// Returns this node's answer to another voter's question. Takes as long as a probe.
    pub async fn answer(&self, raft: &Raft) -> peer::CanvassResponse {
        let opinion = self.opinion(raft, &server(raft)).await;
        peer::CanvassResponse {
            leaderless: opinion.leaderless,
            vote: Some(wire::encode_vote(&opinion.vote)),
            last: opinion.last.as_ref().map(wire::encode_log_id),
        }
    }

    /// Watches the leader for as long as the node runs a Raft instance.
    pub async fn run(self) {
        let Some(raft) = self.0.raft.get() else { return };
        let mut watch = Watch::new(&self.0, &raft);
        while self.0.raft.get().is_some() {
            let now = server(&raft);
            if !watch.in_doubt(&self.0.presence, &now) {
                watch.pause = ROUND_PAUSE;
                if !watch.changed().await {
                    return;
                }
                continue;
            }
            match self.round(&raft, &now, watch.starting()).await {
                found @ (Decision::Wait | Decision::NoQuorum) => {
                    watch.tell(&now, found);
                    if !watch.rest(self.0.timeouts.heartbeat / 4).await {
                        return;
                    }
                }
                // The voters behind it take their turns.
                Decision::TakeOver(_) | Decision::Stand(_) if self.0.raft.stands_back() => {
                    watch.acted = Some(now.vote);
                }
                Decision::TakeOver(rank) if self.turn(&raft, &now, rank).await => {
                    watch.acted = Some(now.vote);
                    self.take_over(&raft, now.vote).await;
                }
                Decision::Stand(rank) if self.turn(&raft, &now, rank).await => {
                    watch.acted = Some(now.vote);
                    tracing::info!(vote = %now.vote, "no voter of a quorum has a leader since this node started; standing");
                    // An error means that the core has stopped, which the watchdog sees.
                    let _ = raft.trigger().elect(true).await;
                }
                Decision::TakeOver(_) | Decision::Stand(_) => {}
            }
        }
    }

    /// Checks this node's own stream and the leader's port, then asks all other voters.
    async fn round(&self, raft: &Raft, now: &Metrics, starting: bool) -> Decision {
        let me = self.opinion(raft, now).await;
        if !me.leaderless {
            return Decision::Wait;
        }
        let membership = now.membership_config.membership();
        let others = membership.voter_ids().collect::<BTreeSet<NodeId>>().into_iter().filter(|id| *id != me.node);
        let asked = others.filter_map(|id| Some(self.ask(id, membership.get_node(&id)?)));
        let answers: Vec<Opinion> = join_all(asked).await.into_iter().flatten().collect();
        let found = verdict(&me, &answers, membership.get_joint_config(), starting);
        tracing::debug!(?me, ?answers, ?found, "asked the other voters");
        found
    }

    async fn ask(&self, id: NodeId, node: &Addresses) -> Option<Opinion> {
        let links = &self.0.links;
        let route = links.cluster().route(links.me(), id);
        let link = links.to(id, node, Lane::Control);
        let mut client = link.client().ok()?;
        match timeout(self.answer_limit(), client.canvass(peer::CanvassRequest { route })).await {
            Ok(Ok(response)) => {
                link.heard();
                links.cluster().processes().answered(id, response.metadata()).ok()?;
                let response = response.into_inner();
                Some(Opinion {
                    node: id,
                    vote: wire::decode_vote(response.vote).ok()?,
                    last: wire::decode_place("last", response.last.as_ref()).ok()?,
                    leaderless: response.leaderless,
                })
            }
            Ok(Err(status)) => {
                links.cluster().note(&status);
                link.broke(&describe(&status));
                None
            }
            Err(_) => {
                link.timed_out();
                None
            }
        }
    }

    /// Finds out what this node says of itself now.
    async fn opinion(&self, raft: &Raft, now: &Metrics) -> Opinion {
        let leaderless = self.leaderless(now).await && server(raft).vote == now.vote;
        let last = raft.data_metrics().borrow_watched().last_log;
        Opinion { node: now.id, vote: now.vote, last, leaderless }
    }

    async fn leaderless(&self, now: &Metrics) -> bool {
        if now.state.is_leader() {
            return false;
        }
        let Some(leader) = leader_of(&now.vote, now.id) else { return true };
        // A leader that has left the membership has no address here. It hands over by itself.
        let Some(node) = now.membership_config.membership().get_node(&leader) else { return false };
        let suspect = Suspect { node: leader, boot: self.0.presence.boot(leader) };
        let dialer = self.0.links.cluster().dialer();
        let found = probe(dialer, &node.raft_addr, suspect, self.0.timeouts.probe()).await;
        found == Found::Gone && self.stream_ended(leader).await
    }

    async fn stream_ended(&self, leader: NodeId) -> bool {
        let mut changes = self.0.presence.watch();
        let ended = changes.wait_for(|_| !self.0.presence.is_open(leader));
        matches!(timeout(STREAM_END_GRACE, ended).await, Ok(Ok(_)))
    }

    /// Waits for this node's turn. Returns false when the turn is no longer needed.
    async fn turn(&self, raft: &Raft, then: &Metrics, rank: u32) -> bool {
        let others_turns = TURN * rank;
        let moved_on = |metrics: &openraft::RaftMetrics<TypeConfig>| metrics.vote != then.vote;
        if rank > 0 && raft.wait(Some(others_turns)).metrics(moved_on, "another took its turn").await.is_ok() {
            return false;
        }
        let now = server(raft);
        let heard = leader_of(&now.vote, now.id).is_some_and(|leader| self.0.presence.is_open(leader));
        now.vote == then.vote && !now.state.is_leader() && !heard
    }

    async fn take_over(&self, raft: &Raft, vote: Vote) {
        tracing::warn!(%vote, "the leader's process is gone, and a quorum finds so: taking over");
        // The request names no log id. Votes are saved behind all appends, so this node stands with
        // all that it has appended.
        let request = TransferLeaderRequest::new(vote, self.0.links.me(), None);
        match raft.handle_transfer_leader(request).await {
            Ok(Ok(())) => {}
            Ok(Err(refusal)) => tracing::info!(%refusal, "not taking over"),
            // The core has stopped, which the watchdog sees.
            Err(_) => return,
        }
        let followed = |metrics: &openraft::RaftMetrics<TypeConfig>| {
            metrics.vote.committed && metrics.vote > vote && metrics.current_leader.is_some()
        };
        let limit = self.0.timeouts.election_min();
        if raft.wait(Some(limit)).metrics(followed, "a new leader").await.is_err() {
            tracing::warn!(?limit, "no new leader yet; the election timer decides");
        }
    }

    fn answer_limit(&self) -> Duration {
        2 * self.0.timeouts.probe() + STREAM_END_GRACE
    }
}

/// State that the loop keeps from round to round.
struct Watch {
    streams: watch::Receiver<u64>,
    metrics: openraft::alias::WatchReceiverOf<TypeConfig, Metrics>,
    /// End of the start phase. A node that has heard no leader by then leaves the election to the
    /// timer.
    starting_until: Option<Instant>,
    /// The vote that the node started with. A later vote means that another node is standing
    /// already.
    first_vote: Vote,
    /// The vote under which this node took its turn.
    acted: Option<Vote>,
    /// The vote under which the operator was warned that no quorum agrees.
    told: Option<Vote>,
    pause: Duration,
}

impl Watch {
    fn new(parts: &Parts, raft: &Raft) -> Watch {
        Watch {
            streams: parts.presence.watch(),
            metrics: raft.server_metrics(),
            starting_until: Some(Instant::now() + parts.timeouts.heartbeat),
            first_vote: server(raft).vote,
            acted: None,
            told: None,
            pause: ROUND_PAUSE,
        }
    }

    fn starting(&self) -> bool {
        self.starting_until.is_some_and(|until| Instant::now() < until)
    }

    /// Returns whether a round is due.
    fn in_doubt(&mut self, presence: &Presence, now: &Metrics) -> bool {
        let leader = leader_of(&now.vote, now.id);
        let heard = leader.is_some_and(|leader| presence.is_open(leader));
        if heard || now.state.is_leader() {
            self.starting_until = None;
            return false;
        }
        let is_voter = now.membership_config.voter_ids().any(|voter| voter == now.id);
        let fresh = self.starting() && now.vote == self.first_vote;
        is_voter && self.acted != Some(now.vote) && (leader.is_some() || fresh)
    }

    /// Warns the operator, once for each leader, of a link that only this node finds broken.
    fn tell(&mut self, now: &Metrics, found: Decision) {
        let leader =
            leader_of(&now.vote, now.id).filter(|_| found == Decision::NoQuorum && self.told != Some(now.vote));
        if let Some(leader) = leader {
            self.told = Some(now.vote);
            let leader = format_args!("{leader:016x}");
            tracing::warn!(%leader, "the leader's peer port refuses this node, but not a quorum of the voters finds so");
        }
    }

    /// Waits for a change of streams or metrics. Returns false when Raft has ended.
    async fn changed(&mut self) -> bool {
        tokio::select! {
            changed = self.streams.changed() => changed.is_ok(),
            changed = self.metrics.changed() => changed.is_ok(),
        }
    }

    /// Waits for a change or for the next round. The pause does not grow while this node is
    /// starting, because the others are starting too. Returns false when Raft has ended.
    async fn rest(&mut self, longest: Duration) -> bool {
        let pause = self.pause;
        if !self.starting() {
            self.pause = (2 * pause).min(longest);
        }
        tokio::select! {
            () = sleep(pause) => true,
            alive = self.changed() => alive,
        }
    }
}

fn server(raft: &Raft) -> Metrics {
    // Cloned at once: a borrow that is held would stop the core.
    raft.server_metrics().borrow_watched().clone()
}
