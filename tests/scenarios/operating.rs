//! What an operator uses: HTTP, signals, Stat, the admin command, environment variables.

use anyhow::{Result, ensure};
use lockstep_tests::{Options, Signal, formed, lockstep};
use serde_json::{Value, json};

use crate::printed;

#[tokio::test]
async fn http_serves_livez_readyz_and_metrics() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    cluster.add(0, "key", "value").await?;
    for node in &cluster.nodes {
        assert_eq!(node.http("/livez").await?.0, 200);
        lockstep_tests::eventually("ready", || async {
            let (code, body) = node.http("/readyz").await?;
            ensure!(code == 200, "{code} {body}");
            Ok(())
        })
        .await?;
        let (code, metrics) = node.http("/metrics").await?;
        assert_eq!(code, 200);
        assert!(metrics.contains("lockstep_") && metrics.ends_with("# EOF\n"), "{metrics}");
        assert_eq!(node.http("/nothing").await?.0, 404);
    }
    Ok(())
}

#[tokio::test]
async fn a_node_without_quorum_is_live_but_not_ready() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let leader = cluster.leader().await?;
    let survivor = (leader + 1) % 3;
    for n in (0..3).filter(|n| *n != survivor) {
        cluster.nodes[n].kill()?;
    }
    lockstep_tests::eventually("not ready", || async {
        let (code, body) = cluster.nodes[survivor].http("/readyz").await?;
        ensure!(code == 503 && body.contains("leader"), "{code} {body}");
        Ok(())
    })
    .await?;
    assert_eq!(cluster.nodes[survivor].http("/livez").await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn signals_stop_a_node_with_exit_code_0() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    for (n, signal) in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGTERM].into_iter().enumerate() {
        cluster.nodes[n].signal(signal)?;
        let status = cluster.nodes[n].wait_exit().await?;
        assert_eq!(status.code(), Some(0), "{}", cluster.nodes[n].log());
    }
    Ok(())
}

#[tokio::test]
async fn shutdown_by_rpc_ends_the_node_with_exit_code_0() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let follower = cluster.follower().await?;
    let operation =
        cluster.nodes[follower].manager().await?.shutdown(lockstep_tests::pb::ShutdownRequest {}).await?.into_inner();
    cluster.finish(follower, operation).await?;
    assert_eq!(cluster.nodes[follower].wait_exit().await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn stat_is_a_json_object_with_numbers() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    let leader = cluster.leader().await?;
    let index = cluster.add(leader, "key", "value").await?;
    for (n, node) in cluster.nodes.iter().enumerate() {
        let stat = node.stat().await?;
        assert_eq!(stat["node_id"], node.name.as_str());
        assert_eq!(stat["leader"]["node_id"], cluster.nodes[leader].name.as_str());
        assert_eq!(stat["nodes"].as_array().map(Vec::len), Some(3));
        assert!(stat["nodes"].as_array().unwrap().iter().all(|node| node["suffrage"] == "Voter"), "{stat}");
        assert_eq!(stat["raft"]["state"], json!(if n == leader { "Leader" } else { "Follower" }));
        for number in ["term", "commit_index", "applied_index", "last_log_index"] {
            assert!(stat["raft"][number].is_u64(), "{number}: {stat}");
        }
        assert!(stat["fsm"]["snapshot_count"].is_u64() && stat["fsm"]["fsm_index"].is_u64(), "{stat}");
    }
    let stat = cluster.nodes[leader].stat().await?;
    assert!(stat["last_applied_index"].as_u64() >= Some(index), "{stat}");
    Ok(())
}

#[tokio::test]
async fn admin_prints_and_transfers_leadership() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    let leader = cluster.leader().await?;
    let target = cluster.follower().await?;
    let (name, address) = (cluster.nodes[target].name.clone(), cluster.nodes[target].raft_addr());
    let output =
        lockstep(&["admin", &cluster.nodes[leader].grpc_addr(), "leadership_transfer_to_server", &name, &address])?;
    let text = printed::all(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("LeadershipTransferToServer") && text.contains("Await"), "{text}");
    assert_eq!(cluster.leader().await?, target);
    Ok(())
}

#[tokio::test]
async fn admin_fails_with_the_operation() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let address = cluster.nodes[0].grpc_addr();
    let output = lockstep(&["admin", &address, "remove_server", "nobody"])?;
    let text = printed::all(&output);
    assert!(output.status.code() == Some(1) && text.contains("nobody"), "{text}");
    let output = lockstep(&["admin", &address, "add_votr"])?;
    let said = printed::stderr(&output);
    assert!(output.status.code() == Some(2) && said.contains("did you mean add_voter?"), "{said}");
    Ok(())
}

#[tokio::test]
async fn admin_prints_the_status_of_a_node_as_json() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    let (leader, follower) = (cluster.leader().await?, cluster.follower().await?);
    let addr = |n: usize| cluster.nodes[n].grpc_addr();
    let all = (0..3).map(addr).collect::<Vec<_>>().join(",");
    for (arguments, of) in
        [(vec!["admin", &addr(follower), "status"], follower), (vec!["admin", "--leader", &all, "status"], leader)]
    {
        let output = lockstep(&arguments)?;
        ensure!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let shown: Value = serde_json::from_slice(&output.stdout)?;
        assert_eq!(shown["node_id"], cluster.nodes[of].name.as_str());
        let names = |status: &Value| status.as_object().map(|all| all.keys().cloned().collect::<Vec<_>>());
        assert_eq!(names(&shown), names(&cluster.nodes[of].status().await?));
    }
    let output = lockstep(&["admin", &addr(follower), "status", "more"])?;
    assert!(output.status.code() == Some(2) && printed::stderr(&output).contains("1 arguments"), "{output:?}");
    Ok(())
}

#[tokio::test]
async fn a_restart_under_other_addresses_is_recorded() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let follower = cluster.follower().await?;
    cluster.nodes[follower].stop().await?;
    let name = cluster.nodes[follower].name.clone();
    // New addresses for the same directory.
    let directory = cluster.directory().to_path_buf();
    cluster.nodes[follower] = lockstep_tests::NodeProcess::new(&name, &directory, Options::member())?;
    cluster.nodes[follower].start().await?;
    let address = cluster.nodes[follower].raft_addr();
    lockstep_tests::eventually("the membership holds the new address", || async {
        let stat = cluster.nodes[cluster.leader().await?].stat().await?;
        let found =
            stat["nodes"].as_array().is_some_and(|nodes| nodes.iter().any(|node| node["addr"] == address.as_str()));
        ensure!(found, "{stat}");
        Ok(())
    })
    .await?;
    cluster.add(follower, "key", "value").await?;
    cluster.everyone_reads("key", "value").await
}

/// A stop used to wait for a membership operation that called an address where nothing answers, and
/// ended with code 1.
#[tokio::test]
async fn a_leader_stops_cleanly_while_members_are_being_added() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let leader = cluster.leader().await?;
    let (_reserved, nobody) = lockstep_tests::nobody()?;
    let mut manager = cluster.nodes[leader].manager().await?;
    for name in ["nodeX", "nodeY", "nodeZ"] {
        let request =
            lockstep_tests::pb::AddVoterRequest { id: name.into(), address: nobody.clone(), previous_index: 0 };
        manager.add_voter(request).await?;
    }
    assert_eq!(cluster.nodes[leader].stop().await?.code(), Some(0), "{}", cluster.nodes[leader].log());
    let survivor = cluster.leader().await?;
    cluster.add(survivor, "key", "value").await?;
    Ok(())
}
