//! The process that compiles a component is bounded: a component that is made to be dear to compile ends it, and not a node.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use lockstep_tests::{lockstep, lockstep_binary};

/// SIGXCPU: the processor time is used up.
const TIME_IS_UP: i32 = 24;
/// SIGABRT: what Rust does when there is no memory.
const ABORTED: i32 = 6;

/// What the program does that a node starts to compile `component`, under bounds of the test's choosing.
fn compiled(memory_bytes: u64, cpu_seconds: u64, component: &[u8]) -> Result<Output> {
    let mut child = Command::new(lockstep_binary())
        .arg("__compile")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let task = format!(
        r#"{{"what":"Compile","parent":{},"bounds":{{"memory_bytes_max":{memory_bytes},"cpu_seconds_max":{cpu_seconds},"seconds_max":60}}}}"#,
        std::process::id()
    );
    let message = [&(task.len() as u32).to_le_bytes()[..], task.as_bytes(), component].concat();
    let mut input = child.stdin.take().context("it is piped")?;
    // It may end before it has read all.
    drop(input.write_all(&message));
    drop(input);
    Ok(child.wait_with_output()?)
}

/// Functions that are long, and no two of them equal.
fn large(functions: usize) -> Result<Vec<u8>> {
    let mut text = "(component (core module (memory 1)\n".to_owned();
    for n in 0..functions {
        text += "(func (param i64) (result i64) local.get 0\n";
        for k in 0..400 {
            text +=
                &format!("i64.const {} i64.mul local.get 0 i64.rotl i32.const {k} i64.load i64.xor\n", n * 1_000 + k);
        }
        text += ")\n";
    }
    Ok(wat::parse_str(text + "))")?)
}

#[test]
fn a_component_within_the_bounds_is_compiled() -> Result<()> {
    let done = compiled(4 << 30, 60, &large(3)?)?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    ensure!(done.stdout.starts_with(b"\x7fELF"), "no code");
    Ok(())
}

#[test]
fn one_that_takes_too_long_ends_the_process_that_compiles() -> Result<()> {
    let ended = compiled(4 << 30, 1, &large(4_000)?)?;
    ensure!(ended.status.signal() == Some(TIME_IS_UP), "{:?}", ended.status);
    ensure!(ended.stdout.is_empty(), "half of a code");
    Ok(())
}

#[test]
fn one_that_needs_too_much_memory_ends_it_too() -> Result<()> {
    let ended = compiled(64 << 20, 60, &large(4_000)?)?;
    let said = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.signal() == Some(ABORTED) && said.contains("memory allocation"), "{:?}: {said}", ended.status);
    Ok(())
}

#[test]
fn what_is_no_component_is_refused_in_words() -> Result<()> {
    let refused = compiled(4 << 30, 60, b"\0asm nonsense")?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(refused.status.code() == Some(1) && !said.trim().is_empty(), "{:?}: {said}", refused.status);
    Ok(())
}

/// What is nested without end overflows a stack: that of a process apart.
#[test]
fn types_nested_without_end_are_refused_in_words() -> Result<()> {
    const DEPTH: usize = 100_000;
    // A component whose only type is a component type, which declares a type, which is a component type, and so on.
    let types = [b"\x01".to_vec(), b"\x41\x01\x01".repeat(DEPTH), b"\x41\x00".to_vec()].concat();
    let component = [b"\0asm\x0d\0\x01\0\x07".to_vec(), length(types.len()), types].concat();
    let section = [b"\x11component-type:zz".to_vec(), component].concat();
    let module = [b"\0asm\x01\0\0\0\0".to_vec(), length(section.len()), section].concat();
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("nested.wasm");
    std::fs::write(&path, module)?;
    let path = path.display().to_string();
    let refused = lockstep(&["guest", "check", &path])?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(refused.status.code() == Some(1) && said.contains("nest"), "{:?}: {said}", refused.status);
    // It looks at what is there and judges nothing; it must come to its end.
    let looked_at = lockstep(&["guest", "inspect", &path])?;
    ensure!(looked_at.status.code().is_some(), "{:?}", looked_at.status);
    Ok(())
}

/// As WebAssembly writes lengths (LEB128).
fn length(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}
