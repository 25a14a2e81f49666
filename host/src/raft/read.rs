//! The index that a linearizable read must wait for. One request to the leader serves all readers that wait and were not yet
//! sent; a reader that comes later never rides on an earlier request. A request to a leader that is replaced meanwhile is dropped, and
//! its readers ask the next one. Never reads state and never waits for apply.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::leader::{LeaderView, LeaderWatch};
use crate::faults;

/// Readers that wait for the next request, at most.
const READERS_MAX: usize = 16_384;
/// Requests to the leader at a time: a second reader need not wait for the first one's answer.
const ROUNDS_MAX: usize = 4;
/// Pause before the same leader is asked again.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// A read index was not had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader was known or reachable for as long as an election may take; the text is the last failure.
    #[error("no leader confirmed the read: {0}")]
    NoLeader(String),
    /// The reader's deadline came first.
    #[error("the deadline passed before a leader confirmed the read")]
    Deadline,
    /// Too many readers wait.
    #[error("{READERS_MAX} reads wait for the leader")]
    Overloaded,
    /// This node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// Why one request brought no index.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoundError {
    /// The node asked does not lead.
    #[error("the node asked does not lead")]
    NotLeader,
    /// The leader did not reach a quorum.
    #[error("the leader did not reach a quorum")]
    NoQuorum,
    /// The request failed on its way.
    #[error("{0}")]
    Failed(String),
}

/// The read index as this node's own Raft gives it when it leads.
pub trait LocalIndex: Send + Sync + 'static {
    /// One round with a quorum.
    fn read_index(&self) -> BoxFuture<'static, Result<u64, RoundError>>;
}

/// The read index asked of another node.
pub trait RemoteIndex: Send + Sync + 'static {
    /// One request to `leader`.
    fn read_index(&self, leader: &LeaderView) -> BoxFuture<'static, Result<u64, RoundError>>;
}

/// Gives read indexes. Cheap to clone.
#[derive(Clone)]
pub struct ReadIndex {
    readers: mpsc::Sender<Reader>,
    local: Arc<dyn LocalIndex>,
    leader: LeaderWatch,
    election_timeout: Duration,
}

/// The loop behind a [`ReadIndex`].
pub struct ReadIndexTask {
    readers: mpsc::Receiver<Reader>,
    local: Arc<dyn LocalIndex>,
    remote: Arc<dyn RemoteIndex>,
    leader: LeaderWatch,
    election_timeout: Duration,
}

type Reader = oneshot::Sender<Result<u64, RoundError>>;

impl ReadIndex {
    /// A handle and the task that must run for it. `election_timeout` bounds one request and how long a read waits for a leader.
    pub fn new(
        local: Arc<dyn LocalIndex>,
        remote: Arc<dyn RemoteIndex>,
        leader: LeaderWatch,
        election_timeout: Duration,
    ) -> (ReadIndex, ReadIndexTask) {
        let (sender, readers) = mpsc::channel(READERS_MAX);
        let task = ReadIndexTask { readers, local: local.clone(), remote, leader: leader.clone(), election_timeout };
        (ReadIndex { readers: sender, local, leader, election_timeout }, task)
    }

    /// The index to wait for: everything acknowledged before this call is at or below it. Asks again after a change of leader,
    /// until `deadline`.
    pub async fn read_index(&self, deadline: Instant) -> Result<u64, ReadError> {
        if faults::is_set("read-skip-index") {
            return Ok(0);
        }
        let mut leader = self.leader.clone();
        let patience = (Instant::now() + self.election_timeout).min(deadline);
        loop {
            if leader.wait(patience).await.is_none() {
                return Err(if patience == deadline {
                    ReadError::Deadline
                } else {
                    ReadError::NoLeader("none is known".into())
                });
            }
            let (sender, receiver) = oneshot::channel();
            self.readers.try_send(sender).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => ReadError::Overloaded,
                mpsc::error::TrySendError::Closed(_) => ReadError::Stopping,
            })?;
            match timeout_at(deadline, receiver).await {
                Ok(Ok(Ok(index))) => return Ok(index),
                Ok(Ok(Err(error))) if Instant::now() >= patience => return Err(ReadError::NoLeader(error.to_string())),
                Ok(Ok(Err(_))) => tokio::select! {
                    () = leader.changed() => {}
                    () = sleep(RETRY_INTERVAL) => {}
                },
                Ok(Err(_)) => return Err(ReadError::Stopping),
                Err(_) => return Err(ReadError::Deadline),
            }
        }
    }

    /// For another node's readers: this node's own confirmation as leader, never a second hop.
    pub async fn confirm(&self) -> Result<u64, RoundError> {
        bounded(self.local.read_index(), self.election_timeout).await
    }
}

impl ReadIndexTask {
    /// Runs until every [`ReadIndex`] is dropped.
    pub async fn run(mut self) {
        let mut rounds = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(()) = rounds.next(), if !rounds.is_empty() => {}
                first = self.readers.recv(), if rounds.len() < ROUNDS_MAX => {
                    let Some(first) = first else { break };
                    let mut readers = vec![first];
                    while let Ok(reader) = self.readers.try_recv() {
                        readers.push(reader);
                    }
                    rounds.push(self.round(readers));
                }
            }
        }
        while rounds.next().await.is_some() {}
    }

    /// One request. Its readers were all waiting before it is made.
    fn round(&self, readers: Vec<Reader>) -> impl Future<Output = ()> + Send + use<> {
        let mut watch = self.leader.clone();
        let leader = watch.seen();
        let request = match &leader {
            Some(leader) if leader.is_me => Some(self.local.read_index()),
            Some(leader) => Some(self.remote.read_index(leader)),
            None => None,
        };
        let limit = self.election_timeout;
        async move {
            let index = match request {
                // A leader that was replaced may never answer: paused, or cut off.
                Some(request) => tokio::select! {
                    index = bounded(request, limit) => index,
                    () = watch.changed() => Err(RoundError::NotLeader),
                },
                None => Err(RoundError::NotLeader),
            };
            for reader in readers {
                // A reader that gave up has dropped its receiver.
                let _ = reader.send(index.clone());
            }
        }
    }
}

async fn bounded(request: BoxFuture<'static, Result<u64, RoundError>>, limit: Duration) -> Result<u64, RoundError> {
    timeout(limit, request)
        .await
        .unwrap_or_else(|_| Err(RoundError::Failed("the leader did not answer in time".into())))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::Node;
    use futures::FutureExt;
    use parking_lot::Mutex;
    use std::collections::VecDeque;
    use tokio::sync::{Notify, watch};

    const ELECTION: Duration = Duration::from_millis(200);

    #[derive(Default)]
    struct FakeIndex {
        rounds: Mutex<VecDeque<oneshot::Sender<Result<u64, RoundError>>>>,
        asked: Notify,
    }

    impl FakeIndex {
        fn ask(&self) -> BoxFuture<'static, Result<u64, RoundError>> {
            let (sender, receiver) = oneshot::channel();
            self.rounds.lock().push_back(sender);
            self.asked.notify_one();
            async move { receiver.await.unwrap_or(Err(RoundError::NoQuorum)) }.boxed()
        }
        async fn round(&self) -> oneshot::Sender<Result<u64, RoundError>> {
            loop {
                let next = self.rounds.lock().pop_front();
                match next {
                    Some(round) => return round,
                    None => self.asked.notified().await,
                }
            }
        }
    }

    impl LocalIndex for FakeIndex {
        fn read_index(&self) -> BoxFuture<'static, Result<u64, RoundError>> {
            self.ask()
        }
    }

    impl RemoteIndex for FakeIndex {
        fn read_index(&self, _: &LeaderView) -> BoxFuture<'static, Result<u64, RoundError>> {
            self.ask()
        }
    }

    struct World {
        local: Arc<FakeIndex>,
        remote: Arc<FakeIndex>,
        leader: watch::Sender<Option<LeaderView>>,
        reads: ReadIndex,
    }

    fn view(term: u64, is_me: bool) -> Option<LeaderView> {
        Some(LeaderView { term, node_id: 1, node: Node::default(), is_me })
    }

    fn world(first: Option<LeaderView>) -> World {
        let (local, remote) = (Arc::new(FakeIndex::default()), Arc::new(FakeIndex::default()));
        let (leader, seen) = watch::channel(first);
        let (reads, task) = ReadIndex::new(local.clone(), remote.clone(), LeaderWatch::new(seen), ELECTION);
        tokio::spawn(task.run());
        World { local, remote, leader, reads }
    }

    fn spawn_read(reads: &ReadIndex) -> tokio::task::JoinHandle<Result<u64, ReadError>> {
        let reads = reads.clone();
        tokio::spawn(async move { reads.read_index(Instant::now() + Duration::from_secs(10)).await })
    }

    #[tokio::test]
    async fn readers_that_wait_share_a_request_and_later_ones_do_not() {
        let world = world(view(1, false));
        let mut rounds = Vec::new();
        let mut early = Vec::new();
        for _ in 0..ROUNDS_MAX {
            early.push(spawn_read(&world.reads));
            rounds.push(world.remote.round().await);
        }
        let late: Vec<_> = (0..50).map(|_| spawn_read(&world.reads)).collect();
        while world.reads.readers.capacity() > READERS_MAX - 50 {
            tokio::task::yield_now().await;
        }
        rounds.remove(0).send(Ok(5)).unwrap();
        assert_eq!(early.remove(0).await.unwrap(), Ok(5));
        world.remote.round().await.send(Ok(9)).unwrap();
        for read in late {
            assert_eq!(read.await.unwrap(), Ok(9));
        }
        assert!(world.local.rounds.lock().is_empty());
    }

    #[tokio::test]
    async fn a_change_of_leader_is_a_pause() {
        let world = world(view(1, false));
        let read = spawn_read(&world.reads);
        // The leader of term 1 is paused: it never answers.
        let _unanswered = world.remote.round().await;
        world.leader.send_replace(view(2, true));
        world.local.round().await.send(Ok(12)).unwrap();
        assert_eq!(read.await.unwrap(), Ok(12));
    }

    #[tokio::test]
    async fn without_a_leader_a_read_waits_no_longer_than_an_election() {
        let world = world(None);
        let start = Instant::now();
        let error = world.reads.read_index(start + Duration::from_secs(10)).await.unwrap_err();
        assert!(matches!(error, ReadError::NoLeader(_)));
        assert!(start.elapsed() >= ELECTION && start.elapsed() < 10 * ELECTION, "{:?}", start.elapsed());
        let deadline = Instant::now() + ELECTION / 4;
        assert_eq!(world.reads.read_index(deadline).await, Err(ReadError::Deadline));
    }

    #[tokio::test]
    async fn a_silent_leader_is_given_up() {
        let world = world(view(1, true));
        let read = spawn_read(&world.reads);
        let _silent = world.local.round().await;
        let error = read.await.unwrap().unwrap_err();
        assert!(matches!(error, ReadError::NoLeader(_)), "{error:?}");
    }
}
