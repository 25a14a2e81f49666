//! The network between nodes fails, as a whole and in one direction; clients stay attached to every node.

use std::time::Duration;

use anyhow::{Result, ensure};
use lockstep_tests::pb::{AddRequest, GetRequest};
use lockstep_tests::{Cluster, Cut, Load, eventually, formed_in, in_network};
use tonic::{Code, Request};

/// The leader that the nodes but `cut_off` agree on.
async fn leader_of_the_others(cluster: &Cluster, cut_off: usize) -> Result<usize> {
    eventually("the others have a leader", || async {
        let mut leaders = Vec::new();
        for n in (0..cluster.nodes.len()).filter(|n| *n != cut_off) {
            let name = cluster.nodes[n].stat().await?["leader"]["node_id"].clone();
            leaders.extend(cluster.nodes.iter().position(|node| name == node.name.as_str()));
        }
        ensure!(leaders.len() == cluster.nodes.len() - 1 && leaders.iter().all(|leader| *leader == leaders[0]));
        ensure!(leaders[0] != cut_off, "they still follow the one that is cut off");
        Ok(leaders[0])
    })
    .await
}

/// A request that is given up after two seconds, by both sides.
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

        // Asked at once, while it still takes itself for the leader, and again when the others have another one.
        for round in 0..2 {
            let mut client = cluster.nodes[alone].client().await?;
            let written = client.add(soon(AddRequest { key: format!("alone-{round}"), val: "1".into() })).await;
            ensure!(written.is_err(), "acknowledged without a majority: {written:?}");
            let read = client.get(soon(GetRequest { key: "key".into(), linearizable: true })).await;
            ensure!(read.is_err(), "read without a majority: {read:?}");
            let local = client.get(soon(GetRequest { key: "key".into(), linearizable: false })).await?.into_inner();
            assert_eq!(local.value, "before", "a local read needs no majority");
            let other = leader_of_the_others(&cluster, alone).await?;
            cluster.add(other, "key", &format!("majority-{round}")).await?;
        }

        cluster.network().heal()?;
        eventually("the old leader follows", || cluster.everyone_reads("key", "majority-1")).await?;
        cluster.add(alone, "key", "after").await?;
        cluster.everyone_reads("key", "after").await
    })
}

/// Runs clients everywhere through one cut, held until clients at the nodes left alone are served again; then checks all they wrote.
async fn load_survives(cluster: &Cluster, touched: &[usize], cuts: &[Cut]) -> Result<()> {
    let load = Load::start(cluster, 2)?;
    load.everyone_served().await?;
    load.touch(touched);
    cluster.network().cut(cuts)?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let since = load.now();
    eventually("the others are served", || async { Ok(ensure!(load.served_since(since).1 > 0)) }).await?;
    cluster.network().heal()?;
    load.everyone_served().await?;
    for written in load.finish().await? {
        ensure!(written.check(cluster).await? > 0);
    }
    Ok(())
}

#[test]
fn a_leader_that_cannot_send_is_replaced() -> Result<()> {
    in_network(|network| async {
        let cluster = formed_in(network, 3, &[]).await?;
        let mute = cluster.leader().await?;
        let cuts = [1, 2].map(|n| Cut::Lost { from: mute, to: (mute + n) % 3 });
        load_survives(&cluster, &[mute], &cuts).await
    })
}

#[test]
fn a_leader_that_cannot_hear_is_replaced() -> Result<()> {
    in_network(|network| async {
        let cluster = formed_in(network, 3, &[]).await?;
        let deaf = cluster.leader().await?;
        let cuts = [1, 2].map(|n| Cut::Lost { from: (deaf + n) % 3, to: deaf });
        load_survives(&cluster, &[deaf], &cuts).await
    })
}

#[test]
fn a_call_that_a_leader_without_majority_took_is_not_called_safe_to_repeat() -> Result<()> {
    in_network(|network| async {
        let cluster = formed_in(network, 3, &[]).await?;
        let alone = cluster.leader().await?;
        let mut client = cluster.nodes[alone].client().await?;
        cluster.network().isolate(alone)?;
        // Proposed at once, for it leads: whether it will be committed is not known when its time is over.
        let status = client.add(soon(AddRequest { key: "key".into(), val: "1".into() })).await.unwrap_err();
        ensure!(status.code() != Code::Unavailable, "clients would repeat it: {status:?}");
        Ok(())
    })
}
