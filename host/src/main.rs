//! The `lockstep` binary: hands the command line to `cli/`.

use std::process::ExitCode;

fn main() -> ExitCode {
    lockstep::faults::start();
    lockstep::cli::main()
}
