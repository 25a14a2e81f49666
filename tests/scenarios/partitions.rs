//! The network between nodes fails, completely or in one direction, while clients stay connected to
//! every node.

use std::time::Duration;

use anyhow::{Result, ensure};
use lockstep_tests::pb::{AddRequest, GetRequest};
use lockstep_tests::{Cut, Load, eventually, formed_in, in_network};
use tonic::{Code, Request};

/// Makes a request that both sides give up after two seconds.
fn soon<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_secs(2));
    request
}

#[test]
fn a_leader_without_its_majority_serves_nothing_and_acknowledges_nothing() -> Result<()> {
    in_network(|network| async {
        let cluster = formed_in(network, 3, &[]).await?;
        let alone = cluster.leader().await?;
        cluster.add(alone, "key", "before").await?;
        cluster.network().isolate(alone)?;

        // The first round is at once, while the node still acts as leader. The second is when the
        // others have another leader.
        for round in 0..2 {
            let mut client = cluster.nodes[alone].client().await?;
            let written = client.add(soon(AddRequest { key: format!("alone-{round}"), val: "1".into() })).await;
            ensure!(written.is_err(), "acknowledged without a majority: {written:?}");
            let read = client.get(soon(GetRequest { key: "key".into(), linearizable: true })).await;
            ensure!(read.is_err(), "read without a majority: {read:?}");
            let local = client.get(soon(GetRequest { key: "key".into(), linearizable: false })).await?.into_inner();
            assert_eq!(local.value, "before", "a local read needs no majority");
            let other = cluster.leader_without(alone).await?;
            cluster.add(other, "key", &format!("majority-{round}")).await?;
        }

        cluster.network().heal()?;
        eventually("the old leader follows", || cluster.everyone_reads("key", "majority-1")).await?;
        cluster.add(alone, "key", "after").await?;
        cluster.everyone_reads("key", "after").await
    })
}

/// Cuts the leader's links to the others until another leader serves.
///
/// Clients write everywhere meanwhile. Then it heals the network and checks all that was written.
/// `cuts` returns the cuts between the leader and another node.
fn leader_is_replaced(cuts: fn(usize, usize) -> Vec<Cut>) -> Result<()> {
    in_network(|network| async move {
        let cluster = formed_in(network, 3, &[]).await?;
        let load = Load::start(&cluster, 2)?;
        load.everyone_served().await?;
        let leader = cluster.leader().await?;
        load.touch(&[leader]);
        cluster.network().cut(&[cuts(leader, (leader + 1) % 3), cuts(leader, (leader + 2) % 3)].concat())?;
        cluster.leader_without(leader).await?;
        let since = load.now();
        eventually("the others are served", || async {
            ensure!(load.served_since(since).1 > 0);
            Ok(())
        })
        .await?;
        cluster.network().heal()?;
        load.everyone_served().await?;
        load.finish(&cluster).await.map(drop)
    })
}

#[test]
fn a_leader_that_is_cut_off_is_replaced() -> Result<()> {
    leader_is_replaced(|leader, other| {
        vec![Cut::Lost { from: leader, to: other }, Cut::Lost { from: other, to: leader }]
    })
}

#[test]
fn a_leader_that_cannot_send_is_replaced() -> Result<()> {
    leader_is_replaced(|leader, other| vec![Cut::Lost { from: leader, to: other }])
}

#[test]
fn a_leader_that_cannot_hear_is_replaced() -> Result<()> {
    leader_is_replaced(|leader, other| vec![Cut::Lost { from: other, to: leader }])
}

#[test]
fn a_call_that_a_leader_without_majority_took_is_not_called_safe_to_repeat() -> Result<()> {
    in_network(|network| async {
        let cluster = formed_in(network, 3, &[]).await?;
        let alone = cluster.leader().await?;
        let mut client = cluster.nodes[alone].client().await?;
        cluster.network().isolate(alone)?;
        // The command is proposed at once, because the node is the leader. When its deadline is
        // over, it is unknown whether it will be committed.
        let status = client.add(soon(AddRequest { key: "key".into(), val: "1".into() })).await.unwrap_err();
        ensure!(status.code() != Code::Unavailable, "clients would repeat it: {status:?}");
        Ok(())
    })
}
