//! The limit of open files and sockets: it is raised as far as possible, refused if it is too low,
//! and waited for when it is reached.

use anyhow::{Context, Result, ensure};
use lockstep_tests::{Cluster, Options, eventually, formed_of};

fn limited(soft: u64, hard: u64) -> Options {
    Options { descriptors: Some((soft, hard)), ..Options::bootstrap() }
}

#[tokio::test]
async fn the_soft_limit_is_raised_and_a_hard_one_that_cannot_do_is_refused() -> Result<()> {
    let mut cluster = Cluster::new()?;
    let n = cluster.push(limited(64, 2_000))?;
    cluster.nodes[n].start().await?;
    let status = cluster.nodes[n].status().await?;
    ensure!(status["descriptors"]["max"] == 2_000, "{}", status["descriptors"]);
    cluster.nodes[n].kill()?;
    cluster.nodes[n].options = limited(100, 100);
    cluster.nodes[n].spawn()?;
    ensure!(!cluster.nodes[n].wait_exit().await?.success(), "it started");
    let log = cluster.nodes[n].log();
    ensure!(log.contains("may have 100 files and sockets open") && log.contains("ulimit -Hn"), "{log}");
    Ok(())
}

#[tokio::test]
async fn a_state_that_finds_no_descriptor_is_written_later() -> Result<()> {
    let cluster = formed_of(1, Options::member().with_failpoints()).await?;
    let node = &cluster.nodes[0];
    node.fail_now(&["state-before-flush=return(descriptors)"]).await?;
    eventually("the state is not written", || async {
        cluster.add(0, "k", "kept in the log").await?;
        ensure!(node.log().contains("no descriptor is left: the state is not written yet"), "nothing said");
        Ok(())
    })
    .await?;
    cluster.everyone_reads("k", "kept in the log").await?;
    let flushes =
        |text: &str| text.lines().find_map(|line| line.strip_prefix("lockstep_state_flushes_total ")?.parse().ok());
    // Counted before there are descriptors again: the next flush may be the only one for a while.
    let before: u64 = flushes(&node.http("/metrics").await?.1).context("no count")?;
    node.fail_at(&[])?;
    eventually("it is written", || async {
        cluster.add(0, "k", "and in the state").await?;
        ensure!(flushes(&node.http("/metrics").await?.1) > Some(before), "not yet");
        Ok(())
    })
    .await
}
