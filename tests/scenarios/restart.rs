//! Restarted nodes have everything that they acknowledged.

use anyhow::Result;
use lockstep_tests::{eventually, formed};

#[tokio::test]
async fn a_restarted_follower_catches_up() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let follower = cluster.follower().await?;
    cluster.nodes[follower].kill()?;
    let leader = cluster.leader().await?;
    for n in 0..50 {
        cluster.add(leader, &format!("k{n}"), "v").await?;
    }
    cluster.nodes[follower].start().await?;
    eventually("the restarted node has everything", || async {
        anyhow::ensure!(cluster.get(follower, "k49", false).await? == "v");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn everything_killed_loses_nothing_acknowledged() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    for n in 0..100 {
        cluster.add(n % 3, &format!("k{n}"), &format!("v{n}")).await?;
    }
    for node in &mut cluster.nodes {
        node.kill()?;
    }
    for node in &mut cluster.nodes {
        node.options.bootstrap = false;
        node.start().await?;
    }
    for n in 0..100 {
        assert_eq!(cluster.get(n % 3, &format!("k{n}"), true).await?, format!("v{n}"));
    }
    Ok(())
}

#[tokio::test]
async fn a_clean_stop_of_all_loses_nothing_either() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    cluster.add(0, "key", "value").await?;
    for node in &mut cluster.nodes {
        assert!(node.stop().await?.success());
    }
    for node in &mut cluster.nodes {
        node.start().await?;
    }
    cluster.everyone_reads("key", "value").await
}

#[tokio::test]
async fn bootstrap_of_an_existing_node_is_ignored_with_a_notice() -> Result<()> {
    let mut cluster = formed(1, &[]).await?;
    cluster.add(0, "key", "value").await?;
    cluster.nodes[0].kill()?;
    assert!(cluster.nodes[0].options.bootstrap);
    cluster.nodes[0].start().await?;
    assert_eq!(cluster.get(0, "key", true).await?, "value");
    cluster.nodes[0].has_logged(&["raft_bootstrap is ignored"]).await
}

#[tokio::test]
async fn a_restart_needs_no_fsm() -> Result<()> {
    let mut cluster = formed(1, &[]).await?;
    cluster.add(0, "key", "value").await?;
    cluster.nodes[0].kill()?;
    // The bootstrap flag stays, as in the original command line.
    cluster.nodes[0].options.fsm = None;
    cluster.nodes[0].start().await?;
    assert_eq!(cluster.get(0, "key", true).await?, "value");
    Ok(())
}
