//! Network failures that must not disturb a leader with a healthy majority: neither the term nor
//! the leader changes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lockstep_tests::pb::{AppliedIndexRequest, RemoveServerRequest};
use lockstep_tests::{Cut, Load, Network, eventually, formed_in, in_network};

/// Timeouts that are longer than the default, so that a busy machine changes no leader.
const SLOW: [&str; 2] = ["--heartbeat_timeout=2s", "--election_timeout=6s"];
/// Several times the silence after which a follower stands for election.
const HELD: Duration = Duration::from_secs(7);

/// Applies the cuts under load, waits, and heals them.
///
/// The clients of nodes that are not `touched` see no failure, only a pause, and the leader stays.
async fn leader_stays(network: Network, cuts: impl Fn(usize) -> (usize, Vec<Cut>)) -> Result<()> {
    let cluster = formed_in(network, 3, &SLOW).await?;
    let (leader, term) = (cluster.leader().await?, cluster.term().await?);
    let (touched, cuts) = cuts(leader);
    let load = Load::start(&cluster, 1)?;
    load.everyone_served().await?;
    load.touch(&[touched]);
    cluster.network().cut(&cuts)?;
    tokio::time::sleep(HELD).await;
    let since = load.now();
    eventually("writes at the others", || async {
        ensure!(load.served_since(since).1 == 2);
        Ok(())
    })
    .await?;
    // The node was really cut off: it has applied nothing of this.
    let applied = |stat: serde_json::Value| stat["last_applied_index"].as_u64().context("an index");
    let (behind, ahead) =
        (applied(cluster.nodes[touched].stat().await?)?, applied(cluster.nodes[leader].stat().await?)?);
    ensure!(behind < ahead, "{} has applied {behind} of {ahead} without its link", cluster.nodes[touched].name);
    cluster.network().heal()?;
    load.everyone_served().await?;
    let failed: Vec<_> = load.take().into_iter().filter(|seen| !seen.touched).flat_map(|seen| seen.failures).collect();
    ensure!(failed.is_empty(), "calls failed at nodes that were left alone: {failed:?}");
    load.finish(&cluster).await?;
    assert_eq!((cluster.leader().await?, cluster.term().await?), (leader, term), "leader and term changed");
    Ok(())
}

#[test]
fn a_refused_link_between_leader_and_one_follower_changes_no_leader() -> Result<()> {
    in_network(|network| {
        leader_stays(network, |leader| {
            let follower = (leader + 1) % 3;
            (follower, vec![Cut::Refused(leader, follower)])
        })
    })
}

#[test]
fn a_follower_that_was_cut_off_disturbs_nobody_when_it_is_back() -> Result<()> {
    in_network(|network| {
        leader_stays(network, |leader| {
            let alone = (leader + 1) % 3;
            let both = |other| [Cut::Lost { from: alone, to: other }, Cut::Lost { from: other, to: alone }];
            (alone, [both(leader), both((leader + 2) % 3)].concat())
        })
    })
}

#[test]
fn a_follower_that_does_not_hear_the_leader_deposes_it_not() -> Result<()> {
    in_network(|network| {
        leader_stays(network, |leader| {
            let deaf = (leader + 1) % 3;
            (deaf, vec![Cut::Lost { from: leader, to: deaf }])
        })
    })
}

#[test]
fn a_node_that_was_removed_while_cut_off_disturbs_nobody_when_it_is_back() -> Result<()> {
    in_network(|network| async {
        let cluster = formed_in(network, 3, &SLOW).await?;
        let leader = cluster.leader().await?;
        let removed = (leader + 1) % 3;
        cluster.network().isolate(removed)?;
        let mut manager = cluster.nodes[leader].manager().await?;
        let previous_index = manager.applied_index(AppliedIndexRequest {}).await?.into_inner().index;
        let request = RemoveServerRequest { id: cluster.nodes[removed].name.clone(), previous_index };
        let operation = manager.remove_server(request).await?.into_inner();
        cluster.finish(leader, operation).await?;
        let term = cluster.nodes[leader].stat().await?["raft"]["term"].clone();
        // The removed node still has its old membership, during the cut and after it, and stands
        // for election again and again.
        tokio::time::sleep(HELD).await;
        let known = cluster.nodes[removed].stat().await?["nodes"].as_array().map(Vec::len);
        assert_eq!(known, Some(3), "it was cut off, so it cannot know");
        cluster.network().heal()?;
        tokio::time::sleep(HELD).await;
        cluster.add(leader, "key", "value").await?;
        let stat = cluster.nodes[leader].stat().await?;
        assert_eq!(stat["raft"]["term"], term, "the removed node made the others change their term");
        assert_eq!(stat["leader"]["node_id"], cluster.nodes[leader].name.as_str());
        Ok(())
    })
}
