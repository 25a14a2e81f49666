//! Watches from any node: the present value, then every change of the watched key at once, and of
//! no other key.

use std::time::Duration;

use anyhow::{Context, Result};
use lockstep_tests::pb::{WatchRequest, WatchResponse};
use lockstep_tests::{Cluster, PATIENCE, formed};
use tonic::Streaming;

async fn watch(
    cluster: &Cluster,
    n: usize,
    key: &str,
    min_index: u64,
    timeout_seconds: u32,
) -> Result<Streaming<WatchResponse>> {
    let request = WatchRequest { key: key.into(), min_index, timeout_seconds };
    Ok(cluster.nodes[n].client().await?.watch(request).await?.into_inner())
}

async fn next(stream: &mut Streaming<WatchResponse>) -> Result<WatchResponse> {
    tokio::time::timeout(PATIENCE, stream.message()).await.context("no message")??.context("the stream ended")
}

#[tokio::test]
async fn a_follower_sends_the_current_value_and_then_every_change() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    let follower = cluster.follower().await?;
    let mut stream = watch(&cluster, follower, "key", 0, 0).await?;
    assert_eq!(next(&mut stream).await?.value, "");
    for value in ["one", "two", "three"] {
        let index = cluster.add(follower, "key", value).await?;
        let update = next(&mut stream).await?;
        assert_eq!(update.value, value);
        assert_eq!(update.current_index, index);
        assert!(!update.abandoned);
    }
    Ok(())
}

#[tokio::test]
async fn other_keys_do_not_wake_a_watcher() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    let follower = cluster.follower().await?;
    let mut stream = watch(&cluster, follower, "mine", 0, 0).await?;
    assert_eq!(next(&mut stream).await?.value, "");
    for n in 0..20 {
        cluster.add(follower, &format!("other{n}"), "x").await?;
    }
    let index = cluster.add(follower, "mine", "now").await?;
    let update = next(&mut stream).await?;
    assert_eq!((update.value.as_str(), update.current_index), ("now", index), "the first update is of our own key");
    Ok(())
}

#[tokio::test]
async fn a_minimum_index_is_waited_for() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let index = cluster.add(0, "key", "old").await?;
    let mut stream = watch(&cluster, 0, "key", index + 1, 0).await?;
    let too_early = tokio::time::timeout(Duration::from_millis(300), stream.message()).await;
    assert!(too_early.is_err(), "index {} is not reached yet", index + 1);
    cluster.add(0, "another", "x").await?;
    let update = next(&mut stream).await?;
    assert_eq!(update.value, "old");
    assert!(update.current_index > index);
    Ok(())
}

#[tokio::test]
async fn a_timeout_repeats_the_value() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    cluster.add(0, "key", "value").await?;
    let mut stream = watch(&cluster, 0, "key", 0, 1).await?;
    for _ in 0..3 {
        assert_eq!(next(&mut stream).await?.value, "value");
    }
    Ok(())
}

#[tokio::test]
async fn a_watch_goes_on_while_the_leader_changes() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let follower = cluster.follower().await?;
    let leader = cluster.leader().await?;
    let mut stream = watch(&cluster, follower, "key", 0, 0).await?;
    next(&mut stream).await?;
    cluster.nodes[leader].kill()?;
    cluster.add(follower, "key", "after").await?;
    assert_eq!(next(&mut stream).await?.value, "after");
    Ok(())
}
