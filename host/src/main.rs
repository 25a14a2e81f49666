//! The `lockstep` binary: hands the command line to `cli/`, unless it was started as its own compiler.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The process that compiles a component for another one.
    if let Some(done) = lockstep::guest::apart::serve() {
        return done;
    }
    lockstep::guest::apart::enable();
    lockstep::faults::start();
    lockstep::cli::main()
}
