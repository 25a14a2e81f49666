//! What clients can make a node hold is bounded: watches with large requests, and watchers that do
//! not read. Others are served meanwhile.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lockstep_tests::pb::{AddRequest, GetRequest, WatchRequest, WatchResponse};
use lockstep_tests::{Cluster, NodeProcess, eventually, formed};
use tokio::task::JoinSet;
use tonic::codec::CompressionEncoding;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

const MIB: u64 = 1 << 20;

/// Most bytes by which a node may grow.
const GROWTH_MAX: u64 = 256 * MIB;

/// A request of a watch with a field that its message does not declare.
#[derive(Clone, PartialEq, prost::Message)]
struct Padded {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(bytes = "vec", tag = "99")]
    padding: Vec<u8>,
}

/// Returns the bytes of memory that the process has.
fn memory(node: &NodeProcess) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.id()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

/// Connects with the windows of a client that reads little at a time.
async fn connect(node: &NodeProcess) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", node.grpc_addr()))?;
    let endpoint = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    Ok(endpoint.connect().await?)
}

async fn watch(channel: Channel, request: impl prost::Message + 'static) -> Result<Streaming<WatchResponse>, Status> {
    let mut grpc = tonic::client::Grpc::new(channel).send_compressed(CompressionEncoding::Gzip);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = tonic::codegen::http::uri::PathAndQuery::from_static("/Example/Watch");
    let codec = ProstCodec::<_, WatchResponse>::default();
    Ok(grpc.server_streaming(Request::new(request), path, codec).await?.into_inner())
}

async fn number(node: &NodeProcess, name: &str) -> Result<u64> {
    let (_, metrics) = node.http("/metrics").await?;
    let value =
        metrics.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}:\n{metrics}"))?;
    Ok(value.trim().parse()?)
}

async fn one() -> Result<(Cluster, u64)> {
    let cluster = formed(1, &[]).await?;
    let mut client = cluster.nodes[0].client().await?;
    // A first call makes what the node has anyway, such as an instance of the guest.
    client.add(AddRequest { key: "key".into(), val: "value".into() }).await?;
    client.get(GetRequest { key: "key".into(), linearizable: true }).await?;
    let before = memory(&cluster.nodes[0])?;
    Ok((cluster, before))
}

fn ensure_grown_little(node: &NodeProcess, before: u64) -> Result<u64> {
    let grown = memory(node)?.saturating_sub(before);
    ensure!(grown < GROWTH_MAX, "the node grew by {} MiB", grown / MIB);
    Ok(grown)
}

/// Four kB on the wire are 3.9 MiB in the node, as long as the request arrives, and then a few
/// bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_with_padded_requests_cost_little() -> Result<()> {
    const WATCHES: usize = 400;
    const AT_A_TIME: usize = 40;
    let (cluster, before) = one().await?;
    let node = &cluster.nodes[0];
    let channels = [connect(node).await?, connect(node).await?, connect(node).await?, connect(node).await?];
    let request = Padded { key: "key".into(), padding: vec![0; 39 * MIB as usize / 10] };
    let (mut opening, mut open, mut refused) = (JoinSet::new(), Vec::new(), Vec::new());
    for n in 0..WATCHES + AT_A_TIME {
        if n < WATCHES {
            opening.spawn(watch(channels[n % channels.len()].clone(), request.clone()));
        }
        if n >= AT_A_TIME {
            match opening.join_next().await.context("one opens")?? {
                Ok(stream) => open.push(stream),
                Err(status) => refused.push(status),
            }
            ensure_grown_little(node, before)?;
        }
    }
    for status in &refused {
        ensure!(status.code() == Code::ResourceExhausted && status.message().contains("--client_memory"), "{status:?}");
    }
    ensure!(open.len() > WATCHES / 2, "{} are open, and {} refused", open.len(), refused.len());
    for stream in &mut open {
        let first = stream.message().await?.context("it begins")?;
        ensure!(first.value == "value");
    }
    let held = number(node, "lockstep_client_memory_bytes{by=\"watches\"}").await?;
    ensure!(held < open.len() as u64 * (64 << 10), "{held} bytes are kept for {} watches", open.len());
    let grown = ensure_grown_little(node, before)?;
    println!(
        "{} watches open, {} refused, {held} bytes counted, grown by {} MiB",
        open.len(),
        refused.len(),
        grown / MIB
    );
    let large = watch(channels[0].clone(), WatchRequest { key: "k".repeat(70 << 10), ..WatchRequest::default() }).await;
    let refusal = large.err().context("a request that the node would have to keep")?;
    ensure!(refusal.code() == Code::ResourceExhausted && refusal.message().contains("65536 bytes"), "{refusal:?}");
    Ok(())
}

/// Watchers that do not read fill their half, and are ended. Nobody else notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_that_never_read_leave_room_for_others() -> Result<()> {
    const WATCHERS: usize = 1_000;
    let (cluster, before) = one().await?;
    let node = &cluster.nodes[0];
    let mut honest = node.client().await?;
    let value = "v".repeat(256 << 10);
    honest.add(AddRequest { key: "large".into(), val: value.clone() }).await?;
    let channels = [connect(node).await?, connect(node).await?];
    let (mut opening, mut asleep) = (JoinSet::new(), Vec::new());
    for n in 0..WATCHERS {
        let request = WatchRequest { key: "large".into(), ..WatchRequest::default() };
        opening.spawn(watch(channels[n % channels.len()].clone(), request));
    }
    while let Some(opened) = opening.join_next().await {
        match opened? {
            Ok(stream) => asleep.push(stream),
            Err(status) => ensure!(status.message().contains("--client_memory"), "{status:?}"),
        }
    }
    ensure!(asleep.len() > WATCHERS / 8, "{} are open", asleep.len());
    let mut largest = 0;
    eventually("those that sleep are ended", || async {
        honest.clone().add(AddRequest { key: "large".into(), val: value.clone() }).await?;
        let read = honest.clone().get(GetRequest { key: "key".into(), linearizable: true }).await?.into_inner();
        ensure!(read.value == "value");
        ensure_grown_little(node, before)?;
        ensure!(number(node, "lockstep_replies_dropped_total").await? > 0, "none is ended yet");
        Ok(())
    })
    .await?;
    for _ in 0..20 {
        honest.add(AddRequest { key: "large".into(), val: value.clone() }).await?;
        honest.get(GetRequest { key: "key".into(), linearizable: true }).await?;
        largest = largest.max(ensure_grown_little(node, before)?);
    }
    let held = number(node, "lockstep_client_memory_bytes{by=\"watches\"}").await?;
    ensure!(held <= 160 * MIB, "watches hold {held} bytes");
    println!("{} asleep, {held} bytes counted, grown by {} MiB", asleep.len(), largest / MIB);
    drop(asleep);
    eventually("what they held is given back", || async {
        let held = number(node, "lockstep_client_memory_bytes{by=\"watches\"}").await?;
        ensure!(held == 0, "{held} bytes");
        Ok(())
    })
    .await?;
    tokio::time::timeout(Duration::from_secs(60), honest.get(GetRequest::default())).await??;
    Ok(())
}
