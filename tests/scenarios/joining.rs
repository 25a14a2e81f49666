//! Learners and voters join. A node that cannot join gets the reason.

use anyhow::{Context, Result};
use lockstep_tests::pb::{
    AddNonvoterRequest, AddVoterRequest, DemoteVoterRequest, GetConfigurationRequest, RemoveServerRequest,
};
use lockstep_tests::{Cluster, NodeProcess, Options, eventually, formed};

async fn suffrage(cluster: &Cluster, n: usize) -> Result<String> {
    let leader = cluster.leader().await?;
    let configuration =
        cluster.nodes[leader].manager().await?.get_configuration(GetConfigurationRequest {}).await?.into_inner();
    let found = configuration.servers.iter().find(|server| server.id == cluster.nodes[n].name);
    Ok(found.map(|server| server.suffrage.clone()).unwrap_or_default())
}

#[tokio::test]
async fn a_learner_joins_is_promoted_demoted_and_removed() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    cluster.add(0, "key", "value").await?;
    let n = cluster.push(Options::member())?;
    cluster.nodes[n].start().await?;
    let leader = cluster.leader().await?;
    let mut manager = cluster.nodes[leader].manager().await?;
    let (id, address) = (cluster.nodes[n].name.clone(), cluster.nodes[n].raft_addr());

    let request = AddNonvoterRequest { id: id.clone(), address: address.clone(), previous_index: 0 };
    cluster.finish(leader, manager.add_nonvoter(request).await?.into_inner()).await?;
    assert_eq!(suffrage(&cluster, n).await?, "Nonvoter");
    assert_eq!(cluster.get(n, "key", true).await?, "value");
    cluster.add(n, "through-learner", "works").await?;

    let request = AddVoterRequest { id: id.clone(), address, previous_index: 0 };
    cluster.finish(leader, manager.add_voter(request).await?.into_inner()).await?;
    assert_eq!(suffrage(&cluster, n).await?, "Voter");

    let request = DemoteVoterRequest { id: id.clone(), previous_index: 0 };
    cluster.finish(leader, manager.demote_voter(request).await?.into_inner()).await?;
    assert_eq!(suffrage(&cluster, n).await?, "Nonvoter");

    let request = RemoveServerRequest { id, previous_index: 0 };
    cluster.finish(leader, manager.remove_server(request).await?.into_inner()).await?;
    assert_eq!(suffrage(&cluster, n).await?, "");
    cluster.add(leader, "key", "three again").await?;
    Ok(())
}

#[tokio::test]
async fn a_demoted_leader_leads_no_more() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    let leader = cluster.leader().await?;
    let request = DemoteVoterRequest { id: cluster.nodes[leader].name.clone(), previous_index: 0 };
    cluster.finish(leader, cluster.nodes[leader].manager().await?.demote_voter(request).await?.into_inner()).await?;
    assert_ne!(cluster.leader().await?, leader);
    cluster.add(leader, "through the learner", "works").await?;
    Ok(())
}

#[tokio::test]
async fn a_joiner_needs_no_fsm() -> Result<()> {
    let mut cluster = formed(1, &[]).await?;
    cluster.add(0, "key", "value").await?;
    let n = cluster.push(Options { fsm: None, ..Options::member() })?;
    cluster.nodes[n].start().await?;
    cluster.add_voter(n).await?;
    cluster.everyone_reads("key", "value").await
}

#[tokio::test]
async fn a_stale_previous_index_is_refused() -> Result<()> {
    let mut cluster = formed(2, &[]).await?;
    let n = cluster.push(Options::member())?;
    cluster.nodes[n].start().await?;
    let leader = cluster.leader().await?;
    let request = AddVoterRequest { id: "nodeC".into(), address: cluster.nodes[n].raft_addr(), previous_index: 1 };
    let operation = cluster.nodes[leader].manager().await?.add_voter(request).await?.into_inner();
    let error = cluster.finish(leader, operation).await.unwrap_err().to_string();
    assert!(error.contains("previous_index") && error.contains('1'), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_node_of_another_cluster_cannot_join() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let foreign = formed(2, &[]).await?;
    let request = AddVoterRequest { id: "nodeB".into(), address: foreign.nodes[1].raft_addr(), previous_index: 0 };
    let operation = cluster.nodes[0].manager().await?.add_voter(request).await?.into_inner();
    let error = cluster.finish(0, operation).await.unwrap_err().to_string();
    assert!(error.contains("is in cluster") && error.contains("empty data directory"), "{error}");
    cluster.add(0, "still", "works").await?;
    foreign.add(0, "still", "works").await?;
    Ok(())
}

#[tokio::test]
async fn an_address_that_is_another_node_is_refused_by_name() -> Result<()> {
    let mut cluster = formed(1, &[]).await?;
    let n = cluster.push(Options::member())?;
    cluster.nodes[n].start().await?;
    let request = AddVoterRequest { id: "nodeX".into(), address: cluster.nodes[n].raft_addr(), previous_index: 0 };
    let operation = cluster.nodes[0].manager().await?.add_voter(request).await?.into_inner();
    let error = cluster.finish(0, operation).await.unwrap_err().to_string();
    assert!(error.contains("nodeX") && error.contains("nodeB"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_change_asked_of_a_follower_names_the_leader() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    let (leader, follower) = (cluster.leader().await?, cluster.follower().await?);
    let request = RemoveServerRequest { id: "nodeA".into(), previous_index: 0 };
    let operation = cluster.nodes[follower].manager().await?.remove_server(request).await?.into_inner();
    let error = cluster.finish(follower, operation).await.unwrap_err().to_string();
    assert!(error.contains("not the leader") && error.contains(&cluster.nodes[leader].name), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_node_with_another_component_is_refused() -> Result<()> {
    let mut cluster = formed(1, &[]).await?;
    // The same guest with one more custom section: the same behaviour in another component.
    let mut other = std::fs::read(lockstep_tests::kv_wasm())?;
    other.extend_from_slice(&[0, 3, 1, b'x', 0]);
    let path = cluster.directory().join("other.wasm");
    std::fs::write(&path, other)?;
    let n = cluster.push(Options { fsm: Some(path), ..Options::member() })?;
    cluster.nodes[n].start().await?;
    let error = cluster.add_voter(n).await.unwrap_err().to_string();
    assert!(error.contains("component"), "{error}");
    cluster.add(0, "still", "works").await?;
    Ok(())
}

async fn says_unfit(node: &NodeProcess) -> Result<()> {
    eventually("it says that it is unfit", || async {
        let status = node.status().await?;
        anyhow::ensure!(status["mode"] == "unfit", "{}", status["mode"]);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_member_that_is_started_with_another_component_runs_its_own_and_warns() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let n = cluster.follower().await?;
    let mut component = std::fs::read(lockstep_tests::kv_wasm())?;
    component.extend_from_slice(&[0, 3, 1, b'x', 0]);
    let path = cluster.directory().join("other.wasm");
    std::fs::write(&path, component)?;
    cluster.nodes[n].stop().await?;
    cluster.nodes[n].options.fsm = Some(path);
    cluster.nodes[n].start().await?;
    cluster.nodes[n].has_logged(&["other.wasm is component", "this node's state runs"]).await?;
    cluster.add(n, "runs", "its own").await?;
    cluster.everyone_reads("runs", "its own").await?;
    cluster.everyone_has_one_hash().await
}

/// The component file that every node keeps was missing or damaged. The node used to exit then,
/// even when it was started with the same bytes.
#[tokio::test]
async fn a_member_whose_component_is_gone_stays_up_unfit_until_it_is_given_again() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let n = cluster.follower().await?;
    let components = cluster.directory().join(&cluster.nodes[n].name).join("components");
    let kept = std::fs::read_dir(&components)?.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let kept = kept.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "wasm"));
    let kept = kept.context("a member keeps its component")?;
    let whole = std::fs::read(&kept)?;
    cluster.nodes[n].stop().await?;
    let bare = cluster.nodes[n].options.clone();
    for (damaged, words) in [(None, "is missing"), (Some(&b"rot"[..]), "is damaged")] {
        match damaged {
            None => std::fs::remove_file(&kept)?,
            Some(bytes) => std::fs::write(&kept, bytes)?,
        }
        cluster.nodes[n].options.fsm = None;
        cluster.nodes[n].spawn()?;
        says_unfit(&cluster.nodes[n]).await?;
        let (code, body) = cluster.nodes[n].http("/readyz").await?;
        assert!(code == 503 && body.contains(words) && body.contains("--fsm"), "{code} {body}");
        assert_eq!(cluster.nodes[n].http("/livez").await?.0, 200);
        assert!(cluster.nodes[n].stop().await?.success());
        cluster.nodes[n].options.fsm = Some(lockstep_tests::kv_wasm());
        cluster.nodes[n].start().await?;
        assert!(std::fs::read(&kept)? == whole, "the component is kept again");
        cluster.add(n, words, "works").await?;
        cluster.nodes[n].stop().await?;
    }
    cluster.nodes[n].options = bare;
    cluster.nodes[n].start().await?;
    cluster.everyone_reads("is damaged", "works").await
}

#[tokio::test]
async fn a_node_not_yet_added_says_so() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut node = NodeProcess::new("nodeA", directory.path(), Options::member())?;
    node.start().await?;
    let request = lockstep_tests::pb::AddRequest { key: "k".into(), val: "v".into() };
    let status = node.client().await?.add(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert!(status.message().contains("not joined a cluster"), "{}", status.message());
    eventually("readyz says why", || async {
        let (code, body) = node.http("/readyz").await?;
        anyhow::ensure!(code == 503 && body.contains("cluster"), "{code} {body}");
        Ok(())
    })
    .await
}
