//! The JSON log: one object a line, and no name twice in an object, from the first line to the
//! last. Also the environment variables of a node: an empty one counts as not set.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use lockstep_tests::{NodeProcess, Options, formed_of, kv_wasm, lockstep, lockstep_binary};
use serde_json::Value;

/// Parses the objects of a log.
///
/// `serde_json` does not detect duplicate names, so each `"name":` must occur once in its line.
fn objects(log: &str) -> Result<Vec<Value>> {
    let object = |line: &str| -> Result<Value> {
        let value: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
        for name in value.as_object().with_context(|| format!("no object: {line}"))?.keys() {
            let times = line.matches(&format!("\"{name}\":")).count();
            ensure!(times == 1 || value.get("spans").is_some(), "{name:?} is there {times} times: {line}");
        }
        for name in ["timestamp", "level", "target", "node", "message"] {
            ensure!(value[name].is_string(), "no {name}: {line}");
        }
        Ok(value)
    };
    ensure!(!log.is_empty(), "an empty log");
    log.lines().map(object).collect()
}

#[tokio::test]
async fn every_line_of_a_cluster_is_an_object() -> Result<()> {
    let member = Options::member().with(&["--log_format=json", "--log_level=debug,h2=info,hyper=info"]);
    let mut cluster = formed_of(2, member).await?;
    cluster.add(1, "k", "v").await?;
    for node in cluster.nodes.iter_mut().rev() {
        node.stop().await?;
    }
    for node in &cluster.nodes {
        let objects = objects(&node.log())?;
        ensure!(objects.iter().all(|object| object["node"] == *node.name), "a line names another node");
    }
    Ok(())
}

/// Returns the command of a node with these additional flags.
/// It also has flags for its name, its directory and its log format.
fn node(place: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(lockstep_binary());
    command.args(["node", "--raft_bootstrap", "--raft_id=nodeA", "--log-format", "json", "--raft_data_dir"]);
    command.arg(place).args(["--grpc_addr=localhost:0"]).args(more).stdin(Stdio::null());
    command
}

#[test]
fn last_words_are_objects_too() -> Result<()> {
    let place = tempfile::tempdir()?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let taken = format!("--raft_addr={}", taken.local_addr()?);
    let (free, fsm) = ("--raft_addr=localhost:0", format!("--fsm={}", kv_wasm().display()));
    let table = [
        ([taken.as_str(), &fsm, "--http_addr=localhost:0"], 1, "is taken"),
        ([free, "--fsm=/nowhere.wasm", "--http_addr=localhost:0"], 2, "--fsm: there is no file"),
        ([free, &fsm, "--heartbeat_timeout=fast"], 2, "invalid value 'fast' for '--heartbeat_timeout"),
        ([free, &fsm, "--no_such_flag"], 2, "unexpected argument"),
    ];
    for (more, code, says) in table {
        let told = node(place.path(), &more).output()?;
        assert_eq!(told.status.code(), Some(code), "{more:?}");
        let objects = objects(&String::from_utf8(told.stderr)?)?;
        let last = objects.last().context("no last words")?;
        ensure!(last["level"] == "ERROR" && last["node"] == "nodeA", "{last}");
        ensure!(last.to_string().contains(says), "{more:?}: {last}");
    }
    Ok(())
}

/// Returns the names of all environment variables that the help lists.
fn variables() -> Result<BTreeSet<String>> {
    let help = String::from_utf8(lockstep(&["node", "--help"])?.stdout)?;
    let names = help.split("[env: ").skip(1).filter_map(|rest| rest.split('=').next());
    let names: BTreeSet<String> = names.map(str::to_owned).collect();
    ensure!(names.contains("LOCKSTEP_HTTP_ADDR") && names.len() > 20, "{names:?}");
    Ok(names)
}

#[tokio::test]
async fn empty_variables_say_nothing_and_others_are_named() -> Result<()> {
    let place = tempfile::tempdir()?;
    let env: Vec<(String, String)> = variables()?.into_iter().map(|name| (name, String::new())).collect();
    let mut node = NodeProcess::new("nodeA", place.path(), Options { env, ..Options::bootstrap() })?;
    node.start().await?;
    node.has_logged(&[" INFO "]).await.context("an empty level is the default")?;
    node.stop().await?;
    for (variable, value) in [("LOCKSTEP_HEARTBEAT_TIMEOUT", "fast"), ("LOCKSTEP_ELECTION_TIMEOUT", "1ms")] {
        let mut command = Command::new(lockstep_binary());
        let told = command.args(["node", "--raft_id=nodeB"]).env(variable, value).stdin(Stdio::null()).output()?;
        let said = String::from_utf8(told.stderr)?;
        ensure!(told.status.code() == Some(2) && said.contains(variable), "{said}");
    }
    Ok(())
}

/// A process that is killed when the test ends.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _gone = self.0.kill().and_then(|()| self.0.wait());
    }
}

#[tokio::test]
async fn ports_that_the_system_chose_are_told() -> Result<()> {
    let place = tempfile::tempdir()?;
    let (fsm, log) = (format!("--fsm={}", kv_wasm().display()), place.path().join("log"));
    let more = ["--raft_addr=localhost:0", "--http_addr=localhost:0", &fsm];
    let _node = Ended(node(place.path(), &more).stderr(File::create(&log)?).spawn()?);
    let serving = lockstep_tests::eventually("the node serves", || async {
        let said = std::fs::read_to_string(&log)?;
        let found = said.lines().find(|line| line.contains(r#""message":"serving""#)).map(str::to_owned);
        Ok(serde_json::from_str::<Value>(&found.context("it does not serve yet")?)?)
    })
    .await?;
    for name in ["grpc", "raft", "http"] {
        let addr = serving[name].as_str().context("no address")?;
        ensure!(!addr.ends_with(":0"), "{serving}");
        tokio::net::TcpStream::connect(addr).await.with_context(|| format!("nobody listens at {addr}"))?;
    }
    Ok(())
}
