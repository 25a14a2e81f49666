//! The process that encodes and compiles a guest has limits. A file that is made to be expensive to
//! compile, or to overflow a stack, ends that process and not a node. The process ends together
//! with the process that it works for.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use lockstep_tests::{NodeProcess, Options, eventually, lockstep_binary};

use crate::guest_tools::{is_descriptor, sections};
use crate::printed;

/// SIGXCPU: the limit of processor time was reached.
const TIME_IS_UP: i32 = 24;
/// SIGABRT: how Rust ends when it cannot allocate memory.
const ABORTED: i32 = 6;

/// Runs the program that a node starts to compile `component`, with limits that the test chooses.
fn compiled(memory_bytes: u64, cpu_seconds: u64, component: &[u8]) -> Result<Output> {
    told(
        &format!(
            r#"{{"what":"Compile","semantics":6,"parent":{},"bounds":{{"memory_bytes_max":{memory_bytes},"cpu_seconds_max":{cpu_seconds},"seconds_max":60}}}}"#,
            std::process::id()
        ),
        component,
    )
}

fn told(task: &str, component: &[u8]) -> Result<Output> {
    let mut child = Command::new(lockstep_binary())
        .arg("__compile")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let message = [&(task.len() as u32).to_le_bytes()[..], task.as_bytes(), component].concat();
    let mut input = child.stdin.take().context("it is piped")?;
    // The process may end before it has read everything.
    drop(input.write_all(&message));
    drop(input);
    Ok(child.wait_with_output()?)
}

/// Makes a component with long functions that all differ.
fn large(count: usize) -> Result<Vec<u8>> {
    Ok(wat::parse_str(format!("(component {})", functions(count)))?)
}

fn functions(count: usize) -> String {
    let mut text = "(core module (memory 1)\n".to_owned();
    for n in 0..count {
        text += "(func (param i64) (result i64) local.get 0\n";
        for k in 0..400 {
            text +=
                &format!("i64.const {} i64.mul local.get 0 i64.rotl i32.const {k} i64.load i64.xor\n", n * 1_000 + k);
        }
        text += ")\n";
    }
    text + ")"
}

#[test]
fn a_component_within_the_bounds_is_compiled() -> Result<()> {
    let done = compiled(4 << 30, 60, &large(3)?)?;
    ensure!(done.status.success(), "{}", printed::stderr(&done));
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
    let said = printed::stderr(&ended);
    ensure!(ended.status.signal() == Some(ABORTED) && said.contains("memory allocation"), "{:?}: {said}", ended.status);
    Ok(())
}

/// Returns the ids of the child processes of a process.
fn children(of: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // The process may have ended meanwhile.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{id}/stat")) else { continue };
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        if after_name.split(' ').nth(1).and_then(|parent| parent.parse().ok()) == Some(of) {
            found.push(id);
        }
    }
    Ok(found)
}

async fn is_gone(id: u32) -> Result<()> {
    let gone = || async {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // A zombie does nothing any more.
        ensure!(stat.is_empty() || stat.contains(") Z "), "{stat}");
        Ok(())
    };
    eventually("the compiler is gone", gone).await
}

/// Returns a component with the exports of a guest that takes minutes to compile.
/// It is made once, because its text has a hundred megabytes.
fn dear() -> &'static [u8] {
    static DEAR: OnceLock<Vec<u8>> = OnceLock::new();
    DEAR.get_or_init(|| {
        let nothing = r#"(core module $m (func (export "f"))) (core instance $i (instantiate $m)) (func $f (canon lift (core func $i "f")))"#;
        let exported = |interface: &str, functions: &[&str]| {
            let exports: String = functions.iter().map(|name| format!("(export \"{name}\" (func $f))")).collect();
            format!("(instance ${interface} {exports}) (export \"lockstep:machine/{interface}@1.0.0\" (instance ${interface}))")
        };
        let (machine, watcher) = (["apply", "query", "snapshot", "restore"], ["watch"]);
        let (machine, watcher) = (exported("machine", &machine), exported("watcher", &watcher));
        wat::parse_str(format!("(component {} {nothing} {machine} {watcher})", functions(8_000))).expect("it is WebAssembly")
    })
}

/// Starts a node for the first time, with a guest that takes minutes to compile.
/// Returns the node and the process id of its compiler, which is running.
async fn compiling(place: &Path) -> Result<(NodeProcess, u32)> {
    let mut component = dear().to_vec();
    let kv = std::fs::read(lockstep_tests::kv_wasm())?;
    component.extend(sections(&kv)?.into_iter().filter(|section| is_descriptor(section)).flatten());
    let path = place.join("dear.wasm");
    std::fs::write(&path, component)?;
    let mut node = NodeProcess::new("nodeA", place, Options { fsm: Some(path), ..Options::bootstrap() })?;
    node.spawn()?;
    let only = || async {
        let child = *children(node.id()?)?.first().with_context(|| format!("no compiler yet: {}", node.log()))?;
        let line = std::fs::read_to_string(format!("/proc/{child}/cmdline"))?;
        ensure!(line.contains("__compile"), "{line:?}");
        Ok(child)
    };
    let compiler = eventually("it has started a compiler", only).await?;
    Ok((node, compiler))
}

/// The node used to wait for its compiler, for up to five minutes.
#[tokio::test]
async fn a_node_that_is_stopped_while_it_compiles_ends_at_once_and_takes_its_compiler_along() -> Result<()> {
    let place = tempfile::tempdir()?;
    let (mut node, compiler) = compiling(place.path()).await?;
    let status = node.stop().await?;
    // If it had been compiled to its end, the guest would have been refused.
    ensure!(status.success(), "{status:?}: {}", node.log());
    is_gone(compiler).await
}

/// The compiler used to run on for minutes, with gigabytes of memory, for a node that was gone.
#[tokio::test]
async fn a_compiler_ends_with_a_node_that_is_killed() -> Result<()> {
    let place = tempfile::tempdir()?;
    let (mut node, compiler) = compiling(place.path()).await?;
    node.kill()?;
    is_gone(compiler).await
}

#[test]
fn a_compiler_whose_parent_is_gone_does_nothing() -> Result<()> {
    let refused = told(
        r#"{"what":"Compile","semantics":6,"bounds":{"memory_bytes_max":4294967296,"cpu_seconds_max":60,"seconds_max":60},"parent":1}"#,
        &large(1)?,
    )?;
    let said = printed::stderr(&refused);
    ensure!(refused.status.code() == Some(1) && said.contains("process 1, for which"), "{:?}: {said}", refused.status);
    Ok(())
}

#[test]
fn what_is_no_component_is_refused_in_words() -> Result<()> {
    let refused = compiled(4 << 30, 60, b"\0asm nonsense")?;
    let said = printed::stderr(&refused);
    ensure!(refused.status.code() == Some(1) && !said.trim().is_empty(), "{:?}: {said}", refused.status);
    Ok(())
}
