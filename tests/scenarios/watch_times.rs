//! The watch of raft-example's clients when nothing happens: after its timeout it sends the present
//! value, whether or not its index was reached. A repeated value keeps its index.

use anyhow::{Context, Result, ensure};
use lockstep_tests::pb::{WatchRequest, WatchResponse};
use lockstep_tests::{Cluster, PATIENCE, eventually, formed};
use tonic::Streaming;

async fn watch(cluster: &Cluster, n: usize, min_index: u64, timeout_seconds: u32) -> Result<Streaming<WatchResponse>> {
    let request = WatchRequest { key: "key".into(), min_index, timeout_seconds };
    Ok(cluster.nodes[n].client().await?.watch(request).await?.into_inner())
}

async fn next(stream: &mut Streaming<WatchResponse>) -> Result<WatchResponse> {
    tokio::time::timeout(PATIENCE, stream.message()).await.context("no message")??.context("the stream ended")
}

async fn applied(cluster: &Cluster, n: usize) -> Result<u64> {
    cluster.nodes[n].stat().await?["last_applied_index"].as_u64().context("no index")
}

#[tokio::test]
async fn a_timeout_answers_though_the_index_is_never_reached() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    let follower = cluster.follower().await?;
    let index = cluster.add(follower, "key", "value").await?;
    // A follower applies what it forwarded when it hears that it is committed.
    eventually("everybody has it", || cluster.everyone_reads("key", "value")).await?;
    let mut stream = watch(&cluster, follower, index + 1_000_000, 2).await?;
    for _ in 0..2 {
        let answer = next(&mut stream).await?;
        ensure!(answer.value == "value" && answer.current_index >= index && !answer.abandoned, "{answer:?}");
    }
    // A later timeout sends the newest value.
    cluster.add(follower, "key", "newer").await?;
    let newer = async {
        while next(&mut stream).await?.value != "newer" {}
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, newer).await.context("the newer value is not sent")??;
    Ok(())
}

#[tokio::test]
async fn repeats_have_the_index_that_they_had_however_much_time_passes() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    let follower = cluster.follower().await?;
    cluster.add(follower, "key", "value").await?;
    eventually("everybody has it", || cluster.everyone_reads("key", "value")).await?;
    let mut stream = watch(&cluster, follower, 0, 1).await?;
    let first = next(&mut stream).await?;
    let before = applied(&cluster, follower).await?;
    // Most repeats need an entry by which log time passes. One that waits long does without it.
    let repeats = async {
        let mut seen = 0;
        while seen < 3 || applied(&cluster, follower).await? <= before {
            let repeat = next(&mut stream).await?;
            ensure!(repeat == first, "{repeat:?}, and first {first:?}");
            seen += 1;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, repeats).await.context("no time passes in the log")??;
    let index = cluster.add(follower, "key", "value").await?;
    // One more repeat may have been sent already.
    let mut answer = next(&mut stream).await?;
    while answer == first {
        answer = next(&mut stream).await?;
    }
    ensure!((answer.value.as_str(), answer.current_index) == ("value", index), "{answer:?}");
    ensure!(next(&mut stream).await? == answer);
    Ok(())
}
