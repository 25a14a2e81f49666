//! A log is run again, that of a stopped node, of an archive, or of a running node: its hashes are
//! those of history, through changes of the guest and rollbacks, too; one entry is looked at; and
//! another guest that answers differently is found, with a script that shows it.

use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use lockstep_tests::{Cluster, Options, formed as formed_kv, locks_wasm, lockstep};
use serde_json::Value;

use crate::archive::{good_backup, reaches};
use crate::golden_directory::ARCHIVE;
use crate::locks::{acquire, formed, release, rollback, upgrade};
use crate::printed;

/// Returns the data directory of the first node.
fn directory(cluster: &Cluster) -> PathBuf {
    cluster.nodes[0].data_dir.join(&cluster.nodes[0].name)
}

fn replay(cluster: &Cluster, flags: &[&str]) -> Result<Output> {
    let directory = directory(cluster).display().to_string();
    lockstep(&[&["replay", "--data_dir", &directory], flags].concat())
}

/// Returns every file of a directory with its size, below it.
fn files(of: &Cluster) -> Result<Vec<String>> {
    let listed = Command::new("find").arg(directory(of)).args(["-type", "f", "-printf", "%P %s %T@\n"]).output()?;
    ensure!(listed.status.success(), "{}", printed::all(&listed));
    let mut files: Vec<String> = printed::all(&listed).lines().map(str::to_owned).collect();
    files.sort();
    Ok(files)
}

#[tokio::test]
async fn the_log_of_a_stopped_node_gives_the_hashes_of_history_and_stays_as_it_is() -> Result<()> {
    let mut cluster = formed_kv(1, &[]).await?;
    let mut index = 0;
    for n in 0..50 {
        index = cluster.add(0, &format!("key{}", n % 7), &format!("value{n}")).await?;
    }
    let running = replay(&cluster, &[])?;
    let said = printed::all(&running);
    ensure!(running.status.code() == Some(1) && said.contains("in use by another process"), "{said}");
    cluster.nodes[0].stop().await?;
    let before = files(&cluster)?;
    let verified = replay(&cluster, &["--json"])?;
    ensure!(verified.status.success(), "{}", printed::all(&verified));
    let found: Value = serde_json::from_slice(&verified.stdout)?;
    ensure!(found["commands"] == 50 && found["first_index"] == 0 && found["difference"].is_null(), "{found}");
    ensure!(found["hashes"].as_u64().is_some_and(|hashes| hashes > 1), "{found}");

    let rows = cluster.directory().join("rows.jsonl").display().to_string();
    let at = replay(&cluster, &["--at", &index.to_string(), "--json", "--rows", &rows])?;
    ensure!(at.status.success(), "{}", printed::all(&at));
    let entry: Value = serde_json::from_slice(&at.stdout)?;
    let command = &entry["commands"][0];
    ensure!(command["method"] == "Example/Add" && command["request"]["val"] == "value49", "{entry}");
    let committed = command["outcome"]["reply"]["commitIndex"].as_str();
    ensure!(committed == Some(&*index.to_string()), "{entry}");
    let calls = command["attempts"][0]["calls"].as_array().context("calls")?;
    ensure!(calls.iter().any(|call| call["call"] == "put") && command["fuel"].as_u64() > Some(0), "{entry}");
    ensure!(entry["rows"][0]["before"].to_string().contains("value42"), "{entry}");
    ensure!(std::fs::read_to_string(&rows)?.contains("value49"), "the rows are those behind the entry");
    let text = printed::all(&replay(&cluster, &["--at", &index.to_string()])?);
    ensure!(text.contains("command 0: Example/Add") && text.contains("\"call\":\"put\""), "{text}");
    let early = replay(&cluster, &["--range", &format!("..{}", index + 1000)])?;
    ensure!(
        early.status.code() == Some(2) && printed::all(&early).contains("ends at entry"),
        "{}",
        printed::all(&early)
    );

    ensure!(files(&cluster)? == before, "a replay changes nothing");
    cluster.nodes[0].start().await?;
    cluster.add(0, "after", "it").await?;
    Ok(())
}

#[tokio::test]
async fn a_replay_follows_changes_of_the_guest_and_rollbacks() -> Result<()> {
    let mut cluster = formed(1, 1, Options::member()).await?;
    for name in ["a", "b", "c"] {
        acquire(&cluster, 0, name).await?;
    }
    let changed = upgrade(&cluster, 0, 2, &[]).await?;
    ensure!(changed.status.success(), "{}", printed::all(&changed));
    acquire(&cluster, 0, "d").await?;
    release(&cluster, 0, "a").await?;
    let back = rollback(&cluster, 0, &[]).await?;
    ensure!(back.status.success(), "{}", printed::all(&back));
    acquire(&cluster, 0, "e").await?;
    let changed = upgrade(&cluster, 0, 2, &[]).await?;
    ensure!(changed.status.success(), "{}", printed::all(&changed));
    acquire(&cluster, 0, "f").await?;
    cluster.nodes[0].stop().await?;
    let verified = replay(&cluster, &["--range", "0.."])?;
    let said = printed::all(&verified);
    ensure!(verified.status.success() && said.contains("are the same"), "{said}");
    ensure!(said.contains("from the empty state"), "{said}");
    Ok(())
}

/// Runs a replay that finds no difference. Returns what it found.
fn verified(flags: &[&str]) -> Result<Value> {
    let verified = lockstep(&[&["replay", "--json"], flags].concat())?;
    ensure!(verified.status.success(), "{}", printed::all(&verified));
    let found: Value = serde_json::from_slice(&verified.stdout)?;
    ensure!(found["difference"].is_null() && found["hashes"].as_u64() >= Some(1), "{found}");
    Ok(found)
}

#[tokio::test]
async fn the_log_comes_from_an_archive_alone_or_behind_a_backup_or_from_a_running_node() -> Result<()> {
    let archive = tempfile::tempdir()?;
    let flag = format!("--log_archive={}", archive.path().display());
    let mut cluster = formed_kv(1, &[&flag]).await?;
    let (addr, base) = (cluster.nodes[0].grpc_addr(), cluster.directory().join("base.backup"));
    let mut last = 0;
    for n in 0..50 {
        if n == 20 {
            good_backup(&[], &addr, &base)?;
        }
        last = cluster.add(0, &format!("key{}", n % 7), &format!("value{n}")).await?;
    }
    let base = base.display().to_string();
    let fetched = verified(&["--from", &base, "--addr", &addr])?;
    ensure!(fetched["commands"] == 30 && fetched["last_index"].as_u64() >= Some(last), "{fetched}");
    let at = lockstep(&["replay", "--from", &base, "--addr", &addr, "--at", &last.to_string()])?;
    let said = printed::all(&at);
    ensure!(at.status.success() && said.contains("Example/Add") && said.contains("value49"), "{said}");

    // It has purged nothing yet, so no state is needed to begin at.
    let components = directory(&cluster).join("components").display().to_string();
    let whole = verified(&["--addr", &addr, "--components", &components])?;
    ensure!(whole["commands"] == 50 && whole["first_index"] == 0, "{whole}");

    reaches(&cluster, 0, "archived_index", last).await?;
    cluster.nodes[0].stop().await?;
    let log = archive.path().join(&cluster.nodes[0].name).display().to_string();
    let behind = verified(&["--from", &base, "--log", &log])?;
    ensure!(behind["commands"] == 30 && behind["first_index"] == fetched["first_index"], "{behind}");
    let all = verified(&["--log", &log, "--components", &components])?;
    ensure!(all["commands"] == 50 && all["first_index"] == 0, "{all}");
    ensure!((&all["last_index"], &all["hash"]) == (&behind["last_index"], &behind["hash"]), "{all}, {behind}");
    // Without a state to begin at, the log has to begin at entry 0.
    let begin = behind["first_index"].as_u64().context("first_index")?;
    let segment = cluster.directory().join("behind.segment");
    cluster.nodes[0].start().await?;
    cluster.leader().await?;
    good_backup(&["--incremental", &base], &addr, &segment)?;
    let refused = lockstep(&["replay", "--log", &segment.display().to_string(), "--components", &components])?;
    let said = printed::all(&refused);
    ensure!(refused.status.code() == Some(1) && said.contains(&format!("entries {begin} to")), "{said}");
    ensure!(said.contains("no state to begin at"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_candidate_that_answers_differently_is_found_with_the_smallest_script() -> Result<()> {
    let mut cluster = formed(1, 1, Options::member()).await?;
    for n in 0..20 {
        acquire(&cluster, 0, &format!("lock{n}")).await?;
    }
    release(&cluster, 0, "lock3").await?;
    cluster.nodes[0].stop().await?;
    let own = locks_wasm(1).display().to_string();
    let same = replay(&cluster, &["--with", &own])?;
    let said = printed::all(&same);
    ensure!(same.status.success() && said.contains("21 commands, 0 answered differently"), "{said}");

    // The second version tells the fence of a lock.
    let (candidate, script) = (locks_wasm(2).display().to_string(), cluster.directory().join("found.jsonl"));
    let path = script.display().to_string();
    let differs = replay(&cluster, &["--with", &candidate, "--break_on_difference", "--script", &path])?;
    let said = printed::all(&differs);
    ensure!(differs.status.code() == Some(1) && said.contains("shows it in 1 calls"), "{said}");
    let quiet = printed::all(&replay(&cluster, &["--with", &candidate, "--quiet"])?);
    ensure!(quiet.contains("20 of 21 commands differently") && !quiet.contains("ann"), "{quiet}");
    let lines = std::fs::read_to_string(&script)?;
    let calls: Vec<&str> = lines.lines().filter(|line| !line.starts_with('#')).collect();
    ensure!(calls.len() == 1 && calls[0].contains(r#""fence":"0""#), "{lines}");
    let tested = lockstep(&["guest", "test", &candidate, "--script", &path])?;
    let said = printed::all(&tested);
    ensure!(tested.status.code() == Some(1) && said.contains("1 of 1 expectations"), "{said}");
    Ok(())
}

#[tokio::test]
async fn without_the_components_of_the_log_the_missing_one_is_named() -> Result<()> {
    let mut cluster = formed_kv(1, &[]).await?;
    cluster.add(0, "key", "value").await?;
    cluster.nodes[0].stop().await?;
    let components = directory(&cluster).join("components");
    let elsewhere = cluster.directory().join("elsewhere");
    std::fs::rename(&components, &elsewhere)?;
    std::fs::create_dir(&components)?;
    let refused = replay(&cluster, &[])?;
    let said = printed::all(&refused);
    ensure!(refused.status.code() == Some(1) && said.contains("--components"), "{said}");
    let given = replay(&cluster, &["--components", &elsewhere.display().to_string()])?;
    ensure!(given.status.success(), "{}", printed::all(&given));
    let nowhere = lockstep(&["replay", "--data_dir", &cluster.directory().display().to_string()])?;
    let said = printed::all(&nowhere);
    ensure!(nowhere.status.code() == Some(1) && said.contains("no data directory of a node"), "{said}");
    Ok(())
}

/// The hashes are those that the earlier build recorded, before it was killed.
#[test]
fn the_log_of_an_earlier_build_gives_the_hashes_of_that_build() -> Result<()> {
    let place = tempfile::tempdir()?;
    let unpacked = Command::new("tar").arg("-xzf").arg(ARCHIVE).arg("-C").arg(place.path()).output()?;
    ensure!(unpacked.status.success(), "{}", printed::all(&unpacked));
    let directory = place.path().join("golden").display().to_string();
    let verified = lockstep(&["replay", "--data_dir", &directory, "--json"])?;
    ensure!(verified.status.success(), "{}", printed::all(&verified));
    let found: Value = serde_json::from_slice(&verified.stdout)?;
    ensure!(found["commands"].as_u64() >= Some(20) && found["difference"].is_null(), "{found}");
    Ok(())
}
