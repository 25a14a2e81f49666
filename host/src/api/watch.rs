//! Runs one stream of a WATCH method. It runs a guest step, then waits until the data that the step
//! read changed, a time or index that it asked for came, or the client left. It keeps no history: a
//! slow client gets fewer steps, each from the newest state.
//!
//! - The next step runs when the client has taken everything that the last step sent.
//! - A step gets the cause `wake` only when nothing that the last step read has changed.
//! - A stream always ends with a status, whatever happens to this node.

pub(super) mod places;
mod replies;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use tokio::time::Instant;
use tonic::Status;

use super::{Shared, status};
use crate::guest::{Cause, Step, Stepped};
use crate::machine::{Again, Change, Changed, QueryError, WatchCall, Watched};
use lockstep_contract::{Consistency, Method};
use places::Connection;
use replies::{Left, Outlet, Sender};

pub(super) use replies::Replies;

/// How long a step waits before it asks a busy node again.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// How long a watch that wakes for a time waits for this node to apply the entry that carries the
/// time.
const APPLY_PATIENCE: Duration = Duration::from_secs(3);

/// Starts the stream. It ends when the client leaves, the guest is done, the deadline passes, or
/// the node stops or may no longer serve.
pub(super) fn start(
    shared: Arc<Shared>,
    connection: &Connection,
    method: Arc<Method>,
    request: Bytes,
    deadline: Option<Instant>,
) -> Result<Replies, Status> {
    let place = shared.watches.take(connection).map_err(|full| {
        shared.metrics.watch_refused(full);
        status::too_many_watches(full)
    })?;
    let (outlet, replies) = replies::channel(place);
    let sender = outlet.sender();
    let watch = Watch { shared, method, request, deadline, sender, memo: Bytes::new(), again: Again::default() };
    tokio::spawn(watch.run(outlet));
    Ok(replies)
}

struct Watch {
    shared: Arc<Shared>,
    method: Arc<Method>,
    request: Bytes,
    deadline: Option<Instant>,
    sender: Sender,
    memo: Bytes,
    again: Again,
}

/// Why the stream ends.
enum End {
    Done,
    ClientLeft,
    Failed(Status),
}

impl From<Left> for End {
    fn from(Left: Left) -> End {
        End::ClientLeft
    }
}

impl From<Status> for End {
    fn from(status: Status) -> End {
        End::Failed(status)
    }
}

impl Watch {
    async fn run(mut self, outlet: Outlet) {
        let mut stopping = self.shared.stopping.subscribe();
        let deadline = self.deadline;
        let overdue = async move {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let out_of_service = self.shared.out_of_service();
        let end = tokio::select! {
            end = self.steps() => end,
            () = outlet.left() => End::ClientLeft,
            () = overdue => End::Failed(status::watch_deadline()),
            status = out_of_service => End::Failed(status),
            _ = stopping.wait_for(|stopping| *stopping) => End::Failed(status::stopping()),
        };
        match end {
            End::Done | End::ClientLeft => outlet.end(None),
            End::Failed(status) => outlet.end(Some(status)),
        }
    }

    async fn steps(&mut self) -> End {
        match self.begin().await {
            Ok(()) => {}
            Err(status) => return End::Failed(status),
        }
        let mut next = Next { cause: Cause::Start, unchanged: None };
        loop {
            next = match self.round(next).await {
                Ok(next) => next,
                Err(end) => return end,
            };
        }
    }

    /// Waits until this node may show its state.
    async fn begin(&self) -> Result<(), Status> {
        let deadline = self.deadline.unwrap_or_else(|| Instant::now() + super::wire::DEADLINE_DEFAULT);
        self.shared.ready(deadline).await?;
        match self.method.consistency(&self.request) {
            Consistency::Linearizable => self.shared.read_barrier(deadline).await,
            Consistency::Local => Ok(()),
        }
    }

    /// Runs one step, sends its replies, and waits for the next step.
    async fn round(&mut self, next: Next) -> Result<Next, End> {
        self.sender.taken().await?;
        let Watched { index, time_ms, stepped, reads } = self.step_for(next).await?;
        let step = match stepped {
            Stepped::Step(step) => step,
            Stepped::Refused(refusal) => return Err(status::watch_refused(refusal, index).into()),
            Stepped::Failed(failure) => return Err(status::watch_failed(&failure, index).into()),
        };
        let again = self.again.after(&step, index);
        let Step { replies, memo, wake_at_index, wake_after_ms, done } = step;
        for reply in replies {
            self.sender.send(reply).await?;
        }
        if done {
            return Err(End::Done);
        }
        self.memo = memo;
        let changed = self.shared.parts.machine.changed(index, reads);
        let wakes = Wakes { again, at_index: wake_at_index, time_ms, after_ms: wake_after_ms };
        Ok(self.wait(changed, wakes).await)
    }

    /// Runs the next step. A change may come between the event that woke the stream and the moment
    /// when its step reads the state. If that happens to a step with the cause `wake`, the step
    /// runs again with the change as its cause. So a guest that gets `wake` may rely on what it
    /// read before.
    async fn step_for(&self, next: Next) -> Result<Watched, Status> {
        let watched = self.step(next.cause).await?;
        let Some(mut unchanged) = next.unchanged else { return Ok(watched) };
        // After this wait, all changes up to the state that the step read have been reported.
        self.shared.parts.machine.wait_applied(watched.index).await;
        match (&mut unchanged).now_or_never() {
            Some(change) => self.step(change.into()).await,
            None => Ok(watched),
        }
    }

    async fn step(&self, cause: Cause) -> Result<Watched, Status> {
        loop {
            let call = WatchCall {
                method: self.method.name.to_string(),
                request: self.request.clone(),
                caller: String::new(),
                cause,
                memo: self.memo.clone(),
            };
            match self.shared.parts.machine.watch_step(call).await {
                Ok(watched) => {
                    self.shared.metrics.watch_stepped();
                    return Ok(watched);
                }
                Err(QueryError::Busy) => tokio::time::sleep(BUSY_PAUSE).await,
                Err(error) => return Err(status::query(&error)),
            }
        }
    }

    async fn wait(&self, mut changed: Changed, wakes: Wakes) -> Next {
        tokio::select! {
            // A change takes precedence over a wake, because it tells the guest more.
            biased;
            change = &mut changed => return Next { cause: change.into(), unchanged: None },
            () = self.wait_index(wakes) => {}
            () = self.wait_time(wakes) => {}
        }
        Next { cause: Cause::Wake, unchanged: Some(changed) }
    }

    async fn wait_index(&self, wakes: Wakes) {
        match (wakes.again, wakes.at_index) {
            (Some(Duration::ZERO), _) => {}
            (Some(pause), _) => self.hold_back(pause).await,
            (None, 0) => std::future::pending().await,
            (None, index) => self.shared.parts.machine.wait_applied(index).await,
        }
    }

    /// Delays a watch that runs again and again for nothing. So it costs the other watches little.
    async fn hold_back(&self, pause: Duration) {
        self.shared.metrics.watch_held_back();
        if let Some(left_out) = self.shared.silent_watches.due() {
            let method = &self.method.name;
            tracing::warn!(%method, left_out, "a watch runs again and again and sends nothing; its steps are held back");
        }
        tokio::time::sleep(pause).await;
    }

    /// Waits until `after_ms` has passed, on this node's clock and in log time. Log time stands
    /// still while no client sends commands, so this advances it. Without a leader the watch goes
    /// on at the old log time.
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

/// Why the next step runs.
struct Next {
    cause: Cause,
    /// For a wake: reports a change that comes before the step reads the state.
    unchanged: Option<Changed>,
}

/// When a watch runs again although nothing that it read has changed.
#[derive(Clone, Copy)]
struct Wakes {
    /// Pause before the next step, when the index that the last step asked for is already reached.
    again: Option<Duration>,
    /// Index at which the watch runs again. 0 for never.
    at_index: u64,
    /// Log time of the last step.
    time_ms: u64,
    /// Time after `time_ms` at which the watch runs again. 0 for never.
    after_ms: u32,
}

impl From<Change> for Cause {
    fn from(change: Change) -> Cause {
        match change {
            Change::Touched => Cause::Change,
            Change::Reset => Cause::Reset,
        }
    }
}
