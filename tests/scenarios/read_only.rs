//! The read-only mode: commands are refused in words on every node while reads go on, and no
//! command slips in when the leader changes. Restarts, backups and members follow it.

use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use lockstep_tests::pb::{AddRequest, WatchRequest};
use lockstep_tests::{Cluster, Options, PATIENCE, eventually, formed, lockstep, lockstep_beside};
use serde_json::json;
use tonic::{Code, Status};

use crate::printed;

/// Runs `lockstep admin read_only` against whoever leads, until a leader takes it.
async fn read_only(cluster: &Cluster, words: &[&str]) -> Result<String> {
    eventually("the leader sets the mode", || async {
        let set = ask(cluster, cluster.leader().await?, words).await?;
        ensure!(set.status.success(), "{}", printed::all(&set));
        Ok(printed::all(&set))
    })
    .await
}

async fn ask(cluster: &Cluster, n: usize, words: &[&str]) -> Result<Output> {
    let addr = cluster.nodes[n].grpc_addr();
    lockstep_beside(&[&["admin", &addr, "read_only"][..], words].concat()).await
}

/// Checks that a status is the mode's refusal.
fn check_refusal(status: &Status) -> Result<()> {
    let value = |name| status.metadata().get(name).and_then(|value| value.to_str().ok());
    ensure!(status.code() == Code::FailedPrecondition, "{status:?}");
    ensure!(status.message().contains("read-only mode") && status.message().contains("was not applied"), "{status:?}");
    ensure!(value("lockstep-outcome") == Some("not-applied"), "{status:?}");
    ensure!(value("lockstep-reason") == Some("read-only"), "{status:?}");
    Ok(())
}

/// Checks that no running node takes a command.
async fn everyone_refuses(cluster: &Cluster) -> Result<()> {
    for n in (0..cluster.nodes.len()).filter(|n| cluster.nodes[*n].running()) {
        let refused = cluster.add(n, "key", "refused").await.err().context("the command was applied")?;
        check_refusal(refused.downcast_ref::<Status>().context("a status")?)?;
    }
    Ok(())
}

#[tokio::test]
async fn commands_are_refused_on_every_node_while_reads_go_on() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    cluster.add(0, "key", "value").await?;
    let said = read_only(&cluster, &["on", "Example/A*"]).await?;
    ensure!(said.contains("refuses as of index") && said.contains("Example/Add"), "{said}");
    everyone_refuses(&cluster).await?;
    cluster.everyone_reads("key", "value").await?;
    let request = WatchRequest { key: "key".into(), min_index: 0, timeout_seconds: 0 };
    let mut watch = cluster.nodes[1].client().await?.watch(request).await?.into_inner();
    let first = tokio::time::timeout(PATIENCE, watch.message()).await??.context("it sends the value")?;
    ensure!(first.value == "value", "{first:?}");
    for node in &cluster.nodes {
        let fsm = node.status().await?["fsm"].take();
        ensure!(fsm["read_only"]["methods"] == json!(["Example/A*"]), "{fsm}");
        ensure!(fsm["commands_applied"] == 1, "{fsm}");
    }
    // Members change meanwhile, and a node that comes later obeys, too.
    let joiner = cluster.push(Options::member())?;
    cluster.nodes[joiner].start().await?;
    cluster.add_voter(joiner).await?;
    cluster.everyone_reads("key", "value").await?;
    everyone_refuses(&cluster).await?;
    // Any node leads to the leader, and the patterns may have a flag of their own.
    let follower = cluster.follower().await?;
    let said = eventually("the leader is found", || async {
        let set = ask(&cluster, follower, &["on", "--methods", "Example/A*", "--json"]).await?;
        ensure!(set.status.success(), "{}", printed::all(&set));
        Ok(printed::all(&set))
    })
    .await?;
    let set: serde_json::Value = serde_json::from_str(&said)?;
    ensure!(set["on"] == true && set["refused"] == json!(["Example/Add"]), "{set}");
    let said = read_only(&cluster, &["off"]).await?;
    ensure!(said.contains("takes commands as of index"), "{said}");
    eventually("every node takes commands", || async {
        for n in 0..cluster.nodes.len() {
            cluster.add(n, "key", "again").await?;
        }
        Ok(())
    })
    .await?;
    ensure!(cluster.nodes[0].status().await?["fsm"]["read_only"].is_null());
    cluster.everyone_has_one_hash().await
}

/// Commands come all the time, and the leader dies while they are refused.
#[tokio::test]
async fn no_command_slips_in_when_the_leader_changes() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    cluster.add(0, "key", "value").await?;
    let (stop, newest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut writers = Vec::new();
    for node in &cluster.nodes {
        let (mut client, stop, newest) = (node.client().await?, stop.clone(), newest.clone());
        writers.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                // Its node may be the one that dies.
                if let Ok(added) = client.add(AddRequest { key: "load".into(), val: "x".into() }).await {
                    newest.fetch_max(added.into_inner().commit_index, Ordering::Relaxed);
                }
            }
        }));
    }
    eventually("writes go on", || async {
        ensure!(newest.load(Ordering::Relaxed) > 100);
        Ok(())
    })
    .await?;
    read_only(&cluster, &["on"]).await?;
    let since = cluster.nodes[cluster.leader().await?].status().await?["fsm"]["read_only"]["index"].clone();
    let since = since.as_u64().context("an index")?;
    let applied = |status: &serde_json::Value| status["fsm"]["commands_applied"].as_u64();
    let follower = cluster.follower().await?;
    let before = eventually("the follower has the mode", || async {
        let status = cluster.nodes[follower].status().await?;
        ensure!(!status["fsm"]["read_only"].is_null());
        applied(&status).context("a count")
    })
    .await?;
    for _ in 0..2 {
        let leader = cluster.leader().await?;
        cluster.nodes[leader].kill()?;
        cluster.leader_without(leader).await?;
        cluster.nodes[leader].start().await?;
    }
    eventually("everyone refuses", || everyone_refuses(&cluster)).await?;
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await?;
    }
    ensure!(newest.load(Ordering::Relaxed) < since, "a command was applied behind the mode of entry {since}");
    cluster.everyone_has_one_hash().await?;
    for node in &cluster.nodes {
        let status = node.status().await?;
        ensure!(applied(&status) == Some(before), "{} has applied commands: {status}", node.name);
    }
    Ok(())
}

#[tokio::test]
async fn what_is_no_mode_is_refused_with_what_there_is() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let refused = ask(&cluster, 0, &["on", "Example/Get"]).await?;
    let said = printed::all(&refused);
    ensure!(!refused.status.success() && said.contains("no command matches") && said.contains("Example/Add"), "{said}");
    let refused = ask(&cluster, 0, &["perhaps"]).await?;
    ensure!(refused.status.code() == Some(2), "{}", printed::all(&refused));
    cluster.add(0, "key", "value").await?;
    Ok(())
}

#[tokio::test]
async fn a_backup_keeps_the_mode_and_says_so() -> Result<()> {
    let old = formed(1, &[]).await?;
    old.add(0, "key", "value").await?;
    read_only(&old, &["on"]).await?;
    let (file, addr) = (old.directory().join("today.backup"), old.nodes[0].grpc_addr());
    let backup = lockstep(&["backup", &addr])?;
    ensure!(backup.status.success(), "{}", printed::stderr(&backup));
    std::fs::write(&file, &backup.stdout)?;
    let mut new = Cluster::new()?;
    let (from, place) = (file.display().to_string(), new.directory().display().to_string());
    let restored = lockstep(&["restore", "--from", &from, "--raft_id=nodeA", "--raft_data_dir", &place])?;
    let said = printed::all(&restored);
    ensure!(restored.status.success() && said.contains("in read-only mode"), "{said}");
    let first = new.push(Options { fsm: None, ..Options::bootstrap() })?;
    new.nodes[first].start().await?;
    eventually("it refuses commands", || everyone_refuses(&new)).await?;
    new.everyone_reads("key", "value").await?;
    read_only(&new, &["off"]).await?;
    new.add(first, "key", "again").await?;
    Ok(())
}
