//! Clusters of the lock service, the upgrade from its first version to the second, and which one a
//! node runs. For the scenarios about changes of the guest; it has no scenario itself.

use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Result, bail, ensure};
use lockstep_client::Client;
use lockstep_tests::locks_pb::locks_client::LocksClient;
use lockstep_tests::locks_pb::{AcquireRequest, CountRequest, GetRequest, ReleaseRequest};
pub use lockstep_tests::operator::{rollback, upgrade as upgrade_to};
use lockstep_tests::{Cluster, Options, eventually, formed_of, locks_wasm};
use tokio::task::JoinHandle;
use tonic::Code;

/// Length of every lease. No test lasts as long.
const TTL_MS: u64 = 3_600_000;

/// Forms a cluster of `size` voters with a version of the lock service.
pub async fn formed(size: usize, version: u32, member: Options) -> Result<Cluster> {
    formed_of(size, Options { fsm: Some(locks_wasm(version)), ..member }).await
}

/// Runs `lockstep upgrade` against node `n`, with the version and the flags.
pub async fn upgrade(cluster: &Cluster, n: usize, version: u32, flags: &[&str]) -> Result<Output> {
    upgrade_to(cluster, n, &locks_wasm(version), flags).await
}

/// Connects to node `n`.
pub async fn client(cluster: &Cluster, n: usize) -> Result<LocksClient<Client>> {
    Ok(LocksClient::new(cluster.nodes[n].connect().await?))
}

/// Checks that `ann` has the lock, by the state of node `n`.
pub async fn holds(cluster: &Cluster, n: usize, name: &str) -> Result<()> {
    let request = GetRequest { name: name.into(), linearizable: true };
    let held = client(cluster, n).await?.get(request).await?.into_inner();
    ensure!(held.owner == "ann", "{name} is lost at node {n}");
    Ok(())
}

/// Takes a lock for `ann` through node `n`.
pub async fn acquire(cluster: &Cluster, n: usize, name: &str) -> Result<()> {
    acquire_with(&mut client(cluster, n).await?, name).await
}

async fn acquire_with(client: &mut LocksClient<Client>, name: &str) -> Result<()> {
    let request = AcquireRequest { name: name.into(), owner: "ann".into(), ttl_ms: TTL_MS };
    let acquired = client.acquire(request).await?.into_inner();
    ensure!(acquired.acquired, "{name} is held by {}", acquired.owner);
    Ok(())
}

/// Gives a lock of `ann` back through node `n`.
pub async fn release(cluster: &Cluster, n: usize, name: &str) -> Result<()> {
    let request = ReleaseRequest { name: name.into(), owner: "ann".into() };
    let released = client(cluster, n).await?.release(request).await?.into_inner();
    ensure!(released.released, "{name} was not ann's");
    Ok(())
}

/// Returns the rows of the second version, and those that the first one left, in the state of node
/// `n`. `None`: the node runs the first version.
pub async fn counted(cluster: &Cluster, n: usize) -> Result<Option<(u64, u64)>> {
    match client(cluster, n).await?.count(CountRequest { linearizable: true }).await {
        Ok(counted) => {
            let counted = counted.into_inner();
            Ok(Some((counted.locks, counted.texts)))
        }
        Err(status) if status.code() == Code::Unimplemented => Ok(None),
        Err(status) => Err(status.into()),
    }
}

/// Waits until all nodes run the same version over the same state. Returns whether it is the
/// second.
pub async fn agreed(cluster: &Cluster) -> Result<bool> {
    cluster.everyone_has_one_hash().await?;
    eventually("one version", || async {
        let first = counted(cluster, 0).await?;
        for n in 1..cluster.nodes.len() {
            let here = counted(cluster, n).await?;
            ensure!(here == first, "node {n} counts {here:?}, the first one {first:?}");
        }
        ensure!(first.is_none_or(|(_, texts)| texts == 0), "the migration is half done: {first:?}");
        Ok(first.is_some())
    })
    .await
}

/// Clients that take locks without a pause, one at each node, each its own locks.
pub struct Takers {
    clients: Vec<JoinHandle<Result<u64>>>,
    taken: Vec<Arc<AtomicU64>>,
    stop: Arc<AtomicBool>,
}

impl Takers {
    /// Starts one client at every node.
    pub async fn start(cluster: &Cluster) -> Result<Takers> {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut clients, mut taken) = (Vec::new(), Vec::new());
        for n in 0..cluster.nodes.len() {
            let (mut client, stop, count) = (client(cluster, n).await?, stop.clone(), Arc::new(AtomicU64::new(0)));
            taken.push(count.clone());
            clients.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let number = count.load(Ordering::Relaxed);
                    acquire_with(&mut client, &format!("taker{n}-{number}")).await?;
                    count.store(number + 1, Ordering::Relaxed);
                }
                Ok(count.load(Ordering::Relaxed))
            }));
        }
        Ok(Takers { clients, taken, stop })
    }

    /// Waits until every client has taken ten more locks.
    pub async fn go_on(&self) -> Result<()> {
        let taken = || self.taken.iter().map(|taken| taken.load(Ordering::Relaxed)).collect::<Vec<_>>();
        let before = taken();
        eventually("every client goes on", || async {
            if let Some(ended) = self.clients.iter().position(JoinHandle::is_finished) {
                bail!("the client of node {ended} has ended");
            }
            let now = taken();
            ensure!(now.iter().zip(&before).all(|(now, before)| *now >= before + 10), "{before:?}, then {now:?}");
            Ok(())
        })
        .await
    }

    /// Ends the clients. Returns how many locks they took. Any error of a call is one.
    pub async fn end(self) -> Result<u64> {
        Ok(self.end_each().await?.iter().sum())
    }

    /// Ends the clients. Returns how many locks each took.
    pub async fn end_each(self) -> Result<Vec<u64>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut taken = Vec::new();
        for client in self.clients {
            taken.push(client.await??);
        }
        Ok(taken)
    }
}
