//! The client crate on real clusters: it needs one address, follows the leader through kills and
//! hand-overs, and loses nothing.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lockstep_client::{Outcome, index, leader, outcome};
use lockstep_tests::pb::example_client::ExampleClient;
use lockstep_tests::pb::{AddRequest, GetRequest, WatchRequest};
use lockstep_tests::{Cluster, PATIENCE, eventually, formed, kv_client_binary, nobody};

use crate::printed;

fn addresses(cluster: &Cluster) -> String {
    cluster.nodes.iter().map(|node| node.grpc_addr()).collect::<Vec<_>>().join(",")
}

fn add(key: &str, value: &str) -> tonic::Request<AddRequest> {
    let mut request = tonic::Request::new(AddRequest { key: key.into(), val: value.into() });
    request.set_timeout(PATIENCE);
    request
}

fn get(key: &str) -> tonic::Request<GetRequest> {
    let mut request = tonic::Request::new(GetRequest { key: key.into(), linearizable: true });
    request.set_timeout(PATIENCE);
    request
}

#[tokio::test]
async fn one_address_is_enough_and_the_leader_is_found() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    let follower = cluster.follower().await?;
    let (_kept, closed) = nobody()?;
    let client = lockstep_client::connect(&format!("{closed},{}", cluster.nodes[follower].grpc_addr())).await?;
    let mut example = ExampleClient::new(client);
    let answer = example.add(add("key", "value")).await?;
    ensure!(index(answer.metadata()).is_some());
    let named = leader(answer.metadata()).context("no leader is named")?.to_owned();
    ensure!(cluster.nodes.iter().any(|node| node.grpc_addr() == named), "{named}");
    ensure!(example.get(get("key")).await?.into_inner().value == "value");
    // A stream passes through.
    let watch = WatchRequest { key: "key".into(), ..WatchRequest::default() };
    let mut stream = example.watch(watch).await?.into_inner();
    ensure!(stream.message().await?.context("no message")?.value == "value");
    example.add(add("key", "newer")).await?;
    ensure!(stream.message().await?.context("no message")?.value == "newer");
    Ok(())
}

#[tokio::test]
async fn a_watch_without_a_deadline_goes_on_for_longer_than_a_call_may_take() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    let call_timeout = Duration::from_secs(2);
    let options = lockstep_client::Options { call_timeout, ..lockstep_client::Options::default() };
    let mut example = ExampleClient::new(options.connect(&addresses(&cluster)).await?);
    example.add(add("key", "value")).await?;
    let watch = WatchRequest { key: "key".into(), ..WatchRequest::default() };
    let begun = eventually("a watch", || async { Ok(example.clone().watch(watch.clone()).await?) }).await?;
    let mut stream = begun.into_inner();
    ensure!(stream.message().await?.context("no message")?.value == "value");
    let ended = tokio::time::timeout(call_timeout + Duration::from_secs(1), stream.message()).await;
    ensure!(ended.is_err(), "the watch did not wait for a change: {ended:?}");
    example.add(add("key", "newer")).await?;
    ensure!(stream.message().await?.context("no message")?.value == "newer");
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_done_is_said_with_its_outcome() -> Result<()> {
    let (_kept, closed) = nobody()?;
    let error = lockstep_client::connect(&closed).await.err().context("it connects")?;
    ensure!(error.to_string().starts_with("no node can be reached: "), "{error}");
    let mut cluster = formed(3, &[]).await?;
    let mut example = ExampleClient::new(lockstep_client::connect(&addresses(&cluster)).await?);
    example.add(add("key", "value")).await?;
    // Without a majority no command runs, and the node that is left says so until the deadline.
    let left = cluster.leader().await?;
    for n in (0..3).filter(|n| *n != left) {
        cluster.nodes[n].kill()?;
    }
    let mut late = add("key", "late");
    late.set_timeout(Duration::from_millis(500));
    let status = example.add(late).await.err().context("it was applied")?;
    // The node had the call at the deadline, or had refused it by then. The connection is sound.
    let code = status.code();
    ensure!(code == tonic::Code::DeadlineExceeded || code == tonic::Code::Unavailable, "{status:?}");
    ensure!(outcome(&status) != Outcome::Applied && !status.message().contains("broke"), "{status:?}");
    cluster.nodes[left].kill()?;
    let mut later = add("key", "later");
    later.set_timeout(Duration::from_millis(500));
    let status = example.add(later).await.err().context("it was applied")?;
    ensure!(outcome(&status) != Outcome::Applied, "{status:?}");
    for node in &mut cluster.nodes {
        node.start().await?;
    }
    example.add(add("key", "again")).await?;
    Ok(())
}

/// Leaders die and hand over while writers go on. A call may end as unknown when its connection
/// breaks; every other one succeeds.
#[tokio::test]
async fn writers_follow_the_leader_through_kills_and_lose_nothing() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let client = lockstep_client::connect(&addresses(&cluster)).await?;
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut writers = Vec::new();
    for writer in 0..4 {
        let (stop, written, client) = (stop.clone(), written.clone(), client.clone());
        writers.push(tokio::spawn(async move {
            let mut example = ExampleClient::new(client);
            let mut last = 0;
            for n in 1_u64.. {
                if stop.load(Relaxed) {
                    break;
                }
                match example.add(add(&format!("w{writer}"), &n.to_string())).await {
                    Ok(_) => last = n,
                    Err(status) if outcome(&status) == Outcome::Unknown => {}
                    Err(status) => return Err(anyhow::Error::from(status)),
                }
                written.fetch_add(1, Relaxed);
            }
            Ok((writer, last))
        }));
    }
    for round in 0..4 {
        let before = written.load(Relaxed);
        eventually("the writers go on", || async {
            ensure!(written.load(Relaxed) > before + 40, "{} more", written.load(Relaxed) - before);
            Ok(())
        })
        .await?;
        let leader = cluster.leader().await?;
        if round % 2 == 0 {
            cluster.nodes[leader].kill()?;
        } else {
            ensure!(cluster.nodes[leader].stop().await?.success());
        }
        cluster.nodes[leader].start().await?;
    }
    stop.store(true, Relaxed);
    let mut reader = ExampleClient::new(client.repeating());
    for writer in writers {
        let (writer, last) = writer.await??;
        let read: u64 = reader.get(get(&format!("w{writer}"))).await?.into_inner().value.parse()?;
        ensure!(read >= last, "writer {writer} was told of {last}, and {read} is there");
    }
    Ok(())
}

#[tokio::test]
async fn the_example_does_what_it_says() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    let out = Command::new(kv_client_binary()).args([&addresses(&cluster), "hello", "world"]).output()?;
    ensure!(out.status.success(), "{}", printed::all(&out));
    let said = String::from_utf8(out.stdout)?;
    ensure!(said.ends_with("read \"world\"\n"), "{said}");
    let out = Command::new(kv_client_binary()).args(["localhost", "hello", "world"]).output()?;
    let said = String::from_utf8(out.stderr)?;
    ensure!(!out.status.success() && said.contains("write `host:port`"), "{said}");
    Ok(())
}
