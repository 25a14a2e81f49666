//! A large state, written by commands before anything is measured.

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use crate::chain_pb::PutRequest;
use crate::chain_pb::chain_client::ChainClient;
use crate::{Cluster, eventually, noise};

/// Bytes of a value.
const VALUE_BYTES: usize = 16 << 10;

/// Clients that write at the same time.
const WRITERS: u64 = 16;

/// Writes rows of so many MiB together, under keys that no client of a leg uses. Returns how many
/// rows.
pub(crate) async fn fill(cluster: &Cluster, mib: u64) -> Result<u64> {
    let rows = (mib << 20) / VALUE_BYTES as u64;
    let leader = cluster.leader().await?;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let client = ChainClient::new(cluster.nodes[leader].connect().await?);
        writers.spawn(async move {
            for row in (writer..rows).step_by(WRITERS as usize) {
                let request = PutRequest { key: format!("row{row}"), value: noise(row + 1, VALUE_BYTES) };
                eventually("a row is written", || async {
                    client.clone().put(request.clone()).await?;
                    Ok(())
                })
                .await
                .with_context(|| format!("row {row} of {rows}"))?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(written) = writers.join_next().await {
        written??;
    }
    cluster.everyone_has_one_hash().await?;
    Ok(rows)
}
