//! The threads that run queries and steps of watches, and the instance that each thread keeps
//! between them. Queries have a few threads of their own, so that a flood of them is refused here
//! and does not slow down apply. Queries and steps take turns. This module reads no state.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::QueryError;
use crate::guest::{CALLER_STACK_BYTES, Component, HostFault, QueryInstance};
use crate::machine::MachineError;
use crate::threads;

/// A thread that was idle for this long drops its instance, and its reference to the component,
/// which may be the last one.
const KEPT_IDLE: Duration = Duration::from_secs(5);

/// The instance that a thread keeps from query to query. Guests must treat an instance's memory as
/// scratch, so earlier calls make no difference to a guest that obeys the contract. Making a fresh
/// instance costs more than most queries.
#[derive(Default)]
pub(crate) struct Kept(Option<QueryInstance>);

impl Kept {
    /// Runs `call` in the kept instance or in a fresh one. If a call in a used instance fails, it
    /// runs once more in a fresh instance, unless `deadline` has passed: a failure in a used
    /// instance may be caused by earlier calls, one in a fresh instance is the call's own. Returns
    /// `None` when all instances that the pool has for queries are in use.
    pub(crate) fn serve<T>(
        &mut self,
        component: &Component,
        deadline: Option<Instant>,
        mut call: impl FnMut(&mut QueryInstance) -> Result<T, HostFault>,
    ) -> Result<Option<T>, HostFault> {
        if let Some(mut instance) = self.0.take().filter(|instance| instance.is_of(component)) {
            let answer = call(&mut instance)?;
            let is_final = instance.usable() || deadline.is_some_and(|deadline| Instant::now() >= deadline);
            self.keep(instance);
            if is_final {
                return Ok(Some(answer));
            }
        }
        let Some(mut instance) = QueryInstance::new(component)? else { return Ok(None) };
        let answer = call(&mut instance)?;
        self.keep(instance);
        Ok(Some(answer))
    }

    fn keep(&mut self, mut instance: QueryInstance) {
        self.0 = instance.is_fresh_enough().then_some(instance);
    }
}

type Work = Box<dyn FnOnce(&mut Kept) + Send>;

/// The threads that serve queries and steps of watches. Cheap to clone. The threads end when the
/// last clone is dropped.
#[derive(Clone)]
pub struct Pool(Arc<Ends>);

/// The queues that [`Pool`] and its threads share.
struct Queues {
    waiting: Mutex<Waiting>,
    more: Condvar,
    queue_max: usize,
}

#[derive(Default)]
struct Waiting {
    queries: VecDeque<Work>,
    steps: VecDeque<Work>,
    /// The queue that was not served last goes first, so that neither starves the other.
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

/// Ends the threads when it is dropped.
struct Ends(Arc<Queues>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.waiting.lock().closed = true;
        self.0.more.notify_all();
    }
}

/// The queue that a call waits in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum WorkKind {
    Queries,
    Steps,
}

impl Pool {
    /// Starts the threads. Each queue holds at most `queue_max` calls; more are refused.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(threads: usize, queue_max: usize) -> Result<Pool, MachineError> {
        let queues = Arc::new(Queues { waiting: Mutex::default(), more: Condvar::new(), queue_max });
        // If an error returns early, dropping this value ends the threads that have started.
        let pool = Pool(Arc::new(Ends(queues.clone())));
        for number in 0..threads.max(1) {
            let queues = queues.clone();
            std::thread::Builder::new()
                .name(format!("query-{number}"))
                .stack_size(CALLER_STACK_BYTES)
                .spawn(move || serve(&queues))
                .map_err(|source| MachineError::Thread { name: "query", source })?;
        }
        Ok(pool)
    }

    /// Runs `work` on one of the threads, with the instance that the thread keeps.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        kind: WorkKind,
        work: impl FnOnce(&mut Kept) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, QueryError> {
        let (done, answer) = oneshot::channel();
        let work: Work = Box::new(move |kept| {
            // The work is not begun if the client has gone.
            if !done.is_closed() {
                let _gone = done.send(work(kept));
            }
        });
        {
            let queues = &self.0.0;
            let mut waiting = queues.waiting.lock();
            let queue = match kind {
                WorkKind::Queries => &mut waiting.queries,
                WorkKind::Steps => &mut waiting.steps,
            };
            if queue.len() >= queues.queue_max {
                return Err(QueryError::Busy);
            }
            queue.push_back(work);
            queues.more.notify_one();
        }
        answer.await.unwrap_or_else(|_| Err(QueryError::Fault("a query thread ended; its panic is in the log".into())))
    }
}

fn serve(queues: &Queues) {
    // A flood of queries must leave commands their time.
    threads::give_way();
    let mut kept = Kept::default();
    while let Some(work) = queues.wait(&mut kept) {
        // A panic of the host's code in one query must not cost the node a query thread. The
        // instance is not used again.
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&mut kept))).is_err() {
            kept = Kept::default();
            tracing::error!("a query panicked");
        }
    }
}

impl Queues {
    /// Waits for the next work; returns `None` when there will be no more. Drops the kept instance
    /// when no work comes for a while.
    fn wait(&self, kept: &mut Kept) -> Option<Work> {
        let mut waiting = self.waiting.lock();
        loop {
            if let Some(work) = waiting.next() {
                return Some(work);
            }
            if waiting.closed {
                return None;
            }
            if kept.0.is_none() {
                self.more.wait(&mut waiting);
            } else if self.more.wait_for(&mut waiting, KEPT_IDLE).timed_out() {
                // This cleans the instance's memory, so it must not run under the lock.
                parking_lot::MutexGuard::unlocked(&mut waiting, || *kept = Kept::default());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn queries_past_the_queue_are_refused() {
        let pool = Pool::start(1, 1).expect("threads");
        let (release, held) = std::sync::mpsc::channel::<()>();
        let (began, begun) = oneshot::channel();
        let running = tokio::spawn({
            let pool = pool.clone();
            async move {
                pool.run(WorkKind::Queries, move |_| {
                    let _ = began.send(());
                    let _ = held.recv();
                    Ok(())
                })
                .await
            }
        });
        begun.await.expect("the first began");
        let mut queued = Box::pin(pool.run(WorkKind::Queries, |_| Ok(1)));
        assert!(futures::poll!(&mut queued).is_pending());
        assert_eq!(pool.run(WorkKind::Queries, |_| Ok(2)).await, Err(QueryError::Busy));
        release.send(()).expect("the first waits");
        assert_eq!(queued.await, Ok(1));
        assert_eq!(running.await.expect("no panic"), Ok(()));
    }

    #[test]
    fn queries_and_steps_take_turns() {
        let order = Arc::new(Mutex::new(String::new()));
        let note = |what: char| -> Work {
            let order = order.clone();
            Box::new(move |_| order.lock().push(what))
        };
        let mut waiting = Waiting::default();
        waiting.steps.extend((0..4).map(|_| note('s')));
        waiting.queries.extend((0..2).map(|_| note('q')));
        while let Some(work) = waiting.next() {
            work(&mut Kept::default());
        }
        assert_eq!(*order.lock(), "qsqsss");
    }
}
