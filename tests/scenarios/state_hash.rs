//! The rolling state hash is equal on all nodes, whatever restarts lie between.

use anyhow::{Result, ensure};
use lockstep_tests::formed;

#[tokio::test]
async fn all_nodes_have_one_hash_after_restarts() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    cluster.everyone_has_one_hash().await?;
    for round in 0..6 {
        let n = round % 3;
        for k in 0..30 {
            cluster.add((n + 1) % 3, &format!("k{k}"), &format!("v{round}")).await?;
        }
        let before = cluster.nodes[n].stat().await?["fsm"]["state_hash"].clone();
        // The state of a killed node is where its last flush left it; the log brings it, hash included, back to the others.
        match round {
            0..3 => cluster.nodes[n].kill()?,
            _ => ensure!(cluster.nodes[n].stop().await?.success()),
        }
        cluster.add((n + 1) % 3, "while", "down").await?;
        cluster.nodes[n].start().await?;
        cluster.everyone_has_one_hash().await?;
        ensure!(cluster.nodes[n].stat().await?["fsm"]["state_hash"] != before, "a write leaves a trace in the hash");
    }
    cluster.everyone_reads("while", "down").await
}
