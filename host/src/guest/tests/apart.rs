//! Tests of the process that compiles, and of the errors for each way in which it may end.

use std::process::Command;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::guest::apart::{BOUNDS, Bounds, Task, What, run};

fn task(what: What, bounds: Bounds) -> Task {
    Task { bounds, ..Task::new(what, &Limits::default()) }
}

/// Runs a shell script in place of the compiler, and returns the result.
fn ends(script: &str, bounds: Bounds) -> Result<Vec<u8>, String> {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    run(command, task(What::Compile, bounds), b"component", &AtomicBool::new(false))
}

#[test]
fn code_comes_back_and_the_task_goes_there() {
    let echoed = ends("cat", BOUNDS).unwrap();
    assert!(echoed.ends_with(b"component"));
    let task = String::from_utf8_lossy(&echoed[4..]);
    assert!(task.contains("\"fuel_per_command\":100000000") && task.contains("\"cpu_seconds_max\":600"), "{task}");
    assert!(task.contains(&format!("\"semantics\":{SEMANTICS},")), "what is compiled depends on it: {task}");
}

#[test]
fn its_own_words_come_back_when_it_refuses() {
    assert_eq!(ends("echo 'unknown opcode' >&2; exit 1", BOUNDS).unwrap_err(), "unknown opcode");
    // The same holds before it has read anything, and with more to read than a pipe holds.
    let mut command = Command::new("sh");
    command.args(["-c", "echo no >&2; exit 1"]);
    assert_eq!(
        run(command, task(What::Compile, BOUNDS), &vec![0; 10 << 20], &AtomicBool::new(false)).unwrap_err(),
        "no"
    );
}

#[test]
fn a_component_that_needs_too_much_is_refused_with_the_numbers() {
    let short = Bounds { seconds_max: 1, ..BOUNDS };
    assert!(ends("exec sleep 50", short).unwrap_err().contains("not done after 1 s"));
    assert!(ends("kill -XCPU $$", BOUNDS).unwrap_err().contains("more than 600 s of processor time"));
    let aborted = ends("echo memory allocation of 7 bytes failed >&2; kill -ABRT $$", BOUNDS).unwrap_err();
    assert!(aborted.contains("more than 4096 MiB of memory"), "{aborted}");
    let killed = ends("kill -KILL $$", BOUNDS).unwrap_err();
    assert!(killed.contains("signal 9") && killed.contains("4096 MiB"), "{killed}");
}

#[test]
fn a_program_that_is_not_there_is_an_error() {
    for (what, words) in [(What::Compile, "no process to compile in"), (What::Encode, "no process to encode in")] {
        let nowhere = Command::new("/nowhere/lockstep");
        let missing = run(nowhere, task(what, BOUNDS), b"", &AtomicBool::new(false)).unwrap_err();
        assert!(missing.contains(words) && missing.contains("can be started"), "{missing}");
    }
}

/// A file can be crafted to overflow the stack of its decoder. An error that says only "signal 6"
/// would not tell anyone what to do.
#[test]
fn an_overflow_of_the_stack_is_told_as_what_it_is() {
    let script = "echo \"thread 'main' has overflowed its stack\" >&2; kill -ABRT $$";
    let deep = ends(script, BOUNDS).unwrap_err();
    assert!(deep.contains("nested too deeply") && deep.contains("to compile it"), "{deep}");
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    let deep = run(command, task(What::Encode, BOUNDS), b"", &AtomicBool::new(false)).unwrap_err();
    assert!(deep.contains("nested too deeply") && deep.contains("to encode it"), "{deep}");
}

#[test]
fn what_is_unwanted_is_killed() {
    let mut command = Command::new("sh");
    command.args(["-c", "exec sleep 50"]);
    let stopped = run(command, task(What::Compile, BOUNDS), b"", &AtomicBool::new(true)).unwrap_err();
    assert!(stopped.contains("this process is stopping"), "{stopped}");
}

#[test]
fn code_made_without_a_pool_runs_in_an_engine_with_one() {
    let encoded = Component::encode(&typed_module(&Text::default().module(), CONTRACT, "machine-guest")).unwrap();
    let apart = engine::code_of(&Limits::default(), &encoded).unwrap();
    let form = depth::compiled_form(&Limits::default(), &encoded).unwrap();
    assert_eq!(apart, ENGINE.inner.wasmtime.precompile_component(&form).unwrap(), "bit for bit");
}
