//! What a rehearsal finds before a change is made: a reply that differs, on every node, and a
//! migration that does not come to the same result everywhere.

use anyhow::{Context, Result, ensure};
use lockstep_tests::{Options, eventually, kv_planted_wasm, operator};
use serde_json::Value;

use crate::locks::{acquire, agreed, formed as formed_with_locks, upgrade};
use crate::printed;
use crate::versions::{everyone_runs, formed, put};

#[tokio::test]
async fn a_reply_that_differs_is_found_on_every_node() -> Result<()> {
    let cluster = formed(Options::member()).await?;
    for key in ["even", "odd", "even"] {
        put(&cluster, 0, key).await?;
    }
    cluster.everyone_has_one_hash().await?;
    let tried = operator::upgrade(&cluster, 0, &kv_planted_wasm(), &["--dry_run", "--json"]).await?;
    let said = printed::all(&tried);
    ensure!(tried.status.success(), "{said}");
    let steps: Vec<Value> = said.lines().map(serde_json::from_str).collect::<Result<_, _>>().context("objects")?;
    let rehearsed = steps.iter().find(|step| step["step"] == "rehearsed").context("it was rehearsed")?;
    let reports = rehearsed["reports"].as_array().context("reports")?;
    ensure!(reports.len() == 3, "{rehearsed}");
    for found in reports {
        let report = &found["report"];
        ensure!(report["commands"]["commands"] == 3 && report["commands"]["different"] == 1, "{report}");
        let difference = &report["differences"][0];
        ensure!(difference["method"] == "chain.Chain/Put" && difference["request"]["key"] == "odd", "{difference}");
        let version = |side: &str| difference[side]["reply"]["written"]["version"].as_str()?.parse::<u64>().ok();
        let (old, new) = (version("old").context("old")?, version("new").context("new")?);
        ensure!(new == old + 1, "{difference}");
    }
    // Without content, only that it differs is said.
    let quiet = operator::upgrade(&cluster, 0, &kv_planted_wasm(), &["--dry_run", "--quiet"]).await?;
    let said = printed::all(&quiet);
    ensure!(said.contains("chain.Chain/Put") && !said.contains("odd"), "{said}");
    everyone_runs(&cluster, "1").await
}

/// In the sandbox a migration finds nothing that differs between nodes. So a failpoint makes the
/// guest of one node write other values. No command runs meanwhile, so it does that only in the
/// rehearsal.
#[tokio::test]
async fn a_migration_that_differs_on_one_node_is_found_before_the_change() -> Result<()> {
    let cluster = formed_with_locks(3, 1, Options::member().with_failpoints()).await?;
    for n in 0..3 {
        acquire(&cluster, n, &format!("lock{n}")).await?;
    }
    cluster.everyone_has_one_hash().await?;
    let (follower, leader) = (cluster.follower().await?, cluster.leader().await?);
    cluster.nodes[follower].fail_now(&["guest-diverge=return(error)"]).await?;
    let stopped = upgrade(&cluster, leader, 2, &[]).await?;
    let said = printed::all(&stopped);
    ensure!(stopped.status.code() == Some(1) && said.contains("the rehearsal speaks against"), "{said}");
    ensure!(said.contains("the migrated state is not equal on all nodes"), "{said}");
    ensure!(said.contains(&format!("on {}", cluster.nodes[follower].name)), "it is named: {said}");
    ensure!(!agreed(&cluster).await?, "it runs the new version");
    // The same guest is changed once all come to the same result.
    cluster.nodes[follower].fail_at(&[])?;
    eventually("it is changed", || async {
        let changed = upgrade(&cluster, leader, 2, &[]).await?;
        ensure!(changed.status.success(), "{}", printed::all(&changed));
        Ok(())
    })
    .await?;
    ensure!(agreed(&cluster).await?);
    Ok(())
}
