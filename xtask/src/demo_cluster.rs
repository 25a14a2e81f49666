//! The node processes of the demo. They run the built binary, on ports that the system picked, in a
//! temporary directory. They are stopped and removed on every way out, including Ctrl-C.

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::demo_directory;

/// Longest time for each step of the demo before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Cluster {
    directory: PathBuf,
    nodes: Vec<Node>,
    cleanup: Arc<Mutex<Cleanup>>,
    /// Tells other demos that the directory is in use.
    _lock: File,
}

struct Node {
    name: &'static str,
    grpc_addr: String,
    raft_addr: String,
}

/// What must be removed at the end. The Ctrl-C handler can reach it.
#[derive(Default)]
struct Cleanup {
    children: Vec<(String, Child)>,
    directory: Option<PathBuf>,
}

impl Cleanup {
    fn run(&mut self) {
        for (_, child) in &mut self.children {
            drop(child.kill());
            drop(child.wait());
        }
        self.children.clear();
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
        let (directory, lock) = demo_directory::create()?;
        let cleanup = Arc::new(Mutex::new(Cleanup { children: Vec::new(), directory: Some(directory.clone()) }));
        let at_interrupt = cleanup.clone();
        ctrlc::set_handler(move || {
            at_interrupt.lock().expect("no holder panics").run();
            std::process::exit(130);
        })?;
        demo_directory::remove_left_behind(&directory)?;
        // All six listeners are open at once, so that the system picks six different ports.
        let listeners: Vec<TcpListener> = (0..6).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
        let address = |n: usize| listeners[n].local_addr().map(|address| address.to_string());
        let nodes = Self::NAMES
            .iter()
            .enumerate()
            .map(|(n, name)| Ok(Node { name, grpc_addr: address(n)?, raft_addr: address(n + 3)? }))
            .collect::<Result<_>>()?;
        Ok(Cluster { directory, nodes, cleanup, _lock: lock })
    }

    fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name == name).expect("a name of NAMES")
    }

    pub(crate) fn grpc_addr(&self, name: &str) -> &str {
        &self.node(name).grpc_addr
    }

    pub(crate) fn raft_addr(&self, name: &str) -> &str {
        &self.node(name).raft_addr
    }

    /// Starts a node. Its log goes to a file beside its data.
    pub(crate) fn start(&self, name: &str, bootstrap: bool) -> Result<()> {
        let node = self.node(name);
        let directory = self.directory.display().to_string();
        let fsm = crate::build_dir().join("kv.wasm").display().to_string();
        let mut arguments =
            vec!["node", "--raft_id", name, "--grpc_addr", &node.grpc_addr, "--raft_addr", &node.raft_addr];
        // The demo may run on a disk with little free space; an ordinary node keeps more.
        arguments.extend(["--raft_data_dir", &directory, "--fsm", &fsm, "--min_free_bytes=64MiB"]);
        if bootstrap {
            arguments.push("--raft_bootstrap");
        }
        say_command(&arguments);
        // Stops the node even when this process is killed: its end of the pipe closes with it.
        arguments.push("--exit_on_stdin_close");
        let log = File::options().create(true).append(true).open(self.directory.join(format!("{name}.log")))?;
        let child = Command::new(crate::build_dir().join("lockstep"))
            .args(&arguments)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("build/lockstep does not start")?;
        self.cleanup.lock().expect("no holder panics").children.push((name.to_string(), child));
        Ok(())
    }

    /// Kills a node with SIGKILL, so that it cannot clean up.
    pub(crate) fn kill(&self, name: &str) -> Result<()> {
        let mut cleanup = self.cleanup.lock().expect("no holder panics");
        let position =
            cleanup.children.iter().position(|(child, _)| child == name).context("that node does not run")?;
        let (_, mut child) = cleanup.children.remove(position);
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Stops every node with SIGTERM, and requires exit code 0 of each.
    pub(crate) fn stop(&self) -> Result<()> {
        let mut cleanup = self.cleanup.lock().expect("no holder panics");
        for (_, child) in &cleanup.children {
            let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status()?;
            if !killed.success() {
                bail!("a node was gone before it was told to stop");
            }
        }
        for (name, child) in &mut cleanup.children {
            let deadline = Instant::now() + PATIENCE;
            let status = loop {
                if let Some(status) = child.try_wait()? {
                    break status;
                }
                if Instant::now() > deadline {
                    bail!("{name} did not stop within {PATIENCE:?} of SIGTERM");
                }
                std::thread::sleep(Duration::from_millis(10));
            };
            if !status.success() {
                bail!("{name} ended with {status} on SIGTERM");
            }
        }
        cleanup.children.clear();
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
        let output = Command::new(crate::build_dir().join("lockstep")).args(arguments).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!("lockstep {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Makes a unary call on a node, as JSON.
    pub(crate) fn call(&self, name: &str, method: &str, request: &str) -> Result<Value> {
        let text = self.quietly(&["call", self.grpc_addr(name), method, request])?;
        serde_json::from_str(&text).with_context(|| format!("{method} printed {text:?}"))
    }

    /// Starts a long-running call: `lockstep call` as a child process whose lines are read. It ends
    /// with the cluster.
    pub(crate) fn stream(&self, name: &str, method: &str, request: &str) -> Result<std::process::ChildStdout> {
        let arguments = ["call", self.grpc_addr(name), method, request];
        say_command(&arguments);
        let mut child = Command::new(crate::build_dir().join("lockstep"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = child.stdout.take().expect("piped");
        self.cleanup.lock().expect("no holder panics").children.push(("call".into(), child));
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
        for name in Self::NAMES {
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

fn say_command(arguments: &[&str]) {
    let quoted: Vec<String> = arguments
        .iter()
        .map(|word| if word.contains(['{', ' ']) { format!("'{word}'") } else { word.to_string() })
        .collect();
    println!("  $ build/lockstep {}", quoted.join(" "));
}
