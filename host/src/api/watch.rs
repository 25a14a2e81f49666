//! One stream of a WATCH method: a guest step, then waiting until what it read changed, a time or index it asked for came, or
//! the client left. Keeps no history: a slow client gets fewer steps, each from the newest state.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::routes::{Consistency, Method};
use super::{Shared, status};
use crate::guest::{Cause, Step, Stepped};
use crate::machine::{Change, QueryError, ReadSet, WatchCall, Watched};

/// Watches open at a time on one node.
pub const WATCHES_MAX: usize = 4096;

/// Replies that wait for a slow client before steps pause.
const REPLIES_QUEUED_MAX: usize = 4;

/// How long a step waits before it asks a busy node again.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// How long a watch that wakes for a time waits for this node to apply the entry that carries the time.
const APPLY_PATIENCE: Duration = Duration::from_secs(3);

/// Starts the stream. It ends when the client leaves, the guest is done, the deadline passes or the node stops.
pub(super) fn start(
    shared: Arc<Shared>,
    method: Arc<Method>,
    request: Bytes,
    deadline: Option<Instant>,
) -> Result<ReceiverStream<Result<Bytes, Status>>, Status> {
    let permit = shared.watches.clone().try_acquire_owned().map_err(|_| status::too_many_watches(WATCHES_MAX))?;
    let (replies, receiver) = mpsc::channel(REPLIES_QUEUED_MAX);
    let watch = Watch { shared, method, request, deadline, replies, memo: Bytes::new(), _permit: permit };
    tokio::spawn(watch.run());
    Ok(ReceiverStream::new(receiver))
}

struct Watch {
    shared: Arc<Shared>,
    method: Arc<Method>,
    request: Bytes,
    deadline: Option<Instant>,
    replies: mpsc::Sender<Result<Bytes, Status>>,
    memo: Bytes,
    _permit: OwnedSemaphorePermit,
}

/// Why the stream ends.
enum End {
    Done,
    ClientLeft,
    Failed(Status),
}

impl Watch {
    async fn run(mut self) {
        let mut stopping = self.shared.stopping.subscribe();
        let replies = self.replies.clone();
        let deadline = self.deadline;
        let overdue = async move {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let removed = self.shared.removed();
        let end = tokio::select! {
            end = self.steps() => end,
            () = replies.closed() => End::ClientLeft,
            () = overdue => End::Failed(status::watch_deadline()),
            removed = removed => End::Failed(removed),
            _ = stopping.wait_for(|stopping| *stopping) => End::Failed(status::stopping()),
        };
        if let End::Failed(status) = end {
            // A client that does not take its last reply does not get the status either; the connection's end tells it.
            let last = replies.send_timeout(Err(status), Duration::from_secs(1)).await;
            drop(last);
        }
    }

    async fn steps(&mut self) -> End {
        let deadline = self.deadline.unwrap_or_else(|| Instant::now() + super::dynamic::DEADLINE_DEFAULT);
        if let Err(status) = self.shared.ready(deadline).await {
            return End::Failed(status);
        }
        if self.method.consistency(&self.request) == Consistency::Linearizable
            && let Err(status) = self.shared.read_barrier(deadline).await
        {
            return End::Failed(status);
        }
        let mut cause = Cause::Start;
        loop {
            // Room first, then the step: what a slow client gets is new when it gets it.
            if self.replies.reserve().await.is_err() {
                return End::ClientLeft;
            }
            let Stepping { index, time_ms, step, reads } = match self.step(cause).await {
                Ok(stepping) => stepping,
                Err(status) => return End::Failed(status),
            };
            let done = step.done;
            for reply in step.replies {
                if self.replies.send(Ok(reply)).await.is_err() {
                    return End::ClientLeft;
                }
            }
            if done {
                return End::Done;
            }
            self.memo = step.memo;
            let wakes = Wakes { at_index: step.wake_at_index, time_ms, after_ms: step.wake_after_ms };
            cause = self.next_cause(index, reads, wakes).await;
        }
    }

    async fn step(&self, cause: Cause) -> Result<Stepping, Status> {
        loop {
            let call = WatchCall {
                method: self.method.name.to_string(),
                request: self.request.clone(),
                caller: String::new(),
                cause,
                memo: self.memo.clone(),
            };
            match self.shared.parts.machine.watch_step(call).await {
                Ok(Watched { index, time_ms, stepped: Stepped::Step(step), reads }) => {
                    return Ok(Stepping { index, time_ms, step, reads });
                }
                Ok(Watched { index, stepped: Stepped::Refused(refusal), .. }) => {
                    return Err(status::watch_refused(refusal, index));
                }
                Ok(Watched { index, stepped: Stepped::Failed(failure), .. }) => {
                    return Err(status::watch_failed(&failure, index));
                }
                Err(QueryError::Busy) => tokio::time::sleep(BUSY_PAUSE).await,
                Err(error) => return Err(status::query(&error)),
            }
        }
    }

    async fn next_cause(&self, index: u64, reads: ReadSet, wakes: Wakes) -> Cause {
        let machine = &self.shared.parts.machine;
        let wake_at = async {
            match wakes.at_index {
                0 => std::future::pending().await,
                // An index already seen would make a guest's mistake spin.
                at => machine.wait_applied(at.max(index + 1)).await,
            }
        };
        tokio::select! {
            change = machine.changed(index, reads) => match change {
                Change::Touched => Cause::Change,
                Change::Reset => Cause::Reset,
            },
            () = wake_at => Cause::Wake,
            () = self.wait_time(wakes) => Cause::Wake,
        }
    }

    /// Until so much time has passed, here and in the log, which stands still while nobody sends commands. Without a leader the watch
    /// goes on at the old time.
    async fn wait_time(&self, wakes: Wakes) {
        if wakes.after_ms == 0 {
            return std::future::pending().await;
        }
        tokio::time::sleep(Duration::from_millis(wakes.after_ms.into())).await;
        match self.shared.parts.clock.pass(wakes.time_ms.saturating_add(wakes.after_ms.into())).await {
            Ok(passed) => {
                let applied = self.shared.parts.machine.wait_applied(passed);
                drop(tokio::time::timeout(APPLY_PATIENCE, applied).await);
            }
            Err(error) => {
                tracing::debug!(%error, method = %self.method.name, "a watch wakes without log time having passed")
            }
        }
    }
}

/// A step, and where it stood.
struct Stepping {
    index: u64,
    time_ms: u64,
    step: Step,
    reads: ReadSet,
}

/// When a watch runs again although nothing that it read has changed.
#[derive(Clone, Copy)]
struct Wakes {
    /// 0 for never.
    at_index: u64,
    /// Log time of the last step.
    time_ms: u64,
    /// So long after that; 0 for never.
    after_ms: u32,
}
