//! Receives a snapshot: passes its frames to `machine`, then the finished state to openraft.
//! Restores nothing itself.
//!
//! - One install runs at a time: a second snapshot that arrives while the first is being installed
//!   can panic openraft's core (openraft issue 2116). The gate opens again only once the installed
//!   position is applied.
//! - An install that has begun runs to its end even if the sender hangs up. A sender that hangs up
//!   before that leaves nothing behind.
//! - An install removes the log up to the snapshot. So what this node has applied of it is archived
//!   before, if it keeps an archive.
//! - The whole transfer has no time limit. Either end may take as long as it needs while its count
//!   of steps grows. Each end sends its count about every second.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use lockstep_proto::peer::{
    SnapshotHeader, SnapshotRequest, SnapshotResponse as Answer, snapshot_request, snapshot_response,
};
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::async_runtime::WatchReceiver;
use openraft::raft::SnapshotResponse;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tonic::Status;

use super::wire_error::WireError;
use super::{bounds, wire};
use crate::machine::{Machine, Receiving, SnapshotData, SnapshotError, Transfer};
use crate::raft::{Archive, Raft};
use crate::types::{NodeId, TypeConfig, Vote};

/// Time after which an end of a transfer has stalled if its count of steps does not grow: its disk
/// or its guest hangs. The connection notices a dead or unreachable end much sooner.
pub const STALLED_AFTER: Duration = Duration::from_secs(60);

/// Time between two messages that tell the steps, while an end has nothing else to send.
pub const STEPS_INTERVAL: Duration = Duration::from_secs(1);

/// Longest wait for the log archive before an install. An archive that cannot be written must not
/// keep a node from following its cluster.
const ARCHIVE_PATIENCE: Duration = Duration::from_secs(10);

/// The messages that follow the header.
pub type Frames = BoxStream<'static, Result<SnapshotRequest, Status>>;
/// The receiver's steps, then its vote once the snapshot is installed.
pub type Answers = BoxStream<'static, Result<Answer, Status>>;

/// Handles the snapshots whose routes `service` has checked.
pub trait SnapshotHandler: Send + Sync + 'static {
    /// Installs a snapshot, or answers why it does not and changes nothing. Dropping the answers
    /// before the install has begun cancels it.
    fn install(&self, raft: Arc<Raft>, from: NodeId, header: SnapshotHeader, frames: Frames) -> Answers;
}

/// The [`SnapshotHandler`] of a running node.
pub struct Installer {
    machine: Machine,
    archive: Option<Archive>,
    gate: Arc<Mutex<()>>,
}

impl Installer {
    /// Creates an installer for one group, with the archive of its log.
    pub fn new(machine: Machine, archive: Option<Archive>) -> Self {
        Installer { machine, archive, gate: Arc::default() }
    }

    /// Takes the gate and begins to receive, or returns the reason for a refusal.
    fn begin(&self, raft: &Raft, from: NodeId, header: SnapshotHeader) -> Result<Begun, Status> {
        let gate = self.gate.clone();
        let guard = gate
            .try_lock_owned()
            .map_err(|_| Status::failed_precondition("this node is installing another snapshot; try again later"))?;
        let (vote, meta) = wire::decode_snapshot_header(header)?;
        wire::check_snapshot(from, &vote, &meta)?;
        bounds::check_vote_of_peer(raft, &vote).map_err(WireError::from)?;
        if let Some(newer) = newer_vote(raft, &vote) {
            return Ok(Begun::Outdated(newer));
        }
        let receiving = self.machine.snapshots().receive(Some(from), &name_of(raft, from)).map_err(refuse)?;
        Ok(Begun::Receiving { guard, vote, meta, receiving })
    }
}

enum Begun {
    Outdated(Vote),
    Receiving { guard: OwnedMutexGuard<()>, vote: Vote, meta: SnapshotMetaOf<TypeConfig>, receiving: Receiving },
}

impl SnapshotHandler for Installer {
    fn install(&self, raft: Arc<Raft>, from: NodeId, header: SnapshotHeader, frames: Frames) -> Answers {
        let (guard, vote, meta, receiving) = match self.begin(&raft, from, header) {
            Ok(Begun::Receiving { guard, vote, meta, receiving }) => (guard, vote, meta, receiving),
            Ok(Begun::Outdated(newer)) => return stream::once(async move { Ok(installed(&newer)) }).boxed(),
            Err(status) => return stream::once(async { Err(status) }).boxed(),
        };
        let (machine, archive) = (self.machine.clone(), self.archive.clone());
        let transfer = receiving.transfer();
        let progress = transfer.clone();
        let work = async move {
            let data = receive(receiving, frames)
                .await
                .inspect_err(|status| tracing::warn!(error = status.message(), "a snapshot was not restored"))?;
            let snapshot = SnapshotOf::<TypeConfig, _> { meta, snapshot: data };
            let install = async move {
                if let Some(archive) = archive {
                    archive.settle(ARCHIVE_PATIENCE).await;
                }
                finish(machine, raft, vote, snapshot, guard).await
            };
            // openraft answers or the node ends. While the install runs, this end counts as alive.
            let mut install = tokio::spawn(install);
            let mut ticks = ticks();
            let response = loop {
                tokio::select! {
                    done = &mut install => break done.map_err(|error| Status::internal(error.to_string()))??,
                    _ = ticks.tick() => progress.step(),
                }
            };
            Ok(installed(&response.vote))
        };
        telling_steps(Box::pin(work), transfer)
    }
}

fn installed(vote: &Vote) -> Answer {
    Answer { part: Some(snapshot_response::Part::Vote(wire::encode_vote(vote))) }
}

/// Returns a stream of steps that ends with the answer of `work`.
fn telling_steps(work: BoxFuture<'static, Result<Answer, Status>>, transfer: Arc<Transfer>) -> Answers {
    stream::unfold((Some(work), ticks(), transfer), |(work, mut ticks, transfer)| async move {
        let mut work = work?;
        tokio::select! {
            answer = &mut work => Some((answer, (None, ticks, transfer))),
            _ = ticks.tick() => {
                let steps = Answer { part: Some(snapshot_response::Part::Steps(transfer.steps())) };
                Some((Ok(steps), (Some(work), ticks, transfer)))
            }
        }
    })
    .boxed()
}

/// Returns the timer for telling steps. The first tick is due at once.
pub(in crate::raft) fn ticks() -> tokio::time::Interval {
    let mut ticks = interval(STEPS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// The other end's count of steps, and when it last grew.
pub(in crate::raft) struct OtherEnd {
    steps: u64,
    grew: Instant,
}

impl OtherEnd {
    pub(in crate::raft) fn new() -> OtherEnd {
        OtherEnd { steps: 0, grew: Instant::now() }
    }

    /// Notes the count that the other end has sent.
    pub(in crate::raft) fn told(&mut self, steps: u64) {
        if steps != self.steps {
            self.steps = steps;
            self.alive();
        }
    }

    /// Notes that the other end did something, or that this end was not waiting for it.
    pub(in crate::raft) fn alive(&mut self) {
        self.grew = Instant::now();
    }

    /// Returns the time at which the other end will have stalled.
    pub(in crate::raft) fn stalled_at(&self) -> Instant {
        self.grew + STALLED_AFTER
    }
}

fn name_of(raft: &Raft, node: NodeId) -> String {
    let membership = raft.metrics().borrow_watched().membership_config.clone();
    membership.get_node(&node).map_or_else(|| format!("{node:016x}"), |node| node.name.clone())
}

/// Returns this node's vote if it is newer than the sender's, before anything is received in vain.
/// openraft checks again.
fn newer_vote(raft: &Raft, vote: &Vote) -> Option<Vote> {
    let ours = raft.metrics().borrow_watched().vote;
    (ours > *vote).then_some(ours)
}

async fn receive(receiving: Receiving, mut frames: Frames) -> Result<SnapshotData, Status> {
    use snapshot_request::Part;
    let mut sender = OtherEnd::new();
    loop {
        let message = timeout_at(sender.stalled_at(), frames.next()).await.map_err(|_| {
            Status::deadline_exceeded(format!("the sender of the snapshot did nothing for {STALLED_AFTER:?}"))
        })?;
        match message.transpose()?.map(|message| message.part) {
            Some(Some(Part::Frame(frame))) => {
                receiving.push(frame).await;
                // The restore may have been slow. That is not the sender's fault.
                sender.alive();
            }
            Some(Some(Part::Steps(steps))) => sender.told(steps),
            Some(_) => return Err(Status::invalid_argument("a snapshot has one header, then frames")),
            None => break,
        }
    }
    receiving.finish().await.map_err(refuse)
}

/// Converts an error into a status. Two have a meaning between peers. DATA_LOSS: the guest restored
/// another state than the one sent, and the sender must send the rows itself. NOT_FOUND: this node
/// lacks the component that wrote the snapshot, and the rows would do.
fn refuse(error: SnapshotError) -> Status {
    let text = format!("cannot restore the snapshot: {error}");
    match (error.is_unfaithful(), error.lacks_component()) {
        (true, _) => Status::data_loss(text),
        (false, true) => Status::not_found(text),
        (false, false) => Status::failed_precondition(text),
    }
}

async fn finish(
    machine: Machine,
    raft: Arc<Raft>,
    vote: Vote,
    snapshot: SnapshotOf<TypeConfig, SnapshotData>,
    guard: OwnedMutexGuard<()>,
) -> Result<SnapshotResponse<TypeConfig>, Status> {
    let index = last_index(&snapshot.meta);
    let response = raft
        .install_full_snapshot(vote, snapshot)
        .await
        .map_err(|error| Status::unavailable(format!("Raft has stopped: {error}")))?;
    if response.vote == vote {
        machine.wait_applied(index).await;
    }
    drop(guard);
    Ok(response)
}

fn last_index(meta: &SnapshotMetaOf<TypeConfig>) -> u64 {
    meta.last_log_id.map_or(0, |id| id.index)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn only_an_unfaithful_restore_or_another_component_asks_for_the_rows() {
        assert_eq!(refuse(SnapshotError::Unfaithful("x".into())).code(), Code::DataLoss);
        assert_eq!(refuse(SnapshotError::OtherComponent("x".into())).code(), Code::NotFound);
        for error in [SnapshotError::Busy, SnapshotError::Damaged("x".into()), SnapshotError::Empty] {
            assert_eq!(refuse(error).code(), Code::FailedPrecondition);
        }
    }

    #[tokio::test]
    async fn steps_are_told_until_the_answer() {
        let transfer = Arc::<Transfer>::default();
        let (done, answer) = tokio::sync::oneshot::channel();
        let vote = Vote::new_committed(3, 4);
        let work = async move { answer.await.map_err(|_| Status::internal("gone")) };
        let mut answers = telling_steps(Box::pin(work), transfer.clone());
        for _ in 0..2 {
            transfer.step();
            let Some(snapshot_response::Part::Steps(steps)) = answers.next().await.unwrap().unwrap().part else {
                panic!("steps")
            };
            assert_eq!(steps, transfer.steps());
        }
        done.send(installed(&vote)).unwrap();
        let last = answers.collect::<Vec<_>>().await.pop().unwrap().unwrap();
        assert_eq!(last, installed(&vote));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_end_has_stalled_when_its_count_stands_still() {
        let mut end = OtherEnd::new();
        let began = end.stalled_at();
        tokio::time::sleep(Duration::from_millis(5)).await;
        end.told(0);
        assert_eq!(end.stalled_at(), began, "nothing went on");
        end.told(1);
        let moved = end.stalled_at();
        assert!(moved > began);
        tokio::time::sleep(Duration::from_millis(5)).await;
        end.told(1);
        assert_eq!(end.stalled_at(), moved);
    }
}
