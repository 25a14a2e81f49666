//! Local reads and `Stat` after a crash: a node never shows an older state than it has shown
//! before.

use anyhow::{Context, Result, ensure};
use lockstep_tests::pb::GetRequest;
use lockstep_tests::{Cluster, NodeProcess, eventually, formed};

/// Returns what a reader of one node sees: the value of `counter` and the applied index.
/// Fails while the node does not serve.
async fn seen(node: &NodeProcess) -> Result<(u64, u64)> {
    let stat = node.stat().await?;
    ensure!(stat["mode"] == "serving", "{} is {}", node.name, stat["mode"]);
    let request = GetRequest { key: "counter".into(), linearizable: false };
    let reply = node.client().await?.get(request).await?.into_inner();
    Ok((reply.value.parse()?, stat["last_applied_index"].as_u64().context("no index")?))
}

async fn shows_no_less(node: &NodeProcess, before: (u64, u64)) -> Result<()> {
    let after = eventually("the node serves again", || seen(node)).await?;
    ensure!(after.0 >= before.0 && after.1 >= before.1, "{} showed {before:?} and then {after:?}", node.name);
    Ok(())
}

/// Returns how often the node has flushed its state.
async fn flushes(node: &NodeProcess) -> Result<u64> {
    let (_, page) = node.http("/metrics").await?;
    let count = page.lines().find_map(|line| line.strip_prefix("lockstep_state_flushes_total "));
    Ok(count.context("the page does not count flushes")?.parse()?)
}

/// Writes a value, waits until node `n` shows it, and kills all nodes. The entry is in the node's
/// log and not in its state on disk: otherwise the node would need nobody to know it committed.
///
/// The node will be started alone, so that no other node can tell it what was committed.
async fn alone_after(cluster: &mut Cluster, n: usize, value: u64) -> Result<(u64, u64)> {
    let leader = cluster.leader().await?;
    let before = loop {
        let flushed = flushes(&cluster.nodes[n]).await?;
        let index = cluster.add(leader, "counter", &value.to_string()).await?;
        let before = eventually("the value is there", || async {
            let seen = seen(&cluster.nodes[n]).await?;
            ensure!(seen.0 == value && seen.1 >= index);
            Ok(seen)
        })
        .await?;
        if flushes(&cluster.nodes[n]).await? == flushed {
            break before;
        }
    };
    for node in &mut cluster.nodes {
        node.kill()?;
    }
    Ok(before)
}

#[tokio::test]
async fn a_killed_node_that_is_alone_shows_no_less_than_before() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    for value in 1..=3 {
        let n = value as usize % 3;
        let before = alone_after(&mut cluster, n, value).await?;
        cluster.nodes[n].start().await?;
        shows_no_less(&cluster.nodes[n], before).await?;
        for node in cluster.nodes.iter_mut().filter(|node| !node.running()) {
            node.start().await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_node_that_lost_its_record_waits_for_a_leader() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let before = alone_after(&mut cluster, 1, 7).await?;
    // A crash of the machine may lose this file.
    std::fs::remove_file(cluster.nodes[1].data_dir.join(&cluster.nodes[1].name).join("SERVED"))?;
    cluster.nodes[1].start().await?;
    eventually("it says what it waits for", || async {
        let refused = seen(&cluster.nodes[1]).await.expect_err("nobody can have told it");
        ensure!(format!("{refused:#}").contains("waiting for a leader"), "{refused:#}");
        Ok(())
    })
    .await?;
    cluster.nodes[2].start().await?;
    shows_no_less(&cluster.nodes[1], before).await
}

#[tokio::test]
async fn a_node_killed_right_after_a_read_shows_no_less_afterwards() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let n = cluster.follower().await?;
    let mut client = cluster.nodes[cluster.leader().await?].client().await?;
    let writer = tokio::spawn(async move {
        for value in 1u64.. {
            let request = lockstep_tests::pb::AddRequest { key: "counter".into(), val: value.to_string() };
            if client.add(request).await.is_err() {
                break;
            }
        }
    });
    for _ in 0..10 {
        let before = eventually("a read", || seen(&cluster.nodes[n])).await?;
        cluster.nodes[n].kill()?;
        cluster.nodes[n].start().await?;
        shows_no_less(&cluster.nodes[n], before).await?;
    }
    ensure!(!writer.is_finished(), "writes went on all the time");
    writer.abort();
    Ok(())
}
