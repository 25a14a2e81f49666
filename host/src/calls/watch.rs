//! Runs one stream of a WATCH method. It runs a guest step, then waits until the data that the step
//! read changed, a time or index that it asked for came, or the client left. It keeps no history: a
//! slow client gets fewer steps, each from the newest state.
//!
//! - The next step runs when the client has taken everything that the last step sent.
//! - A step gets the cause `wake` only when nothing that the last step read has changed.
//! - A stream always says how it ended, whatever happens to this node.
//! - What a watch makes this node hold is counted: its request, its memo, the keys that its last
//!   step read, and replies until the client has taken them. A step waits until there is room.

pub(super) mod places;
pub(super) mod replies;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use lockstep_contract::Consistency;
use tokio::sync::Semaphore;

use super::budget::{Lease, Share, Use};
use super::{Call, CallError, Calls};
use crate::guest::{Cause, Step, Stepped};
use crate::logs::Sparse;
use crate::machine::{Again, Change, Changed, QueryError, ReadSet, WATCHES_QUOTA, WatchCall, Watched};
use places::{Connection, Places, WATCHES_MAX};
use replies::{Left, Outlet, Replies, Sender, WatchEnd};

/// How long a step waits before it asks a busy node again.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// How long a watch that wakes for a time waits for this node to apply the entry that carries the
/// time.
const APPLY_PATIENCE: Duration = Duration::from_secs(3);

/// Bytes that a watch takes beside what it keeps: its task, and the buffers of its stream.
const WATCH_BYTES: u64 = 16 << 10;

/// Bytes for which the first step of a watch waits. Each later one waits for as many as the one
/// before it sent, and runs again when it needs more than that and there is no room.
const FIRST_STEP_BYTES: u64 = 64 << 10;

/// Longest time that a step waits for memory.
const ROOM_PATIENCE: Duration = Duration::from_secs(60);

/// The watches of this node.
#[derive(Default)]
pub(super) struct Watches {
    places: Places,
    steps: AtomicU64,
    held_back: AtomicU64,
    /// Limits the log lines about watches that run again and again and send nothing.
    silent: Sparse,
}

/// The numbers of this node's watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchFigures {
    /// Open watches.
    pub open: u64,
    /// How many may be open at a time.
    pub max: u64,
    /// Those of the client that has most.
    pub open_of_one: u64,
    /// Steps that the guest has run since the process started.
    pub steps: u64,
    /// Steps that waited because those before them ran again and again and sent nothing.
    pub held_back: u64,
}

impl Calls {
    /// Starts a watch on `connection`. It ends when the client leaves, the guest is done, the
    /// deadline passes, or the node stops or may no longer serve.
    pub fn watch(&self, call: Call, connection: &Connection) -> Result<Replies, CallError> {
        let place = self.0.watches.places.take_within(self.watches_quota(), connection, &call.caller);
        let place = place.map_err(CallError::TooManyWatches)?;
        let held = connection.share().lease(Use::Watch, WATCH_BYTES + call.request.len() as u64)?;
        let turns = place.steps();
        let (outlet, replies) = replies::channel(place);
        let watch = Watch {
            calls: self.clone(),
            call,
            sender: outlet.sender(),
            turns,
            memo: Bytes::new(),
            again: Again::default(),
            share: connection.share().clone(),
            held,
            last_step_bytes: FIRST_STEP_BYTES,
        };
        tokio::spawn(watch.run(outlet));
        Ok(replies)
    }

    /// Returns how many watches the cluster lets a node have, if it has set that.
    fn watches_quota(&self) -> Option<u64> {
        self.0.parts.machine.operation().number(WATCHES_QUOTA)
    }

    /// Returns the numbers of the watches.
    pub fn watch_figures(&self) -> WatchFigures {
        let watches = &self.0.watches;
        WatchFigures {
            open: watches.places.taken(),
            max: self.watches_quota().unwrap_or(u64::MAX).min(WATCHES_MAX as u64),
            open_of_one: watches.places.taken_by_one(),
            steps: watches.steps.load(Relaxed),
            held_back: watches.held_back.load(Relaxed),
        }
    }
}

struct Watch {
    calls: Calls,
    call: Call,
    sender: Sender,
    /// The turns of this client's steps.
    turns: Arc<Semaphore>,
    memo: Bytes,
    again: Again,
    share: Share,
    /// What the watch keeps between its steps.
    held: Lease,
    /// Bytes that the last step sent.
    last_step_bytes: u64,
}

/// Why the stream ends.
enum End {
    Done,
    ClientLeft,
    Failed(WatchEnd),
}

impl From<Left> for End {
    fn from(Left: Left) -> End {
        End::ClientLeft
    }
}

impl From<CallError> for End {
    fn from(error: CallError) -> End {
        End::Failed(WatchEnd::Host(error))
    }
}

impl Watch {
    async fn run(mut self, outlet: Outlet) {
        let mut stopping = self.calls.stopping();
        let deadline = self.call.deadline;
        let overdue = async move {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let out_of_service = self.calls.out_of_service();
        let end = tokio::select! {
            end = self.steps() => end,
            () = outlet.left() => End::ClientLeft,
            () = overdue => CallError::WatchDeadline.into(),
            error = out_of_service => error.into(),
            _ = stopping.wait_for(|stopping| *stopping) => CallError::WatchStopping.into(),
        };
        match end {
            End::Done | End::ClientLeft => outlet.end(None),
            End::Failed(end) => outlet.end(Some(end)),
        }
    }

    async fn steps(&mut self) -> End {
        if let Err(error) = self.begin().await {
            return error.into();
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
    async fn begin(&self) -> Result<(), CallError> {
        let deadline = self.call.deadline();
        match self.calls.ready_to_read(&self.call, deadline).await? {
            Consistency::Linearizable => self.calls.read_barrier(deadline).await,
            Consistency::Local => Ok(()),
        }
    }

    /// Runs one step, sends its replies, and waits for the next step.
    async fn round(&mut self, next: Next) -> Result<Next, End> {
        self.sender.taken().await?;
        let (watched, room) = self.step_with_room(next).await?;
        let Watched { index, time_ms, stepped, reads } = watched;
        let step = match stepped {
            Stepped::Step(step) => step,
            Stepped::Refused(refusal) => return Err(End::Failed(WatchEnd::Refused { refusal, index })),
            Stepped::Failed(failure) => return Err(End::Failed(WatchEnd::Failed { failure, index })),
        };
        let again = self.again.after(&step, index);
        let Step { replies, memo, wake_at_index, wake_after_ms, done } = step;
        for reply in held_replies(replies, room) {
            self.sender.send(reply).await?;
        }
        if done {
            return Err(End::Done);
        }
        self.memo = memo;
        let reads = self.keep(reads);
        let changed = self.calls.0.parts.machine.changed(index, reads);
        let wakes = Wakes { again, at_index: wake_at_index, time_ms, after_ms: wake_after_ms };
        Ok(self.wait(changed, wakes).await)
    }

    /// Runs the next step, and returns it with room for its replies. How large they are shows only
    /// afterwards. When there is no room for them, they are dropped and the step runs again once
    /// there is: a step only reads.
    async fn step_with_room(&mut self, mut next: Next) -> Result<(Watched, Lease), End> {
        // Each later step waits for as many bytes as the last one had, but for no more than can be
        // expected to be free.
        let mut room = self.room(self.last_step_bytes.min(self.calls.budget().watch_max())).await?;
        loop {
            let watched = self.step_for(&mut next).await?;
            let bytes = reply_bytes(&watched.stepped);
            self.last_step_bytes = bytes;
            if room.grow(bytes.saturating_sub(room.bytes())).is_ok() {
                return Ok((watched, room));
            }
            drop((watched, room));
            let most = self.calls.budget().connection_max().saturating_sub(self.held.bytes());
            if bytes > most {
                return Err(CallError::WatchStepTooLarge { bytes, most }.into());
            }
            room = self.room(bytes).await?;
        }
    }

    /// Waits until there is room for that many bytes of replies.
    async fn room(&self, bytes: u64) -> Result<Lease, End> {
        let room = self.share.when_room(Use::Watch, bytes, ROOM_PATIENCE).await;
        room.ok_or_else(|| CallError::WatchStarved { waited: ROOM_PATIENCE }.into())
    }

    /// Counts what the watch keeps until its next step. When there is no room for the keys that the
    /// step read, the watch depends on all keys instead.
    fn keep(&mut self, reads: ReadSet) -> ReadSet {
        let own = WATCH_BYTES + (self.call.request.len() + self.memo.len()) as u64;
        if self.held.set(own + reads.bytes_held()).is_ok() {
            return reads;
        }
        self.held.grow_by_force(own.saturating_sub(self.held.bytes()));
        drop(self.held.split(self.held.bytes() - own));
        ReadSet::everything()
    }

    /// Runs the next step. A change may come between the event that woke the stream and the moment
    /// when its step reads the state. If that happens to a step with the cause `wake`, the step
    /// runs again with the change as its cause. So a guest that gets `wake` may rely on what it
    /// read before.
    async fn step_for(&self, next: &mut Next) -> Result<Watched, CallError> {
        let watched = self.step(next.cause).await?;
        let Some(unchanged) = &mut next.unchanged else { return Ok(watched) };
        // After this wait, all changes up to the state that the step read have been reported.
        self.calls.0.parts.machine.wait_applied(watched.index).await;
        match unchanged.now_or_never() {
            Some(change) => {
                *next = Next { cause: change.into(), unchanged: None };
                self.step(next.cause).await
            }
            None => Ok(watched),
        }
    }

    async fn step(&self, cause: Cause) -> Result<Watched, CallError> {
        loop {
            let call = WatchCall {
                method: self.call.method.name.to_string(),
                request: self.call.request.clone(),
                caller: self.call.caller.clone(),
                party: self.share.party(&self.call.caller),
                cause,
                memo: self.memo.clone(),
            };
            let turn = self.turns.acquire().await.expect("the turns are never closed");
            let stepped = self.calls.0.parts.machine.watch_step(call).await;
            drop(turn);
            match stepped {
                Ok(watched) => {
                    self.calls.0.watches.steps.fetch_add(1, Relaxed);
                    return Ok(watched);
                }
                Err(QueryError::Busy) => tokio::time::sleep(BUSY_PAUSE).await,
                Err(error) => return Err(error.into()),
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
            (None, index) => self.calls.0.parts.machine.wait_applied(index).await,
        }
    }

    /// Delays a watch that runs again and again for nothing. So it costs the other watches little.
    async fn hold_back(&self, pause: Duration) {
        self.calls.0.watches.held_back.fetch_add(1, Relaxed);
        if let Some(left_out) = self.calls.0.watches.silent.due() {
            let method = &self.call.method.name;
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
        match self.calls.0.parts.clock.pass(wakes.time_ms.saturating_add(wakes.after_ms.into())).await {
            Ok(passed) => {
                let applied = self.calls.0.parts.machine.wait_applied(passed);
                drop(tokio::time::timeout(APPLY_PATIENCE, applied).await);
            }
            Err(error) => {
                tracing::debug!(%error, method = %self.call.method.name, "a watch wakes without log time having passed")
            }
        }
    }
}

/// Returns the bytes of the replies of a step.
fn reply_bytes(stepped: &Stepped) -> u64 {
    match stepped {
        Stepped::Step(step) => step.replies.iter().map(|reply| reply.len() as u64).sum(),
        Stepped::Refused(_) | Stepped::Failed(_) => 0,
    }
}

/// Counts each reply of a step until it is written. `room` has room for all.
fn held_replies(replies: Vec<Bytes>, mut room: Lease) -> impl Iterator<Item = Bytes> {
    replies.into_iter().map(move |reply| room.split(reply.len() as u64).tied_to(reply))
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
