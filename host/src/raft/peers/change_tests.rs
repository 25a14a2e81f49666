//! Tests the peer port over a real connection: what a member takes for a change of what the cluster
//! runs, and what it answers.

use super::*;
use crate::machine::RollbackTrial;
use crate::raft::peers::handlers::Trial;

#[tokio::test]
async fn a_wrong_route_changes_nothing() {
    let node = TestNode::start(2, Some(cluster(1)), TestHost::default()).await;
    let mut client = node.client().await;
    for wrong in [Some(route(9, 1, 2)), Some(route(1, 1, 3)), None] {
        let prepare = peer::PrepareChangeRequest { route: wrong.clone(), ..Default::default() };
        let rehearse = peer::RehearseChangeRequest { route: wrong.clone(), ..Default::default() };
        let roll_back = peer::PrepareRollbackRequest { route: wrong, ..Default::default() };
        assert_eq!(client.prepare_change(prepare).await.unwrap_err().code(), Code::FailedPrecondition);
        assert_eq!(client.rehearse_change(rehearse).await.unwrap_err().code(), Code::FailedPrecondition);
        assert_eq!(client.prepare_rollback(roll_back).await.unwrap_err().code(), Code::FailedPrecondition);
    }
    assert_eq!(node.reached.count(), 0);
}

fn change() -> Change {
    Change { component_hash: component_hash().to_vec().into(), ..Change::default() }
}

#[tokio::test]
async fn a_member_is_prepared_for_a_change_by_whoever_holds_the_component() {
    let node = TestNode::start(2, Some(cluster(1)), TestHost::default()).await;
    let mut client = node.client().await;
    let holder = Addresses { name: "node7".into(), raft_addr: "seven:7".into(), ..Addresses::default() };
    let request = |change: Bytes| peer::PrepareChangeRequest {
        route: Some(route(1, 7, 2)),
        change,
        holder: Some(wire::encode_node(&holder)),
    };
    let encoded: Bytes = prost::Message::encode_to_vec(&change()).into();
    let prepared = client.prepare_change(request(encoded)).await.unwrap().into_inner();
    assert_eq!((&*prepared.build, prepared.log_first), ("fetches from node7 at seven:7", 7));
    let refused = client.prepare_change(request(Bytes::new())).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(node.reached.count(), 1, "what has no meaning reaches nobody");
}

#[tokio::test]
async fn a_rehearsal_ends_with_a_report_or_with_words() {
    let node = TestNode::start(2, Some(cluster(1)), TestHost::default()).await;
    let mut client = node.client().await;
    let trial = |first| Trial { change: change(), mark: [6; 16], index: 9, first };
    let report = client.rehearse_change(wire::encode_trial(route(1, 7, 2), &trial(4))).await.unwrap();
    assert_eq!(report.into_inner().report_json, "[4, 9]");
    let refused = client.rehearse_change(wire::encode_trial(route(1, 7, 2), &trial(9))).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, "it has no such checkpoint"));
}

#[tokio::test]
async fn a_member_is_ready_for_a_rollback_or_says_why_not() {
    let node = TestNode::start(2, Some(cluster(1)), TestHost::default()).await;
    let mut client = node.client().await;
    let request = |at| wire::encode_rollback(route(1, 7, 2), RollbackTrial { change_index: 3, at });
    let report = client.prepare_rollback(request(Some(8))).await.unwrap();
    assert_eq!(report.into_inner().report_json, "[8]");
    let refused = client.prepare_rollback(request(None)).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, "it has no such checkpoint"));
    assert_eq!(client.prepare_rollback(request(Some(u64::MAX))).await.unwrap_err().code(), Code::InvalidArgument);
}
