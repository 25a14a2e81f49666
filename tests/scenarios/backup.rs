//! `lockstep backup` and `lockstep restore`: a state is taken from one cluster and founds another
//! one.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use anyhow::{Result, ensure};
use lockstep_tests::pb::AddRequest;
use lockstep_tests::{Cluster, Options, formed, lockstep, lockstep_binary};

use crate::printed::stderr;

fn backup(addr: &str, to: &Path) -> Result<Output> {
    let out = File::create(to)?;
    Ok(Command::new(lockstep_binary())
        .args(["backup", addr])
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(Stdio::piped())
        .output()?)
}

fn restore(from: &Path, data_dir: &Path) -> Result<Output> {
    let (from, data_dir) = (from.display().to_string(), data_dir.display().to_string());
    lockstep(&["restore", "--from", &from, "--raft_id=nodeA", "--raft_data_dir", &data_dir])
}

async fn everything(cluster: &Cluster, n: usize, keys: u64) -> Result<Vec<String>> {
    let mut values = Vec::new();
    for k in 0..keys {
        values.push(cluster.get(n, &format!("k{k}"), false).await?);
    }
    Ok(values)
}

#[tokio::test]
async fn a_backup_under_load_begins_a_cluster_elsewhere_that_grows_to_three() -> Result<()> {
    let old = formed(3, &[]).await?;
    let follower = old.follower().await?;
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (stopping, count) = (stop.clone(), acknowledged.clone());
    let mut client = old.nodes[old.leader().await?].client().await?;
    let writer = tokio::spawn(async move {
        while !stopping.load(SeqCst) {
            let k = count.load(SeqCst);
            client.add(AddRequest { key: format!("k{k}"), val: format!("v{k}") }).await?;
            count.fetch_add(1, SeqCst);
        }
        anyhow::Ok(())
    });
    while acknowledged.load(SeqCst) < 300 {
        tokio::task::yield_now().await;
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let file = old.directory().join("today.backup");
    let (before, addr, to) = (acknowledged.load(SeqCst), old.nodes[follower].grpc_addr(), file.clone());
    let written = tokio::task::spawn_blocking(move || backup(&addr, &to)).await??;
    ensure!(written.status.success() && stderr(&written).contains("backed up"), "{}", stderr(&written));
    stop.store(true, SeqCst);
    writer.await??;
    let last = acknowledged.load(SeqCst);

    let mut new = Cluster::new()?;
    let restored = restore(&file, new.directory())?;
    ensure!(restored.status.success(), "{}", stderr(&restored));
    let first = new.push(Options { fsm: None, ..Options::bootstrap() })?;
    new.nodes[first].start().await?;
    new.leader().await?;
    let found = everything(&new, first, last).await?;
    // One client wrote in order. The backup has the first part of what it wrote, with everything
    // that was acknowledged before.
    let there = found.iter().take_while(|value| !value.is_empty()).count() as u64;
    ensure!(there >= before && there <= last, "{before} acknowledged before, {there} in the backup, {last} in all");
    let expected: Vec<String> = (0..last).map(|k| if k < there { format!("v{k}") } else { String::new() }).collect();
    ensure!(found == expected, "the rows are not those of the old cluster");
    let (stat, old_stat) = (new.nodes[first].stat().await?, old.nodes[follower].stat().await?);
    ensure!(stat["fsm"]["commands_applied"].as_u64() == Some(there), "{stat}");
    ensure!(stat["last_applied_index"].as_u64() > Some(there) && old_stat["node_id"] != "", "{stat}");

    for _ in 0..2 {
        let n = new.push(Options { fsm: None, ..Options::member() })?;
        new.nodes[n].start().await?;
        new.add_voter(n).await?;
    }
    let index = new.add(2, "grown", "yes").await?;
    ensure!(index > there, "indexes go on: {index}");
    new.everyone_reads("grown", "yes").await?;
    new.everyone_reads("k0", "v0").await?;
    // The old cluster does not have the new key.
    assert_eq!(old.get(follower, "grown", true).await?, "");
    // A second start needs no special options.
    new.nodes[first].stop().await?;
    new.nodes[first].start().await?;
    new.everyone_reads("grown", "yes").await
}

/// Makes a small backup. Returns its cluster and the path of the file.
async fn small() -> Result<(Cluster, PathBuf)> {
    let cluster = formed(1, &[]).await?;
    cluster.add(0, "key", "value").await?;
    let file = cluster.directory().join("small.backup");
    let written = backup(&cluster.nodes[0].grpc_addr(), &file)?;
    ensure!(written.status.success(), "{}", stderr(&written));
    Ok((cluster, file))
}

#[tokio::test]
async fn broken_foreign_and_future_files_are_refused_and_leave_nothing() -> Result<()> {
    let (_cluster, file) = small().await?;
    let good = std::fs::read(&file)?;
    let target = tempfile::tempdir()?;
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let cases = [
        (good[..good.len() / 2].to_vec(), "cut short"),
        (good[..good.len() - 1].to_vec(), "cut short"),
        (Vec::new(), "no backup of Lockstep"),
        (b"just some text that somebody kept in a file".to_vec(), "no backup of Lockstep"),
        (flipped(16), "has format"),
        (flipped(good.len() / 2), "damaged"),
        (flipped(good.len() - 1), "damaged"),
    ];
    for (bytes, expected) in cases {
        std::fs::write(&file, bytes)?;
        let refused = restore(&file, target.path())?;
        ensure!(
            refused.status.code() == Some(1) && stderr(&refused).contains(expected),
            "{expected}: {}",
            stderr(&refused)
        );
        ensure!(std::fs::read_dir(target.path())?.next().is_none(), "{expected}: something is left");
    }
    std::fs::write(&file, &good)?;
    ensure!(restore(&file, target.path())?.status.success(), "the good one");
    // A directory that is not empty must not be filled.
    let refused = restore(&file, target.path())?;
    ensure!(refused.status.code() == Some(1) && stderr(&refused).contains("not empty"), "{}", stderr(&refused));
    Ok(())
}

#[tokio::test]
async fn a_backup_is_not_written_to_a_terminal() -> Result<()> {
    let (cluster, _) = small().await?;
    let command = format!("{} backup {}", lockstep_binary().display(), cluster.nodes[0].grpc_addr());
    let shown = Command::new("script").args(["-qec", &command, "/dev/null"]).stdin(Stdio::null()).output();
    let Ok(shown) = shown else {
        eprintln!("skipped: there is no `script` here to play a terminal");
        return Ok(());
    };
    let text = String::from_utf8(shown.stdout)?;
    ensure!(shown.status.code() == Some(2) && text.contains("stdout is a terminal"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_backup_of_a_node_without_a_leader_is_taken_with_local() -> Result<()> {
    let mut cluster = formed(3, &[]).await?;
    let leader = cluster.leader().await?;
    cluster.add(leader, "key", "value").await?;
    cluster.everyone_reads("key", "value").await?;
    for n in [1, 2].map(|n| (leader + n) % 3) {
        cluster.nodes[n].kill()?;
    }
    let (addr, file) = (cluster.nodes[leader].grpc_addr(), cluster.directory().join("last.backup"));
    let out = File::create(&file)?;
    let local = Command::new(lockstep_binary()).args(["backup", "--local", &addr]).stdout(out).output()?;
    ensure!(local.status.success(), "{}", stderr(&local));
    let refused = backup(&addr, &cluster.directory().join("none.backup"))?;
    ensure!(!refused.status.success(), "without a leader nobody knows what was acknowledged");
    let mut new = Cluster::new()?;
    ensure!(restore(&file, new.directory())?.status.success());
    let n = new.push(Options { fsm: None, ..Options::bootstrap() })?;
    new.nodes[n].start().await?;
    new.everyone_reads("key", "value").await
}

#[tokio::test]
async fn of_two_restores_into_one_directory_one_is_whole_and_the_other_says_so() -> Result<()> {
    let (_cluster, file) = small().await?;
    for _ in 0..8 {
        let target = tempfile::tempdir()?;
        let begin = || {
            Command::new(lockstep_binary())
                .args(["restore", "--raft_id=nodeA", "--from"])
                .arg(&file)
                .arg("--raft_data_dir")
                .arg(target.path())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
        };
        let (one, other) = (begin()?, begin()?);
        let outputs = [one.wait_with_output()?, other.wait_with_output()?];
        let whole = outputs.iter().filter(|output| output.status.success()).count();
        let said = outputs.each_ref().map(stderr).concat();
        ensure!(whole == 1 && (said.contains("another restore") || said.contains("not empty")), "{whole}: {said}");
        let names: Vec<_> =
            std::fs::read_dir(target.path())?.map(|entry| entry.map(|entry| entry.file_name())).collect();
        ensure!(names.len() == 1, "{names:?}");
        ensure!(
            ["FORMAT", "raft/CURRENT", "SYNCED"].iter().all(|name| target.path().join("nodeA").join(name).exists())
        );
    }
    Ok(())
}
