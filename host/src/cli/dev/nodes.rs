//! The child processes of `lockstep dev` and their directory. It knows flags of `lockstep node`,
//! and nothing of Raft.

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

/// Longest wait for nodes to stop. A node that hands over leadership and flushes needs far less.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Value of --min_free_bytes for these nodes. A playground may run on a disk with little free
/// space; an ordinary node keeps more.
const MIN_FREE: &str = "64MiB";

/// Names and addresses of the nodes, chosen before anything runs.
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
    /// Plans `count` nodes on the ports from `base_port`, or on ports that are free now.
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

/// Checks that the ports are free, by listening on each for a moment. If a port belonged to another
/// cluster, that cluster would answer in place of this one, and everything would look right.
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

/// Finds `count` free ports. It holds all of them until all are found, so that no port is found
/// twice. Another process may take a port before the node does; then the node reports it.
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

/// The running nodes. Dropping it kills those that still run and removes the directory.
pub(crate) struct Nodes {
    plan: Plan,
    /// One task for each node. It ends when the node ends, and returns how.
    ends: JoinSet<String>,
    /// One pipe for each node. A node stops when its pipe closes, even if it closes because this
    /// process was killed.
    pipes: Vec<ChildStdin>,
    /// Set when the nodes were told to stop.
    stopping: Arc<AtomicBool>,
    // Declared last, so that the nodes are dead when their directory is removed.
    directory: Directory,
}

impl Nodes {
    /// Starts all nodes. The first one bootstraps.
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
        // Variables that the person set for an ordinary node are not meant for these nodes.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LOCKSTEP_") {
                command.env_remove(name);
            }
        }
        // Ctrl-C reaches a whole process group. So each node gets its own group: only this process
        // may stop it.
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

    /// Waits until one more node has ended, and returns how.
    pub(crate) async fn one_died(&mut self) -> String {
        match self.ends.join_next().await {
            Some(Ok(end)) => end,
            Some(Err(error)) => format!("a node is no longer watched: {error}"),
            None => std::future::pending().await,
        }
    }

    /// Closes the pipes and waits for the nodes. Kills those that take too long.
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

    /// Kills the nodes at once.
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

/// Prints a node's lines with its name. While all nodes stop, warnings are left out: they say only
/// that other nodes have stopped.
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

    /// Only one test at a time looks for ports and uses the ports that it found.
    static ONE_AT_A_TIME: parking_lot::Mutex<()> = parking_lot::Mutex::new(());

    /// Returns the first of `count` adjacent free ports. The search range is below the ports that
    /// the system picks for others.
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
