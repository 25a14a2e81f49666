//! A node that may no longer serve ends its open watches with the reason, including those on which
//! nothing happens.

use anyhow::{Context, Result, ensure};
use lockstep_tests::pb::WatchRequest;
use lockstep_tests::{Options, PATIENCE, eventually, formed_of};
use tonic::Code;

#[tokio::test]
async fn an_idle_watch_on_a_node_in_quarantine_ends_in_words() -> Result<()> {
    let cluster = formed_of(3, Options::member().with_failpoints()).await?;
    let (victim, other) = (cluster.follower().await?, cluster.leader().await?);
    let watch = WatchRequest { key: "idle".into(), ..WatchRequest::default() };
    let mut open = cluster.nodes[victim].client().await?.watch(watch.clone()).await?.into_inner();
    ensure!(open.message().await?.is_some(), "the current value");
    // A watch that waits for an index that is never reached.
    let waiting = WatchRequest { min_index: 1_000_000, ..watch.clone() };
    let mut waiting = cluster.nodes[victim].client().await?.watch(waiting).await?.into_inner();
    cluster.nodes[victim].fail_now(&["apply-diverge=return(error)"]).await?;
    eventually("the node is in quarantine", || async {
        cluster.add(other, "key", "value").await?;
        let mode = cluster.nodes[victim].status().await?["mode"].take();
        ensure!(mode == "quarantined", "{mode}");
        Ok(())
    })
    .await?;
    for stream in [&mut open, &mut waiting] {
        let ended = tokio::time::timeout(PATIENCE, stream.message()).await.context("it goes on")?;
        let status = ended.err().context("it ended, or went on, without a word")?;
        ensure!(status.code() == Code::Unavailable, "{status:?}");
        ensure!(status.message().contains("a majority of the voters has"), "{status:?}");
    }
    // A new watch is also refused.
    let refused = match cluster.nodes[victim].client().await?.watch(watch).await {
        Ok(stream) => stream.into_inner().message().await.err().context("it began")?,
        Err(status) => status,
    };
    ensure!(refused.code() == Code::Unavailable && refused.message().contains("a majority"), "{refused:?}");
    Ok(())
}
