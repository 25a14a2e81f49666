//! Cancelled calls. A connection can have all its open calls cancelled at once without harm. A
//! flood of cancelled calls is slowed down, harms no other client, and gives at most one line a
//! second in the log.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lockstep_tests::frames::{END_STREAM, Frames, PING, RST_STREAM, call, frame};
use lockstep_tests::pb::{GetRequest, WatchRequest};
use lockstep_tests::{NodeProcess, PATIENCE, formed};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

const GET: &str = "/Example/Get";
/// The encoded request of a Get of the key `k`.
const K: &[u8] = b"\x0a\x01k";
/// Most calls that a connection may have open, and so may reset at once.
const OPEN: u32 = 1_000;
/// Most resets that one connection may send in a second.
const A_SECOND: u64 = 2_000;
/// Most resets that are accepted at once, including those of one read beyond the limit.
const AT_ONCE: u64 = 1_024 + 4_096;
/// What the log says of it.
const TOO_FAST: &str = "resets calls too fast";

/// Encodes a call that its client cancels at once.
fn cancelled(stream: u32) -> Vec<u8> {
    [call(stream, GET, K), frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
}

async fn resets(node: &NodeProcess) -> Result<u64> {
    let (_, text) = node.http("/metrics").await?;
    let count = text.lines().find_map(|line| line.strip_prefix("lockstep_connections_resets_total{port=\"grpc\"} "));
    Ok(count.context("no count of resets")?.parse()?)
}

#[tokio::test]
async fn a_connection_outlives_the_cancelling_of_all_its_calls() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    cluster.add(0, "k", "v").await?;
    let mut client = Frames::connect(&cluster.nodes[0].grpc_addr()).await?;
    // The first call stays open all the time, like a watch: its message is sent last.
    let whole = call(1, GET, K);
    let (head, message) = whole.split_at(whole.len() - 9 - 5 - K.len());
    client.io.write_all(head).await?;
    let mut stream = 3;
    for _ in 0..3 {
        let burst: Vec<u8> = (0..OPEN).flat_map(|n| cancelled(stream + 2 * n)).collect();
        client.io.write_all(&burst).await?;
        stream += 2 * OPEN;
        client.io.write_all(&call(stream, GET, K)).await?;
        ensure!(client.answer(stream).await?, "no reply");
        stream += 2;
    }
    client.io.write_all(message).await?;
    ensure!(client.answer(1).await?, "the first call was lost");
    ensure!(resets(&cluster.nodes[0]).await? >= u64::from(3 * OPEN), "they are not counted");
    Ok(())
}

#[tokio::test]
async fn short_deadlines_cost_a_watch_nothing() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    let mut client = cluster.nodes[0].client().await?;
    cluster.add(0, "k", "before").await?;
    let mut watch = client.watch(WatchRequest { key: "k".into(), ..WatchRequest::default() }).await?.into_inner();
    ensure!(watch.message().await?.is_some_and(|seen| seen.value == "before"), "the watch does not begin");
    for _ in 0..10 {
        let mut calls = JoinSet::new();
        for _ in 0..100 {
            let mut request = tonic::Request::new(GetRequest { key: "k".into(), ..GetRequest::default() });
            request.set_timeout(Duration::from_micros(500));
            let mut client = client.clone();
            // Most of these calls miss their deadline, and nothing else is wrong with them.
            calls.spawn(async move { client.get(request).await.map(drop).or_else(too_late) });
        }
        while let Some(called) = calls.join_next().await {
            called??;
        }
    }
    cluster.add(0, "k", "after").await?;
    let seen = tokio::time::timeout(PATIENCE, watch.message()).await??;
    ensure!(seen.as_ref().is_some_and(|seen| seen.value == "after"), "{seen:?}");
    Ok(())
}

fn too_late(status: tonic::Status) -> Result<(), tonic::Status> {
    match status.code() {
        tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => Ok(()),
        _ => Err(status),
    }
}

#[tokio::test]
async fn a_flood_of_resets_is_slowed_down_and_costs_nobody_else() -> Result<()> {
    let cluster = formed(1, &[]).await?;
    cluster.add(0, "k", "v").await?;
    let (node, before, begun) = (&cluster.nodes[0], cluster.nodes[0].log().lines().count(), Instant::now());
    let mut client = Frames::connect(&node.grpc_addr()).await?;
    let flood = tokio::spawn(async move {
        let mut stream = 1;
        loop {
            let burst: Vec<u8> = (0..OPEN).flat_map(|n| cancelled(stream + 2 * n)).collect();
            stream += 2 * OPEN;
            // Also sends an acknowledgement of a PING that was never sent.
            let ping = frame(PING, END_STREAM, 0, &[7; 8]);
            if client.io.write_all(&[burst, ping].concat()).await.is_err() {
                return;
            }
        }
    });
    let mut calls = 0;
    loop {
        ensure!(cluster.get(0, "k", calls % 2 == 0).await? == "v");
        calls += 1;
        let counted = resets(node).await?;
        let bound = AT_ONCE + A_SECOND * (begun.elapsed().as_secs() + 1);
        ensure!(counted <= bound, "{counted} resets in {:?}", begun.elapsed());
        // More than it gets at once, and what it gets in another second.
        if calls >= 20 && counted > 1_024 + A_SECOND && node.log().contains(TOO_FAST) {
            break;
        }
        ensure!(begun.elapsed() < PATIENCE, "{counted} resets, and no line about them:\n{}", node.last_words());
    }
    flood.abort();
    let log = node.log();
    let about_it = log.lines().filter(|line| line.contains(TOO_FAST)).count();
    ensure!(about_it as u64 <= begun.elapsed().as_secs() + 1, "{about_it} lines:\n{}", node.last_words());
    let others = log.lines().count() - before - about_it;
    ensure!(others < 20, "{others} other lines:\n{}", node.last_words());
    Ok(())
}
