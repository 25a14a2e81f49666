//! Queries and steps of watches. Each gets a view of the newest state and an instance that cannot
//! write; for watches, the reads are recorded. `query/threads.rs` decides on which thread and in
//! which instance they run, and `query/turns.rs` in which order; `query/sample.rs` keeps some of
//! the queries. This module never writes.

pub(crate) mod sample;
mod threads;
mod turns;

use std::any::Any;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use bytes::Bytes;

use super::changes::ReadSet;
use super::overlay::{Pager, fault};
use super::shared::Shared;
use super::system::System;
use crate::guest::{
    Call, Cause, Component, Context, Failure, HostFault, Page, Range, Reason, Rows, StatusSource, Stepped, StoreFault,
    Verdict,
};
use crate::logs::Foreign;
use crate::source::Party;
use crate::store::{Column, Read, StoreError, View};
use crate::types::{Fatal, NodeMode};
pub(crate) use threads::Kept;
pub use threads::Pool;
use threads::WorkKind;

/// A query.
pub struct QueryCall {
    /// The method, as `package.Service/Method`.
    pub method: String,
    /// The encoded request.
    pub request: Bytes,
    /// The authenticated client; empty if there is none.
    pub caller: String,
    /// Who takes turns with other clients.
    pub party: Party,
    /// The query is not begun after this time.
    pub deadline: Instant,
    /// Produces the answer to `node.status`.
    pub status: StatusSource,
}

/// An answered query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Index of the last entry in the state that was read.
    pub index: u64,
    /// A reply, refusal or failure.
    pub verdict: Verdict,
}

/// A step of a watch.
pub struct WatchCall {
    /// The method, as `package.Service/Method`.
    pub method: String,
    /// The encoded request of the stream.
    pub request: Bytes,
    /// The authenticated client; empty if there is none.
    pub caller: String,
    /// Who takes turns with other clients.
    pub party: Party,
    /// Why the step runs.
    pub cause: Cause,
    /// The memo that the last step returned; empty for the first step.
    pub memo: Bytes,
}

/// The result of a step of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Index of the last entry in the state that was read. The next change comes after this index.
    pub index: u64,
    /// Log time of that entry, in milliseconds since 1970.
    pub time_ms: u64,
    /// What to send, or how the watch ended.
    pub stepped: Stepped,
    /// The keys and ranges that the step depends on.
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
    /// This node failed to run the query.
    #[error("this node failed: {0}")]
    Fault(String),
}

impl From<HostFault> for QueryError {
    fn from(fault: HostFault) -> Self {
        QueryError::Fault(fault.to_string())
    }
}

pub(crate) async fn query(shared: &Arc<Shared>, pool: &Pool, call: QueryCall) -> Result<Answer, QueryError> {
    check_mode(shared)?;
    shared.samples.note(&call.method, &call.request, &call.caller);
    let shared = shared.clone();
    pool.run(WorkKind::Queries, call.party, move |kept| {
        let (component, context, reads) = begin(&shared, false)?;
        if Instant::now() >= call.deadline {
            let failure = Failure { reason: Reason::Deadline, detail: "its deadline passed before it began".into() };
            return Ok(Answer { index: context.index, verdict: Verdict::Failed(failure) });
        }
        let mut store: Option<Box<dyn Rows>> = Some(Box::new(reads));
        let began = Instant::now();
        let answered = kept.serve(&component, Some(call.deadline), |instance| {
            let guest_call = guest_call(&component, context, &call.method, &call.request, &call.caller);
            let given = store.take().expect("each call gives it back");
            let (verdict, back) = instance.query(guest_call, given, call.status.clone());
            store = Some(back);
            verdict
        })?;
        let verdict = answered.ok_or(QueryError::Busy)?;
        note_run(&shared, began);
        match &verdict {
            Verdict::Reply(_) => {}
            Verdict::Refused(_) => note_refusal(&shared),
            Verdict::Failed(failure) => note_failure(&shared, failure),
        }
        Ok(Answer { index: context.index, verdict })
    })
    .await
}

pub(crate) async fn watch_step(shared: &Arc<Shared>, pool: &Pool, call: WatchCall) -> Result<Watched, QueryError> {
    check_mode(shared)?;
    let shared = shared.clone();
    pool.run(WorkKind::Steps, call.party, move |kept| {
        let (component, context, reads) = begin(&shared, true)?;
        let mut store = Some(Box::new(reads));
        let began = Instant::now();
        let answered = kept.serve(&component, None, |instance| {
            let guest_call = guest_call(&component, context, &call.method, &call.request, &call.caller);
            // The reads of a first run whose result is discarded must not count.
            let given = store.take().expect("each call gives it back").anew();
            let (stepped, back) = instance.watch(guest_call, call.cause, &call.memo, given);
            store = Some(back.into_any().downcast::<Reads>().expect("the store that was given comes back"));
            stepped
        })?;
        let stepped = answered.ok_or(QueryError::Busy)?;
        note_run(&shared, began);
        match &stepped {
            Stepped::Step(_) => {}
            Stepped::Refused(_) => note_refusal(&shared),
            Stepped::Failed(failure) => note_failure(&shared, failure),
        }
        let reads = store.expect("each call gives it back").recorded.unwrap_or_default();
        Ok(Watched { index: context.index, time_ms: context.time_ms, stepped, reads })
    })
    .await
}

/// Counts a call that the guest has run since `began`.
fn note_run(shared: &Shared, began: Instant) {
    let elapsed_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    shared.counts.queries_run.fetch_add(1, Relaxed);
    shared.counts.queries_run_us.fetch_add(elapsed_us, Relaxed);
}

/// Counts a refusal. Refusals are ordinary, so none is logged.
fn note_refusal(shared: &Shared) {
    shared.counts.queries_refused.fetch_add(1, Relaxed);
}

/// Counts a failure and logs some of them. A client can cause any number of failures, so the number
/// of log lines is limited.
fn note_failure(shared: &Shared, failure: &Failure) {
    shared.counts.queries_failed.fetch_add(1, Relaxed);
    if let Some(left_out) = shared.query_failures.due() {
        tracing::warn!(reason = ?failure.reason, detail = %Foreign(&failure.detail), left_out, "a query failed");
    }
}

/// Checks that this node may answer.
fn check_mode(shared: &Shared) -> Result<(), QueryError> {
    match &*shared.mode.borrow() {
        NodeMode::Serving => Ok(()),
        NodeMode::Removed(why) => Err(QueryError::Removed(why.clone())),
        NodeMode::CatchingUp(why) | NodeMode::Quarantined(why) | NodeMode::Disputed(why) | NodeMode::Unfit(why) => {
            Err(QueryError::NotReady(why.clone()))
        }
    }
}

/// Takes a view of the state together with the component that it belongs to. Returns both, and the
/// position of the state as a context.
fn begin(shared: &Shared, records: bool) -> Result<(Component, Context, Reads), QueryError> {
    let taken = shared.components.with(|component| Some((component?.clone(), shared.state.current().view())));
    let (component, view) = taken.ok_or_else(|| QueryError::NotReady("this node has no component yet".into()))?;
    let reads = Reads { view, recorded: records.then(ReadSet::default), fatal: shared.fatal.clone() };
    let (index, time_ms) =
        System::read_position(&reads.view).map_err(|error| QueryError::Fault(reads.broken(error).0))?;
    Ok((component, Context { index, position: 0, time_ms }, reads))
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

/// A view that cannot be written. It records reads when `recorded` is set.
pub(crate) struct Reads {
    pub(crate) view: View,
    pub(crate) recorded: Option<ReadSet>,
    fatal: Fatal,
}

impl Reads {
    /// Returns the same view, with an empty record of reads.
    fn anew(mut self: Box<Self>) -> Box<Self> {
        self.recorded = self.recorded.map(|_| ReadSet::default());
        self
    }

    /// Raises a fatal fault, because a state that cannot be read ends this node. The other nodes
    /// have the state, and clients find them.
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

impl Rows for Reads {
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

/// Returns the part of the range that the scan read. If rows were left out, it ends at the last row
/// returned.
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
}
