//! Three members of etcd on this machine: where its program is, how members are started, and which
//! one leads. They run with etcd's defaults, apart from the level of its log, and end with the
//! benchmark. This file reads and writes no key.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use lockstep_processes::{Node, Output, Plan, Process};
use serde_json::Value;

use super::conditions::said_by;
use super::http;
use super::nodes::Members;
use crate::demo_cluster::Cluster;
use crate::setup;

/// What to do when there is no etcd.
pub(super) const INSTALL: &str = "etcd is not here: on Debian and Ubuntu it is the package etcd-server, and \
                                  `--etcd PATH` names a program that lies elsewhere";
/// Variables with this prefix are settings of etcd. Those of an ordinary member are not meant for
/// these. The exception allows etcd to run on architectures that its makers do not test.
const VARIABLES: &str = "ETCD_";
const VARIABLE_KEPT: &str = "ETCD_UNSUPPORTED_ARCH";
/// Last lines of each member's log that are shown when they do not come up.
const LINES_SHOWN: usize = 5;

/// The program.
#[derive(Debug)]
pub(super) struct Program {
    path: PathBuf,
    /// The first line of `etcd --version`.
    pub(super) version: String,
}

/// Finds the program: the one that is named, or else the one in PATH, if there is one.
pub(super) fn find(named: Option<&str>) -> Result<Option<Program>> {
    let path = named.unwrap_or("etcd");
    let version = said_by(Command::new(path).arg("--version"));
    if version.starts_with("etcd") {
        return Ok(Some(Program { path: path.into(), version }));
    }
    if named.is_some() {
        bail!("--etcd: '{path} --version' does not answer as etcd does: name its program, such as /usr/bin/etcd");
    }
    Ok(None)
}

/// Starts three members, and waits until each knows a leader.
pub(super) fn start(program: &Program, cluster: &Cluster) -> Result<Members> {
    // Its port for clients is the `grpc_addr` of a plan, and that for peers the `raft_addr`.
    let plan = Plan::on_free_ports("127.0.0.1", 3)?;
    let directory = cluster.directory().join("etcd");
    std::fs::create_dir_all(&directory)?;
    let mut ids = Vec::new();
    for node in &plan.nodes {
        let log = File::create(directory.join(format!("{}.log", node.name)))?;
        let mut command = command(program);
        command.args(words(node, &plan)).arg("--data-dir").arg(directory.join(&node.name)).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with(VARIABLES) && name != VARIABLE_KEPT {
                command.env_remove(name);
            }
        }
        let process = Process::start(&node.name, &mut command, Output::File(log)).context("etcd does not start")?;
        ids.push(process.id());
        cluster.adopt(process);
    }
    let members = Members { addresses: plan.nodes.into_iter().map(|node| node.grpc_addr).collect(), ids };
    let answer = |address: &String| status(address).and_then(|status| leader_of(&status));
    cluster
        .eventually("three members of etcd know a leader", || {
            members.addresses.iter().map(answer).collect::<Result<Vec<_>>>()
        })
        .with_context(|| format!("etcd did not come up{}", last_words(&directory)))?;
    Ok(members)
}

/// Returns the address of the member that leads.
pub(super) fn leader(members: &Members, cluster: &Cluster) -> Result<String> {
    let leads = |address: &&String| status(address).is_ok_and(|status| is_leader(&status));
    cluster.eventually("a member of etcd leads", || {
        members.addresses.iter().find(leads).cloned().context("no member says that it leads")
    })
}

/// Returns the begin of a command that runs etcd. Where util-linux has setpriv, etcd ends even when
/// this program is killed.
fn command(program: &Program) -> Command {
    if !setup::runs("setpriv", &["--pdeathsig", "KILL", "true"]) {
        return Command::new(&program.path);
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(&program.path);
    command
}

fn words(node: &Node, plan: &Plan) -> Vec<String> {
    let peer = |node: &Node| format!("{}=http://{}", node.name, node.raft_addr);
    let members: Vec<String> = plan.nodes.iter().map(peer).collect();
    let (clients, peers) = (format!("http://{}", node.grpc_addr), format!("http://{}", node.raft_addr));
    let flags = [
        ("--name", node.name.clone()),
        ("--listen-client-urls", clients.clone()),
        ("--advertise-client-urls", clients),
        ("--listen-peer-urls", peers.clone()),
        ("--initial-advertise-peer-urls", peers),
        ("--initial-cluster", members.join(",")),
        ("--initial-cluster-state", "new".to_owned()),
        ("--initial-cluster-token", "lockstep-bench".to_owned()),
        // At level warn, etcd writes a line for every slow call.
        ("--log-level", "error".to_owned()),
    ];
    flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
}

fn status(address: &str) -> Result<Value> {
    Ok(serde_json::from_str(&http::post(address, "/v3/maintenance/status", "{}")?)?)
}

/// Returns the id of the leader that a member knows.
fn leader_of(status: &Value) -> Result<String> {
    let leader = status["leader"].as_str().filter(|leader| *leader != "0");
    leader.map(str::to_owned).with_context(|| format!("it knows no leader: {status}"))
}

fn is_leader(status: &Value) -> bool {
    leader_of(status).is_ok_and(|leader| status["header"]["member_id"] == leader)
}

fn last_words(directory: &Path) -> String {
    let logs = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut words = String::new();
    for log in logs.filter(|path| path.extension().is_some_and(|extension| extension == "log")) {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(LINES_SHOWN).collect();
        words.push_str(&format!("\n--- {} ends with:\n", log.display()));
        words.extend(lines.iter().rev().map(|line| format!("{line}\n")));
    }
    words
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_etcd_is_refused_by_name() {
        let error = find(Some("/nowhere/etcd")).unwrap_err().to_string();
        assert!(error.contains("'/nowhere/etcd --version'"), "{error}");
        assert!(find(Some("true")).is_err(), "it succeeds, and does not say that it is etcd");
    }

    #[test]
    fn the_leader_is_the_member_that_names_itself() {
        let status = |leader: &str| serde_json::json!({ "header": { "member_id": "17" }, "leader": leader });
        assert!(is_leader(&status("17")) && !is_leader(&status("18")));
        assert_eq!(leader_of(&status("18")).unwrap(), "18");
        assert!(leader_of(&status("0")).unwrap_err().to_string().contains("no leader"));
        assert!(leader_of(&serde_json::json!({ "header": { "member_id": "17" } })).is_err());
    }

    #[test]
    fn each_member_knows_all_three() {
        let node = |name: &str| Node {
            name: name.into(),
            grpc_addr: format!("127.0.0.1:1{name}"),
            raft_addr: format!("127.0.0.1:2{name}"),
        };
        let plan = Plan { nodes: ["1", "2", "3"].map(node).into() };
        let words = words(&plan.nodes[1], &plan).join(" ");
        let cluster = "1=http://127.0.0.1:21,2=http://127.0.0.1:22,3=http://127.0.0.1:23";
        assert!(words.contains(&format!("--initial-cluster {cluster} ")), "{words}");
        assert!(words.contains("--name 2 --listen-client-urls http://127.0.0.1:12 "), "{words}");
    }
}
