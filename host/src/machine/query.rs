//! Queries and steps of watches: a view of the newest state, an instance that cannot write, and for watches what was read. A few
//! threads of its own, so that a flood of queries is refused here and does not starve apply; queries and steps take turns. Never writes.

use std::any::Any;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::MachineError;
use super::changes::ReadSet;
use super::overlay::{Pager, fault};
use super::shared::Shared;
use super::system::System;
use crate::guest::{
    CALLER_STACK_BYTES, Call, Cause, Component, Context, Failure, HostFault, NodeStatus, Page, QueryInstance, Range,
    Reason, Stepped, Store, StoreFault, Verdict,
};
use crate::logs::Foreign;
use crate::store::{Column, Read, StoreError, View};
use crate::types::{Fatal, NodeMode};

/// A query.
pub struct QueryCall {
    /// `package.Service/Method`.
    pub method: String,
    /// The encoded request.
    pub request: Bytes,
    /// The authenticated client; empty for none.
    pub caller: String,
    /// Not begun after this.
    pub deadline: Instant,
    /// Answers `node.status`.
    pub status: NodeStatus,
}

/// An answered query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The last index that the state it read holds.
    pub index: u64,
    /// Reply, refusal or failure.
    pub verdict: Verdict,
}

/// A step of a watch.
pub struct WatchCall {
    /// `package.Service/Method`.
    pub method: String,
    /// The encoded request of the stream.
    pub request: Bytes,
    /// The authenticated client; empty for none.
    pub caller: String,
    /// Why it runs.
    pub cause: Cause,
    /// What the last step handed on; empty for the first.
    pub memo: Bytes,
}

/// A step that has run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// The last index that the state it read holds: the next change is one after this.
    pub index: u64,
    /// Log time there, milliseconds since 1970.
    pub time_ms: u64,
    /// What to send, or how it ended.
    pub stepped: Stepped,
    /// What it depends on.
    pub reads: ReadSet,
}

/// Why a query was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// This node may not answer now; the text says why.
    #[error("not ready: {0}")]
    NotReady(String),
    /// The cluster has removed this node; the text says when, and what to do.
    #[error("{0}")]
    Removed(String),
    /// More queries wait than are allowed.
    #[error("too many queries wait on this node; try again, or ask another node")]
    Busy,
    /// This node failed at it.
    #[error("this node failed: {0}")]
    Fault(String),
}

impl From<HostFault> for QueryError {
    fn from(fault: HostFault) -> Self {
        QueryError::Fault(fault.to_string())
    }
}

type Work = Box<dyn FnOnce() + Send>;

/// The threads that serve queries and steps of watches. Cheap to clone; they end when the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Ends>);

/// What [`Pool`] and its threads share.
struct Lanes {
    waiting: Mutex<Waiting>,
    more: Condvar,
    queue_max: usize,
}

#[derive(Default)]
struct Waiting {
    queries: VecDeque<Work>,
    steps: VecDeque<Work>,
    /// The lane that was not served last goes first, so that neither starves the other.
    steps_first: bool,
    closed: bool,
}

impl Waiting {
    fn next(&mut self) -> Option<Work> {
        let (first, second) = match self.steps_first {
            true => (&mut self.steps, &mut self.queries),
            false => (&mut self.queries, &mut self.steps),
        };
        if let Some(work) = first.pop_front() {
            self.steps_first = !self.steps_first;
            return Some(work);
        }
        second.pop_front()
    }
}

/// Tells the threads to end.
struct Ends(Arc<Lanes>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.waiting.lock().closed = true;
        self.0.more.notify_all();
    }
}

/// Who waits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lane {
    Queries,
    Steps,
}

impl Pool {
    /// Of each kind at most `queue_max` wait.
    pub(crate) fn start(threads: usize, queue_max: usize) -> Result<Pool, MachineError> {
        let lanes = Arc::new(Lanes { waiting: Mutex::default(), more: Condvar::new(), queue_max });
        // Dropped on an error, it ends those that have begun.
        let pool = Pool(Arc::new(Ends(lanes.clone())));
        for number in 0..threads.max(1) {
            let lanes = lanes.clone();
            std::thread::Builder::new()
                .name(format!("query-{number}"))
                .stack_size(CALLER_STACK_BYTES)
                .spawn(move || serve(&lanes))
                .map_err(|source| MachineError::Thread { name: "query", source })?;
        }
        Ok(pool)
    }

    async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce() -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        let (done, answer) = oneshot::channel();
        let work: Work = Box::new(move || {
            // Not begun for a client that has gone.
            if !done.is_closed() {
                let _gone = done.send(work());
            }
        });
        {
            let lanes = &self.0.0;
            let mut waiting = lanes.waiting.lock();
            let queue = match lane {
                Lane::Queries => &mut waiting.queries,
                Lane::Steps => &mut waiting.steps,
            };
            if queue.len() >= lanes.queue_max {
                return Err(QueryError::Busy);
            }
            queue.push_back(work);
            lanes.more.notify_one();
        }
        answer.await.unwrap_or_else(|_| Err(QueryError::Fault("a query thread ended; its panic is in the log".into())))
    }
}

fn serve(lanes: &Lanes) {
    loop {
        let mut waiting = lanes.waiting.lock();
        let work = loop {
            match waiting.next() {
                Some(work) => break work,
                None if waiting.closed => return,
                None => lanes.more.wait(&mut waiting),
            }
        };
        drop(waiting);
        // A panic of ours in one query must not cost the node its query threads.
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err() {
            tracing::error!("a query panicked");
        }
    }
}

pub(crate) async fn query(shared: &Arc<Shared>, pool: &Pool, call: QueryCall) -> Result<Answer, QueryError> {
    let (component, shared) = (ready(shared)?, shared.clone());
    pool.run(Lane::Queries, move || {
        let (context, reads) = begin(&shared, None)?;
        if Instant::now() >= call.deadline {
            let failure = Failure { reason: Reason::Deadline, detail: "its deadline passed before it began".into() };
            return Ok(Answer { index: context.index, verdict: Verdict::Failed(failure) });
        }
        let mut instance = QueryInstance::new(&component)?.ok_or(QueryError::Busy)?;
        let guest_call = guest_call(&component, context, &call.method, &call.request, &call.caller);
        let (verdict, _) = instance.query(guest_call, Box::new(reads), call.status);
        let verdict = verdict?;
        if let Verdict::Failed(failure) = &verdict {
            note_failure(&shared, failure);
        }
        Ok(Answer { index: context.index, verdict })
    })
    .await
}

pub(crate) async fn watch_step(shared: &Arc<Shared>, pool: &Pool, call: WatchCall) -> Result<Watched, QueryError> {
    let (component, shared) = (ready(shared)?, shared.clone());
    pool.run(Lane::Steps, move || {
        let (context, reads) = begin(&shared, Some(ReadSet::default()))?;
        let mut instance = QueryInstance::new(&component)?.ok_or(QueryError::Busy)?;
        let guest_call = guest_call(&component, context, &call.method, &call.request, &call.caller);
        let (stepped, store) = instance.watch(guest_call, call.cause, &call.memo, Box::new(reads));
        let reads = store.into_any().downcast::<Reads>().expect("the store that was given comes back");
        let stepped = stepped?;
        if let Stepped::Failed(failure) = &stepped {
            note_failure(&shared, failure);
        }
        Ok(Watched {
            index: context.index,
            time_ms: context.time_ms,
            stepped,
            reads: reads.recorded.unwrap_or_default(),
        })
    })
    .await
}

/// A client can have as many of these as it likes, so the log gets some of them.
fn note_failure(shared: &Shared, failure: &Failure) {
    shared.counts.queries_failed.fetch_add(1, Relaxed);
    if let Some(left_out) = shared.query_failures.due() {
        tracing::warn!(reason = ?failure.reason, detail = %Foreign(&failure.detail), left_out, "a query failed");
    }
}

/// The component to ask, if this node may answer.
fn ready(shared: &Shared) -> Result<Component, QueryError> {
    match &*shared.mode.borrow() {
        NodeMode::Serving => {}
        NodeMode::Removed(why) => return Err(QueryError::Removed(why.clone())),
        NodeMode::CatchingUp(why) | NodeMode::Quarantined(why) | NodeMode::Disputed(why) | NodeMode::Unfit(why) => {
            return Err(QueryError::NotReady(why.clone()));
        }
    }
    shared.component().ok_or_else(|| QueryError::NotReady("this node has no component yet".into()))
}

/// Pins the state, and says where it stands.
fn begin(shared: &Shared, recorded: Option<ReadSet>) -> Result<(Context, Reads), QueryError> {
    let view = shared.state.current().view();
    let reads = Reads { view, recorded, fatal: shared.fatal.clone() };
    let (index, time_ms) =
        System::read_position(&reads.view).map_err(|error| QueryError::Fault(reads.broken(error).0))?;
    Ok((Context { index, position: 0, time_ms }, reads))
}

fn guest_call<'a>(
    component: &Component,
    context: Context,
    method: &'a str,
    request: &'a [u8],
    caller: &'a str,
) -> Call<'a> {
    Call { context, method, request, caller, fuel: component.engine().limits().fuel_per_query }
}

/// A view that cannot be written, and remembers what was read when asked to.
pub(crate) struct Reads {
    pub(crate) view: View,
    pub(crate) recorded: Option<ReadSet>,
    fatal: Fatal,
}

impl Reads {
    /// A state that cannot be read ends this node: the others have it, and clients find them.
    fn broken(&self, error: StoreError) -> StoreFault {
        let advice = if error.is_damage() {
            ". If the disk is sound, delete the directories of `state/` of this node: the next start makes it again from the newest snapshot \
             that is whole and the log; should that be refused, remove the node from the cluster and add it again with an empty data \
             directory"
        } else {
            ""
        };
        self.fatal.raise(format!("the state could not be read: {error}{advice}"));
        fault(error)
    }
}

fn read_only<T>() -> Result<T, StoreFault> {
    Err(StoreFault("a write reached a read-only view".into()))
}

impl Store for Reads {
    fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
        if let Some(recorded) = &mut self.recorded {
            recorded.key(key);
        }
        self.view.get(Column::Data, key).map_err(|error| self.broken(error))
    }

    fn scan(&mut self, range: Range<'_>, reverse: bool, limit: u32) -> Result<Page, StoreFault> {
        let mut pager = Pager::new(limit);
        let mut row = |key: &[u8], value: &[u8]| -> ControlFlow<()> { pager.row(key, value) };
        let scanned = self.view.scan(Column::Data, range.start, range.end, reverse, &mut row);
        scanned.map_err(|error| self.broken(error))?;
        if let Some(recorded) = &mut self.recorded {
            let (start, end) = looked_at(range, reverse, &pager);
            recorded.range(start, end);
        }
        Ok(pager.page)
    }

    fn put(&mut self, _: &[u8], _: &[u8]) -> Result<(), StoreFault> {
        read_only()
    }

    fn remove(&mut self, _: &[u8]) -> Result<(), StoreFault> {
        read_only()
    }

    fn remove_range(&mut self, _: Range<'_>, _: u64) -> Result<u64, StoreFault> {
        read_only()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// The part of the range that the rows came from: up to the last of them when some were left out.
fn looked_at(range: Range<'_>, reverse: bool, pager: &Pager) -> (Vec<u8>, Option<Vec<u8>>) {
    let (start, end) = (range.start.to_vec(), range.end.map(<[u8]>::to_vec));
    match pager.last.as_ref().filter(|_| pager.page.more) {
        None => (start, end),
        Some(last) if reverse => (last.clone(), end),
        Some(last) => (start, Some([last.as_slice(), &[0]].concat())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pager(keys: &[&str], limit: u32) -> Pager {
        let mut pager = Pager::new(limit);
        let _stopped = keys.iter().try_for_each(|key| pager.row(key.as_bytes(), b""));
        pager
    }

    #[test]
    fn watches_depend_on_the_part_of_a_range_that_was_looked_at() {
        let range = Range { start: b"a", end: Some(b"z") };
        let whole = (b"a".to_vec(), Some(b"z".to_vec()));
        assert_eq!(looked_at(range, false, &pager(&["b", "c"], 2)), whole);
        assert_eq!(looked_at(range, false, &pager(&["b", "c"], 1)), (b"a".to_vec(), Some(b"b\0".to_vec())));
        assert_eq!(looked_at(range, true, &pager(&["c", "b"], 1)), (b"c".to_vec(), Some(b"z".to_vec())));
        assert_eq!(looked_at(range, false, &pager(&[], 1)), whole);
    }

    #[tokio::test]
    async fn queries_past_the_queue_are_refused() {
        let pool = Pool::start(1, 1).expect("threads");
        let (release, held) = std::sync::mpsc::channel::<()>();
        let (began, begun) = oneshot::channel();
        let running = tokio::spawn({
            let pool = pool.clone();
            async move {
                pool.run(Lane::Queries, move || {
                    let _ = began.send(());
                    let _ = held.recv();
                    Ok(())
                })
                .await
            }
        });
        begun.await.expect("the first began");
        let mut queued = Box::pin(pool.run(Lane::Queries, || Ok(1)));
        assert!(futures::poll!(&mut queued).is_pending());
        assert_eq!(pool.run(Lane::Queries, || Ok(2)).await, Err(QueryError::Busy));
        release.send(()).expect("the first waits");
        assert_eq!(queued.await, Ok(1));
        assert_eq!(running.await.expect("no panic"), Ok(()));
    }

    #[test]
    fn queries_and_steps_take_turns() {
        let order = Arc::new(Mutex::new(String::new()));
        let note = |what: char| -> Work {
            let order = order.clone();
            Box::new(move || order.lock().push(what))
        };
        let mut waiting = Waiting::default();
        waiting.steps.extend((0..4).map(|_| note('s')));
        waiting.queries.extend((0..2).map(|_| note('q')));
        while let Some(work) = waiting.next() {
            work();
        }
        assert_eq!(*order.lock(), "qsqsss");
    }
}
