//! Backups from before a change of the guest, from behind it, and from behind its rollback are
//! restored. Each cluster follows the next switch, and the log leads each backup past the others.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use lockstep_tests::{Cluster, Options, locks_wasm};

use crate::archive::{founded, good_backup, reaches, restore};
use crate::locks::{acquire, agreed, formed, holds, rollback, upgrade};
use crate::printed;

/// A cluster of one whose guest was changed and taken back, with a backup from before the change,
/// from behind it, and from behind the rollback. A lock was taken before each.
struct Switched {
    cluster: Cluster,
    before: PathBuf,
    between: PathBuf,
    behind: PathBuf,
}

async fn back_up(cluster: &Cluster, lock: &str) -> Result<PathBuf> {
    acquire(cluster, 0, lock).await?;
    let file = cluster.directory().join(format!("{lock}.backup"));
    good_backup(&[], &cluster.nodes[0].grpc_addr(), &file)?;
    Ok(file)
}

async fn switched(flags: &[&str]) -> Result<Switched> {
    let cluster = formed(1, 1, Options::member().with(flags)).await?;
    let before = back_up(&cluster, "before").await?;
    change(&cluster).await?;
    let between = back_up(&cluster, "between").await?;
    take_back(&cluster).await?;
    let behind = back_up(&cluster, "behind").await?;
    Ok(Switched { cluster, before, between, behind })
}

async fn change(cluster: &Cluster) -> Result<()> {
    let changed = upgrade(cluster, 0, 2, &[]).await?;
    ensure!(changed.status.success() && agreed(cluster).await?, "{}", printed::all(&changed));
    Ok(())
}

async fn take_back(cluster: &Cluster) -> Result<()> {
    let back = rollback(cluster, 0, &[]).await?;
    ensure!(back.status.success() && !agreed(cluster).await?, "{}", printed::all(&back));
    Ok(())
}

async fn holds_all(cluster: &Cluster, n: usize, locks: &[&str]) -> Result<()> {
    for lock in locks {
        holds(cluster, n, lock).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_backup_of_either_side_founds_a_cluster_that_follows_the_next_switch() -> Result<()> {
    let Switched { cluster: _cluster, before, between, behind } = switched(&[]).await?;
    let cases = [
        (before, false, &["before"][..]),
        (between, true, &["before", "between"][..]),
        (behind, false, &["before", "between", "behind"][..]),
    ];
    for (file, is_second, locks) in cases {
        let (mut new, _) = founded(&file, &[], &[]).await?;
        ensure!(agreed(&new).await? == is_second, "{}", file.display());
        // The new cluster has neither the log nor the state from before.
        let refused = rollback(&new, 0, &[]).await?;
        let said = printed::all(&refused);
        ensure!(refused.status.code() == Some(1) && said.contains("no change is on probation"), "{said}");
        let joiner = new.push(Options { fsm: None, ..Options::member() })?;
        new.nodes[joiner].start().await?;
        new.add_voter(joiner).await?;
        if !is_second {
            change(&new).await?;
            acquire(&new, joiner, "next").await?;
            take_back(&new).await?;
            holds(&new, joiner, "next").await?;
        }
        holds_all(&new, joiner, locks).await?;
        new.everyone_has_one_hash().await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_log_leads_a_backup_through_a_switch_and_its_rollback() -> Result<()> {
    let archive = tempfile::tempdir()?;
    let flag = format!("--log_archive={}", archive.path().display());
    let Switched { cluster, before, between, behind } = switched(&[&flag]).await?;
    change(&cluster).await?;
    acquire(&cluster, 0, "last").await?;
    let applied = cluster.nodes[0].status().await?["last_applied_index"].as_u64().context("last_applied_index")?;
    reaches(&cluster, 0, "archived_index", applied).await?;
    let (kept, second) = (archive.path().join(&cluster.nodes[0].name), locks_wasm(2).display().to_string());
    let (logs, locks) = ([kept.as_path()], ["before", "between", "behind", "last"]);

    let (new, said) = founded(&before, &logs, &["--components", &second]).await?;
    ensure!(said.contains("2 changes of the machine and 1 rollbacks"), "{said}");
    ensure!(agreed(&new).await?, "the second version runs at the end");
    holds_all(&new, 0, &locks).await?;
    // The log changes to the guest of --fsm, which then has nothing to take over.
    let (new, said) = founded(&behind, &logs, &["--fsm", &second]).await?;
    ensure!(said.contains("is the guest of the state already") && agreed(&new).await?, "{said}");
    holds_all(&new, 0, &locks).await?;

    let target = tempfile::tempdir()?;
    let lacks = restore(&before, &logs, &[], target.path())?;
    let said = printed::all(&lacks);
    ensure!(lacks.status.code() == Some(1) && said.contains("not at hand: give --components"), "{said}");
    // The state from before the change is in none of this.
    let refused = restore(&between, &logs, &[], target.path())?;
    let said = printed::all(&refused);
    ensure!(refused.status.code() == Some(1) && said.contains("begin with a backup from before entry"), "{said}");
    ensure!(std::fs::read_dir(target.path())?.next().is_none(), "something is left");
    let index = said.split("--to_index ").nth(1).and_then(|rest| rest.split_whitespace().next()).context("an index")?;
    let (new, _) = founded(&between, &logs, &["--to_index", index]).await?;
    ensure!(agreed(&new).await?, "the rollback comes later");
    holds_all(&new, 0, &locks[..2]).await
}
