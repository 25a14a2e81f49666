//! The log is kept beyond its purge: by every node with `--log_archive`, and by incremental
//! backups. From a backup and such a log, a cluster is restored as it was at any index or time.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use lockstep_tests::pb::AddRequest;
use lockstep_tests::{Cluster, Options, eventually, formed, formed_of, lockstep, lockstep_binary};

use crate::printed::{all, stderr};

/// Limits so small that the log is purged after a few hundred writes.
const TIGHT: [&str; 4] =
    ["--snapshot_threshold=50", "--snapshot_interval=1s", "--trailing_logs=10", "--trailing_entries_min=10"];

/// Runs `lockstep backup` with more words before the address.
fn backup(words: &[&str], addr: &str, to: &Path) -> Result<Output> {
    let out = File::create(to)?;
    let mut command = Command::new(lockstep_binary());
    command.arg("backup").args(words).arg(addr).stdin(Stdio::null()).stdout(out).stderr(Stdio::piped());
    Ok(command.output()?)
}

/// Makes a backup, and returns what the command said.
pub fn good_backup(words: &[&str], addr: &str, to: &Path) -> Result<String> {
    let written = backup(words, addr, to)?;
    ensure!(written.status.success(), "{}", stderr(&written));
    Ok(stderr(&written))
}

/// Runs `lockstep restore` with a log, into a directory for one node.
pub fn restore(from: &Path, logs: &[&Path], more: &[&str], data_dir: &Path) -> Result<Output> {
    let (from, data_dir) = (from.display().to_string(), data_dir.display().to_string());
    let logs: Vec<String> = logs.iter().map(|log| format!("--log={}", log.display())).collect();
    let mut words = vec!["restore", "--from", &from, "--raft_id=nodeA", "--raft_data_dir", &data_dir];
    words.extend(logs.iter().map(String::as_str));
    words.extend(more);
    lockstep(&words)
}

/// Restores, and starts the new cluster. Returns it, and what the command said.
pub async fn founded(from: &Path, logs: &[&Path], more: &[&str]) -> Result<(Cluster, String)> {
    let mut new = Cluster::new()?;
    let made = restore(from, logs, more, new.directory())?;
    let said = all(&made);
    ensure!(made.status.success(), "{said}");
    let first = new.push(Options { fsm: None, ..Options::bootstrap() })?;
    new.nodes[first].start().await?;
    new.leader().await?;
    Ok((new, said))
}

/// Restores, starts the new cluster, and returns what it has under a key.
async fn restored(from: &Path, logs: &[&Path], more: &[&str], key: &str) -> Result<String> {
    let (new, said) = founded(from, logs, more).await?;
    ensure!(said.contains("hashes in them are as here"), "{said}");
    new.get(0, key, true).await
}

async fn write(cluster: &Cluster, n: usize, count: usize, value: &str) -> Result<()> {
    let mut client = cluster.nodes[n].client().await?;
    for k in 0..count {
        client.add(AddRequest { key: format!("k{k}"), val: value.into() }).await?;
    }
    Ok(())
}

async fn raft_number(cluster: &Cluster, n: usize, name: &str) -> Result<u64> {
    let status = cluster.nodes[n].status().await?;
    status["raft"][name].as_u64().with_context(|| format!("the status holds no raft.{name}: {status}"))
}

/// Waits until a number of Raft has reached a value on a node.
pub async fn reaches(cluster: &Cluster, n: usize, name: &str, least: u64) -> Result<()> {
    eventually("a number grows", || async {
        let found = raft_number(cluster, n, name).await?;
        ensure!(found >= least, "raft.{name} is {found}, not {least} yet");
        Ok(())
    })
    .await
}

fn milliseconds_now() -> Result<u128> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis())
}

#[tokio::test]
async fn a_cluster_is_restored_to_an_index_and_a_time_from_any_nodes_archive() -> Result<()> {
    let archive = tempfile::tempdir()?;
    let flag = format!("--log_archive={}", archive.path().display());
    let mut cluster = formed(3, &[&TIGHT[..], &[flag.as_str()]].concat()).await?;
    cluster.add(0, "key", "first").await?;
    let base = cluster.directory().join("base.backup");
    good_backup(&[], &cluster.nodes[0].grpc_addr(), &base)?;
    write(&cluster, 0, 200, "v").await?;
    let middle = cluster.add(1, "key", "middle").await?;
    let time = milliseconds_now()?;
    // Log time is in milliseconds, and the next entry is later.
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    write(&cluster, 0, 200, "w").await?;
    let last = cluster.add(2, "key", "last").await?;
    for n in 0..3 {
        reaches(&cluster, n, "purged_index", middle).await?;
    }
    // Restarted nodes go on behind what is archived.
    for n in 0..3 {
        cluster.nodes[n].kill()?;
        cluster.nodes[n].start().await?;
        cluster.leader().await?;
    }
    let end = cluster.add(0, "key", "end").await?;
    for n in 0..3 {
        reaches(&cluster, n, "archived_index", end).await?;
        ensure!(raft_number(&cluster, n, "archive_failures").await? == 0, "node {n}");
        let metrics = cluster.nodes[n].stat().await?;
        ensure!(metrics["raft"]["archive_failing"] == false, "{metrics}");
    }
    let of = |n: usize| archive.path().join(&cluster.nodes[n].name);
    let (index, time) = (format!("--to_index={middle}"), format!("--to_time={time}"));
    ensure!(restored(&base, &[&of(1)], &[&index], "key").await? == "middle");
    ensure!(restored(&base, &[&of(2)], &[&time], "key").await? == "middle");
    ensure!(restored(&base, &[&of(0)], &[&format!("--to_index={last}")], "key").await? == "last");
    ensure!(restored(&base, &[&of(0), &of(1), &of(2)], &[], "key").await? == "end");
    // An incremental backup needs the log, which is gone.
    let late = backup(
        &["--incremental", &base.display().to_string()],
        &cluster.nodes[0].grpc_addr(),
        &cluster.directory().join("x"),
    )?;
    ensure!(late.status.code() == Some(1) && stderr(&late).contains("is not in this node's log any more"), "{late:?}");
    // Behind the archive there is none.
    let target = tempfile::tempdir()?;
    let beyond = restore(&base, &[&of(0)], &[&format!("--to_index={}", end + 1_000_000)], target.path())?;
    ensure!(beyond.status.code() == Some(1) && stderr(&beyond).contains("the log ends at entry"), "{beyond:?}");
    let before = restore(&base, &[&of(0)], &["--to_time=2020-01-01T00:00:00Z"], target.path())?;
    ensure!(before.status.code() == Some(1) && stderr(&before).contains("earlier backup"), "{before:?}");
    Ok(())
}

/// A backup and three segments behind it, the last one without entries. The key has the number of
/// the file.
struct Chain {
    _cluster: Cluster,
    base: PathBuf,
    segments: [PathBuf; 3],
}

async fn chain() -> Result<Chain> {
    let cluster = formed(1, &[]).await?;
    let addr = cluster.nodes[0].grpc_addr();
    let file = |name: &str| cluster.directory().join(name);
    let (base, segments) = (file("0.backup"), [file("1.segment"), file("2.segment"), file("3.segment")]);
    cluster.add(0, "key", "0").await?;
    good_backup(&[], &addr, &base)?;
    cluster.add(0, "key", "1").await?;
    let told = good_backup(&["--incremental", &base.display().to_string()], &addr, &segments[0])?;
    ensure!(told.contains("log entries"), "{told}");
    cluster.add(0, "key", "2").await?;
    good_backup(&["--incremental", &segments[0].display().to_string()], &addr, &segments[1])?;
    good_backup(&["--incremental", &segments[1].display().to_string()], &addr, &segments[2])?;
    Ok(Chain { _cluster: cluster, base, segments })
}

#[tokio::test]
async fn incremental_backups_follow_each_other_and_restore() -> Result<()> {
    let Chain { _cluster, base, segments: [one, two, three] } = chain().await?;
    ensure!(restored(&base, &[&one], &[], "key").await? == "1");
    ensure!(restored(&base, &[&two, &one, &three], &[], "key").await? == "2");
    // A segment of another cluster does not follow.
    let other = formed(1, &[]).await?;
    write(&other, 0, 30, "v").await?;
    let foreign = backup(
        &["--incremental", &one.display().to_string()],
        &other.nodes[0].grpc_addr(),
        &other.directory().join("x"),
    )?;
    ensure!(foreign.status.code() == Some(1) && stderr(&foreign).contains("of another cluster"), "{foreign:?}");
    let neither = backup(&["--incremental", "/dev/null"], &other.nodes[0].grpc_addr(), &other.directory().join("x"))?;
    ensure!(neither.status.code() == Some(1) && stderr(&neither).contains("cannot be continued"), "{neither:?}");
    Ok(())
}

#[tokio::test]
async fn a_damaged_or_missing_segment_is_named_and_nothing_is_left() -> Result<()> {
    let Chain { _cluster, base, segments: [one, two, _] } = chain().await?;
    let target = tempfile::tempdir()?;
    let refused = |logs: &[&Path], words: &str| -> Result<()> {
        let refused = restore(&base, logs, &[], target.path())?;
        let text = stderr(&refused);
        ensure!(refused.status.code() == Some(1) && text.contains(words), "{words}: {text}");
        ensure!(std::fs::read_dir(target.path())?.next().is_none(), "{words}: something is left");
        Ok(())
    };
    refused(&[&two], "the segments have a gap")?;
    let good = std::fs::read(&two)?;
    let mut damaged = good.clone();
    damaged[good.len() / 2] ^= 1;
    std::fs::write(&two, damaged)?;
    refused(&[&one, &two], &two.display().to_string())?;
    std::fs::write(&two, &good[..good.len() - 1])?;
    refused(&[&one, &two], "cut short")?;
    std::fs::write(&two, &good)?;
    ensure!(restore(&base, &[&one, &two], &[], target.path())?.status.success(), "the good ones");
    Ok(())
}

#[tokio::test]
async fn an_archive_that_cannot_be_written_holds_the_purge_and_goes_on_later() -> Result<()> {
    let place = tempfile::tempdir()?;
    let archive = place.path().join("archive");
    // A file stands where the directory belongs.
    std::fs::write(&archive, "in the way")?;
    let flag = format!("--log_archive={}", archive.display());
    let cluster = formed(1, &[&TIGHT[..], &[flag.as_str()]].concat()).await?;
    write(&cluster, 0, 200, "v").await?;
    reaches(&cluster, 0, "archive_failures", 2).await?;
    reaches(&cluster, 0, "last_snapshot_index", 100).await?;
    let last = cluster.add(0, "key", "value").await?;
    ensure!(raft_number(&cluster, 0, "purged_index").await? == 0, "nothing may be purged");
    cluster.nodes[0].has_logged(&["the log cannot be archived"]).await?;
    std::fs::remove_file(&archive)?;
    reaches(&cluster, 0, "archived_index", last).await?;
    reaches(&cluster, 0, "purged_index", 50).await?;
    ensure!(raft_number(&cluster, 0, "archive_gaps").await? == 0);
    let base = cluster.directory().join("base.backup");
    good_backup(&[], &cluster.nodes[0].grpc_addr(), &base)?;
    let (addr, kept) = (cluster.nodes[0].grpc_addr(), archive.join(&cluster.nodes[0].name));
    // An archive can be continued, too.
    let next = cluster.directory().join("next.segment");
    good_backup(&["--incremental", &kept.display().to_string()], &addr, &next)?;
    ensure!(restored(&base, &[&kept, &next], &[], "key").await? == "value");
    Ok(())
}

#[tokio::test]
async fn a_node_that_fails_or_is_killed_within_a_segment_leaves_a_whole_archive() -> Result<()> {
    let archive = tempfile::tempdir()?;
    let flag = format!("--log_archive={}", archive.path().display());
    let options = Options::member().with_failpoints().with(&TIGHT).with(&[&flag]);
    let mut cluster = formed_of(1, options).await?;
    cluster.add(0, "key", "first").await?;
    let base = cluster.directory().join("base.backup");
    good_backup(&[], &cluster.nodes[0].grpc_addr(), &base)?;
    // An fsync that fails is not the end of the node: nothing was promised by it.
    cluster.nodes[0].fail_now(&["archive-sync=return(error)"]).await?;
    let failures = raft_number(&cluster, 0, "archive_failures").await?;
    write(&cluster, 0, 100, "v").await?;
    reaches(&cluster, 0, "archive_failures", failures + 1).await?;
    cluster.nodes[0].fail_at(&["archive-sync=return(crash)"])?;
    cluster.nodes[0].wait_exit().await?;
    cluster.nodes[0].fail_at(&[])?;
    cluster.nodes[0].start().await?;
    cluster.leader().await?;
    let last = cluster.add(0, "key", "last").await?;
    reaches(&cluster, 0, "archived_index", last).await?;
    ensure!(raft_number(&cluster, 0, "archive_gaps").await? == 0);
    let kept = archive.path().join(&cluster.nodes[0].name);
    let names: Vec<String> = std::fs::read_dir(&kept)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    ensure!(names.iter().all(|name| name.ends_with(".segment")), "something unfinished is left: {names:?}");
    ensure!(restored(&base, &[&kept], &[], "key").await? == "last");
    Ok(())
}

#[tokio::test]
async fn what_a_snapshot_skips_is_a_gap_that_another_nodes_archive_fills() -> Result<()> {
    let archive = tempfile::tempdir()?;
    let flag = format!("--log_archive={}", archive.path().display());
    let mut cluster = formed(3, &[&TIGHT[..], &[flag.as_str()]].concat()).await?;
    let (leader, follower) = (cluster.leader().await?, cluster.follower().await?);
    cluster.add(leader, "key", "first").await?;
    let base = cluster.directory().join("base.backup");
    good_backup(&[], &cluster.nodes[leader].grpc_addr(), &base)?;
    let seen = cluster.add(follower, "key", "seen").await?;
    // It is killed before the archive had to have what it has applied.
    cluster.nodes[follower].kill()?;
    write(&cluster, leader, 300, "v").await?;
    let last = cluster.add(leader, "key", "last").await?;
    reaches(&cluster, leader, "purged_index", seen + 1).await?;
    cluster.nodes[follower].start().await?;
    for n in [leader, follower] {
        reaches(&cluster, n, "archived_index", last).await?;
    }
    ensure!(raft_number(&cluster, follower, "archive_gaps").await? == 1, "one gap");
    ensure!(raft_number(&cluster, leader, "archive_gaps").await? == 0, "the leader has all of it");
    let of = |n: usize| archive.path().join(&cluster.nodes[n].name);
    // What it had applied before the snapshot is not part of the gap.
    let index = format!("--to_index={seen}");
    ensure!(restored(&base, &[&of(follower)], &[&index], "key").await? == "seen");
    let target = tempfile::tempdir()?;
    let alone = restore(&base, &[&of(follower)], &[], target.path())?;
    ensure!(alone.status.code() == Some(1) && stderr(&alone).contains("the segments have a gap"), "{alone:?}");
    ensure!(restored(&base, &[&of(follower), &of(leader)], &[], "key").await? == "last");
    Ok(())
}

#[tokio::test]
async fn an_incremental_backup_that_is_cut_leaves_no_segment() -> Result<()> {
    let mut cluster = formed(1, &["--snapshot_rate_limit=256KiB"]).await?;
    let addr = cluster.nodes[0].grpc_addr();
    let (base, cut) = (cluster.directory().join("base.backup"), cluster.directory().join("cut.segment"));
    good_backup(&[], &addr, &base)?;
    write(&cluster, 0, 100, &"v".repeat(64 << 10)).await?;
    let mut command = Command::new(lockstep_binary());
    command.args(["backup", "--incremental"]).arg(&base).arg(&addr).stdin(Stdio::null());
    let running = command.stdout(File::create(&cut)?).stderr(Stdio::piped()).spawn()?;
    eventually("some entries are in the file", || async {
        ensure!(std::fs::metadata(&cut)?.len() > 64 << 10);
        Ok(())
    })
    .await?;
    cluster.nodes[0].kill()?;
    let ended = tokio::task::spawn_blocking(move || running.wait_with_output()).await??;
    ensure!(ended.status.code() == Some(1), "{ended:?}");
    let target = tempfile::tempdir()?;
    let refused = restore(&base, &[&cut], &[], target.path())?;
    ensure!(refused.status.code() == Some(1) && stderr(&refused).contains("cut short"), "{}", stderr(&refused));
    let continued = backup(&["--incremental", &cut.display().to_string()], &addr, &cluster.directory().join("x"))?;
    ensure!(stderr(&continued).contains("cannot be continued"), "{}", stderr(&continued));
    Ok(())
}
