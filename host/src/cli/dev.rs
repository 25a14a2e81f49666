//! `lockstep dev`: runs a cluster on this machine. It is formed with the same commands that a
//! person would type, and it is removed at the end. The nodes are ordinary `lockstep node`
//! processes. They know nothing of this program except a pipe, which closes when this program dies.

mod certificates;
mod nodes;
mod place;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use lockstep_processes::{Node, Plan};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::call::signature;
use super::called::as_called;
use super::client;
use super::credentials::Credentials;
use super::fsm;
use super::logging;
use super::manager::{Manager, text_field};
use super::progress::mebibytes;
use super::reflection::Reflection;
use super::report::{Failure, print_line, print_notice};
use crate::config::guests_hint;
use certificates::Certificates;
use nodes::{Nodes, Settings};
use place::Directory;

/// Longest wait for a node to start. Loading a large guest for the first time takes a while on a
/// busy machine.
const START_PATIENCE: Duration = Duration::from_secs(60);
const POLL_PAUSE: Duration = Duration::from_millis(50);
/// Longest time for one operation on the manager while the cluster is formed.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(60);
const NODES_MAX: u16 = 9;

const AFTER_HELP: &str = "\
The cluster lives in a temporary directory that is removed at the end. Without a file it takes ./build/kv.wasm, or the
kv.wasm beside this program. Its nodes take commands while 64 MiB of disk are free (--min_free_bytes of `lockstep node`).

Examples:
  lockstep dev
  lockstep dev target/wasm32-unknown-unknown/release/my_machine.wasm
  lockstep dev --base_port 40051
  lockstep dev --tls";

/// Run a cluster on this machine, until Ctrl-C.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct DevArgs {
    /// The state machine
    #[arg(value_name = "FILE")]
    fsm: Option<PathBuf>,

    /// How many nodes
    #[arg(long = "nodes", value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=i64::from(NODES_MAX)))]
    nodes: u16,

    /// First port to use: one port a node for clients, then one a node for peers [default: the
    /// system chooses]
    #[arg(long = "base_port", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..=i64::from(u16::MAX - 2 * NODES_MAX)))]
    base_port: Option<u16>,

    /// Log level of the nodes
    #[arg(long = "log_level", value_name = "LEVEL", default_value = "warn")]
    log_level: String,

    /// Encrypt all ports and let in only who has a certificate: makes certificates as `lockstep tls
    /// init` does, and says how to call the nodes with them
    #[arg(long = "tls")]
    tls: bool,
}

/// Runs the cluster until Ctrl-C or SIGTERM, or until every node has died.
pub(crate) fn run(args: &DevArgs) -> anyhow::Result<()> {
    let fsm = find_fsm(args.fsm.as_deref())?;
    fsm::check("", &fsm)?;
    logging::check(&args.log_level)?;
    super::client_runtime()?.block_on(serve(args, &fsm))
}

async fn serve(args: &DevArgs, fsm: &Path) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let plan = nodes::plan(args.nodes, args.base_port)?;
    let directory = Directory::create()?;
    for (path, bytes) in directory.remove_left_behind() {
        print_notice(format_args!("removed {} ({}), which a killed run left", path.display(), mebibytes(bytes)));
    }
    let certificates = if args.tls { Some(Certificates::make(directory.path(), &plan)?) } else { None };
    let certificates = certificates.as_ref();
    print_notice(format_args!("starting {} nodes", plan.nodes.len()));
    let settings = Settings { fsm, log_level: &args.log_level, certificates };
    let mut nodes = Nodes::start(plan, directory, &settings)?;
    let result = tokio::select! {
        formed = form_and_watch(&mut nodes, &settings) => formed,
        () = signals.next() => {
            print_notice("stopping the nodes; once more to kill them");
            Ok(())
        }
    };
    tokio::select! {
        () = nodes.stop() => {}
        () = signals.next() => nodes.kill(),
    }
    result
}

/// Forms the cluster and watches it. Returns when every node has died, or with the reason why there
/// is no cluster.
async fn form_and_watch(nodes: &mut Nodes, settings: &Settings<'_>) -> anyhow::Result<()> {
    let plan = nodes.plan().clone();
    let credentials = settings.certificates.map(Certificates::credentials).unwrap_or_default();
    let (dead, formed) = tokio::select! {
        dead = nodes.one_died() => (Some(dead), Ok(Vec::new())),
        // A server that answers in the place of a dead node does not belong to this cluster.
        formed = form(&plan, &credentials) => (nodes.take_dead(), formed),
    };
    if let Some(dead) = dead {
        let failure = Failure::new(format!("{dead} while the cluster was formed"));
        return Err(failure.hint("its log is above").into());
    }
    tell(&plan, settings, &formed?)?;
    for _ in &plan.nodes {
        let dead = nodes.one_died().await;
        print_notice(dead);
    }
    Err(Failure::new("every node has died").into())
}

/// Adds a node through the first one. On a busy machine that node may lose its leadership for a
/// moment, so a refusal is tried again. The first one is shown.
async fn add(manager: &Manager, node: &Node) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + START_PATIENCE;
    let mut is_told = false;
    loop {
        match manager.run("AddVoter", &[&node.name, &node.raft_addr, "0"]).await {
            Ok(_) => return Ok(()),
            Err(error) if tokio::time::Instant::now() >= deadline => return Err(error),
            Err(error) if !is_told => {
                print_notice(format!("{} is not added yet, which is tried again: {error:#}", node.name));
                is_told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(POLL_PAUSE).await;
    }
}

/// Forms the cluster as the README tells a person to: the first node leads alone, then it adds the
/// others. Returns the methods that every node serves, once every node serves them.
async fn form(plan: &Plan, credentials: &Credentials) -> anyhow::Result<Vec<String>> {
    let first = plan.nodes.first().context("a cluster has at least one node")?;
    let server = client::connect_quietly(&first.grpc_addr, credentials, START_PATIENCE).await?;
    let manager = Manager::new(server, Some(OPERATION_TIMEOUT));
    let leads = async {
        while text_field(&manager.run("State", &[]).await?, "state").as_deref() != Some("Leader") {
            tokio::time::sleep(POLL_PAUSE).await;
        }
        anyhow::Ok(())
    };
    let patience = humantime::format_duration(START_PATIENCE);
    let leads = tokio::time::timeout(START_PATIENCE, leads).await;
    leads.with_context(|| format!("{} did not become leader within {patience}", first.name))??;
    for node in &plan.nodes[1..] {
        // The peer port opens when the node has started. The leader connects to it at once.
        client::connect_quietly(&node.grpc_addr, credentials, START_PATIENCE).await?;
        add(&manager, node).await.with_context(|| format!("{} was not added", node.name))?;
    }
    let mut methods = Vec::new();
    for node in &plan.nodes {
        let serves = async {
            loop {
                match guest_methods(&node.grpc_addr, credentials).await? {
                    methods if methods.is_empty() => tokio::time::sleep(POLL_PAUSE).await,
                    methods => return anyhow::Ok(methods),
                }
            }
        };
        let serves = tokio::time::timeout(START_PATIENCE, serves).await;
        methods =
            serves.with_context(|| format!("{} did not serve the state machine within {patience}", node.name))??;
    }
    Ok(methods)
}

/// Prints where the nodes are and what to try first.
fn tell(plan: &Plan, settings: &Settings<'_>, methods: &[String]) -> anyhow::Result<()> {
    print_line(format!("\n{} nodes run {}:", plan.nodes.len(), settings.fsm.display()))?;
    for node in &plan.nodes {
        print_line(format!("  {}  clients {}  peers {}", node.name, node.grpc_addr, node.raft_addr))?;
    }
    let addr = &plan.nodes[0].grpc_addr;
    print_line("\nIts methods, on every node:")?;
    for method in methods {
        print_line(format!("  {method}"))?;
    }
    print_line("\nTry, in another terminal:")?;
    let grpcurl = match settings.certificates {
        Some(certificates) => say_certificates(certificates)?,
        None => "grpcurl -plaintext".to_owned(),
    };
    let is_key_value =
        methods.iter().any(|method| method.starts_with("Example/Add  {\"key\": string, \"val\": string}"));
    if is_key_value {
        let other = &plan.nodes[plan.nodes.len() - 1].grpc_addr;
        try_line(&format!("  lockstep call {addr} Example/Add '{{\"key\": \"hello\", \"val\": \"world\"}}'"))?;
        try_line(&format!("  lockstep call {other} Example/Get '{{\"key\": \"hello\", \"linearizable\": true}}'"))?;
        print_line(format!("  {grpcurl} -d '{{\"key\": \"hello\"}}' {addr} Example/Get"))?;
    } else if let Some(name) = methods.first().and_then(|method| method.split_whitespace().next()) {
        try_line(&format!("  lockstep call {addr} {name} '{{}}'"))?;
        print_line(format!("  {grpcurl} -d '{{}}' {addr} {name}"))?;
    }
    try_line(&format!("  lockstep admin {addr} get_configuration"))?;
    print_line("\nCtrl-C stops the nodes and removes their data.")
}

/// Prints the variables with which the commands below are let in. Returns how grpcurl is.
fn say_certificates(certificates: &Certificates) -> anyhow::Result<String> {
    let variables = certificates.variables();
    for (name, value) in &variables {
        print_line(format!("  export {name}={value}"))?;
    }
    let names = variables.map(|(name, _)| format!("${name}"));
    Ok(format!("grpcurl -cacert {} -cert {} -key {}", names[0], names[1], names[2]))
}

/// Prints a command to try, as the person would type it.
fn try_line(command: &str) -> anyhow::Result<()> {
    print_line(as_called(command))
}

async fn guest_methods(addr: &str, credentials: &Credentials) -> anyhow::Result<Vec<String>> {
    let server = client::connect_quietly(addr, credentials, client::CONNECT_PATIENCE).await?;
    let mut reflection = Reflection::new(server);
    let mut methods = Vec::new();
    for service in reflection.services().await? {
        let of_the_host = service.starts_with("grpc.")
            || service.starts_with("lockstep.")
            || ["RaftManager", "RaftAdmin"].contains(&service.as_str());
        if of_the_host {
            continue;
        }
        let pool = reflection.describe(std::slice::from_ref(&service)).await?;
        let described = pool.and_then(|pool| pool.get_service_by_name(&service));
        methods.extend(described.iter().flat_map(|service| service.methods()).map(|method| signature(&method)));
    }
    Ok(methods)
}

fn find_fsm(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        anyhow::ensure!(
            path.is_file(),
            Failure::usage(format!("there is no file {}", path.display())).hint(guests_hint())
        );
        return Ok(path.to_owned());
    }
    let beside_us = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("kv.wasm")));
    let candidates = [Some(PathBuf::from("build/kv.wasm")), beside_us];
    let found = candidates.into_iter().flatten().find(|path| path.is_file());
    found.ok_or_else(|| {
        Failure::usage("no state machine was named, and there is no ./build/kv.wasm").hint(guests_hint()).into()
    })
}

/// Ctrl-C, SIGTERM, and the end of the terminal.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?,
            terminate: signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?,
            hangup: signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
