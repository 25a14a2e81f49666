//! The nodes of `lockstep dev` and their directory: which settings they get, and what a person sees
//! of them. Their processes are `lockstep-processes`' own. It knows nothing of Raft.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use lockstep_processes::{NodeCommand, Output, Plan, Process, TlsFiles};
use tokio::time::{Instant, sleep};

use super::certificates::Certificates;
use super::place::Directory;
use crate::cli::report::{Failure, print_notice};

/// Longest wait for nodes to stop. A node that hands over leadership and flushes needs far less.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Time between two looks whether a node has ended.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Host of the nodes. Only this machine reaches them.
const HOST: &str = "localhost";

/// Value of --min_free_bytes for these nodes. A playground may run on a disk with little free
/// space; an ordinary node keeps more.
const MIN_FREE: &str = "64MiB";

/// Plans `count` nodes on the ports from `base_port`, or on ports that are free now.
pub(crate) fn plan(count: u16, base_port: Option<u16>) -> anyhow::Result<Plan> {
    let Some(base) = base_port else {
        return Plan::on_free_ports(HOST, count).context("there are no ports for the nodes");
    };
    Plan::on_ports_from(HOST, base, count).map_err(|error| {
        let last = base + (2 * count - 1);
        Failure::usage(format!("{error}; the nodes were to use the ports {base} to {last}"))
            .hint("give another --base_port, or leave it out: then the system chooses ports that are free")
            .into()
    })
}

/// What all nodes are started with.
pub(crate) struct Settings<'a> {
    pub(crate) fsm: &'a Path,
    pub(crate) log_level: &'a str,
    /// With them, the nodes speak TLS at all ports.
    pub(crate) certificates: Option<&'a Certificates>,
}

/// The running nodes. Dropping it kills those that still run and removes the directory.
pub(crate) struct Nodes {
    plan: Plan,
    /// The nodes that have not ended, as far as [`Nodes::one_died`] has seen.
    running: Vec<Process>,
    /// Set when the nodes were told to stop.
    stopping: Arc<AtomicBool>,
    // Declared last, so that the nodes are dead when their directory is removed.
    directory: Directory,
}

impl Nodes {
    /// Starts all nodes. The first one bootstraps.
    pub(crate) fn start(plan: Plan, directory: Directory, settings: &Settings<'_>) -> anyhow::Result<Nodes> {
        let stopping = Arc::new(AtomicBool::new(false));
        let mut nodes = Nodes { plan, running: Vec::new(), stopping, directory };
        for position in 0..nodes.plan.nodes.len() {
            nodes.start_one(position, settings)?;
        }
        Ok(nodes)
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    fn start_one(&mut self, position: usize, settings: &Settings<'_>) -> anyhow::Result<()> {
        let node = &self.plan.nodes[position];
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = NodeCommand::new(program, node, self.directory.path())
            .flag("log_level", settings.log_level)
            .flag("min_free_bytes", MIN_FREE);
        if position == 0 {
            command = command.bootstrap().flag("fsm", settings.fsm);
        }
        if let Some(certificates) = settings.certificates {
            let files = TlsFiles::of(&certificates.directory, &node.name);
            command = command.client_tls(&files).peer_tls(&files, "require").flag("policy", &certificates.policy);
        }
        let (name, stopping) = (node.name.clone(), self.stopping.clone());
        let output = Output::lines(move |_, line| print_node_line(&name, line, &stopping));
        self.running.push(command.start(output).with_context(|| format!("cannot start {}", node.name))?);
        Ok(())
    }

    /// Waits until one more node has ended, and returns how.
    pub(crate) async fn one_died(&mut self) -> String {
        loop {
            if let Some(end) = self.take_dead() {
                return end;
            }
            sleep(LOOK_PAUSE).await;
        }
    }

    /// Takes out a node that has ended, and returns how.
    pub(crate) fn take_dead(&mut self) -> Option<String> {
        let (position, end) = self.running.iter_mut().enumerate().find_map(|(position, node)| {
            let end = match node.try_wait() {
                Ok(None) => return None,
                Ok(Some(status)) => format!("{} ended: {status}", node.name()),
                Err(error) => format!("{} cannot be waited for: {error}", node.name()),
            };
            Some((position, end))
        })?;
        self.running.remove(position);
        Some(end)
    }

    /// Closes the nodes' stdin and waits for the nodes. Kills those that take too long.
    pub(crate) async fn stop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.running.iter_mut().for_each(Process::close_stdin);
        let deadline = Instant::now() + STOP_PATIENCE;
        while !self.running.is_empty() {
            if Instant::now() >= deadline {
                let patience = humantime::format_duration(STOP_PATIENCE);
                let count = self.running.len();
                print_notice(format_args!("{count} nodes did not stop within {patience}: killing them"));
                return self.kill();
            }
            if self.take_dead().is_none() {
                sleep(LOOK_PAUSE).await;
            }
        }
    }

    /// Kills the nodes at once.
    pub(crate) fn kill(&mut self) {
        self.running.clear();
    }
}

/// Prints a node's line with its name. While all nodes stop, warnings are left out: they say only
/// that other nodes have stopped.
fn print_node_line(name: &str, line: &str, stopping: &AtomicBool) {
    if !(stopping.load(Ordering::Relaxed) && line.contains(" WARN ")) {
        print_notice(format_args!("{name} | {line}"));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_taken_port_is_named_with_what_to_do() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = holder.local_addr().unwrap().port();
        let error = plan(1, Some(base)).unwrap_err();
        let text = format!("{:?}", error.downcast_ref::<Failure>().unwrap());
        assert!(text.contains(&format!("port {base} is taken")) && text.contains("another --base_port"), "{text}");
    }
}
