//! A leader that is paused for seconds (SIGSTOP) without knowing it: when it continues, it returns
//! no outdated answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lockstep_tests::pb::{AddRequest, GetRequest};
use lockstep_tests::{Cluster, Load, Signal, eventually, formed};
use tokio::task::{JoinHandle, JoinSet};

/// Longer than the others need to replace a leader.
const PAUSE: Duration = Duration::from_secs(4);

/// Writes increasing numbers to `key` at node `n` and publishes each once it is acknowledged.
async fn counting(cluster: &Cluster, n: usize, acknowledged: Arc<AtomicU64>) -> Result<JoinHandle<()>> {
    let mut client = cluster.nodes[n].client().await?;
    Ok(tokio::spawn(async move {
        for version in 1u64.. {
            let request = AddRequest { key: "key".into(), val: version.to_string() };
            if client.add(request).await.is_ok() {
                acknowledged.store(version, Ordering::SeqCst);
            }
        }
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_paused_serves_no_stale_read() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    let paused = cluster.leader().await?;
    let acknowledged = Arc::new(AtomicU64::new(0));
    let writer = counting(&cluster, (paused + 1) % 3, acknowledged.clone()).await?;
    eventually("the first write", || async {
        ensure!(acknowledged.load(Ordering::SeqCst) > 0);
        Ok(())
    })
    .await?;

    // Readers start all the time, also while nothing is answered, so the paused node finds their
    // requests when it continues.
    let client = cluster.nodes[paused].client().await?;
    let stop = Arc::new(AtomicBool::new(false));
    let (stopping, known) = (stop.clone(), acknowledged.clone());
    let readers = tokio::spawn(async move {
        let mut readers: JoinSet<Result<Option<u64>>> = JoinSet::new();
        while !stopping.load(Ordering::SeqCst) {
            let (mut client, known) = (client.clone(), known.clone());
            readers.spawn(async move {
                let before = known.load(Ordering::SeqCst);
                let Ok(reply) = client.get(GetRequest { key: "key".into(), linearizable: true }).await else {
                    return Ok(None);
                };
                let found: u64 = reply.into_inner().value.parse().context("a number")?;
                ensure!(found >= before, "{found} was read after {before} was acknowledged");
                Ok(Some(before))
            });
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        readers.join_all().await.into_iter().collect::<Result<Vec<_>>>()
    });

    cluster.nodes[paused].signal(Signal::SIGSTOP)?;
    tokio::time::sleep(PAUSE).await;
    // The others have continued without it, so the last write that the old leader knows is
    // outdated.
    let before = acknowledged.load(Ordering::SeqCst);
    eventually("a new leader", || async {
        ensure!(acknowledged.load(Ordering::SeqCst) > before + 1);
        Ok(())
    })
    .await?;
    let while_paused = acknowledged.load(Ordering::SeqCst);
    cluster.nodes[paused].signal(Signal::SIGCONT)?;
    eventually("reads at the paused node", || async {
        let found: u64 = cluster.get(paused, "key", true).await?.parse()?;
        ensure!(found >= while_paused);
        Ok(())
    })
    .await?;
    stop.store(true, Ordering::SeqCst);
    let served = readers.await??.into_iter().flatten().filter(|before| *before > 1).count();
    ensure!(served > 0, "no reader was served");
    writer.abort();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_of_the_leader_loses_no_acknowledged_write() -> Result<()> {
    let cluster = formed(3, &[]).await?;
    let load = Load::start(&cluster, 2)?;
    for _ in 0..2 {
        let leader = cluster.leader().await?;
        load.touch(&[leader]);
        cluster.nodes[leader].signal(Signal::SIGSTOP)?;
        tokio::time::sleep(PAUSE).await;
        cluster.nodes[leader].signal(Signal::SIGCONT)?;
        load.everyone_served().await?;
    }
    load.finish(&cluster).await.map(drop)
}
