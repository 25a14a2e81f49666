//! A state moves to another cluster: as JSON lines, with rows of the same or of other types, and as
//! a backup that another guest takes over while it is restored.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use lockstep_tests::locks_pb::{GetRequest, WatchRequest};
use lockstep_tests::medley_pb::ActRequest;
use lockstep_tests::medley_pb::medley_client::MedleyClient;
use lockstep_tests::{Cluster, Options, PATIENCE, formed_of, locks_wasm, lockstep, lockstep_binary, medley_wasm};
use serde_json::{Value, json};

use crate::locks::{acquire, client, counted, formed, release};
use crate::printed;

/// Commands that leave rows in every collection.
const COMMANDS: u64 = 1_500;

fn export(cluster: &Cluster, n: usize, to: &Path) -> Result<Vec<String>> {
    let out = lockstep(&["rows", "export", &cluster.nodes[n].grpc_addr(), "--out", &to.display().to_string()])?;
    ensure!(out.status.success(), "{}", printed::all(&out));
    Ok(std::fs::read_to_string(to)?.lines().map(str::to_owned).collect())
}

fn import(cluster: &Cluster, n: usize, from: &Path, flags: &[&str]) -> Result<Output> {
    let (addr, from) = (cluster.nodes[n].grpc_addr(), from.display().to_string());
    lockstep(&[&["rows", "import", &addr, &from], flags].concat())
}

async fn read_only(cluster: &Cluster, mode: &str) -> Result<()> {
    let leader = cluster.nodes[cluster.leader().await?].grpc_addr();
    let out = lockstep(&["admin", &leader, "read_only", mode])?;
    ensure!(out.status.success(), "{}", printed::all(&out));
    Ok(())
}

#[tokio::test]
async fn every_row_moves_to_another_cluster() -> Result<()> {
    let old = formed_of(1, Options { fsm: Some(medley_wasm()), ..Options::member() }).await?;
    let mut act = MedleyClient::new(old.nodes[0].connect().await?);
    for seed in 0..COMMANDS {
        // Some commands are refused or fail, and leave no row.
        drop(act.act(ActRequest { seed: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) }).await);
    }
    let file = old.directory().join("medley.jsonl");
    let lines = export(&old, 0, &file)?;
    for name in ["persons", "index of persons", "notes", "tags", "sum", "last"] {
        ensure!(lines.iter().any(|line| line.starts_with(&format!(r#"{{"in":"{name}","#))), "no row is in {name}");
    }
    ensure!(!lines.iter().any(|line| line.contains("\"raw_")), "every row has its form");

    let new = formed_of(3, Options { fsm: Some(medley_wasm()), ..Options::member() }).await?;
    let follower = new.follower().await?;
    let refused = import(&new, follower, &file, &[])?;
    let said = printed::all(&refused);
    ensure!(refused.status.code() == Some(1) && said.contains("read_only on"), "{said}");
    read_only(&new, "on").await?;
    let tried = import(&new, follower, &file, &["--dry_run"])?;
    let said = printed::all(&tried);
    ensure!(tried.status.success() && said.contains("rows of notes") && said.contains("nothing was written"), "{said}");
    // Through a follower: the leader is found.
    let imported = import(&new, follower, &file, &[])?;
    ensure!(imported.status.success(), "{}", printed::all(&imported));
    new.everyone_has_one_hash().await?;
    let again = export(&new, follower, &new.directory().join("again.jsonl"))?;
    ensure!(again[1..] == lines[1..], "the rows are not those of the old cluster");
    let refused = import(&new, follower, &file, &[])?;
    let said = printed::all(&refused);
    ensure!(refused.status.code() == Some(1) && said.contains("--replace"), "{said}");
    let replaced = import(&new, follower, &file, &["--replace"])?;
    let said = printed::all(&replaced);
    ensure!(replaced.status.success() && said.contains("in place of"), "{said}");
    let again = export(&new, follower, &new.directory().join("again.jsonl"))?;
    ensure!(again[1..] == lines[1..], "the rows are not those of the file");
    read_only(&new, "off").await?;
    let mut act = MedleyClient::new(new.nodes[follower].connect().await?);
    let mut ran = 0;
    for seed in 0..20 {
        ran += u64::from(act.act(ActRequest { seed }).await.is_ok());
    }
    ensure!(ran > 0, "no command runs over the rows");
    new.everyone_has_one_hash().await
}

/// Rewrites the rows of the lock service's first version as those of its second one.
fn rewritten(lines: &[String]) -> Result<Vec<String>> {
    let mut header: Value = serde_json::from_str(&lines[0])?;
    header["collections"] = json!([
        { "name": "texts", "tag": 2, "rows": "" },
        { "name": "fences", "tag": 3, "rows": "" },
    ]);
    let mut out = vec![header.to_string()];
    for (fence, line) in (1..).zip(&lines[1..lines.len() - 1]) {
        let mut row: Value = serde_json::from_str(line)?;
        let text = row["value"].as_str().context("a text")?.to_owned();
        let (until_ms, owner) = text.split_once(' ').context("until and owner")?;
        row["value"] = json!({ "owner": owner, "untilMs": until_ms, "fence": fence });
        out.push(row.to_string());
    }
    out.push(json!({ "in": "fences", "value": lines.len() - 2 }).to_string());
    out.push(lines[lines.len() - 1].clone());
    Ok(out)
}

#[tokio::test]
async fn rows_change_their_types_on_the_way_and_watches_see_them() -> Result<()> {
    let old = formed(1, 1, Options::member()).await?;
    for name in ["a", "b", "c"] {
        acquire(&old, 0, name).await?;
    }
    let lines = export(&old, 0, &old.directory().join("locks.jsonl"))?;
    let new = formed(3, 2, Options::member()).await?;
    let (follower, file) = (new.follower().await?, new.directory().join("locks.jsonl"));
    let mut watch = client(&new, follower).await?.watch(WatchRequest { name: "b".into() }).await?.into_inner();
    ensure!(watch.message().await?.context("who holds it")?.owner.is_empty());
    std::fs::write(&file, rewritten(&lines)?.join("\n") + "\n")?;
    read_only(&new, "on").await?;
    let imported = import(&new, follower, &file, &[])?;
    ensure!(imported.status.success(), "{}", printed::all(&imported));
    let seen = tokio::time::timeout(PATIENCE, watch.message()).await.context("the watch is silent")??;
    ensure!(seen.as_ref().is_some_and(|seen| seen.owner == "ann"), "{seen:?}");
    new.everyone_has_one_hash().await?;
    ensure!(counted(&new, follower).await? == Some((3, 0)));
    read_only(&new, "off").await?;
    acquire(&new, follower, "d").await?;
    let request = GetRequest { name: "d".into(), linearizable: true };
    let held = client(&new, follower).await?.get(request).await?.into_inner();
    ensure!(held.fence == 4, "the counter has moved, too: {held:?}");

    // A line that is no row of the new guest changes nothing.
    let wrong: Vec<String> = rewritten(&lines)?.iter().map(|line| line.replace("untilMs", "till")).collect();
    std::fs::write(&file, wrong.join("\n"))?;
    read_only(&new, "on").await?;
    let refused = import(&new, follower, &file, &["--replace"])?;
    let said = printed::all(&refused);
    ensure!(refused.status.code() == Some(1) && said.contains("line 2") && said.contains("till"), "{said}");
    ensure!(counted(&new, follower).await? == Some((4, 0)));
    Ok(())
}

fn backup(cluster: &Cluster) -> Result<PathBuf> {
    let file = cluster.directory().join("today.backup");
    let mut command = Command::new(lockstep_binary());
    command.args(["backup", &cluster.nodes[0].grpc_addr()]).stdin(Stdio::null()).stdout(std::fs::File::create(&file)?);
    let out = command.output()?;
    ensure!(out.status.success(), "{}", printed::all(&out));
    Ok(file)
}

fn restore(from: &Path, data_dir: &Path, flags: &[&str]) -> Result<Output> {
    let (from, data_dir) = (from.display().to_string(), data_dir.display().to_string());
    let fsm = locks_wasm(2).display().to_string();
    let words = ["restore", "--from", &from, "--raft_id=nodeA", "--raft_data_dir", &data_dir, "--fsm", &fsm];
    lockstep(&[&words, flags].concat())
}

#[tokio::test]
async fn a_backup_is_restored_with_the_next_version() -> Result<()> {
    let old = formed(1, 1, Options::member()).await?;
    // More than one call of the migration moves.
    for n in 0..150 {
        acquire(&old, 0, &format!("lock{n}")).await?;
    }
    let mut new = Cluster::new()?;
    let left = || std::fs::read_dir(new.directory()).map(|entries| entries.count());
    acquire(&old, 0, "refuse").await?;
    for flags in [&[][..], &["--dry_run"]] {
        let refused = restore(&backup(&old)?, new.directory(), flags)?;
        let said = printed::all(&refused);
        ensure!(refused.status.code() == Some(1) && said.contains("a lock is named refuse"), "{said}");
        ensure!(left()? == 0, "something was left: {said}");
    }
    release(&old, 0, "refuse").await?;
    let file = backup(&old)?;
    let tried = restore(&file, new.directory(), &["--dry_run"])?;
    let said = printed::all(&tried);
    ensure!(
        tried.status.success() && said.contains("snapshot  exact") && said.contains("nothing was restored"),
        "{said}"
    );
    ensure!(left()? == 0, "something was left: {said}");
    let restored = restore(&file, new.directory(), &[])?;
    let said = printed::all(&restored);
    ensure!(restored.status.success() && said.contains("version 1") && said.contains("state     migrated"), "{said}");
    let first = new.push(Options { fsm: None, ..Options::bootstrap() })?;
    new.nodes[first].start().await?;
    new.leader().await?;
    ensure!(counted(&new, first).await? == Some((150, 0)));
    let fsm = new.nodes[first].status().await?["fsm"].take();
    ensure!(fsm["version"] == "2" && fsm["last_change"]["verdict"] == "changed", "{fsm}");
    let joiner = new.push(Options { fsm: None, ..Options::member() })?;
    new.nodes[joiner].start().await?;
    new.add_voter(joiner).await?;
    ensure!(counted(&new, joiner).await? == Some((150, 0)));
    acquire(&new, joiner, "after").await?;
    new.nodes[first].stop().await?;
    new.nodes[first].start().await?;
    new.everyone_has_one_hash().await
}
