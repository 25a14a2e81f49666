//! Any node accepts commands. The host forwards them to the leader.

use anyhow::Result;
use lockstep_tests::{formed, pb::AddRequest};
use tokio::task::JoinSet;

#[tokio::test]
async fn follower_forwards_write() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    let follower = cluster.follower().await?;
    assert!(cluster.add(follower, "key", "value").await? > 0);
    cluster.everyone_reads("key", "value").await
}

#[tokio::test]
async fn many_writers_on_every_node_are_all_answered() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    let mut writers = JoinSet::new();
    for n in 0..12 {
        let mut client = cluster.nodes[n % 3].client().await?;
        writers.spawn(async move {
            for k in 0..50 {
                let request = AddRequest { key: format!("{n}-{k}"), val: format!("v{n}-{k}") };
                client.add(request).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = writers.join_next().await {
        done??;
    }
    for n in 0..12 {
        for k in [0, 24, 49] {
            cluster.everyone_reads(&format!("{n}-{k}"), &format!("v{n}-{k}")).await?;
        }
    }
    Ok(())
}
