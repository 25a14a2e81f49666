//! Advances log time on an idle cluster. Log time passes with entries only. When a watch waits for
//! a time and no client sends a command, the leader appends an entry without commands; like every
//! entry, it carries the leader's clock. It appends at most one a second, however many watches wait
//! on however many nodes. The leader also appends one entry when the cluster becomes silent. Each
//! entry carries a state hash, so all nodes check the result of the last commands. This module
//! never steps a watch and never decides the time: the proposer stamps entries, and apply takes the
//! later of two times.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use lockstep_proto::entry::Entry;
use tokio::sync::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use crate::raft::liveness::leader::{LeaderView, LeaderWatch};
use crate::raft::path::proposer::{Core, Proposer, Written};
use crate::raft::path::read::RoundError;
use crate::raft::path::ticket::NotProposed;

/// Time between two clock entries of one leader.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time of silence after which the cluster is checked once more.
const SILENCE: Duration = Duration::from_secs(3);
/// Time between two checks for silence.
const LOOK: Duration = Duration::from_secs(1);
/// Longest duration of one attempt. After it, the waiting watch steps at the old time.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks a leader on another node to let log time pass.
pub trait RemoteClock: Send + Sync + 'static {
    /// Sends one request to `leader`. Returns the index of an entry at or after which log time is
    /// as near to `until_ms` as the leader could bring it.
    fn pass_time(&self, leader: &LeaderView, until_ms: u64) -> BoxFuture<'static, Result<u64, RoundError>>;
}

/// Lets log time pass. Cheap to clone.
#[derive(Clone)]
pub struct Clock(Arc<Parts>);

struct Parts {
    core: Arc<dyn Core>,
    proposer: Proposer,
    remote: Arc<dyn RemoteClock>,
    leader: LeaderWatch,
    /// Allows one attempt at a time. Holds the time when this node last appended a clock entry.
    turn: Mutex<Option<Instant>>,
}

impl Clock {
    /// Creates a clock from this node's proposer and the path to a leader on another node.
    pub fn new(core: Arc<dyn Core>, proposer: Proposer, remote: Arc<dyn RemoteClock>, leader: LeaderWatch) -> Clock {
        Clock(Arc::new(Parts { core, proposer, remote, leader, turn: Mutex::new(None) }))
    }

    /// Lets log time pass and returns the index to wait for. Log time then is at `until_ms`, in
    /// milliseconds since 1970, or as near to it as the leader's clock allows.
    ///
    /// # Errors
    /// No leader could be asked, or none appended an entry in time. Nothing is lost: time passes
    /// with the next command.
    pub async fn pass(&self, until_ms: u64) -> Result<u64, RoundError> {
        let leader = self.0.leader.current().ok_or(RoundError::NotLeader)?;
        let attempt = async {
            if leader.is_me {
                return self.append(until_ms).await;
            }
            let _turn = self.0.turn.lock().await;
            match self.reached(until_ms) {
                Some(index) => Ok(index),
                None => self.0.remote.pass_time(&leader, until_ms).await,
            }
        };
        timeout(PATIENCE, attempt)
            .await
            .unwrap_or_else(|_| Err(RoundError::Failed("log time did not pass in time".into())))
    }

    /// Appends an entry after each burst of other entries, while this node leads. Never ends by
    /// itself.
    pub async fn check_silence(self) {
        let (mut tip, mut since, mut checked) = (0, Instant::now(), 0);
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let now = self.0.core.hash_tip().0;
            if now != tip {
                (tip, since) = (now, Instant::now());
            }
            let leads = self.0.leader.current().is_some_and(|leader| leader.is_me);
            if tip == checked || since.elapsed() < SILENCE || !leads {
                continue;
            }
            // This entry is the newest one now, or others came after it and another silence will
            // follow.
            match self.propose().await {
                Ok(index) => checked = index,
                Err(error) => tracing::debug!(%error, "the last commands are not checked now"),
            }
        }
    }

    /// Does the leader's part of [`Clock::pass`].
    pub(in crate::raft) async fn append(&self, until_ms: u64) -> Result<u64, RoundError> {
        let mut last = self.0.turn.lock().await;
        if let (None, Some(last)) = (self.reached(until_ms), *last) {
            sleep_until(last + INTERVAL).await;
        }
        if let Some(index) = self.reached(until_ms) {
            return Ok(index);
        }
        *last = Some(Instant::now());
        self.propose().await
    }

    async fn propose(&self) -> Result<u64, RoundError> {
        if let Some(why) = self.0.core.refuses_commands() {
            return Err(RoundError::Failed(why));
        }
        let leader = self.0.leader.current().filter(|leader| leader.is_me).ok_or(RoundError::NotLeader)?;
        index_of(self.0.proposer.propose_entry(leader.term, Entry::default()).await)
    }

    /// Moves log time to `time_ms`, whatever the clocks say. Returns the index of the entry that
    /// moves it. Time never goes back: apply takes the later time.
    ///
    /// # Errors
    /// This node does not lead, or it is not certain that the entry got into the log.
    pub async fn set(&self, time_ms: u64) -> Result<u64, RoundError> {
        let leader = self.0.leader.current().filter(|leader| leader.is_me).ok_or(RoundError::NotLeader)?;
        index_of(self.0.proposer.propose_time(leader.term, time_ms).await)
    }

    /// Returns the applied index if log time has already reached `until_ms`.
    fn reached(&self, until_ms: u64) -> Option<u64> {
        (self.0.core.log_time_ms() >= until_ms).then(|| self.0.core.hash_tip().0)
    }
}

fn index_of(written: Written) -> Result<u64, RoundError> {
    match written {
        Ok(Some(index)) => Ok(index),
        Ok(None) => Err(RoundError::NoQuorum),
        Err(NotProposed::NotLeader) => Err(RoundError::NotLeader),
        Err(NotProposed::Stopping) => Err(RoundError::Failed("the node is stopping".into())),
        Err(reason) => Err(RoundError::Failed(reason.to_string())),
    }
}
