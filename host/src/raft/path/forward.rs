//! Sends this node's commands and read requests to the leader, in one hop. One pooled stream
//! carries commands; one channel carries both. Never makes a second hop and never copies a command:
//! a command that was handed to a stream is not sent again from here.
//!
//! - A command leaves the queue when the transport asks for the next message. Before that, its
//!   client can take it back, and a failure to connect answers "not proposed".
//! - When the stream breaks, the fate of the commands that were handed over is unknown here; the
//!   waiters decide it.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, stream};
use lockstep_proto::peer;
use lockstep_proto::peer::peer_client::PeerClient;
use parking_lot::Mutex;
use prost::Message;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::proposer::{CLIENT_BYTES_MAX, Propose, QUEUE_BYTES_MAX, QUEUE_COMMANDS_MAX};
use super::read::{RemoteIndex, RoundError};
use super::ticket::{
    Budget, CLIENT_COMMAND_BYTES_MIN, Claim, NotProposed, Queued, Spare, Ticket, Wait, check_size, ticket, weight_bytes,
};
use super::wire::decode_end;
use crate::codec::Command;
use crate::machine::{Admitted, Fate};
use crate::raft::GroupCell;
use crate::raft::liveness::leader::LeaderView;
use crate::raft::peers::dial::{self, Expect};
use crate::raft::time::clock::RemoteClock;
use crate::source::Party;
use crate::types::NodeId;

/// Sends commands and read requests to the leader. Cheap to clone.
#[derive(Clone)]
pub struct Forward(Arc<Shared>);

struct Shared {
    me: NodeId,
    cluster: GroupCell,
    budget: Arc<Budget>,
    stream: Mutex<Option<LeaderStream>>,
    /// Where the stream and its connection live, whoever uses them first.
    runtime: Handle,
}

/// The connection to one leader at one address.
struct LeaderStream {
    leader: NodeId,
    address: String,
    channel: Channel,
    queue: mpsc::Sender<Queued>,
}

impl Forward {
    /// Creates a forwarder for node `me`. It connects on first use, in the runtime that calls this.
    pub fn new(me: NodeId, cluster: GroupCell) -> Forward {
        Forward(Arc::new(Shared {
            me,
            cluster,
            budget: Budget::by_party(QUEUE_BYTES_MAX, CLIENT_BYTES_MAX),
            stream: Mutex::new(None),
            runtime: Handle::current(),
        }))
    }

    /// Returns the bytes of commands that wait to be sent.
    #[cfg(test)]
    fn queued_bytes(&self) -> usize {
        self.0.budget.used_bytes()
    }

    /// Runs `with` on the stream to `leader`. Opens a new stream when the leader or its address
    /// changed or the stream broke.
    fn with_stream<T>(&self, leader: &LeaderView, with: impl FnOnce(&LeaderStream) -> T) -> Result<T, NotProposed> {
        let route = self.0.cluster.route(self.0.me, leader.node_id).ok_or(NotProposed::NotLeader)?;
        let mut slot = self.0.stream.lock();
        let usable = slot.as_ref().is_some_and(|stream| {
            stream.leader == leader.node_id && stream.address == leader.node.raft_addr && !stream.queue.is_closed()
        });
        if !usable {
            let _runtime = self.0.runtime.enter();
            *slot = Some(LeaderStream::open(&self.0.cluster, leader, route)?);
        }
        Ok(with(slot.as_ref().expect("set above")))
    }
}

impl Propose for Forward {
    fn propose(&self, leader: &LeaderView, party: Party, command: Command, wait: Wait) -> Result<Ticket, NotProposed> {
        check_size(&command)?;
        let overloaded = |what: String| NotProposed::Overloaded(format!("{what} wait for the leader on this node"));
        let share = self.0.budget.share_of(party, weight_bytes(&command)).map_err(|spare| match spare {
            Spare::None => overloaded(format!("{QUEUE_BYTES_MAX} bytes of commands")),
            Spare::ForOthers => overloaded(format!(
                "{CLIENT_BYTES_MAX} bytes of commands of this client (each counted with at least {CLIENT_COMMAND_BYTES_MIN})"
            )),
        })?;
        let (ticket, claim) = ticket();
        // The leader asks the quotas.
        let admitted = Admitted::default();
        let queued = Queued { term: leader.term, party, command, wait, claim, share, admitted };
        let queue = self.with_stream(leader, |stream| stream.queue.clone())?;
        queue.try_send(queued).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => overloaded(format!("{QUEUE_COMMANDS_MAX} commands")),
            mpsc::error::TrySendError::Closed(_) => NotProposed::NotLeader,
        })?;
        Ok(ticket)
    }
}

impl Forward {
    /// Sends the leader one request whose answer is an index.
    fn ask<F>(
        &self,
        leader: &LeaderView,
        ask: impl FnOnce(PeerClient<Channel>, Option<peer::Route>) -> F + Send + 'static,
    ) -> BoxFuture<'static, Result<u64, RoundError>>
    where
        F: Future<Output = Result<u64, tonic::Status>> + Send,
    {
        let route = self.0.cluster.route(self.0.me, leader.node_id);
        let channel = self.with_stream(leader, |stream| stream.channel.clone());
        let cluster = self.0.cluster.clone();
        async move {
            let channel = channel.map_err(|_| RoundError::NotLeader)?;
            ask(dial::client(channel), route).await.map_err(|status| {
                if status.code() == tonic::Code::FailedPrecondition {
                    cluster.note(&status);
                    return RoundError::NotLeader;
                }
                RoundError::Failed(format!("the leader: {}", status.message()))
            })
        }
        .boxed()
    }
}

impl RemoteIndex for Forward {
    fn read_index(&self, leader: &LeaderView) -> BoxFuture<'static, Result<u64, RoundError>> {
        self.ask(leader, |mut client, route| async move {
            Ok(client.read_index(peer::ReadIndexRequest { route }).await?.into_inner().index)
        })
    }
}

impl RemoteClock for Forward {
    fn pass_time(&self, leader: &LeaderView, until_ms: u64) -> BoxFuture<'static, Result<u64, RoundError>> {
        self.ask(leader, move |mut client, route| async move {
            Ok(client.pass_time(peer::PassTimeRequest { route, until_ms }).await?.into_inner().index)
        })
    }
}

impl LeaderStream {
    /// Opens a stream that connects on first use. Its task ends when the stream ends, or when the
    /// stream was replaced and its last answer has come.
    fn open(cluster: &GroupCell, leader: &LeaderView, route: peer::Route) -> Result<LeaderStream, NotProposed> {
        let address = leader.node.raft_addr.clone();
        let channel = match cluster.dialer().lazy(&address, Expect::of(&leader.node)) {
            Ok(channel) => channel,
            Err(error) => {
                tracing::error!(%address, %error, "the leader's raft address in the membership is not an address");
                return Err(NotProposed::NotLeader);
            }
        };
        let (queue, receiver) = mpsc::channel(QUEUE_COMMANDS_MAX);
        let traffic = Traffic::new(cluster.clone(), route, receiver);
        let client = dial::client(channel.clone());
        tokio::spawn(traffic.run(client, address.clone()));
        Ok(LeaderStream { leader: leader.node_id, address, channel, queue })
    }
}

/// The traffic of one Forward stream.
struct Traffic {
    cluster: GroupCell,
    route: peer::Route,
    queue: Mutex<mpsc::Receiver<Queued>>,
    /// Commands that were handed to the transport and not answered, by `Origin::counter` and the
    /// term of the attempt. A command may be tried again in a later term over this stream; a late
    /// refusal of the first attempt must not count for the second.
    handed: Mutex<HashMap<(u64, u64), Claim>>,
}

impl Traffic {
    fn new(cluster: GroupCell, route: peer::Route, queue: mpsc::Receiver<Queued>) -> Arc<Traffic> {
        Arc::new(Traffic { cluster, route, queue: Mutex::new(queue), handed: Mutex::default() })
    }

    async fn run(self: Arc<Self>, mut client: PeerClient<Channel>, address: String) {
        let requests = dial::routed(self.clone().outgoing(), &self.route);
        let error = match client.forward(requests).await {
            Ok(responses) => self.listen(responses.into_inner()).await,
            Err(status) => Some(status),
        };
        if let Some(status) = error {
            self.cluster.note(&status);
            tracing::debug!(%address, error = status.message(), "the stream of forwarded commands to the leader ended");
        }
        self.close();
    }

    async fn listen(&self, mut responses: tonic::Streaming<peer::ForwardResponse>) -> Option<tonic::Status> {
        loop {
            match responses.message().await {
                Ok(Some(response)) => self.answered(response),
                Ok(None) => return None,
                Err(status) => return Some(status),
            }
        }
    }

    fn outgoing(self: Arc<Self>) -> impl Stream<Item = peer::ForwardRequest> + Send + 'static {
        stream::poll_fn(move |cx| self.poll_next(cx))
    }

    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<peer::ForwardRequest>> {
        let mut queue = self.queue.lock();
        loop {
            let Poll::Ready(next) = queue.poll_recv(cx) else { return Poll::Pending };
            let Some(queued) = next else { return Poll::Ready(None) };
            if let Some(request) = self.hand_over(queued) {
                return Poll::Ready(Some(request));
            }
        }
    }

    /// Hands a command to the transport. From then on it may be proposed.
    fn hand_over(&self, queued: Queued) -> Option<peer::ForwardRequest> {
        let now = Instant::now();
        let left = queued.wait.deadline.saturating_duration_since(now);
        if left.is_zero() {
            queued.claim.refuse(NotProposed::Expired);
            return None;
        }
        if !queued.claim.take() {
            return None;
        }
        let counter = queued.command.origin.as_ref().map_or(0, |origin| origin.counter);
        self.handed.lock().insert((counter, queued.term), queued.claim);
        Some(peer::ForwardRequest {
            route: Some(self.route.clone()),
            leader_term: queued.term,
            command: Bytes::from(queued.command.encode_to_vec()),
            timeout_ms: left.as_millis().max(1) as u64,
            client: queued.party.number(),
            waited_ms: queued.wait.since.map_or(0, |since| now.saturating_duration_since(since).as_millis() as u64),
        })
    }

    fn answered(&self, response: peer::ForwardResponse) {
        let attempt = (response.counter, response.leader_term);
        let Some(claim) = self.handed.lock().remove(&attempt) else { return };
        match decode_end(response.result) {
            Ok(Fate::Outcome(outcome)) => claim.complete(outcome),
            // The leader has no more to say; the waiters decide.
            Ok(Fate::NotRun | Fate::Unknown) => {}
            Err(reason) => {
                if let NotProposed::Removed { index } = reason {
                    self.cluster.told_removed(index);
                }
                claim.refuse(reason);
            }
        }
    }

    /// Closes the queue. Dropping a queued command answers that it was not proposed; the waiters
    /// decide the commands that were handed over.
    fn close(&self) {
        let mut queue = self.queue.lock();
        queue.close();
        while queue.try_recv().is_ok() {}
        drop(queue);
        self.handed.lock().clear();
    }
}

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
