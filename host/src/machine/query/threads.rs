//! The threads that run queries and steps of watches, and the instance that each thread keeps
//! between them. Queries have a few threads of their own, so that a flood of them is refused here
//! and does not slow down apply. Queries and steps take turns, and so do clients (`turns`). This
//! module reads no state.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::QueryError;
use super::turns::{Running, Turns};
use crate::guest::{CALLER_STACK_BYTES, Component, HostFault, QueryInstance};
use crate::limit::Limit;
use crate::machine::MachineError;
use crate::source::Party;
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
}

struct Waiting {
    queries: Turns<Work>,
    steps: Turns<Work>,
    running: Running,
    /// The queue that was not served last goes first, so that neither starves the other.
    steps_first: bool,
    closed: bool,
}

impl Waiting {
    fn new(threads: usize, queue_max: usize) -> Waiting {
        Waiting {
            queries: Turns::new(queue_max),
            steps: Turns::new(queue_max),
            running: Running::new(threads),
            steps_first: false,
            closed: false,
        }
    }

    /// Adds work. Returns false when its queue has no place for it.
    fn push(&mut self, kind: WorkKind, party: Party, work: Work) -> bool {
        self.running.arrived(party, Instant::now());
        match kind {
            WorkKind::Queries => self.queries.push(party, work),
            WorkKind::Steps => self.steps.push(party, work),
        }
    }

    /// Takes the next work. Its client has one more thread then.
    fn next(&mut self) -> Option<(Party, Work)> {
        let Waiting { queries, steps, running, steps_first, .. } = self;
        let (first, second) = if *steps_first { (steps, queries) } else { (queries, steps) };
        let may_go = |party| running.may_go(party);
        let next = match first.pop(may_go) {
            Some(next) => {
                *steps_first = !*steps_first;
                Some(next)
            }
            None => second.pop(may_go),
        };
        if let Some((party, _)) = &next {
            running.begun(*party);
        }
        next
    }

    fn has_next(&self) -> bool {
        let may_go = |party| self.running.may_go(party);
        self.queries.has_next(may_go) || self.steps.has_next(may_go)
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
    /// Starts the threads. Each queue holds at most `queue_max` calls, and half of that of one
    /// client; more are refused.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(threads: usize, queue_max: usize) -> Result<Pool, MachineError> {
        let threads = threads.max(1);
        let waiting = Mutex::new(Waiting::new(threads, queue_max));
        let queues = Arc::new(Queues { waiting, more: Condvar::new() });
        // If an error returns early, dropping this value ends the threads that have started.
        let pool = Pool(Arc::new(Ends(queues.clone())));
        for number in 0..threads {
            let queues = queues.clone();
            std::thread::Builder::new()
                .name(format!("query-{number}"))
                .stack_size(CALLER_STACK_BYTES)
                .spawn(move || serve(&queues))
                .map_err(|source| MachineError::Thread { name: "query", source })?;
        }
        Ok(pool)
    }

    /// Returns how near the limits of what waits are.
    pub(crate) fn limits(&self) -> [Limit; 4] {
        let waiting = self.0.0.waiting.lock();
        let ((queries, of_one), (max, of_one_max)) = (waiting.queries.waiting(), waiting.queries.max());
        let (steps, steps_of_one) = waiting.steps.waiting();
        [
            Limit::new("waiting_queries", queries, max),
            Limit::new("waiting_queries_of_one_client", of_one, of_one_max),
            Limit::new("waiting_watch_steps", steps, max),
            Limit::new("waiting_watch_steps_of_one_client", steps_of_one, of_one_max),
        ]
    }

    /// Runs `work` of a client on one of the threads, with the instance that the thread keeps.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        kind: WorkKind,
        party: Party,
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
            if !queues.waiting.lock().push(kind, party, work) {
                return Err(QueryError::Busy);
            }
            queues.more.notify_one();
        }
        answer.await.unwrap_or_else(|_| Err(QueryError::Fault("a query thread ended; its panic is in the log".into())))
    }
}

fn serve(queues: &Queues) {
    // A flood of queries must leave commands their time.
    threads::give_way();
    let mut kept = Kept::default();
    let mut ended = None;
    while let Some((party, work)) = queues.wait(&mut kept, ended) {
        // A panic of the host's code in one query must not cost the node a query thread. The
        // instance is not used again.
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&mut kept))).is_err() {
            kept = Kept::default();
            tracing::error!("a query panicked");
        }
        ended = Some(party);
    }
}

impl Queues {
    /// Notes that work of the client `ended` is over, and waits for the next work; returns `None`
    /// when there will be no more. Drops the kept instance when no work comes for a while.
    fn wait(&self, kept: &mut Kept, ended: Option<Party>) -> Option<(Party, Work)> {
        let mut waiting = self.waiting.lock();
        if let Some(party) = ended {
            waiting.running.ended(party);
        }
        loop {
            if let Some(next) = waiting.next() {
                // A thread that found only work of a client that might have no more threads looks
                // again now: the client may be alone meanwhile.
                if waiting.has_next() {
                    self.more.notify_one();
                }
                return Some(next);
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
                pool.run(WorkKind::Queries, Party::default(), move |_| {
                    let _ = began.send(());
                    let _ = held.recv();
                    Ok(())
                })
                .await
            }
        });
        begun.await.expect("the first began");
        let mut queued = Box::pin(pool.run(WorkKind::Queries, Party::default(), |_| Ok(1)));
        assert!(futures::poll!(&mut queued).is_pending());
        assert_eq!(pool.run(WorkKind::Queries, Party::default(), |_| Ok(2)).await, Err(QueryError::Busy));
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
        let mut waiting = Waiting::new(1, 10);
        let party = Party::default();
        assert!((0..4).all(|_| waiting.push(WorkKind::Steps, party, note('s'))));
        assert!((0..2).all(|_| waiting.push(WorkKind::Queries, party, note('q'))));
        while let Some((_, work)) = waiting.next() {
            work(&mut Kept::default());
        }
        assert_eq!(*order.lock(), "qsqsss");
    }

    #[tokio::test]
    async fn a_client_that_fills_its_line_keeps_no_other_out() {
        let pool = Pool::start(1, 64).expect("threads");
        let (flood, other) = (Party::named("flood"), Party::named("other"));
        let (release, held) = std::sync::mpsc::channel::<()>();
        let order = Arc::new(Mutex::new(Vec::new()));
        let ask = |party: Party, what: &'static str| {
            let (pool, order) = (pool.clone(), order.clone());
            let asked = async move {
                let note = move |_: &mut Kept| {
                    order.lock().push(what);
                    Ok(())
                };
                pool.run(WorkKind::Queries, party, note).await
            };
            Box::pin(asked)
        };
        let mut first = Box::pin(pool.run(WorkKind::Queries, flood, move |_| {
            let _ = held.recv();
            Ok(())
        }));
        assert!(futures::poll!(&mut first).is_pending());
        let mut flooding = Vec::new();
        loop {
            let mut asked = ask(flood, "flood");
            match futures::poll!(&mut asked) {
                std::task::Poll::Pending => flooding.push(asked),
                std::task::Poll::Ready(refused) => {
                    assert_eq!(refused, Err(QueryError::Busy));
                    break;
                }
            }
        }
        let mut asked = ask(other, "other");
        assert!(futures::poll!(&mut asked).is_pending(), "there is a place for another client");
        release.send(()).expect("the first waits");
        assert_eq!(asked.await, Ok(()));
        assert!(order.lock().iter().position(|what| *what == "other").is_some_and(|place| place <= 1));
        for asked in flooding {
            assert_eq!(asked.await, Ok(()));
        }
        assert_eq!(first.await, Ok(()));
    }
}
