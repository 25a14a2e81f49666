//! Encodes and compiles in a separate process, bounded in memory and time. A file may be crafted to
//! be costly to compile, or to overflow the stack of its decoder; the process that serves a cluster
//! must not be harmed by that. The same program is started again. It reads a module or a component,
//! writes the result, and ends, at the latest with its parent. This module never runs guests, and
//! takes code only from this very program.

use std::ffi::OsString;
use std::io::{Read, Write};
#[cfg(target_os = "linux")]
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::limits::Limits;

/// The only argument of the worker process. It is not a subcommand, because people have no use for
/// it.
const ARGUMENT: &str = "__compile";
/// Time between two checks whether the process has ended.
const LOOK: Duration = Duration::from_millis(5);
/// Most bytes that are read of the process's error output.
const COMPLAINT_BYTES_MAX: u64 = 4 * 1024;
/// Most bytes that are read of the process's result.
const RESULT_BYTES_MAX: u64 = 1 << 30;

/// What encoding or compiling one file may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bounds {
    /// Bytes of memory that the process may write to. Enforced on Linux.
    pub(super) memory_bytes_max: u64,
    /// Most seconds of processor time of all its threads together.
    pub(super) cpu_seconds_max: u64,
    /// Most seconds from its start to its end.
    pub(super) seconds_max: u64,
}

/// Twenty times what the largest known guest needs: a Python interpreter of 40 MiB.
pub(super) const BOUNDS: Bounds = Bounds { memory_bytes_max: 4 << 30, cpu_seconds_max: 600, seconds_max: 300 };

/// The work of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum What {
    /// Makes a component from a module.
    Encode,
    /// Makes code from a component.
    Compile,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            What::Encode => "encode",
            What::Compile => "compile",
        }
    }
}

/// The task that the process reads before the file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Task {
    pub(super) what: What,
    /// The limits; the default ones if they are left out.
    #[serde(default)]
    pub(super) limits: Limits,
    /// The semantics of the limits, whose JSON does not have it.
    pub(super) semantics: u32,
    pub(super) bounds: Bounds,
    /// The process id of the parent. When the parent is gone, there is no one left to work for.
    pub(super) parent: u32,
}

impl Task {
    pub(super) fn new(what: What, limits: &Limits) -> Task {
        let semantics = limits.semantics;
        Task { what, limits: limits.clone(), semantics, bounds: BOUNDS, parent: std::process::id() }
    }
}

/// The program to start again. Set once [`enable`] was called and the program was found.
static PROGRAM: OnceLock<OsString> = OnceLock::new();
/// Whether [`end`] was called. Never reset.
static ENDED: AtomicBool = AtomicBool::new(false);

/// Makes this process encode and compile in separate processes from now on. To be called by the
/// main function of a program that begins with [`serve`].
pub fn enable() {
    let own = Path::new("/proc/self/exe");
    // This path names this very file, even after another file replaced it on disk.
    let program = if own.exists() { Some(own.into()) } else { std::env::current_exe().ok().map(OsString::from) };
    if let Some(program) = program {
        let _set_before = PROGRAM.set(program);
    }
}

/// Kills this process's worker processes, now and in future. To be called by a process that ends;
/// otherwise it would wait for the threads that wait for workers.
pub fn end() {
    ENDED.store(true, Relaxed);
}

/// Compiles a component in a separate process; `None` when this program cannot start one.
pub(super) fn compile(limits: &Limits, encoded: &[u8]) -> Option<Result<Vec<u8>, String>> {
    start(Task::new(What::Compile, limits), encoded)
}

/// Encodes a module in a separate process; `None` when this program cannot start one.
pub(super) fn encode(module: &[u8]) -> Option<Result<Vec<u8>, String>> {
    start(Task::new(What::Encode, &Limits::default()), module)
}

fn start(task: Task, file: &[u8]) -> Option<Result<Vec<u8>, String>> {
    let mut command = Command::new(PROGRAM.get()?);
    command.arg(ARGUMENT).env_clear();
    // A Ctrl-C in a terminal must reach only this process, which ends the worker process itself.
    #[cfg(target_os = "linux")]
    command.process_group(0);
    Some(run(command, task, file, &ENDED))
}

/// Gives the task to the process, and waits until it ends for any reason, or until `ended` is set.
pub(super) fn run(mut command: Command, task: Task, file: &[u8], ended: &AtomicBool) -> Result<Vec<u8>, String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let work = task.what.name();
    let mut child = command.spawn().map_err(|error| format!("no process to {work} in can be started: {error}"))?;
    let told = serde_json::to_vec(&task).expect("numbers are JSON");
    let message = [&(told.len() as u32).to_le_bytes()[..], &told, file].concat();
    let mut input = child.stdin.take().expect("it is piped");
    // A process that ends early reads no more; its exit status says why.
    let feeder = std::thread::spawn(move || drop(input.write_all(&message)));
    let made = reader(child.stdout.take().expect("it is piped"), RESULT_BYTES_MAX);
    let complaint = reader(child.stderr.take().expect("it is piped"), COMPLAINT_BYTES_MAX);
    // This thread stays until the process has ended: the kernel also ends the process when the
    // thread that started it ends.
    let end = wait(&mut child, Duration::from_secs(task.bounds.seconds_max), ended);
    let joined = |thread: JoinHandle<Vec<u8>>| thread.join().unwrap_or_default();
    let (made, complaint) = (joined(made), joined(complaint));
    drop(feeder.join());
    let complaint = String::from_utf8_lossy(&complaint);
    match end {
        Ok(End::Itself(status)) if status.success() => Ok(made),
        Ok(end) => Err(explain(end, complaint.trim(), &task)),
        Err(error) => Err(format!("the process to {work} in cannot be watched: {error}")),
    }
}

fn reader(from: impl Read + Send + 'static, bytes_max: u64) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut from = from.take(bytes_max);
        // If bytes cannot be read, the result is incomplete and is not used.
        drop(from.read_to_end(&mut bytes));
        // The rest is read too, or the process would wait forever.
        drop(std::io::copy(&mut from.into_inner(), &mut std::io::sink()));
        bytes
    })
}

/// How the process ended.
enum End {
    Itself(ExitStatus),
    /// It was killed when its time was over.
    Overdue,
    /// It was killed because this process ends.
    Unwanted,
}

fn wait(child: &mut Child, time: Duration, ended: &AtomicBool) -> std::io::Result<End> {
    let deadline = Instant::now() + time;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(End::Itself(status)),
            Ok(None) => {}
            Err(error) => {
                // Otherwise the threads that read from it would wait.
                drop(child.kill());
                return Err(error);
            }
        }
        let is_unwanted = ended.load(Relaxed);
        if is_unwanted || Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(if is_unwanted { End::Unwanted } else { End::Overdue });
        }
        std::thread::sleep(LOOK);
    }
}

fn explain(end: End, complaint: &str, task: &Task) -> String {
    let Bounds { memory_bytes_max, cpu_seconds_max, seconds_max } = task.bounds;
    let (memory_mib_max, work) = (memory_bytes_max >> 20, task.what.name());
    let status = match end {
        End::Itself(status) => status,
        End::Overdue => {
            return format!("it was not done after {seconds_max} s, which is the limit: make the guest smaller");
        }
        End::Unwanted => return format!("there was no time to {work} it: this process is stopping"),
    };
    match status.signal() {
        None => complaint.to_owned(),
        Some(libc::SIGXCPU) => {
            format!(
                "it used more than {cpu_seconds_max} s of processor time, which is the limit: make the guest smaller"
            )
        }
        Some(libc::SIGABRT) if complaint.contains("memory allocation") => {
            format!(
                "it needed more than {memory_mib_max} MiB of memory, which is the limit: make the guest smaller ({complaint})"
            )
        }
        Some(libc::SIGABRT | libc::SIGSEGV) if complaint.contains("overflowed its stack") => {
            format!(
                "it is nested too deeply: the stack is not large enough to {work} it; no compiler makes such a file"
            )
        }
        Some(signal) => format!(
            "the process to {work} it in was ended by signal {signal} (it may use {memory_mib_max} MiB of memory, and this machine may have less): {complaint}"
        ),
    }
}

/// The two kinds of work, as functions that this process calls when it is the worker.
#[derive(Clone, Copy)]
pub struct Workers {
    /// Makes a component from a module.
    pub encode: fn(&[u8]) -> Result<Vec<u8>, String>,
    /// Makes code from a component.
    pub compile: fn(&Limits, &[u8]) -> Result<Vec<u8>, String>,
}

/// Does one task and returns the exit code, if this process was started to do so. Otherwise returns
/// `None`, and the caller goes on.
pub fn serve(workers: Workers) -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if !(arguments.next().is_some_and(|argument| argument == ARGUMENT) && arguments.next().is_none()) {
        return None;
    }
    let served = serve_one(workers, &mut std::io::stdin().lock(), &mut std::io::stdout().lock());
    Some(match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            // The parent may have gone; the exit code is returned anyway.
            drop(writeln!(std::io::stderr(), "{problem}"));
            ExitCode::FAILURE
        }
    })
}

fn serve_one(workers: Workers, input: &mut impl Read, output: &mut impl Write) -> Result<(), String> {
    let broken = |error: std::io::Error| format!("the task cannot be read: {error}");
    let mut length = [0; 4];
    input.read_exact(&mut length).map_err(broken)?;
    let mut task = vec![0; u32::from_le_bytes(length) as usize];
    input.read_exact(&mut task).map_err(broken)?;
    let task: Task = serde_json::from_slice(&task).map_err(|error| format!("the task cannot be read: {error}"))?;
    end_with(task.parent)?;
    let mut file = Vec::new();
    input.read_to_end(&mut file).map_err(broken)?;
    bind(task.bounds)?;
    let made = match task.what {
        What::Encode => (workers.encode)(&file)?,
        What::Compile => (workers.compile)(&Limits { semantics: task.semantics, ..task.limits }, &file)?,
    };
    output.write_all(&made).map_err(|error| format!("what was made cannot be written: {error}"))
}

/// Makes the kernel kill this process when its parent ends for any reason.
#[cfg(target_os = "linux")]
fn end_with(parent: u32) -> Result<(), String> {
    #[allow(unsafe_code, reason = "the standard library has no word for it")]
    // SAFETY: the call takes numbers and touches no memory of this process.
    let done = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong, 0, 0, 0) };
    if done != 0 {
        let error = std::io::Error::last_os_error();
        return Err(format!("this process cannot be made to end with its parent: {error}"));
    }
    // The parent may have ended before that call.
    if std::os::unix::process::parent_id() != parent {
        return Err(format!("process {parent}, for which this was to be done, is gone"));
    }
    Ok(())
}

/// On other systems this process notices the end of its parent when it writes its result.
#[cfg(not(target_os = "linux"))]
fn end_with(_parent: u32) -> Result<(), String> {
    Ok(())
}

/// Limits the resources of this process from now on. It also leaves no core dump.
fn bind(bounds: Bounds) -> Result<(), String> {
    let limits = [
        (libc::RLIMIT_DATA, bounds.memory_bytes_max),
        (libc::RLIMIT_CPU, bounds.cpu_seconds_max),
        (libc::RLIMIT_CORE, 0),
    ];
    for (what, most) in limits {
        // The hard limit of processor time is one second higher, because its signal would not tell
        // the cause.
        let limit = libc::rlimit { rlim_cur: most, rlim_max: most.saturating_add(u64::from(what == libc::RLIMIT_CPU)) };
        #[allow(unsafe_code, reason = "the standard library has no word for it")]
        // SAFETY: the pointer is to a complete structure that outlives the call; lowering limits
        // breaks no memory.
        let done = unsafe { libc::setrlimit(what, &limit) };
        if done != 0 {
            let error = std::io::Error::last_os_error();
            return Err(format!("this process cannot be bounded: {error}"));
        }
    }
    Ok(())
}
