//! A data directory that is put back to an earlier copy loses what its node had acknowledged, and
//! nobody can tell. A node that has applied what the others lost must end, and serve nothing of it.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use lockstep_tests::{eventually, formed};

#[tokio::test]
async fn a_node_that_applied_what_a_majority_lost_ends_in_words() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let [whole, old, away] = [0, 1, 2];
    cluster.add(whole, "key", "early").await?;
    eventually("everyone has it", || cluster.everyone_reads("key", "early")).await?;
    // A copy of a stopped directory is a good copy of an early state.
    ensure!(cluster.nodes[old].stop().await?.success());
    let directory = cluster.nodes[old].data_dir.join(&cluster.nodes[old].name);
    let copy = cluster.directory().join("copy");
    let copied = Command::new("cp").arg("-a").arg(&directory).arg(&copy).status()?;
    ensure!(copied.success());
    cluster.nodes[old].start().await?;
    cluster.nodes[away].kill()?;
    for n in 0..40 {
        let key = format!("k{n}");
        eventually("a command", || cluster.add(whole, &key, "late")).await?;
    }
    eventually("both have them", || cluster.everyone_reads("k39", "late")).await?;
    cluster.nodes[old].kill()?;
    cluster.nodes[whole].kill()?;
    std::fs::remove_dir_all(&directory)?;
    std::fs::rename(&copy, &directory)?;

    // The two that lost them elect a leader and go on.
    cluster.nodes[old].start().await?;
    cluster.nodes[away].start().await?;
    eventually("they go on", || cluster.add(old, "key", "new")).await?;
    cluster.nodes[whole].start().await?;
    // The leader first finds out, entry by entry, where the two logs part.
    let mut ended = cluster.nodes[whole].wait_exit().await;
    for _ in 0..2 {
        if ended.is_err() {
            ended = cluster.nodes[whole].wait_exit().await;
        }
    }
    let others = format!("{}\n{}", cluster.nodes[old].log(), cluster.nodes[away].log());
    let status = ended.with_context(|| others)?;
    let log = cluster.nodes[whole].log();
    ensure!(status.code() == Some(1), "{status}: {log}");
    ensure!(log.contains("this node has applied entry") && log.contains("the leader's log has other entries"), "{log}");
    ensure!(log.contains("add it again with an empty data directory"), "{log}");
    eventually("the others go on", || cluster.add(away, "key", "newer")).await?;
    Ok(())
}
