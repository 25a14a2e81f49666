//! Where the threads of machines come from. A process hands the same executor to all its machines.
//! It knows nothing of what they run.

use std::io;
use std::sync::Arc;

use crate::guest::CALLER_STACK_BYTES;

type Start = dyn Fn(&'static str, Box<dyn FnOnce() + Send>) -> io::Result<()> + Send + Sync;

/// Runs work that lasts as long as its machine. Cheap to clone.
#[derive(Clone)]
pub struct Executor(Arc<Start>);

impl Executor {
    /// Creates an executor. `start` begins a piece of work, which may block and calls guests, and
    /// returns at once; the text names the work.
    pub fn new(
        start: impl Fn(&'static str, Box<dyn FnOnce() + Send>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Executor(Arc::new(start))
    }

    /// Starts a piece of work.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(&self, name: &'static str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        (self.0)(name, Box::new(work))
    }
}

/// Gives each piece of work a thread of its own.
impl Default for Executor {
    fn default() -> Executor {
        Executor::new(|name, work| {
            let thread = std::thread::Builder::new().name(name.into()).stack_size(CALLER_STACK_BYTES);
            thread.spawn(work).map(drop)
        })
    }
}
