//! A change is taken back after many commands: all of them run once more, on every node, and none
//! is lost.

use anyhow::{Context, Result, ensure};
use lockstep_tests::chain_pb::PutRequest;
use lockstep_tests::chain_pb::chain_client::ChainClient;
use lockstep_tests::{Cluster, Options, operator, version_wasm};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::printed;
use crate::versions::{everyone_runs, formed, get};

/// Commands since the change. `LOCKSTEP_ROLLBACK_COMMANDS` sets another number, a multiple of
/// [`WRITERS`].
const COMMANDS: u64 = 5_000;

/// Clients at the same time, each with a key of its own.
const WRITERS: u64 = 50;

async fn write(cluster: &Cluster, each: u64) -> Result<()> {
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let mut client = ChainClient::new(cluster.nodes[writer as usize % 3].connect().await?);
        writers.spawn(async move {
            for value in 0..each {
                client.put(PutRequest { key: format!("key{writer}"), value: value.to_string() }).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(written) = writers.join_next().await {
        written??;
    }
    Ok(())
}

#[tokio::test]
async fn a_rollback_of_many_commands_loses_none_and_all_hashes_are_equal() -> Result<()> {
    let commands = match std::env::var("LOCKSTEP_ROLLBACK_COMMANDS") {
        Ok(text) => text.parse().context("LOCKSTEP_ROLLBACK_COMMANDS is a number")?,
        Err(_) => COMMANDS,
    };
    ensure!(commands > 0 && commands % WRITERS == 0, "{commands} is no multiple of {WRITERS}");
    let cluster = formed(Options::member()).await?;
    let changed = operator::upgrade(&cluster, 0, &version_wasm("kv", 2), &["--probation", "2h"]).await?;
    ensure!(changed.status.success(), "{}", printed::all(&changed));
    write(&cluster, commands / WRITERS).await?;
    let began = std::time::Instant::now();
    let back = operator::rollback(&cluster, 0, &["--json", "--quiet"]).await?;
    let said = printed::all(&back);
    println!("{commands} commands: the rollback took {:?}", began.elapsed());
    ensure!(back.status.success(), "{said}");
    let prepared: Value = serde_json::from_str(said.lines().next().context("a line")?)?;
    // The first version does not tell the time of a write, so it answers all of them differently.
    ensure!(prepared["commands"] == commands && prepared["different"] == commands, "{said}");
    everyone_runs(&cluster, "1").await?;
    cluster.everyone_has_one_hash().await?;
    for n in 0..3 {
        for writer in 0..WRITERS {
            let found = get(&cluster, n, &format!("key{writer}")).await?;
            ensure!(found.version == commands / WRITERS, "node {n}, writer {writer}: {found:?}");
            ensure!(found.value == (commands / WRITERS - 1).to_string(), "node {n}, writer {writer}: {found:?}");
        }
    }
    Ok(())
}
