//! Finds the index that a linearizable read must wait for. One request to the leader serves all
//! readers that wait when it is sent; a later reader never shares an earlier request. While a
//! request is under way, the next readers gather (`read/pace.rs` says for how long). When the
//! leader is replaced, a request to it is dropped and its readers ask the next leader. Never reads
//! state and never waits for apply.

mod pace;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::faults;
use crate::raft::liveness::leader::{LeaderView, LeaderWatch};
use pace::{Pace, Turn};

/// Most readers that wait for the next request.
const READERS_MAX: usize = 16_384;
/// Pause before the same leader is asked again.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// Why there is no read index.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader was known or reachable for as long as an election may take. The text is the last
    /// failure.
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

/// Why one request returned no index.
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

/// The read index from this node's own Raft when it leads.
pub trait LocalIndex: Send + Sync + 'static {
    /// Makes one round with a quorum.
    fn read_index(&self) -> BoxFuture<'static, Result<u64, RoundError>>;
}

/// The read index from another node.
pub trait RemoteIndex: Send + Sync + 'static {
    /// Sends one request to `leader`.
    fn read_index(&self, leader: &LeaderView) -> BoxFuture<'static, Result<u64, RoundError>>;
}

/// Provides read indexes. Cheap to clone.
#[derive(Clone)]
pub struct ReadIndex {
    readers: mpsc::Sender<Reader>,
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
    pace: Pace,
}

/// A caller that waits for the next request.
struct Reader {
    answer: oneshot::Sender<Result<u64, RoundError>>,
    /// Whether another node asks. Such a reader must not be forwarded.
    is_remote: bool,
}

impl ReadIndex {
    /// Creates a handle and the task that must run for it. `election_timeout` limits one request
    /// and how long a read waits for a leader.
    pub fn new(
        local: Arc<dyn LocalIndex>,
        remote: Arc<dyn RemoteIndex>,
        leader: LeaderWatch,
        election_timeout: Duration,
    ) -> (ReadIndex, ReadIndexTask) {
        let (sender, readers) = mpsc::channel(READERS_MAX);
        let pace = Pace::default();
        let task = ReadIndexTask { readers, local, remote, leader: leader.clone(), election_timeout, pace };
        (ReadIndex { readers: sender, leader, election_timeout }, task)
    }

    /// Returns the index to wait for: everything acknowledged before this call is at or below it.
    /// Asks again after a change of leader, until `deadline`.
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
            let receiver = self.enqueue(false)?;
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

    /// Confirms this node as leader for readers of another node, never with a second hop. They
    /// share a request with this node's own readers.
    pub async fn confirm(&self) -> Result<u64, RoundError> {
        let receiver = self.enqueue(true).map_err(|error| RoundError::Failed(error.to_string()))?;
        match timeout(self.election_timeout, receiver).await {
            Ok(Ok(index)) => index,
            Ok(Err(_)) => Err(RoundError::Failed(ReadError::Stopping.to_string())),
            Err(_) => Err(late()),
        }
    }

    fn enqueue(&self, is_remote: bool) -> Result<oneshot::Receiver<Result<u64, RoundError>>, ReadError> {
        let (answer, receiver) = oneshot::channel();
        self.readers.try_send(Reader { answer, is_remote }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ReadError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => ReadError::Stopping,
        })?;
        Ok(receiver)
    }
}

impl ReadIndexTask {
    /// Runs until every [`ReadIndex`] is dropped.
    pub async fn run(mut self) {
        let mut rounds = FuturesUnordered::new();
        loop {
            let turn = self.pace.next_turn(rounds.len());
            tokio::select! {
                biased;
                Some(took) = rounds.next(), if !rounds.is_empty() => self.pace.ended(took),
                gathered = gather(&mut self.readers, turn) => {
                    let Some(readers) = gathered else { break };
                    self.pace.began(Instant::now());
                    rounds.push(self.round(readers));
                }
            }
        }
        while rounds.next().await.is_some() {}
    }

    /// Makes one request and returns how long it took. All its readers waited before it is made.
    /// Readers of other nodes are not forwarded.
    fn round(&self, readers: Vec<Reader>) -> impl Future<Output = Duration> + Send + use<> {
        let began = Instant::now();
        let mut watch = self.leader.clone();
        let leader = watch.seen();
        let leads = leader.as_ref().is_some_and(|leader| leader.is_me);
        let (readers, misled): (Vec<_>, Vec<_>) = readers.into_iter().partition(|reader| leads || !reader.is_remote);
        let request = match &leader {
            Some(leader) if leader.is_me => Some(self.local.read_index()),
            Some(leader) if !readers.is_empty() => Some(self.remote.read_index(leader)),
            Some(_) | None => None,
        };
        let limit = self.election_timeout;
        async move {
            answer(misled, &Err(RoundError::NotLeader));
            let index = match request {
                // A leader that was replaced may never answer: it may be paused or cut off.
                Some(request) => tokio::select! {
                    index = bounded(request, limit) => index,
                    () = watch.changed() => Err(RoundError::NotLeader),
                },
                None => Err(RoundError::NotLeader),
            };
            answer(readers, &index);
            began.elapsed()
        }
    }
}

fn answer(readers: Vec<Reader>, index: &Result<u64, RoundError>) {
    for reader in readers {
        // A reader that gave up has dropped its receiver.
        let _ = reader.answer.send(index.clone());
    }
}

/// Collects all waiting readers once `turn` has come and there is at least one. Never completes
/// without a turn. `None` when no reader will come any more.
async fn gather(readers: &mut mpsc::Receiver<Reader>, turn: Option<Turn>) -> Option<Vec<Reader>> {
    match turn {
        None => std::future::pending().await,
        Some(Turn::Now) => {}
        Some(Turn::At(at)) => sleep_until(at).await,
    }
    let mut gathered = vec![readers.recv().await?];
    while let Ok(reader) = readers.try_recv() {
        gathered.push(reader);
    }
    Some(gathered)
}

async fn bounded(request: BoxFuture<'static, Result<u64, RoundError>>, limit: Duration) -> Result<u64, RoundError> {
    timeout(limit, request).await.unwrap_or_else(|_| Err(late()))
}

fn late() -> RoundError {
    RoundError::Failed("the leader did not answer in time".into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::Addresses;
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
        Some(LeaderView { term, node_id: 1, node: Addresses::default(), is_me })
    }

    fn world(first: Option<LeaderView>) -> World {
        world_at(first, Pace::default())
    }

    fn world_at(first: Option<LeaderView>, pace: Pace) -> World {
        let (local, remote) = (Arc::new(FakeIndex::default()), Arc::new(FakeIndex::default()));
        let (leader, seen) = watch::channel(first);
        let (reads, task) = ReadIndex::new(local.clone(), remote.clone(), LeaderWatch::new(seen), ELECTION);
        tokio::spawn(ReadIndexTask { pace, ..task }.run());
        World { local, remote, leader, reads }
    }

    fn spawn_read(reads: &ReadIndex) -> tokio::task::JoinHandle<Result<u64, ReadError>> {
        let reads = reads.clone();
        tokio::spawn(async move { reads.read_index(Instant::now() + Duration::from_secs(10)).await })
    }

    async fn until_waiting(world: &World, readers: usize) {
        while world.reads.readers.capacity() > READERS_MAX - readers {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn readers_that_wait_share_a_request_and_later_ones_do_not() {
        let world = world_at(view(1, false), Pace::slow_after(Duration::from_secs(3_600)));
        let early = spawn_read(&world.reads);
        let first = world.remote.round().await;
        let late: Vec<_> = (0..50).map(|_| spawn_read(&world.reads)).collect();
        until_waiting(&world, 50).await;
        assert!(world.remote.rounds.lock().is_empty(), "the next ones gather while one is under way");
        first.send(Ok(5)).unwrap();
        assert_eq!(early.await.unwrap(), Ok(5));
        world.remote.round().await.send(Ok(9)).unwrap();
        for read in late {
            assert_eq!(read.await.unwrap(), Ok(9));
        }
        assert!(world.local.rounds.lock().is_empty() && world.remote.rounds.lock().is_empty());
    }

    #[tokio::test]
    async fn a_slow_request_does_not_hold_the_next_readers_up() {
        let world = world(view(1, false));
        let slow = spawn_read(&world.reads);
        let unanswered = world.remote.round().await;
        let next = spawn_read(&world.reads);
        // The first one is still under way.
        world.remote.round().await.send(Ok(8)).unwrap();
        assert_eq!(next.await.unwrap(), Ok(8));
        unanswered.send(Ok(7)).unwrap();
        assert_eq!(slow.await.unwrap(), Ok(7));
    }

    #[tokio::test]
    async fn readers_of_other_nodes_share_a_request_and_are_not_sent_on() {
        let world = world_at(view(1, true), Pace::slow_after(Duration::from_secs(3_600)));
        let first = spawn_read(&world.reads);
        let under_way = world.local.round().await;
        let confirm = || {
            let reads = world.reads.clone();
            tokio::spawn(async move { reads.confirm().await })
        };
        let (mine, theirs) = (spawn_read(&world.reads), confirm());
        until_waiting(&world, 2).await;
        under_way.send(Ok(3)).unwrap();
        assert_eq!(first.await.unwrap(), Ok(3));
        world.local.round().await.send(Ok(4)).unwrap();
        assert_eq!((mine.await.unwrap(), theirs.await.unwrap()), (Ok(4), Ok(4)));
        world.leader.send_replace(view(2, false));
        assert_eq!(confirm().await.unwrap(), Err(RoundError::NotLeader));
        assert!(world.remote.rounds.lock().is_empty() && world.local.rounds.lock().is_empty());
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
