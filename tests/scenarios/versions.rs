//! Clusters of the tests' keys and values, whose versions differ in little, and calls of them. For
//! the scenarios about changes of the guest; it has no scenario itself.

use anyhow::{Context, Result, ensure};
use lockstep_tests::chain_pb::chain_client::ChainClient;
use lockstep_tests::chain_pb::{GetRequest, PutRequest, Record};
use lockstep_tests::{Cluster, Options, eventually, formed_of, version_wasm};

/// Forms a cluster of three voters with version 1.
pub async fn formed(member: Options) -> Result<Cluster> {
    formed_of(3, Options { fsm: Some(version_wasm("kv", 1)), ..member }).await
}

/// Writes a key through node `n`.
pub async fn put(cluster: &Cluster, n: usize, key: &str) -> Result<()> {
    let mut client = ChainClient::new(cluster.nodes[n].connect().await?);
    client.put(PutRequest { key: key.into(), value: "value".into() }).await?;
    Ok(())
}

/// Reads a key at node `n`.
pub async fn get(cluster: &Cluster, n: usize, key: &str) -> Result<Record> {
    let mut client = ChainClient::new(cluster.nodes[n].connect().await?);
    let found = client.get(GetRequest { key: key.into(), linearizable: true }).await?.into_inner().record;
    found.with_context(|| format!("{key} is lost at node {n}"))
}

/// Waits until every running node runs the guest that declares this version.
pub async fn everyone_runs(cluster: &Cluster, version: &str) -> Result<()> {
    eventually("every node runs the version", || async {
        for node in cluster.nodes.iter().filter(|node| node.running()) {
            let fsm = node.status().await?["fsm"].take();
            ensure!(fsm["version"] == version, "{} runs {}", node.name, fsm["version"]);
        }
        Ok(())
    })
    .await
}
