//! The limit of watches on one connection. It is lower than the limit of calls, and the next watch
//! is refused with a message.

use anyhow::{Context, Result, ensure};
use lockstep_client::Client;
use lockstep_tests::pb::example_client::ExampleClient;
use lockstep_tests::pb::{AddRequest, GetRequest, WatchRequest, WatchResponse};
use lockstep_tests::{eventually, formed};
use tonic::{Code, Status, Streaming};

const WATCHES_MAX: usize = 1_000;

async fn watch(client: &mut ExampleClient<Client>) -> Result<Streaming<WatchResponse>, Status> {
    let mut stream = client.watch(WatchRequest { key: "key".into(), ..WatchRequest::default() }).await?.into_inner();
    stream.message().await?.ok_or_else(|| Status::unknown("the stream ended"))?;
    Ok(stream)
}

#[tokio::test]
async fn a_connection_full_of_watches_has_room_for_calls() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let mut client = cluster.nodes[0].client().await?;
    let mut open = Vec::new();
    for n in 0..WATCHES_MAX {
        open.push(watch(&mut client).await.with_context(|| format!("watch {n}"))?);
    }
    let refused = watch(&mut client).await.unwrap_err();
    ensure!(refused.code() == Code::ResourceExhausted, "{refused:?}");
    ensure!(refused.message().starts_with("1000 watches are open on this connection"), "{refused:?}");
    ensure!(refused.message().contains("open another connection"), "{refused:?}");

    client.add(AddRequest { key: "key".into(), val: "value".into() }).await?;
    let read = client.get(GetRequest { key: "key".into(), linearizable: true }).await?.into_inner();
    ensure!(read.value == "value");
    let changed = open[0].message().await?.context("the stream goes on")?;
    ensure!(changed.value == "value");
    let mut another = cluster.nodes[0].client().await?;
    let elsewhere = watch(&mut another).await.context("another connection")?;

    let (_, metrics) = cluster.nodes[0].http("/metrics").await?;
    for line in ["lockstep_watches_open 1001", "lockstep_watches_refused_total{limit=\"connection\"} 1"] {
        ensure!(metrics.contains(line), "no {line}:\n{metrics}");
    }
    drop((open.pop(), elsewhere));
    eventually("one that has ended leaves its place", || async {
        watch(&mut client.clone()).await?;
        Ok(())
    })
    .await
}
