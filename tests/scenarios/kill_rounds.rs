//! Rounds in which a random node is killed under load: no acknowledged write is lost, and no failed
//! write is half applied.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use lockstep_tests::pb::{AddRequest, GetRequest};
use lockstep_tests::{Cluster, eventually, formed, one_node};
use tokio::task::JoinHandle;

/// Kills in one run.
const ROUNDS: u64 = 20;

/// The keys of one writer, with the highest acknowledged version and the highest version that was
/// tried.
#[derive(Default, Debug)]
struct Written {
    acknowledged: BTreeMap<String, u64>,
    tried: BTreeMap<String, u64>,
}

/// Writes increasing versions to ten keys of its own until it is told to stop.
/// A failed call, whose node was killed, is not repeated. The writer then connects to the next
/// node.
async fn writer(cluster: &Cluster, n: usize, stop: Arc<AtomicBool>) -> Result<JoinHandle<Written>> {
    let addresses: Vec<String> = cluster.nodes.iter().map(|node| node.grpc_addr()).collect();
    Ok(tokio::spawn(async move {
        let mut written = Written::default();
        let mut version = 0;
        let mut place = n;
        while !stop.load(Ordering::Relaxed) {
            // One node at a time: a call whose node was killed is a failure here.
            let node = one_node().connect(&addresses[place % addresses.len()]).await;
            place += 1;
            let Ok(node) = node else {
                tokio::task::yield_now().await;
                continue;
            };
            let mut client = lockstep_tests::pb::example_client::ExampleClient::new(node);
            while !stop.load(Ordering::Relaxed) {
                version += 1;
                let key = format!("writer{n}-{}", version % 10);
                written.tried.insert(key.clone(), version);
                match client.add(AddRequest { key: key.clone(), val: version.to_string() }).await {
                    Ok(_) => written.acknowledged.insert(key, version),
                    Err(_) => break,
                };
            }
        }
        written
    }))
}

#[tokio::test]
async fn no_acknowledged_write_is_lost() -> Result<()> {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
    println!("seed {seed}");
    let mut random = seed;
    let mut cluster = formed(3, &[]).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for n in 0..4 {
        writers.push(writer(&cluster, n, stop.clone()).await?);
    }
    for round in 0..ROUNDS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let victim = (random >> 33) as usize % 3;
        cluster.nodes[victim].kill()?;
        let survivor = (victim + 1) % 3;
        cluster
            .add(survivor, "round", &round.to_string())
            .await
            .with_context(|| format!("round {round}: two of three live"))?;
        cluster.nodes[victim].start().await?;
        eventually("the victim is back", || async {
            anyhow::ensure!(cluster.get(victim, "round", true).await? == round.to_string());
            Ok(())
        })
        .await?;
    }
    stop.store(true, Ordering::Relaxed);
    let mut checked = 0;
    for writer in writers {
        let written = writer.await?;
        for (key, acknowledged) in &written.acknowledged {
            for node in &cluster.nodes {
                let request = GetRequest { key: key.clone(), linearizable: true };
                let found: u64 = node.client().await?.get(request).await?.into_inner().value.parse()?;
                let tried = written.tried[key];
                assert!(
                    found >= *acknowledged && found <= tried,
                    "{key}: {found}, acknowledged {acknowledged}, tried {tried}"
                );
                checked += 1;
            }
        }
    }
    assert!(checked >= 4 * 10 * 3, "the writers hardly wrote: {checked} checks");
    Ok(())
}
