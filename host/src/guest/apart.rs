//! Compiling in a process of its own, bounded in memory and time: a component may be made to be dear to compile, and the process that
//! serves a cluster must not pay for it. The same program is started again; it reads a component, writes code, and ends. Never runs
//! guests, and takes no code from anyone but this very program.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::limits::Limits;
use super::{engine, load};

/// The only argument of the process that compiles. No subcommand: people have no use for it.
const ARGUMENT: &str = "__compile";
/// How often it is seen whether the process has ended.
const LOOK: Duration = Duration::from_millis(5);
/// What is read of its complaints.
const COMPLAINT_BYTES_MAX: u64 = 4 * 1024;
/// What is read of its code.
const CODE_BYTES_MAX: u64 = 1 << 30;

/// What compiling one component may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bounds {
    /// Memory that the process writes to, in bytes. Enforced on Linux.
    pub(super) memory_bytes_max: u64,
    /// Of all its threads together.
    pub(super) cpu_seconds_max: u64,
    /// From its start to its end.
    pub(super) seconds_max: u64,
}

/// Twenty times what the largest guest that we know takes: a Python interpreter of 40 MiB.
pub(super) const BOUNDS: Bounds = Bounds { memory_bytes_max: 4 << 30, cpu_seconds_max: 600, seconds_max: 300 };

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum What {
    /// A component of a module.
    Encode,
    /// Code of a component.
    Compile,
}

/// What the process is told before the module or component.
#[derive(Serialize, Deserialize)]
struct Task {
    what: What,
    /// The process that asks. When it is gone, nobody waits for the answer.
    parent: u32,
    /// The default ones when they are left out.
    #[serde(default)]
    limits: Limits,
    bounds: Bounds,
}

/// How this program is started as a compiler, once [`enable`] has said that it can be.
static PROGRAM: OnceLock<OsString> = OnceLock::new();

/// From now on components are compiled apart. For the main function of a program that begins with [`serve`].
pub fn enable() {
    let own = Path::new("/proc/self/exe");
    // It names this very file even after another one took its place on disk.
    let program = if own.exists() { Some(own.into()) } else { std::env::current_exe().ok().map(OsString::from) };
    if let Some(program) = program {
        let _set_before = PROGRAM.set(program);
    }
}

/// The code of a component, by a process apart; `None` when this program cannot be one.
pub(super) fn compile(limits: &Limits, encoded: &[u8]) -> Option<Result<Vec<u8>, String>> {
    Some(run(program()?, What::Compile, limits, BOUNDS, encoded))
}

/// The component of a module, by a process apart; `None` when this program cannot be one.
pub(super) fn encode(module: &[u8]) -> Option<Result<Vec<u8>, String>> {
    Some(run(program()?, What::Encode, &Limits::default(), BOUNDS, module))
}

fn program() -> Option<Command> {
    let mut command = Command::new(PROGRAM.get()?);
    command.arg(ARGUMENT).env_clear();
    Some(command)
}

/// Gives the task to the process and waits for its end, however that comes.
pub(super) fn run(
    mut command: Command,
    what: What,
    limits: &Limits,
    bounds: Bounds,
    encoded: &[u8],
) -> Result<Vec<u8>, String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("no process to compile in can be started: {error}"))?;
    let task = Task { what, parent: std::process::id(), limits: limits.clone(), bounds };
    let task = serde_json::to_vec(&task).expect("numbers are JSON");
    let message = [&(task.len() as u32).to_le_bytes()[..], &task, encoded].concat();
    let mut input = child.stdin.take().expect("it is piped");
    // A process that ends early takes no more; its end says why.
    let feeder = std::thread::spawn(move || drop(input.write_all(&message)));
    let code = reader(child.stdout.take().expect("it is piped"), CODE_BYTES_MAX);
    let complaint = reader(child.stderr.take().expect("it is piped"), COMPLAINT_BYTES_MAX);
    let ended = wait(&mut child, Duration::from_secs(bounds.seconds_max));
    let joined = |thread: JoinHandle<Vec<u8>>| thread.join().unwrap_or_default();
    let (code, complaint) = (joined(code), joined(complaint));
    drop(feeder.join());
    let complaint = String::from_utf8_lossy(&complaint);
    match ended {
        Ok(Some(status)) if status.success() => Ok(code),
        Ok(ended) => Err(explain(ended, complaint.trim(), bounds)),
        Err(error) => Err(format!("the process that compiles cannot be watched: {error}")),
    }
}

fn reader(from: impl Read + Send + 'static, bytes_max: u64) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut from = from.take(bytes_max);
        // What cannot be read is missing, and then the code is not whole.
        drop(from.read_to_end(&mut bytes));
        // The rest too, or the process would wait for ever.
        drop(std::io::copy(&mut from.into_inner(), &mut std::io::sink()));
        bytes
    })
}

/// `None`: it was ended after its time.
fn wait(child: &mut Child, time: Duration) -> std::io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + time;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(LOOK);
    }
}

fn explain(ended: Option<ExitStatus>, complaint: &str, bounds: Bounds) -> String {
    let Bounds { memory_bytes_max, cpu_seconds_max, seconds_max } = bounds;
    let Some(status) = ended else {
        return format!("it was not done after {seconds_max} s, which is the limit: make the guest smaller");
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
                "it needed more than {} MiB of memory, which is the limit: make the guest smaller ({complaint})",
                memory_bytes_max >> 20
            )
        }
        Some(libc::SIGABRT | libc::SIGSEGV) if complaint.contains("overflowed its stack") => {
            "its types are nested too deeply".to_owned()
        }
        Some(signal) => format!(
            "the process that worked on it was ended by signal {signal} (it may use {} MiB of memory, and this machine may have less): {complaint}",
            memory_bytes_max >> 20
        ),
    }
}

/// Compiles and says how that ended, if this process was started to do so; everything else is the caller's.
pub fn serve() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if !(arguments.next().is_some_and(|argument| argument == ARGUMENT) && arguments.next().is_none()) {
        return None;
    }
    let served = serve_one(&mut std::io::stdin().lock(), &mut std::io::stdout().lock());
    Some(match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    })
}

fn serve_one(input: &mut impl Read, output: &mut impl Write) -> Result<(), String> {
    let broken = |error: std::io::Error| format!("the task cannot be read: {error}");
    let mut length = [0; 4];
    input.read_exact(&mut length).map_err(broken)?;
    let mut task = vec![0; u32::from_le_bytes(length) as usize];
    input.read_exact(&mut task).map_err(broken)?;
    let task: Task = serde_json::from_slice(&task).map_err(|error| format!("the task cannot be read: {error}"))?;
    let mut encoded = Vec::new();
    input.read_to_end(&mut encoded).map_err(broken)?;
    end_with(task.parent)?;
    bind(task.bounds)?;
    let made = match task.what {
        What::Encode => load::encoded_here(&encoded)?,
        What::Compile => engine::code_of(&task.limits, &encoded)?,
    };
    output.write_all(&made).map_err(|error| format!("what was made cannot be written: {error}"))
}

/// This process ends when the one that asked does, however that comes.
#[cfg(target_os = "linux")]
fn end_with(parent: u32) -> Result<(), String> {
    #[allow(unsafe_code, reason = "the standard library has no word for it")]
    // SAFETY: the call takes two numbers and touches no memory.
    let done = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    if done != 0 {
        return Err(format!("the process cannot be bound to its parent: {}", std::io::Error::last_os_error()));
    }
    // It may have ended before the call.
    match std::os::unix::process::parent_id() {
        now if now == parent => Ok(()),
        _ => Err("the process that asked is gone".to_owned()),
    }
}

/// Here it ends by its limits alone.
#[cfg(not(target_os = "linux"))]
fn end_with(_parent: u32) -> Result<(), String> {
    Ok(())
}

/// This process has no more than that from now on, and leaves no core behind.
fn bind(bounds: Bounds) -> Result<(), String> {
    let limits = [
        (libc::RLIMIT_DATA, bounds.memory_bytes_max),
        (libc::RLIMIT_CPU, bounds.cpu_seconds_max),
        (libc::RLIMIT_CORE, 0),
    ];
    for (what, most) in limits {
        // The hard limit of processor time is a second later: its signal would not say what it is for.
        let limit = libc::rlimit { rlim_cur: most, rlim_max: most.saturating_add(u64::from(what == libc::RLIMIT_CPU)) };
        #[allow(unsafe_code, reason = "the standard library has no word for it")]
        // SAFETY: the pointer is to a whole structure that outlives the call; lowering limits breaks no memory.
        let done = unsafe { libc::setrlimit(what, &limit) };
        if done != 0 {
            let error = std::io::Error::last_os_error();
            return Err(format!("the process that compiles cannot be bounded: {error}"));
        }
    }
    Ok(())
}
