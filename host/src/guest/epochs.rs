//! The epochs of an engine: the clock behind the deadlines of queries. Commands are never
//! interrupted by it. A thread advances it only while a call with a deadline runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

/// Length of an epoch in milliseconds: the precision of a query's deadline.
const EPOCH_MS: u64 = 10;

/// Returns the number of epochs after which `time` is over. One is added, because the current epoch
/// is partly over.
pub(super) fn epochs(time: Duration) -> u64 {
    (time.as_millis() as u64).div_ceil(EPOCH_MS) + 1
}

/// The clock of one engine. Dropping it ends its thread.
pub(super) struct Ticker {
    epochs: Arc<Epochs>,
    thread: Thread,
}

impl Ticker {
    /// Starts the thread. It sleeps until a call with a deadline runs.
    pub(super) fn start(engine: wasmtime::EngineWeak) -> std::io::Result<Ticker> {
        let epochs = Arc::new(Epochs::default());
        let thread = tick(engine, epochs.clone())?;
        Ok(Ticker { epochs, thread })
    }

    /// Has the epochs advance while the returned value lives.
    pub(super) fn run(&self) -> Deadline {
        if self.epochs.running.fetch_add(1, Ordering::AcqRel) == 0 {
            self.thread.unpark();
        }
        Deadline(self.epochs.clone())
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.epochs.stopped.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// While this value lives, a call with a deadline is running.
pub(super) struct Deadline(Arc<Epochs>);

impl Drop for Deadline {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

#[derive(Default)]
struct Epochs {
    running: AtomicUsize,
    stopped: AtomicBool,
}

/// Starts the thread that advances the epoch while a call with a deadline runs. Otherwise the
/// thread sleeps, so that an idle node uses no processor time.
fn tick(engine: wasmtime::EngineWeak, clock: Arc<Epochs>) -> std::io::Result<Thread> {
    let run = move || {
        while !clock.stopped.load(Ordering::Acquire) {
            if clock.running.load(Ordering::Acquire) == 0 {
                thread::park();
                continue;
            }
            thread::sleep(Duration::from_millis(EPOCH_MS));
            if let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
            }
        }
    };
    let handle = thread::Builder::new().name("guest-epochs".to_owned()).spawn(run)?;
    Ok(handle.thread().clone())
}
