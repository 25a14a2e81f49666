//! The node processes of the demo and of the benchmarks. They run the built binary, on ports that
//! the system picked, in a temporary directory. They are stopped and removed on every way out,
//! including Ctrl-C.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lockstep_processes::{Node, NodeCommand, Output, Plan, Process, Signal, Stream};
use serde_json::Value;

use crate::demo_directory;

/// Longest time for each step of the demo before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time between two looks whether a command has ended.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

pub(crate) struct Cluster {
    directory: PathBuf,
    plan: Plan,
    /// `--http_addr` of each node, in the order of the plan. Empty when the nodes serve no pages.
    pages: Vec<String>,
    cleanup: Arc<Mutex<Cleanup>>,
    /// Tells other demos that the directory is in use.
    _lock: File,
}

/// What must be removed at the end. The Ctrl-C handler can reach it.
#[derive(Default)]
struct Cleanup {
    processes: Vec<Process>,
    /// Processes that are no nodes. `Cluster::stop` leaves them alone.
    adopted: Vec<Process>,
    directory: Option<PathBuf>,
}

impl Cleanup {
    fn run(&mut self) {
        // What is dropped is killed.
        self.processes.clear();
        self.adopted.clear();
        if let Some(directory) = self.directory.take() {
            drop(std::fs::remove_dir_all(directory));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.cleanup.lock().expect("no holder panics").run();
    }
}

impl Cluster {
    pub(crate) const NAMES: [&'static str; 3] = ["nodeA", "nodeB", "nodeC"];

    /// Plans the directory and the addresses of three nodes. Nothing runs yet.
    pub(crate) fn plan() -> Result<Cluster> {
        Self::on(Plan::on_free_ports("127.0.0.1", 3)?, Vec::new())
    }

    /// Plans `count` nodes that also serve their pages, such as `/metrics`. The first three have
    /// the names in `NAMES`.
    pub(crate) fn plan_with_pages(count: u16) -> Result<Cluster> {
        // One plan holds all ports until all are found. The addresses of its second half are those
        // of the pages of the first half.
        let mut plan = Plan::on_free_ports("127.0.0.1", 2 * count)?;
        let pages = plan.nodes.split_off(usize::from(count));
        Self::on(plan, pages.into_iter().map(|node| node.grpc_addr).collect())
    }

    fn on(plan: Plan, pages: Vec<String>) -> Result<Cluster> {
        let (directory, lock) = demo_directory::create()?;
        let cleanup = Cleanup { directory: Some(directory.clone()), ..Cleanup::default() };
        let cleanup = Arc::new(Mutex::new(cleanup));
        let at_interrupt = cleanup.clone();
        ctrlc::set_handler(move || {
            at_interrupt.lock().expect("no holder panics").run();
            std::process::exit(130);
        })?;
        demo_directory::remove_left_behind(&directory)?;
        Ok(Cluster { directory, plan, pages, cleanup, _lock: lock })
    }

    /// Returns the names of all nodes that are planned.
    pub(crate) fn names(&self) -> Vec<String> {
        self.plan.nodes.iter().map(|node| node.name.clone()).collect()
    }

    /// Returns the temporary directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the `--http_addr` of a node, if the nodes serve pages.
    pub(crate) fn page_addr(&self, name: &str) -> Option<&str> {
        let position = self.plan.nodes.iter().position(|node| node.name == name)?;
        self.pages.get(position).map(String::as_str)
    }

    /// Returns the process id of a node that was started.
    pub(crate) fn id_of(&self, name: &str) -> Result<u32> {
        let cleanup = self.cleanup.lock().expect("no holder panics");
        let process = cleanup.processes.iter().find(|process| process.name() == name);
        Ok(process.with_context(|| format!("{name} does not run"))?.id())
    }

    /// Keeps a process that is no node. It is killed with the cluster, on every way out.
    pub(crate) fn adopt(&self, process: Process) {
        self.cleanup.lock().expect("no holder panics").adopted.push(process);
    }

    fn node(&self, name: &str) -> &Node {
        self.plan.nodes.iter().find(|node| node.name == name).expect("a name of the plan")
    }

    pub(crate) fn grpc_addr(&self, name: &str) -> &str {
        &self.node(name).grpc_addr
    }

    pub(crate) fn raft_addr(&self, name: &str) -> &str {
        &self.node(name).raft_addr
    }

    /// Starts a node. Its log goes to a file beside its data.
    pub(crate) fn start(&self, name: &str, bootstrap: bool) -> Result<()> {
        let command = self.command(name);
        self.run_node(name, &if bootstrap { command.bootstrap() } else { command })
    }

    /// Starts a node with more flags, each with its value.
    pub(crate) fn start_with(&self, name: &str, flags: &[(&str, String)]) -> Result<()> {
        let command = flags.iter().fold(self.command(name), |command, (flag, value)| command.flag(flag, value));
        self.run_node(name, &command)
    }

    fn command(&self, name: &str) -> NodeCommand {
        // The demo may run on a disk with little free space; an ordinary node keeps more.
        let command = NodeCommand::new(program(), self.node(name), &self.directory)
            .flag("fsm", crate::build_dir().join("kv.wasm"))
            .flag("min_free_bytes", "64MiB");
        match self.page_addr(name) {
            Some(page) => command.flag("http_addr", page),
            None => command,
        }
    }

    fn run_node(&self, name: &str, command: &NodeCommand) -> Result<()> {
        say_command(&command.words());
        let log = File::options().create(true).append(true).open(self.directory.join(format!("{name}.log")))?;
        let process = command.start(Output::File(log)).context("build/lockstep does not start")?;
        self.cleanup.lock().expect("no holder panics").processes.push(process);
        Ok(())
    }

    /// Kills a node with SIGKILL, so that it cannot clean up.
    pub(crate) fn kill(&self, name: &str) -> Result<()> {
        self.take(name)?.kill()?;
        Ok(())
    }

    /// Kills a node, and removes its data.
    pub(crate) fn discard(&self, name: &str) -> Result<()> {
        self.kill(name)?;
        let data = self.directory.join(name);
        std::fs::remove_dir_all(&data).with_context(|| format!("removing {}", data.display()))
    }

    /// Returns a node's process. From then on it ends with the value, or with this program.
    fn take(&self, name: &str) -> Result<Process> {
        let mut cleanup = self.cleanup.lock().expect("no holder panics");
        let position = cleanup.processes.iter().position(|process| process.name() == name);
        Ok(cleanup.processes.remove(position.with_context(|| format!("{name} does not run"))?))
    }

    /// Stops one node with SIGTERM, and requires exit code 0.
    pub(crate) fn stop_one(&self, name: &str) -> Result<()> {
        let mut process = self.take(name)?;
        stop_all(std::slice::from_mut(&mut process))
    }

    /// Stops every node with SIGTERM, and requires exit code 0 of each.
    pub(crate) fn stop(&self) -> Result<()> {
        let mut cleanup = self.cleanup.lock().expect("no holder panics");
        stop_all(&mut cleanup.processes)?;
        cleanup.processes.clear();
        Ok(())
    }

    /// Runs `lockstep` as a person would, and prints the command and its output.
    pub(crate) fn lockstep(&self, arguments: &[&str]) -> Result<String> {
        say_command(arguments);
        let text = self.quietly(arguments)?;
        for line in text.lines() {
            println!("    {line}");
        }
        Ok(text)
    }

    /// Runs `lockstep` without printing anything.
    pub(crate) fn quietly(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(program()).args(arguments).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!("lockstep {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs `lockstep` without printing anything, for `limit` at most. It ends with the cluster.
    pub(crate) fn within(&self, limit: Duration, arguments: &[&str]) -> Result<String> {
        let said = Arc::new(Mutex::new((String::new(), String::new())));
        let heard = said.clone();
        let output = Output::lines(move |stream, line| {
            let mut heard = heard.lock().expect("no holder panics");
            let text = if stream == Stream::Stdout { &mut heard.0 } else { &mut heard.1 };
            text.push_str(line);
            text.push('\n');
        });
        let mut command = Command::new(program());
        let process = Process::start("lockstep", command.args(arguments).stdin(Stdio::null()), output)?;
        let id = process.id();
        self.adopt(process);
        let ended = self.wait_for_adopted(id, limit)?;
        let (printed, complaint) = std::mem::take(&mut *said.lock().expect("no holder panics"));
        match ended {
            Some(status) if status.success() => Ok(printed),
            Some(_) => bail!("lockstep {}: {}", arguments.join(" "), complaint.trim()),
            None => bail!("lockstep {}: not done within {limit:?}, and killed", arguments.join(" ")),
        }
    }

    /// Waits until an adopted process has ended, or kills it after `limit`. Returns how it ended by
    /// itself.
    fn wait_for_adopted(&self, id: u32, limit: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            let mut cleanup = self.cleanup.lock().expect("no holder panics");
            let position = cleanup.adopted.iter().position(|process| process.id() == id);
            let position = position.context("the processes of this program were ended")?;
            let ended = cleanup.adopted[position].try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                // What is dropped is killed.
                drop(cleanup.adopted.remove(position));
                return Ok(ended);
            }
            drop(cleanup);
            std::thread::sleep(LOOK_PAUSE);
        }
    }

    /// Makes a unary call on a node, as JSON.
    pub(crate) fn call(&self, name: &str, method: &str, request: &str) -> Result<Value> {
        let text = self.quietly(&["call", self.grpc_addr(name), method, request])?;
        serde_json::from_str(&text).with_context(|| format!("{method} printed {text:?}"))
    }

    /// Starts a long-running call: `lockstep call` as a child process whose lines are read. Each
    /// comes with the time at which it was read. The call ends with the cluster.
    pub(crate) fn stream(&self, name: &str, method: &str, request: &str) -> Result<mpsc::Receiver<(Instant, String)>> {
        let arguments = ["call", self.grpc_addr(name), method, request];
        say_command(&arguments);
        let (sender, lines) = mpsc::channel();
        let output = Output::lines(move |stream, line| match stream {
            Stream::Stdout => drop(sender.send((Instant::now(), line.to_owned()))),
            Stream::Stderr => eprintln!("{line}"),
        });
        let mut command = Command::new(program());
        let process = Process::start("call", command.args(arguments).stdin(Stdio::null()), output)?;
        self.cleanup.lock().expect("no holder panics").processes.push(process);
        Ok(lines)
    }

    /// Ends the calls that `stream` began.
    pub(crate) fn end_streams(&self) -> Result<()> {
        while self.kill("call").is_ok() {}
        Ok(())
    }

    /// Retries `attempt` until it succeeds or the time is over. After that, it returns the last
    /// error and the last lines of the nodes' logs.
    pub(crate) fn eventually<T>(&self, what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context(format!("{what}: not within {PATIENCE:?}{}", self.last_words())));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Returns the last lines of the nodes' logs, for a failure report.
    pub(crate) fn last_words(&self) -> String {
        let mut words = String::new();
        for name in self.names() {
            let Ok(log) = std::fs::read_to_string(self.directory.join(format!("{name}.log"))) else {
                continue;
            };
            let lines: Vec<&str> = log.lines().rev().take(8).collect();
            words.push_str(&format!("\n--- {name}'s log ends with:\n"));
            words.extend(lines.iter().rev().map(|line| format!("{line}\n")));
        }
        words
    }
}

/// Stops processes with SIGTERM, and requires exit code 0 of each.
fn stop_all(processes: &mut [Process]) -> Result<()> {
    for process in &mut *processes {
        if process.try_wait()?.is_some() {
            bail!("a node was gone before it was told to stop");
        }
        process.signal(Signal::SIGTERM)?;
    }
    for process in processes {
        let name = process.name().to_owned();
        match process.wait(PATIENCE)? {
            Some(status) if status.success() => {}
            Some(status) => bail!("{name} ended with {status} on SIGTERM"),
            None => bail!("{name} did not stop within {PATIENCE:?} of SIGTERM"),
        }
    }
    Ok(())
}

fn program() -> PathBuf {
    crate::build_dir().join("lockstep")
}

fn say_command(arguments: &[impl AsRef<str>]) {
    let quoted: Vec<String> = arguments
        .iter()
        .map(AsRef::as_ref)
        .map(|word| if word.contains(['{', ' ']) { format!("'{word}'") } else { word.to_string() })
        .collect();
    println!("  $ build/lockstep {}", quoted.join(" "));
}
