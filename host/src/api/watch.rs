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
            let (index, step, reads) = match self.step(cause).await {
                Ok(stepped) => stepped,
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
            cause = self.next_cause(index, reads, step.wake_at_index, step.wake_after_ms).await;
        }
    }

    async fn step(&self, cause: Cause) -> Result<(u64, Step, ReadSet), Status> {
        loop {
            let call = WatchCall {
                method: self.method.name.to_string(),
                request: self.request.clone(),
                caller: String::new(),
                cause,
                memo: self.memo.clone(),
            };
            match self.shared.parts.machine.watch_step(call).await {
                Ok(Watched { index, stepped: Stepped::Step(step), reads }) => return Ok((index, step, reads)),
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

    async fn next_cause(&self, index: u64, reads: ReadSet, wake_at_index: u64, wake_after_ms: u32) -> Cause {
        let machine = &self.shared.parts.machine;
        let wake_at = async {
            match wake_at_index {
                0 => std::future::pending().await,
                // An index already seen would make a guest's mistake spin.
                at => machine.wait_applied(at.max(index + 1)).await,
            }
        };
        let wake_after = async {
            match wake_after_ms {
                0 => std::future::pending().await,
                after => tokio::time::sleep(Duration::from_millis(after.into())).await,
            }
        };
        tokio::select! {
            change = machine.changed(index, reads) => match change {
                Change::Touched => Cause::Change,
                Change::Reset => Cause::Reset,
            },
            () = wake_at => Cause::Wake,
            () = wake_after => Cause::Wake,
        }
    }
}
