//! Streams that are longer than a step: a large range in pages, on an idle and on a busy cluster.
//! Also a stream whose steps repeat without sending anything, which must cost the others little.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use lockstep_client::Client;
use lockstep_tests::chain_pb::chain_client::ChainClient;
use lockstep_tests::chain_pb::{GetRequest, PutRequest, WalkRequest, WalkResponse};
use lockstep_tests::{Cluster, Options, PATIENCE, chain_wasm, eventually, formed_of};
use tokio::task::JoinSet;
use tonic::Streaming;

const ROWS: usize = 2_391;
const PAGE: u32 = 500;
const WRITERS: usize = 32;

async fn chains(size: usize) -> Result<Cluster> {
    formed_of(size, Options { fsm: Some(chain_wasm()), ..Options::member() }).await
}

async fn client(cluster: &Cluster, n: usize) -> Result<ChainClient<Client>> {
    Ok(ChainClient::new(cluster.nodes[n].connect().await?))
}

fn key(n: usize) -> String {
    format!("row-{n:05}")
}

async fn put(client: &mut ChainClient<Client>, key: String) -> Result<()> {
    client.put(PutRequest { key, value: "x".repeat(100) }).await?;
    Ok(())
}

/// Writes all rows, from several clients at a time.
async fn fill(cluster: &Cluster) -> Result<()> {
    let one = client(cluster, 0).await?;
    let mut writers = JoinSet::new();
    for first in 0..WRITERS {
        let mut client = one.clone();
        writers.spawn(async move {
            for n in (first..ROWS).step_by(WRITERS) {
                put(&mut client, key(n)).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(written) = writers.join_next().await {
        written??;
    }
    Ok(())
}

async fn walk(cluster: &Cluster, n: usize, page: u32) -> Result<Streaming<WalkResponse>> {
    let request = WalkRequest { after: String::new(), page };
    Ok(client(cluster, n).await?.walk(request).await?.into_inner())
}

async fn next(stream: &mut Streaming<WalkResponse>) -> Result<String> {
    let message = tokio::time::timeout(PATIENCE, stream.message()).await.context("no message")??;
    Ok(message.context("the stream ended")?.key)
}

async fn comes_whole(stream: &mut Streaming<WalkResponse>) -> Result<()> {
    for n in 0..ROWS {
        ensure!(next(stream).await? == key(n), "row {n} is not where it belongs");
    }
    Ok(())
}

#[tokio::test]
async fn a_large_range_comes_in_pages_without_gap_or_double() -> Result<()> {
    let cluster = chains(3).await?;
    fill(&cluster).await?;
    let follower = cluster.follower().await?;
    // A local watch shows what its node has applied.
    let request = GetRequest { key: key(ROWS - 1), linearizable: true };
    client(&cluster, follower).await?.get(request).await?;
    let mut stream = walk(&cluster, follower, PAGE).await?;
    comes_whole(&mut stream).await.context("on an idle cluster")?;
    put(&mut client(&cluster, 0).await?, "s".into()).await?;
    ensure!(next(&mut stream).await? == "s", "what comes behind the last row comes as well");

    // A client writes all the time: rows that were sent already, rows that will be sent, and other
    // rows.
    let stop = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn({
        let (stop, mut client) = (stop.clone(), client(&cluster, 0).await?);
        async move {
            for n in (0..).map(|n: usize| n * 7) {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                put(&mut client, key(n % ROWS)).await?;
                put(&mut client, format!("aside-{}", n % 10)).await?;
            }
            anyhow::Ok(())
        }
    });
    for _ in 0..5 {
        let request = WalkRequest { after: "b".into(), page: PAGE };
        let mut stream = client(&cluster, follower).await?.walk(request).await?.into_inner();
        comes_whole(&mut stream).await.context("on a busy cluster")?;
        ensure!(next(&mut stream).await? == "s");
    }
    stop.store(true, Ordering::Relaxed);
    writing.await?
}

async fn metric(cluster: &Cluster, name: &str) -> Result<u64> {
    let (_, text) = cluster.nodes[0].http("/metrics").await?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no {name}"))?.parse()?)
}

#[tokio::test]
async fn watches_that_run_for_nothing_leave_room_for_others() -> Result<()> {
    const IDLERS: u64 = 8;
    let cluster = chains(1).await?;
    fill(&cluster).await?;
    let mut idlers = Vec::new();
    for _ in 0..IDLERS {
        idlers.push(walk(&cluster, 0, 0).await?);
    }
    eventually("they are held back", || async {
        let held_back = metric(&cluster, "lockstep_watch_steps_held_back_total").await?;
        ensure!(held_back >= 5 * IDLERS, "{held_back} of their steps were");
        let is_told = cluster.nodes[0].log().contains("runs again and again and sends nothing");
        ensure!(is_told, "the operator is not told");
        Ok(())
    })
    .await?;
    // Each may run a few steps at once. All further steps are held back.
    let steps = metric(&cluster, "lockstep_watch_steps_total").await?;
    let held_back = metric(&cluster, "lockstep_watch_steps_held_back_total").await?;
    ensure!(steps <= 17 * IDLERS + held_back, "{steps} steps, {held_back} of them held back");
    let mut client = client(&cluster, 0).await?;
    for n in 0..100 {
        client.get(GetRequest { key: key(n), linearizable: true }).await?;
    }
    comes_whole(&mut walk(&cluster, 0, PAGE).await?).await
}
