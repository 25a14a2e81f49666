//! The `lockstep` binary: hands the command line to `cli/`, unless it was started as its own
//! compiler.

use std::process::ExitCode;

fn main() -> ExitCode {
    // This process may be the one that compiles a component for another process.
    if let Some(done) = lockstep::guest::apart::serve(lockstep::guest::WORKERS) {
        return done;
    }
    lockstep::memory::give_large_buffers_back();
    lockstep::guest::apart::enable();
    lockstep::faults::start();
    lockstep::cli::main()
}
