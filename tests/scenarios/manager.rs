//! RaftManager and its older name RaftAdmin: what each of the twenty calls does, and that both
//! names are the same service.

use anyhow::{Result, ensure};
use lockstep_tests::call::Call;
use lockstep_tests::pb::raft_admin_client::RaftAdminClient;
use lockstep_tests::pb::raft_admin_get_configuration_response::server::Suffrage;
use lockstep_tests::pb::raft_admin_state_response::State;
use lockstep_tests::pb::{self, AddRequest, Future};
use lockstep_tests::{Options, eventually, formed, lockstep};
use prost::Message;

/// Encodes `Example/Add` for `ApplyLog`.
fn add(key: &str, val: &str) -> Vec<u8> {
    let request = AddRequest { key: key.into(), val: val.into() }.encode_to_vec();
    Call { method: "Example/Add".into(), request: request.into() }.encode_to_vec()
}

#[tokio::test]
async fn apply_log_runs_a_command_as_if_a_client_had_sent_it() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    let leader = cluster.leader().await?;
    let mut manager = cluster.nodes[leader].manager().await?;
    let request = pb::ApplyLogRequest { data: add("key", "value"), extensions: b"ignored".to_vec() };
    let index = cluster.finish(leader, manager.apply_log(request).await?.into_inner()).await?;
    ensure!(index > 0, "no index");
    cluster.everyone_reads("key", "value").await?;

    let follower = cluster.follower().await?;
    let mut manager = cluster.nodes[follower].manager().await?;
    let request = pb::ApplyLogRequest { data: add("key", "other"), extensions: Vec::new() };
    let operation = manager.apply_log(request).await?.into_inner();
    let error = cluster.finish(follower, operation).await.unwrap_err().to_string();
    assert!(error.contains("not the leader") && error.contains(&cluster.nodes[leader].name), "{error}");
    cluster.everyone_reads("key", "value").await
}

#[tokio::test]
async fn apply_log_proposes_nothing_that_is_no_command() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let mut manager = cluster.nodes[0].manager().await?;
    let before = manager.last_index(pb::LastIndexRequest {}).await?.into_inner().index;
    let call = |method: &str| Call { method: method.into(), request: Default::default() }.encode_to_vec();
    for data in [b"soup".to_vec(), call("Example/Get"), call("Example/Watch"), call("Example/Nothing"), Vec::new()] {
        let request = pb::ApplyLogRequest { data, extensions: Vec::new() };
        let status = manager.apply_log(request).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");
    }
    assert_eq!(manager.last_index(pb::LastIndexRequest {}).await?.into_inner().index, before);
    Ok(())
}

#[tokio::test]
async fn the_older_name_is_the_same_service_in_other_words() -> Result<()> {
    let mut cluster = formed(1, &[]).await?;
    let n = cluster.push(Options::member())?;
    cluster.nodes[n].start().await?;
    let mut admin = RaftAdminClient::new(cluster.nodes[0].connect().await?);
    let mut manager = cluster.nodes[0].manager().await?;

    let (id, address) = (cluster.nodes[n].name.clone(), cluster.nodes[n].raft_addr());
    let operation = admin.add_nonvoter(pb::AddNonvoterRequest { id, address, previous_index: 0 }).await?.into_inner();
    // The operation is started under one name and awaited and forgotten under the other.
    let done = manager.r#await(operation.clone()).await?.into_inner();
    ensure!(done.error.is_empty(), "{}", done.error);
    manager.forget(operation.clone()).await?;
    let status = admin.r#await(operation).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound, "{status:?}");

    let servers = admin.get_configuration(pb::GetConfigurationRequest {}).await?.into_inner().servers;
    let seen: Vec<_> = servers.iter().map(|server| (server.id.as_str(), server.suffrage())).collect();
    assert_eq!(seen, [("nodeA", Suffrage::Voter), ("nodeB", Suffrage::Nonvoter)]);
    assert_eq!(servers[1].address, cluster.nodes[n].raft_addr());
    assert_eq!(admin.state(pb::StateRequest {}).await?.into_inner().state(), State::Leader);
    assert_eq!(admin.leader(pb::LeaderRequest {}).await?.into_inner().address, cluster.nodes[0].raft_addr());
    assert!(admin.last_contact(pb::LastContactRequest {}).await?.into_inner().unix_nano > 0);
    let mut follower = RaftAdminClient::new(cluster.nodes[n].connect().await?);
    assert_eq!(follower.state(pb::StateRequest {}).await?.into_inner().state(), State::Follower);

    for service in ["RaftAdmin", "RaftManager"] {
        let methods = String::from_utf8(lockstep(&["call", &cluster.nodes[0].grpc_addr(), service])?.stdout)?;
        assert!(methods.contains(&format!("{service}/AddVoter")), "{methods}");
    }
    Ok(())
}

/// Makes every call that neither changes the membership nor stops a node.
/// The calls go to the leader, under both names.
#[tokio::test]
async fn the_other_calls_answer_under_both_names() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    let leader = cluster.leader().await?;
    let index = cluster.add(leader, "key", "value").await?;
    let mut manager = cluster.nodes[leader].manager().await?;
    let mut admin = RaftAdminClient::new(cluster.nodes[leader].connect().await?);

    let barrier = [manager.barrier(pb::BarrierRequest {}).await?, admin.barrier(pb::BarrierRequest {}).await?];
    let verify = [
        manager.verify_leader(pb::VerifyLeaderRequest {}).await?,
        admin.verify_leader(pb::VerifyLeaderRequest {}).await?,
    ];
    let snapshot = [manager.snapshot(pb::SnapshotRequest {}).await?, admin.snapshot(pb::SnapshotRequest {}).await?];
    for operation in barrier.into_iter().chain(verify).chain(snapshot) {
        let reached = cluster.finish(leader, operation.into_inner()).await?;
        assert!(reached >= index, "{reached} is before {index}");
    }
    let applied = manager.applied_index(pb::AppliedIndexRequest {}).await?.into_inner().index;
    assert!(applied >= index && admin.applied_index(pb::AppliedIndexRequest {}).await?.into_inner().index >= applied);
    assert!(admin.last_index(pb::LastIndexRequest {}).await?.into_inner().index >= index);
    let stats = admin.stats(pb::StatsRequest {}).await?.into_inner().stats;
    assert_eq!(stats["state"], "Leader");
    assert_eq!(stats.len(), manager.stats(pb::StatsRequest {}).await?.into_inner().stats.len());

    let operation = admin.leadership_transfer(pb::LeadershipTransferRequest {}).await?.into_inner();
    cluster.finish(leader, operation).await?;
    assert_ne!(cluster.leader().await?, leader);
    let operation = admin.verify_leader(pb::VerifyLeaderRequest {}).await?.into_inner();
    let error = cluster.finish(leader, operation).await.unwrap_err().to_string();
    assert!(error.contains("not the leader"), "{error}");
    Ok(())
}

#[tokio::test]
async fn an_unknown_token_is_not_found() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let mut manager = cluster.nodes[0].manager().await?;
    let token = Future { operation_token: "never-given".into() };
    for status in [manager.r#await(token.clone()).await.unwrap_err(), manager.forget(token).await.unwrap_err()] {
        assert_eq!(status.code(), tonic::Code::NotFound, "{status:?}");
    }
    Ok(())
}

/// Between Shutdown and its end, the node reports that state and answers for its operation. A
/// client that never forgets the operation does not keep the node running.
#[tokio::test]
async fn a_node_that_was_shut_down_answers_for_a_moment_and_exits_with_0() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    for forget in [false, true] {
        let n = cluster.follower().await?;
        let mut manager = cluster.nodes[n].manager().await?;
        let operation = manager.shutdown(pb::ShutdownRequest {}).await?.into_inner();
        let done = manager.r#await(operation.clone()).await?.into_inner();
        assert_eq!(done.error, "");
        let state = manager.state(pb::StateRequest {}).await?.into_inner().state;
        assert_eq!(state, "Shutdown");
        if forget {
            manager.forget(operation).await?;
        }
        assert_eq!(cluster.nodes[n].wait_exit().await?.code(), Some(0), "{}", cluster.nodes[n].log());
        cluster.nodes[n].start().await?;
        eventually("it is back", || async { cluster.everyone_reads("nothing", "").await }).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_change_is_refused_after_the_configuration_changed() -> Result<()> {
    let mut cluster = formed(1, &[]).await?;
    let n = cluster.push(Options::member())?;
    cluster.nodes[n].start().await?;
    let mut manager = cluster.nodes[0].manager().await?;
    let stale = manager.applied_index(pb::AppliedIndexRequest {}).await?.into_inner().index;
    let before = cluster.add_voter(n).await?;
    let request = pb::DemoteVoterRequest { id: "nodeB".into(), previous_index: stale };
    let error = cluster.finish(0, manager.demote_voter(request).await?.into_inner()).await.unwrap_err().to_string();
    assert!(error.contains("previous_index") && error.contains(&before.to_string()), "{error}");
    let request = pb::DemoteVoterRequest { id: "nodeB".into(), previous_index: before };
    let index = cluster.finish(0, manager.demote_voter(request).await?.into_inner()).await?;
    let configuration = manager.get_configuration(pb::GetConfigurationRequest {}).await?.into_inner();
    assert_eq!(configuration.index, index);
    assert_eq!(configuration.servers[1].suffrage, "Nonvoter");
    Ok(())
}
