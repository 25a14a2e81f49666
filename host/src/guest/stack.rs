//! A thread for work that calls guests, where the caller's own stack may be too small. It knows no
//! guest.

use std::io;
use std::panic::resume_unwind;
use std::thread;

use super::limits::CALLER_STACK_BYTES;

/// Runs `work` on a thread whose stack is large enough to call guests, and waits for it. A panic
/// there goes on here.
///
/// # Errors
/// The system gives no thread.
pub fn on_guest_stack<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name(name.to_owned()).stack_size(CALLER_STACK_BYTES);
        let running = thread.spawn_scoped(scope, work)?;
        Ok(running.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_runs_on_a_named_thread_and_gives_its_value_back() {
        let name = on_guest_stack("deep", || thread::current().name().map(str::to_owned));
        assert_eq!(name.ok().flatten().as_deref(), Some("deep"));
    }
}
