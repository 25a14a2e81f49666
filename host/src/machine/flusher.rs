//! The thread that flushes the state, so that apply goes on meanwhile. It decides nothing: the
//! apply thread says when to flush, and judges how a flush ended.
//!
//! - At most one flush is under way.
//! - The thread has a state only while it flushes it. It gives the state up before it tells how the
//!   flush ended.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use super::MachineError;
use super::executor::Executor;
use crate::store::{Generation, StoreError};

/// The name of the thread.
pub(super) const NAME: &str = "flush-state";

/// What the apply thread has of the flushing thread. Dropping it waits for the flush that
/// is under way.
pub(super) struct Flusher {
    begin: SyncSender<Arc<Generation>>,
    ends: Receiver<Result<(), StoreError>>,
    /// Whether a flush was begun whose end nobody was told yet.
    is_busy: bool,
}

impl Flusher {
    pub(super) fn start(executor: &Executor) -> Result<Flusher, MachineError> {
        let (begin, generations) = sync_channel(1);
        let (end, ends) = sync_channel(1);
        executor
            .start(NAME, move || run(generations, end))
            .map_err(|source| MachineError::Thread { name: NAME, source })?;
        Ok(Flusher { begin, ends, is_busy: false })
    }

    pub(super) fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// Begins to flush a state. No flush may be under way.
    pub(super) fn begin(&mut self, generation: Arc<Generation>) {
        assert!(!self.is_busy, "one flush is under way at a time");
        self.is_busy = true;
        // A thread that has panicked takes none, and `ends` says so.
        let _panicked = self.begin.send(generation);
    }

    /// Returns how the flush under way ended. `None` if it goes on for at least `wait`, or if there
    /// is none.
    pub(super) fn ended_within(&mut self, wait: Duration) -> Option<Result<(), StoreError>> {
        if !self.is_busy {
            return None;
        }
        let ended = match self.ends.recv_timeout(wait) {
            Ok(flushed) => Some(flushed),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Err(panicked())),
        };
        self.is_busy = ended.is_none();
        ended
    }

    /// Waits until the flush under way has ended, and returns how. `None` if there is none.
    pub(super) fn wait(&mut self) -> Option<Result<(), StoreError>> {
        let was_busy = std::mem::take(&mut self.is_busy);
        was_busy.then(|| self.ends.recv().unwrap_or_else(|_| Err(panicked())))
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.wait() {
            tracing::error!(%error, "the last flush of the state");
        }
    }
}

/// Flushes what it is told to, until there is nobody to tell it.
fn run(generations: Receiver<Arc<Generation>>, end: SyncSender<Result<(), StoreError>>) {
    for generation in generations {
        let flushed = generation.flush();
        drop(generation);
        if end.send(flushed).is_err() {
            return;
        }
    }
}

fn panicked() -> StoreError {
    StoreError::Misuse("the thread that flushes the state has panicked".into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::{DataDir, State};

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn the_end_of_each_flush_is_told_once_and_the_state_is_given_up_before() {
        let root = tempfile::tempdir().unwrap();
        let state = State::open(&DataDir::open(root.path()).unwrap(), 0).unwrap();
        let mut flusher = Flusher::start(&Executor::default()).unwrap();
        assert!(flusher.wait().is_none() && flusher.ended_within(LONG).is_none(), "there is none to wait for");
        let current = state.current();
        let holders = Arc::strong_count(&current);
        for _ in 0..2 {
            flusher.begin(current.clone());
            assert!(flusher.is_busy());
            flusher.ended_within(LONG).unwrap().unwrap();
            assert!(!flusher.is_busy() && flusher.wait().is_none());
            assert_eq!(Arc::strong_count(&current), holders);
        }
        flusher.begin(current.clone());
        drop(flusher);
        assert_eq!(Arc::strong_count(&current), holders, "whoever drops it may open the state again");
    }

    #[test]
    fn a_thread_that_panics_is_an_error_and_nobody_waits_for_it() {
        let root = tempfile::tempdir().unwrap();
        let state = State::open(&DataDir::open(root.path()).unwrap(), 0).unwrap();
        let lost = Executor::new(|_, work| {
            drop(work);
            Ok(())
        });
        let mut flusher = Flusher::start(&lost).unwrap();
        flusher.begin(state.current());
        assert!(flusher.ended_within(LONG).unwrap().unwrap_err().to_string().contains("panicked"));
        flusher.begin(state.current());
        assert!(flusher.wait().unwrap().is_err());
    }
}
