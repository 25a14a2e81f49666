//! Log time depends on all nodes, not on one node's clock: a leader years ahead does not advance
//! it, and one years behind does not stop it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use lockstep_tests::pb::WatchRequest;
use lockstep_tests::{Cluster, Options, PATIENCE, eventually, formed_of};
use tokio::time::timeout;

const FIVE_YEARS_MS: u64 = 157_680_000_000;

/// Returns the log time, once it is equal on all nodes at the same index.
async fn log_time(cluster: &Cluster) -> Result<u64> {
    eventually("one log time", || async {
        let mut seen = None;
        for node in cluster.nodes.iter().filter(|node| node.running()) {
            let stat = node.stat().await?;
            let here = (stat["last_applied_index"].as_u64(), stat["fsm"]["log_time_ms"].as_u64().context("no time")?);
            ensure!(*seen.get_or_insert(here) == here, "{}: {here:?}, others {seen:?}", node.name);
        }
        Ok(seen.context("no node")?.1)
    })
    .await
}

async fn write_some(cluster: &Cluster, leader: usize) -> Result<()> {
    for n in 0..100 {
        cluster.add(leader, "key", &n.to_string()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_leader_with_a_clock_years_ahead_moves_nothing() -> Result<()> {
    let mut cluster = formed_of(3, Options::member().with_failpoints()).await?;
    let leader = cluster.leader().await?;
    cluster.add(leader, "key", "value").await?;
    let before = log_time(&cluster).await?;
    cluster.nodes[leader].fail_now(&[&format!("clock-shift=return({FIVE_YEARS_MS})")]).await?;
    let mut last = before;
    for _ in 0..3 {
        write_some(&cluster, leader).await?;
        let now = log_time(&cluster).await?;
        ensure!(now >= last, "log time went back from {last} to {now}");
        last = now;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
    ensure!(last <= now, "log time is at {last}, {} ms too far", last - now);
    // The node itself reports the problem.
    eventually("the node says that its clock is ahead", || async {
        let clock = cluster.nodes[leader].status().await?["clock"].take();
        ensure!(clock["problem"].as_str().is_some_and(|text| text.contains("ahead of log time")), "{clock}");
        ensure!(cluster.nodes[leader].log().contains("ahead of log time"), "no line in the log");
        Ok(())
    })
    .await?;
    // The next leader, whose clock is right, continues from that log time.
    cluster.nodes[leader].kill()?;
    let other = cluster.leader().await?;
    write_some(&cluster, other).await?;
    ensure!(log_time(&cluster).await? >= last);
    cluster.everyone_has_one_hash().await
}

/// A node that has just been elected has heard no other clock yet. Its first stamps must not jump.
#[tokio::test]
async fn a_new_leader_with_a_clock_years_ahead_moves_nothing() -> Result<()> {
    let cluster = formed_of(3, Options::member().with_failpoints()).await?;
    let wrong = cluster.follower().await?;
    cluster.nodes[wrong].fail_now(&[&format!("clock-shift=return({FIVE_YEARS_MS})")]).await?;
    for _ in 0..3 {
        cluster.hand_over(wrong).await?;
        // Whoever leads now, the node with the wrong clock led a moment ago.
        eventually("it takes commands", || write_some(&cluster, wrong)).await?;
        cluster.hand_over((wrong + 1) % 3).await?;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
    let last = log_time(&cluster).await?;
    ensure!(last <= now, "log time is at {last}, {} ms too far", last - now);
    cluster.everyone_has_one_hash().await
}

/// A watch of a lease depends on this.
#[tokio::test]
async fn time_passes_for_watches_on_an_idle_cluster() -> Result<()> {
    let cluster = formed_of(3, Options::member()).await?;
    let leader = cluster.leader().await?;
    cluster.add(leader, "key", "value").await?;
    let before = log_time(&cluster).await?;
    let (start, first) = (Instant::now(), cluster.nodes[leader].stat().await?["last_applied_index"].clone());
    // On every node, and so many that an entry for each of them would show.
    let mut streams = Vec::new();
    for node in &cluster.nodes {
        for _ in 0..20 {
            let request = WatchRequest { key: "key".into(), min_index: 0, timeout_seconds: 2 };
            streams.push(node.client().await?.watch(request).await?.into_inner());
        }
    }
    for stream in &mut streams {
        for _ in 0..3 {
            let message = timeout(PATIENCE, stream.message()).await.context("no message")??;
            ensure!(message.is_some_and(|message| message.value == "value"));
        }
    }
    // Each stream has been quiet for two seconds, twice.
    let passed = log_time(&cluster).await? - before;
    ensure!(passed >= 4_000, "log time passed by {passed} ms");
    let seconds = start.elapsed().as_secs() + 1;
    let last = cluster.nodes[leader].stat().await?["last_applied_index"].clone();
    let entries = last.as_u64().context("an index")? - first.as_u64().context("an index")?;
    ensure!(entries <= seconds, "{entries} entries in {seconds} s of silence");
    cluster.everyone_has_one_hash().await
}

#[tokio::test]
async fn a_leader_with_a_clock_years_behind_holds_nothing_up() -> Result<()> {
    let cluster = formed_of(3, Options::member().with_failpoints()).await?;
    let leader = cluster.leader().await?;
    cluster.nodes[leader].fail_now(&[&format!("clock-shift=return(-{FIVE_YEARS_MS})")]).await?;
    let before = log_time(&cluster).await?;
    eventually("log time passes", || async {
        write_some(&cluster, leader).await?;
        let now = log_time(&cluster).await?;
        ensure!(now >= before + 1_000, "from {before} to {now}");
        Ok(())
    })
    .await?;
    let clock = cluster.nodes[leader].status().await?["clock"].take();
    ensure!(clock["problem"].as_str().is_some_and(|text| text.contains("behind log time")), "{clock}");
    cluster.everyone_has_one_hash().await
}
