//! Changes of leader that wait for no timeout. The heartbeat timeout is far longer than a client
//! waits by default, so the calls here would fail if a change waited for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use lockstep_tests::pb::{AddRequest, LeadershipTransferToServerRequest};
use lockstep_tests::{Cluster, Options, Signal, eventually, formed, one_node};

/// A restarted node stands for election after 12 to 18 s, a follower of a silent leader after 30 s.
/// A call without a deadline waits 10 s.
const SLOW: [&str; 2] = ["--heartbeat_timeout=30s", "--election_timeout=30s"];

fn others(cluster: &Cluster, n: usize) -> Vec<usize> {
    (0..cluster.nodes.len()).filter(|other| *other != n).collect()
}

async fn term(cluster: &Cluster, n: usize) -> Result<u64> {
    cluster.nodes[n].stat().await?["raft"]["term"].as_u64().context("no term")
}

#[tokio::test]
async fn a_killed_leader_is_replaced_as_soon_as_its_process_is_gone() -> Result<()> {
    let mut cluster = formed(3, &SLOW).await?;
    let dead = cluster.leader().await?;
    cluster.add(dead, "before", "1").await?;
    cluster.nodes[dead].kill()?;
    for n in others(&cluster, dead) {
        cluster.add(n, &format!("after-{n}"), "2").await?;
    }
    cluster.everyone_reads("before", "1").await?;
    // With only one of three nodes left, no node may become leader.
    let second = cluster.leader().await?;
    cluster.nodes[second].kill()?;
    let last = others(&cluster, dead).into_iter().find(|n| *n != second).context("three nodes")?;
    let before = term(&cluster, last).await?;
    cluster.add(last, "lonely", "3").await.unwrap_err();
    ensure!(term(&cluster, last).await? == before, "it stood without a quorum");
    Ok(())
}

#[tokio::test]
async fn a_leader_that_is_killed_and_back_at_once_is_replaced() -> Result<()> {
    let mut cluster = formed(3, &SLOW).await?;
    let leader = cluster.leader().await?;
    cluster.nodes[leader].kill()?;
    cluster.nodes[leader].start().await?;
    for n in 0..3 {
        cluster.add(n, &format!("after-{n}"), "1").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_cluster_that_is_killed_whole_elects_as_soon_as_it_is_back() -> Result<()> {
    let mut cluster = formed(3, &SLOW).await?;
    cluster.add(0, "before", "1").await?;
    for node in &mut cluster.nodes {
        node.kill()?;
    }
    for node in &mut cluster.nodes {
        node.spawn()?;
    }
    for n in 0..3 {
        cluster.add(n, &format!("after-{n}"), "2").await?;
    }
    cluster.everyone_reads("before", "1").await
}

#[tokio::test]
async fn one_refused_link_changes_no_leader() -> Result<()> {
    let mut cluster = Cluster::new()?;
    for options in [Options::bootstrap(), Options::member(), Options::member()] {
        let n = cluster.push(options.with(&SLOW).with_failpoints())?;
        cluster.nodes[n].start().await?;
        if n > 0 {
            cluster.add_voter(n).await?;
        }
    }
    let leader = cluster.leader().await?;
    let cut = others(&cluster, leader)[0];
    let before = term(&cluster, leader).await?;
    cluster.nodes[cut].fail_at(&["probe-refused=return(error)", "peer-append-refused=return(error)"])?;
    // The stream breaks at the next entry that is sent on it.
    eventually("the follower finds its leader gone, and nobody agrees", || async {
        cluster.add(leader, "k", "1").await?;
        ensure!(cluster.nodes[cut].log().contains("but not a quorum"), "not asked yet");
        Ok(())
    })
    .await?;
    for _ in 0..20 {
        cluster.add(leader, "k", "2").await?;
    }
    ensure!(
        cluster.leader().await? == leader && term(&cluster, leader).await? == before,
        "a healthy leader was deposed"
    );
    cluster.nodes[cut].fail_at(&[])?;
    cluster.everyone_reads("k", "2").await
}

#[tokio::test]
async fn a_planned_stop_hands_leadership_over_and_exits_cleanly() -> Result<()> {
    let mut cluster = formed(3, &SLOW).await?;
    let leader = cluster.leader().await?;
    ensure!(cluster.nodes[leader].stop().await?.success());
    for n in others(&cluster, leader) {
        cluster.add(n, &format!("after-{n}"), "1").await?;
    }
    Ok(())
}

#[tokio::test]
async fn nodes_stopped_all_at_once_do_not_wait_for_each_other() -> Result<()> {
    let mut cluster = formed(3, &SLOW).await?;
    for node in &cluster.nodes {
        node.signal(Signal::SIGTERM)?;
    }
    for node in &mut cluster.nodes {
        ensure!(node.wait_exit().await?.success(), "{} did not stop cleanly", node.name);
    }
    Ok(())
}

#[tokio::test]
async fn calls_at_healthy_nodes_wait_out_a_paused_leader() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    cluster.add(0, "k", "before").await?;
    let paused = cluster.leader().await?;
    cluster.nodes[paused].signal(Signal::SIGSTOP)?;
    let healthy = others(&cluster, paused);
    let (a, b) = (healthy[0], healthy[1]);
    let calls = tokio::try_join!(
        cluster.add(a, "written-a", "1"),
        cluster.add(b, "written-b", "1"),
        cluster.get(a, "k", true),
        cluster.get(b, "k", true),
    );
    cluster.nodes[paused].signal(Signal::SIGCONT)?;
    let (_, _, read_a, read_b) = calls?;
    ensure!(read_a == "before" && read_b == "before", "read {read_a:?} and {read_b:?}");
    eventually("the one that was paused follows", || cluster.everyone_reads("written-b", "1")).await
}

#[tokio::test]
async fn a_hand_over_that_nobody_takes_says_so_and_the_cluster_goes_on() -> Result<()> {
    let mut cluster = Cluster::new()?;
    for options in [Options::bootstrap(), Options::member(), Options::member()] {
        // A hand-over may take 0.4 of this time.
        let n = cluster.push(options.with(&["--heartbeat_timeout=2s"]).with_failpoints())?;
        cluster.nodes[n].start().await?;
        if n > 0 {
            cluster.add_voter(n).await?;
        }
    }
    let leader = cluster.leader().await?;
    let deaf = others(&cluster, leader)[0];
    cluster.nodes[deaf].fail_at(&["peer-transfer-refused=return(error)"])?;
    let target = &cluster.nodes[deaf];
    let request = LeadershipTransferToServerRequest { id: target.name.clone(), address: target.raft_addr() };
    eventually("the failpoint is seen", || async {
        ensure!(cluster.nodes[deaf].log().contains("failpoint peer-transfer-refused is now"));
        Ok(())
    })
    .await?;
    let operation = cluster.nodes[leader].manager().await?.leadership_transfer_to_server(request).await?.into_inner();
    let refused = cluster.finish(leader, operation).await.err().context("the hand-over was taken")?.to_string();
    ensure!(refused.contains("stepped down"), "{refused}");
    for n in 0..3 {
        cluster.add(n, &format!("after-{n}"), "1").await?;
    }
    Ok(())
}

/// Writes increasing versions to its own keys through one node.
///
/// A failed call is an error unless that node is the one that is being restarted.
async fn pinned_writer(
    address: String,
    n: usize,
    restarting: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) -> Result<BTreeMap<String, u64>> {
    let mut client = None;
    let (mut version, mut acknowledged) = (0, BTreeMap::new());
    while !stop.load(Ordering::SeqCst) {
        let mut open = match client.take() {
            Some(open) => open,
            None => match one_node().connect(&address).await {
                Ok(node) => lockstep_tests::pb::example_client::ExampleClient::new(node),
                Err(_) => {
                    tokio::task::yield_now().await;
                    continue;
                }
            },
        };
        version += 1;
        let key = format!("pinned{n}-{}", version % 10);
        match open.add(AddRequest { key: key.clone(), val: version.to_string() }).await {
            Ok(_) => {
                acknowledged.insert(key, version);
                client = Some(open);
            }
            Err(_) if restarting.load(Ordering::SeqCst) == n => {}
            Err(status) => anyhow::bail!("a call at a healthy node failed: {status}"),
        }
    }
    Ok(acknowledged)
}

#[tokio::test]
async fn a_rolling_restart_under_load_fails_no_call_at_another_node() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let (restarting, stop) = (Arc::new(AtomicUsize::new(usize::MAX)), Arc::new(AtomicBool::new(false)));
    let writers: Vec<_> = (0..3)
        .map(|n| {
            let address = cluster.nodes[n].grpc_addr();
            tokio::spawn(pinned_writer(address, n, restarting.clone(), stop.clone()))
        })
        .collect();
    // The leader is first, which is the hardest case: each of the three nodes leads when it is
    // stopped, or has just lost the leadership.
    for round in 0..3 {
        let n = if round == 0 { cluster.leader().await? } else { (cluster.leader().await? + round) % 3 };
        restarting.store(n, Ordering::SeqCst);
        ensure!(cluster.nodes[n].stop().await?.success(), "{} did not stop cleanly", cluster.nodes[n].name);
        cluster.nodes[n].start().await?;
        eventually("it serves again", || async {
            let (status, body) = cluster.nodes[n].http("/readyz").await?;
            ensure!(status == 200, "{body}");
            cluster.add(n, "round", &round.to_string()).await
        })
        .await?;
        restarting.store(usize::MAX, Ordering::SeqCst);
    }
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        for (key, version) in writer.await?? {
            for n in 0..3 {
                let found: u64 = cluster.get(n, &key, true).await?.parse()?;
                ensure!(found >= version, "{key} is {found} at node {n}, {version} was acknowledged");
            }
        }
    }
    Ok(())
}
