//! The steps of the demo. Every sentence that it prints was checked a line before.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::demo_cluster::Cluster;

/// Keys written before the leader dies.
const KEYS_BEFORE: usize = 20;
/// Keys written while the old leader is dead.
const KEYS_AFTER: usize = 20;

pub(crate) fn demo() -> Result<()> {
    let cluster = Cluster::plan()?;
    run(&cluster).map_err(|error| error.context(format!("the demo failed{}", cluster.last_words())))
}

fn run(cluster: &Cluster) -> Result<()> {
    form(cluster)?;
    let mut written = BTreeMap::new();

    step("Write through a follower: it forwards to the leader");
    let follower = others(&leader(cluster)?)[0];
    cluster.lockstep(&["call", cluster.grpc_addr(follower), "Example/Add", r#"{"key":"hello","val":"world"}"#])?;
    written.insert("hello".to_string(), "world".to_string());

    step("Read it linearizably from every node");
    for name in Cluster::NAMES {
        let request = r#"{"key":"hello","linearizable":true}"#;
        let text = cluster.lockstep(&["call", cluster.grpc_addr(name), "Example/Get", request])?;
        let reply: Value = serde_json::from_str(&text)?;
        ensure!(reply["value"] == "world", "{name} answered {reply}");
    }

    watch_a_change(cluster, follower, &mut written)?;
    kill_the_leader(cluster, &mut written)?;
    table(cluster)?;

    step("Stop all three (SIGTERM)");
    cluster.stop()?;
    println!("  every node ended with exit code 0; the temporary directory is removed");
    Ok(())
}

/// Starts three nodes, and forms the cluster as the README tells a person to.
pub(crate) fn form(cluster: &Cluster) -> Result<()> {
    step("Start three nodes");
    for name in Cluster::NAMES {
        cluster.start(name, name == "nodeA")?;
    }
    step("Form the cluster: nodeA leads it alone and adds the others");
    ["nodeB", "nodeC"].into_iter().try_for_each(|name| add_voter(cluster, "nodeA", name))
}

/// Adds a node to the cluster that `leader` leads, as the README tells a person to.
pub(crate) fn add_voter(cluster: &Cluster, leader: &str, name: &str) -> Result<()> {
    let index = cluster.eventually(&format!("{leader} applies its first entries"), || {
        let reply = cluster.call(leader, "RaftManager/AppliedIndex", "{}")?;
        index_of(&reply["index"]).filter(|index| *index > 0).context("nothing applied yet")
    })?;
    let leader = cluster.grpc_addr(leader);
    println!("  $ build/lockstep admin {leader} applied_index\n    {index}");
    cluster.lockstep(&["admin", leader, "add_voter", name, cluster.raft_addr(name), &index.to_string()])?;
    Ok(())
}

fn watch_a_change(cluster: &Cluster, follower: &'static str, written: &mut BTreeMap<String, String>) -> Result<()> {
    step("Watch a key on a follower while it changes");
    let updates = cluster.stream(follower, "Example/Watch", r#"{"key":"watched"}"#)?;
    let patience = Duration::from_secs(10);
    let (_, first) = updates.recv_timeout(patience).context("the watch did not send the current value")?;
    println!("    {first}");
    let began = Instant::now();
    add(cluster, follower, "watched", "now")?;
    let acknowledged = began.elapsed();
    let (seen, second) = updates.recv_timeout(patience).context("the watch did not see the change")?;
    println!("    {second}");
    ensure!(serde_json::from_str::<Value>(&second)?["value"] == "now", "the watch sent {second}");
    println!(
        "  the write, typed as a command, took {acknowledged:.0?}; the watcher had the value {:.0?} after it began",
        seen - began
    );
    written.insert("watched".into(), "now".into());
    cluster.end_streams()
}

fn kill_the_leader(cluster: &Cluster, written: &mut BTreeMap<String, String>) -> Result<()> {
    step(&format!("Write {KEYS_BEFORE} keys, kill the leader with SIGKILL, write {KEYS_AFTER} more"));
    let dead = leader(cluster)?;
    let survivors = others(&dead);
    for n in 0..KEYS_BEFORE {
        put(cluster, survivors[n % 2], n, written)?;
    }
    cluster.kill(&dead)?;
    let killed = Instant::now();
    println!("  {dead} is dead");
    for n in KEYS_BEFORE..KEYS_BEFORE + KEYS_AFTER {
        put(cluster, survivors[n % 2], n, written)?;
        if n == KEYS_BEFORE {
            println!(
                "  the first write after it was acknowledged {:.0?} after the kill, without an error",
                killed.elapsed()
            );
        }
    }
    println!("  {} leads now", leader_seen_by(cluster, survivors[0])?);

    step("Nothing was lost");
    for name in survivors {
        check_all(cluster, name, written)?;
    }

    step(&format!("Restart {dead} and let it catch up"));
    cluster.start(&dead, false)?;
    let began = Instant::now();
    cluster.eventually("the restarted node serves everything", || check_all(cluster, &dead, written))?;
    println!("  {dead} was back {:.0?} after its start", began.elapsed());
    Ok(())
}

fn put(cluster: &Cluster, through: &str, n: usize, written: &mut BTreeMap<String, String>) -> Result<()> {
    let (key, value) = (format!("key-{n}"), format!("value-{n}"));
    add(cluster, through, &key, &value)?;
    written.insert(key, value);
    Ok(())
}

fn add(cluster: &Cluster, through: &str, key: &str, value: &str) -> Result<()> {
    let reply = cluster.call(through, "Example/Add", &json!({ "key": key, "val": value }).to_string())?;
    index_of(&reply["commitIndex"]).map(drop).with_context(|| format!("Add answered {reply}"))
}

fn check_all(cluster: &Cluster, name: &str, written: &BTreeMap<String, String>) -> Result<()> {
    for (key, value) in written {
        let reply = cluster.call(name, "Example/Get", &json!({ "key": key, "linearizable": true }).to_string())?;
        ensure!(reply["value"] == *value, "{name} answered {reply} for {key}, which was acknowledged as {value}");
    }
    println!("  all {} acknowledged keys read back linearizably from {name}", written.len());
    Ok(())
}

/// Reads an index. The JSON mapping of protobuf writes 64-bit numbers as strings.
fn index_of(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// Returns the name of the leader of the first three nodes.
pub(crate) fn leader(cluster: &Cluster) -> Result<String> {
    leader_of(cluster, &Cluster::NAMES)
}

/// Returns the name of the leader of these nodes, which are one cluster.
pub(crate) fn leader_of(cluster: &Cluster, names: &[impl AsRef<str>]) -> Result<String> {
    cluster.eventually("a leader", || {
        let seen = names.iter().find_map(|name| leader_seen_by(cluster, name.as_ref()).ok());
        seen.context("no node knows a leader")
    })
}

fn leader_seen_by(cluster: &Cluster, name: &str) -> Result<String> {
    let reply = cluster.call(name, "RaftManager/Leader", "{}")?;
    let id =
        reply["serverId"].as_str().filter(|id| !id.is_empty()).with_context(|| format!("{name} knows no leader"))?;
    Ok(id.to_string())
}

fn others(leader: &str) -> [&'static str; 2] {
    let mut others = Cluster::NAMES.into_iter().filter(|name| *name != leader);
    [others.next().expect("three names"), others.next().expect("three names")]
}

fn table(cluster: &Cluster) -> Result<()> {
    step("The cluster");
    println!(
        "  {:<7} {:<17} {:<9} {:>5} {:>10} {:>10} {:>10}",
        "node", "grpc", "state", "term", "last log", "committed", "applied"
    );
    let target = cluster
        .eventually("a status of every node", || {
            Cluster::NAMES.iter().map(|name| status(cluster, name)).collect::<Result<Vec<_>>>()
        })?
        .iter()
        .filter_map(|status| status["raft"]["last_log_index"].as_u64())
        .max()
        .context("Stat holds no raft.last_log_index")?;
    for name in Cluster::NAMES {
        let status = cluster.eventually("every node applies everything", || {
            let status = status(cluster, name)?;
            ensure!(status["last_applied_index"].as_u64() >= Some(target), "{name} is behind: {status}");
            Ok(status)
        })?;
        let raft = &status["raft"];
        println!(
            "  {:<7} {:<17} {:<9} {:>5} {:>10} {:>10} {:>10}",
            name,
            cluster.grpc_addr(name),
            raft["state"].as_str().unwrap_or("?"),
            raft["term"].to_string(),
            raft["last_log_index"].to_string(),
            raft["commit_index"].to_string(),
            status["last_applied_index"].to_string()
        );
    }
    Ok(())
}

fn status(cluster: &Cluster, name: &str) -> Result<Value> {
    let reply = cluster.call(name, "Example/Stat", "{}")?;
    let text = reply["stats"].as_str().with_context(|| format!("Stat answered {reply}"))?;
    Ok(serde_json::from_str(text)?)
}

pub(crate) fn step(title: &str) {
    println!("\n== {title}");
}
