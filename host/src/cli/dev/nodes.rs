//! The child processes of `lockstep dev` and their directory. Knows flags of `lockstep node` and nothing of Raft.

use std::net::TcpListener;
use std::ops::Range;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinSet;

use super::place::Directory;
use crate::cli::report::{Failure, print_notice};
use crate::config::{self, ListenError};

/// A node that hands over leadership and flushes is done well within this.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// A playground works on a disk that has little left; nodes of one's own keep more.
const MIN_FREE: &str = "64MiB";

/// Names and addresses, before anything runs.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) nodes: Vec<PlannedNode>,
}

#[derive(Clone, Debug)]
pub(crate) struct PlannedNode {
    pub(crate) name: String,
    pub(crate) grpc_addr: String,
    pub(crate) raft_addr: String,
}

impl Plan {
    /// `count` nodes on the ports from `base_port`, or on ports that are free now.
    pub(crate) fn new(count: u16, base_port: Option<u16>) -> anyhow::Result<Plan> {
        let ports = match base_port {
            Some(base) => check_free(base..base + 2 * count)?,
            None => free_ports(2 * count)?,
        };
        let (grpc, raft) = ports.split_at(usize::from(count));
        let nodes = ('A'..).zip(grpc.iter().zip(raft)).map(|(letter, (grpc, raft))| PlannedNode {
            name: format!("node{letter}"),
            grpc_addr: format!("localhost:{grpc}"),
            raft_addr: format!("localhost:{raft}"),
        });
        Ok(Plan { nodes: nodes.collect() })
    }
}

/// Listens on each for a moment: a port of another cluster would answer for ours, and everything would look well.
fn check_free(ports: Range<u16>) -> anyhow::Result<Vec<u16>> {
    for port in ports.clone() {
        if let Err(error) = config::bind("--base_port", &format!("localhost:{port}")) {
            let (first, last) = (ports.start, ports.end - 1);
            let problem = match error {
                ListenError::Taken { .. } => format!("port {port} is taken by another process"),
                other => other.to_string(),
            };
            let what = format!("{problem}; the nodes were to use the ports {first} to {last}");
            return Err(Failure::usage(what)
                .hint("give another --base_port, or leave it out: then the system chooses ports that are free")
                .into());
        }
    }
    Ok(ports.collect())
}

/// All are held until all are found, so no port comes twice. Another process may take one before the node does; the node says so.
fn free_ports(count: u16) -> anyhow::Result<Vec<u16>> {
    let mut held: Vec<Vec<TcpListener>> = Vec::new();
    let mut ports = Vec::new();
    for _ in 0..count {
        let listeners = config::bind("--base_port", "localhost:0")?;
        let first = listeners.first().context("localhost has no address")?;
        ports.push(first.local_addr()?.port());
        held.push(listeners);
    }
    Ok(ports)
}

/// The running nodes. Dropping it kills what still runs and removes the directory.
pub(crate) struct Nodes {
    plan: Plan,
    /// Each ends when its node does, with what happened.
    ends: JoinSet<String>,
    /// A node stops when its pipe closes, also when it closes because we were killed.
    pipes: Vec<ChildStdin>,
    /// Set when the nodes were told to stop.
    stopping: Arc<AtomicBool>,
    // Last, so that the nodes are dead when their directory goes.
    directory: Directory,
}

impl Nodes {
    /// Starts them all; the first one bootstraps.
    pub(crate) fn start(plan: Plan, directory: Directory, fsm: &Path, log_level: &str) -> anyhow::Result<Nodes> {
        let stopping = Arc::new(AtomicBool::new(false));
        let mut nodes = Nodes { plan, ends: JoinSet::new(), pipes: Vec::new(), stopping, directory };
        for position in 0..nodes.plan.nodes.len() {
            nodes.start_one(position, fsm, log_level)?;
        }
        Ok(nodes)
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    fn start_one(&mut self, position: usize, fsm: &Path, log_level: &str) -> anyhow::Result<()> {
        let node = &self.plan.nodes[position];
        let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
        command
            .args(["node", "--exit_on_stdin_close"])
            .arg(format!("--raft_id={}", node.name))
            .arg(format!("--grpc_addr={}", node.grpc_addr))
            .arg(format!("--raft_addr={}", node.raft_addr))
            .arg(format!("--log_level={log_level}"))
            .arg(format!("--min_free_bytes={MIN_FREE}"))
            .arg("--raft_data_dir")
            .arg(self.directory.path());
        if position == 0 {
            command.arg("--raft_bootstrap").arg("--fsm").arg(fsm);
        }
        // What is set for a node of one's own is not meant for these.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LOCKSTEP_") {
                command.env_remove(name);
            }
        }
        // Ctrl-C reaches a whole process group; the nodes are to hear of it from us alone.
        command.process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {}", node.name))?;
        for output in [child.stdout.take().map(boxed), child.stderr.take().map(boxed)].into_iter().flatten() {
            tokio::spawn(prefix_lines(node.name.clone(), output, self.stopping.clone()));
        }
        self.pipes.extend(child.stdin.take());
        self.ends.spawn(wait(node.name.clone(), child));
        Ok(())
    }

    /// Waits until one more node has ended, and says how.
    pub(crate) async fn one_died(&mut self) -> String {
        match self.ends.join_next().await {
            Some(Ok(end)) => end,
            Some(Err(error)) => format!("a node is no longer watched: {error}"),
            None => std::future::pending().await,
        }
    }

    /// Closes the pipes and waits for the nodes; kills those that take too long.
    pub(crate) async fn stop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.pipes.clear();
        let all_ended = async { while self.ends.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_PATIENCE, all_ended).await.is_err() {
            let patience = humantime::format_duration(STOP_PATIENCE);
            print_notice(format_args!("{} nodes did not stop within {patience}: killing them", self.ends.len()));
            self.kill().await;
        }
    }

    /// Ends the nodes at once.
    pub(crate) async fn kill(&mut self) {
        self.ends.shutdown().await;
    }
}

fn boxed(output: impl AsyncRead + Send + Unpin + 'static) -> Box<dyn AsyncRead + Send + Unpin> {
    Box::new(output)
}

async fn wait(name: String, mut child: Child) -> String {
    match child.wait().await {
        Ok(status) => format!("{name} ended: {status}"),
        Err(error) => format!("{name} cannot be waited for: {error}"),
    }
}

/// Passes a node's lines on. While all of them stop, a warning says only that others have stopped.
async fn prefix_lines(name: String, output: impl AsyncRead + Unpin, stopping: Arc<AtomicBool>) {
    let mut lines = BufReader::new(output).lines();
    loop {
        match lines.next_line().await {
            Ok(Some(line)) if stopping.load(Ordering::Relaxed) && line.contains(" WARN ") => {}
            Ok(Some(line)) => print_notice(format_args!("{name} | {line}")),
            Ok(None) => return,
            Err(error) => return print_notice(format_args!("{name} | (its output cannot be read: {error})")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn base_port_gives_neighbouring_ports() {
        let _turn = ONE_AT_A_TIME.lock();
        let base = free_run(6);
        let plan = Plan::new(3, Some(base)).unwrap();
        let addresses: Vec<_> =
            plan.nodes.iter().map(|node| format!("{} {} {}", node.name, node.grpc_addr, node.raft_addr)).collect();
        let expected: Vec<_> = (0..3)
            .zip(["nodeA", "nodeB", "nodeC"])
            .map(|(n, name)| format!("{name} localhost:{} localhost:{}", base + n, base + 3 + n))
            .collect();
        assert_eq!(addresses, expected);
    }

    /// One test at a time looks for ports and uses what it found.
    static ONE_AT_A_TIME: parking_lot::Mutex<()> = parking_lot::Mutex::new(());

    /// The first of `count` neighbouring ports that nobody uses now; below those that the system picks for others.
    fn free_run(count: u16) -> u16 {
        let free = |base: &u16| check_free(*base..base + count).is_ok();
        (20_000..32_000).step_by(usize::from(count)).find(free).unwrap()
    }

    #[test]
    fn a_taken_port_is_named_with_what_to_do() {
        let _turn = ONE_AT_A_TIME.lock();
        let base = free_run(6);
        let _holder = TcpListener::bind(("127.0.0.1", base + 4)).unwrap();
        let error = Plan::new(3, Some(base)).unwrap_err();
        let text = format!("{:?}", error.downcast_ref::<Failure>().unwrap());
        assert!(
            text.contains(&format!("port {} is taken", base + 4)) && text.contains("another --base_port"),
            "{text}"
        );
    }

    #[test]
    fn chosen_ports_differ() {
        let mut ports = free_ports(6).unwrap();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 6);
    }
}
