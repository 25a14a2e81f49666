//! The rolling state hash is equal on all nodes, also after restarts. A node whose state differs is
//! detected and serves nothing any more.

use anyhow::{Result, ensure};
use lockstep_tests::{Cluster, Options, eventually, formed, formed_of, lockstep};

use crate::printed;

#[tokio::test]
async fn all_nodes_have_one_hash_after_restarts() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    cluster.everyone_has_one_hash().await?;
    for round in 0..6 {
        let n = round % 3;
        for k in 0..30 {
            cluster.add((n + 1) % 3, &format!("k{k}"), &format!("v{round}")).await?;
        }
        let before = cluster.nodes[n].stat().await?["fsm"]["state_hash"].clone();
        // The state of a killed node is as old as its last flush. The log brings it up to date with
        // the others, including the hash.
        match round {
            0..3 => cluster.nodes[n].kill()?,
            _ => ensure!(cluster.nodes[n].stop().await?.success()),
        }
        cluster.add((n + 1) % 3, "while", "down").await?;
        cluster.nodes[n].start().await?;
        cluster.everyone_has_one_hash().await?;
        ensure!(cluster.nodes[n].stat().await?["fsm"]["state_hash"] != before, "a write leaves a trace in the hash");
    }
    cluster.everyone_reads("while", "down").await
}

async fn is_quarantined(cluster: &Cluster, n: usize) -> Result<()> {
    eventually("the node is in quarantine", || async {
        let status = cluster.nodes[n].status().await?;
        ensure!(status["mode"] == "quarantined", "{}", status["mode"]);
        Ok(())
    })
    .await?;
    let read = cluster.get(n, "key", false).await.unwrap_err().to_string();
    ensure!(read.contains("a majority of the voters has"), "{read}");
    let write = cluster.add(n, "key", "never").await.unwrap_err().to_string();
    ensure!(write.contains("serves nothing any more"), "{write}");
    let (code, body) = cluster.nodes[n].http("/readyz").await?;
    ensure!(code == 503 && body.contains("quarantined"), "{code} {body}");
    Ok(())
}

/// Tries sources that cannot be used. Each is named in the error, and the node stays in quarantine.
async fn takes_no_other_state(cluster: &Cluster, victim: usize) -> Result<()> {
    let addr = cluster.nodes[victim].grpc_addr();
    let refused = lockstep(&["admin", &addr, "resync", "127.0.0.1:1"])?;
    let said = printed::stderr(&refused);
    ensure!(refused.status.code() == Some(1) && said.contains("is no other member of this cluster"), "{said}");
    ensure!(said.contains(&cluster.nodes[(victim + 1) % 3].grpc_addr()), "the members are named: {said}");
    let refused = lockstep(&["admin", "--leader", &addr, "resync"])?;
    let said = printed::stderr(&refused);
    ensure!(refused.status.code() == Some(2) && said.contains("leave --leader out"), "{said}");
    let stranger = formed(1, &[]).await?;
    let refused = lockstep(&["admin", &addr, "resync", &stranger.nodes[0].grpc_addr()])?;
    let said = printed::stderr(&refused);
    ensure!(refused.status.code() == Some(1) && said.contains("is no other member of this cluster"), "{said}");
    is_quarantined(cluster, victim).await
}

/// Makes the node's state anew from another node. It keeps its process id and its place in the
/// cluster.
async fn is_made_anew(cluster: &mut Cluster, victim: usize, other: usize) -> Result<()> {
    let addr = cluster.nodes[other].grpc_addr();
    let healthy = lockstep(&["admin", &addr, "resync"])?;
    let said = printed::stderr(&healthy);
    ensure!(healthy.status.code() == Some(1) && said.contains("only a node in quarantine is made anew"), "{said}");
    let addr = cluster.nodes[victim].grpc_addr();
    takes_no_other_state(cluster, victim).await?;
    // A member is found by its client address, and gives its state over its peer port.
    let made = lockstep(&["admin", &addr, "resync", &cluster.nodes[other].grpc_addr()])?;
    let said = printed::all(&made);
    ensure!(made.status.success() && said.contains("starts again with it"), "{said}");
    eventually("it serves again", || async {
        let status = cluster.nodes[victim].status().await?;
        ensure!(status["mode"] == "serving", "{}", status["mode"]);
        Ok(())
    })
    .await?;
    ensure!(cluster.nodes[victim].running(), "another process took its place");
    cluster.add(victim, "key", "anew").await?;
    cluster.everyone_reads("key", "anew").await?;
    cluster.hashes_agree().await?;
    // The state is kept after a restart.
    cluster.nodes[victim].kill()?;
    cluster.nodes[victim].start().await?;
    cluster.everyone_reads("key", "anew").await?;
    // The counters of the others still show the earlier mismatch.
    cluster.hashes_agree().await
}

async fn diverges(leads: bool) -> Result<()> {
    let mut cluster = formed_of(3, Options::member().with_failpoints()).await?;
    let victim = if leads { cluster.leader().await? } else { cluster.follower().await? };
    let healthy: Vec<usize> = (0..3).filter(|n| *n != victim).collect();
    cluster.add(healthy[0], "key", "before").await?;
    cluster.nodes[victim].fail_now(&["apply-diverge=return(error)"]).await?;
    // One entry makes the state differ, and the next entry carries the hash.
    for n in 0..20 {
        drop(cluster.add(healthy[n % 2], "key", &format!("v{n}")).await);
    }
    is_quarantined(&cluster, victim).await?;
    for n in &healthy {
        eventually("the others go on", || async { cluster.add(*n, "key", "after").await }).await?;
        ensure!(cluster.get(*n, "key", true).await? == "after");
        ensure!(cluster.nodes[*n].status().await?["mode"] == "serving");
    }
    ensure!(cluster.nodes[victim].running(), "its process stays up to say why");
    // A restart does not end the quarantine: the process runs, but takes no part.
    cluster.nodes[victim].kill()?;
    cluster.nodes[victim].fail_at(&[])?;
    cluster.nodes[victim].spawn()?;
    is_quarantined(&cluster, victim).await?;
    ensure!(cluster.nodes[victim].http("/livez").await?.0 == 200, "alive, though it serves nothing");
    cluster.nodes[victim].stop().await?;
    // The node also cannot become the survivor of a recovery.
    let (name, place) = (cluster.nodes[victim].name.clone(), cluster.directory().display().to_string());
    let recovered =
        lockstep(&["recover", "--raft_id", &name, "--raft_data_dir", &place, "--yes_i_lose_what_the_others_had"])?;
    let said = printed::stderr(&recovered);
    ensure!(recovered.status.code() == Some(1) && said.contains("recover from another one"), "{said}");
    cluster.nodes[victim].spawn()?;
    is_quarantined(&cluster, victim).await?;
    is_made_anew(&mut cluster, victim, healthy[0]).await
}

#[tokio::test]
async fn a_follower_whose_state_differs_is_quarantined() -> Result<()> {
    diverges(false).await
}

#[tokio::test]
async fn a_leader_whose_state_differs_is_quarantined_and_another_one_leads() -> Result<()> {
    diverges(true).await
}

/// A node whose guest writes different values is detected by the entry after the first one with a
/// difference.
async fn differs_by_one_entry(next_command: bool) -> Result<()> {
    let cluster = formed_of(3, Options::member().with_failpoints()).await?;
    // The leader answers a command when it has applied it itself, so its next entry carries the
    // hash of that command.
    let (victim, other) = (cluster.follower().await?, cluster.leader().await?);
    cluster.add(other, "key", "before").await?;
    // The victim has applied that entry, too, so the difference starts with the next command.
    cluster.everyone_has_one_hash().await?;
    cluster.nodes[victim].fail_now(&["guest-diverge=return(error)"]).await?;
    let differs_at = cluster.add(other, "key", "value").await?;
    if next_command {
        // The writes are frequent enough that the leader does not append an entry of its own for
        // the check.
        eventually("one of the next commands finds it", || async {
            cluster.add(other, "key", "next").await?;
            let mode = cluster.nodes[victim].status().await?["mode"].take();
            ensure!(mode == "quarantined", "{mode}");
            Ok(())
        })
        .await?;
    } // Otherwise no client sends anything.
    is_quarantined(&cluster, victim).await?;
    let status = cluster.nodes[victim].status().await?;
    let reason = status["mode_reason"].as_str().unwrap_or_default();
    ensure!(reason.contains(&format!("entry {differs_at} ")), "found at another entry than {differs_at}: {reason}");
    let (_, metrics) = cluster.nodes[victim].http("/metrics").await?;
    ensure!(metrics.contains("lockstep_mode{mode=\"quarantined\"} 1"), "{metrics}");
    cluster.add(other, "key", "after").await?;
    ensure!(cluster.get(other, "key", true).await? == "after");
    Ok(())
}

#[tokio::test]
async fn a_guest_that_differs_on_one_node_is_found_by_the_next_entry() -> Result<()> {
    differs_by_one_entry(true).await
}

#[tokio::test]
async fn a_guest_that_differs_on_one_node_is_found_when_the_cluster_falls_silent() -> Result<()> {
    differs_by_one_entry(false).await
}

/// Builds of the engine are meant to have equal outcomes, and nobody can be sure.
///
/// Upgrades go node by node, so this is only a warning: on the others about the node that differs,
/// and on that node.
#[tokio::test]
async fn nodes_that_run_guests_by_another_build_are_warned_of() -> Result<()> {
    let mut cluster = formed_of(3, Options::member().with_failpoints()).await?;
    let victim = cluster.follower().await?;
    let mut builds = Vec::new();
    for node in &cluster.nodes {
        builds.push(node.status().await?["fsm"]["engine"].as_str().unwrap_or_default().to_owned());
    }
    ensure!(builds.iter().all(|build| *build == builds[0] && build.starts_with("wasmtime ")), "{builds:?}");
    let warned = "runs guests by another build of the engine";
    ensure!(cluster.nodes.iter().all(|node| !node.log().contains(warned)), "they are alike");
    ensure!(cluster.nodes[victim].stop().await?.success());
    cluster.nodes[victim].fail_at(&["build-differs=return(error)"])?;
    cluster.nodes[victim].start().await?;
    // With another leader, all nodes check the builds.
    let leader = cluster.nodes[cluster.leader().await?].grpc_addr();
    let transferred = lockstep(&["admin", &leader, "leadership_transfer"])?;
    ensure!(transferred.status.success(), "{}", printed::stderr(&transferred));
    eventually("each sees who differs", || async {
        for (n, node) in cluster.nodes.iter().enumerate() {
            let log = node.log();
            let wanted = if n == victim { 2 } else { 1 };
            ensure!(log.matches(warned).count() == wanted && log.contains(", planted"), "not yet: {log}");
        }
        Ok(())
    })
    .await?;
    // The node still serves.
    cluster.add(victim, "key", "value").await?;
    cluster.everyone_reads("key", "value").await
}
