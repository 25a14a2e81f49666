//! Apply hangs at one entry: the leader stays leader, writes are refused at once and definitely,
//! and afterwards everything is served. `LOCKSTEP_SLOW_APPLY_MS` sets how long apply hangs; the
//! default keeps the test short.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lockstep_tests::pb::{AddRequest, GetRequest};
use lockstep_tests::{Cluster, Options, eventually, formed_of};
use tonic::{Code, Request, Status};

/// Writes at node `n` with a deadline of half a second.
async fn write(cluster: &Cluster, n: usize, key: &str) -> Result<Result<(), Status>> {
    let mut request = Request::new(AddRequest { key: key.into(), val: "v".into() });
    request.set_timeout(Duration::from_millis(500));
    Ok(cluster.nodes[n].client().await?.add(request).await.map(drop))
}

fn says(status: &Status, name: &str) -> String {
    status.metadata().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_leader_whose_apply_hangs_keeps_its_seat_and_refuses_writers_at_once() -> Result<()> {
    let held_ms: u64 = std::env::var("LOCKSTEP_SLOW_APPLY_MS").map_or(Ok(10_000), |text| text.parse())?;
    let cluster = formed_of(3, Options::member().with_failpoints()).await?;
    let leader = cluster.leader().await?;
    let term = cluster.nodes[leader].stat().await?["raft"]["term"].clone();
    let applied = cluster.add(leader, "before", "v").await?;
    for node in &cluster.nodes {
        node.fail_now(&[&format!("apply-entry=1*sleep({held_ms})")]).await?;
    }
    let held = || async {
        let now = cluster.nodes[leader].stat().await?["last_applied_index"].as_u64();
        Ok::<_, anyhow::Error>(now == Some(applied))
    };
    let mut refused = 0;
    let mut calls = 0;
    loop {
        let key = format!("k{calls}");
        let result = write(&cluster, calls % 3, &key).await?;
        if !held().await? {
            break;
        }
        calls += 1;
        let status = result.err().context("a write was acknowledged before it was applied")?;
        match status.code() {
            Code::ResourceExhausted => {
                ensure!(says(&status, "lockstep-outcome") == "not-applied", "{status:?}");
                ensure!(status.message().contains("applying one entry"), "{status}");
                refused += 1;
            }
            // The deadline of the node or, as Cancelled, of this client. The write was queued
            // before apply was known to hang.
            Code::DeadlineExceeded | Code::Cancelled => {
                ensure!(refused < 3, "{status}: queued although apply was known to hang")
            }
            _ => return Err(status.into()),
        }
        // Local reads still work.
        let request = GetRequest { key: "before".into(), linearizable: false };
        ensure!(cluster.nodes[calls % 3].client().await?.get(request).await?.into_inner().value == "v");
    }
    ensure!(refused > 3, "{refused} of {calls} writes were refused");
    println!("{refused} of {calls} writes were refused while apply hung for {held_ms} ms");
    for node in &cluster.nodes {
        node.fail_at(&[])?;
    }
    for n in 0..3 {
        eventually("writes are taken again", || async { Ok(write(&cluster, n, "after").await??) }).await?;
    }
    cluster.everyone_reads("after", "v").await?;
    for node in &cluster.nodes {
        ensure!(node.stat().await?["raft"]["term"] == term, "{} is in another term", node.name);
    }
    cluster.everyone_has_one_hash().await
}
